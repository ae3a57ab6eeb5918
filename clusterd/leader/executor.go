package leader

import (
	"errors"
	"fmt"
	"slices"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/clusterd/streams"
	"github.com/mesolith/mesolith/clusterd/task"
	"github.com/mesolith/mesolith/internal/fault"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

// executorKey names an executor as its framework does.
type executorKey struct {
	framework state.FrameworkID
	agent     state.AgentID
	executor  state.ExecutorID
}

// beginning is an executor whose first launch is on its way into the state.
type beginning struct {
	info     *mesosv1.ExecutorInfo
	launches int
}

// Least that a task group's executor must have.
const (
	leastExecutorCPUs = 10     // thousandths
	leastExecutorMem  = 32_000 // thousandths of MB
)

// execution is a launch of tasks by an executor, while it is checked.
type execution struct {
	acc      *acceptance
	executor *mesosv1.ExecutorInfo
	tasks    []*mesosv1.TaskInfo
	group    bool
	reason   state.Reason // of what is not valid

	command state.LaunchTasks
	asks    state.Resources // of all tasks, and of the executor unless it is there
}

// invalid answers all of the tasks.
func (l *Leader) invalidAll(e *execution, why string) {
	for _, t := range e.tasks {
		l.invalid(e.acc, t, e.reason, why)
	}
}

// launchExecuted launches tasks that an executor is to run, all of them or none.
func (l *Leader) launchExecuted(acc *acceptance, executor *mesosv1.ExecutorInfo, tasks []*mesosv1.TaskInfo, group bool) {
	e := &execution{acc: acc, executor: executor, tasks: tasks, group: group, reason: state.ReasonTaskInvalid}
	if group {
		e.reason = state.ReasonTaskGroupInvalid
	}
	if err := l.checkExecution(e); err != nil {
		l.invalidAll(e, err.Error())
		return
	}
	if !acc.left.Hold(e.asks) {
		l.invalidAll(e, fmt.Sprintf("Task uses more resources %s than available %s", e.asks, acc.left))
		return
	}
	for _, t := range tasks {
		if key := (taskKey{acc.f.id, state.TaskID(t.GetTaskId().GetValue())}); l.isStarting(key) {
			l.invalidAll(e, l.duplicate(key))
			return
		}
	}
	done, err := l.underWay(acc.agent, holder{acc.role, acc.f.id}, e.asks)
	if err != nil {
		l.invalidAll(e, err.Error())
		return
	}
	acc.left, _ = acc.left.Minus(e.asks.Private())
	acc.open++
	begun := l.begin(executorKey{acc.f.id, acc.agent, e.command.Executor}, e.executor)
	for _, t := range tasks {
		l.starting[taskKey{acc.f.id, state.TaskID(t.GetTaskId().GetValue())}] = nil
	}
	l.nameUser(acc.f.id, executor.GetCommand().GetUser())
	l.propose(e.command, func(_ state.Result, err error) {
		begun()
		done()
		l.launched(e, err)
	})
}

func (l *Leader) isStarting(key taskKey) bool {
	_, ok := l.starting[key]
	return ok
}

// begin notes that an executor may be about to be there; the answer ends that.
func (l *Leader) begin(key executorKey, info *mesosv1.ExecutorInfo) (done func()) {
	b := l.beginnings[key]
	if b == nil {
		b = &beginning{info: info}
		l.beginnings[key] = b
	}
	b.launches++
	return func() {
		if b.launches--; b.launches == 0 {
			delete(l.beginnings, key)
		}
	}
}

// launched goes on when the log has answered.
func (l *Leader) launched(e *execution, err error) {
	var waiting []func()
	for _, t := range e.tasks {
		key := taskKey{e.acc.f.id, state.TaskID(t.GetTaskId().GetValue())}
		waiting = append(waiting, l.starting[key]...)
		delete(l.starting, key)
	}
	if err == nil {
		l.sendExecution(e.command)
	} else {
		left := err
		for _, t := range e.tasks {
			left = l.notLaunched(e.acc, t, e.reason, err)
		}
		err = left
	}
	if e.acc.broken {
		l.keepPromises(e.acc.agent)
	}
	e.acc.finish(err)
	for _, f := range waiting {
		f()
	}
}

// sendExecution has the agent begin: the executor first, without which it drops its tasks.
func (l *Leader) sendExecution(c state.LaunchTasks) {
	var executor state.ContainerID
	l.cfg.Machine.View(func(s *state.State) {
		if e, ok := s.Executor(c.Framework, c.Agent, c.Executor); ok && !e.Answered() {
			executor = e.ContainerID
		}
	})
	if executor != "" {
		l.sendRun(executor)
	}
	for _, t := range c.Tasks {
		fault.After(fault.LeaderLaunch, string(t.Container))
		l.sendRun(t.Container)
	}
}

// notLaunched answers a task that the log refused; what it returns nobody was told.
func (l *Leader) notLaunched(acc *acceptance, t *mesosv1.TaskInfo, invalid state.Reason, err error) error {
	id := state.TaskID(t.GetTaskId().GetValue())
	dropped := func(reason state.Reason) {
		l.tellStatus(acc.f, id, acc.agent, state.Status{
			State: state.TaskDropped, Source: state.SourceMaster, Reason: reason, Message: err.Error(), TimeNS: l.wallNS(),
		})
	}
	switch {
	case errors.Is(err, state.ErrAgentDeactivated):
		dropped(state.ReasonInvalidOffers)
	case errors.Is(err, state.ErrAgentUnknown), errors.Is(err, state.ErrAgentUnreachable):
		dropped(state.ReasonAgentRemoved)
	case errors.Is(err, state.ErrExecutorEnding):
		dropped(state.ReasonExecutorTerminated)
	case errors.Is(err, state.ErrTaskDuplicate):
		l.invalid(acc, t, invalid, l.duplicate(taskKey{acc.f.id, id}))
	case isRefusal(err):
		l.invalid(acc, t, invalid, err.Error())
	default:
		return err
	}
	return nil
}

// checkExecution holds tasks and executor to the rules, and words the command.
func (l *Leader) checkExecution(e *execution) error {
	acc := e.acc
	if err := checkExecutor(e.executor, acc.f.id, acc.role, e.group); err != nil {
		return err
	}
	e.executor, _ = proto.Clone(e.executor).(*mesosv1.ExecutorInfo)
	e.executor.FrameworkId = &mesosv1.FrameworkID{Value: proto.String(string(acc.f.id))}
	inject(e.executor.GetResources(), acc.role)
	own, err := fromWire(e.executor.GetResources())
	if err != nil {
		return fmt.Errorf("executor uses invalid resources: %w", err)
	}
	id := state.ExecutorID(e.executor.GetExecutorId().GetValue())
	there, err := l.sameExecutor(executorKey{acc.f.id, acc.agent, id}, e.executor)
	if err != nil {
		return err
	}
	if !there {
		e.asks = own
	}
	info, err := proto.MarshalOptions{AllowPartial: true, Deterministic: true}.Marshal(e.executor)
	if err != nil {
		return fmt.Errorf("executor cannot be stored: %w", err)
	}
	e.command = state.LaunchTasks{
		Framework: acc.f.id, Agent: acc.agent, Role: acc.role, Executor: id, Container: newContainerID(), Info: info, Resources: own,
		HostNetwork: l.hostNetwork(acc.role, e.executor.GetContainer()), Group: e.group,
	}
	for _, t := range e.tasks {
		given, err := l.checkGiven(e, t)
		if err != nil {
			return fmt.Errorf("task '%s' is invalid: %w", t.GetTaskId().GetValue(), err)
		}
		if e.asks, err = e.asks.Join(given.Resources); err != nil {
			return err
		}
		e.command.Tasks = append(e.command.Tasks, given)
	}
	return oneKind(e.asks)
}

// checkGiven is one of the tasks; the executor goes with each, as agents of Mesos have it.
func (l *Leader) checkGiven(e *execution, t *mesosv1.TaskInfo) (state.GivenTask, error) {
	if e.group {
		if err := checkGroupMember(t); err != nil {
			return state.GivenTask{}, err
		}
	}
	if builtIn(e.executor) && t.GetCommand() == nil && t.GetContainer() == nil {
		return state.GivenTask{}, fmt.Errorf("it has neither a command nor a container, and the DEFAULT executor runs nothing else")
	}
	t.Executor = e.executor
	asks, err := checkTask(t, e.acc.agent, e.acc.role, e.group)
	if err != nil {
		return state.GivenTask{}, err
	}
	if len(asks.Volumes()) > 0 {
		return state.GivenTask{}, fmt.Errorf("it has a persistent volume; of tasks that an executor runs only the executor can: put the volume into the executor's resources")
	}
	inject(t.GetResources(), e.acc.role)
	wire, err := proto.MarshalOptions{AllowPartial: true}.Marshal(t)
	if err != nil {
		return state.GivenTask{}, fmt.Errorf("it cannot be stored: %w", err)
	}
	container := newContainerID()
	fault.Of(string(container), t.GetTaskId().GetValue())
	return state.GivenTask{Container: container, Task: state.TaskID(t.GetTaskId().GetValue()), Name: t.GetName(), Info: wire, Resources: asks}, nil
}

// inject says of resources for which role they are allocated; old clients leave it out.
func inject(list []*mesosv1.Resource, role string) {
	for _, r := range list {
		if r.AllocationInfo == nil {
			r.AllocationInfo = &mesosv1.Resource_AllocationInfo{Role: proto.String(role)}
		}
	}
}

// sameExecutor says whether an executor is there, or about to be; as another one than it is
// it cannot be had.
func (l *Leader) sameExecutor(key executorKey, info *mesosv1.ExecutorInfo) (there bool, err error) {
	known := &mesosv1.ExecutorInfo{}
	if b := l.beginnings[key]; b != nil {
		there, known = true, b.info
	}
	l.cfg.Machine.View(func(s *state.State) {
		if e, ok := s.Executor(key.framework, key.agent, key.executor); ok {
			there = true
			err = proto.UnmarshalOptions{AllowPartial: true}.Unmarshal(e.Info, known)
		}
	})
	if err == nil && there && !proto.Equal(known, info) {
		err = fmt.Errorf("executor %s is there already with another ExecutorInfo; existing ExecutorInfo: %v, task's ExecutorInfo: %v", key.executor, known, info)
	}
	return there, err
}

// checkExecutor is what can be said of an ExecutorInfo by itself.
func checkExecutor(x *mesosv1.ExecutorInfo, framework state.FrameworkID, role string, group bool) error {
	if err := checkID("executor id", x.GetExecutorId().GetValue()); err != nil {
		return err
	}
	switch {
	case x.FrameworkId != nil && x.GetFrameworkId().GetValue() != string(framework):
		return fmt.Errorf("ExecutorInfo has an invalid FrameworkID (actual: %s vs expected: %s)", x.GetFrameworkId().GetValue(), framework)
	case builtIn(x) && (x.GetCommand() != nil && !proto.Equal(x.GetCommand(), &mesosv1.CommandInfo{})):
		return fmt.Errorf("'ExecutorInfo.command' must not be set for 'DEFAULT' executor")
	case builtIn(x) && x.GetContainer().GetMesos().GetImage() != nil:
		return fmt.Errorf("'ExecutorInfo.container.mesos.image' must not be set for 'DEFAULT' executor")
	case !builtIn(x) && x.GetCommand() == nil:
		return fmt.Errorf("'ExecutorInfo.command' must be set for 'CUSTOM' executor")
	case x.GetShutdownGracePeriod().GetNanoseconds() < 0:
		return fmt.Errorf("ExecutorInfo's 'shutdown_grace_period' must be non-negative")
	case group && isDocker(x.GetContainer()):
		return fmt.Errorf("'ExecutorInfo.container.type' must not be DOCKER in a task group")
	}
	for _, r := range x.GetResources() {
		if a := r.GetAllocationInfo(); a != nil && a.GetRole() != role {
			return fmt.Errorf("executor uses %s allocated to the role %q, its offers are of the role %q", r.GetName(), a.GetRole(), role)
		}
	}
	if why := unsupportedIn(x.GetCommand()); why != "" {
		return fmt.Errorf("executor: %s", why)
	}
	if !group {
		return nil
	}
	rs, err := fromWire(x.GetResources())
	switch {
	case err != nil:
		return fmt.Errorf("executor uses invalid resources: %w", err)
	case rs.Milli(state.CPUs) < leastExecutorCPUs || rs.Milli(state.Mem) < leastExecutorMem:
		return fmt.Errorf("executor of a task group needs at least 0.01 cpus and 32 MB of mem; it has %s", rs)
	case rs.Milli(state.Disk) == 0:
		return fmt.Errorf("executor of a task group needs disk; it has %s", rs)
	}
	return nil
}

// checkGroupMember is what a task of a group may not have.
func checkGroupMember(t *mesosv1.TaskInfo) error {
	switch {
	case t.GetExecutor() != nil:
		return fmt.Errorf("'TaskInfo.executor' must not be set in a task group: it has one for all")
	case isDocker(t.GetContainer()):
		return fmt.Errorf("'TaskInfo.container.type' must not be DOCKER in a task group")
	case len(t.GetContainer().GetNetworkInfos()) > 0 && (t.GetHealthCheck().GetHttp() != nil || t.GetHealthCheck().GetTcp() != nil):
		return fmt.Errorf("it has a network of its own and a health check over the network, which cannot be together in a task group")
	}
	return nil
}

// isDocker: the type has no meaning where there is no container.
func isDocker(c *mesosv1.ContainerInfo) bool {
	return c != nil && c.GetType() == mesosv1.ContainerInfo_DOCKER
}

// builtIn: the agent itself does what the executor would.
func builtIn(x *mesosv1.ExecutorInfo) bool { return x.GetType() == mesosv1.ExecutorInfo_DEFAULT }

// executorsOn are a framework's executors on an agent, as offers of that agent tell it: those
// that are there, and those that it has just launched.
func (l *Leader) executorsOn(s *state.State, framework state.FrameworkID, agent state.AgentID) []*mesosv1.ExecutorID {
	var ids []state.ExecutorID
	if f, ok := s.Framework(framework); ok {
		ids = f.ExecutorsOn(agent)
	}
	for key := range l.beginnings {
		if key.framework == framework && key.agent == agent && !slices.Contains(ids, key.executor) {
			ids = append(ids, key.executor)
		}
	}
	slices.Sort(ids)
	out := make([]*mesosv1.ExecutorID, 0, len(ids))
	for _, id := range ids {
		out = append(out, &mesosv1.ExecutorID{Value: proto.String(string(id))})
	}
	return out
}

// shutdown asks an executor to end.
func (l *Leader) shutdown(f *framework, c *scheduler.Call_Shutdown, answer func(error)) {
	var container state.ContainerID
	l.cfg.Machine.View(func(s *state.State) {
		if e, ok := s.Executor(f.id, state.AgentID(c.GetAgentId().GetValue()), state.ExecutorID(c.GetExecutorId().GetValue())); ok {
			container = e.ContainerID
		}
	})
	if container == "" {
		l.log.Info("shutdown of an executor that is not there dropped", "framework", f.id, "executor", c.GetExecutorId().GetValue(), "agent", c.GetAgentId().GetValue())
		l.count("master/dropped_messages")
		answer(nil)
		return
	}
	l.propose(state.KillTask{Container: container, Grace: -1}, func(_ state.Result, err error) {
		if err != nil && isRefusal(err) {
			err = nil // it ended meanwhile
		} else if err == nil {
			l.sendKill(container)
		}
		answer(err)
	})
}

// message hands a framework's words to its executor's agent; they may be lost.
func (l *Leader) message(f *framework, m *scheduler.Call_Message) {
	agent := l.agents[state.AgentID(m.GetAgentId().GetValue())]
	if agent == nil || agent.away {
		l.log.Info("message to an executor dropped: its agent is not attached", "framework", f.id, "executor", m.GetExecutorId().GetValue(), "agent", m.GetAgentId().GetValue())
		l.count("master/invalid_framework_to_executor_messages")
		return
	}
	l.count("master/valid_framework_to_executor_messages")
	l.toAgent(agent.id, &agentwire.FromMaster{Body: &agentwire.FromMaster_Message{Message: &agentwire.Message{
		FrameworkId: string(f.id), ExecutorId: m.GetExecutorId().GetValue(), Data: m.GetData(),
	}}})
}

// fromExecutor hands an executor's words to its framework; they may be lost.
func (l *Leader) fromExecutor(a *agent, m *agentwire.Message) {
	f := l.frameworks[state.FrameworkID(m.GetFrameworkId())]
	if f == nil {
		l.count("master/invalid_executor_to_framework_messages")
		return
	}
	l.count("master/valid_executor_to_framework_messages")
	l.send(f, streams.NewEvent(&scheduler.Event{Type: scheduler.Event_MESSAGE.Enum(), Message: &scheduler.Event_Message{
		AgentId:    &mesosv1.AgentID{Value: proto.String(string(a.id))},
		ExecutorId: &mesosv1.ExecutorID{Value: proto.String(m.GetExecutorId())},
		Data:       m.GetData(),
	}}))
}

// executorEnded tells a framework that an executor of its is no more, with its wait status.
func (l *Leader) executorEnded(e state.Event) {
	l.count("master/messages_exited_executor")
	l.send(l.frameworks[e.Framework], streams.NewEvent(&scheduler.Event{Type: scheduler.Event_FAILURE.Enum(), Failure: &scheduler.Event_Failure{
		AgentId:    &mesosv1.AgentID{Value: proto.String(string(e.Agent))},
		ExecutorId: &mesosv1.ExecutorID{Value: proto.String(string(e.Executor))},
		Status:     proto.Int32(waitStatus(e.Status)),
	}}))
}

// waitStatus is how an executor's container ended, as wait(2) has it, which its agent sends
// along as a label; -1: nobody knows.
func waitStatus(st state.Status) int32 {
	wire := &mesosv1.TaskStatus{}
	if (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(st.Wire, wire) != nil {
		return -1
	}
	for _, label := range wire.GetLabels().GetLabels() {
		var n int32
		if label.GetKey() == task.WaitStatusLabel {
			if _, err := fmt.Sscan(label.GetValue(), &n); err == nil {
				return n
			}
		}
	}
	return -1
}
