package alloc

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mesolith/mesolith/clusterd/state"
)

func amounts(cpus, mem int64) map[string]int64 {
	out := map[string]int64{}
	if cpus >= 0 {
		out[state.CPUs] = cpus * 1000
	}
	if mem >= 0 {
		out[state.Mem] = mem * 1000
	}
	return out
}

// got adds up the cpus that each framework was offered.
func got(offers []Offer) map[string]int64 {
	out := map[string]int64{}
	for _, o := range offers {
		out[o.Role+"/"+string(o.Framework)] += o.Resources.Milli(state.CPUs) / 1000
	}
	return out
}

func TestQuota(t *testing.T) {
	four := agents(t, 4, res(t, 4, 4000, 0)) // 16 cpus
	in := func(role, framework string) Role { return Role{Name: role, Members: []Member{member(framework)}} }
	held := func(role, framework string, cpus int64) Role {
		r := in(role, framework)
		r.Holds, r.Members[0].Holds = res(t, cpus, 0, 0), res(t, cpus, 0, 0)
		return r
	}
	reserved, err := state.NewResources(state.Resource{Name: state.CPUs, Role: "a", Milli: 3000}, state.Resource{Name: state.CPUs, Milli: 5000}, state.Resource{Name: state.Mem, Milli: 64_000})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		agents []Agent
		roles  []Role
		quotas map[string]state.Quota
		want   map[string]int64 // nil: 9 cpus in all, as agents are cut
	}{
		{"a limit cuts offers, the rest is for others", four, []Role{in("a", "A"), in("b", "B")}, map[string]state.Quota{"a": {Limits: amounts(6, -1)}}, map[string]int64{"a/A": 6, "b/B": 10}},
		{"what is held counts", four, []Role{held("a", "A", 5), in("b", "B")}, map[string]state.Quota{"a": {Limits: amounts(6, -1)}}, map[string]int64{"a/A": 1, "b/B": 15}},
		{"a limit is for all parts together", four, []Role{in("a/x", "A"), in("a/y", "B")}, map[string]state.Quota{"a": {Limits: amounts(6, -1)}}, map[string]int64{"a/x/A": 4, "a/y/B": 2}},
		{"and for one part alone", four, []Role{in("a/x", "A"), in("a/y", "B")}, map[string]state.Quota{"a/x": {Limits: amounts(3, -1)}}, map[string]int64{"a/x/A": 3, "a/y/B": 13}},
		{"what is reserved counts, and is offered all the same", []Agent{{ID: "S", Total: reserved, Free: reserved}}, []Role{in("a", "A")}, map[string]state.Quota{"a": {Limits: amounts(4, -1)}}, map[string]int64{"a/A": 4}},
		{"a guarantee of who is not there is held back", four, []Role{in("b", "B")}, map[string]state.Quota{"a": {Guarantees: amounts(6, -1)}}, map[string]int64{"b/B": 10}},
		{"what it holds already is not held back once more", four, []Role{held("a", "A", 8), in("b", "B")}, map[string]state.Quota{"a": {Guarantees: amounts(10, -1), Limits: amounts(10, -1)}}, map[string]int64{"a/A": 2, "b/B": 14}},
		{"a guarantee comes before a fair share", four, []Role{held("a", "A", 2), in("b", "B")}, map[string]state.Quota{"a": {Guarantees: amounts(14, -1), Limits: amounts(14, -1)}}, map[string]int64{"a/A": 12, "b/B": 4}},
		{"more is guaranteed than there is", four, []Role{in("a", "A"), in("b", "B")}, map[string]state.Quota{"a": {Guarantees: amounts(99, -1)}}, map[string]int64{"a/A": 16}},
		{"a part's guarantee is held back from its siblings", four, []Role{in("a/x", "A"), in("a/y", "B")}, map[string]state.Quota{"a": {Guarantees: amounts(16, -1)}, "a/z": {Guarantees: amounts(7, -1)}}, nil},
		{"a role and its part are not guaranteed twice", four, []Role{in("b", "B")}, map[string]state.Quota{"a": {Guarantees: amounts(8, -1)}, "a/z": {Guarantees: amounts(5, -1)}}, map[string]int64{"b/B": 8}},
		{"no quota, no difference", four, []Role{in("a", "A"), in("b", "B")}, map[string]state.Quota{"c": {Limits: amounts(1, -1)}}, map[string]int64{"a/A": 8, "b/B": 8}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for seed := range uint64(20) {
				have := got(Round(Snapshot{Agents: test.agents, Roles: test.roles, Quotas: test.quotas}, nil, 0, seed))
				if test.want == nil {
					if sum := have["a/x/A"] + have["a/y/B"]; sum != 9 {
						t.Fatalf("seed %d: %v", seed, have)
					}
					continue
				}
				if diff := cmp.Diff(test.want, have); diff != "" {
					t.Fatalf("seed %d: %s", seed, diff)
				}
			}
		})
	}
}

// Whatever the quotas: no limit is exceeded by what is offered, what guarantees lack stays
// free as far as it was, and nothing is offered twice.
func TestQuotasHold(t *testing.T) {
	names := []string{"a", "a/x", "a/x/deep", "a/y", "b", "b/z", "c"}
	under := func(role, top string) bool { return role == top || strings.HasPrefix(role, top+"/") }
	cut, backed, served := 0, 0, 0
	for seed := range uint64(600) {
		rng := rand.New(rand.NewPCG(seed, 11))
		s := Snapshot{Quotas: map[string]state.Quota{}}
		bag := func(role string, most int64) state.Resources {
			rs, err := state.NewResources(state.Resource{Name: state.CPUs, Role: role, Milli: rng.Int64N(most+1) * 500}, state.Resource{Name: state.Mem, Role: role, Milli: rng.Int64N(most+1) * 64_000})
			if err != nil {
				t.Fatal(err)
			}
			return rs
		}
		for i := range 1 + rng.IntN(10) {
			free := bag("", 16)
			if rng.IntN(4) == 0 {
				free, _ = free.Plus(bag(names[rng.IntN(len(names))], 4))
			}
			s.Agents = append(s.Agents, Agent{ID: state.AgentID(fmt.Sprint("S", i)), Total: free, Free: free})
		}
		for _, name := range names {
			if rng.IntN(4) == 0 {
				continue
			}
			r := Role{Name: name, Holds: bag("", 6)}
			for i := range rng.IntN(3) {
				r.Members = append(r.Members, Member{Framework: state.FrameworkID(fmt.Sprint(name, i)), Holds: r.Holds})
			}
			s.Roles = append(s.Roles, r)
		}
		for _, name := range names {
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
				s.Quotas[name] = q
			}
		}
		offers := Round(s, nil, 0, seed)
		left := map[state.AgentID]state.Resources{}
		for _, a := range s.Agents {
			left[a.ID] = a.Free
		}
		for i, o := range offers {
			rest, whole := left[o.Agent].Minus(o.Resources)
			if !whole {
				t.Fatalf("seed %d: %s of %s is not free", seed, o.Resources, o.Agent)
			}
			left[o.Agent] = rest
			for _, p := range offers[:i] {
				if p.Agent == o.Agent && p.Framework == o.Framework && p.Role == o.Role {
					t.Fatalf("seed %d: two offers of %s to %s", seed, o.Agent, o.Framework)
				}
			}
		}
		for _, res := range []string{state.CPUs, state.Mem} {
			unreserved := func(rs state.Resources) (sum int64) {
				for _, x := range rs {
					if x.Name == res && x.Role == "" {
						sum += x.Milli
					}
				}
				return sum
			}
			has := func(top string, with []Offer) (sum int64) {
				for _, a := range s.Agents {
					for _, x := range a.Total {
						if x.Name == res && x.Role != "" && under(x.Role, top) {
							sum += x.Milli
						}
					}
				}
				for _, r := range s.Roles {
					if under(r.Name, top) {
						sum += unreserved(r.Holds)
					}
				}
				for _, o := range with {
					if under(o.Role, top) {
						sum += unreserved(o.Resources)
					}
				}
				return sum
			}
			var lacks func(top string, with []Offer) int64
			lacks = func(top string, with []Offer) int64 { // by the roles that stand directly below
				below := int64(0)
				for _, n := range names {
					direct := under(n, top) && n != top || top == ""
					for _, m := range names {
						direct = direct && !(under(n, m) && n != m && (top == "" || under(m, top) && m != top))
					}
					if direct {
						below += lacks(n, with)
					}
				}
				if top == "" {
					return below
				}
				return max(below, s.Quotas[top].Guarantees[res]-has(top, with), 0)
			}
			free := int64(0)
			for _, a := range s.Agents {
				free += unreserved(a.Free)
			}
			after := free
			for _, o := range offers {
				after -= unreserved(o.Resources)
			}
			before, now := free-lacks("", nil), after-lacks("", offers)
			if now < min(before, 0) {
				t.Fatalf("seed %d: %s: guarantees lacked %d of %d, now %d of %d\n%v", seed, res, lacks("", nil), free, lacks("", offers), after, s.Quotas)
			}
			if lacks("", nil) > 0 && after > 0 {
				backed++
			}
			if lacks("", offers) < lacks("", nil) {
				served++
			}
			for top, q := range s.Quotas {
				most, ok := q.Limits[res]
				if !ok {
					continue
				}
				if h := has(top, offers); h > max(most, has(top, nil)) {
					t.Fatalf("seed %d: %s of %s: %d, had %d, limit %d", seed, res, top, h, has(top, nil), most)
				} else if h == most {
					cut++
				}
			}
		}
	}
	t.Logf("limits reached %d times, something held back %d, guarantees served %d", cut, backed, served)
	if cut < 100 || backed < 100 || served < 100 {
		t.Error("this proves nothing")
	}
}
