package leader

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
)

// A deactivated agent goes on with what it runs and gets nothing new, under the next leader
// neither, until it is activated again.
func TestDeactivatedAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		f.launch(f.offer(), "t", nil)
		run := until(a, (*agentwire.FromMaster).GetRun)
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_RUNNING)
		f.ack(f.update(mesosv1.TaskState_TASK_RUNNING))
		open := f.offersWithin(10 * time.Second)
		if len(open) == 0 {
			t.Fatal("nothing is left to be offered")
		}
		set := func(active bool) {
			t.Helper()
			if err := c.l.ActivateAgent(t.Context(), state.AgentID(a.id), active); err != nil {
				t.Fatal(err)
			}
		}
		set(false)
		f.next(scheduler.Event_RESCIND)
		if got := f.offersWithin(time.Minute); len(got) > 0 {
			t.Errorf("deactivated, and offered: %v", got)
		}
		id := f.id
		c.end()
		c.lead()
		defer c.end()
		f = c.subscribe("f", id)
		f.next(scheduler.Event_SUBSCRIBED)
		a.attach("n1", &agentwire.Held{ContainerId: run.GetContainerId(), State: int32(mesosv1.TaskState_TASK_RUNNING)})
		if got := f.offersWithin(time.Minute); len(got) > 0 {
			t.Errorf("another leader, and offered: %v", got)
		}
		set(true)
		f.offer()
		a.report(run.GetContainerId(), 2, mesosv1.TaskState_TASK_FINISHED)
		f.ack(f.update(mesosv1.TaskState_TASK_FINISHED))
		if err := c.l.ActivateAgent(t.Context(), "none", false); !errors.Is(err, ErrAgentUnknown) {
			t.Error(err)
		}
	})
}

// An ACCEPT that comes while the deactivation is on its way into the log launches nothing.
func TestAcceptWhileAnAgentIsDeactivated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "", partitioned)
		f.next(scheduler.Event_SUBSCRIBED)
		offer := f.offer()
		gate := make(chan struct{})
		c.log.mu.Lock()
		c.log.gate = gate
		c.log.mu.Unlock()
		done := make(chan error, 2)
		go func() { done <- c.l.ActivateAgent(t.Context(), state.AgentID(a.id), false) }()
		synctest.Wait()
		go func() { done <- f.accept(offer, "late", 1) }()
		synctest.Wait()
		c.log.mu.Lock()
		c.log.gate = nil
		c.log.mu.Unlock()
		close(gate)
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if st := f.update(mesosv1.TaskState_TASK_DROPPED); st.GetReason() != mesosv1.TaskStatus_REASON_INVALID_OFFERS {
			t.Errorf("%v", st)
		}
	})
}

// A watcher that leaves before it was told anything is told nothing.
func TestWatcherThatLeavesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		gate := make(chan struct{})
		c.log.mu.Lock()
		c.log.gate = gate
		c.log.mu.Unlock()
		ctx, leave := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		told := 0
		go func() {
			end, err := c.l.Watch(ctx, func(*state.State, Live) { told++ }, func(*Change) { told++ })
			end()
			failed <- err
		}()
		synctest.Wait()
		leave()
		if err := <-failed; err == nil {
			t.Error("it watches")
		}
		c.log.mu.Lock()
		c.log.gate = nil
		c.log.mu.Unlock()
		close(gate)
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		synctest.Wait()
		if told != 0 {
			t.Errorf("told %d times", told)
		}
	})
}

// What ran on an agent that is gone is over, by the operator's word; who is there all the
// same is told to begin anew, and who comes back later is refused.
func TestAgentMarkedGone(t *testing.T) {
	for _, aware := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newCell(t)
			defer c.end()
			a := c.agent("n1")
			defer a.conn.Close()
			a.attach("n1")
			var caps []mesosv1.FrameworkInfo_Capability_Type
			want := mesosv1.TaskState_TASK_LOST
			if aware {
				caps, want = append(caps, partitioned), mesosv1.TaskState_TASK_GONE_BY_OPERATOR
			}
			f := c.subscribe("f", "", caps...)
			f.next(scheduler.Event_SUBSCRIBED)
			f.launch(f.offer(), "t", nil)
			run := until(a, (*agentwire.FromMaster).GetRun)
			a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_RUNNING)
			f.ack(f.update(mesosv1.TaskState_TASK_RUNNING))
			if err := c.l.MarkAgentGone(t.Context(), state.AgentID(a.id)); err != nil {
				t.Fatal(err)
			}
			if st := f.update(want); st.GetReason() != mesosv1.TaskStatus_REASON_AGENT_REMOVED_BY_OPERATOR {
				t.Errorf("%v", st)
			}
			if id := f.next(scheduler.Event_FAILURE).GetFailure().GetAgentId().GetValue(); id != a.id {
				t.Errorf("failure of %s", id)
			}
			if until(a, (*agentwire.FromMaster).GetShutdown).GetReason() == "" {
				t.Error("it is shut down without a reason")
			}
			if err := c.l.MarkAgentGone(t.Context(), state.AgentID(a.id)); !errors.Is(err, ErrAgentUnknown) {
				t.Errorf("twice: %v", err)
			}
			again := c.agent("n1")
			defer again.conn.Close()
			again.id = a.id
			for until(again, (*agentwire.FromMaster).GetHello); ; {
				break
			}
			again.sendAttach("n1")
			if r := until(again, (*agentwire.FromMaster).GetRefused); !r.GetRemoved() {
				t.Errorf("it comes back with its id: %v", r)
			}
		})
	}
}
