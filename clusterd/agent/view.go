package agent

import (
	"context"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/task"
)

// View is the agent's state for people and programs that ask: a copy, safe to keep.
type View struct {
	ID       string
	Attached bool
	Leader   string // name of the leader it is attached to, or empty
	Height   uint64 // of the newest generation obeyed
	Term     uint64
	Runtime  string // "containers" or "processes"; empty until the keeper answered
	Info     *mesosv1.AgentInfo
	Started  time.Time
	Tasks    []TaskView // in order of launch
	// Executors are frameworks' own, in order of launch, and none of the tasks.
	Executors []ExecutorView
	Drain     *Drain // nil: it is not drained

	Generation string // id of the one at Height; empty: none was met, or an old journal does not say
}

// Drain is an operator's wish that nothing runs here.
type Drain struct {
	Grace time.Duration // at most; <0: each task's own
	Gone  bool
	Began time.Time // by the leader's clock
}

// TaskView is one task the agent remembers.
type TaskView struct {
	ContainerID string
	FrameworkID string
	Role        string
	Info        *mesosv1.TaskInfo
	Framework   *mesosv1.FrameworkInfo // as it was at the launch
	User        string
	State       mesosv1.TaskState
	Terminal    bool
	Sandbox     string // path on the node; empty before it exists
	PID         int
	Updates     int    // not acknowledged yet
	Executor    string // that it is given to; empty: it is run by its command
	Queued      bool   // its executor was not given it yet
	Parent      string // container that its own is inside of; empty: of none
}

// ExecutorView is one executor of a framework.
type ExecutorView struct {
	ContainerID string
	FrameworkID string
	Role        string
	Info        *mesosv1.ExecutorInfo
	Framework   *mesosv1.FrameworkInfo
	User        string
	Terminal    bool
	Connected   bool
	Sandbox     string
	PID         int
}

func parentOf(t *task.Task) string {
	if t.Inside() {
		return t.Execution.Container
	}
	return ""
}

// View asks the agent's loop for its state.
func (a *Agent) View(ctx context.Context) (View, error) {
	out := make(chan View, 1)
	select {
	case a.asks <- func() { out <- a.view() }:
		return <-out, nil
	case <-ctx.Done():
		return View{}, ctx.Err()
	}
}

func (a *Agent) view() View {
	v := View{ID: a.id, Attached: a.attached, Height: a.height, Term: a.term, Generation: a.generation, Runtime: a.runtime, Info: a.cfg.Info, Started: a.started}
	if a.leader != nil && a.attached {
		v.Leader = a.leader.name
	}
	if d := a.drain; d != nil {
		v.Drain = &Drain{Grace: time.Duration(d.GetMaxGraceNs()), Gone: d.GetMarkGone(), Began: time.Unix(0, d.GetBeganUnixNs())}
	}
	for _, id := range a.order {
		t := a.tasks[id]
		if t.Tombstone {
			continue
		}
		if t.Executes() {
			x := a.executions[id]
			v.Executors = append(v.Executors, ExecutorView{
				ContainerID: id, FrameworkID: t.FrameworkID, Role: t.Role, Info: t.Execution.Info, Framework: t.Framework, User: t.User,
				Terminal: t.Terminal(), Connected: x != nil && x.stream != nil, Sandbox: t.Container.GetSandbox(), PID: int(t.Container.GetPid()),
			})
			continue
		}
		container := id
		if t.Executed() { // it has none of its own
			container = t.Execution.Container
		}
		v.Tasks = append(v.Tasks, TaskView{
			ContainerID: container, FrameworkID: t.FrameworkID, Role: t.Role, Info: t.Info, Framework: t.Framework, User: t.User, State: t.Latest,
			Terminal: t.Terminal(), Sandbox: t.Container.GetSandbox(), PID: int(t.Container.GetPid()), Updates: len(t.Pending),
			Executor: t.Execution.ID, Parent: parentOf(t), Queued: t.Executed() && t.Given == task.NotGiven && !t.Terminal(),
		})
	}
	return v
}
