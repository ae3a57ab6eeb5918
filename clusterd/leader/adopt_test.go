package leader

import (
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

const (
	forgotten          = "99999999-2222-3333-4444-555555555555"
	forgottenAgent     = forgotten + "-S4"
	forgottenFramework = forgotten + "-0003"
)

// running is a task as an agent that outlived its cluster tells of it.
func running(t *testing.T, container, task string, cpus float64) *agentwire.Held {
	t.Helper()
	info, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.TaskInfo{
		Name: proto.String(task), TaskId: &mesosv1.TaskID{Value: proto.String(task)}, AgentId: &mesosv1.AgentID{Value: proto.String(forgottenAgent)},
		Resources: ToWire(state.Resources{{Name: state.CPUs, Milli: int64(cpus * 1000)}, {Name: state.Mem, Milli: 32_000}}, ""),
	})
	if err != nil {
		t.Fatal(err)
	}
	framework, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.FrameworkInfo{
		Id: &mesosv1.FrameworkID{Value: proto.String(forgottenFramework)}, User: proto.String("root"), Name: proto.String("f"), FailoverTimeout: proto.Float64(30),
	})
	if err != nil {
		t.Fatal(err)
	}
	return &agentwire.Held{
		ContainerId: container, FrameworkId: forgottenFramework, TaskId: task, State: int32(mesosv1.TaskState_TASK_RUNNING),
		Role: "*", FrameworkInfo: framework, TaskInfo: info, KillGraceNs: -1,
	}
}

// outlived attaches an agent of a cluster that nobody remembers, up to its adoption.
func (p *played) outlived(node string, held ...*agentwire.Held) {
	p.t.Helper()
	p.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Hello{Hello: &agentwire.Hello{Protocol: 1, Name: node, Height: 6, Generation: forgotten}}})
	for until(p, (*agentwire.FromMaster).GetHello); ; {
		break
	}
	info, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.AgentInfo{
		Hostname: proto.String(node), Port: proto.Int32(5051), Resources: ToWire(state.Resources{{Name: state.CPUs, Milli: 4000}, {Name: state.Mem, Milli: 1024_000}}, ""),
	})
	if err != nil {
		p.t.Fatal(err)
	}
	attach := &agentwire.Attach{AgentId: forgottenAgent, AttachKey: node, AgentInfo: info, Node: node, Address: "10.0.0.2", Sequence: 1}
	p.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Attach{Attach: attach}})
	if r := until(p, (*agentwire.FromMaster).GetRefused); !r.GetReport() || r.GetRemoved() {
		p.t.Fatalf("refused: %v", r)
	}
	attach.Whole, attach.Subnet, attach.Held, attach.Sequence = true, "10.88.1.0/24", held, 2
	p.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Attach{Attach: attach}})
	p.id = forgottenAgent
}

// All masters forgot everything, an agent lives: its tasks are the framework's as before,
// and nothing is said of them until they are known.
func TestTasksOfAForgottenClusterAreAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		f := c.subscribe("f", forgottenFramework)
		f.next(scheduler.Event_SUBSCRIBED)
		ask := func(agent string) {
			t.Helper()
			task := &scheduler.Call_Reconcile_Task{TaskId: &mesosv1.TaskID{Value: proto.String("t1")}}
			if agent != "" {
				task.AgentId = &mesosv1.AgentID{Value: proto.String(agent)}
			}
			if err := f.do(&scheduler.Call{Type: scheduler.Call_RECONCILE.Enum(), Reconcile: &scheduler.Call_Reconcile{Tasks: []*scheduler.Call_Reconcile_Task{task}}}); err != nil {
				t.Fatal(err)
			}
		}
		ask(forgottenAgent)
		ask(generation + "-S9") // an agent that this cluster never had: there is nothing to wait for
		if st := f.update(mesosv1.TaskState_TASK_LOST); st.GetAgentId().GetValue() != generation+"-S9" {
			t.Errorf("answered of %s", st.GetAgentId().GetValue())
		}
		a := c.agent("n1")
		defer a.conn.Close()
		a.outlived("n1", running(t, "c1", "t1", 1), running(t, "c2", "t2", 2))
		if id := until(a, (*agentwire.FromMaster).GetAttached).GetAgentId(); id != forgottenAgent {
			t.Fatalf("attached as %s", id)
		}
		if h := c.l.Height(); h != 7 {
			t.Errorf("height %d: the agent obeyed 6", h)
		}
		offer := f.offer()
		if rs, err := fromWire(offer.GetResources()); err != nil || rs.Milli(state.CPUs) != 1000 {
			t.Errorf("offered %s, %v: three of four cpus are in use", rs, err)
		}
		a.report("c1", 1, mesosv1.TaskState_TASK_RUNNING)
		f.ack(f.update(mesosv1.TaskState_TASK_RUNNING))
		until(a, (*agentwire.FromMaster).GetAcknowledge)
		ask(forgottenAgent)
		f.update(mesosv1.TaskState_TASK_RUNNING)
		if err := f.do(&scheduler.Call{Type: scheduler.Call_KILL.Enum(), Kill: &scheduler.Call_Kill{TaskId: &mesosv1.TaskID{Value: proto.String("t2")}}}); err != nil {
			t.Fatal(err)
		}
		if k := until(a, (*agentwire.FromMaster).GetKill); k.GetContainerId() != "c2" {
			t.Errorf("kill %v", k)
		}
		a.report("c2", 2, mesosv1.TaskState_TASK_KILLED)
		f.ack(f.update(mesosv1.TaskState_TASK_KILLED))
	})
}

// A framework that never comes back after all was forgotten is removed in time, and its
// adopted tasks with it.
func TestAdoptedFrameworkThatNeverReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.outlived("n1", running(t, "c1", "t1", 1))
		until(a, (*agentwire.FromMaster).GetAttached)
		a.report("c1", 1, mesosv1.TaskState_TASK_RUNNING)
		time.Sleep(afterElection - 30*time.Second)
		synctest.Wait()
		for len(a.in) > 0 {
			if k := a.next().GetKill(); k != nil {
				t.Errorf("too early: %v", k)
			}
		}
		if k := until(a, (*agentwire.FromMaster).GetKill); k.GetContainerId() != "c1" {
			t.Errorf("kill %v", k)
		}
	})
}

// The leader changes in the middle of an adoption: the next one begins it again.
func TestAdoptionOutlivesTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		a := c.agent("n1")
		defer a.conn.Close()
		// As the log stands when the first leader died after half of it.
		for _, cmd := range []state.Command{
			state.AdoptAgent{RegisterAgent: state.RegisterAgent{ID: forgottenAgent, Node: "n1", AttachKey: "n1", Pool: "10.88.0.0/16"}, Subnet: "10.88.1.0/24"},
		} {
			entry, _ := state.EncodeEntry(1, []state.Command{cmd}, 1<<20)
			if _, err := c.log.Propose(t.Context(), entry); err != nil {
				t.Fatal(err)
			}
		}
		c.end()
		c.lead()
		defer c.end()
		a.outlived("n1", running(t, "c1", "t1", 1))
		until(a, (*agentwire.FromMaster).GetAttached)
		c.m.View(func(s *state.State) {
			if task, ok := s.Task("c1"); !ok || task.State != state.TaskRunning {
				t.Errorf("task %+v", task)
			}
			if ag, _ := s.Agent(forgottenAgent); ag.Adopting {
				t.Error("the adoption has no end")
			}
		})
	})
}

// What the cluster cannot take in is ended on the node, not left running for nobody.
func TestNetworkThatIsAnotherNodesEndsTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		first := c.agent("n2")
		defer first.conn.Close()
		first.attach("n2") // it got 10.88.1.0/24: nobody had told of the older cluster
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		if err := f.accept(f.offer(), "t1", 1); err != nil {
			t.Fatal(err)
		}
		a := c.agent("n1")
		defer a.conn.Close()
		a.outlived("n1", running(t, "c1", "t1", 1))
		if r := until(a, (*agentwire.FromMaster).GetRefused); !r.GetRemoved() {
			t.Errorf("refused: %v", r)
		}
	})
}

// An agent that is greeted anew attaches again while its first Attach is on its way into
// the log; it listens for the answer to the newest alone.
func TestTheNewestAttachIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		gate := make(chan struct{})
		c.log.mu.Lock()
		c.log.gate = gate
		c.log.mu.Unlock()
		info, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.AgentInfo{Hostname: proto.String("n1")})
		if err != nil {
			t.Fatal(err)
		}
		for sequence := uint64(1); sequence <= 2; sequence++ {
			a.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Attach{Attach: &agentwire.Attach{AttachKey: "k", AgentInfo: info, Node: "n1", Sequence: sequence}}})
		}
		synctest.Wait()
		close(gate)
		if got := until(a, (*agentwire.FromMaster).GetAttached); got.GetSequence() != 2 {
			t.Errorf("answered %v", got)
		}
	})
}

// An agent that attaches while its leader's generation is still on its way into the log is
// not called unknown: nobody can tell yet whose id it has.
func TestAdoptionWaitsForTheGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		c.end()
		gate := make(chan struct{})
		c.m = state.NewMachine()
		c.log = &memoryLog{m: c.m, gate: gate}
		c.lead()
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			a.outlived("n1", running(t, "c1", "t1", 1))
		}()
		synctest.Wait()
		if c.m.Generation().ID != "" {
			t.Fatal("the generation has begun: this proves nothing")
		}
		close(gate)
		<-sent
		until(a, (*agentwire.FromMaster).GetAttached) // a refusal fails it
	})
}
