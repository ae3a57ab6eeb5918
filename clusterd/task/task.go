// Package task is a task's life on a node, as one pure function:
//
//	Next(task, event) → (task, actions)
//
// Events are what the leader asked (Run, Kill, Acknowledged), what the container keeper
// saw (Observed, Missing), what a check found (Probed) and what the clock brought
// (Overdue). Actions come in the
// order in which they must be done: a Record before the deed it announces, because a
// program that dies between two actions finds the records again and Resume says what
// is still to be done. Every deed may be repeated without harm.
//
// Invariants: the updates of a task form one sequence, of which at most the oldest is
// under way; after a terminal update there is no other; a task whose kill was asked
// before its container existed never starts.
//
// There is no clock and no randomness here: an event brings the time and the uuids that
// an update made of it will carry. Containers themselves are isolated's; the journal
// and the conversation with the leader are package agent's.
package task

import (
	"fmt"
	"strings"
	"syscall"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// DefaultGrace is how long a task may take to end after a KILL when nobody says
// otherwise (the Mesos command executor's default).
const DefaultGrace = 3 * time.Second

// Facts never change during a task's life.
type Facts struct {
	ContainerID  string
	FrameworkID  string
	AgentID      string
	AgentAddress string // reported as the task's address when it uses the host's network
	Role         string
	HostNetwork  bool
	KillingState bool // the framework understands TASK_KILLING
	Info         *mesosv1.TaskInfo
	Framework    *mesosv1.FrameworkInfo // as it was at the launch
	User         string
	UserID       uint32 // the cluster's for User; 0: none
	Execution    Execution
}

// Update is a status update as it goes to the leader.
type Update struct {
	UUID   [16]byte
	State  mesosv1.TaskState
	Status []byte // mesos.v1.TaskStatus
}

// Task is the agent's knowledge of one container. The zero value with Facts is a task
// just launched.
type Task struct {
	Facts
	Latest        mesosv1.TaskState // TASK_STAGING until the first update
	Pending       []Update          // not acknowledged, oldest first
	Known         bool              // the keeper has told of the container
	Sequence      uint64            // of the newest observation
	Container     *keeper.Container // the newest observation
	KillRequested bool
	KillGrace     time.Duration
	Overdue       bool // max_completion_time passed: the kill is ours
	Tombstone     bool // a kill without a launch
	Drain         Drain
	Done          bool       // the terminal update is acknowledged
	Given         Given      // to its executor
	Heard         [][16]byte // the executor's newest updates
	Checked       Checked
}

// Terminal says whether the task's last update was made.
func (t Task) Terminal() bool { return IsTerminal(t.Latest) }

// IsTerminal says whether no other state can follow on this agent.
func IsTerminal(s mesosv1.TaskState) bool {
	switch s {
	case mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskState_TASK_FAILED, mesosv1.TaskState_TASK_KILLED,
		mesosv1.TaskState_TASK_ERROR, mesosv1.TaskState_TASK_LOST, mesosv1.TaskState_TASK_DROPPED,
		mesosv1.TaskState_TASK_GONE, mesosv1.TaskState_TASK_GONE_BY_OPERATOR:
		return true
	}
	return false
}

// Stamp is what an event brings for the updates that are made of it.
type Stamp struct {
	Now   time.Time
	UUIDs [2][16]byte // an event makes at most two updates
}

// Event is one of Run, Kill, Observed, Missing, Overdue, Probed, Acknowledged, Adopted,
// Forgotten, and of Gave, Subscribed, Reported, ExecutorGone.
type Event interface{ event() }

type (
	// Run: the launch was journalled (or read back).
	Run struct{ Stamp }
	// Kill asks the task to end; Grace < 0 leaves it to the task's kill policy.
	Kill struct {
		Stamp
		Grace time.Duration
		Drain Drain // why, if for that
	}
	// Observed is a container as the keeper sees it now.
	Observed struct {
		Stamp
		Container *keeper.Container
	}
	// Missing: the keeper, asked for everything it holds, does not hold this container.
	Missing struct{ Stamp }
	// Overdue: max_completion_time has passed since the task ran.
	Overdue struct{ Stamp }
	// Acknowledged: the framework has this update (and all before it).
	Acknowledged struct{ UUID [16]byte }
	// Adopted: a cluster takes the task in that has never heard of it. Where every
	// update was acknowledged, its newest state is told once more.
	Adopted struct{ Stamp }
	// Forgotten: it was told of before, and neither the journal nor the keeper knows it.
	Forgotten struct{ Stamp }
)

func (Run) event()          {}
func (Kill) event()         {}
func (Observed) event()     {}
func (Missing) event()      {}
func (Overdue) event()      {}
func (Acknowledged) event() {}
func (Adopted) event()      {}
func (Forgotten) event()    {}

// Action is one of RecordUpdate, RecordKill, RecordAcknowledged, Launch,
// KillContainer, ForgetContainer, Send, Give, KillInExecutor.
type Action interface{ action() }

type (
	// RecordUpdate: write the update down.
	RecordUpdate struct{ Update Update }
	// RecordKill: write down that the kill was asked.
	RecordKill struct {
		Grace time.Duration
		Drain Drain
	}
	// RecordAcknowledged: write down that this update needs no more sending.
	RecordAcknowledged struct{ UUID [16]byte }
	// Launch: hand the task to the keeper.
	Launch struct{}
	// KillContainer: ask the keeper.
	KillContainer struct{ Grace time.Duration }
	// ForgetContainer: the keeper need not remember the container's end.
	ForgetContainer struct{}
	// Send: the oldest pending update to the leader.
	Send struct{}
)

func (RecordUpdate) action()       {}
func (RecordKill) action()         {}
func (RecordAcknowledged) action() {}
func (Launch) action()             {}
func (KillContainer) action()      {}
func (ForgetContainer) action()    {}
func (Send) action()               {}

// Next is the whole of a task's behaviour. It does not change its argument's slices.
func Next(t Task, e Event) (Task, []Action) {
	switch e := e.(type) {
	case Adopted:
		return adopted(t, e)
	case Forgotten:
		return forgotten(t, e)
	}
	if t.Executed() {
		return nextExecuted(t, e)
	}
	switch e := e.(type) {
	case Run:
		if t.Tombstone || (t.KillRequested && !t.Known) {
			return killedBeforeStart(t, e.Stamp)
		}
		return t, Resume(t)
	case Kill:
		return kill(t, e)
	case Observed:
		return observed(t, e)
	case Missing:
		return missing(t, e)
	case ExecutorGone: // of a task inside of a pod
		if t.Known {
			return t, nil // its own container's end is told
		}
		return executorGone(t, e)
	case Overdue:
		if t.Terminal() || t.KillRequested || t.Overdue {
			return t, nil
		}
		t.Overdue = true
		return t, []Action{KillContainer{Grace: policyGrace(t.Info)}}
	case Probed:
		return probed(t, e)
	case Acknowledged:
		return acknowledged(t, e)
	}
	return t, nil
}

func adopted(t Task, e Adopted) (Task, []Action) {
	if t.Terminal() || t.Tombstone || len(t.Pending) > 0 || t.Latest == mesosv1.TaskState_TASK_STAGING {
		return t, nil
	}
	return add(t, e.Now, e.UUIDs[0], t.Latest, agentSource, mesosv1.TaskStatus_REASON_AGENT_REREGISTERED.Enum(),
		"the cluster had forgotten this task and took it in again")
}

func forgotten(t Task, e Forgotten) (Task, []Action) {
	if t.Terminal() {
		return t, nil
	}
	t.Tombstone = false
	return add(t, e.Now, e.UUIDs[0], mesosv1.TaskState_TASK_GONE, agentSource, mesosv1.TaskStatus_REASON_RECONCILIATION.Enum(),
		"the agent no longer knows this task: its journal was damaged, and the container's record is lost")
}

// Resume says what must be done for a task that was read back from the journal, or
// after the keeper or the leader came back: all of it may have been done before.
func Resume(t Task) []Action {
	if t.Executed() {
		return resumeExecuted(t)
	}
	var todo []Action
	switch {
	case t.Done:
		todo = append(todo, ForgetContainer{})
	case t.Terminal() || t.Tombstone:
	case !t.Known:
		todo = append(todo, Launch{})
	}
	if t.KillRequested && t.Known && !t.Terminal() {
		todo = append(todo, KillContainer{Grace: t.KillGrace})
	}
	if len(t.Pending) > 0 {
		todo = append(todo, Send{})
	}
	return todo
}

func kill(t Task, e Kill) (Task, []Action) {
	if t.Terminal() || t.Done {
		return t, nil
	}
	grace := graceOf(t.Info, e)
	if t.KillRequested && grace >= t.KillGrace && (e.Drain == NoDrain || e.Drain == t.Drain) {
		return t, []Action{KillContainer{Grace: t.KillGrace}}
	}
	first := !t.KillRequested
	if first || grace < t.KillGrace {
		t.KillGrace = grace
	}
	if t.KillRequested = true; e.Drain != NoDrain {
		t.Drain = e.Drain
	}
	grace = t.KillGrace
	todo := []Action{RecordKill{Grace: grace, Drain: t.Drain}}
	if t.Tombstone {
		return t, todo
	}
	todo = append(todo, KillContainer{Grace: grace})
	if first && t.KillingState && t.Latest == mesosv1.TaskState_TASK_RUNNING {
		var more []Action
		t, more = add(t, e.Now, e.UUIDs[0], mesosv1.TaskState_TASK_KILLING, executorSource, nil, "")
		todo = append(todo, more...)
	}
	return t, todo
}

func policyGrace(info *mesosv1.TaskInfo) time.Duration {
	if p := info.GetKillPolicy().GetGracePeriod(); p != nil && p.GetNanoseconds() >= 0 {
		return time.Duration(p.GetNanoseconds())
	}
	return DefaultGrace
}

func killedBeforeStart(t Task, s Stamp) (Task, []Action) {
	if t.Terminal() {
		return t, Resume(t)
	}
	t.Tombstone = false
	return add(t, s.Now, s.UUIDs[0], mesosv1.TaskState_TASK_KILLED, agentSource,
		mesosv1.TaskStatus_REASON_TASK_KILLED_DURING_LAUNCH.Enum(), "the task was killed before it was started")
}

func observed(t Task, e Observed) (Task, []Action) {
	c := e.Container
	if t.Done || (t.Known && c.GetSequence() < t.Sequence) {
		return t, nil
	}
	t.Known, t.Sequence, t.Container = true, c.GetSequence(), c
	if t.Terminal() {
		return t, nil
	}
	var todo, more []Action
	switch c.GetPhase() {
	case keeper.Container_PREPARING:
		return starting(t, e.Stamp)
	case keeper.Container_RUNNING:
		t, todo = starting(t, e.Stamp)
		t, more = running(t, e.Stamp, c.GetMessage())
		return t, append(todo, more...)
	case keeper.Container_ENDED:
		// An end seen without its beginning (the keeper was faster than we) still
		// has run: frameworks expect TASK_RUNNING before TASK_FINISHED.
		t, todo = running(t, e.Stamp, "")
		t, more = ended(t, e, c)
		return t, append(todo, more...)
	case keeper.Container_FAILED:
		return failed(t, e, c)
	}
	return t, nil
}

func starting(t Task, s Stamp) (Task, []Action) {
	if t.Latest != mesosv1.TaskState_TASK_STAGING {
		return t, nil
	}
	return add(t, s.Now, s.UUIDs[0], mesosv1.TaskState_TASK_STARTING, executorSource, nil, "")
}

// running tells what the keeper says of a container that runs: what it asked for and does not have.
func running(t Task, s Stamp, msg string) (Task, []Action) {
	if t.Latest != mesosv1.TaskState_TASK_STAGING && t.Latest != mesosv1.TaskState_TASK_STARTING {
		return t, nil
	}
	return add(t, s.Now, s.UUIDs[1], mesosv1.TaskState_TASK_RUNNING, executorSource, nil, msg)
}

func ended(t Task, e Observed, c *keeper.Container) (Task, []Action) {
	// UUIDs[0] is free here: an end makes RUNNING of UUIDs[1] at most.
	end := func(s mesosv1.TaskState, src mesosv1.TaskStatus_Source, r *mesosv1.TaskStatus_Reason, msg string) (Task, []Action) {
		return add(t, e.Now, e.UUIDs[0], s, src, r, msg)
	}
	said := describeExit(c)
	switch {
	case c.GetLimitation() == keeper.Container_MEMORY:
		return end(mesosv1.TaskState_TASK_FAILED, agentSource, mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY.Enum(), orElse(c.GetMessage(), "the container used more memory than its limit"))
	case c.GetLimitation() == keeper.Container_DISK:
		return end(mesosv1.TaskState_TASK_FAILED, agentSource, mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_DISK.Enum(), orElse(c.GetMessage(), "the container used more disk than its limit"))
	case c.GetFailure() == keeper.Container_LOST:
		return end(mesosv1.TaskState_TASK_FAILED, agentSource, mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED.Enum(), orElse(c.GetMessage(), "the exit status of the container could not be kept"))
	case t.Overdue || overdueBefore(t, c):
		return end(mesosv1.TaskState_TASK_FAILED, executorSource, mesosv1.TaskStatus_REASON_MAX_COMPLETION_TIME_REACHED.Enum(), "the task ran longer than max_completion_time; "+said)
	case t.KillRequested || c.GetKillRequested():
		return end(mesosv1.TaskState_TASK_KILLED, executorSource, nil, said)
	case c.GetWaitStatus() == 0:
		return end(mesosv1.TaskState_TASK_FINISHED, executorSource, nil, said)
	}
	return end(mesosv1.TaskState_TASK_FAILED, executorSource, nil, said)
}

// overdueBefore says whether the kill was ours for max_completion_time, asked for by a
// program that died since.
func overdueBefore(t Task, c *keeper.Container) bool {
	return c.GetKillRequested() && !t.KillRequested && t.Info.GetMaxCompletionTime().GetNanoseconds() > 0
}

// describeExit words an exit as the Mesos command executor does: clients parse it.
func describeExit(c *keeper.Container) string {
	ws := syscall.WaitStatus(c.GetWaitStatus())
	if ws.Signaled() {
		name := ws.Signal().String() // the C library's, but for the capital
		return "Command terminated with signal " + strings.ToUpper(name[:1]) + name[1:]
	}
	return fmt.Sprintf("Command exited with status %d", ws.ExitStatus())
}

func failed(t Task, e Observed, c *keeper.Container) (Task, []Action) {
	msg := orElse(c.GetMessage(), "the container could not be started")
	state, reason := mesosv1.TaskState_TASK_FAILED, mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED
	switch {
	case c.GetFailure() == keeper.Container_KILLED_DURING_LAUNCH || (t.KillRequested && c.GetFailure() != keeper.Container_INVALID_TASK):
		state, reason = mesosv1.TaskState_TASK_KILLED, mesosv1.TaskStatus_REASON_TASK_KILLED_DURING_LAUNCH
	case c.GetFailure() == keeper.Container_INVALID_TASK:
		state, reason = mesosv1.TaskState_TASK_ERROR, mesosv1.TaskStatus_REASON_TASK_INVALID
	case c.GetFailure() == keeper.Container_LOST:
		reason = mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED
	}
	return add(t, e.Now, e.UUIDs[0], state, agentSource, reason.Enum(), msg)
}

func missing(t Task, e Missing) (Task, []Action) {
	switch {
	case t.Done || t.Terminal() || t.Tombstone:
		return t, nil
	case !t.Known && t.Latest == mesosv1.TaskState_TASK_STAGING:
		if t.KillRequested {
			return killedBeforeStart(t, e.Stamp)
		}
		return t, []Action{Launch{}}
	}
	return add(t, e.Now, e.UUIDs[0], mesosv1.TaskState_TASK_FAILED, agentSource, mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED.Enum(),
		"the container keeper no longer knows this container: its records were lost")
}

func acknowledged(t Task, e Acknowledged) (Task, []Action) {
	at := -1
	for i, u := range t.Pending {
		if u.UUID == e.UUID {
			at = i
		}
	}
	if at < 0 {
		return t, nil // acknowledged before
	}
	last := t.Pending[at]
	t.Pending = append([]Update(nil), t.Pending[at+1:]...)
	todo := []Action{RecordAcknowledged(e)}
	if IsTerminal(last.State) {
		t.Done = true
		return t, append(todo, ForgetContainer{})
	}
	if len(t.Pending) > 0 {
		todo = append(todo, Send{})
	}
	return t, todo
}

// Recorded gives the task as it was after an update was written down; the journal is
// read back with it.
func Recorded(t Task, u Update) Task {
	t.Pending = append(append([]Update(nil), t.Pending...), u)
	t.Latest = u.State
	if t.Executed() {
		t.heard(u.UUID)
	}
	return rememberChecked(t, u.Status)
}

const (
	agentSource    = mesosv1.TaskStatus_SOURCE_AGENT
	executorSource = mesosv1.TaskStatus_SOURCE_EXECUTOR
)

func add(t Task, now time.Time, uuid [16]byte, s mesosv1.TaskState, src mesosv1.TaskStatus_Source, r *mesosv1.TaskStatus_Reason, msg string) (Task, []Action) {
	s, r = drained(t, s, r)
	return addUpdate(t, Update{UUID: uuid, State: s, Status: encode(t, now, uuid, s, src, r, msg)})
}

func addUpdate(t Task, u Update) (Task, []Action) {
	alone := len(t.Pending) == 0
	t = Recorded(t, u)
	todo := []Action{RecordUpdate{Update: u}}
	if alone {
		todo = append(todo, Send{})
	}
	return t, todo
}
