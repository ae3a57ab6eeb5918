package leader

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/clusterd/task"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

func executorOf(id string, resources ...*mesosv1.Resource) *mesosv1.ExecutorInfo {
	if resources == nil {
		resources = []*mesosv1.Resource{scalar("cpus", 0.5), scalar("mem", 64), scalar("disk", 8)}
	}
	return &mesosv1.ExecutorInfo{
		Type: mesosv1.ExecutorInfo_CUSTOM.Enum(), ExecutorId: &mesosv1.ExecutorID{Value: proto.String(id)},
		Command: &mesosv1.CommandInfo{Value: proto.String("./executor")}, Resources: resources,
	}
}

// executed has a task run by an executor instead of by its command.
func executed(x *mesosv1.ExecutorInfo) func(*mesosv1.TaskInfo) {
	return func(t *mesosv1.TaskInfo) { t.Command, t.Executor = nil, x }
}

// launchGroup accepts an offer with a task group, which change may spoil.
func (s *subscriber) launchGroup(offer *mesosv1.Offer, change func(*mesosv1.Offer_Operation_LaunchGroup), ids ...string) {
	s.t.Helper()
	g := &mesosv1.Offer_Operation_LaunchGroup{Executor: executorOf("e"), TaskGroup: &mesosv1.TaskGroupInfo{}}
	for _, id := range ids {
		g.TaskGroup.Tasks = append(g.TaskGroup.Tasks, &mesosv1.TaskInfo{
			Name: proto.String(id), TaskId: &mesosv1.TaskID{Value: proto.String(id)}, AgentId: offer.GetAgentId(),
			Resources: []*mesosv1.Resource{scalar("cpus", 0.5), scalar("mem", 32)},
		})
	}
	if change != nil {
		change(g)
	}
	s.launch(offer, "unused", nil, func(a *scheduler.Call_Accept) {
		a.Operations[0] = &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_LAUNCH_GROUP.Enum(), LaunchGroup: g}
	})
}

// The executor goes to the agent once, before its tasks; its resources are held as long as
// it runs, and offers say that it is there.
func TestTasksOfAnExecutor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.disk = 100
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		f.launch(f.offer(), "t1", executed(executorOf("e")), func(a *scheduler.Call_Accept) {
			second, _ := proto.Clone(a.Operations[0].Launch.TaskInfos[0]).(*mesosv1.TaskInfo)
			second.TaskId.Value = proto.String("t2")
			a.Operations[0].Launch.TaskInfos = append(a.Operations[0].Launch.TaskInfos, second)
		})
		x := until(a, (*agentwire.FromMaster).GetRun)
		if x.GetContainerId() != x.GetExecutorContainer() || x.GetExecutorId() != "e" {
			t.Fatalf("first the agent is told %v", x)
		}
		info := &mesosv1.ExecutorInfo{}
		if err := proto.Unmarshal(x.GetTaskInfo(), info); err != nil || info.GetFrameworkId().GetValue() != f.id || info.GetResources()[0].GetAllocationInfo().GetRole() != "*" {
			t.Errorf("the agent gets the executor as %v %v", info, err)
		}
		tasks := map[string]string{}
		for len(tasks) < 2 {
			run := until(a, (*agentwire.FromMaster).GetRun)
			if run.GetContainerId() == x.GetContainerId() {
				continue // said again: it does no harm
			}
			task := &mesosv1.TaskInfo{}
			if err := proto.Unmarshal(run.GetTaskInfo(), task); err != nil || run.GetExecutorContainer() != x.GetContainerId() || task.GetExecutor().GetExecutorId().GetValue() != "e" {
				t.Fatalf("task %v %v", run, err)
			}
			tasks[task.GetTaskId().GetValue()] = run.GetContainerId()
		}
		o := f.offer()
		if got := free(t, o, "cpus"); got != 2.5 {
			t.Errorf("with two tasks of half a CPU and their executor's half, %v of 4 are left", got)
		}
		if len(o.GetExecutorIds()) != 1 || o.GetExecutorIds()[0].GetValue() != "e" {
			t.Errorf("executors in the offer: %v", o.GetExecutorIds())
		}
		a.report(x.GetContainerId(), 1, mesosv1.TaskState_TASK_RUNNING)
		a.report(tasks["t1"], 2, mesosv1.TaskState_TASK_FINISHED)
		a.report(tasks["t2"], 3, mesosv1.TaskState_TASK_FINISHED)
		f.ack(f.update(mesosv1.TaskState_TASK_FINISHED))
		f.ack(f.update(mesosv1.TaskState_TASK_FINISHED))
		for _, e := range f.passed {
			if e.GetType() != scheduler.Event_OFFERS {
				t.Errorf("the framework hears of its executor: %v", e)
			}
		}
		// Another ExecutorInfo under the same id cannot be.
		f.launch(o, "t3", executed(executorOf("e", scalar("cpus", 1))))
		if st := f.update(mesosv1.TaskState_TASK_ERROR); !strings.Contains(st.GetMessage(), "executor e is there already with another ExecutorInfo") {
			t.Errorf("told %v", st)
		}
		a.reportEnd(x.GetContainerId(), 4, mesosv1.TaskState_TASK_FAILED, "768")
		e := f.next(scheduler.Event_FAILURE).GetFailure()
		if e.GetExecutorId().GetValue() != "e" || e.GetAgentId().GetValue() != a.id || e.GetStatus() != 768 {
			t.Errorf("FAILURE %v", e)
		}
		until(a, (*agentwire.FromMaster).GetForget)
		c.m.View(func(s *state.State) {
			if agent, _ := s.Agent(state.AgentID(a.id)); agent.Free().Milli(state.CPUs) != 4000 {
				t.Errorf("after all of it, %s is left", agent.Free())
			}
		})
	})
}

func free(t *testing.T, o *mesosv1.Offer, name string) float64 {
	t.Helper()
	sum := 0.0
	for _, r := range o.GetResources() {
		if r.GetName() == name {
			sum += r.GetScalar().GetValue()
		}
	}
	return sum
}

// reportEnd tells of an executor's end with its wait status.
func (p *played) reportEnd(container string, uuid byte, s mesosv1.TaskState, status string) {
	p.t.Helper()
	id := make([]byte, 16)
	id[0] = uuid
	raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.TaskStatus{
		State: s.Enum(), Uuid: id, Labels: &mesosv1.Labels{Labels: []*mesosv1.Label{{Key: proto.String(task.WaitStatusLabel), Value: &status}}},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Update{Update: &agentwire.Update{ContainerId: container, Status: raw, LatestState: int32(s)}}})
}

func TestGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.disk = 100
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		type group = mesosv1.Offer_Operation_LaunchGroup
		docker := &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_DOCKER.Enum()}
		for _, test := range []struct {
			name   string
			change func(*group)
			says   string
		}{
			{"no executor", func(g *group) { g.Executor = nil }, "executor id must not be empty"},
			{"an executor without a command", func(g *group) { g.Executor.Command = nil }, "'ExecutorInfo.command' must be set"},
			{"an executor with hardly a CPU", func(g *group) { g.Executor.Resources[0] = scalar("cpus", 0.009) }, "at least 0.01 cpus and 32 MB of mem"},
			{"an executor with little memory", func(g *group) { g.Executor.Resources[1] = scalar("mem", 31) }, "at least 0.01 cpus and 32 MB of mem"},
			{"an executor without disk", func(g *group) { g.Executor.Resources = g.Executor.Resources[:2] }, "needs disk"},
			{"an executor in a Docker container", func(g *group) { g.Executor.Container = docker }, "'ExecutorInfo.container.type' must not be DOCKER"},
			{"a task in a Docker container", func(g *group) { g.TaskGroup.Tasks[1].Container = docker }, "'TaskInfo.container.type' must not be DOCKER"},
			{"a task with an executor of its own", func(g *group) { g.TaskGroup.Tasks[1].Executor = executorOf("o") }, "'TaskInfo.executor' must not be set"},
			{"another framework's executor", func(g *group) { g.Executor.FrameworkId = &mesosv1.FrameworkID{Value: proto.String("x")} }, "invalid FrameworkID (actual: x"},
			{"a negative grace", func(g *group) {
				g.Executor.ShutdownGracePeriod = &mesosv1.DurationInfo{Nanoseconds: proto.Int64(-1)}
			}, "'shutdown_grace_period' must be non-negative"},
			{"the second task asks too much", func(g *group) { g.TaskGroup.Tasks[1].Resources[0] = scalar("cpus", 3.5) }, "Task uses more resources cpus:4.5;disk:8;mem:128 than available"},
			{"the same task twice", func(g *group) { g.TaskGroup.Tasks[1].TaskId = g.TaskGroup.Tasks[0].TaskId }, "Task has duplicate ID"},
			{"a persistent volume", func(g *group) {
				disk := scalar("disk", 1)
				disk.Reservations = []*mesosv1.Resource_ReservationInfo{{Type: mesosv1.Resource_ReservationInfo_DYNAMIC.Enum(), Role: proto.String("r")}}
				disk.Disk = &mesosv1.Resource_DiskInfo{Persistence: &mesosv1.Resource_DiskInfo_Persistence{Id: proto.String("v")}, Volume: &mesosv1.Volume{ContainerPath: proto.String("d"), Mode: mesosv1.Volume_RW.Enum()}}
				g.TaskGroup.Tasks[0].Resources = append(g.TaskGroup.Tasks[0].Resources, disk)
			}, "put the volume into the executor's resources"},
		} {
			f.launchGroup(f.offer(), test.change, "g1", "g2")
			for range 2 {
				st := f.update(mesosv1.TaskState_TASK_ERROR)
				if st.GetReason() != mesosv1.TaskStatus_REASON_TASK_GROUP_INVALID || !strings.Contains(st.GetMessage(), test.says) {
					t.Errorf("%s: %v", test.name, st)
				}
			}
		}
		f.launchGroup(f.offer(), nil, "g1", "g2")
		x := until(a, (*agentwire.FromMaster).GetRun)
		one, two := until(a, (*agentwire.FromMaster).GetRun), until(a, (*agentwire.FromMaster).GetRun)
		if len(x.GetGroup()) != 0 || len(one.GetGroup()) != 2 || one.GetGroup()[0] != one.GetContainerId() || one.GetGroup()[1] != two.GetContainerId() {
			t.Errorf("the agent is told %v, %v, %v", x, one, two)
		}
	})
}

// The leader dies between the launch and the first word of the agent: the next one sends
// executor and tasks again.
func TestLeaderChangesUnderAnExecutor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		a := c.agent("n1")
		defer a.conn.Close()
		a.disk = 100
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		f.launchGroup(f.offer(), nil, "g1", "g2")
		x := until(a, (*agentwire.FromMaster).GetRun)
		framework := f.id
		c.end()
		c.lead()
		defer c.end()
		a.attach("n1")
		runs := map[string]bool{}
		first := until(a, (*agentwire.FromMaster).GetRun)
		for range 2 {
			runs[until(a, (*agentwire.FromMaster).GetRun).GetExecutorContainer()] = true
		}
		if first.GetContainerId() != x.GetContainerId() || len(runs) != 1 || !runs[x.GetContainerId()] {
			t.Errorf("the next leader sends %v first, then tasks of %v", first, runs)
		}
		f = c.subscribe("f", framework)
		f.next(scheduler.Event_SUBSCRIBED)
		// An executor that the agent has forgotten is asked for, and so are its tasks.
		a.report(x.GetContainerId(), 1, mesosv1.TaskState_TASK_RUNNING)
		synctest.Wait()
		a.sendAttach("n1")
		if told := until(a, (*agentwire.FromMaster).GetTold); told.GetContainerId() != x.GetContainerId() {
			t.Errorf("asked for %v", told)
		}
	})
}

func TestShutdownAndMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.disk = 100
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		f.launch(f.offer(), "t1", executed(executorOf("e")))
		x := until(a, (*agentwire.FromMaster).GetRun)
		id, agent := &mesosv1.ExecutorID{Value: proto.String("e")}, &mesosv1.AgentID{Value: proto.String(a.id)}
		if err := f.do(&scheduler.Call{Type: scheduler.Call_MESSAGE.Enum(), Message: &scheduler.Call_Message{AgentId: agent, ExecutorId: id, Data: []byte("to")}}); err != nil {
			t.Fatal(err)
		}
		if m := until(a, (*agentwire.FromMaster).GetMessage); m.GetFrameworkId() != f.id || m.GetExecutorId() != "e" || string(m.GetData()) != "to" {
			t.Errorf("message %v", m)
		}
		a.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Message{Message: &agentwire.Message{FrameworkId: f.id, ExecutorId: "e", Data: []byte("from")}}})
		if m := f.next(scheduler.Event_MESSAGE).GetMessage(); m.GetAgentId().GetValue() != a.id || m.GetExecutorId().GetValue() != "e" || string(m.GetData()) != "from" {
			t.Errorf("message %v", m)
		}
		for _, known := range []bool{false, true} {
			if !known {
				id = &mesosv1.ExecutorID{Value: proto.String("other")}
			} else {
				id = &mesosv1.ExecutorID{Value: proto.String("e")}
			}
			if err := f.do(&scheduler.Call{Type: scheduler.Call_SHUTDOWN.Enum(), Shutdown: &scheduler.Call_Shutdown{AgentId: agent, ExecutorId: id}}); err != nil {
				t.Fatal(err)
			}
		}
		if k := until(a, (*agentwire.FromMaster).GetKill); k.GetContainerId() != x.GetContainerId() || k.GetGraceNs() >= 0 {
			t.Errorf("kill %v", k)
		}
		// Nothing more is given to it.
		f.launch(f.offersWithin(10 * time.Second)[0], "t2", executed(executorOf("e")))
		if st := f.update(mesosv1.TaskState_TASK_LOST); st.GetReason() != mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED {
			t.Errorf("told %v", st)
		}
		c.m.View(func(s *state.State) {
			if _, ok := s.TaskOf(state.FrameworkID(f.id), "t2"); ok {
				t.Error("t2 was launched")
			}
		})
	})
}
