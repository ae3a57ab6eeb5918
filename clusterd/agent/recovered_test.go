package agent

import (
	"os"
	"path/filepath"
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// An agent whose journal was damaged, wherever, adopts what runs from the keeper's records
// and stays the agent that it was: nothing is ended, an end in between is told.
func TestADamagedJournalEndsNoTask(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"its end":       func(raw []byte) []byte { raw[len(raw)*3/4] ^= 1; return append(raw, raw[len(raw)-40:]...) },
		"its beginning": func(raw []byte) []byte { raw[40] ^= 1; return raw },
		"all of it":     func(raw []byte) []byte { return make([]byte, len(raw)) },
		"empty":         func([]byte) []byte { return nil },
	} {
		// What the journal has lost is told anew.
		t.Run(name, func(t *testing.T) { damagedJournal(t, damage, name != "its end") })
	}
}

func damagedJournal(t *testing.T, damage func([]byte) []byte, told bool) {
	k, dir := startKeeper(t), t.TempDir()
	n := startNode(t, dir, k)
	m := n.master(1, 1)
	m.attach("S1")
	for _, id := range []string{"runs", "ends"} {
		m.run(id)
		if k.request().GetLaunch() == nil {
			t.Fatal("no launch")
		}
		k.event(id, keeper.Container_RUNNING, 1)
		m.ack(id, m.update(mesosv1.TaskState_TASK_STARTING))
		m.ack(id, m.update(mesosv1.TaskState_TASK_RUNNING))
	}
	n.stop()
	path := filepath.Join(dir, "journal")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, damage(raw), 0o600); err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	k.containers["ends"].Phase, k.containers["ends"].Sequence = keeper.Container_ENDED, 2
	k.containers["nobody's"] = &keeper.Container{ContainerId: "nobody's", Phase: keeper.Container_RUNNING}
	k.mu.Unlock()

	n = startNode(t, dir, k)
	if kill := k.request().GetKill(); kill.GetContainerId() != "nobody's" {
		t.Errorf("after the damage the keeper is asked for %v", kill)
	}
	m = n.master(1, 2)
	at := m.attach("S1")
	if at.GetAgentId() != "S1" || len(at.GetHeld()) != 2 {
		t.Errorf("it attaches as %q and holds %v", at.GetAgentId(), at.GetHeld())
	}
	seen := map[string]mesosv1.TaskState{}
	for seen["task-ends"] != mesosv1.TaskState_TASK_FINISHED || told && seen["task-runs"] != mesosv1.TaskState_TASK_RUNNING {
		st := m.anyUpdate()
		seen[st.GetTaskId().GetValue()] = st.GetState()
		m.ack(st.GetTaskId().GetValue()[len("task-"):], st)
		select {
		case r := <-k.requests:
			if r.GetKill() != nil || r.GetLaunch() != nil {
				t.Fatalf("the keeper is asked for %v", r)
			}
		default:
		}
	}
	if aside, err := filepath.Glob(path + ".damaged-*"); err != nil || len(aside) != 1 {
		t.Errorf("kept aside: %q, %v", aside, err)
	}
	n.stop()
	n = startNode(t, dir, k) // and the new journal holds all of it
	if at := n.master(1, 3).attach("S1"); at.GetAgentId() != "S1" || len(at.GetHeld()) != 2 {
		t.Errorf("started again it attaches as %q and holds %v", at.GetAgentId(), at.GetHeld())
	}
}

// A task that neither the journal nor the keeper knows any more, and that the leader asks
// for, is told as gone, once, and never begun again; one that is held is told as it is.
func TestATaskThatNobodyRemembersIsToldAsGone(t *testing.T) {
	k, dir := startKeeper(t), t.TempDir()
	n := startNode(t, dir, k)
	m := n.master(1, 1)
	m.attach("S1")
	m.told("lost")
	st := m.update(mesosv1.TaskState_TASK_GONE)
	if st.GetSource() != mesosv1.TaskStatus_SOURCE_AGENT || st.GetReason() != mesosv1.TaskStatus_REASON_RECONCILIATION || len(st.GetUuid()) != 16 {
		t.Errorf("told as %v", st)
	}
	n.stop()
	n = startNode(t, dir, k) // before it was acknowledged
	m = n.master(1, 2)
	if at := m.attach("S1"); len(at.GetHeld()) != 1 || !at.GetHeld()[0].GetTerminal() {
		t.Errorf("it holds %v", at.GetHeld())
	}
	if again := m.update(mesosv1.TaskState_TASK_GONE); string(again.GetUuid()) != string(st.GetUuid()) {
		t.Errorf("told again as %v", again)
	}
	m.told("lost") // asked again: the same answer
	if again := m.update(mesosv1.TaskState_TASK_GONE); string(again.GetUuid()) != string(st.GetUuid()) {
		t.Errorf("asked again it is told as %v", again)
	}
	m.ack("lost", st)
	m.run("runs") // what is told of this one shows that nothing was asked of the keeper before
	if l := k.request(); l.GetForget() == nil && l.GetLaunch().GetContainerId() != "runs" {
		t.Errorf("the keeper is asked for %v", l)
	}
}
