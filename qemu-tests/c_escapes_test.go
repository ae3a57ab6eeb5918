//go:build vm

package qemutests

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// hostileImages are built to lead the runtime astray: what it mounts, masks, writes or
// enters for a container is something else in the image.
func hostileImages() map[string]imageChange {
	link := func(from, to string) tar.Header {
		return tar.Header{Name: from, Linkname: to, Typeflag: tar.TypeSymlink}
	}
	const prize = "/proc/sys/kernel/core_pattern"
	images := map[string]imageChange{
		// CVE-2025-31133: a mask is a bind mount of what /dev/null is.
		"null is a link":         {entries: []tar.Header{link("dev/null", prize)}},
		"dev is a link to proc":  {entries: []tar.Header{link("dev", "/proc")}},
		"dev is a link upwards":  {entries: []tar.Header{link("dev", "../../../../../../dev")}},
		"dev is a link in it":    {entries: []tar.Header{link("dev", "/elsewhere")}},
		"dev is a link to sys":   {entries: []tar.Header{link("dev", "/sys/kernel")}},
		"masked path is a link":  {entries: []tar.Header{link("sys/firmware", "/proc/sys")}},
		"shm is a link to sys":   {entries: []tar.Header{link("dev/shm", "/proc/sys/kernel")}},
		"console is a link":      {entries: []tar.Header{link("dev/console", prize)}}, // CVE-2025-52565
		"pts is a link":          {entries: []tar.Header{link("dev/pts", "/proc/sys")}},
		"ptmx is a link":         {entries: []tar.Header{link("dev/ptmx", prize)}},
		"proc is a link":         {entries: []tar.Header{link("proc", "/elsewhere")}}, // CVE-2025-52881
		"proc is a link upwards": {entries: []tar.Header{link("proc", "../../../../../proc/1/root/proc")}},
		"proc is a file":         {entries: []tar.Header{{Name: "proc", Typeflag: tar.TypeReg, Size: 7}}},
		"attr is a link":         {entries: []tar.Header{link("proc/self/attr", "/proc/sys/kernel"), link("proc/thread-self", "/proc/1")}},
		"settings are a link":    {entries: []tar.Header{link("proc/sys/net", "/proc/sys/kernel")}},
		"sys is a link":          {entries: []tar.Header{link("sys", "/proc/sys")}},
		"groups are a link":      {entries: []tar.Header{link("sys/fs/cgroup", "/proc/sys")}},
		// CVE-2024-45310: mount points are made on the way, wherever that leads.
		"mount point leads upwards": {entries: []tar.Header{link("mnt", "../../../../../../../../run")}},
		"mount point leads to proc": {entries: []tar.Header{link("mnt", "/proc/1/root")}},
		"mount point is a file":     {entries: []tar.Header{{Name: "mnt/mesos/sandbox", Typeflag: tar.TypeReg, Size: 7}}},
		"etc is a link":             {entries: []tar.Header{link("etc", "/proc/self")}},
		"hosts is a link":           {entries: []tar.Header{link("etc/hosts", prize)}},
		"hostname is a link":        {entries: []tar.Header{link("etc/hostname", "/proc/sys/kernel/hostname")}},
		"resolv.conf leads upwards": {entries: []tar.Header{link("etc/resolv.conf", "../../../../../../../../run/elsewhere/x")}},
		"passwd is a link":          {entries: []tar.Header{link("etc/passwd", prize)}},
		// CVE-2019-5736: the program is the runtime's own, over what it is started from.
		"the program is the runtime":         {program: "/proc/self/exe"},
		"the program is the runtime by link": {entries: []tar.Header{link("runtime", "/proc/self/exe")}, program: "/runtime"},
	}
	for _, n := range []int{3, 5, 6, 7, 8, 9} { // CVE-2024-21626: a working directory that is a descriptor
		images[fmt.Sprintf("works in descriptor %d", n)] = imageChange{workdir: fmt.Sprintf("/proc/self/fd/%d", n)}
	}
	images["works in a descriptor's parent"] = imageChange{workdir: "/proc/self/fd/7/../../.."}
	images["works where the first process does"] = imageChange{workdir: "/proc/1/cwd"}
	return images
}

// imageChange is what an image has beside the tests' program.
type imageChange struct {
	entries []tar.Header
	workdir string
	program string
}

// Images that are made to break out do not: their task cannot be started, with that
// reason, or it finds itself inside walls like any other. The nodes are as before.
func TestHostileImagesStayInside(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	machines := w.Machines()
	var before []int
	for _, m := range machines {
		before = append(before, restarts(t, w, m.Node, "isolated"))
	}
	images := hostileImages()
	names := slices.Sorted(maps.Keys(images))
	var tasks []client.Task
	for i, name := range names {
		id := strings.NewReplacer(" ", "-", "'", "").Replace(name)
		task := f.task(t, id, "attempt")
		task.Container, task.Hostname = dockerImage(w.changedImage(t, id, images[name])), machines[i%len(machines)].Node.Address.String()
		task.CPUs, task.MemMB = 0.02, 24
		if program := images[name].program; program != "" {
			task.Command.Value = &program
		}
		tasks = append(tasks, task)
	}
	refused, inside := 0, 0
	for i, ended := range f.runToEnd(t, tasks...) {
		name, change := names[i], images[names[i]]
		if ended.Status.GetReason() == mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED {
			refused++
			t.Logf("%s: refused: %s", name, ended.Status.GetMessage())
			continue
		}
		out := f.output(t, ended, "stdout")
		switch {
		case change.program != "" && ended.Status.GetState() == mesosv1.TaskState_TASK_FAILED:
			inside++
			t.Logf("%s: %s: %.200s", name, ended.Status.GetMessage(), f.output(t, ended, "stderr"))
		case ended.Status.GetState() != mesosv1.TaskState_TASK_FINISHED || !strings.Contains(out, "tried "):
			t.Errorf("%s: %s, %s: %.300s", name, ended.Status.GetState(), ended.Status.GetMessage(), out)
		default:
			inside++
			if strings.Contains(out, "allowed: ") {
				t.Errorf("%s: the container may:\n%s", name, out)
			}
		}
	}
	t.Logf("%d hostile images on %d nodes: %d could not be started, %d tasks found walls", len(images), len(machines), refused, inside)
	if refused+inside != len(images) || inside == 0 {
		t.Errorf("%d of %d images were tried", refused+inside, len(images))
	}
	settings := map[string]string{"core_pattern": "core\n", "modprobe": "\n"}
	var readers []client.Task
	for _, m := range machines {
		for _, file := range slices.Sorted(maps.Keys(settings)) {
			task := f.task(t, "reads-"+file+"-"+m.Node.Name, "show", "/proc/sys/kernel/"+file)
			task.Hostname = m.Node.Address.String()
			readers = append(readers, task)
		}
	}
	for _, l := range f.runToEnd(t, readers...) {
		file := l.Task.Command.Arguments[2]
		if got := f.output(t, l, "stdout"); got != settings[path.Base(file)] {
			t.Errorf("%s of %s is %q now", file, l.Hostname, got)
		}
	}
	for i, m := range machines {
		if after := restarts(t, w, m.Node, "isolated"); after != before[i] {
			t.Errorf("isolated of %s was started again %d times", m.Node.Name, after-before[i])
		}
	}
}

// changedImage puts an image of the tests' program with changes into the registry.
func (w *world) changedImage(t *testing.T, as string, change imageChange) string {
	t.Helper()
	img, err := cluster.ProgramImage(taskProgram())
	if err != nil {
		t.Fatal(err)
	}
	if len(change.entries) > 0 {
		var raw bytes.Buffer
		archive := tar.NewWriter(&raw)
		for _, h := range change.entries {
			h.Mode = 0o755
			if err := archive.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if _, err := archive.Write([]byte("written")[:h.Size]); err != nil {
				t.Fatal(err)
			}
		}
		if err := archive.Close(); err != nil {
			t.Fatal(err)
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw.Bytes())), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	if img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/program"}, Env: []string{"PATH=/"}, WorkingDir: change.workdir}); err != nil {
		t.Fatal(err)
	}
	ref, err := w.Registry.Push(t.Context(), "hostile-"+strings.ToLower(as)+":1", img)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}
