//go:build vm

package qemutests

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// While init has no descriptor left, what dies waits for its successor and its status is
// kept; when there are some again, everything goes on, and each of it was said. Then as
// many die at PID 1 as can, and no status is taken from anybody either.
func TestDescriptorsRunOutAndAStormOfOrphans(t *testing.T) {
	f := newFaultyMachine(t, "descriptors", "listen")
	if err := f.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	fw := f.framework(t, false)
	task := func(id, script string) client.Task {
		return client.Task{ID: id, CPUs: 0.05, MemMB: 32, Command: &mesosv1.CommandInfo{Value: proto.String(script)}}
	}
	fw.start(t, task("ends", "sleep 4; exit 7"), task("stays", "sleep 100000"))

	f.tell("descriptors 8s isolated clusterd")
	f.sees("descriptors held, none is left")
	said := f.mark
	f.sees("too many open files), starts again", "descriptors given back", "isolated started")
	if _, err := f.console().Wait(t.Context(), said, "reap: "); err != nil {
		t.Errorf("nothing is said of the dead that wait: %v", err)
	}
	l, err := fw.Wait(within(t, toRun), "ends", client.Ended)
	if err != nil {
		t.Fatal(err)
	}
	if l.Status.GetState() != mesosv1.TaskState_TASK_FAILED || !strings.Contains(l.Status.GetMessage(), "exited with status 7") {
		t.Errorf("it ended as %s: %s", l.Status.GetState(), l.Status.GetMessage())
	}
	wantState(t, fw.runToEnd(t, task("after", "exit 0"))[0], mesosv1.TaskState_TASK_FINISHED)
	if l, err := fw.Wait(within(t, toRun), "stays", client.Running); err != nil || l.Status.GetState() != mesosv1.TaskState_TASK_RUNNING {
		t.Errorf("the task beside it: %v, %v", l.Status, err)
	}
	services, err := f.nodeAPI(f.m.Node).Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("descriptors ran out once; programs now: %+v", services)
	f.storm(fw, task)
}

// storm has count orphans die at PID 1 while isolated and noded are killed and a task
// ends: no status is taken from anybody.
func (f *faultyMachine) storm(fw *framework, task func(id, script string) client.Task) {
	t := f.t
	t.Helper()
	fw.start(t, task("in-the-storm", "sleep 3; exit 9"))
	f.tell(fmt.Sprintf("orphans %d isolated noded", orphansOfAStorm))
	f.sees("fault: storm of ")
	begun := f.mark
	for _, text := range []string{"fault: killed isolated", "isolated ended (signal: killed), starts again"} { // in any order
		if _, err := f.console().Wait(within(t, toElect), begun, text); err != nil {
			t.Fatal(err)
		}
	}
	line := f.seesIn(toElect+orphansOfAStorm/100, "fault: storm ended with status 0, ")
	var reaped, of, left int
	var took float64
	_, facts, _ := strings.Cut(line.Text, "status 0, ")
	if _, err := fmt.Sscanf(facts, "%d reaped of %d, zombies left %d, in %f s", &reaped, &of, &left, &took); err != nil {
		t.Fatalf("%q: %v", line.Text, err)
	}
	if reaped < of || of != orphansOfAStorm || left != 0 {
		t.Errorf("%d of %d orphans were reaped, %d zombies are left", reaped, of, left)
	}
	l, err := fw.Wait(within(t, toRun), "in-the-storm", client.Ended)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(l.Status.GetMessage(), "exited with status 9") {
		t.Errorf("a task that ended meanwhile: %s: %s", l.Status.GetState(), l.Status.GetMessage())
	}
	t.Logf("%d orphans, %d reaped in %.1f s, %.0f µs each", of, reaped, took, took*1e6/float64(of))
}
