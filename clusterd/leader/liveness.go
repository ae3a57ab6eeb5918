package leader

import (
	"cmp"
	"slices"
	"time"

	"github.com/mesolith/mesolith/clusterd/state"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
)

// givenUpShare of the known agents may be called unreachable in one tick, and one in any
// case: a hundredth in a second. What looks like the death of many is seldom one.
const givenUpShare = 400

// watchAgents pings, and finds who has been silent for too long. Time is this master's
// own monotonic clock.
func (l *Leader) watchAgents(now time.Time) {
	if now.Sub(l.lastPing) >= pingInterval {
		l.lastPing = now
		l.pingNumber++
		for _, a := range l.agents {
			a.conn.send(l.Height(), l.cfg.Term, &agentwire.FromMaster{Body: &agentwire.FromMaster_Ping{Ping: &agentwire.Ping{Sequence: l.pingNumber}}})
		}
	}
	if now.Sub(l.lastNetwork) >= networkInterval {
		l.lastNetwork = now
		for _, a := range l.agents {
			l.tellNetwork(a)
		}
	}
	left := l.giveUpSilent(now)
	if left > 0 && now.After(l.unattached) {
		l.giveUpRecovered(now, left)
	}
}

// giveUpSilent marks attached agents that have said nothing for their grace, the longest
// silent first, and gives how many more may be marked now.
func (l *Leader) giveUpSilent(now time.Time) (left int) {
	var silent, quiet []*agent
	for _, a := range l.agents {
		switch s := now.Sub(a.lastHeard); {
		case s > l.cfg.AgentGrace:
			silent = append(silent, a)
			fallthrough
		case s > l.cfg.AgentGrace-2*pingInterval: // they fell silent in the same breath
			quiet = append(quiet, a)
		}
	}
	left = max(1, len(l.agents)/givenUpShare)
	if len(silent) > 0 && len(quiet) > 1 && 3*len(quiet) > len(l.agents) && l.cfg.Handover != nil {
		l.log.Warn("more than a third of the agents fell silent together; handing over before any is given up", "silent", len(quiet), "attached", len(l.agents))
		handover := l.cfg.Handover
		l.cfg.Handover = nil // once a term
		go handover()
		for _, a := range quiet {
			a.lastHeard = now // as long as that takes
		}
		return 0
	}
	slices.SortFunc(silent, func(a, b *agent) int {
		return cmp.Or(a.lastHeard.Compare(b.lastHeard), cmp.Compare(a.id, b.id))
	})
	for _, a := range silent {
		if left == 0 {
			break
		}
		left--
		l.unreachable(a.id)
	}
	return left
}

// giveUpRecovered marks agents that never attached in this term, at most so many.
func (l *Leader) giveUpRecovered(now time.Time, most int) {
	var lost []state.AgentID
	agents := 0
	l.cfg.Machine.View(func(s *state.State) {
		for a := range s.Agents() {
			agents++
			if l.recovered(a) && !l.givingUp[a.ID] {
				lost = append(lost, a.ID)
			}
		}
	})
	// When many are missing it is more likely that the network is: they get as long as a
	// framework does.
	if len(lost) > 1 && 3*len(lost) > agents && now.Before(l.elected.Add(afterElection)) {
		l.unattached = now.Add(time.Second)
		return
	}
	for _, id := range lost[:min(len(lost), most)] {
		l.unreachable(id)
	}
	if len(lost) <= most {
		l.unattached = now.Add(l.cfg.AgentGrace)
	}
}

func (l *Leader) unreachable(id state.AgentID) {
	a := l.agents[id]
	delete(l.agents, id)
	l.givingUp[id] = true
	l.propose(state.MarkUnreachable{ID: id}, func(_ state.Result, err error) {
		delete(l.givingUp, id)
		if err != nil {
			return
		}
		l.count("master/slave_unreachable_completed")
		l.log.Warn("agent is unreachable: its tasks are lost to their frameworks until it returns", "agent", id)
		l.agentLost(id)
	})
	if a != nil {
		a.conn.close()
	}
}

// networkInterval is how long a change of the plan may take to reach those whom it does
// not concern most: while a thousand agents register, each would otherwise be told a
// thousand plans.
const networkInterval = time.Second

// tellNetwork gives an attached agent the newest plan of the tasks' networks, unless it has
// that. The newcomer himself is told at once: his tasks need it.
func (l *Leader) tellNetwork(a *agent) {
	l.cfg.Machine.View(func(s *state.State) {
		if a.network == s.NetworkVersion() || l.network.GetVersion() == s.NetworkVersion() {
			return
		}
		l.network = &agentwire.NetworkPlan{Version: s.NetworkVersion(), Pool: s.Pool()}
		for x := range s.Agents() {
			if x.Subnet != "" {
				l.network.Subnets = append(l.network.Subnets, &agentwire.Subnet{Node: x.Node, Subnet: x.Subnet, Address: x.Address})
			}
		}
	})
	if l.network == nil || a.network == l.network.GetVersion() {
		return
	}
	a.network = l.network.GetVersion()
	l.toAgent(a.id, &agentwire.FromMaster{Body: &agentwire.FromMaster_Network{Network: l.network}})
}
