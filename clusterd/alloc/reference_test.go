package alloc

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mesolith/mesolith/clusterd/state"
)

// reference is the allocator told plainly: before each agent everything is counted and
// sorted anew, with maps and strings. It is slow, and short enough to be read.
type reference struct {
	s      Snapshot
	f      *Filters
	nowNS  int64
	seed   uint64
	total  map[string]int64
	holds  map[string]state.Resources // by competitor: "eng/one", or "eng/one|framework"
	counts map[string]int
	out    []Offer
}

func (r *reference) round(nowNS int64, seed uint64) []Offer {
	r.nowNS, r.seed, r.out = nowNS, seed, nil
	r.total, r.holds, r.counts = map[string]int64{}, map[string]state.Resources{}, map[string]int{}
	for _, a := range r.s.Agents {
		for _, x := range a.Total {
			if x.Kind == state.ScalarKind && !slices.Contains(r.s.Sorting.Excluded, x.Name) {
				r.total[x.Name] += x.Milli
			}
		}
	}
	for _, role := range r.s.Roles {
		r.add(role.Name, role.Holds)
		for _, m := range role.Members {
			r.holds[role.Name+"|"+string(m.Framework)] = m.Holds
		}
	}
	r.counts = map[string]int{}
	sequence := make([]int, len(r.s.Agents))
	for i := range sequence {
		sequence[i] = i
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	rng.Shuffle(len(sequence), func(i, j int) { sequence[i], sequence[j] = sequence[j], sequence[i] })
	for _, i := range sequence {
		first := len(r.out)
		r.agent(i)
		for _, o := range r.out[first:] {
			own := o.Resources.Private()
			r.add(o.Role, own)
			key := o.Role + "|" + string(o.Framework)
			r.holds[key], _ = r.holds[key].Plus(own)
			r.counts[key]++
		}
	}
	return r.out
}

// add lets a role hold more, and all that it is a part of.
func (r *reference) add(role string, rs state.Resources) {
	paths := []string{r.leaf(role)}
	parts := strings.Split(role, "/")
	for i := range parts {
		if p := strings.Join(parts[:i+1], "/"); p != paths[0] {
			paths = append(paths, p)
		}
	}
	for _, p := range paths {
		r.holds[p], _ = r.holds[p].Plus(rs)
		r.counts[p]++
	}
}

// leaf is where a role's own frameworks compete.
func (r *reference) leaf(role string) string {
	for _, other := range r.s.Roles {
		if strings.HasPrefix(other.Name, role+"/") {
			return role + "/."
		}
	}
	return role
}

func (r *reference) weight(competitor string) float64 {
	if w, ok := r.s.Weights[competitor]; ok {
		return w
	}
	return 1
}

func (r *reference) share(competitor string) float64 {
	top := 0.0
	for name, total := range r.total {
		if total > 0 {
			top = max(top, float64(r.holds[competitor].Milli(name))/float64(total))
		}
	}
	return top / r.weight(competitor)
}

func lastPart(competitor string) string { return competitor[strings.LastIndexAny(competitor, "/|")+1:] }

func (r *reference) sorted(competitors []string) []string {
	sort.Slice(competitors, func(i, j int) bool {
		a, b := competitors[i], competitors[j]
		switch {
		case r.share(a) != r.share(b):
			return r.share(a) < r.share(b)
		case r.counts[a] != r.counts[b]:
			return r.counts[a] < r.counts[b]
		}
		return lastPart(a) < lastPart(b)
	})
	return competitors
}

// children are the competitors directly below a path.
func (r *reference) children(path string) (out []string) {
	for _, role := range r.s.Roles {
		rest, below := strings.CutPrefix(r.leaf(role.Name), path)
		part, _, _ := strings.Cut(rest, "/")
		if below && rest != "" && !slices.Contains(out, path+part) {
			out = append(out, path+part)
		}
	}
	return out
}

// order gives the leaves below a path as they are served by their shares.
func (r *reference) order(path string) (out []string) {
	for _, c := range r.sorted(r.children(path)) {
		if below := r.order(c + "/"); len(below) > 0 {
			out = append(out, below...)
		} else {
			out = append(out, c)
		}
	}
	return out
}

// wants says whether somebody below a competitor is to be offered something.
func (r *reference) wants(competitor string) bool {
	for _, role := range r.s.Roles {
		if leaf := r.leaf(role.Name); leaf == competitor || strings.HasPrefix(leaf, competitor+"/") {
			if slices.ContainsFunc(role.Members, func(m Member) bool { return !m.Suppressed }) {
				return true
			}
		}
	}
	return false
}

// chances divides the chance to be first among the leaves below a path.
func (r *reference) chances(path string, chance float64, out map[string]float64) {
	var below []string
	sum := 0.0
	for _, c := range r.children(path) {
		if r.wants(c) {
			below = append(below, c)
		}
	}
	slices.Sort(below)
	for _, c := range below {
		sum += r.weight(c)
	}
	for _, c := range below {
		if share := chance * r.weight(c) / sum; len(r.children(c+"/")) > 0 {
			r.chances(c+"/", share, out)
		} else {
			out[c] = share
		}
	}
}

// drawn is the order in which names are drawn by lot. Each draw is among all that were there
// when it was last counted; who was drawn already is passed over, and it is counted anew once
// half of the weight is gone.
func drawn(names []string, weights []float64, rng *rand.Rand) (out []string) {
	for len(names) > 0 {
		upTo, sum := make([]float64, len(names)), 0.0
		for i, w := range weights {
			sum += w
			upTo[i] = sum
		}
		weigh := func(i int) float64 {
			if i == 0 {
				return upTo[0]
			}
			return upTo[i] - upTo[i-1]
		}
		gone, out0, taken := map[int]bool{}, 0.0, 0
		for taken == 0 || out0*2 < sum {
			at, i := rng.Float64()*sum, 0
			for i < len(names)-1 && upTo[i] <= at {
				i++
			}
			if !gone[i] {
				gone[i], out0, taken = true, out0+weigh(i), taken+1
				out = append(out, names[i])
			}
		}
		var left []string
		var lots []float64
		for i := range names {
			if !gone[i] {
				left, lots = append(left, names[i]), append(lots, weigh(i))
			}
		}
		names, weights = left, lots
	}
	return out
}

// leaves are all in the order in which they are served, for an agent in a stage.
func (r *reference) leaves(agent, stage int) []string {
	if !r.s.Sorting.RandomRoles {
		return r.order("")
	}
	chances := map[string]float64{}
	r.chances("", 1, chances)
	var names []string
	for leaf := range chances {
		names = append(names, leaf)
	}
	sort.Slice(names, func(i, j int) bool { return strings.TrimSuffix(names[i], "/.") < strings.TrimSuffix(names[j], "/.") })
	var weights []float64
	for _, leaf := range names {
		weights = append(weights, chances[leaf])
	}
	return drawn(names, weights, rand.New(rand.NewPCG(r.seed, rolesStream|uint64(agent)<<1|uint64(stage))))
}

// agent divides what one has free: what guarantees lack first, then all.
func (r *reference) agent(number int) {
	a := r.s.Agents[number]
	free := a.Free
	first := len(r.out)
	for _, stage := range []int{1, 0} {
		for _, leaf := range r.leaves(number, stage) {
			name := strings.TrimSuffix(leaf, "/.")
			part := free.ForRole(name)
			if stage == 1 && !r.lacking(name) {
				continue
			}
			part = r.cut(name, part, stage == 1)
			if part.Milli(state.CPUs) == 0 && part.Milli(state.Mem) == 0 || stage == 1 && !r.useful(name, part) {
				continue
			}
			f, part := r.framework(name, number, stage, part)
			if f == "" {
				continue
			}
			free, _ = free.Minus(part)
			same := slices.IndexFunc(r.out[first:], func(o Offer) bool { return o.Role == name && o.Framework == f })
			if same < 0 {
				r.out = append(r.out, Offer{a.ID, f, name, part})
				continue
			}
			o := &r.out[first+same]
			o.Resources, _ = o.Resources.Plus(part)
		}
	}
}

func (r *reference) framework(name string, agent, stage int, part state.Resources) (state.FrameworkID, state.Resources) {
	number := slices.IndexFunc(r.s.Roles, func(role Role) bool { return role.Name == name })
	role, a := r.s.Roles[number], r.s.Agents[agent]
	members := map[string]Member{}
	var keys, wanting []string
	for _, m := range role.Members {
		key := name + "|" + string(m.Framework)
		members[key], keys = m, append(keys, key)
		if !m.Suppressed {
			wanting = append(wanting, key)
		}
	}
	if r.sorted(keys); r.s.Sorting.RandomFrameworks {
		slices.Sort(wanting)
		keys = drawn(wanting, slices.Repeat([]float64{1}, len(wanting)), rand.New(rand.NewPCG(r.seed, frameworksStream|(uint64(agent)<<1|uint64(stage))*maxRoles|uint64(number))))
	}
	for _, key := range keys {
		m := members[key]
		var mine state.Resources
		for _, x := range part {
			if (m.Refined || !x.Refined()) && (m.Shared || !x.Shared()) && (m.Revocable || !x.Revocable()) {
				mine = append(mine, x)
			}
		}
		if !m.Suppressed && (m.GPUs || a.Total.Milli(state.GPUs) == 0) && (m.Remote || !a.Remote) && mine.Milli(state.CPUs)+mine.Milli(state.Mem) > 0 &&
			meets(mine, m.Minimum) && (m.Wants == nil || m.Wants(a.ID)) && !r.f.Blocks(m.Framework, name, a.ID, mine, r.nowNS) {
			return m.Framework, mine
		}
	}
	return "", nil
}

// names are the roles of wild snapshots.
var names = []string{"*", "a", "a/x", "a/x/deep", "a/y", "b", "b/z/deeper", "c"}

// wild is a snapshot of everything that there can be, and what was refused of it.
func wild(t testing.TB, rng *rand.Rand) (Snapshot, *Filters) {
	some := func(one int) bool { return rng.IntN(one) == 0 }
	bag := func(role string, most int64) state.Resources {
		rs, err := state.NewResources(state.Resource{Name: state.CPUs, Role: role, Milli: rng.Int64N(most+1) * 500}, state.Resource{Name: state.Mem, Role: role, Milli: rng.Int64N(most+1) * 64_000})
		if err != nil {
			t.Fatal(err)
		}
		return rs
	}
	detailed := func(name string, milli int64, d state.Details) state.Resources {
		rs, err := state.NewResources(state.Resource{Name: name, Milli: milli}.With(d))
		if err != nil {
			t.Fatal(err)
		}
		return rs
	}
	plus := func(a, b state.Resources) state.Resources {
		sum, err := a.Plus(b)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	s := Snapshot{Weights: map[string]float64{}, Quotas: map[string]state.Quota{}}
	for i := range 1 + rng.IntN(12) {
		free := bag("", 8)
		if some(3) {
			free = plus(free, bag([]string{"a", "a/x", "b"}[rng.IntN(3)], 6))
		}
		if some(4) {
			free = plus(free, detailed(state.CPUs, 1500, state.Details{Revocable: true}))
		}
		if some(4) {
			free = plus(free, detailed(state.Disk, 10_000, state.Details{Reservations: []state.Reservation{{Role: "a"}}, Disk: state.DiskInfo{Volume: "v", Shared: true}}))
		}
		if some(4) {
			free = plus(free, detailed(state.Mem, 64_000, state.Details{Reservations: []state.Reservation{{Role: "a"}, {Role: "a/x"}}}))
		}
		if some(9) {
			free = nil
		}
		total := plus(free, bag("", 5))
		if some(5) {
			total = plus(total, state.Resources{{Name: state.GPUs, Milli: 1000}})
		}
		s.Agents = append(s.Agents, Agent{ID: state.AgentID(fmt.Sprint("S", i)), Total: total, Free: free, Remote: some(4)})
	}
	f := NewFilters()
	for _, name := range names {
		if some(3) {
			continue
		}
		role := Role{Name: name}
		for i := range rng.IntN(4) {
			m := Member{
				Framework: state.FrameworkID(fmt.Sprint(name, i)), Suppressed: some(5), GPUs: some(2), Refined: some(2), Shared: some(2), Revocable: some(2), Remote: some(2), Holds: bag("", 3),
			}
			if some(2) {
				m.Minimum = DefaultMinimum()
			}
			if some(4) {
				odd := rng.IntN(2)
				m.Wants = func(id state.AgentID) bool { return int(id[len(id)-1])%2 == odd }
			}
			if some(3) {
				a := s.Agents[rng.IntN(len(s.Agents))]
				f.Refuse(m.Framework, name, a.ID, a.Free, int64(rng.IntN(20)))
			}
			role.Holds = plus(role.Holds, m.Holds)
			role.Members = append(role.Members, m)
		}
		if some(3) {
			s.Weights[name] = float64(1+rng.IntN(8)) / 2
		}
		s.Roles = append(s.Roles, role)
	}
	if some(2) {
		s.Weights["b/z"] = 3 // of a part that is no role itself
	}
	if some(2) {
		s.Quotas = wildQuotas(rng)
	}
	s.Sorting = Sorting{RandomRoles: some(3), RandomFrameworks: some(3)}
	if some(4) {
		s.Sorting.Excluded = []string{state.Mem, "nothing"}
	}
	return s, f
}

func wildQuotas(rng *rand.Rand) map[string]state.Quota {
	all := map[string]state.Quota{}
	for _, name := range append(names, "b/quota") {
		q := state.Quota{}
		if rng.IntN(3) == 0 {
			q.Limits = map[string]int64{state.CPUs: rng.Int64N(30) * 500}
		}
		if rng.IntN(3) == 0 {
			q.Guarantees = map[string]int64{state.CPUs: rng.Int64N(20) * 500, state.Mem: rng.Int64N(20) * 64_000}
			if most, ok := q.Limits[state.CPUs]; ok {
				q.Guarantees[state.CPUs] = min(q.Guarantees[state.CPUs], most)
			}
		}
		if !q.Empty() {
			all[name] = q
		}
	}
	return all
}

// The fast allocator and the plain one decide the same, whatever they see.
func TestFastIsAsPlain(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(2000) {
		s, f := wild(t, rand.New(rand.NewPCG(seed, 7)))
		fast, plain := Round(s, f, 10, seed), (&reference{s: s, f: f}).round(10, seed)
		if diff := cmp.Diff(plain, fast); diff != "" {
			t.Fatalf("seed %d, %+v, quotas %v: %s", seed, s.Sorting, s.Quotas, diff)
		}
		for _, o := range fast {
			seen["offers"]++
			for what, is := range map[string]bool{
				"of parts": strings.Contains(o.Role, "/"), "with quotas": len(s.Quotas) > 0, "random roles": s.Sorting.RandomRoles, "random frameworks": s.Sorting.RandomFrameworks,
				"excluded": len(s.Sorting.Excluded) > 0, "shared": o.Resources.AnyShared(), "revocable": o.Resources.AnyRevocable(), "refined": o.Resources.Refined(),
			} {
				if is {
					seen[what]++
				}
			}
		}
	}
	t.Log(seen)
	for _, what := range []string{"offers", "of parts", "with quotas", "random roles", "random frameworks", "excluded", "shared", "revocable", "refined"} {
		if seen[what] < 100 {
			t.Errorf("%d %s: this proves nothing", seen[what], what)
		}
	}
}
