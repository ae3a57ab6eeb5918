package agent

import (
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// A launch that the keeper calls impossible is the task's end; one that it could not do
// for now is asked for again until it is done.
func TestRefusedLaunchIsNotForgotten(t *testing.T) {
	k := startKeeper(t)
	full := 2 // launches that find the disk full
	k.refuse = func(r *keeper.Request) *keeper.Error {
		switch r.GetLaunch().GetContainerId() {
		case "never":
			return &keeper.Error{Code: keeper.Error_INVALID, Message: "no such thing"}
		case "later":
			if full > 0 {
				full--
				return &keeper.Error{Code: keeper.Error_INTERNAL, Message: "disk full"}
			}
		}
		return nil
	}
	n := startNode(t, t.TempDir(), k)
	m := n.master(1, 1)
	m.attach("S1")
	m.run("never")
	st := m.update(mesosv1.TaskState_TASK_ERROR)
	if st.GetReason() != mesosv1.TaskStatus_REASON_TASK_INVALID || st.GetMessage() != "no such thing" {
		t.Errorf("told as %v", st)
	}
	k.request()
	m.run("later")
	for range 3 {
		if l := k.request().GetLaunch(); l.GetContainerId() != "later" {
			t.Fatalf("asked %v", l)
		}
	}
	k.event("later", keeper.Container_RUNNING, 1)
	m.update(mesosv1.TaskState_TASK_STARTING)
}

// The id that the cluster gave the user's name goes to the keeper with the launch, also
// when the launch is read back from the journal.
func TestUserIDTravels(t *testing.T) {
	k := startKeeper(t)
	dir := t.TempDir()
	n := startNode(t, dir, k)
	m := n.master(1, 1)
	m.attach("S1")
	m.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Run{Run: &agentwire.Run{ContainerId: "c1", FrameworkId: "F", UserId: 20007}}})
	for range 2 {
		if l := k.request().GetLaunch(); l.GetUserId() != 20007 {
			t.Errorf("launched as %v", l)
		}
		n.stop()
		n = startNode(t, dir, k)
		m = n.master(1, 1)
		m.attach("S1")
	}
}

// An agent without memory meets a keeper that has heard newer leaders: what it holds and
// nobody knows is ended as soon as a leader is known.
func TestStrayIsEndedWhenTheLeaderIsKnown(t *testing.T) {
	k := startKeeper(t)
	k.containers["stray"] = &keeper.Container{ContainerId: "stray", Phase: keeper.Container_RUNNING, Sequence: 1}
	k.refuse = func(r *keeper.Request) *keeper.Error {
		if m := r.GetKill(); m != nil && m.GetTerm() < 7 {
			return &keeper.Error{Code: keeper.Error_STALE, Message: "term 7 was heard already"}
		}
		return nil
	}
	n := startNode(t, t.TempDir(), k)
	if kill := k.request().GetKill(); kill.GetContainerId() != "stray" || kill.GetTerm() != 0 {
		t.Fatalf("asked %v", kill)
	}
	n.master(1, 7)
	if kill := k.request().GetKill(); kill.GetContainerId() != "stray" || kill.GetTerm() != 7 {
		t.Errorf("asked %v", kill)
	}
}
