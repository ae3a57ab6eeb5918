package alloc

import (
	"fmt"
	"math/rand/v2"
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
	total  map[string]int64
	holds  map[string]state.Resources // by competitor: "eng/one", or "eng/one|framework"
	counts map[string]int
}

func (r *reference) round(nowNS int64, seed uint64) []Offer {
	r.total, r.holds, r.counts = map[string]int64{}, map[string]state.Resources{}, map[string]int{}
	for _, a := range r.s.Agents {
		for _, x := range a.Total {
			if x.Kind == state.ScalarKind {
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
	var out []Offer
	for _, i := range sequence {
		made := r.agent(r.s.Agents[i], nowNS)
		for _, o := range made {
			r.add(o.Role, o.Resources)
			key := o.Role + "|" + string(o.Framework)
			r.holds[key], _ = r.holds[key].Plus(o.Resources)
			r.counts[key]++
		}
		out = append(out, made...)
	}
	return out
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

func (r *reference) share(competitor string) float64 {
	weight := 1.0
	if w, ok := r.s.Weights[competitor]; ok {
		weight = w
	}
	top := 0.0
	for name, total := range r.total {
		if total > 0 {
			top = max(top, float64(r.holds[competitor].Milli(name))/float64(total))
		}
	}
	return top / weight
}

func (r *reference) sorted(competitors []string) []string {
	sort.Slice(competitors, func(i, j int) bool {
		a, b := competitors[i], competitors[j]
		switch {
		case r.share(a) != r.share(b):
			return r.share(a) < r.share(b)
		case r.counts[a] != r.counts[b]:
			return r.counts[a] < r.counts[b]
		}
		return a[strings.LastIndexAny(a, "/|")+1:] < b[strings.LastIndexAny(b, "/|")+1:]
	})
	return competitors
}

// order gives the leaves below a path as they are served.
func (r *reference) order(path string) (out []string) {
	seen := map[string]bool{}
	var children []string
	for _, role := range r.s.Roles {
		rest, below := strings.CutPrefix(r.leaf(role.Name), path)
		if !below || rest == "" {
			continue
		}
		part, _, _ := strings.Cut(rest, "/")
		if c := path + part; !seen[c] {
			seen[c] = true
			children = append(children, c)
		}
	}
	for _, c := range r.sorted(children) {
		if below := r.order(c + "/"); len(below) > 0 {
			out = append(out, below...)
		} else {
			out = append(out, c)
		}
	}
	return out
}

func (r *reference) agent(a Agent, nowNS int64) (out []Offer) {
	free := a.Free
	for _, leaf := range r.order("") {
		name := strings.TrimSuffix(leaf, "/.")
		part := free.ForRole(name)
		if part.Milli(state.CPUs) == 0 && part.Milli(state.Mem) == 0 {
			continue
		}
		if f := r.framework(name, a, part, nowNS); f != "" {
			out = append(out, Offer{a.ID, f, name, part})
			free, _ = free.Minus(part)
		}
	}
	return out
}

func (r *reference) framework(name string, a Agent, part state.Resources, nowNS int64) state.FrameworkID {
	for _, role := range r.s.Roles {
		if role.Name != name {
			continue
		}
		members := map[string]Member{}
		var keys []string
		for _, m := range role.Members {
			key := name + "|" + string(m.Framework)
			members[key], keys = m, append(keys, key)
		}
		for _, key := range r.sorted(keys) {
			m := members[key]
			if !m.Suppressed && (m.GPUs || a.Total.Milli(state.GPUs) == 0) && meets(part, m.Minimum) && (m.Wants == nil || m.Wants(a.ID)) &&
				!r.f.Blocks(m.Framework, name, a.ID, part, nowNS) {
				return m.Framework
			}
		}
	}
	return ""
}

// The fast allocator and the plain one decide the same, whatever they see.
func TestFastIsAsPlain(t *testing.T) {
	roles := []string{"*", "a", "a/x", "a/x/deep", "a/y", "b", "b/z/deeper", "c"}
	offers, nested := 0, 0
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 7))
		scalar := func(name string, most int64) state.Resource {
			return state.Resource{Name: name, Milli: rng.Int64N(most+1) * 500}
		}
		s := Snapshot{Weights: map[string]float64{}}
		bag := func(role string, most int64) state.Resources {
			cpus, mem := scalar(state.CPUs, most), scalar(state.Mem, 300*most)
			cpus.Role, mem.Role = role, role
			rs, err := state.NewResources(cpus, mem)
			if err != nil {
				t.Fatal(err)
			}
			return rs
		}
		for i := range 1 + rng.IntN(12) {
			free := bag("", 8)
			if rng.IntN(3) == 0 {
				free, _ = free.Plus(bag([]string{"a", "a/x", "b"}[rng.IntN(3)], 6))
			}
			total, _ := free.Plus(bag("", 5))
			if rng.IntN(5) == 0 {
				total, _ = total.Plus(state.Resources{{Name: state.GPUs, Milli: 1000}})
			}
			s.Agents = append(s.Agents, Agent{ID: state.AgentID(fmt.Sprint("S", i)), Total: total, Free: free})
		}
		f := NewFilters()
		for _, name := range roles {
			if rng.IntN(3) == 0 {
				continue
			}
			role := Role{Name: name}
			for i := range rng.IntN(4) {
				m := Member{Framework: state.FrameworkID(fmt.Sprint(name, i)), Suppressed: rng.IntN(5) == 0, GPUs: rng.IntN(2) == 0, Holds: bag("", 3)}
				if rng.IntN(2) == 0 {
					m.Minimum = DefaultMinimum()
				}
				if rng.IntN(4) == 0 {
					odd := rng.IntN(2)
					m.Wants = func(id state.AgentID) bool { return int(id[len(id)-1])%2 == odd }
				}
				if rng.IntN(3) == 0 {
					a := s.Agents[rng.IntN(len(s.Agents))]
					f.Refuse(m.Framework, name, a.ID, a.Free, int64(rng.IntN(20)))
				}
				role.Holds, _ = role.Holds.Plus(m.Holds)
				role.Members = append(role.Members, m)
			}
			if rng.IntN(3) == 0 {
				s.Weights[name] = float64(1+rng.IntN(8)) / 2
			}
			s.Roles = append(s.Roles, role)
		}
		if rng.IntN(2) == 0 {
			s.Weights["b/z"] = 3 // of a part that is no role itself
		}
		fast, plain := Round(s, f, 10, seed), (&reference{s: s, f: f}).round(10, seed)
		if diff := cmp.Diff(plain, fast); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
		offers += len(fast)
		for _, o := range fast {
			if strings.Contains(o.Role, "/") {
				nested++
			}
		}
	}
	t.Logf("%d offers, %d of them for parts of roles", offers, nested)
	if offers < 500 || nested < 100 {
		t.Error("this proves nothing")
	}
}
