package task

import (
	"fmt"
	"slices"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

// Execution says what a container has to do with an executor of a framework. A task that is
// given to an executor has no container of its own in the keeper: what becomes of it the
// executor reports. The executor itself has one, and lives as a task does; its updates tell
// the cluster alone.
type Execution struct {
	ID        string // of the executor; empty: the task is run by its command
	Container string // of the executor; of the executor itself, its own
	// Group are the containers of all tasks that are given to the executor together.
	Group []string
	// Info is the executor's, of the executor itself.
	Info *mesosv1.ExecutorInfo
	// Inside: the executor is the built-in one. Its tasks are run by their commands, in
	// containers inside of its container.
	Inside bool
}

// Executed: the task is given to an executor of the framework's own.
func (f Facts) Executed() bool { return f.member() && !f.Execution.Inside }

// Inside: the task runs in a container of its own, inside of its executor's.
func (f Facts) Inside() bool { return f.member() && f.Execution.Inside }

func (f Facts) member() bool { return f.Execution.ID != "" && f.Execution.Container != f.ContainerID }

// Executes: it is an executor.
func (f Facts) Executes() bool { return f.Execution.ID != "" && f.Execution.Container == f.ContainerID }

// Given says whether an executor has a task.
type Given uint8

const (
	NotGiven Given = iota
	WasGiven
	// PerhapsGiven: who gave it died since. The executor says so when it subscribes again.
	PerhapsGiven
)

// WaitStatusLabel is the key of a label on the last update of an executor, which only its
// cluster sees: its value is the container's wait status as a decimal number.
const WaitStatusLabel = "wait_status"

// maxHeard is how many of a task's newest updates are remembered: an executor repeats those
// of which it did not hear that they arrived.
const maxHeard = 16

// Events of tasks that an executor runs.
type (
	// Gave: the executor was sent the task.
	Gave struct{}
	// Subscribed: the executor is connected; Has: it says that it has the task. What was given
	// on an earlier connection may not have arrived: who hands this in makes it NotGiven first.
	Subscribed struct {
		Stamp
		Has bool
	}
	// Reported is a status update of the executor's, under its own uuid.
	Reported struct {
		Stamp
		Status *mesosv1.TaskStatus
	}
	// ExecutorGone: there is no such executor any more. Container is nil where none of its name was left.
	ExecutorGone struct {
		Stamp
		Container *keeper.Container
		// Reason and Message override what the container says of its end.
		Reason  *mesosv1.TaskStatus_Reason
		Message string
	}
)

func (Gave) event()         {}
func (Subscribed) event()   {}
func (Reported) event()     {}
func (ExecutorGone) event() {}

// Actions on tasks that an executor runs.
type (
	// Give: send the task to the executor, as soon as that is connected.
	Give struct{}
	// KillInExecutor: ask the executor to end the task. Grace < 0: as the task says.
	KillInExecutor struct{ Grace time.Duration }
)

func (Give) action()           {}
func (KillInExecutor) action() {}

// nextExecuted is Next for a task that is given to an executor.
func nextExecuted(t Task, e Event) (Task, []Action) {
	switch e := e.(type) {
	case Run:
		if t.Tombstone || (t.KillRequested && t.Given == NotGiven) {
			return killedBeforeStart(t, e.Stamp)
		}
		return t, Resume(t)
	case Kill:
		return killExecuted(t, e)
	case Gave:
		t.Given = WasGiven
	case Subscribed:
		return subscribed(t, e)
	case Reported:
		return reported(t, e)
	case ExecutorGone:
		return executorGone(t, e)
	case Acknowledged:
		next, actions := acknowledged(t, e)
		return next, slices.DeleteFunc(actions, func(a Action) bool { _, forget := a.(ForgetContainer); return forget })
	}
	return t, nil
}

// resumeExecuted is Resume for such a task.
func resumeExecuted(t Task) []Action {
	var todo []Action
	switch {
	case t.Terminal() || t.Tombstone:
	case t.Given == NotGiven:
		todo = append(todo, Give{})
	case t.Given == WasGiven && t.KillRequested:
		todo = append(todo, KillInExecutor{Grace: t.KillGrace})
	}
	if len(t.Pending) > 0 {
		todo = append(todo, Send{})
	}
	return todo
}

func killExecuted(t Task, e Kill) (Task, []Action) {
	if t.Terminal() || t.Done {
		return t, nil
	}
	if e.Drain != NoDrain {
		t.Drain = e.Drain
		e.Grace = graceOf(t.Info, e)
	}
	if !t.KillRequested || e.Grace >= 0 && (t.KillGrace < 0 || e.Grace < t.KillGrace) {
		t.KillGrace = e.Grace
	}
	t.KillRequested = true
	todo := []Action{RecordKill{Grace: t.KillGrace, Drain: t.Drain}}
	switch {
	case t.Tombstone:
		return t, todo
	case t.Given == NotGiven:
		next, more := killedBeforeStart(t, e.Stamp)
		return next, append(todo, more...)
	case t.Given == WasGiven:
		todo = append(todo, KillInExecutor{Grace: t.KillGrace})
	}
	return t, todo // perhaps given: the executor is asked when it is known
}

func subscribed(t Task, e Subscribed) (Task, []Action) {
	switch {
	case t.Terminal() || t.Tombstone:
		return t, nil
	case e.Has || t.Given == WasGiven || t.Latest != mesosv1.TaskState_TASK_STAGING:
		t.Given = WasGiven
	default:
		// It never arrived, or the executor would have told of it.
		if t.Given = NotGiven; t.KillRequested {
			return killedBeforeStart(t, e.Stamp)
		}
	}
	// What is pending is on its way to the leader already.
	return t, slices.DeleteFunc(Resume(t), func(a Action) bool { _, send := a.(Send); return send })
}

func reported(t Task, e Reported) (Task, []Action) {
	uuid := [16]byte(e.Status.GetUuid())
	if t.Tombstone || t.Terminal() || slices.Contains(t.Heard, uuid) {
		return t, nil
	}
	t.Given = WasGiven
	st, _ := proto.Clone(e.Status).(*mesosv1.TaskStatus)
	state, reason := drained(t, st.GetState(), st.Reason)
	st.State, st.Reason, st.Source = state.Enum(), reason, executorSource.Enum()
	st.TaskId, st.AgentId = t.Info.GetTaskId(), &mesosv1.AgentID{Value: proto.String(t.AgentID)}
	st.ExecutorId, st.ContainerStatus = &mesosv1.ExecutorID{Value: proto.String(t.Execution.ID)}, containerStatus(t)
	if st.Timestamp == nil {
		st.Timestamp = proto.Float64(float64(e.Now.UnixNano()) / 1e9)
	}
	return addUpdate(t, Update{UUID: uuid, State: state, Status: encoded(t, st)})
}

func executorGone(t Task, e ExecutorGone) (Task, []Action) {
	if t.Terminal() || t.Tombstone {
		return t, nil
	}
	state, reason := mesosv1.TaskState_TASK_FAILED, mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED
	c := e.Container
	why := fmt.Sprintf("executor %s is no more on this agent", t.Execution.ID)
	switch {
	case e.Reason != nil:
		reason = *e.Reason
	case c == nil && t.Given != NotGiven:
	case c == nil: // it was gone before the task came
		if state = mesosv1.TaskState_TASK_LOST; partitionAware(t.Framework) {
			state = mesosv1.TaskState_TASK_DROPPED
		}
	case c.GetPhase() == keeper.Container_FAILED:
		if reason = mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED; c.GetFailure() == keeper.Container_LOST {
			reason = mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED
		}
		why = fmt.Sprintf("executor %s could not be started: %s", t.Execution.ID, orElse(c.GetMessage(), "no reason is known"))
	case c.GetLimitation() == keeper.Container_MEMORY:
		reason, why = mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY, c.GetMessage()
	case c.GetLimitation() == keeper.Container_DISK:
		reason, why = mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_DISK, c.GetMessage()
	default:
		why = fmt.Sprintf("executor %s ended: %s", t.Execution.ID, describeExit(c))
	}
	return add(t, e.Now, e.UUIDs[0], state, agentSource, reason.Enum(), orElse(e.Message, why))
}

// heard remembers an update of an executor's.
func (t *Task) heard(uuid [16]byte) {
	newest := t.Heard[max(0, len(t.Heard)-maxHeard+1):]
	t.Heard = append(slices.Clip(slices.Clone(newest)), uuid)
}

func partitionAware(f *mesosv1.FrameworkInfo) bool {
	return slices.ContainsFunc(f.GetCapabilities(), func(c *mesosv1.FrameworkInfo_Capability) bool {
		return c.GetType() == mesosv1.FrameworkInfo_Capability_PARTITION_AWARE
	})
}
