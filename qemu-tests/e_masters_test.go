//go:build vm

package qemutests

import (
	"fmt"
	"testing"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// Every master loses its memory while a worker goes on: the cluster is born empty, and
// takes the worker in with its task, which never notices. The framework comes back with
// its id and can still kill it.
func TestTasksOutliveTheMemoryOfAllMasters(t *testing.T) {
	apart(t, 2)
	stopwatch(t)
	w := newWorld(t, options{nodes: 2}) // of which one is a master
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	f := w.framework(t, false)
	on := w.rendered.Nodes[1].Address.String()
	live, server := f.task(t, "outlives", "live"), f.task(t, "serves-on", "serve")
	live.Hostname, server.Hostname, server.Ports = on, on, 1
	started := f.start(t, live, server)
	name := f.birth(t, started[0])
	mapped := fmt.Sprintf("http://%s:%d/", on, started[1].Ports[0])
	eventually(t, within(t, toRun), func() error { return answersOK(t, w, mapped) })
	before := f.client.FrameworkID()

	master := w.Machine(w.rendered.Nodes[0].Name)
	master.PowerCut()
	if err := master.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	f.stillAlive(t, started[0], name)
	if now := f.client.FrameworkID(); now != before {
		t.Errorf("the framework is %s, before %s", now, before)
	}
	// The network is as it was, for the task itself and for those who come now.
	eventually(t, within(t, toRun), func() error { return answersOK(t, w, mapped) })
	visitor := f.task(t, "visitor", "get", mapped)
	wantState(t, f.runToEnd(t, visitor)[0], mesosv1.TaskState_TASK_FINISHED)

	for _, l := range started {
		if err := f.Kill(within(t, toRun), l.Task.ID); err != nil {
			t.Fatal(err)
		}
		ended, err := f.Wait(within(t, toRun), l.Task.ID, client.Ended)
		if err != nil {
			t.Fatal(err)
		}
		wantState(t, ended, mesosv1.TaskState_TASK_KILLED)
	}
}
