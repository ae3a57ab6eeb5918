package operator

import (
	"errors"
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/state"
)

// What operators want of whole agents: that they are used or not, drained, gone.

func (h *handler) deactivateAgent(c *call) (*master.Response, error) {
	return nil, unknownAgent(c.leader.ActivateAgent(c.Context(), state.AgentID(c.Call.GetDeactivateAgent().GetAgentId().GetValue()), false), http.StatusBadRequest)
}

func (h *handler) reactivateAgent(c *call) (*master.Response, error) {
	return nil, unknownAgent(c.leader.ActivateAgent(c.Context(), state.AgentID(c.Call.GetReactivateAgent().GetAgentId().GetValue()), true), http.StatusBadRequest)
}

func (h *handler) markAgentGone(c *call) (*master.Response, error) {
	return nil, unknownAgent(c.leader.MarkAgentGone(c.Context(), state.AgentID(c.Call.GetMarkAgentGone().GetAgentId().GetValue())), http.StatusNotFound)
}

// unknownAgent gives a call about an agent that is not there its status.
func unknownAgent(err error, status int) error {
	if errors.Is(err, leader.ErrAgentUnknown) {
		return refusal{status, "Agent is not known: " + err.Error()}
	}
	return refused(err)
}

// longestDrain bounds the grace of a drain.
const longestDrain = 365 * 24 * time.Hour

func (h *handler) drainAgent(c *call) (*master.Response, error) {
	d := c.Call.GetDrainAgent()
	grace := time.Duration(-1)
	if d.MaxGracePeriod != nil {
		if grace = d.GetMaxGracePeriod().AsDuration(); grace < 0 || grace > longestDrain || d.GetMaxGracePeriod().CheckValid() != nil {
			return nil, refusal{http.StatusBadRequest, "'drain_agent.max_grace_period' is not a length of time between nothing and a year"}
		}
	}
	return nil, unknownAgent(c.leader.DrainAgent(c.Context(), state.AgentID(d.GetAgentId().GetValue()), grace, d.GetMarkGone()), http.StatusBadRequest)
}

// DrainConfig words what an operator asked of an agent; a grace below nothing is none.
func DrainConfig(grace time.Duration, gone bool) *mesosv1.DrainConfig {
	out := &mesosv1.DrainConfig{MarkGone: proto.Bool(gone)}
	if grace >= 0 {
		out.MaxGracePeriod = &mesosv1.DurationInfo{Nanoseconds: proto.Int64(int64(grace))}
	}
	return out
}

// drainInfo says how far the draining of an agent has come.
func drainInfo(a *agentRow) (*mesosv1.DrainInfo, *mesosv1.TimeInfo) {
	if a.Drain == nil {
		return nil, nil
	}
	at := mesosv1.DrainState_DRAINING
	if a.drained {
		at = mesosv1.DrainState_DRAINED
	}
	return &mesosv1.DrainInfo{State: at.Enum(), Config: DrainConfig(time.Duration(a.Drain.Grace), a.Drain.Gone)}, timeInfo(a.Drain.BeganNS)
}
