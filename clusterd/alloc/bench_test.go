//go:build bench

package alloc

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/clusterd/state"
)

// mode is what the frameworks of a measured cluster do.
type mode string

const (
	hungry     mode = "all want"
	declining  mode = "declining"       // each refuses some agents: a million filters at most
	suppressed mode = "99 % suppressed" // the rest wants
	quotas     mode = "quotas"          // each role is guaranteed some and limited
)

const (
	benchRoles  = 100
	mostFilters = 1_000_000
)

// measured is a cluster of agents that are all free, and what its frameworks refused.
func measured(agents, frameworks int, m mode) (Snapshot, *Filters) {
	rng := rand.New(rand.NewPCG(1, uint64(agents*frameworks)))
	var s Snapshot
	for i := range agents {
		bag, err := state.NewResources(
			state.Resource{Name: state.CPUs, Milli: 24_000}, state.Resource{Name: state.Mem, Milli: 4096_000}, state.Resource{Name: state.Disk, Milli: 4096_000},
			state.Resource{Name: state.Ports, Kind: state.RangesKind, Ranges: []state.Range{{Begin: 31000, End: 32000}}},
		)
		if err != nil {
			panic(err)
		}
		s.Agents = append(s.Agents, Agent{ID: state.AgentID(fmt.Sprint("agent-", i)), Total: bag, Free: bag})
	}
	roles := min(benchRoles, frameworks)
	s.Roles = make([]Role, roles)
	s.Quotas = map[string]state.Quota{}
	for i := range s.Roles {
		s.Roles[i].Name = fmt.Sprint("role-", i)
		if m == quotas {
			all := int64(agents) * 24_000
			s.Quotas[s.Roles[i].Name] = state.Quota{
				Guarantees: map[string]int64{state.CPUs: all / int64(4*roles)}, Limits: map[string]int64{state.CPUs: all / int64(2*roles)},
			}
		}
	}
	f := NewFilters()
	for i := range frameworks {
		r := &s.Roles[i%roles]
		id := state.FrameworkID(fmt.Sprint("framework-", i))
		r.Members = append(r.Members, Member{Framework: id, Suppressed: m == suppressed && i%100 != 0, Minimum: DefaultMinimum()})
		if m != declining {
			continue
		}
		for range min(agents, mostFilters/frameworks) {
			a := s.Agents[rng.IntN(agents)]
			f.Refuse(id, r.Name, a.ID, a.Free, 1<<62)
		}
	}
	return s, f
}

// One round of the whole grid, on one core. The grid's N is small where a round is long.
func TestBenchAllocator(t *testing.T) {
	runtime.GOMAXPROCS(1)
	fmt.Printf("\n%-34s %10s %10s %10s %12s %8s %6s\n", "agents x frameworks", "p50 ms", "worst ms", "offers", "allocations", "MB", "N")
	for _, agents := range []int{1_000, 5_000, 10_000, 50_000} {
		for _, frameworks := range []int{1, 50, 200, 1_000, 6_000} {
			for _, m := range []mode{hungry, declining, suppressed, quotas} {
				measureRound(agents, frameworks, m)
			}
		}
	}
}

func measureRound(agents, frameworks int, m mode) {
	s, f := measured(agents, frameworks, m)
	var took []time.Duration
	var before, after runtime.MemStats
	var offers int
	began := time.Now()
	for len(took) < 3 || len(took) < 20 && time.Since(began) < 2*time.Second {
		runtime.GC()
		runtime.ReadMemStats(&before)
		start := time.Now()
		made := Round(s, f, 1, uint64(len(took)))
		took = append(took, time.Since(start))
		runtime.ReadMemStats(&after)
		offers = len(made)
	}
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	p50 := ms(took[len(took)/2])
	fmt.Printf("%-34s %10.1f %10.1f %10d %12d %8.1f %6d\n", fmt.Sprintf("%d x %d, %s", agents, frameworks, m), p50, ms(took[len(took)-1]), offers,
		after.Mallocs-before.Mallocs, float64(after.TotalAlloc-before.TotalAlloc)/(1<<20), len(took))
	if agents == 10_000 && frameworks == 1_000 && m == quotas {
		fmt.Printf("figure 7: one round, 10,000 agents x 1,000 frameworks in 100 roles with quota, one core: p50 %.1f ms, worst %.1f ms, N %d, goal 50 ms, load %s\n",
			p50, ms(took[len(took)-1]), len(took), load())
	}
}

func load() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "not known"
	}
	return strings.Fields(string(raw))[0]
}
