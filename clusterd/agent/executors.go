package agent

import (
	"slices"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/executor"
	"github.com/mesolith/mesolith/clusterd/streams"
	"github.com/mesolith/mesolith/clusterd/task"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

// Executors are frameworks' own programs that run tasks. Each is a container like a task's;
// what it is given and what it reports goes over a stream and calls of its own, which
// executor_calls.go answers. Here is what the agent's loop does about them: it gives tasks
// to whoever is connected, ends who does not connect or has nothing to do, and sees to it
// that no task outlives its executor.

// Times of executors. An executor that lost its agent tries again within two seconds
// (MESOS_SUBSCRIPTION_BACKOFF_MAX), but the machine may be slow.
const (
	registerWithin  = time.Minute
	defaultShutdown = 5 * time.Second
)

// execution is what this program knows of an executor beside the journal: its stream, and
// what it is waited for.
type execution struct {
	stream *streams.Stream // nil: it is not connected
	known  bool            // it was connected, or ran before this program did
	had    bool            // there were tasks for it
	gave   bool            // it was given one of them, or may have been
	// until is when it has to be connected; zero: it need not yet.
	until time.Time
	// shutdown is when its container is ended, after it was asked to end by itself.
	shutdown time.Time
	// late is why we end it: it did not connect in time.
	late  *mesosv1.TaskStatus_Reason
	cpu   uint64 // what its container has, as last told to the keeper
	bytes uint64
}

// executorTask is an executor in the words of a task, for who runs containers.
func executorTask(info *mesosv1.ExecutorInfo, agentID string) *mesosv1.TaskInfo {
	grace := int64(defaultShutdown)
	if g := info.GetShutdownGracePeriod(); g != nil && g.GetNanoseconds() >= 0 {
		grace = g.GetNanoseconds()
	}
	return &mesosv1.TaskInfo{
		Name: proto.String(info.GetName()), TaskId: &mesosv1.TaskID{Value: proto.String(info.GetExecutorId().GetValue())},
		AgentId: &mesosv1.AgentID{Value: proto.String(agentID)}, Command: podInfo(info), Container: info.GetContainer(),
		Resources: info.GetResources(), Labels: info.GetLabels(),
		KillPolicy: &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(grace)}},
	}
}

// tasksOf are the tasks of an executor, in order of launch.
func (a *Agent) tasksOf(container string) []*task.Task {
	var out []*task.Task
	for _, id := range a.order {
		if t := a.tasks[id]; (t.Executed() || t.Inside()) && t.Execution.Container == container {
			out = append(out, t)
		}
	}
	return out
}

// live are those of tasks that have not ended.
func live(tasks []*task.Task) []*task.Task {
	return slices.DeleteFunc(tasks, func(t *task.Task) bool { return t.Terminal() || t.Tombstone })
}

// onRunMember begins with a task of an executor, a framework's or the built-in one: without
// its executor there is nothing to wait for.
func (a *Agent) onRunMember(t *task.Task) error {
	ex := a.tasks[t.Execution.Container]
	if ex == nil || ex.Terminal() || ex.Tombstone || ex.KillRequested {
		return a.happen(t, task.ExecutorGone{Stamp: stamp()})
	}
	if t.Executed() {
		t.Container = ex.Container
	}
	a.executionOf(ex.ContainerID).had = true
	for _, act := range task.Resume(*ex) { // it is begun with its first task
		if _, launch := act.(task.Launch); launch {
			a.do(ex, act)
		}
	}
	a.resize(ex)
	return a.endBroken([]*task.Task{t})
}

// executionOf gives the loop's knowledge of an executor, from its first moment on.
func (a *Agent) executionOf(container string) *execution {
	x := a.executions[container]
	if x == nil {
		x = &execution{}
		a.executions[container] = x
	}
	return x
}

// give sends a task to its executor, with all of its group, as soon as all of them are here.
func (a *Agent) give(t *task.Task) {
	x := a.executions[t.Execution.Container]
	if x == nil || x.stream == nil {
		return
	}
	if len(t.Execution.Group) == 0 {
		a.sent(x, &executor.Event{Type: executor.Event_LAUNCH.Enum(), Launch: &executor.Event_Launch{Task: t.Info}}, t)
		return
	}
	var group []*task.Task
	info := &mesosv1.TaskGroupInfo{}
	for _, id := range t.Execution.Group {
		member := a.tasks[id]
		if member == nil || member.Tombstone || member.Terminal() || member.Given != task.NotGiven {
			return // the rest of it comes, or it is ended as a whole
		}
		group = append(group, member)
		info.Tasks = append(info.Tasks, member.Info)
	}
	a.sent(x, &executor.Event{Type: executor.Event_LAUNCH_GROUP.Enum(), LaunchGroup: &executor.Event_LaunchGroup{TaskGroup: info}}, group...)
}

// sent sends tasks and notes that they were given. Should the stream break before they
// arrive, the executor says so when it is back.
func (a *Agent) sent(x *execution, e *executor.Event, tasks ...*task.Task) {
	if !x.stream.Send(streams.NewEvent(e)) {
		return
	}
	x.gave = true
	for _, t := range tasks {
		*t, _ = task.Next(*t, task.Gave{})
	}
}

func (a *Agent) killInExecutor(t *task.Task, grace time.Duration) {
	x := a.executions[t.Execution.Container]
	if x == nil || x.stream == nil {
		return // it is told when it is back
	}
	kill := &executor.Event_Kill{TaskId: t.Info.GetTaskId()}
	if grace >= 0 {
		kill.KillPolicy = &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(int64(grace))}}
	}
	x.stream.Send(streams.NewEvent(&executor.Event{Type: executor.Event_KILL.Enum(), Kill: kill}))
}

// killGroup ends all tasks of a group that its executor was not given yet: it never will be.
func (a *Agent) killGroup(t *task.Task, k task.Kill) error {
	if !t.Executed() || t.Given != task.NotGiven {
		return nil
	}
	for _, id := range t.Execution.Group {
		if member := a.tasks[id]; member != nil && member != t && member.Given == task.NotGiven && !member.Terminal() {
			k.Stamp = stamp()
			if err := a.happen(member, k); err != nil {
				return err
			}
		}
	}
	return nil
}

// endBroken ends what waits to be given and is of a group that will never be whole again:
// another of it ended before, or was given without it.
func (a *Agent) endBroken(tasks []*task.Task) error {
	for _, t := range live(tasks) {
		if !t.Executed() || t.Given != task.NotGiven {
			continue
		}
		broken := false
		for _, id := range t.Execution.Group {
			other := a.tasks[id]
			broken = broken || other != nil && (other.Terminal() || other.Tombstone || other.Given != task.NotGiven)
		}
		if broken {
			if err := a.happen(t, task.Kill{Stamp: stamp(), Grace: -1}); err != nil {
				return err
			}
		}
	}
	return nil
}

// endExecutor asks an executor to end, and ends its container when its grace is over. Who
// is not connected cannot be asked.
func (a *Agent) endExecutor(t *task.Task, grace time.Duration) {
	x := a.executionOf(t.ContainerID)
	if t.Execution.Inside {
		a.endPod(t, grace)
		return
	}
	if x.stream == nil || grace <= 0 {
		a.killContainer(t, grace)
		return
	}
	if at := time.Now().Add(grace); x.shutdown.IsZero() || at.Before(x.shutdown) {
		x.shutdown = at
		x.stream.Send(streams.NewEvent(&executor.Event{Type: executor.Event_SHUTDOWN.Enum()}))
	}
}

// beforeExecutorEnds ends the tasks of an executor whose container is gone: what they have
// not told they never will.
func (a *Agent) beforeExecutorEnds(ex *task.Task, c *keeper.Container) error {
	x := a.executionOf(ex.ContainerID)
	if x.stream != nil {
		x.stream.Close(nil)
		x.stream = nil
	}
	for _, t := range live(a.tasksOf(ex.ContainerID)) {
		if t.Inside() && t.Known {
			continue // its own container's end is told by the keeper
		}
		t.Container = c
		gone := task.ExecutorGone{Stamp: stamp(), Container: c, Reason: x.late}
		if x.late != nil {
			gone.Message = "executor " + ex.Execution.ID + " did not connect to its agent within " + registerWithin.String() + "; its output may say why"
		}
		if err := a.happen(t, gone); err != nil {
			return err
		}
	}
	return nil
}

// watchExecutors is the clock's part.
func (a *Agent) watchExecutors(now time.Time) error {
	for _, id := range append([]string(nil), a.order...) {
		t := a.tasks[id]
		switch {
		case t == nil || t.Terminal() || t.Tombstone:
		case t.Executes():
			if err := a.watchExecutor(t, now); err != nil {
				return err
			}
		case t.Executed(), t.Inside() && !t.Known:
			if ex := a.tasks[t.Execution.Container]; ex == nil || ex.Terminal() {
				if err := a.happen(t, task.ExecutorGone{Stamp: stamp()}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (a *Agent) watchExecutor(ex *task.Task, now time.Time) error {
	if ex.Execution.Inside {
		return a.watchPod(ex)
	}
	x := a.executionOf(ex.ContainerID)
	running := ex.Container.GetPhase() == keeper.Container_RUNNING
	switch {
	case !x.shutdown.IsZero() && now.After(x.shutdown):
		x.shutdown = time.Time{}
		a.killContainer(ex, 0)
		return nil
	case x.stream != nil || !running:
		x.until = time.Time{}
	case x.until.IsZero():
		x.until = now.Add(registerWithin)
	case now.After(x.until):
		if x.late == nil {
			a.log.Warn("an executor did not connect in time and is ended", "container", ex.ContainerID, "executor", ex.Execution.ID, "framework", ex.FrameworkID)
			x.late = mesosv1.TaskStatus_REASON_EXECUTOR_REGISTRATION_TIMEOUT.Enum()
			if x.known {
				x.late = mesosv1.TaskStatus_REASON_EXECUTOR_REREGISTRATION_TIMEOUT.Enum()
			}
		}
		a.killContainer(ex, 0) // until it has: the keeper may have been away
		return nil
	}
	drained, unneeded := a.drain.GetOn(), x.had && !x.gave // all that it was begun for was killed before
	if ex.KillRequested || !drained && !unneeded || len(live(a.tasksOf(ex.ContainerID))) > 0 {
		return nil
	}
	return a.happen(ex, task.Kill{Stamp: stamp(), Grace: -1})
}

// resize gives an executor's container what it and its tasks have together.
func (a *Agent) resize(ex *task.Task) {
	if !ex.Known || ex.Terminal() || a.keeper == nil {
		return // it is launched with it, or told when the keeper is back
	}
	l := a.sumOf(ex)
	x := a.executionOf(ex.ContainerID)
	if x.cpu == l.GetCpuMillis() && x.bytes == l.GetMemoryBytes() {
		return
	}
	x.cpu, x.bytes = l.GetCpuMillis(), l.GetMemoryBytes()
	a.keeper.send(&keeper.Request{Body: &keeper.Request_Resize{Resize: &keeper.Resize{
		ContainerId: ex.ContainerID, CpuMillis: x.cpu, MemoryBytes: x.bytes,
	}}})
}

// sumOf is what an executor and its tasks have, in the kernel's units.
func (a *Agent) sumOf(ex *task.Task) *keeper.Launch {
	l := &keeper.Launch{}
	for _, t := range append([]*task.Task{ex}, live(a.tasksOf(ex.ContainerID))...) {
		for _, r := range t.Info.GetResources() {
			addResource(l, r)
		}
	}
	return l
}

// launchExecutor adds to an executor's launch what its tasks have.
func (a *Agent) launchExecutor(ex *task.Task, l *keeper.Launch) {
	sum := a.sumOf(ex)
	l.Pod = ex.Execution.Inside
	l.Executor, l.CpuMillis, l.MemoryBytes, l.DiskBytes, l.Ports = true, sum.GetCpuMillis(), sum.GetMemoryBytes(), sum.GetDiskBytes(), sum.GetPorts()
	x := a.executionOf(ex.ContainerID)
	x.cpu, x.bytes = l.GetCpuMillis(), l.GetMemoryBytes()
}

// onMessage hands a framework's message to its executor; one that is not connected never
// gets it.
func (a *Agent) onMessage(m *agentwire.Message) {
	ex := a.executor(m.GetFrameworkId(), m.GetExecutorId())
	if ex != nil {
		if x := a.executions[ex.ContainerID]; x != nil && x.stream != nil {
			x.stream.Send(streams.NewEvent(&executor.Event{Type: executor.Event_MESSAGE.Enum(), Message: &executor.Event_Message{Data: m.GetData()}}))
			return
		}
	}
	a.log.Info("message to an executor that is not connected dropped", "framework", m.GetFrameworkId(), "executor", m.GetExecutorId(), "bytes", len(m.GetData()))
}

// executor finds one that has not ended.
func (a *Agent) executor(framework, id string) *task.Task {
	for _, container := range slices.Backward(a.order) {
		if t := a.tasks[container]; t.Executes() && t.FrameworkID == framework && t.Execution.ID == id && !t.Terminal() && !t.Tombstone {
			return t
		}
	}
	return nil
}
