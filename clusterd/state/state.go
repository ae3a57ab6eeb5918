// Package state is the replicated truth of a cluster: frameworks, agents, tasks and
// what is still owed to them. Every voter holds one State and changes it only by
// Apply, with the entries of the Raft log, in the log's order.
//
// Invariants: Apply is total. It refuses what does not fit (a typed error, the state
// untouched) and never panics on input; it reads no clock and no random source, both
// come in the commands. Two states that applied the same entries have the same Hash,
// also when one of them took a snapshot's shortcut. Resources in use never exceed
// what a launch saw as the agent's total. Only an entry that this program cannot read
// is fatal (Fatal): skipping it would make replicas differ.
//
// Everything that must still be done is found in the state itself (Outstanding), so
// that a new leader goes on where the old one died. Offers, filters and stream ids
// are not here: they are promises of one term (clusterd/offers, clusterd/leader).
// Finished tasks are not here either but in the bounded History beside it.
//
// It decodes no protobuf: TaskInfo, FrameworkInfo, AgentInfo and TaskStatus pass
// through as the bytes that came on the wire; what decisions need of them stands in
// the commands beside them.
package state

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// FrameworkID, AgentID, TaskID and ContainerID are the protocol's ids. Framework and
// agent ids begin with the UUID of the generation that issued them; container ids are
// UUIDs that the launch command brings along; task ids are the framework's own.
type (
	FrameworkID string
	AgentID     string
	TaskID      string
	ContainerID string
)

// Errors of refused commands. They come wrapped, with the ids in the text.
var (
	ErrFrameworkUnknown = errors.New("framework is unknown")
	ErrFrameworkRemoved = errors.New("framework has been removed")
	ErrPrincipal        = errors.New("framework belongs to another principal")
	ErrAgentUnknown     = errors.New("agent is unknown")
	ErrAgentDeactivated = errors.New("agent is deactivated")
	ErrAgentUnreachable = errors.New("agent is unreachable")
	ErrAgentAdopting    = errors.New("agent is still being adopted")
	ErrSubnetTaken      = errors.New("the network of its tasks belongs to another node")
	ErrTaskUnknown      = errors.New("task is unknown")
	ErrTaskDuplicate    = errors.New("task id is in use")
	ErrTaskEnded        = errors.New("task has ended")
	ErrExecutorEnding   = errors.New("executor is being shut down")
	ErrContainerUsed    = errors.New("container id was used before")
	ErrNoRoom           = errors.New("resources are not free")
	ErrNotNewest        = errors.New("uuid is not that of the newest update")
	ErrGenerationOlder  = errors.New("generation is older than the present one")
	ErrCommandInvalid   = errors.New("command is not valid")
	ErrListFull         = errors.New("limit of the state reached")
)

// Limits that keep one replica's memory bounded whatever the log says.
const (
	maxAgents            = 1 << 17
	maxFrameworks        = 1 << 16
	maxTasks             = 1 << 22
	maxRemovedFrameworks = 10_000
	maxPast              = 1024
)

// Generation is one Raft history (height rises with each birth).
type Generation struct {
	Height uint64
	ID     string // UUID
}

// State is the truth. The zero value is not ready; use New. It is not safe for
// concurrent use; Machine is.
type State struct {
	index      uint64 // of the newest applied entry
	timeNS     int64  // state time: never runs backwards
	generation Generation
	// past are the generations that this state came through, oldest first, bounded: ids
	// that they issued and that are not here are gone for good. Of any other generation
	// nothing is known.
	past []string

	nextFramework  uint64
	nextAgent      uint64
	networkVersion uint64
	pool           string // networks.tasks.pool as last told
	quarter        uint64 // of the pool, where new nodes' subnets are looked for first

	// Records lie in flat arrays. Those of the tasks, which are many, a snapshot shares
	// until they change; of the others, which hold maps, it has copies.
	frameworks table[Framework]
	agents     table[Agent]
	tasks      table[Task]

	frameworkSlot map[FrameworkID]int32
	agentSlot     map[AgentID]int32
	taskSlot      map[ContainerID]int32
	agentByNode   map[string]int32
	subnets       map[string]int32 // subnet → agent slot

	users   []string          // names that were given ids, in their order; never shorter
	userIDs map[string]uint32 // name → id

	hardware map[string]string  // master → the machine that carries its name; never changed in place
	weights  map[string]float64 // role → weight; never changed in place
	quotas   map[string]Quota   // role → quota; never changed in place

	operations map[FrameworkID]map[OperationID]*Operation // carried out and not acknowledged; records never change

	maintenance *Maintenance // nil: none is planned
	answers     map[AgentID]map[FrameworkID]InverseAnswer

	removed    []FrameworkID // oldest first, bounded
	removedSet map[FrameworkID]struct{}

	execution Execution // while a snapshot is read: of the task that comes next

	// What the entry being applied took out of the state, for the history.
	finished []Task
	ended    []Framework
}

// New returns the state before the first entry.
func New() *State {
	return &State{
		frameworkSlot: map[FrameworkID]int32{},
		agentSlot:     map[AgentID]int32{},
		taskSlot:      map[ContainerID]int32{},
		agentByNode:   map[string]int32{},
		subnets:       map[string]int32{},
		userIDs:       map[string]uint32{},
		removedSet:    map[FrameworkID]struct{}{},
	}
}

// Index is the Raft index of the newest applied entry.
func (s *State) Index() uint64 { return s.index }

// TimeNS is the state's time in Unix nanoseconds.
func (s *State) TimeNS() int64 { return s.timeNS }

// Generation is the Raft history that this state belongs to.
func (s *State) Generation() Generation { return s.generation }

// NetworkVersion rises with every change of the nodes' task subnets or addresses.
func (s *State) NetworkVersion() uint64 { return s.networkVersion }

// Pool is the address pool of the tasks' networks, empty before the first agent.
func (s *State) Pool() string { return s.pool }

// Framework returns a framework that is known and not removed. What it points to
// may only be read, and only until the next Apply.
func (s *State) Framework(id FrameworkID) (*Framework, bool) {
	slot, ok := s.frameworkSlot[id]
	if !ok {
		return nil, false
	}
	return s.frameworks.at(slot), true
}

// Agent returns a registered agent, reachable or not; read only, as Framework.
func (s *State) Agent(id AgentID) (*Agent, bool) {
	slot, ok := s.agentSlot[id]
	if !ok {
		return nil, false
	}
	return s.agents.at(slot), true
}

// AgentOfNode returns the agent that the node of this name registered last.
func (s *State) AgentOfNode(node string) (*Agent, bool) {
	slot, ok := s.agentByNode[node]
	if !ok {
		return nil, false
	}
	return s.agents.at(slot), true
}

// Task returns the task in a container; read only, as Framework.
func (s *State) Task(id ContainerID) (*Task, bool) {
	slot, ok := s.taskSlot[id]
	if !ok {
		return nil, false
	}
	return s.tasks.at(slot), true
}

// TaskOf returns a framework's task by the framework's own id.
func (s *State) TaskOf(framework FrameworkID, id TaskID) (*Task, bool) {
	f, ok := s.Framework(framework)
	if !ok {
		return nil, false
	}
	slot, ok := f.tasks[id]
	if !ok {
		return nil, false
	}
	return s.tasks.at(slot), true
}

// FrameworkRemoved says whether an id was torn down or timed out.
func (s *State) FrameworkRemoved(id FrameworkID) bool {
	if _, known := s.frameworkSlot[id]; known {
		return false
	}
	if _, listed := s.removedSet[id]; listed {
		return true
	}
	n, issued := s.issued(string(id), "-")
	return issued && n < s.nextFramework
}

// AgentRemoved says whether an id was issued by this generation and is gone for good.
func (s *State) AgentRemoved(id AgentID) bool {
	if _, known := s.agentSlot[id]; known {
		return false
	}
	n, issued := s.issued(string(id), "-S")
	return issued && n < s.nextAgent
}

// issued takes the number off an id of this generation.
func (s *State) issued(id, separator string) (uint64, bool) {
	rest, ok := strings.CutPrefix(id, s.generation.ID+separator)
	if !ok || s.generation.ID == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(rest, 10, 63)
	return n, err == nil
}

// Frameworks yields all frameworks in the order of their slots.
func (s *State) Frameworks() iter.Seq[*Framework] { return s.frameworks.all() }

// Agents yields all agents.
func (s *State) Agents() iter.Seq[*Agent] { return s.agents.all() }

// Tasks yields all tasks, also those of removed frameworks that agents still kill.
func (s *State) Tasks() iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		for t := range s.tasks.all() {
			if !t.IsExecutor() && !yield(t) {
				return
			}
		}
	}
}

// Counts returns how many frameworks, agents and containers, of tasks and executors, there are.
func (s *State) Counts() (frameworks, agents, tasks int) {
	return len(s.frameworkSlot), len(s.agentSlot), len(s.taskSlot)
}

// TasksOfFramework yields a framework's tasks in the order of their ids.
func (s *State) TasksOfFramework(id FrameworkID) iter.Seq[*Task] {
	return s.tasksOfFramework(id, s.tasks.at)
}

func (s *State) tasksOfFramework(id FrameworkID, at func(int32) *Task) iter.Seq[*Task] {
	return func(yield func(*Task) bool) {
		f, ok := s.Framework(id)
		if !ok {
			return
		}
		for _, task := range slices.Sorted(maps.Keys(f.tasks)) {
			if !yield(at(f.tasks[task])) {
				return
			}
		}
	}
}

func (s *State) frameworkError(id FrameworkID) error {
	if s.FrameworkRemoved(id) {
		return fmt.Errorf("framework %s: %w", id, ErrFrameworkRemoved)
	}
	return fmt.Errorf("framework %s: %w", id, ErrFrameworkUnknown)
}
