//go:build vm

package qemutests

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/node"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// liveOn are tasks that run until they are killed, some on each machine.
func (f *framework) liveOn(t *testing.T, each int) []client.Task {
	t.Helper()
	var tasks []client.Task
	for _, m := range f.world.Machines() {
		for i := range each {
			task := f.task(t, fmt.Sprintf("live-%s-%d", m.Node.Name, i), "live")
			task.Hostname = m.Node.Address.String()
			tasks = append(tasks, task)
		}
	}
	return tasks
}

// births are the names that a task's lives have printed: one, unless it was run twice.
func births(output string) []string {
	var names []string
	for _, line := range strings.Split(output, "\n") {
		if name, found := strings.CutPrefix(line, "born "); found {
			names = append(names, name)
		}
	}
	return names
}

// stillAlive fails the test unless a task prints on and was born once, under its old name.
func (f *framework) stillAlive(t *testing.T, l client.Launched, name string) {
	t.Helper()
	before := strings.Count(f.output(t, l, "stdout"), "beat")
	eventually(t, within(t, toRun), func() error {
		out := f.output(t, l, "stdout")
		if got := births(out); len(got) != 1 || got[0] != name {
			t.Fatalf("task %s was born as %v, before as %s", l.Task.ID, got, name)
		}
		if strings.Count(out, "beat") <= before {
			return fmt.Errorf("task %s prints nothing any more", l.Task.ID)
		}
		return nil
	})
}

func (f *framework) birth(t *testing.T, l client.Launched) string {
	t.Helper()
	var name string
	eventually(t, within(t, toRun), func() error {
		names := births(f.output(t, l, "stdout"))
		if len(names) != 1 {
			return fmt.Errorf("task %s printed %d births", l.Task.ID, len(names))
		}
		name = names[0]
		return nil
	})
	return name
}

// A machine that only works is switched off and on: its tasks are lost and said to be,
// the others go on, and it comes back as a new agent with nothing left over.
func TestMachineIsSwitchedOff(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	running := f.start(t, f.liveOn(t, 1)...)
	leader, err := w.WaitLeader(within(t, toNotice))
	if err != nil {
		t.Fatal(err)
	}
	var off client.Launched
	for _, l := range running {
		if l.Hostname != leader.Address.String() {
			off = l
		}
	}
	for _, m := range w.Machines() {
		if m.Node.Address.String() == off.Hostname {
			m.PowerCut()
			if err := m.PowerOn(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	ended, err := f.Wait(within(t, toElect), off.Task.ID, client.Ended)
	if err != nil {
		t.Fatal(err)
	}
	wantState(t, ended, mesosv1.TaskState_TASK_LOST)
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	again := f.task(t, "again", "say", "back")
	again.Hostname = off.Hostname
	wantState(t, f.runToEnd(t, again)[0], mesosv1.TaskState_TASK_FINISHED)
}

// All three lose power: machines that remember nothing become one cluster again.
func TestColdStartOfAllThree(t *testing.T) {
	w := three(t)
	for _, m := range w.Machines() {
		m.PowerCut()
	}
	for _, m := range w.Machines() {
		if err := m.PowerOn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	f := w.framework(t, false)
	wantState(t, f.runToEnd(t, f.task(t, "first", "say", "again"))[0], mesosv1.TaskState_TASK_FINISHED)
}

func restarts(t *testing.T, w *world, n cluster.Node, program string) int {
	return int(service(t, w, n, program).Restarts)
}

func pidOf(t *testing.T, w *world, n cluster.Node, program string) int {
	return int(service(t, w, n, program).PID)
}

// service is a program's record once it runs.
func service(t *testing.T, w *world, n cluster.Node, program string) (found node.Service) {
	t.Helper()
	eventually(t, within(t, toRun), func() error {
		services, err := w.nodeAPI(n).Services(t.Context())
		if err != nil {
			return err
		}
		for _, s := range services {
			if s.Name == program && s.State == "running" {
				found = s
				return nil
			}
		}
		return fmt.Errorf("%s does not run on %s: %v", program, n.Name, services)
	})
	return found
}
