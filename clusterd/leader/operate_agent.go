package leader

import (
	"context"
	"errors"
	"fmt"

	"github.com/mesolith/mesolith/clusterd/state"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
)

// ErrAgentUnknown: there is no agent of that id (any more).
var ErrAgentUnknown = errors.New("agent is not known")

// ActivateAgent says whether anything may be launched on an agent; nil: that is committed,
// and stays so over leaders. What is offered of an agent that is deactivated is taken back.
func (l *Leader) ActivateAgent(ctx context.Context, id state.AgentID, active bool) error {
	return l.ofAgent(ctx, state.ActivateAgent{ID: id, Active: active}, id, func() {
		if active {
			l.toAgent(id, &agentwire.FromMaster{Body: &agentwire.FromMaster_Drain{Drain: &agentwire.Drain{}}})
		} else {
			l.rescindAgent(id)
		}
		l.allocate = true
		l.log.Info("agent is used as an operator wants it", "agent", id, "active", active)
	})
}

// MarkAgentGone ends an agent for good: its tasks are gone by the operator's word, and a
// node that is there all the same ends what it runs and begins anew.
func (l *Leader) MarkAgentGone(ctx context.Context, id state.AgentID) error {
	return l.enter(ctx, func(answer func(error)) { l.endAgent(state.MarkAgentGone{ID: id}, id, answer) })
}

// ofAgent commits what an operator wants of one agent, and calls done then.
func (l *Leader) ofAgent(ctx context.Context, command state.Command, id state.AgentID, done func()) error {
	return l.enter(ctx, func(answer func(error)) {
		l.propose(command, func(_ state.Result, err error) {
			switch {
			case err == nil:
				done()
			case errors.Is(err, state.ErrAgentDraining):
				err = refusal{"Agent " + string(id) + " is still in the DRAINING state: its tasks are being ended", ErrInvalid}
			case isRefusal(err):
				err = fmt.Errorf("%w: %w", err, ErrAgentUnknown)
			}
			answer(err)
		})
	})
}
