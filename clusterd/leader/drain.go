package leader

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mesolith/mesolith/clusterd/state"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
)

// DrainAgent has all tasks of an agent ended, each within its own grace and at most the
// one that is given (<0: no bound), and nothing launched there any more. nil: that is
// committed, and stays so over leaders; gone: the agent is marked gone when all have ended.
func (l *Leader) DrainAgent(ctx context.Context, id state.AgentID, grace time.Duration, gone bool) error {
	return l.ofAgent(ctx, state.DrainAgent{ID: id, Grace: int64(grace), Gone: gone}, id, func() {
		l.log.Warn("agent is drained, as an operator wants it", "agent", id, "max_grace", grace, "mark_gone", gone)
		l.rescindAgent(id)
		l.sendDrain(id)
	})
}

// sendDrain tells an agent that it is drained, if it is.
func (l *Leader) sendDrain(id state.AgentID) {
	var d *agentwire.Drain
	l.cfg.Machine.View(func(s *state.State) {
		if a, ok := s.Agent(id); ok && a.Drain != nil {
			d = &agentwire.Drain{On: true, MaxGraceNs: a.Drain.Grace, MarkGone: a.Drain.Gone, BeganUnixNs: a.Drain.BeganNS}
		}
	})
	if d != nil {
		l.toAgent(id, &agentwire.FromMaster{Body: &agentwire.FromMaster_Drain{Drain: d}})
	}
}

// finishDrains marks agents gone that are to be when nothing is left on them.
func (l *Leader) finishDrains() {
	var empty []state.AgentID
	l.cfg.Machine.View(func(s *state.State) {
		for a := range s.Agents() {
			if a.Drain != nil && a.Drain.Gone && !l.ending[a.ID] && s.Drained(a) {
				empty = append(empty, a.ID)
			}
		}
	})
	for _, id := range empty {
		l.ending[id] = true
		l.endAgent(state.EndDrained{ID: id}, id, func(err error) {
			delete(l.ending, id)
			if err != nil && !errors.Is(err, ErrNotLeader) && !errors.Is(err, state.ErrAgentDraining) {
				l.log.Error("a drained agent was not marked gone", "agent", id, "error", err)
			}
		})
	}
}

// endAgent marks an agent gone; then is called in the loop.
func (l *Leader) endAgent(command state.Command, id state.AgentID, then func(error)) {
	a := l.agents[id]
	l.propose(command, func(_ state.Result, err error) {
		switch {
		case err == nil:
			l.log.Warn("agent was marked gone", "agent", id)
			if a != nil && !a.away {
				a.conn.send(l.Height(), l.cfg.Term, &agentwire.FromMaster{Body: &agentwire.FromMaster_Shutdown{Shutdown: &agentwire.Shutdown{
					Reason: "an operator marked agent " + string(id) + " gone",
				}}})
			}
		case isRefusal(err):
			err = fmt.Errorf("%w: %w", err, ErrAgentUnknown)
		}
		then(err)
	})
}
