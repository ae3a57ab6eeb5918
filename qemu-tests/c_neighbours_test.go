//go:build vm

package qemutests

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// hostile is a task that means harm, and how it is known that it does.
type hostile struct {
	name  string
	mem   float64
	verb  []string
	file  string // stdout, unless it is the output that it floods
	word  string // before the number in its output that says how much harm it did
	least int    // for the attack to count
	most  int    // that its wall lets it have, where it has one that short attacks reach
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

// Whatever a task takes of its node that it can hurts itself only: the node leads the
// cluster and goes on to, no heartbeat is missed for it, its APIs answer, and a decent task
// beside it works on.
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
	tracked := h.trackedConnections(t)
	victim, at := h.victim(t)
	began := time.Now()
	quiet := h.during(t, func() {}, func() bool { return time.Since(began) > quietFor })
	wanted := 0
	for _, group := range attacks(h, victim, at) {
		wanted += len(group)
		h.attack(t, group, quiet)
	}
	t.Logf("%d attacks fired; in the quiet %s", h.fired, quiet)
	if h.fired != wanted {
		t.Errorf("%d of %d attacks fired", h.fired, wanted)
	}
	tracked(t)
	wantState(t, f.runToEnd(t, h.task(t, "after", 24, "say", "still here"))[0], mesosv1.TaskState_TASK_FINISHED)
}

// attacks are made in groups, one after the other: those of a group together, which do not
// take the same thing.
func attacks(h *hostileRun, other cluster.Node, answers string) [][]hostile {
	node := func(n cluster.Node, port int) string { return fmt.Sprintf("%s:%d", n.Address, port) }
	return [][]hostile{
		{{name: "processes", mem: 144, verb: []string{"bomb"}, word: "processes", least: 150, most: 1024}},
		{
			{name: "memory", mem: 64, verb: []string{"eat-in-child", "4000"}, word: "holding", least: 20, most: 64, memory: true},
			{name: "open files", mem: 64, verb: []string{"hoard"}, word: "open files", least: 5000, most: 524288},
		},
		{
			// Far more than it has memory for: the disk has to be the one that holds.
			{name: "disk", mem: 128, verb: []string{"fill", "/mnt/mesos/sandbox", "/", "/tmp", "/dev/shm"}, word: "files of 256 KiB", least: 200, most: 512, memory: true},
			{name: "inodes", mem: 48, verb: []string{"inodes", "/mnt/mesos/sandbox"}, word: "files without contents", least: 5000},
		},
		{
			{name: "output", mem: 32, verb: []string{"flood"}, file: "stderr", word: "kilobytes", least: 4096},
			{name: "processor", mem: 32, verb: []string{"hog"}, word: "computed", least: 1000},
		},
		{
			{name: "packets", mem: 32, verb: []string{"packets", node(h.node, 5050), node(h.node, 5052), node(other, 5050), node(other, 5051)}, word: "packets", least: 2000},
			{name: "flows", mem: 32, verb: []string{"flows", answers}, word: "flows", least: 2000},
			{name: "connections", mem: 64, verb: []string{"connections", node(h.node, cluster.AgentPort)}, word: "connections", least: 200},
		},
	}
}

// attack launches what means harm, watches while it lasts, and ends it.
func (h *hostileRun) attack(t *testing.T, group []hostile, quiet seen) {
	var tasks []client.Task
	var names []string
	for _, a := range group {
		tasks = append(tasks, h.task(t, strings.ReplaceAll(a.name, " ", "-"), a.mem, a.verb...))
		names = append(names, a.name)
	}
	f := h.f
	var long context.Context
	began := time.Now()
	during := h.during(t, func() {
		if err := f.Add(t.Context(), tasks...); err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			l, err := f.Wait(within(t, toRun), task.ID, begun)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Printf("%s begun after %.1f s: %s %s\n", task.ID, time.Since(began).Seconds(), l.Status.GetState(), l.Status.GetMessage())
		}
		long = within(t, toHarm)
	}, func() bool {
		for i, a := range group {
			if got, _ := h.did(t, a, tasks[i].ID); got < a.least && long.Err() == nil {
				return false
			}
		}
		return true
	})
	for i, a := range group {
		id := tasks[i].ID
		if l, _ := f.Get(id); !a.memory && !l.Done() {
			if err := f.Kill(within(t, toRun), id); err != nil {
				t.Fatal(err)
			}
		}
		l, err := f.Wait(within(t, toRun), id, client.Ended)
		if err != nil {
			t.Fatal(err)
		}
		if a.memory {
			wantState(t, l, mesosv1.TaskState_TASK_FAILED)
			wantWhy(t, l, mesosv1.TaskStatus_SOURCE_AGENT, mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY)
		}
		if a.file != "" {
			if n := len(f.output(t, l, "stdout")); n == 0 || float64(n) > a.mem/32*(1<<20) {
				t.Errorf("%d bytes of its output are kept", n)
			}
		}
		got, said := h.did(t, a, id)
		fmt.Printf("%s: %s, then %s %s\n", a.name, said, l.Status.GetState(), l.Status.GetMessage())
		if got < a.least || (a.most > 0 && got > a.most) {
			t.Errorf("%s: of %s it got %d, not %d to %d", a.name, a.word, got, a.least, a.most)
		} else {
			h.fired++
		}
	}
	fmt.Printf("during %s: %s\n", strings.Join(names, ", "), during)
	during.check(t, quiet)
}

// did is how much harm an attack has done so far, and its own words for that.
func (h *hostileRun) did(t *testing.T, a hostile, id string) (int, string) {
	file := "stdout"
	if a.file != "" {
		file = a.file
	}
	l, _ := h.f.Get(id)
	out, err := h.f.tryOutput(t, l, file)
	if err != nil {
		t.Fatalf("%s, which is %s %s: %v", a.name, l.Status.GetState(), l.Status.GetMessage(), err)
	}
	return harm(out, a.word)
}

// harm is the largest number after a word at the beginning of lines, and the whole line.
func harm(out, word string) (most int, said string) {
	for line := range strings.SplitSeq(out, "\n") {
		var n int
		rest, ok := strings.CutPrefix(line, word+" ")
		if _, err := fmt.Sscan(rest, &n); ok && err == nil && n >= most {
			most, said = n, line
		}
	}
	return most, said
}

// victim starts a task on another node that answers by UDP.
func (h *hostileRun) victim(t *testing.T) (cluster.Node, string) {
	t.Helper()
	for _, m := range h.w.Machines() {
		if m.Node.Name == h.node.Name {
			continue
		}
		task := h.f.task(t, "victim", "serve")
		task.Ports, task.Hostname = 1, m.Node.Address.String()
		l := h.f.start(t, task)[0]
		return m.Node, fmt.Sprintf("%s:%d", l.Hostname, l.Ports[0])
	}
	t.Fatal("there is no other node")
	return cluster.Node{}, ""
}

// trackedConnections watches how many connections the node tracks, and checks at the end
// that most of its room was left.
func (h *hostileRun) trackedConnections(t *testing.T) (check func(t *testing.T)) {
	t.Helper()
	f := h.w.frameworkAs(t, hostRole)
	task := f.task(t, "tracked", "tracked")
	task.MemMB, task.Hostname = 24, h.node.Address.String()
	l := f.start(t, task)[0]
	return func(t *testing.T) {
		t.Helper()
		most, said := harm(f.output(t, l, "stdout"), "tracked")
		fmt.Printf("of connections, the node %s at most\n", said)
		var limit int
		if _, err := fmt.Sscanf(said, "tracked %d of %d", &most, &limit); err != nil {
			t.Fatalf("%v in %q", err, said)
		}
		if most < 1000 || most > limit/2 {
			t.Errorf("the node tracked %d connections, of %d that it can", most, limit)
		}
	}
}

// begun: it runs, or has already ended.
func begun(l client.Launched) bool { return client.Running(l) || client.Ended(l) }
