package state

import (
	"iter"
	"maps"
	"slices"
)

// An executor is a framework's program on an agent that runs tasks of that framework. It
// has a container, and in the state a record as a task has: its resources are held, its
// container is begun, killed, reported and forgotten in the same way. What differs: it has
// no task id, its Info is a mesos.v1.ExecutorInfo, and its framework hears of its end only,
// by an event that needs no acknowledgement.

// ExecutorID is the framework's own, and unique among its executors on one agent.
type ExecutorID string

// executorKey is what an executor is known by among those of its framework.
type executorKey struct {
	agent AgentID
	id    ExecutorID
}

// Execution is what a record has to do with an executor.
type Execution struct {
	// ID is of the executor that the task belongs to, or that this is. Empty: the task is
	// run by its command.
	ID ExecutorID
	// Container is the executor's; of an executor, its own.
	Container ContainerID
	// Group are the containers of tasks that were launched together: all of them or none is
	// given to the executor. It never changes.
	Group []ContainerID
}

// IsExecutor says whether the record is an executor's.
func (t *Task) IsExecutor() bool {
	return t.Execution.ID != "" && t.Execution.Container == t.ContainerID
}

// Executor returns a framework's executor on an agent that has not ended; read only, as
// Framework.
func (s *State) Executor(framework FrameworkID, agent AgentID, id ExecutorID) (*Task, bool) {
	f, ok := s.Framework(framework)
	if !ok {
		return nil, false
	}
	slot, ok := f.executors[executorKey{agent, id}]
	if !ok {
		return nil, false
	}
	return s.tasks.at(slot), true
}

// ExecutorsOn are a framework's executors on an agent that have not ended, in their order.
func (f *Framework) ExecutorsOn(agent AgentID) []ExecutorID {
	var out []ExecutorID
	for key := range f.executors {
		if key.agent == agent {
			out = append(out, key.id)
		}
	}
	slices.Sort(out)
	return out
}

// Executors yields all executors.
func (s *State) Executors() iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		for t := range s.tasks.all() {
			if t.IsExecutor() && !yield(t) {
				return
			}
		}
	}
}

// ContainersOfAgent yields all that holds resources of an agent, tasks and executors, the
// executors first: a task is nothing without its own.
func (s *State) ContainersOfAgent(id AgentID) iter.Seq[*Task] {
	return s.containersOfAgent(id, s.tasks.at)
}

func (s *State) containersOfAgent(id AgentID, at func(int32) *Task) iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		a, ok := s.Agent(id)
		if !ok {
			return
		}
		all := slices.Sorted(maps.Keys(a.tasks))
		for _, executors := range []bool{true, false} {
			for _, container := range all {
				slot, there := a.tasks[container]
				if !there || s.tasks.at(slot).IsExecutor() != executors {
					continue
				}
				if !yield(at(slot)) {
					return
				}
			}
		}
	}
}

// containersOfFramework yields a framework's tasks and then its executors, to be changed.
func (s *State) containersOfFramework(id FrameworkID) iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		for t := range s.tasksOfFramework(id, s.tasks.edit) {
			if !yield(t) {
				return
			}
		}
		f, ok := s.Framework(id)
		if !ok {
			return
		}
		slots := make([]int32, 0, len(f.executors))
		for _, slot := range f.executors {
			slots = append(slots, slot)
		}
		slices.SortFunc(slots, func(a, b int32) int {
			return compareStrings(string(s.tasks.at(a).ContainerID), string(s.tasks.at(b).ContainerID))
		})
		for _, slot := range slots {
			if !yield(s.tasks.edit(slot)) {
				return
			}
		}
	}
}

// noteIn puts a record where its framework finds it.
func (f *Framework) noteIn(t *Task, slot int32) {
	if t.IsExecutor() {
		f.executors[executorKey{t.AgentID, t.Execution.ID}] = slot
		return
	}
	f.tasks[t.TaskID] = slot
}

// strike takes a record out of what its framework knows, if it is still this one.
func (f *Framework) strike(t *Task, slot int32) {
	key := executorKey{t.AgentID, t.Execution.ID}
	switch {
	case t.IsExecutor() && f.executors[key] == slot:
		delete(f.executors, key)
	case !t.IsExecutor() && f.tasks[t.TaskID] == slot:
		delete(f.tasks, t.TaskID)
	}
}

func (w *writer) execution(e Execution) {
	w.string(string(e.ID))
	w.string(string(e.Container))
	w.uint(uint64(len(e.Group)))
	for _, id := range e.Group {
		w.string(string(id))
	}
}

func (r *reader) execution() Execution {
	e := Execution{ID: ExecutorID(r.string()), Container: ContainerID(r.string())}
	for range r.count() {
		e.Group = append(e.Group, ContainerID(r.string()))
	}
	return e
}
