package agent

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/executor"
	"github.com/mesolith/mesolith/clusterd/task"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

// begun is an executor that runs, is connected, and has the task c1.
func begun(t *testing.T) (*bench, *connected) {
	b := newBench(t)
	b.runExecutor()
	b.runTask("c1")
	b.must(b.a.onContainer(running()))
	c := b.subscribe(nil)
	c.next(executor.Event_LAUNCH)
	b.asked()
	b.told()
	return b, c
}

func TestExecutorIsBegunWithItsFirstTaskAndGrowsWithTheNext(t *testing.T) {
	b := newBench(t)
	b.runExecutor()
	if asked := b.asked(); len(asked) != 0 {
		t.Fatalf("without a task the keeper was asked %v", asked)
	}
	b.runTask("c1")
	asked := b.asked()
	if len(asked) != 1 {
		t.Fatalf("the keeper was asked %v", asked)
	}
	l := asked[0].GetLaunch()
	if l.GetContainerId() != executorContainer || l.GetExecutorId() != "e" || !l.GetExecutor() || l.GetCpuMillis() != 1100 || l.GetMemoryBytes() != 96<<20 {
		t.Errorf("launch %v", l)
	}
	env := map[string]string{}
	for _, v := range l.GetEnv() {
		env[v.GetName()] = v.GetValue()
	}
	if env["MESOS_EXECUTOR_ID"] != "e" || env["MESOS_FRAMEWORK_ID"] != "F" || env["MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD"] != "90secs" ||
		strings.Count(env["MESOS_EXECUTOR_AUTHENTICATION_TOKEN"], ".") != 2 || env["MESOS_TASK_ID"] != "" {
		t.Errorf("environment %v", env)
	}
	b.must(b.a.onContainer(running()))
	b.asked()
	b.runTask("c2")
	if asked := b.asked(); len(asked) != 1 || asked[0].GetResize().GetCpuMillis() != 2100 || asked[0].GetResize().GetMemoryBytes() != 160<<20 {
		t.Errorf("with a second task the keeper was asked %v", asked)
	}
	c := b.subscribe(nil)
	if got := c.next(executor.Event_LAUNCH).GetLaunch().GetTask().GetTaskId().GetValue(); got != "task-c1" {
		t.Errorf("first task %s", got)
	}
	c.next(executor.Event_LAUNCH)
	b.report(c, "c1", 1, mesosv1.TaskState_TASK_FINISHED)
	if asked := b.asked(); len(asked) != 1 || asked[0].GetResize().GetCpuMillis() != 1100 {
		t.Errorf("with one task less the keeper was asked %v", asked)
	}
}

func TestWhatAnExecutorReportsIsWrittenDownBeforeItHearsSo(t *testing.T) {
	b, c := begun(t)
	b.report(c, "c1", 1, mesosv1.TaskState_TASK_RUNNING)
	st := b.one(mesosv1.TaskState_TASK_RUNNING, noReason)
	if st.GetSource() != mesosv1.TaskStatus_SOURCE_EXECUTOR || st.GetExecutorId().GetValue() != "e" || st.GetAgentId().GetValue() != "S1" ||
		st.GetUuid()[0] != 1 || st.GetTimestamp() == 0 || st.GetContainerStatus().GetContainerId().GetValue() != executorContainer ||
		st.GetContainerStatus().GetNetworkInfos()[0].GetIpAddresses()[0].GetIpAddress() != "10.88.1.2" {
		t.Errorf("the leader is told %v", st)
	}
	// It repeats itself: the update is not told twice, the acknowledgement is.
	b.report(c, "c1", 1, mesosv1.TaskState_TASK_RUNNING)
	if again := b.told(); len(again) != 0 {
		t.Errorf("told twice: %v", again)
	}
	b.heard("c1", st)
	b.report(c, "c1", 2, mesosv1.TaskState_TASK_FINISHED)
	end := b.one(mesosv1.TaskState_TASK_FINISHED, noReason)
	b.heard("c1", end)
	b.report(c, "c1", 3, mesosv1.TaskState_TASK_RUNNING) // after its end
	b.report(c, "c7", 4, mesosv1.TaskState_TASK_RUNNING) // never given
	if more := b.told(); len(more) != 0 {
		t.Errorf("told %v", more)
	}
}

func TestTaskKilledBeforeItWasGivenNeverIs(t *testing.T) {
	b := newBench(t)
	b.runExecutor()
	b.runTask("c1")
	b.must(b.a.onContainer(running()))
	b.asked()
	b.kill("c1")
	b.one(mesosv1.TaskState_TASK_KILLED, mesosv1.TaskStatus_REASON_TASK_KILLED_DURING_LAUNCH)
	// There is nothing that the executor would be for.
	b.must(b.a.watchExecutors(time.Now()))
	if asked := b.asked(); len(asked) == 0 || asked[len(asked)-1].GetKill().GetContainerId() != executorContainer {
		t.Errorf("the keeper was asked %v", asked)
	}
	b.runTask("c2") // too late for it
	b.one(mesosv1.TaskState_TASK_DROPPED, mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED)
}

func TestExecutorIsToldToKillAndToShutDown(t *testing.T) {
	b, c := begun(t)
	b.kill("c1")
	if k := c.next(executor.Event_KILL).GetKill(); k.GetTaskId().GetValue() != "task-c1" || k.KillPolicy != nil {
		t.Errorf("KILL %v", k)
	}
	b.must(b.a.happen(b.a.tasks["c1"], task.Kill{Stamp: stamp(), Grace: time.Second}))
	if k := c.next(executor.Event_KILL).GetKill(); k.GetKillPolicy().GetGracePeriod().GetNanoseconds() != 1e9 {
		t.Errorf("KILL with a grace: %v", k)
	}
	b.report(c, "c1", 1, mesosv1.TaskState_TASK_KILLED)
	b.one(mesosv1.TaskState_TASK_KILLED, noReason)
	b.asked()
	b.kill(executorContainer)
	c.next(executor.Event_SHUTDOWN)
	b.must(b.a.watchExecutors(time.Now().Add(80 * time.Second)))
	if asked := b.asked(); len(asked) != 0 {
		t.Errorf("within its grace of 90 s the keeper was asked %v", asked)
	}
	b.must(b.a.watchExecutors(time.Now().Add(91 * time.Second)))
	if asked := b.asked(); len(asked) != 1 || asked[0].GetKill().GetGraceNs() != 0 {
		t.Errorf("after it the keeper was asked %v", asked)
	}
}

func TestGroupIsGivenWholeOrNotAtAll(t *testing.T) {
	b := newBench(t)
	b.runExecutor()
	b.runTask("c1", "c1", "c2")
	b.must(b.a.onContainer(running()))
	c := b.subscribe(nil)
	c.nothing()
	b.runTask("c2", "c1", "c2")
	if g := c.next(executor.Event_LAUNCH_GROUP).GetLaunchGroup().GetTaskGroup(); len(g.GetTasks()) != 2 {
		t.Errorf("group %v", g)
	}
	b.runTask("c3", "c3", "c4")
	b.told()
	b.kill("c3")
	b.one(mesosv1.TaskState_TASK_KILLED, mesosv1.TaskStatus_REASON_TASK_KILLED_DURING_LAUNCH)
	b.runTask("c4", "c3", "c4") // its like is gone
	b.kill("c4")
	b.one(mesosv1.TaskState_TASK_KILLED, mesosv1.TaskStatus_REASON_TASK_KILLED_DURING_LAUNCH)
	b.runTask("c5", "c5", "c6")
	b.runTask("c6", "c5", "c6")
	c.next(executor.Event_LAUNCH_GROUP)
	c.nothing()
}

// One of a group that waits for its executor is killed: all are.
func TestGroupThatWaitsIsKilledWhole(t *testing.T) {
	b := newBench(t)
	b.runExecutor()
	b.runTask("c1", "c1", "c2")
	b.runTask("c2", "c1", "c2")
	b.kill("c2")
	if all := b.told(); len(all) != 2 || all[0].GetState() != mesosv1.TaskState_TASK_KILLED || all[1].GetState() != mesosv1.TaskState_TASK_KILLED {
		t.Errorf("told %v", all)
	}
}

// clusterd dies and comes back. An executor that says what it has is given what it has not.
func TestExecutorComesBackToAnotherProgram(t *testing.T) {
	b, c := begun(t)
	b.runTask("c2")
	c.next(executor.Event_LAUNCH)
	b.report(c, "c1", 1, mesosv1.TaskState_TASK_RUNNING)
	b.runTask("c3") // its LAUNCH is lost with the connection
	b.again(running())
	for _, r := range b.asked() {
		if r.GetResize() == nil { // which does nothing the second time
			t.Fatalf("the keeper was asked %v", r)
		}
	}
	b.kill("c3") // nobody knows yet whether the executor has it
	b.told()
	info := func(id string) *mesosv1.TaskInfo {
		return &mesosv1.TaskInfo{TaskId: &mesosv1.TaskID{Value: proto.String("task-" + id)}}
	}
	b.runTask("c4")
	c = b.subscribe(&executor.Call_Subscribe{
		UnacknowledgedTasks: []*mesosv1.TaskInfo{info("c2")},
		UnacknowledgedUpdates: []*executor.Call_Update{
			{Status: status("c1", 1, mesosv1.TaskState_TASK_RUNNING)}, {Status: status("c2", 2, mesosv1.TaskState_TASK_RUNNING)},
		},
	})
	c.next(executor.Event_ACKNOWLEDGED)
	c.next(executor.Event_ACKNOWLEDGED)
	if got := c.next(executor.Event_LAUNCH).GetLaunch().GetTask().GetTaskId().GetValue(); got != "task-c4" {
		t.Errorf("it is given %s", got)
	}
	c.nothing()
	states := map[string]string{}
	for _, st := range b.told() {
		states[st.GetTaskId().GetValue()] += st.GetState().String() + " "
	}
	if states["task-c1"] != "" || states["task-c2"] != "TASK_RUNNING " || states["task-c3"] != "TASK_KILLED " {
		t.Errorf("told %v", states)
	}
}

// A journal that was written anew still knows which updates it has.
func TestUpdatesAreKnownAfterTheJournalWasRewritten(t *testing.T) {
	b, c := begun(t)
	b.report(c, "c1", 1, mesosv1.TaskState_TASK_STARTING)
	b.heard("c1", b.one(mesosv1.TaskState_TASK_STARTING, noReason))
	b.report(c, "c1", 2, mesosv1.TaskState_TASK_RUNNING)
	b.told()
	b.must(b.a.compact())
	b.again(running())
	got := b.a.tasks["c1"]
	if got.Latest != mesosv1.TaskState_TASK_RUNNING || len(got.Pending) != 1 || got.Pending[0].UUID[0] != 2 {
		t.Errorf("after the rewriting: %s, pending %v", got.Latest, got.Pending)
	}
	c = b.subscribe(&executor.Call_Subscribe{UnacknowledgedUpdates: []*executor.Call_Update{
		{Status: status("c1", 1, mesosv1.TaskState_TASK_STARTING)}, {Status: status("c1", 2, mesosv1.TaskState_TASK_RUNNING)},
	}})
	c.next(executor.Event_ACKNOWLEDGED)
	c.next(executor.Event_ACKNOWLEDGED)
	for _, st := range b.told() {
		if st.GetUuid()[0] != 2 { // which the framework has not acknowledged
			t.Errorf("told again: %v", st)
		}
	}
	if got := b.a.tasks["c1"]; len(got.Pending) != 1 {
		t.Errorf("pending %v", got.Pending)
	}
	x := b.a.tasks[executorContainer]
	if !x.Executes() || x.Execution.Info.GetCommand().GetValue() != "./executor" {
		t.Errorf("the executor after the rewriting: %+v", x.Execution)
	}
}

func TestTasksEndWithTheirExecutor(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*keeper.Container)
		reason mesosv1.TaskStatus_Reason
		says   string
	}{
		{"exit", func(c *keeper.Container) { c.WaitStatus = 3 << 8 }, mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED, "Command exited with status 3"},
		{"memory", func(c *keeper.Container) {
			c.Limitation, c.Message = keeper.Container_MEMORY, "Memory limit exceeded: x"
		}, mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY, "Memory limit exceeded"},
		{"disk", func(c *keeper.Container) { c.Limitation, c.Message = keeper.Container_DISK, "Disk limit exceeded: x" }, mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_DISK, "Disk limit exceeded"},
		{"never begun", func(c *keeper.Container) {
			c.Phase, c.Failure, c.Message = keeper.Container_FAILED, keeper.Container_IMAGE, "no such image"
		}, mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED, "no such image"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b, _ := begun(t)
			end := running()
			end.Phase, end.Sequence = keeper.Container_ENDED, 2
			test.change(end)
			b.must(b.a.onContainer(end))
			st := b.one(mesosv1.TaskState_TASK_FAILED, test.reason)
			if !strings.Contains(st.GetMessage(), test.says) || st.GetSource() != mesosv1.TaskStatus_SOURCE_AGENT {
				t.Errorf("told %v", st)
			}
			if !b.a.tasks[executorContainer].Terminal() {
				t.Error("the executor's own end is not told")
			}
		})
	}
}

func TestExecutorThatDoesNotConnectIsEnded(t *testing.T) {
	for _, back := range []bool{false, true} {
		b := newBench(t)
		b.runExecutor()
		b.runTask("c1")
		b.must(b.a.onContainer(running()))
		want := mesosv1.TaskStatus_REASON_EXECUTOR_REGISTRATION_TIMEOUT
		if back {
			b.again(running())
			want = mesosv1.TaskStatus_REASON_EXECUTOR_REREGISTRATION_TIMEOUT
		}
		b.asked()
		now := time.Now()
		b.must(b.a.watchExecutors(now))
		b.must(b.a.watchExecutors(now.Add(registerWithin - time.Second)))
		if asked := b.asked(); len(asked) != 0 {
			t.Fatalf("in time the keeper was asked %v", asked)
		}
		b.must(b.a.watchExecutors(now.Add(registerWithin + time.Second)))
		if asked := b.asked(); len(asked) != 1 || asked[0].GetKill().GetContainerId() != executorContainer {
			t.Fatalf("after its time the keeper was asked %v", asked)
		}
		end := running()
		end.Phase, end.Sequence, end.WaitStatus, end.KillRequested = keeper.Container_ENDED, 2, 9, true
		b.must(b.a.onContainer(end))
		b.one(mesosv1.TaskState_TASK_FAILED, want)
	}
}

func TestWhoCallsAsAnExecutor(t *testing.T) {
	b, _ := begun(t)
	ex := b.a.tasks[executorContainer]
	other := &task.Task{Facts: task.Facts{ContainerID: "x2", FrameworkID: "F", Execution: task.Execution{ID: "e", Container: "x2"}}}
	foreign := New(Config{})
	foreign.key = "another agent's"
	for _, test := range []struct {
		name string
		who  Caller
		says string // empty: it is let in
	}{
		{"its own address", owner, ""},
		{"its own address and token", Caller{From: owner.From, Token: b.a.token(ex)}, ""},
		{"another container's address", Caller{From: netip.MustParseAddrPort("10.88.1.3:40000")}, "its container's address is 10.88.1.2"},
		{"another executor's token", Caller{From: owner.From, Token: b.a.token(other)}, "another executor's"},
		{"another agent's token", Caller{From: owner.From, Token: foreign.token(ex)}, "not one of this agent's"},
		{"no token at all", Caller{From: owner.From, Token: "abc"}, "not one of this agent's"},
		{"a token without signature", Caller{From: owner.From, Token: "eyJhbGciOiJub25lIn0.eyJmaWQiOiJGIiwiZWlkIjoiZSIsImNpZCI6IngxIn0."}, "not one of this agent's"},
	} {
		err := b.a.identify(test.who, ex)
		if (err == nil) != (test.says == "") || err != nil && (!strings.Contains(err.Error(), test.says) || !errors.Is(err, ErrNotTheExecutor)) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	ex.Container = &keeper.Container{ContainerId: executorContainer, Phase: keeper.Container_RUNNING} // in the node's network, with no ids of its own
	b.a.cfg.Address = "192.0.2.7"
	for from, in := range map[string]bool{"127.0.0.1:9": true, "192.0.2.7:9": true, "192.0.2.8:9": false} {
		if err := b.a.identify(Caller{From: netip.MustParseAddrPort(from)}, ex); (err == nil) != in {
			t.Errorf("from %s: %v", from, err)
		}
	}
	ex.Container = &keeper.Container{ContainerId: executorContainer, Phase: keeper.Container_PREPARING}
	if err := b.a.identify(owner, ex); !errors.Is(err, ErrRecovering) {
		t.Errorf("before it runs: %v", err)
	}
	if _, err := b.a.calling(owner, &executor.Call{FrameworkId: &mesosv1.FrameworkID{Value: proto.String("G")}, ExecutorId: &mesosv1.ExecutorID{Value: proto.String("e")}}); !errors.Is(err, ErrExecutorUnknown) {
		t.Errorf("of another framework: %v", err)
	}
}

func TestUserOfASocket(t *testing.T) {
	list := []byte(`  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:13BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:9C40 0100007F:13BB 01 00000000:00000000 00:00000000 00000000 196608        0 2 1 0 20 4 30 10 -1
   2: 0000000000000000FFFF00000100007F:9C41 0000000000000000FFFF00000100007F:13BB 01 00000000:00000000 00:00000000 00000000 7 0 3 1
`)
	to := netip.MustParseAddrPort("127.0.0.1:5051")
	for port, want := range map[uint16]uint32{40000: 196608, 40001: 7} {
		if uid, ok := userOf(list, netip.AddrPortFrom(to.Addr(), port), to); !ok || uid != want {
			t.Errorf("port %d: user %d %v, want %d", port, uid, ok, want)
		}
	}
	if uid, ok := userOf(list, netip.MustParseAddrPort("127.0.0.1:40002"), to); ok {
		t.Errorf("nobody's socket is user %d's", uid)
	}
}

func FuzzUserOfASocket(f *testing.F) {
	f.Add([]byte("   1: 0100007F:9C40 0100007F:13BB 01 00000000:00000000 00:00000000 00000000 196608        0 2 1\n"))
	f.Add([]byte("   1: 0000000000000000FFFF00000100007F:9C40 :13BB\n"))
	f.Fuzz(func(t *testing.T, list []byte) {
		userOf(list, netip.MustParseAddrPort("127.0.0.1:40000"), netip.MustParseAddrPort("127.0.0.1:5051"))
	})
}
