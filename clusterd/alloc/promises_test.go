package alloc

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mesolith/mesolith/clusterd/state"
)

// Whatever there is and whoever asks: nothing is offered that is not free, what is shared
// once a round, nobody gets what it does not understand, and no limit is exceeded.
func TestWhatARoundPromises(t *testing.T) {
	met := map[string]int{}
	for seed := range uint64(2000) {
		s, f := wild(t, rand.New(rand.NewPCG(seed, 13)))
		offers := Round(s, f, 10, seed)
		if diff := cmp.Diff(offers, Round(s, f, 10, seed)); diff != "" {
			t.Fatalf("seed %d: not the same again: %s", seed, diff)
		}
		left := map[state.AgentID]state.Resources{}
		remote := map[state.AgentID]bool{}
		for _, a := range s.Agents {
			left[a.ID], remote[a.ID] = a.Free, a.Remote
		}
		for _, o := range offers {
			rest, whole := left[o.Agent].Minus(o.Resources)
			if !whole || !left[o.Agent].Hold(o.Resources.Volumes()) {
				t.Fatalf("seed %d: %s of %s is not free: %s is", seed, o.Resources, o.Agent, left[o.Agent])
			}
			left[o.Agent] = rest
			role := s.Roles[slices.IndexFunc(s.Roles, func(r Role) bool { return r.Name == o.Role })]
			m := role.Members[slices.IndexFunc(role.Members, func(m Member) bool { return m.Framework == o.Framework })]
			switch {
			case m.Suppressed, remote[o.Agent] && !m.Remote, m.Wants != nil && !m.Wants(o.Agent):
				t.Fatalf("seed %d: %s is offered %s", seed, m.Framework, o.Agent)
			case o.Resources.AnyShared() && !m.Shared, o.Resources.AnyRevocable() && !m.Revocable, o.Resources.Refined() && !m.Refined:
				t.Fatalf("seed %d: %s is offered %s", seed, m.Framework, o.Resources)
			case o.Resources.String() != o.Resources.ForRole(o.Role).String():
				t.Fatalf("seed %d: %s is offered %s", seed, o.Role, o.Resources)
			}
			if remote[o.Agent] {
				met["far"]++
			}
		}
		before, after := &reference{s: s}, &reference{s: s, out: offers}
		for top, q := range s.Quotas {
			for name, most := range q.Limits {
				had, has := before.has(top, name), after.has(top, name)
				if has > max(most, had) {
					t.Fatalf("seed %d: %s of %s: %d, had %d, limit %d", seed, name, top, has, had, most)
				}
				if has == most && had < most {
					met["limits"]++
				}
			}
		}
	}
	if met["far"] < 100 || met["limits"] < 100 {
		t.Errorf("%v: this proves nothing", met)
	}
}

// Whoever wants offers gets one in time, as long as others keep what they got for a while:
// by shares because they hold more then, by lot because everybody is drawn in the end.
func TestNobodyStarves(t *testing.T) {
	for _, sorting := range []Sorting{{}, {RandomRoles: true}, {RandomFrameworks: true}, {RandomRoles: true, RandomFrameworks: true}} {
		t.Run(fmt.Sprintf("%+v", sorting), func(t *testing.T) {
			const rounds, patience = 3000, 300
			small := res(t, 4, 4096, 0)
			free := map[state.AgentID]bool{"S0": true, "S1": true}
			held := map[state.AgentID]Offer{}
			until := map[state.AgentID]int{}
			last := map[string]int{}
			roles := []string{"a", "b/one", "b/two", "b", "c"}
			rng := rand.New(rand.NewPCG(1, 2))
			for round := range rounds {
				s := Snapshot{Sorting: sorting, Weights: map[string]float64{"a": 5}}
				for id := range held {
					if until[id] <= round {
						delete(held, id)
						free[id] = true
					}
				}
				for _, id := range []state.AgentID{"S0", "S1"} {
					a := Agent{ID: id, Total: small}
					if free[id] {
						a.Free = small
					}
					s.Agents = append(s.Agents, a)
				}
				for _, name := range roles {
					role := Role{Name: name}
					for i := range 3 {
						m := member(fmt.Sprint(name, i))
						for _, o := range held {
							if o.Framework == m.Framework {
								m.Holds, _ = m.Holds.Plus(o.Resources)
							}
						}
						role.Holds, _ = role.Holds.Plus(m.Holds)
						role.Members = append(role.Members, m)
					}
					s.Roles = append(s.Roles, role)
				}
				f := NewFilters()
				for key, at := range last { // who had one lately declines for a while
					if round-at < 20 {
						for _, id := range []state.AgentID{"S0", "S1"} {
							f.Refuse(state.FrameworkID(key), key[:len(key)-1], id, small, math.MaxInt64)
						}
					}
				}
				for _, o := range Round(s, f, 0, uint64(round)) {
					held[o.Agent], until[o.Agent], last[string(o.Framework)] = o, round+1+rng.IntN(3), round
					delete(free, o.Agent)
				}
				for _, name := range roles {
					for i := range 3 {
						if key := fmt.Sprint(name, i); round-last[key] > patience {
							t.Fatalf("round %d: %s waits since %d", round, key, last[key])
						}
					}
				}
			}
		})
	}
}

// By lot, who is first is a matter of weight: of a role's among its siblings, whatever parts
// it has, and of nothing among a role's frameworks.
func TestLotsAreWeighted(t *testing.T) {
	small := res(t, 4, 4096, 0)
	s := Snapshot{
		Agents: []Agent{{ID: "S", Total: small, Free: small}}, Sorting: Sorting{RandomRoles: true, RandomFrameworks: true},
		Weights: map[string]float64{"heavy": 3, "eng/x": 2},
		Roles: []Role{
			{Name: "eng/x", Members: []Member{member("X")}},
			{Name: "eng/y", Members: []Member{member("Y1"), member("Y2")}},
			{Name: "eng/z", Members: []Member{{Framework: "Z", Suppressed: true}}},
			{Name: "heavy", Members: []Member{member("H")}},
			{Name: "ops", Members: []Member{member("O")}},
		},
	}
	got := map[state.FrameworkID]float64{}
	const n = 20_000
	for seed := range uint64(n) {
		got[Round(s, nil, 0, seed)[0].Framework] += 1. / n
	}
	for framework, want := range map[state.FrameworkID]float64{"H": 3. / 5, "O": 1. / 5, "X": 2. / 15, "Y1": 1. / 30, "Y2": 1. / 30} {
		if math.Abs(got[framework]-want) > 0.015 {
			t.Errorf("%s is first %.3f of the time, want %.3f", framework, got[framework], want)
		}
	}
}

// Drawn are all, each once, however uneven the weights are.
func TestDrawEndsWithEverybody(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 3))
		all := &lots{}
		n := rng.IntN(40)
		for i := range n {
			all.add(&node{name: fmt.Sprint(i)}, math.Pow(10, -float64(rng.IntN(330))))
		}
		var d draw
		for range 2 { // it is used again
			seen := map[*node]bool{}
			d.begin(all, seed, 1)
			for one := d.next(); one != nil; one = d.next() {
				if seen[one] {
					t.Fatalf("seed %d: %s twice", seed, one.name)
				}
				seen[one] = true
			}
			if len(seen) != n {
				t.Fatalf("seed %d: %d of %d drawn", seed, len(seen), n)
			}
		}
	}
}

// What is excluded from shares makes nobody wait.
func TestExcludedResourcesDoNotCount(t *testing.T) {
	small := res(t, 4, 4096, 0)
	rich := member("A")
	rich.Holds = res(t, 0, 8192, 0)
	busy := member("B")
	busy.Holds = res(t, 1, 0, 0)
	s := Snapshot{Agents: agents(t, 1, small), Roles: []Role{{Name: "*", Members: []Member{rich, busy}}}}
	for _, excluded := range [][]string{nil, {state.Mem}} {
		s.Sorting.Excluded = excluded
		want := map[string]int{"*/B": 1}
		if excluded != nil {
			want = map[string]int{"*/A": 1}
		}
		if diff := cmp.Diff(want, count(Round(s, nil, 0, 1))); diff != "" {
			t.Errorf("excluded %v: %s", excluded, diff)
		}
	}
}
