package state

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// executed is a launch of tasks by an executor, with containers that are told apart by numbers.
func executed(t testing.TB, f FrameworkID, a AgentID, executor string, container int, tasks ...int) LaunchTasks {
	c := LaunchTasks{
		Framework: f, Agent: a, Role: "*", Executor: ExecutorID(executor), Container: ContainerID(fmt.Sprint("c", container)),
		Info: []byte("executor"), Resources: bag(t, 1, 32),
	}
	for _, n := range tasks {
		c.Tasks = append(c.Tasks, GivenTask{Container: ContainerID(fmt.Sprint("c", n)), Task: TaskID(fmt.Sprint("t", n)), Info: []byte{1}, Resources: bag(t, 1, 8)})
	}
	return c
}

func randomExecution(r *rand.Rand, t testing.TB, f FrameworkID, a AgentID) Command {
	executor := []string{"e1", "e2"}[r.IntN(2)]
	if r.IntN(4) == 0 {
		n := ContainerID(fmt.Sprint("c", r.IntN(12)))
		adopt := AdoptExecution{AdoptTask{LaunchTask: launch(f, a, r.IntN(12), bag(t, 1, 8)), State: TaskRunning, KillGrace: -1}, Execution{ID: ExecutorID(executor), Container: n}}
		if r.IntN(2) == 0 {
			adopt.Task, adopt.Container = "", n
		}
		return adopt
	}
	c := executed(t, f, a, executor, r.IntN(12), r.IntN(12), r.IntN(12))
	if r.IntN(2) == 0 {
		c.Tasks = c.Tasks[:1]
	}
	c.Group = r.IntN(2) == 0
	return c
}

func (c *cluster) used(a AgentID) string {
	var used string
	c.m.View(func(s *State) {
		agent, _ := s.Agent(a)
		used = agent.Used().String()
	})
	return used
}

// An executor holds resources of its own, once, however many tasks it is given, and until
// it has ended itself.
func TestExecutorHoldsItsResourcesOnce(t *testing.T) {
	c := newCluster(t)
	f, a := c.framework(), c.agent("n1")
	c.do(executed(t, f, a, "e", 1, 2))
	c.do(executed(t, f, a, "e", 7, 3)) // the container is not needed
	if got, want := c.used(a), bag(t, 3, 48).String(); got != want {
		t.Errorf("used %s, want %s", got, want)
	}
	c.m.View(func(s *State) {
		e, ok := s.Executor(f, a, "e")
		if !ok || !e.IsExecutor() || e.ContainerID != "c1" || string(e.Info) != "executor" {
			t.Errorf("executor %+v", e)
		}
		second, _ := s.TaskOf(f, "t3")
		if second.Execution.Container != "c1" || second.IsExecutor() {
			t.Errorf("second task %+v", second.Execution)
		}
		tasks := 0
		for range s.Tasks() {
			tasks++
		}
		if tasks != 2 {
			t.Errorf("%d tasks", tasks)
		}
	})
	c.refused(executed(t, f, a, "e", 8, 4, 5), ErrNoRoom) // one would fit
	c.do(report(a, 2, 1, TaskFinished))
	c.do(report(a, 3, 2, TaskFailed))
	if got, want := c.used(a), bag(t, 1, 32).String(); got != want {
		t.Errorf("with the tasks ended, used %s, want %s", got, want)
	}
	r := c.do(report(a, 1, 3, TaskRunning))
	if len(r.Events) != 1 || r.Events[0].Change != AcknowledgeWanted {
		t.Errorf("an executor's update is acknowledged by the cluster: %+v", r.Events)
	}
	r = c.do(report(a, 1, 4, TaskFinished))
	var ended []Event
	for _, e := range r.Events {
		if e.Change == ExecutorEnded {
			ended = append(ended, e)
		}
	}
	if len(ended) != 1 || ended[0].Executor != "e" || ended[0].Framework != f || ended[0].Status.State != TaskFinished {
		t.Errorf("the executor's end: %+v", r.Events)
	}
	if got := c.used(a); got != bag(t, 0, 0).String() {
		t.Errorf("after its end, used %s", got)
	}
	c.m.View(func(s *State) {
		if _, ok := s.Executor(f, a, "e"); ok {
			t.Error("an executor that ended is still there")
		}
	})
	c.do(executed(t, f, a, "e", 9, 6)) // another one of its name
}

func TestGroupIsLaunchedWholeOrNotAtAll(t *testing.T) {
	c := newCluster(t)
	f, a := c.framework(), c.agent("n1")
	c.do(launch(f, a, 1, bag(t, 1, 1)))
	group := executed(t, f, a, "e", 2, 3, 4)
	group.Group = true
	twice := group
	twice.Tasks = append([]GivenTask{}, group.Tasks...)
	twice.Tasks[1].Task = "t1" // launched before
	c.refused(twice, ErrTaskDuplicate)
	twice.Tasks[1].Task = "t3"
	c.refused(twice, ErrTaskDuplicate)
	twice.Tasks[1].Task, twice.Tasks[1].Container = "t4", "c2" // the executor's
	c.refused(twice, ErrContainerUsed)
	c.do(group)
	c.m.View(func(s *State) {
		one, _ := s.TaskOf(f, "t3")
		if len(one.Execution.Group) != 2 || one.Execution.Group[1] != "c4" {
			t.Errorf("group %v", one.Execution.Group)
		}
	})
}

// Who shuts an executor down wants nothing more to be given to it.
func TestExecutorThatEndsTakesNoMoreTasks(t *testing.T) {
	c := newCluster(t)
	f, a := c.framework(), c.agent("n1")
	c.do(executed(t, f, a, "e", 1, 2))
	c.do(KillTask{Container: "c1", Grace: -1})
	c.refused(executed(t, f, a, "e", 3, 4), ErrExecutorEnding)
}

func TestExecutorsEndWithTheirFrameworkAndTheirAgent(t *testing.T) {
	c := newCluster(t)
	f, a := c.framework(), c.agent("n1")
	c.do(executed(t, f, a, "e", 1, 2))
	kills := map[ContainerID]bool{}
	for _, e := range c.do(RemoveFramework{f}).Events {
		if e.Change == KillWanted {
			kills[e.Container] = true
		}
	}
	if !kills["c1"] || !kills["c2"] {
		t.Errorf("killed with their framework: %v", kills)
	}
	if r := c.do(report(a, 1, 1, TaskKilled)); len(r.Events) != 2 {
		t.Errorf("the end of nobody's executor: %+v", r.Events)
	}
	other := c.framework()
	b := c.agent("n2")
	c.do(executed(t, other, b, "e", 5, 6))
	told := 0
	for _, e := range c.do(MarkAgentGone{b}).Events {
		if e.Change == StatusChanged {
			told++
		}
	}
	if told != 1 {
		t.Errorf("%d statuses for an agent that is gone, want the task's alone", told)
	}
	c.m.View(func(s *State) {
		if _, ok := s.Executor(other, b, "e"); ok {
			t.Error("an executor outlived its agent")
		}
	})
}

// What an agent holds of executors comes back when all masters have forgotten it.
func TestExecutionsAreAdopted(t *testing.T) {
	c := newCluster(t)
	c.do(AdoptAgent{RegisterAgent: RegisterAgent{ID: "lost-S1", Node: "n9", AttachKey: "k", Address: "10.0.0.9", Total: bag(t, 4, 64), Pool: "10.88.0.0/16"}})
	c.do(AdoptFramework{SubscribeFramework: SubscribeFramework{ID: "lost-0001", Roles: []string{"*"}}})
	executor := launch("lost-0001", "lost-S1", 1, bag(t, 1, 32))
	executor.Task = ""
	by := Execution{ID: "e", Container: "c1"}
	c.refused(AdoptExecution{AdoptTask{LaunchTask: executor}, Execution{ID: "e", Container: "c9"}}, ErrCommandInvalid)
	for range 2 { // an adoption may be begun again
		c.do(AdoptExecution{AdoptTask{LaunchTask: executor, State: TaskRunning, KillGrace: -1}, by})
		c.do(AdoptExecution{AdoptTask{LaunchTask: launch("lost-0001", "lost-S1", 2, bag(t, 1, 8)), State: TaskRunning, KillGrace: -1}, by})
	}
	if got, want := c.used("lost-S1"), bag(t, 2, 40).String(); got != want {
		t.Errorf("used %s, want %s", got, want)
	}
	var buf bytes.Buffer
	snap, _ := c.m.Snapshot()
	if _, err := snap.WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	other := NewMachine()
	if err := other.Restore(&buf); err != nil {
		t.Fatal(err)
	}
	other.View(func(s *State) {
		e, ok := s.Executor("lost-0001", "lost-S1", "e")
		task, there := s.TaskOf("lost-0001", "t2")
		if !ok || !there || task.Execution.ID != "e" || e.ContainerID != "c1" || other.Hash() != c.m.Hash() {
			t.Errorf("after a snapshot: executor %v, task %v", e, task)
		}
	})
}
