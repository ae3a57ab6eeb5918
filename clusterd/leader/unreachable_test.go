package leader

import (
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
)

// An update that nobody had acknowledged when its agent fell silent is told again when
// the agent is back, and not while it is away: what follows it waits behind it.
func TestUpdateOutlivesItsAgentsAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		a.attach("n1")
		f := c.subscribe("f", "", mesosv1.FrameworkInfo_Capability_PARTITION_AWARE)
		f.next(scheduler.Event_SUBSCRIBED)
		if err := f.accept(f.offer(), "t1", 1); err != nil {
			t.Fatal(err)
		}
		run := until(a, (*agentwire.FromMaster).GetRun)
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_RUNNING)
		first := f.update(mesosv1.TaskState_TASK_RUNNING) // not acknowledged
		a.conn.Close()
		for f.update2(mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskState_TASK_UNREACHABLE).GetState() == mesosv1.TaskState_TASK_RUNNING {
		}
		time.Sleep(time.Hour)
		b := c.agent("n1")
		defer b.conn.Close()
		b.id = a.id
		b.attach("n1", &agentwire.Held{ContainerId: run.GetContainerId(), State: int32(mesosv1.TaskState_TASK_RUNNING)})
		if st := f.update(mesosv1.TaskState_TASK_RUNNING); st.GetReason() != mesosv1.TaskStatus_REASON_AGENT_REREGISTERED {
			t.Fatalf("after the absence: %v", st)
		}
		b.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_RUNNING)
		if again := f.update(mesosv1.TaskState_TASK_RUNNING); string(again.GetUuid()) != string(first.GetUuid()) {
			t.Fatalf("the open update came as %v", again)
		}
		time.Sleep(11 * time.Second)
		f.ack(f.update(mesosv1.TaskState_TASK_RUNNING)) // and is retried
		if ack := until(b, (*agentwire.FromMaster).GetAcknowledge); string(ack.GetUuid()) != string(first.GetUuid()) {
			t.Errorf("acknowledged %v", ack)
		}
	})
}

// update2 takes an update in one of two states.
func (s *subscriber) update2(a, b mesosv1.TaskState) *mesosv1.TaskStatus {
	s.t.Helper()
	st := s.next(scheduler.Event_UPDATE).GetUpdate().GetStatus()
	if st.GetState() != a && st.GetState() != b {
		s.t.Fatalf("update %s, want %s or %s", st.GetState(), a, b)
	}
	return st
}

// An agent whose connection breaks again and again, each time for less than its grace,
// stays what it was: nobody hears of it, and nothing of it is taken for lost.
func TestFlappingAgentIsNotGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		a.attach("n1")
		f := c.subscribe("f", "", mesosv1.FrameworkInfo_Capability_PARTITION_AWARE)
		f.next(scheduler.Event_SUBSCRIBED)
		if err := f.accept(f.offer(), "t1", 1); err != nil {
			t.Fatal(err)
		}
		container := until(a, (*agentwire.FromMaster).GetRun).GetContainerId()
		a.report(container, 1, mesosv1.TaskState_TASK_RUNNING)
		f.ack(f.update(mesosv1.TaskState_TASK_RUNNING))
		flaps := 0
		for away := time.Second; away < 25*time.Second; away += time.Second {
			a.conn.Close()
			time.Sleep(away)
			id := a.id
			a = c.agent("n1")
			a.id = id
			a.attach("n1", &agentwire.Held{ContainerId: container, State: int32(mesosv1.TaskState_TASK_RUNNING)})
			time.Sleep(time.Second)
			flaps++
		}
		defer a.conn.Close()
		t.Logf("%d absences, the longest of 24 s with a grace of 25 s", flaps)
		for {
			select {
			case e := <-f.events:
				switch e.GetType() {
				case scheduler.Event_OFFERS, scheduler.Event_RESCIND:
				default:
					t.Fatalf("the framework heard %v", e)
				}
				continue
			default:
			}
			break
		}
		a.report(container, 2, mesosv1.TaskState_TASK_FINISHED)
		f.ack(f.update(mesosv1.TaskState_TASK_FINISHED))
	})
}
