//go:build vm && long

package qemutests

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/node"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// Clocks that are hours apart from the start, and are moved by more hours each while the
// leader changes: certificates are issued and believed, and no framework, agent or task is
// removed for it.
func TestClocksThatAreHoursApart(t *testing.T) {
	apart(t, 3)
	stopwatch(t)
	img, err := faulty()
	if err != nil {
		t.Fatal(err)
	}
	// The first clock is behind what the document was signed at, and begins there.
	atBoot := []time.Duration{-5 * time.Hour, 7 * time.Hour, 0}
	w := newWorld(t, options{nodes: 3, image: img, spoil: func(r *cluster.Rendered) {
		for i := range r.Nodes {
			n := &r.Nodes[i]
			n.Cmdline = "mesolith.fault=listen"
			n.QEMU = append(n.QEMU, "-rtc", "base="+time.Now().Add(atBoot[i]).UTC().Format("2006-01-02T15:04:05"))
		}
	}})
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	machines := map[string]*faultyMachine{}
	var tasks []client.Task
	for _, m := range w.Machines() {
		machines[m.Node.Name] = faultyMachineOf(t, w, m.Node.Name)
		tasks = append(tasks, client.Task{
			ID: "on-" + m.Node.Name, CPUs: 0.05, MemMB: 32, Hostname: m.Node.Address.String(),
			Command: &mesosv1.CommandInfo{Value: proto.String("sleep 100000")},
		})
	}
	f := w.framework(t, false)
	f.start(t, tasks...)
	before, framework := agentIDs(t, w), f.client.FrameworkID()

	moved := 0
	move := func(name, by string) {
		machines[name].tell("clock " + by)
		machines[name].sees("fault: clock moved by ")
		moved++
	}
	move("n1", "9h")
	move("n2", "-16h")
	move("n3", "13h")
	for _, m := range machines {
		t.Logf("%s says %s", m.m.Node.Name, m.health().Time.Format(time.RFC3339))
	}
	// The leader dies: who remains elects, and it comes back, over new connections.
	first := led(t, w, 0)
	machines[first.Status.Leader].tell("kill clusterd")
	next := led(t, w, first.Status.Term)
	move("n1", "-12h")
	move("n3", "-10h")
	machines[next.Status.Leader].tell("kill clusterd")
	led(t, w, next.Status.Term)
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	// What began before goes on, and new things begin.
	after := client.Task{ID: "after", CPUs: 0.05, MemMB: 32, Command: &mesosv1.CommandInfo{Value: proto.String("exit 0")}}
	wantState(t, f.runToEnd(t, after)[0], mesosv1.TaskState_TASK_FINISHED)
	if got := f.client.FrameworkID(); got != framework {
		t.Errorf("the framework is %s now, it was %s", got, framework)
	}
	if got := agentIDs(t, w); !slices.Equal(got, before) {
		t.Errorf("agents %v, before %v", got, before)
	}
	f.mu.Lock()
	for _, task := range tasks {
		for _, s := range f.history[task.ID] {
			if st := s.GetState(); st != mesosv1.TaskState_TASK_STARTING && st != mesosv1.TaskState_TASK_RUNNING {
				t.Errorf("task %s was %s: %s", task.ID, st, s.GetMessage())
			}
		}
	}
	f.mu.Unlock()
	// A clock beyond the middle of its certificate's life has it renewed.
	console := machines["n3"].console()
	issued := 0
	for _, l := range console.Lines(0) {
		if strings.Contains(l.Text, "certificate: issued for n3") {
			issued++
		}
	}
	t.Logf("%d clocks were moved, 2 leaders killed; n3 was issued %d certificates", moved, issued)
}

// led waits until somebody leads in a term after the given one, and gives a node's word.
func led(t *testing.T, w *world, after uint64) (health node.Health) {
	t.Helper()
	eventually(t, within(t, toElect), func() error {
		for _, m := range w.Machines() {
			var err error
			if health, err = w.nodeAPI(m.Node).Health(t.Context()); err == nil && health.Status.Leader != "" && health.Status.Term > after {
				return nil
			}
		}
		return fmt.Errorf("nobody leads after term %d: %+v", after, health.Status)
	})
	return health
}

// agentIDs are those of the cluster's agents, in order.
func agentIDs(t *testing.T, w *world) []string {
	t.Helper()
	agents, err := w.Agents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, a := range agents {
		ids = append(ids, a.ID)
	}
	slices.Sort(ids)
	return ids
}
