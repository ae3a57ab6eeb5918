//go:build bench

package alloc

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/mesolith/mesolith/clusterd/state"
)

const (
	placedTasks = 1000 // of one job, placed out of one round
	placedJobs  = 20
	racks       = 50
	benchGen    = "11111111-2222-3333-4444-555555555555"
)

// placing is a cluster in which one framework places jobs.
type placing struct {
	t       *testing.T
	m       *state.Machine
	index   uint64
	rackOf  map[state.AgentID]int
	perRack [racks]int
	task    int
}

func newPlacing(t *testing.T, agents int) *placing {
	p := &placing{t: t, m: state.NewMachine(), rackOf: map[state.AgentID]int{}}
	commands := []state.Command{
		state.BeginGeneration{Generation: state.Generation{Height: 1, ID: benchGen}},
		state.SubscribeFramework{Info: make([]byte, 200), Name: "jobs", Roles: []string{"*"}},
	}
	total, err := state.NewResources(
		state.Resource{Name: state.CPUs, Milli: 64_000}, state.Resource{Name: state.Mem, Milli: 262_144_000}, state.Resource{Name: state.Disk, Milli: 4096_000},
		state.Resource{Name: state.Ports, Kind: state.RangesKind, Ranges: []state.Range{{Begin: 31000, End: 32000}}},
	)
	if err != nil {
		t.Fatal(err)
	}
	for i := range agents {
		commands = append(commands, state.RegisterAgent{Node: fmt.Sprint("n", i), AttachKey: "k", Info: make([]byte, 400), Total: total, Address: "10.0.0.1"})
		p.rackOf[state.AgentID(fmt.Sprintf("%s-S%d", benchGen, i))] = i % racks
	}
	p.apply(commands)
	return p
}

// apply is what a command costs on a leader: written, read back, checked, carried out.
func (p *placing) apply(commands []state.Command) {
	for len(commands) > 0 {
		entry, n := state.EncodeEntry(int64(p.index), commands, 256<<10)
		p.index++
		out := p.m.Apply(p.index, 1, entry).(state.Applied)
		if out.Err != nil {
			p.t.Fatal(out.Err)
		}
		for _, r := range out.Results {
			if r.Err != nil {
				p.t.Fatal(r.Err)
			}
		}
		commands = commands[n:]
	}
}

// job places tasks: a round over all agents, the choice among what it offered, the launches.
func (p *placing) job(seed uint64, spread bool) {
	var s Snapshot
	var held state.Resources
	p.m.View(func(st *state.State) {
		for a := range st.Agents() {
			s.Agents = append(s.Agents, Agent{ID: a.ID, Total: a.Total, Free: a.Free()})
		}
		f, _ := st.Framework(benchGen + "-0000")
		held = f.Allocated("*")
	})
	s.Roles = []Role{{Name: "*", Holds: held, Members: []Member{{Framework: benchGen + "-0000", Holds: held, Minimum: DefaultMinimum()}}}}
	offers := Round(s, nil, 0, seed)
	ask := state.Resources{{Name: state.CPUs, Milli: 100}, {Name: state.Mem, Milli: 64_000}}
	pick := p.inOrder(offers, ask)
	if spread {
		pick = p.overRacks(offers, ask)
	}
	commands := make([]state.Command, 0, placedTasks)
	for range placedTasks {
		agent := pick()
		p.perRack[p.rackOf[agent]]++
		p.task++
		id := fmt.Sprintf("%08d-0000-4000-8000-%012d", seed, p.task)
		commands = append(commands, state.LaunchTask{
			Container: state.ContainerID(id), Task: state.TaskID(id), Framework: benchGen + "-0000", Agent: agent, Role: "*", Name: "web", Info: make([]byte, 700), Resources: ask,
		})
	}
	p.apply(commands)
}

// inOrder fills one offer after the other.
func (p *placing) inOrder(offers []Offer, ask state.Resources) func() state.AgentID {
	return func() state.AgentID {
		for {
			left, whole := offers[0].Resources.Minus(ask)
			if whole {
				offers[0].Resources = left
				return offers[0].Agent
			}
			offers = offers[1:]
		}
	}
}

// overRacks takes the rack with the fewest tasks each time.
func (p *placing) overRacks(offers []Offer, ask state.Resources) func() state.AgentID {
	var of [racks][]Offer
	for _, o := range offers {
		rack := p.rackOf[o.Agent]
		of[rack] = append(of[rack], o)
	}
	return func() state.AgentID {
		for {
			least := -1
			for rack := range of {
				if len(of[rack]) > 0 && (least < 0 || p.perRack[rack] < p.perRack[least]) {
					least = rack
				}
			}
			first := &of[least][0]
			left, whole := first.Resources.Minus(ask)
			of[least] = of[least][1:]
			if whole {
				of[least] = append(of[least], Offer{Agent: first.Agent, Resources: left}) // the next one is another agent's
				return first.Agent
			}
		}
	}
}

// cpuTime is what this process has used of a processor, which a busy host does not stretch as
// it does the time of day.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Figure 6: what the leader's own decisions cost for each task of a job.
func TestBenchPlacement(t *testing.T) {
	for _, agents := range []int{1_000, 5_000, 10_000} {
		for _, spread := range []bool{false, true} {
			p := newPlacing(t, agents)
			var took []float64
			for n := range placedJobs {
				began := cpuTime()
				p.job(uint64(n), spread)
				took = append(took, float64((cpuTime()-began).Nanoseconds())/1000/placedTasks)
			}
			how := "without spreading"
			if spread {
				how = fmt.Sprintf("spread over %d racks", racks)
				if most, least := slices.Max(p.perRack[:]), slices.Min(p.perRack[:]); most-least > 1 {
					t.Errorf("%d agents: %d tasks in one rack, %d in another", agents, most, least)
				}
			}
			slices.Sort(took)
			fmt.Printf("figure 6: CPU per placement, %d agents, %s: p50 %.1f µs, worst %.1f µs, N %d jobs of %d tasks, goal 40 µs, load %s\n",
				agents, how, took[len(took)/2], took[len(took)-1], len(took), placedTasks, load())
		}
	}
}
