//go:build vm && long

package qemutests

import (
	"fmt"
	"testing"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// clusterd and isolated are killed on every machine while tasks run: no task notices, and
// the programs are back by themselves.
func TestProgramsAreKilledUnderRunningTasks(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	running := f.start(t, f.liveOn(t, 2)...)
	names := map[string]string{}
	for _, l := range running {
		names[l.Task.ID] = f.birth(t, l)
	}
	kills := 0
	for _, program := range []string{"clusterd", "isolated"} {
		for _, m := range w.Machines() {
			api := w.nodeAPI(m.Node)
			before := restarts(t, w, m.Node, program)
			if err := api.Kill(within(t, toRun), program, "KILL"); err != nil {
				t.Fatal(err)
			}
			eventually(t, within(t, toRun), func() error {
				if restarts(t, w, m.Node, program) <= before {
					return fmt.Errorf("%s on %s was not started again", program, m.Node.Name)
				}
				return nil
			})
			kills++
		}
		if err := w.WaitReady(within(t, toNotice)); err != nil {
			t.Fatal(err)
		}
		for _, l := range running {
			f.stillAlive(t, l, names[l.Task.ID])
		}
	}
	fmt.Printf("%d kills, %d tasks: all alive under their first name\n", kills, len(running))
	// They are still the framework's: a kill ends each of them in order.
	for _, l := range running {
		if err := f.Kill(within(t, toRun), l.Task.ID); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range running {
		ended, err := f.Wait(within(t, toRun), l.Task.ID, client.Ended)
		if err != nil {
			t.Fatal(err)
		}
		wantState(t, ended, mesosv1.TaskState_TASK_KILLED)
	}
}
