package leader

import (
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/clusterd/streams"
	"google.golang.org/protobuf/proto"
)

// operationKey names an operation as its framework does.
type operationKey struct {
	framework state.FrameworkID
	operation state.OperationID
}

// operationStatus words what became of an operation.
func operationStatus(op state.OperationID, s mesosv1.OperationState, agent state.AgentID, message string) *mesosv1.OperationStatus {
	st := &mesosv1.OperationStatus{OperationId: &mesosv1.OperationID{Value: proto.String(string(op))}, State: s.Enum()}
	if agent != "" {
		st.AgentId = &mesosv1.AgentID{Value: proto.String(string(agent))}
	}
	if message != "" {
		st.Message = proto.String(message)
	}
	return st
}

func operationEvent(st *mesosv1.OperationStatus) *streams.Event {
	return streams.NewEvent(&scheduler.Event{
		Type:                  scheduler.Event_UPDATE_OPERATION_STATUS.Enum(),
		UpdateOperationStatus: &scheduler.Event_UpdateOperationStatus{Status: st},
	})
}

// OperationStatus is what is to be said of an operation that was carried out.
func OperationStatus(o *state.Operation) *mesosv1.OperationStatus {
	st := operationStatus(o.ID, mesosv1.OperationState_OPERATION_FINISHED, o.Agent, "")
	st.Uuid = &mesosv1.UUID{Value: o.UUID}
	return st
}

// failOperation tells a framework of an operation that will not be carried out, if it
// gave it an id to be told by; otherwise the log alone says so, as in Mesos.
func (l *Leader) failOperation(f *framework, op *mesosv1.Offer_Operation, s mesosv1.OperationState, agent state.AgentID, why string) {
	l.log.Warn("operation not carried out", "framework", f.id, "operation", op.GetType().String(), "id", op.GetId().GetValue(), "why", why)
	if op.GetId() != nil {
		l.send(f, operationEvent(operationStatus(state.OperationID(op.GetId().GetValue()), s, agent, why)))
	}
}

// tellOperation says that an operation was carried out, until its framework acknowledges it.
func (l *Leader) tellOperation(key operationKey, pause time.Duration) {
	var st *mesosv1.OperationStatus
	l.cfg.Machine.View(func(s *state.State) {
		if o, ok := s.Operation(key.framework, key.operation); ok {
			st = OperationStatus(o)
		}
	})
	f := l.frameworks[key.framework]
	if st == nil || f == nil {
		delete(l.operations, key)
		return
	}
	l.operations[key] = &retry{at: time.Now().Add(pause), pause: pause}
	l.send(f, operationEvent(st))
}

func (l *Leader) retryOperations(now time.Time) {
	for key, r := range l.operations {
		if now.After(r.at) {
			l.tellOperation(key, min(2*r.pause, retryMost))
		}
	}
}

// resendOperations tells a framework that came back all that it has not acknowledged.
func (l *Leader) resendOperations(f *framework) {
	for _, id := range l.openOperations(f) {
		l.tellOperation(operationKey{f.id, id}, retryFirst)
	}
}

func (l *Leader) openOperations(f *framework) (open []state.OperationID) {
	l.cfg.Machine.View(func(s *state.State) {
		for _, o := range s.Operations(f.id) {
			open = append(open, o.ID)
		}
	})
	return open
}

// acknowledgeOperation takes a framework's word that it knows of an operation.
func (l *Leader) acknowledgeOperation(f *framework, a *scheduler.Call_AcknowledgeOperationStatus) {
	id := state.OperationID(a.GetOperationId().GetValue())
	l.propose(state.AcknowledgeOperation{Framework: f.id, ID: id, UUID: append([]byte(nil), a.GetUuid()...)}, func(_ state.Result, err error) {
		if err != nil {
			l.count("master/invalid_operation_status_update_acknowledgements")
			return
		}
		l.count("master/valid_operation_status_update_acknowledgements")
		delete(l.operations, operationKey{f.id, id})
	})
}

// reconcileOperations answers for each operation that a framework names, or for all that
// are known: those that it has not acknowledged.
func (l *Leader) reconcileOperations(f *framework, asked []*scheduler.Call_ReconcileOperations_Operation) {
	if len(asked) == 0 {
		for _, id := range l.openOperations(f) {
			l.explainOperation(f, id, "")
		}
		return
	}
	for _, op := range asked {
		l.explainOperation(f, state.OperationID(op.GetOperationId().GetValue()), state.AgentID(op.GetAgentId().GetValue()))
	}
}

// loseOperation answers an operation of an ACCEPT that came to nothing. One that the state
// holds, or is about to, came with the same call sent before: it is told as it is, or will be.
func (l *Leader) loseOperation(f *framework, op *mesosv1.Offer_Operation, why string) {
	key := operationKey{f.id, state.OperationID(op.GetId().GetValue())}
	if op.GetId() != nil && l.operationUsed(key) {
		if _, busy := l.converting[key]; !busy {
			l.tellOperation(key, retryFirst)
		}
		return
	}
	l.failOperation(f, op, mesosv1.OperationState_OPERATION_DROPPED, "", why)
}

func (l *Leader) explainOperation(f *framework, id state.OperationID, agent state.AgentID) {
	key := operationKey{f.id, id}
	if waiting, busy := l.converting[key]; busy {
		l.converting[key] = append(waiting, func() { l.explainOperation(f, id, agent) })
		return
	}
	st := operationStatus(id, mesosv1.OperationState_OPERATION_UNKNOWN, agent, "Reconciliation: the operation is not known")
	l.cfg.Machine.View(func(s *state.State) {
		if o, ok := s.Operation(f.id, id); ok {
			st = OperationStatus(o)
			st.Uuid = nil // an answer is nothing to acknowledge
			return
		}
		switch a, ok := s.Agent(agent); {
		case !ok:
		case a.Unreachable:
			st = operationStatus(id, mesosv1.OperationState_OPERATION_UNREACHABLE, agent, "Reconciliation: the agent is unreachable")
		case l.recovered(a):
			st = operationStatus(id, mesosv1.OperationState_OPERATION_RECOVERING, agent, "Reconciliation: the agent has not come back to this leader yet")
		}
	})
	l.send(f, operationEvent(st))
}
