package agent

import (
	"errors"
	"testing"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/executor"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

// A group waits for its executor, and is given to it as it subscribes: each of them has been
// given, whichever is killed then.
func TestGroupThatWaitedIsGiven(t *testing.T) {
	b := newBench(t)
	b.runExecutor()
	b.runTask("c1", "c1", "c2")
	b.runTask("c2", "c1", "c2")
	b.must(b.a.onContainer(running()))
	c := b.subscribe(nil)
	c.next(executor.Event_LAUNCH_GROUP)
	b.kill("c2")
	if k := c.next(executor.Event_KILL).GetKill(); k.GetTaskId().GetValue() != "task-c2" {
		t.Errorf("KILL %v", k)
	}
	if all := b.told(); len(all) != 0 {
		t.Errorf("told %v of tasks that the executor has", all)
	}
}

// One of a group was killed while nobody knew whether the executor has it: it has not, and
// the rest is ended with it.
func TestRestOfABrokenGroupEnds(t *testing.T) {
	b := newBench(t)
	b.runExecutor()
	b.runTask("c1", "c1", "c2")
	b.runTask("c2", "c1", "c2")
	b.again(running())
	b.kill("c1")
	if all := b.told(); len(all) != 0 {
		t.Errorf("told %v before the executor is asked", all)
	}
	c := b.subscribe(nil)
	c.nothing()
	if all := b.told(); len(all) != 2 || all[0].GetState() != mesosv1.TaskState_TASK_KILLED || all[1].GetState() != mesosv1.TaskState_TASK_KILLED {
		t.Errorf("told %v", all)
	}
}

// The kill of an executor that does not connect is repeated until it is no more.
func TestLateExecutorIsKilledAgain(t *testing.T) {
	b := newBench(t)
	b.runExecutor()
	b.runTask("c1")
	b.must(b.a.onContainer(running()))
	now := time.Now()
	b.must(b.a.watchExecutors(now))
	b.asked()
	for range 2 {
		b.must(b.a.watchExecutors(now.Add(registerWithin + time.Second)))
		if asked := b.asked(); len(asked) != 1 || asked[0].GetKill() == nil {
			t.Fatalf("the keeper was asked %v", asked)
		}
	}
}

// What grew while isolated was away is told when it is back.
func TestResizeIsNotLostWithTheKeeper(t *testing.T) {
	b, _ := begun(t)
	k := b.a.keeper
	b.a.keeper = nil
	b.runTask("c2")
	b.must(b.a.onList(k, []*keeper.Container{running()}))
	grown := false
	for _, r := range b.asked() {
		grown = grown || r.GetResize().GetCpuMillis() == 2100
	}
	if !grown {
		t.Error("the keeper does not hear that the executor has a second task")
	}
}

func TestUpdatesThatNobodyAcknowledgesHaveABound(t *testing.T) {
	b, c := begun(t)
	ex := b.a.tasks[executorContainer]
	for i := range maxPending {
		st := status("c1", 0, mesosv1.TaskState_TASK_RUNNING)
		st.Uuid[0], st.Uuid[1] = byte(i), byte(i>>8)+1
		b.must(b.a.reported(ex, st))
		c.next(executor.Event_ACKNOWLEDGED)
		for len(b.leader.out) > 0 {
			<-b.leader.out
		}
	}
	if err := b.a.reported(ex, status("c1", 250, mesosv1.TaskState_TASK_RUNNING)); !errors.Is(err, ErrTooMany) {
		t.Errorf("one more: %v", err)
	}
	b.must(b.a.reported(ex, status("c1", 251, mesosv1.TaskState_TASK_FINISHED))) // its end is always taken
}

// pod runs a group of the built-in executor.
func (b *bench) pod(ids ...string) {
	b.t.Helper()
	x := &mesosv1.ExecutorInfo{Type: mesosv1.ExecutorInfo_DEFAULT.Enum(), ExecutorId: &mesosv1.ExecutorID{Value: proto.String("e")}}
	raw, err := proto.Marshal(x)
	b.must(err)
	b.must(b.a.onOrder(&agentwire.FromMaster{Body: &agentwire.FromMaster_Run{Run: &agentwire.Run{
		ContainerId: executorContainer, FrameworkId: "F", Role: "*", TaskInfo: raw, ExecutorId: "e", ExecutorContainer: executorContainer,
	}}}))
	for _, id := range ids {
		info, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.TaskInfo{
			TaskId: &mesosv1.TaskID{Value: proto.String("task-" + id)}, Executor: x, Command: &mesosv1.CommandInfo{Value: proto.String("true")},
		})
		b.must(err)
		b.must(b.a.onOrder(&agentwire.FromMaster{Body: &agentwire.FromMaster_Run{Run: &agentwire.Run{
			ContainerId: id, FrameworkId: "F", Role: "*", TaskInfo: info, ExecutorId: "e", ExecutorContainer: executorContainer, Group: ids,
		}}}))
	}
}

// A pod that cannot be started takes its tasks along, and says why.
func TestTasksOfAPodThatCannotStart(t *testing.T) {
	b := newBench(t)
	b.pod("c1", "c2")
	b.told()
	b.must(b.a.onContainer(&keeper.Container{ContainerId: executorContainer, Phase: keeper.Container_FAILED, Failure: keeper.Container_NETWORK, Message: "no address is left", Sequence: 1}))
	all := b.told()
	if len(all) != 2 {
		t.Fatalf("told %v", all)
	}
	for _, st := range all {
		if st.GetState() != mesosv1.TaskState_TASK_FAILED || st.GetReason() != mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED {
			t.Errorf("told %v", st)
		}
	}
}

// A group that comes for a pod which is ending is lost, not forgotten.
func TestGroupForAPodThatEnds(t *testing.T) {
	b := newBench(t)
	b.pod("c1")
	b.must(b.a.onContainer(running()))
	b.must(b.a.onContainer(&keeper.Container{ContainerId: "c1", Phase: keeper.Container_ENDED, Sequence: 2}))
	b.told()
	if !b.a.tasks[executorContainer].KillRequested {
		t.Fatal("a pod whose last task has ended is not ended")
	}
	b.pod("c2")
	b.one(mesosv1.TaskState_TASK_LOST, mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED)
}

// clusterd dies between the records of a pod and of its first task: the pod waits for it.
func TestPodWaitsForItsFirstTask(t *testing.T) {
	b := newBench(t)
	b.pod()
	b.a = reopened(t, b.a)
	b.a.id = "S1"
	b.wire(b.a, b.keeper)
	b.must(b.a.watchExecutors(time.Now()))
	if b.a.tasks[executorContainer].KillRequested {
		t.Error("it is ended before its task comes")
	}
	b.pod("c1")
	launched := false
	for _, r := range b.asked() {
		launched = launched || r.GetLaunch().GetContainerId() == executorContainer && r.GetLaunch().GetPod()
	}
	if !launched {
		t.Error("the pod is not begun with its first task")
	}
}
