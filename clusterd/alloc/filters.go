package alloc

import "github.com/mesolith/mesolith/clusterd/state"

// Default and largest life of a filter, in nanoseconds (a declining framework that
// says nothing, or something negative, means the default).
const (
	DefaultRefuseNS = 5 * 1_000_000_000
	MaxRefuseNS     = 365 * 24 * 3600 * 1_000_000_000
)

type filterKey struct {
	framework state.FrameworkID
	role      string
}

type filter struct {
	resources state.Resources
	untilNS   int64
}

// Filters remembers what frameworks declined: an offer that holds no more than what was
// refused is not made again until the filter expires. It belongs to one leader's term;
// times are on the leader's own clock.
type Filters struct {
	refused map[filterKey]map[state.AgentID][]filter
}

// NewFilters is empty.
func NewFilters() *Filters {
	return &Filters{refused: map[filterKey]map[state.AgentID][]filter{}}
}

// Refuse adds a filter until a moment; it must lie at least one allocation interval
// ahead, which the caller sees to.
func (f *Filters) Refuse(framework state.FrameworkID, role string, agent state.AgentID, rs state.Resources, untilNS int64) {
	key := filterKey{framework, role}
	if f.refused[key] == nil {
		f.refused[key] = map[state.AgentID][]filter{}
	}
	list := f.refused[key][agent]
	kept := list[:0:0]
	for _, old := range list {
		// What the new one covers for at least as long needs no keeping.
		if old.untilNS > untilNS || !rs.Contains(old.resources) {
			kept = append(kept, old)
		}
	}
	f.refused[key][agent] = append(kept, filter{rs, untilNS})
}

// Blocks says whether an offer would only repeat what was refused.
func (f *Filters) Blocks(framework state.FrameworkID, role string, agent state.AgentID, rs state.Resources, nowNS int64) bool {
	for _, refused := range f.refused[filterKey{framework, role}][agent] {
		if refused.untilNS > nowNS && refused.resources.Contains(rs) {
			return true
		}
	}
	return false
}

// Clear drops a framework's filters in one role (REVIVE, un-suppress, unsubscribe).
func (f *Filters) Clear(framework state.FrameworkID, role string) {
	delete(f.refused, filterKey{framework, role})
}

// ClearFramework drops all of a framework's filters (disconnect, removal).
func (f *Filters) ClearFramework(framework state.FrameworkID) {
	for key := range f.refused {
		if key.framework == framework {
			delete(f.refused, key)
		}
	}
}

// ClearAgent drops what was refused of an agent (its attributes changed, or it is gone).
func (f *Filters) ClearAgent(agent state.AgentID) {
	for key, agents := range f.refused {
		delete(agents, agent)
		if len(agents) == 0 {
			delete(f.refused, key)
		}
	}
}

// Expire drops filters that are over; without it refusals of agents never offered
// again would stay for the term.
func (f *Filters) Expire(nowNS int64) {
	for key, agents := range f.refused {
		for agent, list := range agents {
			kept := list[:0]
			for _, x := range list {
				if x.untilNS > nowNS {
					kept = append(kept, x)
				}
			}
			if len(kept) == 0 {
				delete(agents, agent)
				continue
			}
			agents[agent] = kept
		}
		if len(agents) == 0 {
			delete(f.refused, key)
		}
	}
}

// Len counts the filters of a role's frameworks, for the metrics.
func (f *Filters) Len() int {
	n := 0
	for _, agents := range f.refused {
		for _, list := range agents {
			n += len(list)
		}
	}
	return n
}
