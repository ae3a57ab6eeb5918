//go:build vm

package qemutests

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// What a container can see and do, found out from inside: the namespaces are its own, the
// escapes' first steps fail, and what programs rightly expect works.
func TestContainerFromInside(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	ended := f.runToEnd(t, f.task(t, "probe", "probe"))[0]
	out := f.output(t, ended, "stdout")
	wantState(t, ended, mesosv1.TaskState_TASK_FINISHED)
	var p struct {
		PID          int
		UIDMap       []string
		NoNewPrivs   string
		Seccomp      string
		Capabilities int
		CgroupPath   string
		Descriptors  []string
		Interfaces   []string
		OpenFiles    uint64
		Sandbox      string
		Denied       map[string]string
		Allowed      map[string]string
	}
	if err := json.Unmarshal([]byte(lastLine(out)), &p); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for what, holds := range map[string]bool{
		"it is process 1":                         p.PID == 1,
		"65,536 ids of its own":                   len(p.UIDMap) == 3 && p.UIDMap[0] == "0" && p.UIDMap[1] != "0" && p.UIDMap[2] == "65536",
		"no new privileges":                       p.NoNewPrivs == "1",
		"a seccomp filter":                        p.Seccomp == "2",
		"14 capabilities at most":                 p.Capabilities <= 14,
		"a cgroup namespace":                      p.CgroupPath == "0::/",
		"no descriptor leaked in":                 len(p.Descriptors) == 0,
		"a loopback and one other interface only": len(p.Interfaces) == 2,
		"a limit of open files":                   p.OpenFiles > 0 && p.OpenFiles <= 1<<20,
		"a sandbox":                               strings.HasPrefix(p.Sandbox, "/"),
	} {
		if !holds {
			t.Errorf("not so: %s", what)
		}
	}
	for what, result := range p.Denied {
		if result == "allowed" {
			t.Errorf("the container may %s", what)
		}
	}
	for what, result := range p.Allowed {
		if result != "allowed" {
			t.Errorf("the container cannot %s: %s", what, result)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	fmt.Printf("%d forbidden and %d allowed things tried\n", len(p.Denied), len(p.Allowed))
}

// A task that wants more memory than it was given dies alone, with the right reason.
func TestMemoryBombIsContained(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	neighbours := f.start(t, f.liveOn(t, 1)...)
	bomb := f.task(t, "bomb", "eat", "200")
	bomb.Hostname = neighbours[0].Hostname
	ended := f.runToEnd(t, bomb)[0]
	wantState(t, ended, mesosv1.TaskState_TASK_FAILED)
	if got := ended.Status.GetReason(); got != mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY {
		t.Errorf("reason %s (%s)", got, ended.Status.GetMessage())
	}
	f.stillAlive(t, neighbours[0], f.birth(t, neighbours[0]))
}

// A task that forks without end is stopped by its own limit and bothers nobody.
func TestForkBombIsContained(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	neighbours := f.start(t, f.liveOn(t, 1)...)
	bomb := f.task(t, "bomb", "fork", "100000")
	bomb.MemMB = 128
	bomb.Hostname = neighbours[0].Hostname
	ended := f.runToEnd(t, bomb)[0]
	out := f.output(t, ended, "stdout")
	if ended.Status.GetState() == mesosv1.TaskState_TASK_FINISHED && !strings.Contains(out, "refused") {
		t.Errorf("nothing refused a fork:\n%s", out)
	}
	fmt.Printf("the bomb ended as %s: %s\n", ended.Status.GetState(), lastLine(out))
	f.stillAlive(t, neighbours[0], f.birth(t, neighbours[0]))
	wantState(t, f.runToEnd(t, f.task(t, "after", "say", "still here"))[0], mesosv1.TaskState_TASK_FINISHED)
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// Images that cannot be had fail their task with a sentence that says what and where, and
// change nothing else.
func TestBadImages(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	liar := lyingRegistry(t, w)
	for _, c := range []struct {
		name, image string
		says        []string // parts of the message
	}{
		{"nobody listens", "10.77.0.1:5999/nothing:1", []string{"10.77.0.1:5999"}},
		{"no such image", w.Registry.Host + "/absent:1", []string{"absent"}},
		{"wrong digest", liar, []string{"digest"}},
		{"not a reference", "UPPER CASE//", []string{"UPPER CASE//"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			task := f.task(t, strings.ReplaceAll(c.name, " ", "-"), "say", "never")
			task.Container = dockerImage(c.image)
			ended := f.runToEnd(t, task)[0]
			if got := ended.Status.GetState(); got != mesosv1.TaskState_TASK_FAILED && got != mesosv1.TaskState_TASK_ERROR {
				t.Fatalf("ended as %s: %s", got, ended.Status.GetMessage())
			}
			for _, part := range c.says {
				if !strings.Contains(ended.Status.GetMessage(), part) {
					t.Errorf("message %q does not say %q", ended.Status.GetMessage(), part)
				}
			}
		})
	}
	wantState(t, f.runToEnd(t, f.task(t, "after", "say", "fine"))[0], mesosv1.TaskState_TASK_FINISHED)
}

// lyingRegistry serves an image whose layer is not what its manifest promises.
func lyingRegistry(t *testing.T, w *world) string {
	t.Helper()
	ref := w.image(t)
	honest := w.Registry.Handler()
	lie := http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") {
			rw.Header().Set("Content-Type", "application/octet-stream")
			_, _ = io.WriteString(rw, "these are other bytes")
			return
		}
		honest.ServeHTTP(rw, req)
	})
	const port = 5001
	ln, err := w.LAN.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: lie}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { server.Close() })
	at := fmt.Sprintf("%s:%d", w.LAN.Gateway(), port)
	return strings.Replace(ref, w.Registry.Host, at, 1)
}

// A registry as everybody runs it: a second one on the LAN, with an image of another
// name, pulled by tag.
func TestImageByTagFromAnotherRegistry(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	w.image(t)
	ln, err := w.LAN.Listen(5002)
	if err != nil {
		t.Fatal(err)
	}
	second := registry.New()
	server := &http.Server{Handler: second}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { server.Close() })
	img, err := cluster.ProgramImage(taskProgram())
	if err != nil {
		t.Fatal(err)
	}
	host := fmt.Sprintf("%s:%d", w.LAN.Gateway(), 5002)
	if _, err := cluster.PushTo(t.Context(), second, host, "team/tool:v2", img); err != nil {
		t.Fatal(err)
	}
	task := f.task(t, "by-tag", "say", "pulled by tag")
	task.Container = dockerImage(host + "/team/tool:v2")
	ended := f.runToEnd(t, task)[0]
	wantState(t, ended, mesosv1.TaskState_TASK_FINISHED)
	if got := f.output(t, ended, "stdout"); !strings.Contains(got, "pulled by tag") {
		t.Errorf("stdout is %q", got)
	}
}
