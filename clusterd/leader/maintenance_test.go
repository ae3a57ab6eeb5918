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

// Who holds something of a machine that will be away is asked for it, once at a time; the
// answer is kept over leaders, offers say when the machine will be away, and down it is gone.
func TestMaintenance(t *testing.T) {
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
		if o := f.offer(); o.Unavailability != nil {
			t.Errorf("nothing is planned, and offered is %v", o)
		}
		machine := []state.MachineID{{Hostname: "n1"}}
		plan := func(start int64) {
			t.Helper()
			if err := c.l.UpdateSchedule(t.Context(), []state.Window{{Machines: machine, StartNS: start, Duration: 60e9}}); err != nil {
				t.Fatal(err)
			}
		}
		asked := func(start int64) *mesosv1.InverseOffer {
			t.Helper()
			list := f.next(scheduler.Event_INVERSE_OFFERS).GetInverseOffers().GetInverseOffers()
			u := list[0].GetUnavailability()
			if len(list) != 1 || list[0].GetAgentId().GetValue() != a.id || u.GetStart().GetNanoseconds() != start || u.GetDuration().GetNanoseconds() != 60e9 {
				t.Fatalf("asked for %v", list)
			}
			return list[0]
		}
		plan(100)
		f.next(scheduler.Event_RESCIND)
		first := asked(100)
		if o := f.offer(); o.GetUnavailability().GetStart().GetNanoseconds() != 100 {
			t.Errorf("offered is %v", o)
		}
		plan(200)
		if got := f.next(scheduler.Event_RESCIND_INVERSE_OFFER).GetRescindInverseOffer().GetInverseOfferId().GetValue(); got != first.GetId().GetValue() {
			t.Errorf("taken back is %s", got)
		}
		second := asked(200)
		if second.GetId().GetValue() == first.GetId().GetValue() {
			t.Error("two inverse offers of one id")
		}
		said := func(want bool) {
			t.Helper()
			synctest.Wait()
			c.m.View(func(s *state.State) {
				if got, ok := s.InverseAnswer(state.AgentID(a.id), state.FrameworkID(f.id)); !ok || got.Accept != want {
					t.Errorf("its answer is %v %v", got, ok)
				}
			})
		}
		if err := f.do(&scheduler.Call{Type: scheduler.Call_DECLINE_INVERSE_OFFERS.Enum(), DeclineInverseOffers: &scheduler.Call_DeclineInverseOffers{
			InverseOfferIds: []*mesosv1.OfferID{second.GetId(), first.GetId(), {Value: proto.String("none")}}, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(60)},
		}}); err != nil {
			t.Fatal(err)
		}
		said(false)
		began := time.Now()
		third := asked(200)
		if took := time.Since(began); took < 55*time.Second {
			t.Errorf("asked again after %s", took)
		}
		if err := f.do(&scheduler.Call{Type: scheduler.Call_ACCEPT_INVERSE_OFFERS.Enum(), AcceptInverseOffers: &scheduler.Call_AcceptInverseOffers{
			InverseOfferIds: []*mesosv1.OfferID{third.GetId()}, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(1e6)},
		}}); err != nil {
			t.Fatal(err)
		}
		said(true)
		plan(300) // another question, whatever the filter of the last answer
		asked(300)
		plan(200)
		again := asked(200)
		if err := f.do(&scheduler.Call{Type: scheduler.Call_ACCEPT_INVERSE_OFFERS.Enum(), AcceptInverseOffers: &scheduler.Call_AcceptInverseOffers{
			InverseOfferIds: []*mesosv1.OfferID{again.GetId()}, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(1e6)},
		}}); err != nil {
			t.Fatal(err)
		}
		said(true)
		if err := f.do(&scheduler.Call{Type: scheduler.Call_REVIVE.Enum()}); err != nil {
			t.Fatal(err)
		}
		asked(200)
		id := f.id
		c.end()
		c.lead()
		defer c.end()
		f = c.subscribe("f", id)
		f.next(scheduler.Event_SUBSCRIBED)
		a.attach("n1", &agentwire.Held{ContainerId: run.GetContainerId(), State: int32(mesosv1.TaskState_TASK_RUNNING)})
		asked(200) // a filter is one term's
		said(true)
		for _, bad := range []error{
			c.l.StartMaintenance(t.Context(), []state.MachineID{{Hostname: "other"}}),
			c.l.StopMaintenance(t.Context(), machine),
			c.l.UpdateSchedule(t.Context(), []state.Window{{}}),
		} {
			if !errors.Is(bad, ErrInvalid) {
				t.Error(bad)
			}
		}
		if err := c.l.StartMaintenance(t.Context(), machine); err != nil {
			t.Fatal(err)
		}
		until(a, (*agentwire.FromMaster).GetShutdown)
		if st := f.update(mesosv1.TaskState_TASK_LOST); st.GetMessage() != "Operator initiated 'Machine DOWN'" {
			t.Errorf("%v", st)
		}
		a.id = ""
		a.sendAttach("n1")
		if r := until(a, (*agentwire.FromMaster).GetRefused); r.GetRemoved() || r.GetReason() != "machine n1: machine is down for maintenance" {
			t.Errorf("refused: %v", r)
		}
		if err := c.l.StopMaintenance(t.Context(), machine); err != nil {
			t.Fatal(err)
		}
		a.sendAttach("n1")
		a.id = until(a, (*agentwire.FromMaster).GetAttached).GetAgentId()
		o := f.offer()
		for o.GetAgentId().GetValue() != a.id { // of before
			o = f.offer()
		}
		if o.Unavailability != nil {
			t.Errorf("after it, offered is %v", o)
		}
		a.conn.Close()
	})
}

// A plan for another machine asks nobody again who has answered, although nothing of the
// agent was offered since its own window was changed.
func TestMaintenanceOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		f.launch(f.offer(), "t", nil)
		run := until(a, (*agentwire.FromMaster).GetRun)
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_RUNNING)
		f.ack(f.update(mesosv1.TaskState_TASK_RUNNING))
		never := &mesosv1.Filters{RefuseSeconds: proto.Float64(1e6)}
		if err := f.do(&scheduler.Call{Type: scheduler.Call_DECLINE.Enum(), Decline: &scheduler.Call_Decline{OfferIds: []*mesosv1.OfferID{f.offer().GetId()}, Filters: never}}); err != nil {
			t.Fatal(err)
		}
		plan := func(windows ...state.Window) {
			t.Helper()
			if err := c.l.UpdateSchedule(t.Context(), windows); err != nil {
				t.Fatal(err)
			}
		}
		window := func(host string, start int64) state.Window {
			return state.Window{Machines: []state.MachineID{{Hostname: host}}, StartNS: start, Duration: 60e9}
		}
		plan(window("n1", 100))
		id := f.next(scheduler.Event_INVERSE_OFFERS).GetInverseOffers().GetInverseOffers()[0].GetId()
		if err := f.do(&scheduler.Call{Type: scheduler.Call_ACCEPT_INVERSE_OFFERS.Enum(), AcceptInverseOffers: &scheduler.Call_AcceptInverseOffers{InverseOfferIds: []*mesosv1.OfferID{id}, Filters: never}}); err != nil {
			t.Fatal(err)
		}
		plan(window("n1", 100), window("other", 500))
		time.Sleep(time.Minute) // of the bubble's clock: many rounds
		plan(window("n1", 900), window("other", 500))
		asked := f.next(scheduler.Event_INVERSE_OFFERS).GetInverseOffers().GetInverseOffers()
		if start := asked[0].GetUnavailability().GetStart().GetNanoseconds(); start != 900 {
			t.Errorf("asked again for the window at %d", start)
		}
		a.conn.Close()
	})
}
