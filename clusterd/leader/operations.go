package leader

import (
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/clusterd/streams"
	"google.golang.org/protobuf/proto"
)

// operationEvent words what became of an operation.
func operationEvent(op string, s mesosv1.OperationState, agent state.AgentID, message string) *streams.Event {
	st := &mesosv1.OperationStatus{OperationId: &mesosv1.OperationID{Value: proto.String(op)}, State: s.Enum()}
	if agent != "" {
		st.AgentId = &mesosv1.AgentID{Value: proto.String(string(agent))}
	}
	if message != "" {
		st.Message = proto.String(message)
	}
	return streams.NewEvent(&scheduler.Event{
		Type:                  scheduler.Event_UPDATE_OPERATION_STATUS.Enum(),
		UpdateOperationStatus: &scheduler.Event_UpdateOperationStatus{Status: st},
	})
}

// failOperation tells a framework of an operation that will not be carried out, if it
// gave it an id to be told by; otherwise the log alone says so, as in Mesos.
func (l *Leader) failOperation(f *framework, op *mesosv1.Offer_Operation, s mesosv1.OperationState, agent state.AgentID, why string) {
	l.log.Warn("operation not carried out", "framework", f.id, "operation", op.GetType().String(), "id", op.GetId().GetValue(), "why", why)
	if op.GetId() != nil {
		l.send(f, operationEvent(op.GetId().GetValue(), s, agent, why))
	}
}

// reconcileOperations answers for each operation that a framework names; of none it is
// said what became of it, so that no name means no answer.
func (l *Leader) reconcileOperations(f *framework, asked []*scheduler.Call_ReconcileOperations_Operation) {
	for _, op := range asked {
		id := state.AgentID(op.GetAgentId().GetValue())
		answer, why := mesosv1.OperationState_OPERATION_UNKNOWN, "Reconciliation: the operation is not known"
		l.cfg.Machine.View(func(s *state.State) {
			switch a, ok := s.Agent(id); {
			case !ok:
			case a.Unreachable:
				answer, why = mesosv1.OperationState_OPERATION_UNREACHABLE, "Reconciliation: the agent is unreachable"
			case l.recovered(a):
				answer, why = mesosv1.OperationState_OPERATION_RECOVERING, "Reconciliation: the agent has not come back to this leader yet"
			}
		})
		l.send(f, operationEvent(op.GetOperationId().GetValue(), answer, id, why))
	}
}
