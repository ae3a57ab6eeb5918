//go:build vm && long

package qemutests

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// grace is after how long a silence the leader gives an agent up.
const grace = 25 * time.Second

// An agent is cut off for less than its grace, again and again: nobody hears of it. Then
// for longer: its task is told to be lost, runs on, and is the framework's again as soon
// as the cut is healed.
func TestAgentIsCutOff(t *testing.T) {
	w := three(t)
	leader, err := w.WaitLeader(within(t, toNotice))
	if err != nil {
		t.Fatal(err)
	}
	others := slices.DeleteFunc(w.Machines(), func(m *cluster.Machine) bool { return m.Node.Name == leader.Name })
	cut, rest := others[0].Node, others[1].Node
	f := w.framework(t, false)
	task := f.task(t, "alone", "live")
	task.Hostname = cut.Address.String()
	l := f.start(t, task)[0]
	name := f.birth(t, l)
	isolate := func() { w.LAN.Switch.Isolate(cut.Name, leader.Name, rest.Name) }
	const flaps = 5
	for range flaps {
		isolate()
		pass(t, grace/4)
		w.LAN.Heal()
		pass(t, grace/8)
	}
	flapped := w.LAN.Switch.Dropped(cut.Name, leader.Name)
	if flapped == 0 {
		t.Fatal("the cut dropped no frame")
	}
	if now, _ := f.Get(l.Task.ID); now.Status.GetState() != mesosv1.TaskState_TASK_RUNNING {
		t.Fatalf("after %d cuts of %s the task is %s", flaps, grace/4, now.Status.GetState())
	}
	isolate()
	if _, err := f.Wait(within(t, toElect), l.Task.ID, func(l client.Launched) bool { return l.Status.GetState() == mesosv1.TaskState_TASK_LOST }); err != nil {
		t.Fatal(err)
	}
	w.LAN.Heal()
	eventually(t, within(t, toElect), func() error {
		if now, _ := f.Get(l.Task.ID); now.Status.GetState() != mesosv1.TaskState_TASK_RUNNING {
			return fmt.Errorf("the task is %s: %s", now.Status.GetState(), now.Status.GetMessage())
		}
		return nil
	})
	f.stillAlive(t, l, name)
	fmt.Printf("%d short cuts and a long one, %d frames dropped: lost and back, under its first name\n", flaps, w.LAN.Switch.Dropped(cut.Name, leader.Name))
}

// Every cable is pulled for three minutes. When they are back, the masters find a leader,
// the agents attach, and a framework that did nothing meanwhile works again.
func TestNetworkIsCutForMinutes(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	running := f.start(t, f.liveOn(t, 1)...)
	names := map[string]string{}
	for _, l := range running {
		names[l.Task.ID] = f.birth(t, l)
	}
	var all []string
	for _, m := range w.Machines() {
		all = append(all, m.Node.Name)
	}
	for i, name := range all {
		w.LAN.Switch.Isolate(name, all[i+1:]...)
	}
	pass(t, 3*time.Minute)
	if _, err := w.Leader(within(t, 1)); err == nil {
		t.Fatal("one leads although each is alone")
	}
	w.LAN.Heal()
	began := time.Now()
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	ready := time.Since(began)
	wantState(t, f.runToEnd(t, f.task(t, "after", "say", "again"))[0], mesosv1.TaskState_TASK_FINISHED)
	works := time.Since(began)
	for _, l := range running {
		f.stillAlive(t, l, names[l.Task.ID])
		if now, _ := f.Get(l.Task.ID); now.Status.GetState() != mesosv1.TaskState_TASK_RUNNING {
			t.Errorf("%s is %s", l.Task.ID, now.Status.GetState())
		}
	}
	fmt.Printf("cut for three minutes: ready %.1f s after it was healed, a new task was run after %.1f s\n", ready.Seconds(), works.Seconds())
}
