package spec

import (
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// Whatever clusterd hands over as a task, it is refused or becomes a container that is
// shut in like every other.
func FuzzBuild(f *testing.F) {
	add := func(t *mesosv1.TaskInfo) {
		raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(t)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, "root", false, uint64(100), uint64(32<<20), uint64(NoMemoryLimit))
		f.Add(raw, "nobody", true, uint64(1)<<60, uint64(1)<<62, uint64(1))
	}
	add(&mesosv1.TaskInfo{TaskId: &mesosv1.TaskID{Value: proto.String("t")}, Command: &mesosv1.CommandInfo{Value: proto.String("true")}})
	add(shell("x"))
	add(&mesosv1.TaskInfo{})
	add(&mesosv1.TaskInfo{Command: wanted("https://h/a.tgz", output("d/e")), Container: &mesosv1.ContainerInfo{Volumes: []*mesosv1.Volume{
		{ContainerPath: proto.String("a"), HostPath: proto.String("/srv/../srv/x")}, {ContainerPath: proto.String("/b"), HostPath: proto.String("c")},
	}}})
	f.Fuzz(func(t *testing.T, raw []byte, user string, host bool, cpu, memory, limit uint64) {
		task := &mesosv1.TaskInfo{}
		if (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(raw, task) != nil {
			return
		}
		_ = Supported(task)
		_, _, _, _ = ImageReference(task)
		if items, err := URIs(task.GetCommand(), host); err == nil {
			for _, i := range items {
				if !filepath.IsLocal(i.Output) || i.Output == "." {
					t.Fatalf("file %q", i.Output)
				}
			}
		}
		if list, err := AskedVolumes(task.GetContainer(), []string{"/srv"}, nil); err == nil {
			for _, a := range list {
				if a.Host != "" && a.Host != "/srv" && !strings.HasPrefix(a.Host, "/srv/") {
					t.Fatalf("path of the node %q", a.Host)
				}
				if a.InSandbox != "" && !filepath.IsLocal(a.InSandbox) {
					t.Fatalf("path of the sandbox %q", a.InSandbox)
				}
			}
		}
		in := base(task)
		in.User = ResolveUser(user, 70000, raw, raw, "/sandbox") // an image's passwd is a stranger's too
		in.HostNetwork, in.CPUMillis, in.CPULimit, in.Memory, in.MemoryLimit = host, cpu, cpu, memory, limit
		s, err := Build(in)
		if err != nil {
			return
		}
		if !s.Process.NoNewPrivileges || s.Linux.Resources.Pids.Limit == nil || *s.Linux.Resources.Pids.Limit <= 0 || len(s.Process.Capabilities.Bounding) > 14 {
			t.Fatalf("%+v", s.Process)
		}
		for _, m := range s.Linux.UIDMappings {
			if m.HostID < in.FirstID {
				t.Fatalf("user %+v maps to %d of the host", in.User, m.HostID)
			}
		}
		if l := s.Linux.Resources.Memory.Limit; l != nil && *l == 0 {
			t.Fatal("no memory at all")
		}
		for _, e := range s.Process.Env {
			if !strings.Contains(e, "=") || strings.ContainsRune(e, 0) {
				t.Fatalf("environment %q", e)
			}
		}
	})
}
