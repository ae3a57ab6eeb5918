package state

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// randomAdoption is one step of taking in what outlived another cluster.
func randomAdoption(r *rand.Rand, t testing.TB) Command {
	f, a := FrameworkID(fmt.Sprintf("lost-%04d", r.IntN(3))), AgentID(fmt.Sprintf("lost-S%d", r.IntN(3)))
	switch r.IntN(7) {
	case 0, 1:
		return AdoptAgent{
			RegisterAgent: RegisterAgent{ID: a, Node: fmt.Sprint("n", r.IntN(5)), AttachKey: "k", Total: bag(t, 4, 64), Pool: "10.88.0.0/20"},
			Subnet:        []string{"", "10.88.1.0/24", "10.88.3.0/24"}[r.IntN(3)],
		}
	case 2:
		return AdoptFramework{SubscribeFramework: SubscribeFramework{ID: f, Roles: []string{"*"}, Principal: "p"}, Remaining: 9}
	case 3, 4:
		return AdoptTask{LaunchTask: launch(f, a, r.IntN(12), bag(t, int64(r.IntN(4)), 8)), State: TaskState(r.IntN(3)), KillGrace: -1}
	case 5:
		return RaiseHeight{Height: uint64(r.IntN(40))}
	default:
		return EndAdoption{Agent: a}
	}
}

func adopted(t *testing.T, node, subnet string) AdoptAgent {
	return AdoptAgent{RegisterAgent: RegisterAgent{ID: "lost-S7", Node: node, AttachKey: "k", Total: bag(t, 4, 1024), Pool: "10.88.0.0/16"}, Subnet: subnet}
}

func adoptedTask(t *testing.T, n int, state TaskState) AdoptTask {
	return AdoptTask{LaunchTask: launch("lost-0001", "lost-S7", n, bag(t, 1, 1)), State: state, KillGrace: -1}
}

var lostFramework = AdoptFramework{SubscribeFramework: SubscribeFramework{ID: "lost-0001", Name: "old", Roles: []string{"*"}, Principal: "p", FailoverTimeout: 5e9}, Remaining: 6e11}

// A node that outlived the cluster keeps its id, its network and its tasks; their
// frameworks are known before they have subscribed.
func TestAgentOfAForgottenClusterIsAdopted(t *testing.T) {
	c := newCluster(t)
	c.do(adopted(t, "n9", "10.88.1.0/24"))
	c.refused(launch(c.framework(), "lost-S7", 1, bag(t, 1, 1)), ErrAgentAdopting)
	c.do(lostFramework)
	c.do(adoptedTask(t, 1, TaskRunning))
	c.do(EndAdoption{"lost-S7"})
	c.m.View(func(s *State) {
		a, _ := s.AgentOfNode("n9")
		f, _ := s.Framework("lost-0001")
		task, ok := s.Task("c1")
		switch {
		case a.ID != "lost-S7" || a.Subnet != "10.88.1.0/24" || a.Adopting || a.Used().String() != bag(t, 1, 1).String():
			t.Errorf("agent %+v", a)
		case f.Connected || f.Remaining != 6e11 || f.Allocated("*").String() != bag(t, 1, 1).String():
			t.Errorf("framework %+v", f)
		case !ok || task.State != TaskRunning || task.Answered():
			t.Errorf("task %+v", task)
		}
	})
	// Its life goes on: an update, the framework itself, a new task.
	c.do(report("lost-S7", 1, 1, TaskRunning))
	c.do(SubscribeFramework{ID: "lost-0001", Name: "old", Roles: []string{"*"}, Principal: "p"})
	c.do(launch("lost-0001", "lost-S7", 2, bag(t, 3, 1)))
	c.refused(launch("lost-0001", "lost-S7", 3, bag(t, 1, 1)), ErrNoRoom)
}

// An adoption that a change of leader cut short is done again, and counts once.
func TestAdoptionIsRepeatable(t *testing.T) {
	c := newCluster(t)
	for range 2 {
		c.do(adopted(t, "n9", "10.88.1.0/24"))
		c.do(lostFramework)
		c.do(adoptedTask(t, 1, TaskRunning))
		c.do(adoptedTask(t, 2, TaskStarting))
	}
	c.m.View(func(s *State) {
		a, _ := s.Agent("lost-S7")
		if a.TaskCount() != 2 || a.Used().String() != bag(t, 2, 2).String() {
			t.Errorf("%d tasks, used %s", a.TaskCount(), a.Used())
		}
	})
	c.do(EndAdoption{"lost-S7"})
	c.do(adopted(t, "n9", "10.88.1.0/24")) // by two connections at once
	c.do(adoptedTask(t, 1, TaskRunning))
	c.refused(adoptedTask(t, 3, TaskRunning), ErrAgentUnknown)
}

// A node that got the network before the other one was heard gives it up while it is idle.
func TestIdleNodeGivesUpTheNetworkOfRunningTasks(t *testing.T) {
	c := newCluster(t)
	here := c.agent("n1")
	c.m.View(func(s *State) {
		if a, _ := s.Agent(here); a.Subnet != "10.88.1.0/24" {
			t.Fatalf("subnet %s", a.Subnet)
		}
	})
	var before uint64
	c.m.View(func(s *State) { before = s.NetworkVersion() })
	c.do(adopted(t, "n9", "10.88.1.0/24"))
	c.m.View(func(s *State) {
		idle, _ := s.Agent(here)
		a, _ := s.Agent("lost-S7")
		if idle.Subnet != "10.88.2.0/24" || a.Subnet != "10.88.1.0/24" || s.NetworkVersion() == before {
			t.Errorf("idle %s, adopted %s", idle.Subnet, a.Subnet)
		}
	})
	if next := c.agent("n2"); next == "" {
		t.Error("no agent")
	}
	c.m.View(func(s *State) {
		if a, _ := s.AgentOfNode("n2"); a.Subnet != "10.88.3.0/24" {
			t.Errorf("subnet %s", a.Subnet)
		}
	})
}

func TestWhatIsNotAdopted(t *testing.T) {
	c := newCluster(t)
	here := c.agent("n1")
	c.refused(AdoptAgent{RegisterAgent: RegisterAgent{ID: here, Node: "n1", AttachKey: "k"}}, ErrAgentUnknown)
	c.refused(AdoptAgent{RegisterAgent: RegisterAgent{ID: gen + "-S99", Node: "n9", AttachKey: "k"}}, ErrAgentUnknown) // ours, and gone
	c.refused(adopted(t, "n1", ""), ErrAgentUnknown)                                                                   // the node began anew
	busy := c.framework()
	c.do(launch(busy, here, 8, bag(t, 1, 1)))
	c.refused(adopted(t, "n9", "10.88.1.0/24"), ErrSubnetTaken)
	c.refused(adopted(t, "n9", "10.99.1.0/24"), ErrCommandInvalid)
	c.refused(adopted(t, "n9", "10.88.9.0/16"), ErrCommandInvalid)
	c.refused(adoptedTask(t, 1, TaskRunning), ErrFrameworkUnknown)
	c.do(lostFramework)
	c.refused(adoptedTask(t, 1, TaskRunning), ErrAgentUnknown)
	c.do(adopted(t, "n9", ""))
	c.do(RemoveFramework{"lost-0001"})
	c.refused(lostFramework, ErrFrameworkRemoved)
	c.refused(adoptedTask(t, 1, TaskRunning), ErrFrameworkRemoved)
}

// Ids of a generation that this one came from are gone when they are not here; those of
// one that nobody remembers are not.
func TestGenerationsOfThePastAreRemembered(t *testing.T) {
	c := newCluster(t)
	c.do(BeginGeneration{Generation{Height: 50, ID: "next"}})
	snap, _ := c.m.Snapshot()
	var buf bytes.Buffer
	if _, err := snap.WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	again := NewMachine()
	if err := again.Restore(&buf); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*Machine{c.m, again} {
		m.View(func(s *State) {
			if s.BornEmpty() || s.Adoptable(gen+"-S5", "n9") || s.Adoptable("next-S5", "n9") || !s.Adoptable("lost-S5", "n9") || s.Adoptable("nonsense", "n9") {
				t.Errorf("past %v", s.past)
			}
		})
	}
}

func TestHeightIsRaisedAndIDsGoOn(t *testing.T) {
	c := newCluster(t)
	first := c.framework()
	c.refused(RaiseHeight{Height: 1}, ErrGenerationOlder)
	c.do(RaiseHeight{Height: 30})
	if second := c.framework(); second == first {
		t.Errorf("%s twice", second)
	}
	c.m.View(func(s *State) {
		if s.Generation() != (Generation{30, gen}) {
			t.Errorf("generation %+v", s.Generation())
		}
	})
	// New nodes keep away from where those may be that come late.
	id := c.agent("n1")
	c.m.View(func(s *State) {
		if a, _ := s.Agent(id); a.Subnet != "10.88.65.0/24" {
			t.Errorf("subnet %s", a.Subnet)
		}
	})
	c.refused(SpreadSubnets{4}, ErrCommandInvalid)
}
