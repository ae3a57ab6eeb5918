package alloc

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mesolith/mesolith/clusterd/state"
)

func res(t testing.TB, cpus, mem, gpus int64) state.Resources {
	t.Helper()
	rs, err := state.NewResources(
		state.Resource{Name: state.CPUs, Milli: cpus * 1000}, state.Resource{Name: state.Mem, Milli: mem * 1000},
		state.Resource{Name: state.GPUs, Milli: gpus * 1000},
	)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func agents(t testing.TB, n int, rs state.Resources) []Agent {
	var out []Agent
	for i := range n {
		out = append(out, Agent{ID: state.AgentID(fmt.Sprintf("S%d", i)), Total: rs, Free: rs})
	}
	return out
}

func member(id string) Member {
	return Member{Framework: state.FrameworkID(id), Minimum: DefaultMinimum()}
}

func count(offers []Offer) map[string]int {
	out := map[string]int{}
	for _, o := range offers {
		out[o.Role+"/"+string(o.Framework)]++
	}
	return out
}

func TestRound(t *testing.T) {
	small := res(t, 4, 4096, 0)
	heavy := member("B")
	heavy.Holds = res(t, 8, 0, 0)
	suppressed := member("B")
	suppressed.Suppressed = true
	gpu := member("G")
	gpu.GPUs = true
	picky := member("P")
	picky.Minimum = [][]Quantity{{{state.CPUs, 8000}}}
	tests := []struct {
		name   string
		agents []Agent
		roles  []Role
		want   map[string]int
	}{
		{"one takes all", agents(t, 3, small), []Role{{Name: "*", Members: []Member{member("A")}}}, map[string]int{"*/A": 3}},
		{"two share evenly", agents(t, 4, small), []Role{{Name: "*", Members: []Member{member("A"), member("B")}}}, map[string]int{"*/A": 2, "*/B": 2}},
		{"who holds more waits", agents(t, 2, small), []Role{{Name: "*", Members: []Member{member("A"), heavy}}}, map[string]int{"*/A": 2}},
		{"roles first, whatever the number of frameworks", agents(t, 8, small), []Role{
			{Name: "one", Members: []Member{member("A")}},
			{Name: "many", Members: []Member{member("B"), member("C"), member("D"), member("E")}},
		}, map[string]int{"one/A": 4, "many/B": 1, "many/C": 1, "many/D": 1, "many/E": 1}},
		{"a weight", agents(t, 6, small), []Role{
			{Name: "heavy", Members: []Member{member("A")}}, {Name: "b", Members: []Member{member("B")}},
		}, map[string]int{"heavy/A": 4, "b/B": 2}},
		{"parts share what their role gets", agents(t, 8, small), []Role{
			{Name: "eng/one", Members: []Member{member("A")}}, {Name: "eng/two", Members: []Member{member("B")}}, {Name: "ops", Members: []Member{member("C")}},
		}, map[string]int{"eng/one/A": 2, "eng/two/B": 2, "ops/C": 4}},
		{"a role's own frameworks are one more part", agents(t, 9, small), []Role{
			{Name: "eng", Members: []Member{member("A"), member("D")}}, {Name: "eng/one", Members: []Member{member("B")}}, {Name: "eng/two", Members: []Member{member("C")}},
		}, map[string]int{"eng/one/B": 3, "eng/two/C": 3, "eng/A": 2, "eng/D": 1}},
		{"the weight of a part counts among its siblings only", agents(t, 12, small), []Role{
			{Name: "eng/heavy", Members: []Member{member("A")}}, {Name: "eng/two", Members: []Member{member("B")}}, {Name: "ops", Members: []Member{member("C")}},
		}, map[string]int{"eng/heavy/A": 4, "eng/two/B": 2, "ops/C": 6}},
		{"what a part without frameworks holds counts for its role", agents(t, 4, small), []Role{
			{Name: "eng/one", Members: []Member{member("A")}}, {Name: "eng/away", Holds: res(t, 8, 0, 0)}, {Name: "ops", Members: []Member{member("C")}},
		}, map[string]int{"eng/one/A": 1, "ops/C": 3}},
		{"suppressed gets nothing", agents(t, 2, small), []Role{{Name: "*", Members: []Member{member("A"), suppressed}}}, map[string]int{"*/A": 2}},
		{"gpus only to who can use them", agents(t, 2, res(t, 4, 4096, 1)), []Role{{Name: "*", Members: []Member{member("A"), gpu}}}, map[string]int{"*/G": 2}},
		{"less than its minimum", agents(t, 2, small), []Role{{Name: "*", Members: []Member{picky}}}, map[string]int{}},
		{"nothing free", []Agent{{ID: "S", Total: small}}, []Role{{Name: "*", Members: []Member{member("A")}}}, map[string]int{}},
		{"scraps are not offered", []Agent{{ID: "S", Total: small, Free: state.Resources{{Name: state.Mem, Milli: 8000}}}}, []Role{{Name: "*", Members: []Member{member("A")}}}, map[string]int{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for seed := range uint64(20) {
				s := Snapshot{Agents: test.agents, Roles: test.roles, Weights: map[string]float64{"heavy": 2, "eng/heavy": 2}}
				got := count(Round(s, NewFilters(), 0, seed))
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Fatalf("seed %d: %s", seed, diff)
				}
			}
		})
	}
}

func TestReservedGoesToItsRoleOnly(t *testing.T) {
	reserved := state.Resources{{Name: state.CPUs, Role: "db", Milli: 2000}, {Name: state.CPUs, Milli: 1000}}
	rs, err := state.NewResources(reserved...)
	if err != nil {
		t.Fatal(err)
	}
	s := Snapshot{
		Agents: []Agent{{ID: "S", Total: rs, Free: rs}},
		Roles:  []Role{{Name: "a", Members: []Member{member("A")}}, {Name: "db", Members: []Member{member("D")}}},
	}
	for _, o := range Round(s, nil, 0, 1) {
		for _, r := range o.Resources {
			if r.Role != "" && r.Role != o.Role {
				t.Errorf("%s got %s", o.Role, o.Resources)
			}
		}
	}
}

// What is reserved for a role is for its parts too, and for nobody beside it.
func TestReservedGoesToPartsToo(t *testing.T) {
	rs, err := state.NewResources(state.Resource{Name: state.CPUs, Role: "db", Milli: 2000})
	if err != nil {
		t.Fatal(err)
	}
	for role, want := range map[string]int{"db": 1, "db/replica": 1, "db/replica/3": 1, "dbx": 0, "d": 0, "x/db": 0, "*": 0} {
		s := Snapshot{Agents: []Agent{{ID: "S", Total: rs, Free: rs}}, Roles: []Role{{Name: role, Members: []Member{member("A")}}}}
		if got := len(Round(s, nil, 0, 1)); got != want {
			t.Errorf("%q is offered %d times what is reserved for db, want %d", role, got, want)
		}
	}
}

func TestFilters(t *testing.T) {
	f := NewFilters()
	all := res(t, 4, 4096, 0)
	less := res(t, 2, 1024, 0)
	f.Refuse("A", "*", "S0", less, 100)
	s := Snapshot{Agents: []Agent{{ID: "S0", Total: all, Free: less}}, Roles: []Role{{Name: "*", Members: []Member{member("A")}}}}
	if got := Round(s, f, 50, 1); len(got) != 0 {
		t.Errorf("offered again what was refused: %v", got)
	}
	if got := Round(s, f, 100, 1); len(got) != 1 {
		t.Error("the filter did not expire")
	}
	s.Agents[0].Free = all
	if got := Round(s, f, 50, 1); len(got) != 1 {
		t.Error("more than what was refused must be offered")
	}
	f.Refuse("A", "*", "S0", all, 200)
	if f.Len() != 1 {
		t.Errorf("%d filters: the smaller one is covered", f.Len())
	}
	f.Clear("A", "*")
	if f.Blocks("A", "*", "S0", less, 50) {
		t.Error("cleared and still there")
	}
	f.Refuse("A", "x", "S1", all, 10)
	f.Expire(10)
	if f.Len() != 0 {
		t.Error("expired and still there")
	}
}

// Whatever is asked, nobody gets what is not there.
func TestNothingIsOfferedTwice(t *testing.T) {
	for seed := range uint64(200) {
		s := Snapshot{Agents: agents(t, int(seed%17)+1, res(t, 3, 512, int64(seed%2)))}
		for r := range int(seed%5) + 1 {
			role := Role{Name: []string{"a", "b", "a/x", "a/x/y", "c/z"}[r]}
			for m := range int(seed%4) + 1 {
				x := member(fmt.Sprint("f", r, m))
				x.GPUs = m%2 == 0
				role.Members = append(role.Members, x)
			}
			s.Roles = append(s.Roles, role)
		}
		left := map[state.AgentID]state.Resources{}
		for _, a := range s.Agents {
			left[a.ID] = a.Free
		}
		first := Round(s, nil, 0, seed)
		for _, o := range first {
			rest, whole := left[o.Agent].Minus(o.Resources)
			if !whole {
				t.Fatalf("seed %d: %s of %s is not free", seed, o.Resources, o.Agent)
			}
			left[o.Agent] = rest
		}
		if diff := cmp.Diff(first, Round(s, nil, 0, seed)); diff != "" {
			t.Fatalf("seed %d: not the same again: %s", seed, diff)
		}
	}
}

func BenchmarkRound(b *testing.B) {
	for _, size := range []struct{ agents, roles, frameworks int }{{1000, 10, 100}, {5000, 10, 100}, {10_000, 100, 1000}} {
		b.Run(fmt.Sprintf("agents=%d/roles=%d/frameworks=%d", size.agents, size.roles, size.frameworks), func(b *testing.B) {
			s := Snapshot{Agents: agents(b, size.agents, res(b, 32, 65536, 0))}
			for r := range size.roles {
				role := Role{Name: fmt.Sprint("r", r)}
				for m := range size.frameworks / size.roles {
					role.Members = append(role.Members, member(fmt.Sprint("f", r, "-", m)))
				}
				s.Roles = append(s.Roles, role)
			}
			f := NewFilters()
			for b.Loop() {
				Round(s, f, 0, 1)
			}
		})
	}
}
