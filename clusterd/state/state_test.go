package state

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

const gen = "11111111-2222-3333-4444-555555555555"

func bag(t testing.TB, cpus, mem int64, ports ...Range) Resources {
	t.Helper()
	list := []Resource{{Name: CPUs, Milli: cpus * 1000}, {Name: Mem, Milli: mem * 1000}}
	if len(ports) > 0 {
		list = append(list, Resource{Name: Ports, Kind: RangesKind, Ranges: ports})
	}
	rs, err := NewResources(list...)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// cluster applies commands one entry each, as a log would.
type cluster struct {
	t     testing.TB
	m     *Machine
	index uint64
	now   int64
}

func newCluster(t testing.TB) *cluster {
	c := &cluster{t: t, m: NewMachine()}
	c.do(BeginGeneration{Generation{Height: 1, ID: gen}})
	return c
}

func (c *cluster) apply(commands ...Command) []Result {
	c.t.Helper()
	c.index++
	c.now += 1e9
	for _, cmd := range commands {
		if err := Check(cmd); err != nil {
			c.t.Fatal(err)
		}
	}
	entry, n := EncodeEntry(c.now, commands, 1<<20)
	if n != len(commands) {
		c.t.Fatalf("%d of %d commands fit", n, len(commands))
	}
	out := c.m.Apply(c.index, 1, entry).(Applied)
	if out.Err != nil {
		c.t.Fatal(out.Err)
	}
	return out.Results
}

func (c *cluster) do(cmd Command) Result {
	c.t.Helper()
	r := c.apply(cmd)[0]
	if r.Err != nil {
		c.t.Fatalf("%T: %v", cmd, r.Err)
	}
	return r
}

func (c *cluster) refused(cmd Command, want error) {
	c.t.Helper()
	before := c.m.Hash()
	r := c.apply(cmd)[0]
	if !errors.Is(r.Err, want) {
		c.t.Fatalf("%T: %v, want %v", cmd, r.Err, want)
	}
	c.m.mu.Lock() // index and time move with the entry, nothing else may
	c.m.state.index, c.m.state.timeNS = c.index-1, c.now-1e9
	c.m.mu.Unlock()
	if c.m.Hash() != before {
		c.t.Errorf("%T was refused and changed the state", cmd)
	}
	c.m.mu.Lock()
	c.m.state.index, c.m.state.timeNS = c.index, c.now
	c.m.mu.Unlock()
}

func (c *cluster) framework() FrameworkID {
	return c.do(SubscribeFramework{Roles: []string{"*"}, Principal: "p", FailoverTimeout: 1e9}).FrameworkID
}

func (c *cluster) agent(node string) AgentID {
	return c.do(RegisterAgent{Node: node, AttachKey: node + "-key", Total: bag(c.t, 4, 1024, Range{31000, 31010}), Pool: "10.88.0.0/16", Address: "10.0.0.1"}).AgentID
}

func launch(f FrameworkID, a AgentID, n int, rs Resources) LaunchTask {
	return LaunchTask{Container: ContainerID(fmt.Sprint("c", n)), Task: TaskID(fmt.Sprint("t", n)), Framework: f, Agent: a, Role: "*", Resources: rs, Info: []byte{1}}
}

func report(a AgentID, n int, uuid byte, s TaskState) UpdateTask {
	return UpdateTask{
		Container: ContainerID(fmt.Sprint("c", n)), Agent: a, UUID: bytes.Repeat([]byte{uuid}, 16), Latest: s,
		Status: Status{State: s, Source: SourceExecutor, Reason: NoReason, Wire: []byte{uuid}},
	}
}

func TestIDs(t *testing.T) {
	c := newCluster(t)
	if id := c.framework(); id != gen+"-0000" {
		t.Errorf("framework %s", id)
	}
	if id := c.framework(); id != gen+"-0001" {
		t.Errorf("framework %s", id)
	}
	if id := c.agent("n1"); id != gen+"-S0" {
		t.Errorf("agent %s", id)
	}
	// An id of another cluster's life is taken as it is.
	if r := c.do(SubscribeFramework{ID: "old-0007", Principal: "p"}); r.FrameworkID != "old-0007" {
		t.Errorf("framework %s", r.FrameworkID)
	}
}

func TestPromiseMadeTwiceIsKeptOnce(t *testing.T) {
	c := newCluster(t)
	f, a := c.framework(), c.agent("n1")
	c.do(launch(f, a, 1, bag(t, 3, 100, Range{31000, 31001})))
	c.refused(launch(f, a, 2, bag(t, 2, 100)), ErrNoRoom)
	c.refused(launch(f, a, 3, bag(t, 1, 100, Range{31001, 31002})), ErrNoRoom)
	c.refused(launch(f, a, 1, bag(t, 1, 1)), ErrContainerUsed)
	dup := launch(f, a, 4, bag(t, 1, 1))
	dup.Task = "t1"
	c.refused(dup, ErrTaskDuplicate)
	c.refused(launch("nobody", a, 5, bag(t, 1, 1)), ErrFrameworkUnknown)
	c.refused(launch(f, "nowhere", 5, bag(t, 1, 1)), ErrAgentUnknown)
	c.do(launch(f, a, 6, bag(t, 1, 100, Range{31002, 31010})))
}

func TestResourcesReturnAtTheTerminalUpdate(t *testing.T) {
	c := newCluster(t)
	f, a := c.framework(), c.agent("n1")
	c.do(launch(f, a, 1, bag(t, 4, 1024)))
	c.do(report(a, 1, 1, TaskRunning))
	c.refused(launch(f, a, 2, bag(t, 1, 1)), ErrNoRoom)
	c.do(report(a, 1, 2, TaskFinished))
	c.do(launch(f, a, 2, bag(t, 4, 1024)))
	// The task itself stays until its end is acknowledged.
	c.refused(AcknowledgeUpdate{Container: "c1", UUID: bytes.Repeat([]byte{1}, 16)}, ErrNotNewest)
	r := c.do(AcknowledgeUpdate{Container: "c1", UUID: bytes.Repeat([]byte{2}, 16)})
	if len(r.Events) != 2 || r.Events[1].Change != ForgetWanted {
		t.Errorf("events %+v", r.Events)
	}
	c.refused(AcknowledgeUpdate{Container: "c1", UUID: bytes.Repeat([]byte{2}, 16)}, ErrTaskUnknown)
	// Task ids may be used again, container ids never.
	again := launch(f, a, 1, nil)
	again.Container = "c1"
	c.refused(again, ErrContainerUsed)
	again.Container = "c9"
	c.do(again)
	c.m.History(func(h History) {
		if len(h.Tasks) != 1 || h.Tasks[0].Newest.State != TaskFinished {
			t.Errorf("history %+v", h.Tasks)
		}
	})
}

func TestNewAgentOfANodeEndsTheFormerOnesTasks(t *testing.T) {
	c := newCluster(t)
	f, a := c.framework(), c.agent("n1")
	c.do(launch(f, a, 1, bag(t, 1, 1)))
	c.do(launch(f, a, 2, bag(t, 1, 1)))
	c.do(report(a, 2, 1, TaskFinished)) // its end is known and not acknowledged
	r := c.do(RegisterAgent{Node: "n1", AttachKey: "other", Total: bag(t, 4, 1024)})
	if r.AgentID == a {
		t.Fatal("the same id")
	}
	var told []Event
	for _, e := range r.Events {
		if e.Change == StatusChanged {
			told = append(told, e)
		}
	}
	if len(told) != 1 || told[0].Task != "t1" || told[0].Status.State != TaskGone || told[0].Status.Reason != ReasonAgentRemoved {
		t.Errorf("told %+v", told)
	}
	if !func() (removed bool) { c.m.View(func(s *State) { removed = s.AgentRemoved(a) }); return }() {
		t.Error("the former agent is not known as removed")
	}
	c.refused(RegisterAgent{ID: a, Node: "n1", AttachKey: "n1-key"}, ErrAgentUnknown)
	c.do(AcknowledgeUpdate{Container: "c2", UUID: bytes.Repeat([]byte{1}, 16)})
	if again := c.do(RegisterAgent{Node: "n1", AttachKey: "other", Total: bag(t, 4, 1024)}); again.AgentID != r.AgentID {
		t.Error("a repeated first attach got another id")
	}
}

func TestUnreachableAndBack(t *testing.T) {
	c := newCluster(t)
	f, a := c.framework(), c.agent("n1")
	c.do(launch(f, a, 1, bag(t, 1, 1)))
	c.do(report(a, 1, 1, TaskRunning))
	r := c.do(MarkUnreachable{a})
	if len(r.Events) != 1 || r.Events[0].Status.State != TaskUnreachable || r.Events[0].Status.Unreached == 0 {
		t.Errorf("events %+v", r.Events)
	}
	c.refused(MarkUnreachable{a}, ErrAgentUnreachable)
	c.refused(launch(f, a, 2, bag(t, 1, 1)), ErrAgentUnreachable)
	r = c.do(RegisterAgent{ID: a, Node: "n1", AttachKey: "n1-key", Total: bag(t, 4, 1024)})
	if len(r.Events) != 1 || r.Events[0].Status.State != TaskRunning || r.Events[0].Status.Reason != ReasonAgentReregistered {
		t.Errorf("events %+v", r.Events)
	}
}

func TestRemovedFrameworksTasksAreKilledAndForgotten(t *testing.T) {
	c := newCluster(t)
	f, a := c.framework(), c.agent("n1")
	c.do(launch(f, a, 1, bag(t, 4, 1)))
	c.do(report(a, 1, 1, TaskRunning))
	r := c.do(RemoveFramework{f})
	if len(r.Events) != 1 || r.Events[0].Change != KillWanted {
		t.Errorf("events %+v", r.Events)
	}
	c.refused(SubscribeFramework{ID: f, Principal: "p"}, ErrFrameworkRemoved)
	g := c.framework()
	c.refused(launch(g, a, 2, bag(t, 1, 1)), ErrNoRoom) // it still runs
	r = c.do(report(a, 1, 2, TaskKilled))
	if len(r.Events) != 2 || r.Events[0].Change != AcknowledgeWanted || r.Events[1].Change != ForgetWanted {
		t.Errorf("events %+v", r.Events)
	}
	c.do(launch(g, a, 2, bag(t, 1, 1)))
	c.do(ContainersForgotten{a, []ContainerID{"c1"}})
	c.m.View(func(s *State) {
		if ag, _ := s.Agent(a); len(ag.Forgets()) != 0 {
			t.Error("still to be forgotten")
		}
	})
}

func TestSubnetsAreUnique(t *testing.T) {
	c := newCluster(t)
	seen := map[string]bool{}
	for i := range 300 {
		id := c.do(RegisterAgent{Node: fmt.Sprint("n", i), AttachKey: "k", Pool: "10.88.0.0/16"}).AgentID
		c.m.View(func(s *State) {
			a, _ := s.Agent(id)
			if seen[a.Subnet] {
				t.Errorf("subnet %s twice", a.Subnet)
			}
			if a.Subnet == "" {
				if i < 255 {
					t.Errorf("node %d without subnet", i)
				}
				return
			}
			seen[a.Subnet] = true
		})
	}
}

// random makes a command out of few enough ids that they meet.
func random(r *rand.Rand, t testing.TB) Command {
	f := FrameworkID(fmt.Sprintf("%s-%04d", gen, r.IntN(4)))
	a := AgentID(fmt.Sprintf("%s-S%d", gen, r.IntN(6)))
	n := r.IntN(12)
	uuid := byte(r.IntN(4) + 1)
	if r.IntN(6) == 0 {
		return randomAdoption(r, t)
	}
	switch r.IntN(14) {
	case 13:
		return randomExecution(r, t, f, a)
	case 12:
		return randomConversion(r, t, f, a)
	case 11:
		return randomOperation(r, f, a)
	case 0:
		return SubscribeFramework{Roles: []string{"*"}, Principal: "p", FailoverTimeout: int64(r.IntN(100))}
	case 1:
		return SubscribeFramework{ID: f, Roles: []string{"a", "b"}, Principal: "p"}
	case 2:
		return DisconnectFramework{ID: f, Remaining: int64(r.IntN(5))}
	case 3:
		if r.IntN(4) > 0 {
			return KillTask{Container: ContainerID(fmt.Sprint("c", n)), Grace: int64(r.IntN(3) - 1)}
		}
		return RemoveFramework{f}
	case 4:
		node := fmt.Sprint("n", r.IntN(3))
		return RegisterAgent{Node: node, Hostname: "h" + node[1:], AttachKey: fmt.Sprint("k", r.IntN(2)), Total: bag(t, 4, 64), Pool: "10.88.0.0/20"}
	case 5:
		return RegisterAgent{ID: a, Node: fmt.Sprint("n", r.IntN(3)), AttachKey: "k0", Total: bag(t, int64(r.IntN(4)), 64)}
	case 6:
		return MarkUnreachable{a}
	case 7, 8:
		return launch(f, a, n, bag(t, int64(r.IntN(3)), 8))
	case 9:
		return report(a, n, uuid, TaskState(r.IntN(9)))
	default:
		switch r.IntN(4) {
		case 0:
			return ContainersForgotten{a, []ContainerID{ContainerID(fmt.Sprint("c", n))}}
		case 1:
			return NameUser{fmt.Sprint("u", n)}
		case 2:
			return AdmitHardware{fmt.Sprint("m", n%3), fmt.Sprint("h", uuid)}
		}
		return AcknowledgeUpdate{Container: ContainerID(fmt.Sprint("c", n)), UUID: bytes.Repeat([]byte{uuid}, 16)}
	}
}

// randomOperation is what an operator, or a framework about itself, says at any moment.
func randomOperation(r *rand.Rand, f FrameworkID, a AgentID) Command {
	role := []string{"*", "a", "a/b", ""}[r.IntN(4)]
	switch r.IntN(7) {
	case 6:
		return randomMaintenance(r, f, a)
	case 5:
		if r.IntN(2) == 0 {
			return EndDrained{a}
		}
		return DrainAgent{a, int64(r.IntN(3) - 1), r.IntN(2) == 0}
	case 0:
		return UpdateFramework{SubscribeFramework{ID: f, Roles: []string{"a", role}, Principal: []string{"p", "q"}[r.IntN(2)], FailoverTimeout: int64(r.IntN(9) - 1)}}
	case 1:
		return UpdateWeights{[]Weight{{role, float64(r.IntN(4))}, {"c", 2}}}
	case 2:
		return UpdateQuota{[]RoleQuota{{role, Quota{Guarantees: map[string]int64{CPUs: int64(r.IntN(3000))}, Limits: map[string]int64{CPUs: int64(r.IntN(3000))}}}, {Role: "a"}}}
	case 3:
		return ActivateAgent{a, r.IntN(3) > 0}
	}
	if r.IntN(4) > 0 {
		return ActivateAgent{a, true}
	}
	return MarkAgentGone{a}
}

// However commands come: no panic, the sums hold, and a replica that took a snapshot's
// shortcut at any moment ends in the same state.
func TestRandomHistories(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	applied, refused := 0, 0
	for run := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, run))
		c := newCluster(t)
		other := NewMachine()
		cut := r.IntN(150)
		for step := range 150 {
			cmd := random(r, t)
			c.index++
			c.now += int64(r.IntN(3)) - 1 // clocks go back, too
			entry, _ := EncodeEntry(c.now, []Command{cmd}, 1<<20)
			out := c.m.Apply(c.index, 1, entry).(Applied)
			if out.Results[0].Err != nil {
				refused++
			} else {
				applied++
			}
			c.m.View(func(s *State) {
				s.check(t)
				s.checkMade(t)
			})
			if step == cut {
				snap, _ := c.m.Snapshot()
				var buf bytes.Buffer
				if _, err := snap.WriteTo(&buf); err != nil {
					t.Fatal(err)
				}
				if err := other.Restore(&buf); err != nil {
					t.Fatal(err)
				}
			} else if step > cut {
				other.Apply(c.index, 1, entry)
			}
		}
		if c.m.Hash() != other.Hash() {
			t.Fatalf("run %d: states differ after a snapshot at %d", run, cut)
		}
	}
	t.Logf("%d applied, %d refused", applied, refused)
	if applied < 1000 || refused < 1000 {
		t.Error("the histories are too tame")
	}
}

func TestDamagedEntriesAreFatalAndChangeNothing(t *testing.T) {
	c := newCluster(t)
	entry, _ := EncodeEntry(1, []Command{SubscribeFramework{Principal: "p"}}, 1<<20)
	before := c.m.Hash()
	for i := range entry {
		bad := bytes.Clone(entry)
		bad[i] ^= 0x40
		if out := c.m.Apply(99, 1, bad).(Applied); !errors.Is(out.Err, ErrFatal) {
			t.Fatalf("byte %d: %v", i, out.Err)
		}
	}
	if c.m.Hash() != before {
		t.Error("the state changed")
	}
}

func TestSnapshotDamage(t *testing.T) {
	c := newCluster(t)
	f, a := c.framework(), c.agent("n1")
	c.do(launch(f, a, 1, bag(t, 1, 1)))
	snap, _ := c.m.Snapshot()
	var buf bytes.Buffer
	if _, err := snap.WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	for i := range buf.Len() {
		bad := bytes.Clone(buf.Bytes())
		bad[i] ^= 0x10
		if err := NewMachine().Restore(bytes.NewReader(bad)); err == nil {
			t.Fatalf("damage at byte %d was not seen", i)
		}
		if err := NewMachine().Restore(bytes.NewReader(buf.Bytes()[:i])); err == nil && i > 0 {
			t.Fatalf("cut at byte %d was not seen", i)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	entry, _ := EncodeEntry(1, []Command{SubscribeFramework{Principal: "p", Roles: []string{"*"}}, report("a", 1, 2, TaskFailed)}, 1<<20)
	f.Add(entry)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := New()
		if out := s.Apply(1, raw); out.Err == nil {
			for range out.Results {
				s.check(t)
			}
		}
	})
}

func FuzzReadSnapshot(f *testing.F) {
	c := newCluster(f)
	c.framework()
	c.agent("n1")
	snap, _ := c.m.Snapshot()
	var buf bytes.Buffer
	if _, err := snap.WriteTo(&buf); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		if s, _, err := Read(bytes.NewReader(raw)); err == nil {
			s.check(t)
		}
	})
}
