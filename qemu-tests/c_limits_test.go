//go:build vm

package qemutests

import (
	"crypto/rand"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/node"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// Who is ended when memory is short, and who is kept from it: a task that may use more
// than it was given goes before one that keeps to what it has, all tasks go before the
// node's programs, and these have memory that no pressure takes. Shown with all memory of
// tasks in use, and with the image store full besides.
func TestWhoIsEndedForMemory(t *testing.T) {
	w := three(t)
	f := w.framework(t, true)
	leader, err := w.WaitLeader(within(t, toNotice))
	if err != nil {
		t.Fatal(err)
	}
	memory := func() map[string]node.MemoryGroup {
		t.Helper()
		m, err := w.nodeAPI(leader).Memory(within(t, toRun))
		if err != nil {
			t.Fatal(err)
		}
		groups := map[string]node.MemoryGroup{}
		for _, g := range m.Groups {
			groups[g.Name] = g
		}
		fmt.Printf("%.0f of %.0f MiB are available; tasks hold %.0f MiB\n", mebi(m.AvailableBytes), mebi(m.TotalBytes), mebi(groups["tasks"].PSSBytes))
		return groups
	}
	// The decent one is large: by size alone the kernel would choose it.
	decent := f.task(t, "decent", "eat-and-stay", "100")
	decent.MemMB, decent.Hostname = 120, leader.Address.String()
	kept := f.start(t, decent)[0]
	eventually(t, within(t, toRun), func() error {
		if !strings.Contains(f.output(t, kept, "stdout"), "holding 100 MB") {
			return fmt.Errorf("it has not eaten yet")
		}
		return nil
	})
	before := memory()
	for name, scores := range map[string][2]int{"init": {0, 0}, "noded": {-999, -999}, "isolated": {-998, -998}, "clusterd": {-997, -997}, "tasks": {500, 500}} {
		g := before[name]
		if g.Processes == 0 || g.LowestScore != scores[0] || g.HighestScore != scores[1] {
			t.Errorf("%d processes of %s have the scores %d to %d, want %v", g.Processes, name, g.LowestScore, g.HighestScore, scores)
		}
		if isTask := name == "tasks"; isTask != (g.KeptBytes == 0) || isTask != (g.MaxBytes > 0) {
			t.Errorf("of %s %d bytes are kept, and it may have %d", name, g.KeptBytes, g.MaxBytes)
		}
	}
	greedyEnds := func(id string) {
		t.Helper()
		greedy := f.task(t, id, "eat-in-child", "4000")
		greedy.Hostname, greedy.Limits = leader.Address.String(), map[string]float64{"mem": math.Inf(1)}
		ended := f.runToEnd(t, greedy)[0]
		wantState(t, ended, mesosv1.TaskState_TASK_FAILED)
		wantWhy(t, ended, mesosv1.TaskStatus_SOURCE_AGENT, mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY)
		out := f.output(t, ended, "stdout")
		if strings.Contains(out, "the parent lives") || !strings.Contains(out, "holding 50 MB") {
			t.Errorf("it was not ended as one, or never was greedy: %.200q", lastLine(out))
		}
		fmt.Printf("%s ended: %s (%s)\n", id, ended.Status.GetMessage(), lastLine(out))
	}
	greedyEnds("greedy")
	greedy := uint64(1)
	if fillsStore {
		fillStore(t, w, f, leader)
		greedyEnds("greedy-again")
		greedy++
	}
	after := memory()
	if n := after["tasks"].OOMKills - before["tasks"].OOMKills; uint64(n) < greedy {
		t.Errorf("the kernel ended %d processes, %d tasks were greedy", n, greedy)
	}
	for _, name := range []string{"init", "noded", "isolated", "clusterd"} {
		if after[name].OOMKills != 0 || after[name].Processes == 0 {
			t.Errorf("%s: %d were ended, %d are there", name, after[name].OOMKills, after[name].Processes)
		}
		if name != "init" {
			if n := restarts(t, w, leader, name); n != 0 {
				t.Logf("%s was started again %d times since boot", name, n)
			}
		}
	}
	if l, _ := f.Get("decent"); l.Status.GetState() != mesosv1.TaskState_TASK_RUNNING {
		t.Errorf("the decent task is %s: %s", l.Status.GetState(), l.Status.GetMessage())
	}
	now, err := w.WaitLeader(within(t, toNotice))
	if err != nil || now.Name != leader.Name {
		t.Errorf("%s led, now %s, %v", leader.Name, now.Name, err)
	}
}

func mebi(bytes uint64) float64 { return float64(bytes) / (1 << 20) }

// fillStore pulls images that cannot be compressed until the node has no room for one.
func fillStore(t *testing.T, w *world, f *framework, n cluster.Node) {
	t.Helper()
	const each, most = 24 << 20, 12
	for i := range most {
		body := make([]byte, each)
		if _, err := rand.Read(body); err != nil {
			t.Fatal(err)
		}
		img, err := cluster.FilesImage(map[string]cluster.File{
			"program": {Mode: 0o755, Body: taskBody(t)}, "ballast": {Mode: 0o644, Body: body},
		}, v1.Config{Entrypoint: []string{"/program"}})
		if err != nil {
			t.Fatal(err)
		}
		ref, err := w.Registry.Push(t.Context(), fmt.Sprintf("ballast-%d:1", i), img)
		if err != nil {
			t.Fatal(err)
		}
		// It stays in use, so that nobody collects it.
		task := f.task(t, fmt.Sprint("ballast-", i), "live")
		task.CPUs, task.MemMB, task.Container, task.Hostname = 0.01, 8, dockerImage(ref), n.Address.String()
		ctx := within(t, toRun)
		if err := f.Add(ctx, task); err != nil {
			t.Fatal(err)
		}
		l, err := f.Wait(ctx, task.ID, func(l client.Launched) bool { return client.Running(l) || client.Ended(l) })
		if err != nil {
			t.Fatal(err)
		}
		if l.Done() {
			fmt.Printf("after %d images of %d MB: %s\n", i, each>>20, l.Status.GetMessage())
			wantWhy(t, l, mesosv1.TaskStatus_SOURCE_AGENT, mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED)
			if strings.HasPrefix(l.Status.GetMessage(), "{") {
				t.Errorf("the message does not say what to do: %s", l.Status.GetMessage())
			}
			if i == 0 {
				t.Error("not even one image had room")
			}
			return
		}
	}
	t.Errorf("%d MB of images were taken in", each*most>>20)
}

func taskBody(t *testing.T) []byte {
	t.Helper()
	body, err := os.ReadFile(taskProgram())
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// A limit of processors holds a task back, however many nobody wants, and without one it
// has what is there.
func TestProcessorLimit(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	limits := map[string]map[string]float64{"limited": {"cpus": 0.2}, "free": nil}
	var tasks []client.Task
	for name, limit := range limits { // each on a node of its own
		task := f.task(t, name, "spin", "8")
		task.Limits, task.Hostname = limit, w.Machines()[len(tasks)].Node.Address.String()
		tasks = append(tasks, task)
	}
	got := map[string]int{}
	for _, ended := range f.runToEnd(t, tasks...) {
		name := ended.Task.ID
		wantState(t, ended, mesosv1.TaskState_TASK_FINISHED)
		var thousandths, throttled int
		out := f.output(t, ended, "stdout")
		if _, err := fmt.Sscanf(out, "got %d thousandths of a processor\nthrottled %d", &thousandths, &throttled); err != nil {
			t.Fatalf("%v in %q", err, out)
		}
		if (throttled > 0) != (limits[name] != nil) {
			t.Errorf("%s: held back %d times", name, throttled)
		}
		got[name] = thousandths
	}
	fmt.Printf("with a limit of 0.2 processors a task that never rests got %.3f, without %.3f\n", float64(got["limited"])/1000, float64(got["free"])/1000)
	// An emulated machine on a busy host does not come to look in time: a few slices more
	// in each period, never most of one.
	if got["limited"] == 0 || got["free"] < 2*got["limited"] {
		t.Errorf("limited to 200 thousandths it got %d, without a limit %d", got["limited"], got["free"])
	}
}
