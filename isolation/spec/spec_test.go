package spec

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/imagestore"
)

var update = flag.Bool("update", false, "write the golden files anew")

func shell(line string) *mesosv1.TaskInfo {
	return &mesosv1.TaskInfo{Command: &mesosv1.CommandInfo{Value: proto.String(line)}}
}

func base(t *mesosv1.TaskInfo) Input {
	return Input{
		Task: t, ContainerID: "c1", Hostname: "c1", Rootfs: "/store/containers/c1/rootfs", Sandbox: "/var/lib/mesos/slaves/S0/runs/c1",
		Etc: "/var/lib/mesolith/isolated/etc/c1", Cgroup: "/tasks/c1", FirstID: 131072, CPUMillis: 500, Memory: 128 << 20,
		User: User{Name: "root", Home: "/root"}, Env: []Variable{{"MESOS_TASK_ID", "t1"}},
	}
}

func TestGolden(t *testing.T) {
	image := imagestore.Config{Env: []string{"PATH=/bin", "LANG=C"}, Entrypoint: []string{"/app"}, Cmd: []string{"--serve"}, WorkingDir: "srv/app", User: "ignored"}
	cases := map[string]func() Input{
		"base": func() Input { return base(shell("echo hi")) },
		"image": func() Input {
			in := base(&mesosv1.TaskInfo{Command: &mesosv1.CommandInfo{Shell: proto.Bool(false), Environment: &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{{Name: proto.String("LANG"), Value: proto.String("de")}}}}})
			in.Image, in.HasImage, in.CPULimit, in.MemoryLimit = image, true, 1500, 1<<30
			return in
		},
		"nonroot": func() Input {
			in := base(shell("id"))
			in.User = User{Name: "alice", UID: 40000, GID: 40000, Home: in.Sandbox, Line: "alice:x:40000:40000::/s:/bin/sh\n", Groups: []uint32{7}}
			return in
		},
		"volumes": func() Input {
			in := base(shell("id"))
			in.Volumes = []Volume{
				{From: "/var/lib/mesos/volumes/roles/r/v/1", Path: "kept", Bytes: 1 << 20},
				{From: "/mounts/c1/0", Path: "/data", ReadOnly: true},
				{From: "/mounts/c1/1", Path: "own", Own: true},
				{From: "/mounts/c1/secrets/2", Path: "/etc/key", ReadOnly: true, Own: true},
			}
			return in
		},
		"high-id-host-network": func() Input {
			in := base(shell("id"))
			in.User, in.HostNetwork, in.MemoryLimit = User{UID: 100000, GID: 100000}, true, NoMemoryLimit
			return in
		},
	}
	for name, in := range cases {
		t.Run(name, func(t *testing.T) {
			s, err := Build(in())
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(s, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
				t.Errorf("go test -update writes it anew (-want +got):\n%s", diff)
			}
		})
	}
}

// TestEveryContainer holds for all tasks, whatever they ask for.
func TestEveryContainer(t *testing.T) {
	for _, uid := range []uint32{0, 1, 65535, 65536, 1 << 30} {
		for _, host := range []bool{false, true} {
			in := base(shell("x"))
			in.User, in.HostNetwork = User{UID: uid, GID: uid}, host
			s, err := Build(in)
			if err != nil {
				t.Fatal(err)
			}
			want := 7
			if host {
				want = 6
			}
			if len(s.Linux.Namespaces) != want || !s.Process.NoNewPrivileges || *s.Process.OOMScoreAdj < 0 || *s.Linux.Resources.Pids.Limit <= 0 {
				t.Errorf("uid %d: %+v", uid, s)
			}
			if n := len(s.Process.Capabilities.Bounding); (uid == 0 && n != 14) || (uid != 0 && n != 0) {
				t.Errorf("uid %d has %d capabilities", uid, n)
			}
			if d := s.Linux.Resources.Devices; len(d) == 0 || d[0].Allow {
				t.Error("devices are not denied first")
			}
			for _, m := range s.Linux.UIDMappings {
				if m.HostID < 131072 {
					t.Errorf("uid %d maps to %d of the host", uid, m.HostID)
				}
			}
			if slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "bind" && !slices.Contains(m.Options, "nosuid") }) {
				t.Error("a bind without nosuid")
			}
		}
	}
}

func TestArgv(t *testing.T) {
	image := imagestore.Config{Entrypoint: []string{"/e"}, Cmd: []string{"c"}}
	for _, c := range []struct {
		name    string
		command *mesosv1.CommandInfo
		image   imagestore.Config
		want    []string
	}{
		{"shell line", &mesosv1.CommandInfo{Value: proto.String("a b")}, image, []string{"/bin/sh", "-c", "a b"}},
		{"program", &mesosv1.CommandInfo{Shell: proto.Bool(false), Value: proto.String("/p")}, image, []string{"/p"}},
		{"program with argv", &mesosv1.CommandInfo{Shell: proto.Bool(false), Value: proto.String("/p"), Arguments: []string{"zero", "one"}}, image, []string{"/p", "one"}},
		{"entry point and cmd", &mesosv1.CommandInfo{Shell: proto.Bool(false)}, image, []string{"/e", "c"}},
		{"entry point and arguments", &mesosv1.CommandInfo{Shell: proto.Bool(false), Arguments: []string{"x"}}, image, []string{"/e", "x"}},
		{"cmd only", &mesosv1.CommandInfo{Shell: proto.Bool(false)}, imagestore.Config{Cmd: []string{"c"}}, []string{"c"}},
		{"no command at all", nil, image, []string{"/e", "c"}},
		{"nothing", &mesosv1.CommandInfo{}, imagestore.Config{}, nil},
		{"nothing, no shell", &mesosv1.CommandInfo{Shell: proto.Bool(false)}, imagestore.Config{}, nil},
	} {
		got, err := Argv(c.command, c.image)
		if diff := cmp.Diff(c.want, got); diff != "" || (c.want == nil) != errors.Is(err, ErrInvalidTask) {
			t.Errorf("%s: %v %s", c.name, err, diff)
		}
	}
}

func TestResolveUser(t *testing.T) {
	passwd := []byte("root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\nbad\n")
	group := []byte("root:x:0:\nwww:x:34:\naudio:x:29:web,x\n")
	for asked, want := range map[string]User{
		"":        {Name: "root", Home: "/root"},
		"root":    {Name: "root", Home: "/root"},
		"web":     {Name: "web", UID: 33, GID: 34, Groups: []uint32{29}, Home: "/var/www"},
		"33":      {Name: "web", UID: 33, GID: 34, Groups: []uint32{29}, Home: "/var/www"},
		"web:29":  {Name: "web", UID: 33, GID: 29, Home: "/var/www"},
		"0:www":   {Name: "root", GID: 34, Home: "/root"},
		"100000":  {UID: 100000, GID: 100000, Home: "/s"},
		"a:b:c\n": ResolveUser("a", 0, nil, nil, "/s"),
	} {
		if diff := cmp.Diff(want, ResolveUser(asked, 0, passwd, group, "/s")); diff != "" {
			t.Errorf("%q: %s", asked, diff)
		}
	}
	a, b := ResolveUser("alice", 0, passwd, group, "/s"), ResolveUser("alice", 0, nil, nil, "/s")
	if a.UID != b.UID || a.UID < firstNamed || a.UID >= RangeSize || a.Line == "" {
		t.Errorf("alice is %+v here and %+v there", a, b)
	}
	for asked, want := range map[string]uint32{"alice": 20007, "web": 33, "": 0, "41": 41} {
		if u := ResolveUser(asked, 20007, passwd, group, "/s"); u.UID != want || (u.Line != "") != (asked == "alice") {
			t.Errorf("with the cluster's id 20007, %q is %+v", asked, u)
		}
	}
	if u := ResolveUser("evil\nroot", 0, nil, nil, "/s"); u.Line != "" {
		t.Errorf("a line for %q: %q", u.Name, u.Line)
	}
}

func TestRefusals(t *testing.T) {
	for name, task := range map[string]*mesosv1.TaskInfo{
		"nothing":    {},
		"privileged": {Container: &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_DOCKER.Enum(), Docker: &mesosv1.ContainerInfo_DockerInfo{Image: proto.String("x"), Privileged: proto.Bool(true)}}},
		"network":    {Command: &mesosv1.CommandInfo{}, Container: &mesosv1.ContainerInfo{NetworkInfos: []*mesosv1.NetworkInfo{{Name: proto.String("other")}}}},
	} {
		if err := Supported(task); !errors.Is(err, ErrInvalidTask) {
			t.Errorf("%s: %v", name, err)
		}
	}
	in := base(shell("x"))
	in.Task.Container = &mesosv1.ContainerInfo{LinuxInfo: &mesosv1.LinuxInfo{EffectiveCapabilities: &mesosv1.CapabilityInfo{Capabilities: []mesosv1.CapabilityInfo_Capability{mesosv1.CapabilityInfo_SYS_ADMIN}}}}
	if _, err := Build(in); !errors.Is(err, ErrInvalidTask) {
		t.Errorf("SYS_ADMIN: %v", err)
	}
	in.Task.Container = &mesosv1.ContainerInfo{RlimitInfo: &mesosv1.RLimitInfo{Rlimits: []*mesosv1.RLimitInfo_RLimit{{Type: mesosv1.RLimitInfo_RLimit_RLMT_NOFILE.Enum(), Soft: proto.Uint64(2), Hard: proto.Uint64(1)}}}}
	if _, err := Build(in); !errors.Is(err, ErrInvalidTask) {
		t.Errorf("soft above hard: %v", err)
	}
}
