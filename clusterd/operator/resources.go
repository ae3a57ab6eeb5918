package operator

import (
	"errors"
	"net/http"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/state"
)

// converting is what a call makes of an agent's resources; nil: it is another call.
func converting(c *master.Call) (agent string, op *mesosv1.Offer_Operation) {
	switch {
	case c.ReserveResources != nil:
		return c.GetReserveResources().GetAgentId().GetValue(), &mesosv1.Offer_Operation{
			Type:    mesosv1.Offer_Operation_RESERVE.Enum(),
			Reserve: &mesosv1.Offer_Operation_Reserve{Resources: c.GetReserveResources().GetResources(), Source: c.GetReserveResources().GetSource()},
		}
	case c.UnreserveResources != nil:
		return c.GetUnreserveResources().GetAgentId().GetValue(), Unreserve(c.GetUnreserveResources().GetResources())
	case c.CreateVolumes != nil:
		return c.GetCreateVolumes().GetAgentId().GetValue(), CreateVolumes(c.GetCreateVolumes().GetVolumes())
	case c.DestroyVolumes != nil:
		return c.GetDestroyVolumes().GetAgentId().GetValue(), DestroyVolumes(c.GetDestroyVolumes().GetVolumes())
	case c.GrowVolume != nil:
		return c.GetGrowVolume().GetAgentId().GetValue(), &mesosv1.Offer_Operation{
			Type:       mesosv1.Offer_Operation_GROW_VOLUME.Enum(),
			GrowVolume: &mesosv1.Offer_Operation_GrowVolume{Volume: c.GetGrowVolume().GetVolume(), Addition: c.GetGrowVolume().GetAddition()},
		}
	case c.ShrinkVolume != nil:
		return c.GetShrinkVolume().GetAgentId().GetValue(), &mesosv1.Offer_Operation{
			Type:         mesosv1.Offer_Operation_SHRINK_VOLUME.Enum(),
			ShrinkVolume: &mesosv1.Offer_Operation_ShrinkVolume{Volume: c.GetShrinkVolume().GetVolume(), Subtract: c.GetShrinkVolume().GetSubtract()},
		}
	}
	return "", nil
}

// Reserve, Unreserve, CreateVolumes and DestroyVolumes word what is asked of resources as a
// framework would.
func Reserve(list []*mesosv1.Resource) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_RESERVE.Enum(), Reserve: &mesosv1.Offer_Operation_Reserve{Resources: list}}
}

// Unreserve: see Reserve.
func Unreserve(list []*mesosv1.Resource) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_UNRESERVE.Enum(), Unreserve: &mesosv1.Offer_Operation_Unreserve{Resources: list}}
}

// CreateVolumes: see Reserve.
func CreateVolumes(list []*mesosv1.Resource) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_CREATE.Enum(), Create: &mesosv1.Offer_Operation_Create{Volumes: list}}
}

// DestroyVolumes: see Reserve.
func DestroyVolumes(list []*mesosv1.Resource) *mesosv1.Offer_Operation {
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_DESTROY.Enum(), Destroy: &mesosv1.Offer_Operation_Destroy{Volumes: list}}
}

// convert answers a call that makes resources of an agent something else: 202 once that is
// in the log.
func (h *handler) convert(c *call) (*master.Response, error) {
	agent, op := converting(c.Call)
	if err := c.leader.ConvertResources(c.Context(), c.from.Name, state.AgentID(agent), op); err != nil {
		return nil, Conversion(err)
	}
	return nil, accepted{}
}

// accepted is no error: the answer is 202.
type accepted struct{}

func (accepted) Error() string { return "accepted" }

// Conversion gives what came out of a conversion its status and its sentence.
func Conversion(err error) error {
	if errors.Is(err, leader.ErrAgentUnknown) {
		return refusal{http.StatusBadRequest, "No agent found with specified ID"}
	}
	return refused(err)
}

// operations are those that were carried out and that their frameworks have not acknowledged.
func (h *handler) operations(c *call) (*master.Response, error) {
	p, err := h.collect(c, Want{}) // that this master leads is sure then
	if err != nil {
		return nil, err
	}
	out, e := &master.Response_GetOperations{}, eyes{auth.JudgeOf(c.Context()), p.users}
	h.Machine.View(func(s *state.State) {
		for _, o := range s.AllOperations() {
			st := leader.OperationStatus(o)
			w := &mesosv1.Operation{
				FrameworkId: &mesosv1.FrameworkID{Value: proto.String(string(o.Framework))}, AgentId: &mesosv1.AgentID{Value: proto.String(string(o.Agent))},
				Info: &mesosv1.Offer_Operation{}, LatestStatus: st, Statuses: []*mesosv1.OperationStatus{st}, Uuid: &mesosv1.UUID{Value: o.UUID},
			}
			if (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(o.Info, w.Info) == nil && e.operation(w) {
				out.Operations = append(out.Operations, w)
			}
		}
	})
	return &master.Response{Type: master.Response_GET_OPERATIONS.Enum(), GetOperations: out}, nil
}
