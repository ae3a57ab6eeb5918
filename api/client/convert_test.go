package client

import (
	"strings"
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

func operationUpdate(id string, state mesosv1.OperationState, uuid, message string) *scheduler.Event {
	st := &mesosv1.OperationStatus{OperationId: &mesosv1.OperationID{Value: &id}, State: state.Enum(), Message: &message}
	if uuid != "" {
		st.Uuid = &mesosv1.UUID{Value: []byte(uuid)}
	}
	return &scheduler.Event{Type: scheduler.Event_UPDATE_OPERATION_STATUS.Enum(), UpdateOperationStatus: &scheduler.Event_UpdateOperationStatus{Status: st}}
}

// converting has two operations carried out on offers with two CPUs at least.
func converting(t *testing.T, m *master) (ended <-chan error) {
	t.Helper()
	over := make(chan error, 1)
	go func() {
		over <- Convert(t.Context(), Config{Masters: []string{m.URL}, Framework: framework()}, func(o *mesosv1.Offer) bool {
			return o.GetResources()[0].GetScalar().GetValue() >= 2
		}, &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_RESERVE.Enum(), Reserve: &mesosv1.Offer_Operation_Reserve{}},
			&mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_CREATE.Enum(), Create: &mesosv1.Offer_Operation_Create{}})
	}()
	m.expect(scheduler.Call_SUBSCRIBE)
	return over
}

// accepted are the ids of the operations of the next call, which is an ACCEPT.
func accepted(m *master) string {
	m.t.Helper()
	var ids []string
	for _, op := range m.expect(scheduler.Call_ACCEPT).GetAccept().GetOperations() {
		ids = append(ids, op.GetId().GetValue())
	}
	return strings.Join(ids, " ")
}

// What was done is acknowledged and not asked for again, what was dropped is tried on the
// next offer, and the framework is torn down at the end.
func TestConvertTriesAgainWhatWasDropped(t *testing.T) {
	m := newMaster(t, false)
	ended := converting(t, m)
	m.events <- offer("small", 1, 64)
	m.expect(scheduler.Call_DECLINE)
	m.events <- offer("o1", 2, 64)
	if got := accepted(m); got != "1 2" {
		t.Errorf("carried out are %s", got)
	}
	m.events <- offer("o2", 2, 64) // while it is not known what became of them
	m.expect(scheduler.Call_DECLINE)
	m.events <- operationUpdate("1", mesosv1.OperationState_OPERATION_FINISHED, "u1", "")
	if a := m.expect(scheduler.Call_ACKNOWLEDGE_OPERATION_STATUS).GetAcknowledgeOperationStatus(); a.GetOperationId().GetValue() != "1" || string(a.GetUuid()) != "u1" {
		t.Errorf("acknowledged %v", a)
	}
	m.events <- operationUpdate("2", mesosv1.OperationState_OPERATION_DROPPED, "", "the agent is unreachable")
	m.events <- offer("o3", 2, 64)
	if got := accepted(m); got != "2" {
		t.Errorf("tried again are %s", got)
	}
	m.events <- operationUpdate("2", mesosv1.OperationState_OPERATION_FINISHED, "u2", "")
	m.expect(scheduler.Call_ACKNOWLEDGE_OPERATION_STATUS)
	m.expect(scheduler.Call_TEARDOWN)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A lost stream may have taken the ACCEPT with it: what became of the operations is asked,
// and those that nobody knows of are tried again.
func TestConvertAsksAfterALostStream(t *testing.T) {
	m := newMaster(t, false)
	ended := converting(t, m)
	m.events <- offer("o1", 2, 64)
	accepted(m)
	m.events <- nil
	m.expect(scheduler.Call_SUBSCRIBE)
	if asked := m.expect(scheduler.Call_RECONCILE_OPERATIONS).GetReconcileOperations().GetOperations(); len(asked) != 2 {
		t.Errorf("asked for %v", asked)
	}
	m.events <- operationUpdate("1", mesosv1.OperationState_OPERATION_UNKNOWN, "", "")
	m.events <- operationUpdate("2", mesosv1.OperationState_OPERATION_UNKNOWN, "", "")
	m.events <- offer("o2", 2, 64)
	if got := accepted(m); got != "1 2" {
		t.Errorf("tried again are %s", got)
	}
	for _, id := range []string{"1", "2"} {
		m.events <- operationUpdate(id, mesosv1.OperationState_OPERATION_FINISHED, "u"+id, "")
		m.expect(scheduler.Call_ACKNOWLEDGE_OPERATION_STATUS)
	}
	m.expect(scheduler.Call_TEARDOWN)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A refusal is an error with the cluster's sentence and the operation's kind.
func TestConvertTellsARefusal(t *testing.T) {
	m := newMaster(t, false)
	ended := converting(t, m)
	m.events <- offer("o1", 2, 64)
	accepted(m)
	m.events <- operationUpdate("1", mesosv1.OperationState_OPERATION_ERROR, "", "invalid RESERVE operation: role x is not known")
	m.expect(scheduler.Call_TEARDOWN)
	err := <-ended
	if err == nil {
		t.Fatal("a refused operation is no error")
	}
	for _, want := range []string{"operation 1 (RESERVE)", "OPERATION_ERROR", "role x is not known"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}
