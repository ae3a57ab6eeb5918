package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// Convert makes resources something else: reserves them, makes volumes of them, undoes
// that. It subscribes as a framework of its own, carries the operations out in one ACCEPT of
// the first offer that fits, and tears the framework down when the cluster has said of each
// that it was done; what was made stays. The framework of cfg needs the capability
// RESERVATION_REFINEMENT for operations that name reservations as stacks.
//
// An operation that was refused is an error with the cluster's sentence; those after it may
// have been refused for it, those before it stay.
func Convert(ctx context.Context, cfg Config, fits func(*mesosv1.Offer) bool, operations ...*mesosv1.Offer_Operation) (err error) {
	c, err := New(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() {
		end, stop := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer stop()
		if c.FrameworkID() != "" {
			err = errors.Join(err, c.Teardown(end))
		}
	}()
	v := &conversion{c: c, fits: fits, open: map[string]bool{}, over: make(chan error, 1)}
	for i, op := range operations {
		op, _ = proto.Clone(op).(*mesosv1.Offer_Operation)
		id := strconv.Itoa(i + 1)
		op.Id = &mesosv1.OperationID{Value: &id}
		v.operations, v.open[id] = append(v.operations, op), true
	}
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx, v.handle) }()
	select {
	case err := <-v.over: // the stream stays open for the call that tears down
		return err
	case err := <-ran:
		return fmt.Errorf("convert resources: %w", err)
	}
}

type conversion struct {
	c          *Client
	fits       func(*mesosv1.Offer) bool
	operations []*mesosv1.Offer_Operation
	sent       bool
	open       map[string]bool // operations that nothing is known of
	over       chan error      // bound 1
}

func (v *conversion) handle(ctx context.Context, e *scheduler.Event) error {
	switch e.GetType() {
	case scheduler.Event_SUBSCRIBED:
		if !v.sent {
			return nil
		}
		ask := &scheduler.Call_ReconcileOperations{} // the ACCEPT may have been lost with the stream
		for id := range v.open {
			ask.Operations = append(ask.Operations, &scheduler.Call_ReconcileOperations_Operation{OperationId: &mesosv1.OperationID{Value: &id}})
		}
		return v.c.Call(ctx, &scheduler.Call{Type: scheduler.Call_RECONCILE_OPERATIONS.Enum(), ReconcileOperations: ask})
	case scheduler.Event_OFFERS:
		return v.offers(ctx, e.GetOffers().GetOffers())
	case scheduler.Event_UPDATE_OPERATION_STATUS:
		return v.status(ctx, e.GetUpdateOperationStatus().GetStatus())
	}
	return nil
}

func (v *conversion) offers(ctx context.Context, offers []*mesosv1.Offer) error {
	for _, o := range offers {
		ids := []*mesosv1.OfferID{o.GetId()}
		if v.sent || !v.fits(o) {
			if err := v.c.Decline(ctx, ids, 1); err != nil {
				return err
			}
			continue
		}
		v.sent = true
		if err := v.c.Accept(ctx, ids, v.left(), 0); err != nil {
			return err
		}
	}
	return nil
}

// left are the operations of which nobody knows that they were done.
func (v *conversion) left() (out []*mesosv1.Offer_Operation) {
	for _, op := range v.operations {
		if v.open[op.GetId().GetValue()] {
			out = append(out, op)
		}
	}
	return out
}

func (v *conversion) status(ctx context.Context, st *mesosv1.OperationStatus) error {
	id := st.GetOperationId().GetValue()
	if len(st.GetUuid().GetValue()) > 0 {
		if err := v.c.Call(ctx, &scheduler.Call{
			Type: scheduler.Call_ACKNOWLEDGE_OPERATION_STATUS.Enum(),
			AcknowledgeOperationStatus: &scheduler.Call_AcknowledgeOperationStatus{
				AgentId: st.GetAgentId(), Uuid: st.GetUuid().GetValue(), OperationId: st.GetOperationId(),
			},
		}); err != nil {
			return err
		}
	}
	switch st.GetState() {
	case mesosv1.OperationState_OPERATION_FINISHED:
		if delete(v.open, id); len(v.open) == 0 {
			v.end(nil)
		}
	case mesosv1.OperationState_OPERATION_DROPPED, mesosv1.OperationState_OPERATION_UNKNOWN: // another offer comes
		v.sent = false
	default:
		v.end(fmt.Errorf("operation %s (%s): %s: %s", id, v.kind(id), st.GetState(), st.GetMessage()))
	}
	return nil
}

func (v *conversion) end(err error) {
	select {
	case v.over <- err:
	default:
	}
}

// kind is what an operation of an id is.
func (v *conversion) kind(id string) mesosv1.Offer_Operation_Type {
	for _, op := range v.operations {
		if op.GetId().GetValue() == id {
			return op.GetType()
		}
	}
	return mesosv1.Offer_Operation_UNKNOWN
}
