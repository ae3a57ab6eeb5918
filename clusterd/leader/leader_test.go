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
	"google.golang.org/protobuf/proto"
)

func TestTaskFromOfferToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		offer := f.offer()
		if len(offer.GetResources()) != 3 || offer.GetAllocationInfo() != nil {
			t.Errorf("offer %v", offer)
		}
		if err := f.accept(offer, "t1", 1); err != nil {
			t.Fatal(err)
		}
		run := until(a, (*agentwire.FromMaster).GetRun)
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_RUNNING)
		running := f.update(mesosv1.TaskState_TASK_RUNNING)
		// Not acknowledged: it comes again, with the same uuid.
		if again := f.update(mesosv1.TaskState_TASK_RUNNING); string(again.GetUuid()) != string(running.GetUuid()) {
			t.Error("another uuid")
		}
		f.ack(running)
		until(a, (*agentwire.FromMaster).GetAcknowledge)
		a.report(run.GetContainerId(), 2, mesosv1.TaskState_TASK_FINISHED)
		f.ack(f.update(mesosv1.TaskState_TASK_FINISHED))
		until(a, (*agentwire.FromMaster).GetForget)
		f.offer() // what the launch left
		if rs, err := fromWire(f.offer().GetResources()); err != nil || rs.Milli(state.CPUs) != 1000 {
			t.Errorf("after its end %s is offered, %v", rs, err)
		}
	})
}

// The leader dies after each step; the next one goes on, and no launch is lost or twice.
func TestLeaderChangesAtEachStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		if err := f.accept(f.offer(), "t1", 1); err != nil {
			t.Fatal(err)
		}
		change := func(held ...*agentwire.Held) {
			t.Helper()
			id := f.id
			c.end()
			c.lead()
			f = c.subscribe("f", id)
			f.next(scheduler.Event_SUBSCRIBED)
			for h := until(a, (*agentwire.FromMaster).GetHello); h.GetLeading(); h = until(a, (*agentwire.FromMaster).GetHello) {
			}
			a.attach("n1", held...)
		}
		run := until(a, (*agentwire.FromMaster).GetRun)
		change() // the Run got lost with the old leader
		again := until(a, (*agentwire.FromMaster).GetRun)
		if again.GetContainerId() != run.GetContainerId() {
			t.Fatalf("another container: %s", again.GetContainerId())
		}
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_RUNNING)
		f.update(mesosv1.TaskState_TASK_RUNNING)
		held := &agentwire.Held{ContainerId: run.GetContainerId(), State: int32(mesosv1.TaskState_TASK_RUNNING)}
		change(held) // the acknowledgement got lost
		f.ack(f.update(mesosv1.TaskState_TASK_RUNNING))
		until(a, (*agentwire.FromMaster).GetAcknowledge)
		change(held)
		until(a, (*agentwire.FromMaster).GetAcknowledge) // told again: it may not have arrived
		a.report(run.GetContainerId(), 2, mesosv1.TaskState_TASK_FINISHED)
		f.ack(f.update(mesosv1.TaskState_TASK_FINISHED))
		held.Terminal = true
		change(held) // acknowledged, and the agent has not heard that it may forget
		if ids := until(a, (*agentwire.FromMaster).GetForget).GetContainerIds(); len(ids) != 1 {
			t.Errorf("forget %v", ids)
		}
		c.end()
	})
}

func TestAnswersOfDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		call := func(id string) *scheduler.Call {
			return &scheduler.Call{Type: scheduler.Call_REVIVE.Enum(), FrameworkId: &mesosv1.FrameworkID{Value: proto.String(id)}}
		}
		for _, test := range []struct {
			name, framework, principal, stream string
			want                               error
		}{
			{"unknown", "x", "", f.stream.ID(), ErrFrameworkUnknown},
			{"other principal", f.id, "other", f.stream.ID(), ErrPrincipalMismatch},
			{"no stream id", f.id, "", "", ErrStreamIDMissing},
			{"wrong stream id", f.id, "", "x", ErrStreamIDWrong},
			{"fine", f.id, "", f.stream.ID(), nil},
		} {
			if err := c.l.Do(t.Context(), test.principal, test.stream, call(test.framework)); !errors.Is(err, test.want) {
				t.Errorf("%s: %v, want %v", test.name, err, test.want)
			}
		}
		c.l.Disconnected(f.stream.ID(), true)
		synctest.Wait()
		if err := f.do(call(f.id)); !errors.Is(err, ErrNotSubscribed) {
			t.Errorf("after its stream ended: %v", err)
		}
		time.Sleep(31 * time.Second) // virtual: its failover timeout
		if err := f.do(call(f.id)); !errors.Is(err, ErrFrameworkUnknown) {
			t.Errorf("after its failover timeout: %v", err)
		}
		again := c.subscribe("f", f.id)
		if e := again.next(scheduler.Event_ERROR); e.GetError().GetMessage() != "Framework has been removed" {
			t.Errorf("%v", e)
		}
	})
}

func TestFailoverEndsTheOldStreamAndItsOffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		stale := f.offer()
		g := c.subscribe("f", f.id)
		g.next(scheduler.Event_SUBSCRIBED)
		if e := f.next(scheduler.Event_ERROR); e.GetError().GetMessage() != "Framework failed over" {
			t.Errorf("%v", e)
		}
		if err := g.accept(stale, "t1", 1); err != nil {
			t.Fatal(err)
		}
		if st := g.update(mesosv1.TaskState_TASK_LOST); st.GetReason() != mesosv1.TaskStatus_REASON_INVALID_OFFERS || st.Uuid != nil {
			t.Errorf("%v", st)
		}
		fresh := g.offer()
		if err := g.accept(fresh, "t2", 1); err != nil {
			t.Fatal(err)
		}
		// The same call again, because its answer got lost: the task is told as it is.
		if err := g.accept(fresh, "t2", 1); err != nil {
			t.Fatal(err)
		}
		if st := g.update(mesosv1.TaskState_TASK_STAGING); st.GetReason() != mesosv1.TaskStatus_REASON_RECONCILIATION {
			t.Errorf("%v", st)
		}
	})
}

func TestSilentAgentIsUnreachableAndReconciled(t *testing.T) {
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
		f.ack(f.update(mesosv1.TaskState_TASK_RUNNING))
		a.conn.Close()
		st := f.update(mesosv1.TaskState_TASK_UNREACHABLE)
		if st.GetUnreachableTime() == nil || st.GetReason() != mesosv1.TaskStatus_REASON_AGENT_REMOVED {
			t.Errorf("%v", st)
		}
		if e := f.next(scheduler.Event_FAILURE); e.GetFailure().GetAgentId().GetValue() != a.id {
			t.Errorf("%v", e)
		}
		ask := func(task, agent string) {
			t.Helper()
			q := &scheduler.Call_Reconcile_Task{TaskId: &mesosv1.TaskID{Value: proto.String(task)}}
			if agent != "" {
				q.AgentId = &mesosv1.AgentID{Value: proto.String(agent)}
			}
			if err := f.do(&scheduler.Call{Type: scheduler.Call_RECONCILE.Enum(), Reconcile: &scheduler.Call_Reconcile{Tasks: []*scheduler.Call_Reconcile_Task{q}}}); err != nil {
				t.Fatal(err)
			}
		}
		ask("t1", a.id)
		f.update(mesosv1.TaskState_TASK_UNREACHABLE)
		ask("other", a.id)
		f.update(mesosv1.TaskState_TASK_UNREACHABLE)
		ask("other", "nobody")
		f.update(mesosv1.TaskState_TASK_UNKNOWN)
		b := c.agent("n1")
		defer b.conn.Close()
		b.id = a.id
		b.attach("n1", &agentwire.Held{ContainerId: run.GetContainerId(), State: int32(mesosv1.TaskState_TASK_RUNNING)})
		if st := f.update(mesosv1.TaskState_TASK_RUNNING); st.GetReason() != mesosv1.TaskStatus_REASON_AGENT_REREGISTERED {
			t.Errorf("%v", st)
		}
		ask("other", a.id)
		f.update(mesosv1.TaskState_TASK_GONE)
	})
}

func TestKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		kill := func(id string) {
			t.Helper()
			if err := f.do(&scheduler.Call{Type: scheduler.Call_KILL.Enum(), Kill: &scheduler.Call_Kill{TaskId: &mesosv1.TaskID{Value: proto.String(id)}}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.accept(f.offer(), "t1", 1); err != nil {
			t.Fatal(err)
		}
		run := until(a, (*agentwire.FromMaster).GetRun)
		kill("t1")
		if k := until(a, (*agentwire.FromMaster).GetKill); k.GetContainerId() != run.GetContainerId() || k.GetGraceNs() != -1 {
			t.Errorf("kill %v", k)
		}
		kill("nobody")
		f.update(mesosv1.TaskState_TASK_LOST) // reconciled: unknown, no partition awareness
		if err := f.do(&scheduler.Call{Type: scheduler.Call_TEARDOWN.Enum()}); err != nil {
			t.Fatal(err)
		}
		until(a, (*agentwire.FromMaster).GetKill)
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_KILLED)
		until(a, (*agentwire.FromMaster).GetForget)
	})
}

func TestDeclineAndSuppress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		began := time.Now()
		o := f.offer()
		if err := f.do(&scheduler.Call{Type: scheduler.Call_DECLINE.Enum(), Decline: &scheduler.Call_Decline{
			OfferIds: []*mesosv1.OfferID{o.GetId(), o.GetId()}, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(100)},
		}}); err != nil {
			t.Fatal(err)
		}
		o = f.offer()
		if waited := time.Since(began); waited < 100*time.Second || waited > 105*time.Second {
			t.Errorf("offered again after %s", waited)
		}
		for _, call := range []*scheduler.Call{
			{Type: scheduler.Call_SUPPRESS.Enum(), Suppress: &scheduler.Call_Suppress{}},
			{Type: scheduler.Call_DECLINE.Enum(), Decline: &scheduler.Call_Decline{OfferIds: []*mesosv1.OfferID{o.GetId()}}},
		} {
			if err := f.do(call); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Minute)
		select {
		case e := <-f.events:
			t.Errorf("suppressed, and got %v", e)
		default:
		}
		if err := f.do(&scheduler.Call{Type: scheduler.Call_REVIVE.Enum(), Revive: &scheduler.Call_Revive{}}); err != nil {
			t.Fatal(err)
		}
		f.offer()
	})
}
