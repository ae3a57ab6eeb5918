package client

import (
	"context"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// Accept uses offers of one agent: operations are carried out, the rest is declined for
// refuseSeconds.
func (c *Client) Accept(ctx context.Context, offers []*mesosv1.OfferID, operations []*mesosv1.Offer_Operation, refuseSeconds float64) error {
	return c.Call(ctx, &scheduler.Call{
		Type: scheduler.Call_ACCEPT.Enum(),
		Accept: &scheduler.Call_Accept{
			OfferIds: offers, Operations: operations, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(refuseSeconds)},
		},
	})
}

// Launch is the operation that starts tasks.
func Launch(tasks ...*mesosv1.TaskInfo) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{
		Type:   mesosv1.Offer_Operation_LAUNCH.Enum(),
		Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: tasks},
	}
}

// Decline gives offers back and asks for none of the same for refuseSeconds.
func (c *Client) Decline(ctx context.Context, offers []*mesosv1.OfferID, refuseSeconds float64) error {
	return c.Call(ctx, &scheduler.Call{
		Type:    scheduler.Call_DECLINE.Enum(),
		Decline: &scheduler.Call_Decline{OfferIds: offers, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(refuseSeconds)}},
	})
}

// Revive asks for offers again, whatever was declined before.
func (c *Client) Revive(ctx context.Context) error {
	return c.Call(ctx, &scheduler.Call{Type: scheduler.Call_REVIVE.Enum()})
}

// Suppress asks for no more offers.
func (c *Client) Suppress(ctx context.Context) error {
	return c.Call(ctx, &scheduler.Call{Type: scheduler.Call_SUPPRESS.Enum()})
}

// Kill ends a task; how it ended comes as an update.
func (c *Client) Kill(ctx context.Context, task *mesosv1.TaskID, agent *mesosv1.AgentID) error {
	return c.Call(ctx, &scheduler.Call{
		Type: scheduler.Call_KILL.Enum(),
		Kill: &scheduler.Call_Kill{TaskId: task, AgentId: agent},
	})
}

// Acknowledge says that an update was received; one without a uuid needs none.
func (c *Client) Acknowledge(ctx context.Context, s *mesosv1.TaskStatus) error {
	if len(s.GetUuid()) == 0 {
		return nil
	}
	return c.Call(ctx, &scheduler.Call{
		Type: scheduler.Call_ACKNOWLEDGE.Enum(),
		Acknowledge: &scheduler.Call_Acknowledge{
			AgentId: s.GetAgentId(), TaskId: s.GetTaskId(), Uuid: s.GetUuid(),
		},
	})
}

// Reconcile asks for the present state of tasks; of all of the framework's without any.
func (c *Client) Reconcile(ctx context.Context, tasks ...*scheduler.Call_Reconcile_Task) error {
	return c.Call(ctx, &scheduler.Call{
		Type:      scheduler.Call_RECONCILE.Enum(),
		Reconcile: &scheduler.Call_Reconcile{Tasks: tasks},
	})
}

// Teardown ends the framework and all of its tasks; its id can never be used again.
func (c *Client) Teardown(ctx context.Context) error {
	return c.Call(ctx, &scheduler.Call{Type: scheduler.Call_TEARDOWN.Enum()})
}
