//go:build vm && long

package qemutests

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// hostile is a task that means harm, and how it is known that it does.
type hostile struct {
	name string
	// tasks are launched together; the first is the one that says what it does.
	tasks func(h *hostileRun) []client.Task
	// fired is what its output must have for the attack to count.
	fired string
	// memory: the kernel ends it for what it wants, and that is the end.
	memory bool
}

// hostileRun is the node under attack: the one that leads.
type hostileRun struct {
	*watched
	f    *framework
	node cluster.Node
}

func (h *hostileRun) task(t *testing.T, name string, mem float64, verb ...string) client.Task {
	task := h.f.task(t, name, verb...)
	task.MemMB, task.Hostname = mem, h.node.Address.String()
	return task
}

// A task that takes all the memory or all the disk of its node that it can hurts itself only: the node
// leads the cluster and goes on to, no heartbeat is missed for it, its APIs answer, and a
// decent task beside it works on.
func TestHostileTasks(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	leader, err := w.WaitLeader(within(t, toNotice))
	if err != nil {
		t.Fatal(err)
	}
	h := &hostileRun{f: f, node: leader, watched: &watched{w: w, node: leader, output: f.output}}
	neighbour := h.task(t, "neighbour", 24, "neighbour", fmt.Sprintf("http://%s:%d/health", leader.Address, cluster.AgentPort))
	h.neighbour = f.start(t, neighbour)[0]
	quiet := h.during(t, "quiet", func() {})
	for _, a := range attacks(t, h) {
		t.Run(a.name, func(t *testing.T) { h.attack(t, a, quiet) })
	}
	t.Logf("%d attacks fired; in the quiet %s", h.fired, quiet)
	if h.fired != len(attacks(t, h)) {
		t.Errorf("%d of %d attacks fired", h.fired, len(attacks(t, h)))
	}
	wantState(t, f.runToEnd(t, h.task(t, "after", 24, "say", "still here"))[0], mesosv1.TaskState_TASK_FINISHED)
}

func attacks(t *testing.T, h *hostileRun) []hostile {
	one := func(mem float64, verb ...string) func(*hostileRun) []client.Task {
		return func(h *hostileRun) []client.Task { return []client.Task{h.task(t, verb[0], mem, verb...)} }
	}
	return []hostile{
		{name: "memory", memory: true, fired: "holding 20 MB", tasks: one(32, "eat-in-child", "4000")},
		{name: "disk", fired: "wrote 16 MB", memory: true, tasks: func(h *hostileRun) []client.Task {
			// As large as there is room for, so that it is the disk that would end first.
			return []client.Task{h.task(t, "fill", h.largest(t), "fill", "/mnt/mesos/sandbox", "/", "/tmp", "/dev/shm")}
		}},
	}
}

// attack launches what means harm, watches while it lasts, and ends it.
func (h *hostileRun) attack(t *testing.T, a hostile, quiet seen) {
	tasks := a.tasks(h)
	for i := range tasks {
		tasks[i].ID = fmt.Sprintf("%s-%d", strings.ReplaceAll(a.name, " ", "-"), i)
	}
	f := h.f
	during := h.during(t, a.name, func() {
		if err := f.Add(t.Context(), tasks...); err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			if _, err := f.Wait(within(t, toRun), task.ID, begun); err != nil {
				t.Fatal(err)
			}
		}
	})
	first := tasks[0].ID
	if !a.memory {
		for _, task := range tasks {
			if err := f.Kill(within(t, toRun), task.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, task := range tasks {
		l, err := f.Wait(within(t, toRun), task.ID, client.Ended)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 && a.memory {
			wantState(t, l, mesosv1.TaskState_TASK_FAILED)
			wantWhy(t, l, mesosv1.TaskStatus_SOURCE_AGENT, mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY)
		}
	}
	l, _ := f.Get(first)
	if out := f.output(t, l, "stdout"); strings.Contains(out, a.fired) {
		h.fired++
	} else {
		t.Errorf("it is not known to have attacked: %.300q", out)
	}
	fmt.Printf("%s (it says %.80q): %s\n", a.name, lastLine(f.output(t, l, "stdout")), during)
	during.check(t, quiet)
}

// begun: it runs, or has already ended.
func begun(l client.Launched) bool { return client.Running(l) || client.Ended(l) }

// largest is the most memory that a task can have on the node now, in MB.
func (h *hostileRun) largest(t *testing.T) float64 {
	t.Helper()
	var answer struct {
		Slaves []struct {
			Hostname  string
			Resources struct{ Mem float64 }
			Used      struct{ Mem float64 } `json:"used_resources"`
		}
	}
	if err := h.get(t.Context(), h.w.URL(h.node, "/slaves"), &answer); err != nil {
		t.Fatal(err)
	}
	for _, a := range answer.Slaves {
		if a.Hostname == h.node.Address.String() {
			return a.Resources.Mem - a.Used.Mem
		}
	}
	t.Fatalf("no agent at %s", h.node.Address)
	return 0
}
