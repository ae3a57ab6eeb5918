// Package alloc divides what is free among those who want it, as one pure function:
//
//	Round(snapshot, filters, now, seed) → offers
//
// Dominant resource fairness over roles, and inside a role over its frameworks: next
// served is who has the smallest share, where a share is the largest part of any scalar
// resource of the cluster that it holds (allocated or offered), divided by its weight.
// Agents are gone through in a random order that the seed fixes; what an agent has free
// goes to one framework in one offer, as in Mesos.
//
// Invariants: nothing is offered twice in one snapshot; no framework gets what it has
// filtered, what it suppresses, GPUs it cannot use, less than its minimum, or an agent
// that its constraints exclude; equal input gives equal output. Roles are flat here; each carries its weight and its sums
// by itself, so that a tree of them only changes how Roles are ordered.
//
// It knows no offers already made other than as amounts taken; it does not tell anybody
// (leader), nor keep promises (offers).
package alloc

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"github.com/mesolith/mesolith/clusterd/state"
)

// Quantity is a minimum of one scalar, in thousandths.
type Quantity struct {
	Name  string
	Milli int64
}

// DefaultMinimum is what an offer must hold at least: either is enough.
func DefaultMinimum() [][]Quantity {
	return [][]Quantity{{{state.CPUs, 10}}, {{state.Mem, 32_000}}}
}

// Agent is one that attached in this term and may be offered.
type Agent struct {
	ID    state.AgentID
	Total state.Resources
	Free  state.Resources // neither used nor offered
}

// Member is a framework's interest in one role.
type Member struct {
	Framework  state.FrameworkID
	Suppressed bool
	GPUs       bool                     // it has the capability
	Holds      state.Resources          // allocated and offered, in this role
	Minimum    [][]Quantity             // one of them must be met; empty: no minimum
	Wants      func(state.AgentID) bool // its offer constraints; nil: every agent
}

// Role is one role with the frameworks subscribed to it.
type Role struct {
	Name    string
	Weight  float64         // 1 by default, > 0
	Holds   state.Resources // allocated and offered in this role, also by frameworks that are away
	Members []Member
}

// Snapshot is what one round sees.
type Snapshot struct {
	Agents []Agent
	Roles  []Role
}

// Offer is one decision.
type Offer struct {
	Agent     state.AgentID
	Framework state.FrameworkID
	Role      string
	Resources state.Resources
}

// round holds the snapshot as flat numbers: rows of len(names) thousandths.
type round struct {
	names  []string // scalar resources of the cluster
	total  []float64
	roles  []standing
	filter *Filters
	nowNS  int64
}

// standing is one competitor in a sorter: a role, or a framework in it.
type standing struct {
	name    string
	weight  float64
	holds   []int64
	share   float64
	count   int // allocations in this round: fewer first on a tie
	member  Member
	members []standing
	order   []int // members, smallest share first, kept sorted
}

// Round decides who is offered what. It changes nothing of its arguments.
func Round(s Snapshot, f *Filters, nowNS int64, seed uint64) []Offer {
	if len(s.Agents) == 0 || len(s.Roles) == 0 {
		return nil
	}
	r := newRound(s, f, nowNS)
	sequence := make([]int, len(s.Agents))
	for i := range sequence {
		sequence[i] = i
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	rng.Shuffle(len(sequence), func(i, j int) { sequence[i], sequence[j] = sequence[j], sequence[i] })
	order := make([]int, len(r.roles))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return compare(&r.roles[a], &r.roles[b]) })
	var out []Offer
	for _, i := range sequence {
		out = r.divide(s.Agents[i], order, out)
	}
	return out
}

func newRound(s Snapshot, f *Filters, nowNS int64) *round {
	r := &round{filter: f, nowNS: nowNS}
	for _, a := range s.Agents {
		for _, x := range a.Total {
			if x.Kind == state.ScalarKind && !slices.Contains(r.names, x.Name) {
				r.names = append(r.names, x.Name)
			}
		}
	}
	slices.Sort(r.names)
	r.total = make([]float64, len(r.names))
	for _, a := range s.Agents {
		for i, name := range r.names {
			r.total[i] += float64(a.Total.Milli(name))
		}
	}
	r.roles = make([]standing, 0, len(s.Roles))
	for _, role := range s.Roles {
		st := standing{name: role.Name, weight: role.Weight, holds: r.row(role.Holds)}
		if st.weight <= 0 {
			st.weight = 1
		}
		for _, m := range role.Members {
			if !m.Suppressed {
				ms := standing{name: string(m.Framework), weight: 1, holds: r.row(m.Holds), member: m}
				ms.share = r.share(&ms)
				st.members = append(st.members, ms)
			}
		}
		if len(st.members) == 0 {
			continue
		}
		st.share = r.share(&st)
		st.order = make([]int, len(st.members))
		for i := range st.order {
			st.order[i] = i
		}
		slices.SortFunc(st.order, func(a, b int) int { return compare(&st.members[a], &st.members[b]) })
		r.roles = append(r.roles, st)
	}
	return r
}

func (r *round) row(rs state.Resources) []int64 {
	out := make([]int64, len(r.names))
	for i, name := range r.names {
		out[i] = rs.Milli(name)
	}
	return out
}

func (r *round) share(s *standing) float64 {
	top := 0.0
	for i, held := range s.holds {
		if r.total[i] > 0 {
			top = max(top, float64(held)/r.total[i])
		}
	}
	return top / s.weight
}

func compare(a, b *standing) int {
	if c := cmp.Compare(a.share, b.share); c != 0 {
		return c
	}
	if c := cmp.Compare(a.count, b.count); c != 0 {
		return c
	}
	return cmp.Compare(a.name, b.name)
}

// divide finds takers for what an agent has free: unreserved resources go whole to the
// first who may have them, what is reserved for a role to the first of that role.
func (r *round) divide(a Agent, order []int, out []Offer) []Offer {
	free := a.Free
	gpus := a.Total.Milli(state.GPUs) > 0
	for at := 0; at < len(order) && len(free) > 0; at++ {
		role := &r.roles[order[at]]
		part := free.ForRole(role.name)
		if !usable(part) {
			continue
		}
		m := r.taker(role, a.ID, part, gpus)
		if m < 0 {
			continue
		}
		out = append(out, Offer{Agent: a.ID, Framework: role.members[role.order[m]].member.Framework, Role: role.name, Resources: part})
		free, _ = free.Minus(part)
		r.charge(&role.members[role.order[m]], part)
		moveBack(role.order, m, func(i int) *standing { return &role.members[i] })
		r.charge(role, part)
		if moveBack(order, at, func(i int) *standing { return &r.roles[i] }) {
			at-- // another role stands here now
		}
	}
	return out
}

// usable: an agent with neither cpus nor memory is not advertised.
func usable(rs state.Resources) bool {
	return rs.Milli(state.CPUs) > 0 || rs.Milli(state.Mem) > 0
}

// taker returns the place in role.order of who gets the offer, -1 for nobody.
func (r *round) taker(role *standing, agent state.AgentID, part state.Resources, gpus bool) int {
	for at, i := range role.order {
		m := &role.members[i].member
		if gpus && !m.GPUs {
			continue
		}
		if !meets(part, m.Minimum) {
			continue
		}
		if m.Wants != nil && !m.Wants(agent) {
			continue
		}
		if r.filter != nil && r.filter.Blocks(m.Framework, role.name, agent, part, r.nowNS) {
			continue
		}
		return at
	}
	return -1
}

func meets(rs state.Resources, minimum [][]Quantity) bool {
	if len(minimum) == 0 {
		return true
	}
	for _, set := range minimum {
		all := true
		for _, q := range set {
			all = all && rs.Milli(q.Name) >= q.Milli
		}
		if all {
			return true
		}
	}
	return false
}

func (r *round) charge(s *standing, rs state.Resources) {
	for i, name := range r.names {
		s.holds[i] += rs.Milli(name)
	}
	s.count++
	s.share = r.share(s)
}

// moveBack puts the entry at a place where it belongs again after its share grew, and
// says whether it moved.
func moveBack(order []int, at int, of func(int) *standing) bool {
	start := at
	for at+1 < len(order) && compare(of(order[at]), of(order[at+1])) > 0 {
		order[at], order[at+1] = order[at+1], order[at]
		at++
	}
	return at != start
}
