package leader

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
)

// A drained agent is told so by every leader until it is empty; nothing is offered of it,
// and it cannot be used again before.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		a := c.agent("n1")
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		f.launch(f.offer(), "t", nil)
		run := until(a, (*agentwire.FromMaster).GetRun)
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_RUNNING)
		f.ack(f.update(mesosv1.TaskState_TASK_RUNNING))
		if len(f.offersWithin(10*time.Second)) == 0 {
			t.Fatal("nothing is left to be offered")
		}
		id := state.AgentID(a.id)
		if err := c.l.DrainAgent(t.Context(), id, 5*time.Second, false); err != nil {
			t.Fatal(err)
		}
		f.next(scheduler.Event_RESCIND)
		if d := until(a, (*agentwire.FromMaster).GetDrain); !d.GetOn() || d.GetMaxGraceNs() != 5e9 || d.GetMarkGone() {
			t.Errorf("the agent was told %v", d)
		}
		framework := f.id
		c.end()
		c.lead()
		defer c.end()
		f = c.subscribe("f", framework)
		f.next(scheduler.Event_SUBSCRIBED)
		a.attach("n1", &agentwire.Held{ContainerId: run.GetContainerId(), State: int32(mesosv1.TaskState_TASK_RUNNING)})
		if d := until(a, (*agentwire.FromMaster).GetDrain); !d.GetOn() {
			t.Errorf("the next leader told the agent %v", d)
		}
		if got := f.offersWithin(time.Minute); len(got) > 0 {
			t.Errorf("drained, and offered: %v", got)
		}
		if err := c.l.ActivateAgent(t.Context(), id, true); !errors.Is(err, ErrInvalid) {
			t.Errorf("used again while tasks run: %v", err)
		}
		a.report(run.GetContainerId(), 2, mesosv1.TaskState_TASK_KILLED)
		killed := f.update(mesosv1.TaskState_TASK_KILLED)
		if err := c.l.ActivateAgent(t.Context(), id, true); !errors.Is(err, ErrInvalid) {
			t.Errorf("used again before its framework knows: %v", err)
		}
		f.ack(killed)
		synctest.Wait()
		if err := c.l.ActivateAgent(t.Context(), id, true); err != nil {
			t.Fatal(err)
		}
		if d := until(a, (*agentwire.FromMaster).GetDrain); d.GetOn() {
			t.Error("the agent was not told that it is used again")
		}
		f.offer()
		if err := c.l.DrainAgent(t.Context(), "none", -1, false); !errors.Is(err, ErrAgentUnknown) {
			t.Errorf("no agent: %v", err)
		}
		a.conn.Close()
	})
}

// Where that was asked for, an agent is gone once it is empty.
func TestDrainAndGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "", mesosv1.FrameworkInfo_Capability_PARTITION_AWARE)
		f.next(scheduler.Event_SUBSCRIBED)
		f.launch(f.offer(), "t", nil)
		run := until(a, (*agentwire.FromMaster).GetRun)
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_RUNNING)
		f.ack(f.update(mesosv1.TaskState_TASK_RUNNING))
		id := state.AgentID(a.id)
		if err := c.l.DrainAgent(t.Context(), id, -1, true); err != nil {
			t.Fatal(err)
		}
		if d := until(a, (*agentwire.FromMaster).GetDrain); !d.GetMarkGone() || d.GetMaxGraceNs() >= 0 {
			t.Errorf("the agent was told %v", d)
		}
		known := func() (ok bool) {
			c.m.View(func(s *state.State) { _, ok = s.Agent(id) })
			return ok
		}
		time.Sleep(time.Minute)
		if !known() {
			t.Fatal("gone while a task runs")
		}
		a.report(run.GetContainerId(), 2, mesosv1.TaskState_TASK_GONE_BY_OPERATOR)
		f.ack(f.update(mesosv1.TaskState_TASK_GONE_BY_OPERATOR))
		until(a, (*agentwire.FromMaster).GetShutdown)
		if known() {
			t.Error("empty, and still known")
		}
		f.next(scheduler.Event_FAILURE)
	})
}
