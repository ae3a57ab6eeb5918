package leader

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"google.golang.org/protobuf/proto"
)

func operationID(id string) *mesosv1.OperationID {
	return &mesosv1.OperationID{Value: proto.String(id)}
}

// What cannot be carried out is told to who named it, and what is not known is not passed
// over in silence.
func TestOperationsThatNobodyKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		a, gone := c.agent("n1"), c.agent("n2")
		defer a.conn.Close()
		a.attach("n1")
		gone.attach("n2")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		status := func() *mesosv1.OperationStatus {
			return f.next(scheduler.Event_UPDATE_OPERATION_STATUS).GetUpdateOperationStatus().GetStatus()
		}
		reserve := func(offer string) error {
			return f.do(&scheduler.Call{Type: scheduler.Call_ACCEPT.Enum(), Accept: &scheduler.Call_Accept{
				OfferIds:   []*mesosv1.OfferID{{Value: proto.String(offer)}},
				Operations: []*mesosv1.Offer_Operation{{Type: mesosv1.Offer_Operation_RESERVE.Enum(), Id: operationID("mine"), Reserve: &mesosv1.Offer_Operation_Reserve{}}},
			}})
		}
		if err := reserve(f.offer().GetId().GetValue()); err != nil {
			t.Fatal(err)
		}
		if st := status(); st.GetState() != mesosv1.OperationState_OPERATION_ERROR || st.GetOperationId().GetValue() != "mine" || !strings.Contains(st.GetMessage(), "the operation names no resources") {
			t.Errorf("%v", st)
		}
		if err := reserve("no offer"); err != nil {
			t.Fatal(err)
		}
		if st := status(); st.GetState() != mesosv1.OperationState_OPERATION_DROPPED || st.GetOperationId().GetValue() != "mine" {
			t.Errorf("%v", st)
		}

		gone.conn.Close()
		time.Sleep(time.Minute) // longer than an agent may be silent
		id, unreachable := f.id, gone.id
		ask := func(agent string) mesosv1.OperationState {
			t.Helper()
			op := &scheduler.Call_ReconcileOperations_Operation{OperationId: operationID("x")}
			if agent != "" {
				op.AgentId = &mesosv1.AgentID{Value: proto.String(agent)}
			}
			if err := f.do(&scheduler.Call{Type: scheduler.Call_RECONCILE_OPERATIONS.Enum(), ReconcileOperations: &scheduler.Call_ReconcileOperations{
				Operations: []*scheduler.Call_ReconcileOperations_Operation{op},
			}}); err != nil {
				t.Fatal(err)
			}
			st := status()
			if st.GetOperationId().GetValue() != "x" || st.GetAgentId().GetValue() != agent || st.GetUuid() != nil {
				t.Errorf("%v", st)
			}
			return st.GetState()
		}
		for agent, want := range map[string]mesosv1.OperationState{
			"": mesosv1.OperationState_OPERATION_UNKNOWN, "never seen": mesosv1.OperationState_OPERATION_UNKNOWN,
			a.id: mesosv1.OperationState_OPERATION_UNKNOWN, unreachable: mesosv1.OperationState_OPERATION_UNREACHABLE,
		} {
			if got := ask(agent); got != want {
				t.Errorf("agent %q: %s, want %s", agent, got, want)
			}
		}
		c.end()
		c.lead()
		defer c.end()
		f = c.subscribe("f", id)
		f.next(scheduler.Event_SUBSCRIBED)
		if got := ask(a.id); got != mesosv1.OperationState_OPERATION_RECOVERING {
			t.Errorf("of an agent that has not come back yet: %s", got)
		}
	})
}
