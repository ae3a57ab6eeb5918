package leader

import (
	"cmp"
	"slices"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/alloc"
	"github.com/mesolith/mesolith/clusterd/constraints"
	"github.com/mesolith/mesolith/clusterd/state"
)

// Every call may free something, and a round looks at every agent: in a large cluster
// rounds keep a distance, so that they leave time for the calls.
const (
	smallCluster  = 100 // agents, of which a round costs nothing
	pausePerAgent = 50 * time.Microsecond
)

// roundPause is the least time between the beginnings of two rounds.
func (l *Leader) roundPause() time.Duration {
	return min(time.Duration(max(0, len(l.agents)-smallCluster))*pausePerAgent, l.cfg.AllocationInterval)
}

// round divides what is free and tells who got what.
func (l *Leader) round(now time.Time) {
	l.allocate, l.lastRound = false, now
	if len(l.frameworks) == 0 || len(l.agents) == 0 {
		return
	}
	began := time.Now()
	l.seed++
	var fresh map[state.FrameworkID][]*mesosv1.Offer
	var back map[inverseKey]wanted
	l.cfg.Machine.View(func(s *state.State) {
		back = l.wantBack(s)
		if l.holdsBack(s) {
			return
		}
		made := alloc.Round(l.snapshot(s), l.filters, l.sinceNS(now), l.seed)
		fresh = make(map[state.FrameworkID][]*mesosv1.Offer, len(l.frameworks))
		for _, d := range made {
			o := l.book.Make(d.Framework, d.Role, d.Agent, d.Resources, l.wallNS())
			a, ok := s.Agent(d.Agent)
			f := l.frameworks[d.Framework]
			if !ok || f == nil {
				l.book.Remove(o.ID)
				continue
			}
			w := offerToWire(o, a, l.agents[d.Agent].info, f.caps)
			w.ExecutorIds = l.executorsOn(s, d.Framework, d.Agent)
			away := s.Maintenance().Window(a)
			if away != nil {
				w.Unavailability = Unavailability(away)
			}
			l.told[d.Agent] = windowOf(away)
			fresh[d.Framework] = append(fresh[d.Framework], w)
		}
	})
	l.askBack(back, now)
	for id, list := range fresh {
		for _, e := range offersEvents(list) {
			l.send(l.frameworks[id], e)
		}
	}
	l.count("allocator/mesos/allocation_runs")
	l.counters["allocator/mesos/allocation_run_ms"] = float64(time.Since(began).Microseconds()) / 1000
}

// backEnough is the part of the agents that a new leader waits for where there are quotas,
// as in Mesos: it would not know what is reserved on the others, and would guarantee from a
// part of the cluster alone. Who does not come is unreachable in the end (giveUpRecovered),
// and waited for no more.
const backEnough = 0.8

func (l *Leader) holdsBack(s *state.State) bool {
	if len(s.Quotas()) == 0 {
		return false
	}
	known, back := 0, 0
	for a := range s.Agents() {
		if a.Unreachable {
			continue
		}
		known++
		if l.agents[a.ID] != nil {
			back++
		}
	}
	return float64(back) < backEnough*float64(known)
}

// snapshot shows alloc what it may divide: agents attached in this term, and the roles
// that a connected framework is subscribed to.
func (l *Leader) snapshot(s *state.State) alloc.Snapshot {
	snap := alloc.Snapshot{Sorting: l.cfg.Sorting}
	for id := range l.agents {
		a, ok := s.Agent(id)
		if !ok || a.Unreachable || a.Deactivated || l.agents[id].away {
			continue
		}
		// What is shared can be offered whoever has it.
		free, _ := a.Free().Minus(l.book.Offered(id).Private())
		free, _ = free.Minus(l.launching[id].Private())
		snap.Agents = append(snap.Agents, alloc.Agent{ID: id, Total: a.Total, Free: free, Remote: l.remote(l.agents[id].info)})
	}
	sortAgents(snap.Agents)
	holds := map[string]map[state.FrameworkID]state.Resources{}
	add := func(role string, f state.FrameworkID, rs state.Resources) {
		if holds[role] == nil {
			holds[role] = map[state.FrameworkID]state.Resources{}
		}
		if sum, err := holds[role][f].Plus(rs); err == nil {
			holds[role][f] = sum
		}
	}
	wanted := map[string][]*framework{}
	for f := range s.Frameworks() {
		for _, role := range f.AllocatedRoles() {
			add(role, f.ID, f.Allocated(role))
		}
	}
	for _, o := range l.book.All() {
		add(o.Role, o.Framework, o.Resources.Private()) // a shared volume counts for who uses it
	}
	for by, rs := range l.launchingBy {
		add(by.role, by.framework, rs)
	}
	for _, f := range l.frameworks {
		for _, role := range f.roles {
			wanted[role] = append(wanted[role], f)
		}
	}
	for role := range holds {
		if _, ok := wanted[role]; !ok {
			wanted[role] = nil // nobody wants more of it, and it counts for what it is a part of
		}
	}
	snap.Weights, snap.Quotas = s.Weights(), s.Quotas()
	for role, members := range wanted {
		r := alloc.Role{Name: role}
		for _, held := range holds[role] {
			if sum, err := r.Holds.Plus(held); err == nil {
				r.Holds = sum
			}
		}
		for _, f := range members {
			r.Members = append(r.Members, alloc.Member{
				Framework: f.id, Suppressed: f.suppressed[role], GPUs: f.caps.Has(state.CapGPUResources), Refined: f.caps.Has(state.CapReservationRefinement), Remote: f.caps.Has(state.CapRegionAware),
				Shared: f.caps.Has(state.CapSharedResources), Revocable: f.caps.Has(state.CapRevocableResources),
				Holds: holds[role][f.id], Minimum: minimum(f.info, role), Wants: l.wanted(f, role),
			})
		}
		snap.Roles = append(snap.Roles, r)
	}
	sortRoles(snap.Roles)
	return snap
}

// wanted is a framework's constraints for a role; nil: there are none.
func (l *Leader) wanted(f *framework, role string) func(state.AgentID) bool {
	if f.wants.Empty() {
		return nil
	}
	return func(id state.AgentID) bool {
		info := l.agents[id].info
		return f.wants.Allow(role, &constraints.Agent{Hostname: info.GetHostname(), Attributes: info.GetAttributes(), Domain: info.GetDomain()})
	}
}

// minimum is what an offer must hold for a framework in a role.
func minimum(info *mesosv1.FrameworkInfo, role string) [][]alloc.Quantity {
	filter, ok := info.GetOfferFilters()[role]
	if !ok || filter.GetMinAllocatableResources() == nil {
		return alloc.DefaultMinimum()
	}
	var out [][]alloc.Quantity
	for _, set := range filter.GetMinAllocatableResources().GetQuantities() {
		var all []alloc.Quantity
		for name, v := range set.GetQuantities() {
			milli, _ := state.Thousandths(v.GetValue())
			all = append(all, alloc.Quantity{Name: name, Milli: milli})
		}
		out = append(out, all)
	}
	return out
}

func sortAgents(list []alloc.Agent) {
	slices.SortFunc(list, func(a, b alloc.Agent) int { return cmp.Compare(a.ID, b.ID) })
}

func sortRoles(list []alloc.Role) {
	slices.SortFunc(list, func(a, b alloc.Role) int { return cmp.Compare(a.Name, b.Name) })
	for i := range list {
		slices.SortFunc(list[i].Members, func(a, b alloc.Member) int { return cmp.Compare(a.Framework, b.Framework) })
	}
}
