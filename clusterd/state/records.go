package state

import (
	"maps"
	"slices"
)

// Capabilities of a framework, as bits. Values are in the log.
type Capabilities uint32

const (
	CapRevocableResources    Capabilities = 1 << 1
	CapTaskKillingState      Capabilities = 1 << 2
	CapGPUResources          Capabilities = 1 << 3
	CapSharedResources       Capabilities = 1 << 4
	CapPartitionAware        Capabilities = 1 << 5
	CapMultiRole             Capabilities = 1 << 6
	CapReservationRefinement Capabilities = 1 << 7
	CapRegionAware           Capabilities = 1 << 8
)

// Has says whether all of c are there.
func (cs Capabilities) Has(c Capabilities) bool { return cs&c == c }

// Framework is one framework that has not been removed.
type Framework struct {
	ID              FrameworkID
	Info            []byte // mesos.v1.FrameworkInfo with its id, as the leader cleaned it
	Name            string
	User            string
	Principal       string
	Hostname        string
	Roles           []string
	Capabilities    Capabilities
	Checkpoint      bool
	FailoverTimeout int64 // ns

	RegisteredNS   int64 // state time of the first subscription
	ReregisteredNS int64 // of the newest one, when there was an earlier
	// Connected: a leader subscribed it and none saw it leave. After a change of
	// leader it only means that its stream was lost by our doing.
	Connected      bool
	DisconnectedNS int64
	// Remaining is what was left of its failover timer when that was last written,
	// in ns; it counts only while Connected is false.
	Remaining int64

	tasks     map[TaskID]int32
	executors map[executorKey]int32
	allocated map[string]Resources // role → resources of tasks and executors that hold some
	uses      uses
}

// Allocated returns what the framework's tasks hold in a role.
func (f *Framework) Allocated(role string) Resources { return f.allocated[role] }

// AllocatedRoles are those in which its tasks hold something, in order; it need not be
// subscribed to them any more.
func (f *Framework) AllocatedRoles() []string {
	var out []string
	for role, rs := range f.allocated {
		if len(rs) > 0 {
			out = append(out, role)
		}
	}
	slices.Sort(out)
	return out
}

// TaskCount is the number of its tasks in the state.
func (f *Framework) TaskCount() int { return len(f.tasks) }

// Agent is one registered agent, reachable or not.
type Agent struct {
	ID            AgentID
	Node          string // node name; one agent a node
	AttachKey     string // makes a repeated first Attach get the same id
	BootID        string
	Incarnation   string
	Hostname      string
	Port          int32
	Address       string // LAN address
	Subnet        string // of its tasks' network, CIDR; empty when the pool is used up
	Info          []byte // mesos.v1.AgentInfo with its id
	Total         Resources
	RegisteredNS  int64
	ReattachedNS  int64
	Unreachable   bool
	UnreachableNS int64
	// Adopting: it outlived the cluster that registered it, and not all of what it
	// reported is here yet.
	Adopting bool
	// Deactivated: an operator wants nothing more to be launched on it.
	Deactivated bool
	// Drain: an operator wants nothing to run on it. What it points to never changes.
	Drain *Drain

	used    Resources
	uses    uses
	tasks   map[ContainerID]int32
	forgets map[ContainerID]struct{} // ended here, and not yet confirmed forgotten there
}

// Used returns what the agent's tasks hold.
func (a *Agent) Used() Resources { return a.used }

// Free returns what no task holds, and what is shared, whoever uses it; what was reported
// away under running tasks is 0.
func (a *Agent) Free() Resources {
	free, _ := a.Total.Minus(a.used.Private())
	return free
}

// TaskCount is the number of its tasks in the state.
func (a *Agent) TaskCount() int { return len(a.tasks) }

// TaskState has the numbers of mesos.v1.TaskState.
type TaskState int32

const (
	TaskStarting       TaskState = 0
	TaskRunning        TaskState = 1
	TaskFinished       TaskState = 2
	TaskFailed         TaskState = 3
	TaskKilled         TaskState = 4
	TaskLost           TaskState = 5
	TaskStaging        TaskState = 6
	TaskError          TaskState = 7
	TaskKilling        TaskState = 8
	TaskDropped        TaskState = 9
	TaskUnreachable    TaskState = 10
	TaskGone           TaskState = 11
	TaskGoneByOperator TaskState = 12
	TaskUnknown        TaskState = 13
)

// Terminal says whether a task in this state holds nothing any more and never will.
func (t TaskState) Terminal() bool {
	switch t {
	case TaskFinished, TaskFailed, TaskKilled, TaskLost, TaskError, TaskDropped, TaskGone, TaskGoneByOperator:
		return true
	}
	return false
}

// Source and Reason have the numbers of mesos.v1.TaskStatus.
type (
	Source int32
	Reason int32
)

const (
	SourceMaster   Source = 0
	SourceAgent    Source = 1
	SourceExecutor Source = 2

	NoReason                 Reason = -1
	ReasonExecutorTerminated Reason = 1
	ReasonFrameworkRemoved   Reason = 3
	ReasonInvalidOffers      Reason = 6
	ReasonReconciliation     Reason = 9
	ReasonAgentDisconnected  Reason = 10
	ReasonAgentRemoved       Reason = 11
	ReasonAgentRestarted     Reason = 12
	ReasonTaskInvalid        Reason = 14
	ReasonTaskUnauthorized   Reason = 15
	ReasonResourcesUnknown   Reason = 18
	ReasonTaskGroupInvalid   Reason = 25

	ReasonTaskGroupUnauthorized Reason = 26

	ReasonGoneByOperator    Reason = 31
	ReasonAgentReregistered Reason = 32
)

// Status is one status of a task. What an agent reported has Wire; what the cluster
// itself decided has only the other fields.
type Status struct {
	State     TaskState
	Source    Source
	Reason    Reason
	Message   string
	TimeNS    int64
	Unreached int64  // unreachable_time in ns, 0: none
	Wire      []byte // mesos.v1.TaskStatus as reported, without data and uuid
}

// Task is one launched task until its terminal update is acknowledged.
type Task struct {
	ContainerID ContainerID
	TaskID      TaskID
	FrameworkID FrameworkID
	AgentID     AgentID
	Role        string
	Name        string
	Info        []byte // mesos.v1.TaskInfo
	Resources   Resources
	HostNetwork bool
	Execution   Execution

	LaunchedNS int64
	State      TaskState // newest known on the agent
	Released   bool      // it ended and holds no resources any more

	// Newest update received, and what its status said. UUID empty: none yet.
	UUID         []byte
	Data         []byte
	Newest       Status
	Acknowledged bool // the newest one

	Statuses []Status // the last of each run of equal states, oldest first, bounded

	KillRequested bool
	KillGrace     int64 // ns; <0: as the task says
	Orphan        bool  // its framework has been removed
}

// Answered says whether the agent has ever reported on the task: until then its Run
// is outstanding.
func (t *Task) Answered() bool { return len(t.UUID) > 0 }

// maxStatuses bounds Task.Statuses; a task that flaps between two states keeps the
// newest ones.
const maxStatuses = 32

// noteStatus keeps the newest of each run of equal states. It never writes into the
// old array: snapshots share it.
func (t *Task) noteStatus(st Status) {
	old := t.Statuses
	if n := len(old); n > 0 && old[n-1].State == st.State {
		old = old[:n-1]
	}
	if len(old) >= maxStatuses {
		old = old[len(old)-maxStatuses+1:]
	}
	list := make([]Status, 0, len(old)+1)
	t.Statuses = append(append(list, old...), st)
}

func clonedSet(m map[ContainerID]struct{}) map[ContainerID]struct{} { return maps.Clone(m) }
