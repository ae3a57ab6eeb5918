//go:build vm

package qemutests

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// The leader loses power in a storm of launches. Another one leads, no accepted launch is
// lost or run twice, and tasks on the others never noticed. The framework spoke to that
// very machine, which said no goodbye: it finds another by itself.
func TestLeaderLosesPowerUnderLoad(t *testing.T) {
	w := three(t)
	var leader cluster.Node
	var f *framework
	var running []client.Launched
	names := map[string]string{}
	for round := 0; ; round++ { // a leader of a busy host may change meanwhile
		var err error
		if leader, err = w.WaitLeader(within(t, toNotice)); err != nil {
			t.Fatal(err)
		}
		f = w.frameworkVia(t, false, append([]string{w.URL(leader, "")}, w.APIs()...)...)
		running = f.start(t, f.liveOn(t, 1)...)
		for _, l := range running {
			names[l.Task.ID] = f.birth(t, l)
		}
		now, err := w.WaitLeader(within(t, toNotice))
		if err == nil && now.Name == leader.Name {
			break
		}
		if t.Logf("%s led, now %s does, %v", leader.Name, now.Name, err); round == 4 {
			t.Fatal("no leader leads long enough to be cut")
		}
	}

	const storm = 20
	var tasks []client.Task
	for i := range storm {
		tasks = append(tasks, f.task(t, fmt.Sprintf("storm-%d", i), "say", "ran"))
	}
	ctx := within(t, toNotice+toRun+3*storm)
	if err := f.Add(ctx, tasks[:storm/2]...); err != nil {
		t.Fatal(err)
	}
	w.Machine(leader.Name).PowerCut()
	cut := time.Now()
	added := make(chan error, 1)
	go func() { added <- f.Add(ctx, tasks[storm/2:]...) }()
	next, err := w.WaitLeader(ctx, leader.Name)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%s lost power, %s leads after %.1f s\n", leader.Name, next.Name, time.Since(cut).Seconds())
	if err := <-added; err != nil {
		t.Fatal(err)
	}

	finished, lost := 0, 0
	for _, task := range tasks {
		l, err := f.Wait(ctx, task.ID, client.Ended)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case l.Status.GetState() == mesosv1.TaskState_TASK_FINISHED:
			finished++
			f.ranOnce(t, l, "ran\n")
		case l.Hostname == leader.Address.String():
			lost++ // it was on the machine that lost power
		default:
			t.Errorf("task %s on %s ended as %s: %s", task.ID, l.Hostname, l.Status.GetState(), l.Status.GetMessage())
		}
	}
	fmt.Printf("%d launches under way or after the cut: %d finished, %d went with the machine, all ended after %.1f s\n",
		storm, finished, lost, time.Since(cut).Seconds())
	for _, l := range running {
		if l.Hostname != leader.Address.String() {
			f.stillAlive(t, l, names[l.Task.ID])
		}
	}
}

// ranOnce shows that no other machine that is on has a trace of the task, and that its
// output is that of one run.
func (f *framework) ranOnce(t *testing.T, l client.Launched, said string) {
	t.Helper()
	for _, m := range f.world.Machines() {
		if !m.Running() {
			continue
		}
		there := l
		there.Hostname = m.Node.Address.String()
		out, err := f.tryOutput(t, there, "stdout")
		switch ran := there.Hostname == l.Hostname; {
		case ran && (err != nil || out != said):
			t.Errorf("task %s said %q on %s, want %q: %v", l.Task.ID, out, m.Node.Name, said, err)
		case !ran && (err == nil || !strings.Contains(err.Error(), "404")):
			t.Errorf("task %s ran on %s, and %s has of it: %q, %v", l.Task.ID, l.Hostname, m.Node.Name, out, err)
		}
	}
}

// clusterd is killed on all masters at once: what was acknowledged is still known.
func TestAllMastersProgramsDieAtOnce(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	running := f.start(t, f.liveOn(t, 1)...)
	failed := make(chan error, 3)
	began := time.Now()
	for _, m := range w.Machines() {
		api := w.nodeAPI(m.Node)
		go func() { failed <- api.Kill(t.Context(), "clusterd", "KILL") }()
	}
	var all error
	for range w.Machines() {
		all = errors.Join(all, <-failed)
	}
	if all != nil {
		t.Fatal(all)
	}
	fmt.Printf("clusterd killed on 3 masters within %d ms\n", time.Since(began).Milliseconds())
	if err := w.WaitReady(within(t, toNotice)); err != nil {
		t.Fatal(err)
	}
	for _, l := range running {
		if err := f.Kill(within(t, toRun), l.Task.ID); err != nil {
			t.Fatal(err)
		}
		ended, err := f.Wait(within(t, toNotice), l.Task.ID, client.Ended)
		if err != nil {
			t.Fatal(err)
		}
		wantState(t, ended, mesosv1.TaskState_TASK_KILLED)
	}
}
