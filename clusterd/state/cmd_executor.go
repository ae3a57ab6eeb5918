package state

import (
	"fmt"
)

// LaunchTasks gives tasks to an executor of an agent, all of them or none. An executor that
// is not there yet is begun with them, and holds resources of its own from then on.
type LaunchTasks struct {
	Framework FrameworkID
	Agent     AgentID
	Role      string

	Executor    ExecutorID
	Container   ContainerID // of the executor, should it not be there yet
	Info        []byte      // mesos.v1.ExecutorInfo
	Resources   Resources   // of the executor
	HostNetwork bool

	// Group: the executor is given all of the tasks at once.
	Group bool
	Tasks []GivenTask
}

// GivenTask is one of the tasks of a LaunchTasks.
type GivenTask struct {
	Container ContainerID
	Task      TaskID
	Name      string
	Info      []byte // mesos.v1.TaskInfo
	Resources Resources
}

// maxGroup bounds how many tasks are launched together.
const maxGroup = 1024

func (LaunchTasks) kind() kind { return kindLaunchTasks }

func (c LaunchTasks) encode(w *writer) {
	w.string(string(c.Framework))
	w.string(string(c.Agent))
	w.string(c.Role)
	w.string(string(c.Executor))
	w.string(string(c.Container))
	w.bytes(c.Info)
	w.resources(c.Resources)
	w.bool(c.HostNetwork)
	w.bool(c.Group)
	w.uint(uint64(len(c.Tasks)))
	for _, t := range c.Tasks {
		w.string(string(t.Container))
		w.string(string(t.Task))
		w.string(t.Name)
		w.bytes(t.Info)
		w.resources(t.Resources)
	}
}

func decodeLaunchTasks(r *reader) Command {
	c := LaunchTasks{
		Framework: FrameworkID(r.string()), Agent: AgentID(r.string()), Role: r.string(), Executor: ExecutorID(r.string()),
		Container: ContainerID(r.string()), Info: r.bytes(), Resources: r.resources(), HostNetwork: r.bool(), Group: r.bool(),
	}
	for range r.count() {
		c.Tasks = append(c.Tasks, GivenTask{
			Container: ContainerID(r.string()), Task: TaskID(r.string()), Name: r.string(), Info: r.bytes(), Resources: r.resources(),
		})
	}
	return c
}

func (c LaunchTasks) apply(s *State) (Result, error) {
	f, a, err := s.launchable(c.Framework, c.Agent)
	if err != nil {
		return Result{}, err
	}
	executor, there := s.Executor(c.Framework, c.Agent, c.Executor)
	if err := c.check(s, f, a, executor); err != nil {
		return Result{}, err
	}
	var bags []Resources
	if !there {
		bags = append(bags, c.Resources)
	}
	for _, t := range c.Tasks {
		bags = append(bags, t.Resources)
	}
	var asks Resources
	for _, rs := range bags {
		if asks, err = asks.Join(rs); err != nil {
			return Result{}, fmt.Errorf("tasks of executor %s: %w", c.Executor, err)
		}
	}
	if free := a.Free(); !free.Hold(asks) {
		return Result{}, fmt.Errorf("tasks of executor %s ask %s, agent %s has %s free: %w", c.Executor, asks, c.Agent, free, ErrNoRoom)
	}
	if err := take(f, a, c.Role, c.Agent, bags...); err != nil {
		return Result{}, fmt.Errorf("executor %s: %w", c.Executor, err)
	}
	execution := Execution{ID: c.Executor, Container: c.Container}
	if there {
		execution.Container = executor.ContainerID
	} else {
		s.place(f, a, Task{
			ContainerID: c.Container, FrameworkID: c.Framework, AgentID: c.Agent, Role: c.Role, Info: c.Info, Resources: c.Resources,
			HostNetwork: c.HostNetwork, LaunchedNS: s.timeNS, State: TaskStaging, KillGrace: -1, Execution: execution,
		})
	}
	if c.Group {
		for _, t := range c.Tasks {
			execution.Group = append(execution.Group, t.Container)
		}
	}
	for _, t := range c.Tasks {
		s.place(f, a, Task{
			ContainerID: t.Container, TaskID: t.Task, FrameworkID: c.Framework, AgentID: c.Agent, Role: c.Role, Name: t.Name, Info: t.Info,
			Resources: t.Resources, LaunchedNS: s.timeNS, State: TaskStaging, KillGrace: -1, Execution: execution,
		})
	}
	return Result{FrameworkID: c.Framework, AgentID: c.Agent}, nil
}

// check says what keeps the tasks from being launched, resources aside. executor is the one
// that is there already; nil: none.
func (c LaunchTasks) check(s *State, f *Framework, a *Agent, executor *Task) error {
	if c.Executor == "" || c.Container == "" || len(c.Tasks) == 0 || len(c.Tasks) > maxGroup {
		return fmt.Errorf("launch of %d tasks by executor %q: %w", len(c.Tasks), c.Executor, ErrCommandInvalid)
	}
	if executor != nil && (executor.KillRequested || executor.State.Terminal()) {
		return fmt.Errorf("executor %s on agent %s: %w", c.Executor, c.Agent, ErrExecutorEnding)
	}
	if len(s.taskSlot)+len(c.Tasks) >= maxTasks {
		return fmt.Errorf("%d tasks: %w", maxTasks, ErrListFull)
	}
	containers, ids := map[ContainerID]bool{}, map[TaskID]bool{}
	if executor == nil {
		containers[c.Container] = true
		if s.usedContainer(a, c.Container) {
			return fmt.Errorf("container %s: %w", c.Container, ErrContainerUsed)
		}
	}
	for _, t := range c.Tasks {
		switch {
		case t.Container == "" || t.Task == "":
			return fmt.Errorf("launch without ids: %w", ErrCommandInvalid)
		case containers[t.Container] || s.usedContainer(a, t.Container):
			return fmt.Errorf("container %s: %w", t.Container, ErrContainerUsed)
		case ids[t.Task]:
			return fmt.Errorf("task %s: %w", t.Task, ErrTaskDuplicate)
		}
		if _, used := f.tasks[t.Task]; used {
			return fmt.Errorf("task %s: %w", t.Task, ErrTaskDuplicate)
		}
		containers[t.Container], ids[t.Task] = true, true
	}
	return nil
}

// launchable finds where something is to be launched, or says why it cannot be.
func (s *State) launchable(framework FrameworkID, agent AgentID) (*Framework, *Agent, error) {
	fslot, ok := s.frameworkSlot[framework]
	if !ok {
		return nil, nil, s.frameworkError(framework)
	}
	aslot, ok := s.agentSlot[agent]
	if !ok {
		return nil, nil, fmt.Errorf("agent %s: %w", agent, ErrAgentUnknown)
	}
	a := s.agents.at(aslot)
	switch {
	case a.Unreachable:
		return nil, nil, fmt.Errorf("agent %s: %w", agent, ErrAgentUnreachable)
	case a.Adopting:
		return nil, nil, fmt.Errorf("agent %s: %w", agent, ErrAgentAdopting)
	case a.Deactivated:
		return nil, nil, fmt.Errorf("agent %s: %w", agent, ErrAgentDeactivated)
	}
	return s.frameworks.at(fslot), a, nil
}

func (s *State) usedContainer(a *Agent, id ContainerID) bool {
	_, held := s.taskSlot[id]
	_, ended := a.forgets[id]
	return held || ended
}

// place puts a record where it is found; its resources are taken already.
func (s *State) place(f *Framework, a *Agent, t Task) {
	slot := s.tasks.add(t)
	s.taskSlot[t.ContainerID], a.tasks[t.ContainerID] = slot, slot
	f.noteIn(&t, slot)
}

// AdoptExecution makes an executor known that runs on an agent that is being adopted, or a
// task of one.
type AdoptExecution struct {
	AdoptTask
	Execution Execution
}

func (AdoptExecution) kind() kind { return kindAdoptExecution }

func (c AdoptExecution) encode(w *writer) {
	c.AdoptTask.encode(w)
	w.execution(c.Execution)
}

func decodeAdoptExecution(r *reader) Command {
	task, _ := decodeAdoptTask(r).(AdoptTask)
	return AdoptExecution{AdoptTask: task, Execution: r.execution()}
}

func (c AdoptExecution) apply(s *State) (Result, error) {
	if c.Execution.ID == "" || c.Execution.Container == "" || len(c.Execution.Group) > maxGroup {
		return Result{}, fmt.Errorf("adoption of an execution without ids: %w", ErrCommandInvalid)
	}
	return c.adopt(s, c.Execution)
}
