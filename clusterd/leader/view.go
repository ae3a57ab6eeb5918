package leader

import (
	"context"
	"maps"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/offers"
	"github.com/mesolith/mesolith/clusterd/state"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
)

// Live is what only the leader's memory holds, beside the state: copies, safe to keep.
type Live struct {
	Term       uint64
	Elected    time.Time
	Master     *mesosv1.MasterInfo
	Offers     []offers.Offer // oldest first
	Connected  map[state.FrameworkID]Presence
	Attached   map[state.AgentID]*mesosv1.AgentInfo
	Away       map[state.AgentID]bool // attached, and without a connection now
	Counters   map[string]float64
	Filters    int
	WaitingFor int // agents known to the log that have not attached in this term
}

// Presence is a connected framework's side that the log does not keep.
type Presence struct {
	Info       *mesosv1.FrameworkInfo
	Suppressed []string
}

// View shows the present state and what goes with it, at one moment between two
// decisions. f must not keep what the state points to. A master that was cut off, or
// slept, may show what was before: who must see everything that anybody has been told
// calls Read.
func (l *Leader) View(ctx context.Context, f func(*state.State, Live)) error {
	return l.enter(ctx, func(answer func(error)) {
		l.cfg.Machine.View(func(s *state.State) { f(s, l.live(s)) })
		answer(nil)
	})
}

// Read is View after a commit that was begun after the call: it shows everything that was
// decided before, whoever led then.
func (l *Leader) Read(ctx context.Context, f func(*state.State, Live)) error {
	return l.enter(ctx, func(answer func(error)) {
		l.confirm(func(err error) {
			if err == nil {
				l.cfg.Machine.View(func(s *state.State) { f(s, l.live(s)) })
			}
			answer(err)
		})
	})
}

func (l *Leader) live(s *state.State) Live {
	v := Live{
		Term: l.cfg.Term, Elected: l.elected, Master: l.info, Offers: l.book.All(), Counters: maps.Clone(l.counters), Filters: l.filters.Len(),
		Connected: make(map[state.FrameworkID]Presence, len(l.frameworks)), Attached: make(map[state.AgentID]*mesosv1.AgentInfo, len(l.agents)), Away: map[state.AgentID]bool{},
	}
	for id, fw := range l.frameworks {
		p := Presence{Info: fw.info}
		for _, role := range fw.roles {
			if fw.suppressed[role] {
				p.Suppressed = append(p.Suppressed, role)
			}
		}
		v.Connected[id] = p
	}
	for id, a := range l.agents {
		v.Attached[id] = a.info
		if a.away {
			v.Away[id] = true
		}
	}
	for a := range s.Agents() {
		if l.recovered(a) {
			v.WaitingFor++
		}
	}
	return v
}

// tell passes on what commands did besides what they were asked.
func (l *Leader) tell(events []state.Event) {
	for _, e := range events {
		switch e.Change {
		case state.StatusChanged:
			l.tellStatus(l.frameworks[e.Framework], e.Task, e.Agent, e.Status)
			delete(l.retries, e.Container)
		case state.KillWanted:
			l.sendKill(e.Container)
		case state.AcknowledgeWanted:
			l.toAgent(e.Agent, &agentwire.FromMaster{Body: &agentwire.FromMaster_Acknowledge{Acknowledge: &agentwire.Acknowledge{
				ContainerId: string(e.Container), Uuid: e.Status.Wire,
			}}})
		case state.ForgetWanted:
			l.toAgent(e.Agent, &agentwire.FromMaster{Body: &agentwire.FromMaster_Forget{Forget: &agentwire.Forget{ContainerIds: []string{string(e.Container)}}}})
		case state.ExecutorEnded:
			l.executorEnded(e)
		case state.AgentEnded:
			if a := l.agents[e.Agent]; a != nil {
				l.ended[e.Agent] = a
			}
			delete(l.agents, e.Agent)
			delete(l.told, e.Agent)
			l.agentLost(e.Agent)
		}
	}
}
