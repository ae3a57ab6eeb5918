package state

import (
	"bytes"
	"fmt"
	"slices"
)

// LaunchTask gives a task to an agent. It is refused when its resources are not free any
// more: what the leader promised is checked here again.
type LaunchTask struct {
	Container   ContainerID
	Task        TaskID
	Framework   FrameworkID
	Agent       AgentID
	Role        string
	Name        string
	Info        []byte
	Resources   Resources
	HostNetwork bool
}

func (LaunchTask) kind() kind { return kindLaunchTask }

func (c LaunchTask) encode(w *writer) {
	w.string(string(c.Container))
	w.string(string(c.Task))
	w.string(string(c.Framework))
	w.string(string(c.Agent))
	w.string(c.Role)
	w.string(c.Name)
	w.bytes(c.Info)
	w.resources(c.Resources)
	w.bool(c.HostNetwork)
}

func decodeLaunchTask(r *reader) Command {
	return LaunchTask{
		Container: ContainerID(r.string()), Task: TaskID(r.string()), Framework: FrameworkID(r.string()), Agent: AgentID(r.string()),
		Role: r.string(), Name: r.string(), Info: r.bytes(), Resources: r.resources(), HostNetwork: r.bool(),
	}
}

func (c LaunchTask) apply(s *State) (Result, error) {
	if c.Container == "" || c.Task == "" {
		return Result{}, fmt.Errorf("launch without ids: %w", ErrCommandInvalid)
	}
	f, a, err := s.launchable(c.Framework, c.Agent)
	switch {
	case err != nil:
		return Result{}, err
	case len(s.taskSlot) >= maxTasks:
		return Result{}, fmt.Errorf("%d tasks: %w", maxTasks, ErrListFull)
	case s.usedContainer(a, c.Container):
		return Result{}, fmt.Errorf("container %s: %w", c.Container, ErrContainerUsed)
	}
	if _, used := f.tasks[c.Task]; used {
		return Result{}, fmt.Errorf("task %s: %w", c.Task, ErrTaskDuplicate)
	}
	if free := a.Free(); !free.Hold(c.Resources) {
		return Result{}, fmt.Errorf("task %s asks %s, agent %s has %s free: %w", c.Task, c.Resources, c.Agent, free, ErrNoRoom)
	}
	if err := take(f, a, c.Role, c.Agent, c.Resources); err != nil {
		return Result{}, fmt.Errorf("task %s: %w", c.Task, err)
	}
	s.place(f, a, c.task(s))
	return Result{FrameworkID: c.Framework, AgentID: c.Agent}, nil
}

// task is the record of a task just launched.
func (c LaunchTask) task(s *State) Task {
	return Task{
		ContainerID: c.Container, TaskID: c.Task, FrameworkID: c.Framework, AgentID: c.Agent, Role: c.Role, Name: c.Name, Info: c.Info,
		Resources: c.Resources, HostNetwork: c.HostNetwork, LaunchedNS: s.timeNS, State: TaskStaging, KillGrace: -1,
	}
}

// UpdateTask is a status that an agent reported. Its uuid being another than the newest
// one's means that the newest one was acknowledged.
type UpdateTask struct {
	Container ContainerID
	Agent     AgentID
	UUID      []byte
	Data      []byte
	Latest    TaskState // newest on the agent, which may be ahead of Status
	Status    Status
}

func (UpdateTask) kind() kind { return kindUpdateTask }

func (c UpdateTask) encode(w *writer) {
	w.string(string(c.Container))
	w.string(string(c.Agent))
	w.bytes(c.UUID)
	w.bytes(c.Data)
	w.int(int64(c.Latest))
	w.status(c.Status)
}

func decodeUpdateTask(r *reader) Command {
	return UpdateTask{
		Container: ContainerID(r.string()), Agent: AgentID(r.string()), UUID: r.bytes(), Data: r.bytes(),
		Latest: TaskState(r.int()), Status: r.status(),
	}
}

func (c UpdateTask) apply(s *State) (Result, error) {
	slot, ok := s.taskSlot[c.Container]
	if !ok {
		return Result{}, fmt.Errorf("container %s: %w", c.Container, ErrTaskUnknown)
	}
	t := s.tasks.edit(slot)
	switch {
	case t.AgentID != c.Agent || len(c.UUID) == 0:
		return Result{}, fmt.Errorf("update of container %s by agent %s: %w", c.Container, c.Agent, ErrCommandInvalid)
	case bytes.Equal(t.UUID, c.UUID):
		return Result{FrameworkID: t.FrameworkID, AgentID: t.AgentID}, nil // the agent repeats itself
	case t.Answered() && t.Newest.State.Terminal() && len(t.Newest.Wire) > 0:
		return Result{}, fmt.Errorf("container %s: %w", c.Container, ErrTaskEnded)
	}
	t.UUID, t.Data, t.Acknowledged = c.UUID, c.Data, false
	t.State = c.Latest
	if c.Status.State.Terminal() {
		t.State = c.Status.State
	}
	t.noteNewest(c.Status)
	r := Result{FrameworkID: t.FrameworkID, AgentID: t.AgentID}
	if t.State.Terminal() {
		s.release(t)
	}
	if t.Orphan || t.IsExecutor() {
		// Nobody will acknowledge it: the cluster does.
		t.Acknowledged = true
		r.Events = append(r.Events, acknowledgeEvent(t))
		if c.Status.State.Terminal() {
			if t.IsExecutor() && !t.Orphan {
				r.Events = append(r.Events, Event{Change: ExecutorEnded, Framework: t.FrameworkID, Container: t.ContainerID, Agent: t.AgentID, Executor: t.Execution.ID, Status: c.Status})
			}
			r.Events = append(r.Events, s.dropTask(t)...)
		}
	}
	return r, nil
}

func acknowledgeEvent(t *Task) Event {
	return Event{Change: AcknowledgeWanted, Framework: t.FrameworkID, Task: t.TaskID, Container: t.ContainerID, Agent: t.AgentID, Status: Status{Wire: t.UUID}}
}

// release gives a task's resources back; they return at the terminal update, not at its
// acknowledgement.
func (s *State) release(t *Task) {
	if t.Released {
		return
	}
	t.Released = true
	var f *Framework
	var a *Agent
	if slot, ok := s.agentSlot[t.AgentID]; ok {
		a = s.agents.at(slot)
	}
	if slot, ok := s.frameworkSlot[t.FrameworkID]; ok {
		f = s.frameworks.at(slot)
	}
	giveBack(f, a, t.Role, t.AgentID, t.Resources)
}

// dropTask takes a task out of the state. Its agent is told to forget it until it says
// that it has.
func (s *State) dropTask(t *Task) []Event {
	s.release(t)
	if !t.IsExecutor() {
		s.finished = append(s.finished, *t)
	}
	container, framework, task, agent := t.ContainerID, t.FrameworkID, t.TaskID, t.AgentID
	slot := s.taskSlot[container]
	if fslot, ok := s.frameworkSlot[framework]; ok {
		s.frameworks.at(fslot).strike(t, slot)
	}
	delete(s.taskSlot, container)
	s.tasks.remove(slot)
	aslot, ok := s.agentSlot[agent]
	if !ok {
		return nil
	}
	a := s.agents.at(aslot)
	delete(a.tasks, container)
	a.forgets[container] = struct{}{}
	return []Event{{Change: ForgetWanted, Framework: framework, Task: task, Container: container, Agent: agent}}
}

// AcknowledgeUpdate is a framework's word that it has an update.
type AcknowledgeUpdate struct {
	Container ContainerID
	UUID      []byte
}

func (AcknowledgeUpdate) kind() kind { return kindAcknowledgeUpdate }

func (c AcknowledgeUpdate) encode(w *writer) {
	w.string(string(c.Container))
	w.bytes(c.UUID)
}

func decodeAcknowledgeUpdate(r *reader) Command {
	return AcknowledgeUpdate{Container: ContainerID(r.string()), UUID: r.bytes()}
}

func (c AcknowledgeUpdate) apply(s *State) (Result, error) {
	slot, ok := s.taskSlot[c.Container]
	if !ok {
		return Result{}, fmt.Errorf("container %s: %w", c.Container, ErrTaskUnknown)
	}
	t := s.tasks.edit(slot)
	if len(c.UUID) == 0 || !bytes.Equal(t.UUID, c.UUID) {
		return Result{}, fmt.Errorf("container %s: %w", c.Container, ErrNotNewest)
	}
	r := Result{FrameworkID: t.FrameworkID, AgentID: t.AgentID}
	t.Acknowledged = true
	r.Events = append(r.Events, acknowledgeEvent(t))
	if t.Newest.State.Terminal() {
		r.Events = append(r.Events, s.dropTask(t)...)
	}
	return r, nil
}

// KillTask writes down that a framework wants a task ended.
type KillTask struct {
	Container ContainerID
	Grace     int64 // ns; <0: as the task says
}

func (KillTask) kind() kind { return kindKillTask }

func (c KillTask) encode(w *writer) {
	w.string(string(c.Container))
	w.int(c.Grace)
}

func decodeKillTask(r *reader) Command {
	return KillTask{Container: ContainerID(r.string()), Grace: r.int()}
}

func (c KillTask) apply(s *State) (Result, error) {
	slot, ok := s.taskSlot[c.Container]
	if !ok {
		return Result{}, fmt.Errorf("container %s: %w", c.Container, ErrTaskUnknown)
	}
	t := s.tasks.edit(slot)
	if t.State.Terminal() {
		return Result{}, fmt.Errorf("container %s: %w", c.Container, ErrTaskEnded)
	}
	shorter := c.Grace >= 0 && (t.KillGrace < 0 || c.Grace < t.KillGrace)
	if !t.KillRequested || shorter {
		t.KillGrace = c.Grace
	}
	t.KillRequested = true
	return Result{FrameworkID: t.FrameworkID, AgentID: t.AgentID}, nil
}

// Forgets returns what an agent has been told to forget and has not confirmed.
func (a *Agent) Forgets() []ContainerID {
	out := make([]ContainerID, 0, len(a.forgets))
	for id := range a.forgets {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

func (w *writer) status(st Status) {
	w.int(int64(st.State))
	w.int(int64(st.Source))
	w.int(int64(st.Reason))
	w.string(st.Message)
	w.int(st.TimeNS)
	w.int(st.Unreached)
	w.bytes(st.Wire)
}

func (r *reader) status() Status {
	return Status{
		State: TaskState(r.int()), Source: Source(r.int()), Reason: Reason(r.int()), Message: r.string(),
		TimeNS: r.int(), Unreached: r.int(), Wire: r.bytes(),
	}
}

// restoreTask puts a task in its place and takes its resources.
func (s *State) restoreTask(t Task) error {
	slot := s.tasks.add(t)
	s.taskSlot[t.ContainerID] = slot
	var f *Framework
	var a *Agent
	if fslot, ok := s.frameworkSlot[t.FrameworkID]; ok && !t.Orphan {
		f = s.frameworks.at(fslot)
		f.noteIn(&t, slot)
	}
	if aslot, ok := s.agentSlot[t.AgentID]; ok {
		a = s.agents.at(aslot)
		a.tasks[t.ContainerID] = slot
	}
	if !t.Released {
		return take(f, a, t.Role, t.AgentID, t.Resources)
	}
	return nil
}
