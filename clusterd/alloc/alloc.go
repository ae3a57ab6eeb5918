// Package alloc divides what is free among those who want it, as one pure function:
//
//	Round(snapshot, filters, now, seed) → offers
//
// Dominant resource fairness over the tree of roles (tree.go), and inside a role over its
// frameworks: next served is who has the smallest share, where a share is the largest part
// of any scalar resource of the cluster that it holds (allocated or offered), divided by
// its weight. Agents are gone through in a random order that the seed fixes; what an agent
// has free goes to one framework in one offer, as in Mesos. Instead of who has least, roles
// or frameworks can be drawn by lot (random.go).
//
// Quotas of roles (quota.go) come first: what is guaranteed is offered before the rest is
// shared, and held back from others.
//
// Invariants: nothing is offered twice in one snapshot, not even what is shared; no limit is
// exceeded; no framework gets what it has filtered, what it suppresses, GPUs it cannot use,
// what it cannot read (sight.go), less than its minimum, an agent of another region that it
// does not ask for, or one that its constraints exclude; equal input gives equal output.
//
// It knows no offers already made other than as amounts taken; it does not tell anybody
// (leader), nor keep promises (offers).
package alloc

import (
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
	// Remote: it stands in another region than the masters.
	Remote bool
}

// Member is a framework's interest in one role.
type Member struct {
	Framework  state.FrameworkID
	Suppressed bool
	GPUs       bool                     // it has the capability
	Refined    bool                     // it has the capability: it knows reservations in several steps
	Shared     bool                     // it has the capability: it may have volumes that others have, too
	Revocable  bool                     // it has the capability: it takes what may be taken back
	Remote     bool                     // it has the capability REGION_AWARE
	Holds      state.Resources          // allocated and offered, in this role
	Minimum    [][]Quantity             // one of them must be met; empty: no minimum
	Wants      func(state.AgentID) bool // its offer constraints; nil: every agent
}

// Role is one role with the frameworks subscribed to it. One without any counts for what
// it holds.
type Role struct {
	Name    string
	Holds   state.Resources // allocated and offered in this role, also by frameworks that are away
	Members []Member
}

// Snapshot is what one round sees.
type Snapshot struct {
	Agents  []Agent
	Roles   []Role             // each name once
	Weights map[string]float64 // by role or part of one; 1 by default, > 0
	Quotas  map[string]state.Quota
	Sorting Sorting
}

// Sorting says who of siblings is offered next.
type Sorting struct {
	RandomRoles, RandomFrameworks bool // by lot and weight, not by who has least
	// Excluded are names of resources that do not count in shares.
	Excluded []string
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
	filter *Filters
	nowNS  int64

	root       *node
	quoted     bool    // there are quotas
	guaranteed []bool  // by resource: somebody is guaranteed some
	free       []int64 // unreserved, of all agents
	lacks      bool    // of guarantees something may
	scratch    state.Resources
	sums       []int64
	lottery    lottery
}

// Round decides who is offered what. It changes nothing of its arguments.
func Round(s Snapshot, f *Filters, nowNS int64, seed uint64) []Offer {
	if len(s.Agents) == 0 || len(s.Roles) == 0 {
		return nil
	}
	r := newRound(s, f, nowNS)
	root := r.grow(&s)
	sequence := make([]int, len(s.Agents))
	for i := range sequence {
		sequence[i] = i
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	r.lottery.prepare(root, s.Sorting, seed)
	rng.Shuffle(len(sequence), func(i, j int) { sequence[i], sequence[j] = sequence[j], sequence[i] })
	var out []Offer
	var d division
	r.lacks = slices.Contains(r.guaranteed, true)
	for _, i := range sequence {
		if len(s.Agents[i].Free) == 0 {
			continue // and nobody is met who could lack something
		}
		d = division{agent: &s.Agents[i], number: i, free: s.Agents[i].Free, gpus: s.Agents[i].Total.Milli(state.GPUs) > 0, kinds: kindsOf(s.Agents[i].Free), made: d.made[:0]}
		if r.lacks {
			r.lacks = false // until somebody is met who does: what roles have only grows
			r.share(root, &d, true)
		}
		r.share(root, &d, false)
		for _, m := range d.made {
			if out == nil {
				out = make([]Offer, 0, len(s.Agents))
			}
			out = append(out, m.Offer)
			r.charge(m.to, m.Resources.Private()) // what is shared takes nothing from anybody
		}
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
	r.total, r.guaranteed, r.free = make([]float64, len(r.names)), make([]bool, len(r.names)), make([]int64, len(r.names))
	for _, a := range s.Agents {
		for i, name := range r.names {
			r.total[i] += float64(a.Total.Milli(name))
		}
	}
	for _, name := range s.Sorting.Excluded {
		if i, ok := slices.BinarySearch(r.names, name); ok {
			r.total[i] = 0 // of nothing there are no shares
		}
	}
	return r
}

// division is one agent while it is divided. Shares stay as they were until it is done.
type division struct {
	agent  *Agent
	number int // of the agent in the snapshot
	free   state.Resources
	gpus   bool
	kinds  kinds // of what it had free
	made   []made
}

type made struct {
	Offer
	to *node
}

// offer notes what a framework gets of the agent; what it gets in both goes makes one offer.
func (d *division) offer(role, to *node, part state.Resources) {
	for i := range d.made {
		if d.made[i].to == to {
			if sum, err := d.made[i].Resources.Plus(part); err == nil {
				d.made[i].Resources = sum
			}
			return
		}
	}
	d.made = append(d.made, made{Offer{Agent: d.agent.ID, Framework: to.member.Framework, Role: role.name, Resources: part}, to})
}

// share divides what an agent has free in the order of the roles: unreserved resources go
// whole to the first who may have them, what is reserved for a role to the first of that role
// or of a part of it. With guarantees alone it serves those whose guarantees are not fulfilled.
func (r *round) share(root *node, d *division, guarantees bool) {
	r.lottery.begin(d.number, guarantees)
	if !r.lottery.random.RandomRoles {
		r.divide(root, d, guarantees)
		return
	}
	for n := r.lottery.roles.next(); n != nil && len(d.free) > 0; n = r.lottery.roles.next() {
		r.serve(n, d, guarantees)
	}
}

// divide serves the smallest share first.
func (r *round) divide(n *node, d *division, guarantees bool) {
	for _, c := range n.order {
		switch {
		case len(d.free) == 0:
			return
		case !c.serves:
		case c.leaf:
			r.serve(c, d, guarantees)
		default:
			r.divide(c, d, guarantees)
		}
	}
}

// serve offers a role what it may have of an agent, if one of its frameworks takes it.
func (r *round) serve(c *node, d *division, guarantees bool) {
	if guarantees {
		if !r.lacking(c) {
			return
		}
		r.lacks = true
	}
	part := d.free.ForRole(c.name)
	if r.quoted {
		part = r.cut(c, part, guarantees)
	}
	if !usable(part) || guarantees && !r.useful(c, part) {
		return
	}
	f, part := r.taker(c, d, part)
	if f == nil {
		return
	}
	if r.quoted {
		part = slices.Clone(part) // it is the next leaf's otherwise
	}
	d.offer(c, f, part)
	d.free, _ = d.free.Minus(part)
	r.taken(c, part)
}

// usable: an agent with neither cpus nor memory is not advertised.
func usable(rs state.Resources) bool {
	return rs.Milli(state.CPUs) > 0 || rs.Milli(state.Mem) > 0
}

// taker is who of a role gets the offer, and what of the part it is shown; nil: nobody.
func (r *round) taker(role *node, d *division, part state.Resources) (*node, state.Resources) {
	var parts *views
	if d.kinds != 0 {
		parts = &views{whole: part}
	}
	if r.lottery.random.RandomFrameworks {
		draw := r.lottery.of(role)
		for f := draw.next(); f != nil; f = draw.next() {
			if mine, ok := r.suits(role, f, d, part, parts); ok {
				return f, mine
			}
		}
		return nil, nil
	}
	for _, f := range role.order {
		if mine, ok := r.suits(role, f, d, part, parts); ok {
			return f, mine
		}
	}
	return nil, nil
}

// suits says whether a framework may be offered a part, and what it sees of it. Without
// views everybody sees all of it.
func (r *round) suits(role, f *node, d *division, part state.Resources, parts *views) (state.Resources, bool) {
	m := &f.member
	if parts != nil {
		part = parts.without(d.kinds &^ f.sees)
	}
	switch {
	case d.gpus && !m.GPUs, d.agent.Remote && !m.Remote, !usable(part), !meets(part, m.Minimum), m.Wants != nil && !m.Wants(d.agent.ID):
		return nil, false
	case r.filter != nil && r.filter.Blocks(m.Framework, role.name, d.agent.ID, part, r.nowNS):
		return nil, false
	}
	return part, true
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
