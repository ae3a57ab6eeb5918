package state

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// OperationID is a framework's own name for an operation that it wants to hear of.
type OperationID string

// Errors of refused conversions.
var (
	ErrOperationDuplicate = errors.New("operation id is in use")
	ErrOperationUnknown   = errors.New("operation is unknown")
	ErrVolumeDuplicate    = errors.New("a volume of this id exists in this role")
)

// maxOperations bounds the operations that wait to be acknowledged.
const maxOperations = 1 << 18

// ConvertResources makes resources of an agent that nobody uses what they were not: it
// reserves, takes reservations back, makes volumes, ends, grows and shrinks them. What the
// agent came with, it stays.
type ConvertResources struct {
	Agent AgentID
	Take  Resources
	Give  Resources
	// Of a framework's operation; an operator's has none of these.
	Framework FrameworkID
	Operation OperationID // set: kept until the framework acknowledges that it was done
	UUID      []byte      // of the status that says so
	Info      []byte      // mesos.v1.Offer.Operation
}

func (ConvertResources) kind() kind { return kindConvertResources }

func (c ConvertResources) encode(w *writer) {
	w.string(string(c.Agent))
	w.resources(c.Take)
	w.resources(c.Give)
	w.string(string(c.Framework))
	w.string(string(c.Operation))
	w.bytes(c.UUID)
	w.bytes(c.Info)
}

func decodeConvertResources(r *reader) Command {
	return ConvertResources{
		Agent: AgentID(r.string()), Take: r.resources(), Give: r.resources(), Framework: FrameworkID(r.string()),
		Operation: OperationID(r.string()), UUID: r.bytes(), Info: r.bytes(),
	}
}

func (c ConvertResources) apply(s *State) (Result, error) {
	aslot, ok := s.agentSlot[c.Agent]
	if !ok {
		return Result{}, fmt.Errorf("agent %s: %w", c.Agent, ErrAgentUnknown)
	}
	a := s.agents.at(aslot)
	switch {
	case a.Unreachable:
		return Result{}, fmt.Errorf("agent %s: %w", c.Agent, ErrAgentUnreachable)
	case a.Adopting:
		return Result{}, fmt.Errorf("agent %s: %w", c.Agent, ErrAgentAdopting)
	case a.Deactivated && c.Framework != "":
		return Result{}, fmt.Errorf("agent %s: %w", c.Agent, ErrAgentDeactivated)
	}
	key := operationKey{c.Framework, c.Operation}
	if c.Framework != "" {
		if _, ok := s.frameworkSlot[c.Framework]; !ok {
			return Result{}, s.frameworkError(c.Framework)
		}
		if _, used := s.operations[key]; used {
			return Result{}, fmt.Errorf("operation %s: %w", c.Operation, ErrOperationDuplicate)
		}
		if len(s.operations) >= maxOperations {
			return Result{}, fmt.Errorf("%d operations: %w", maxOperations, ErrListFull)
		}
	}
	total, err := s.converted(a, c.Take, c.Give)
	if err != nil {
		return Result{}, err
	}
	a.Total = total
	if c.Framework != "" && c.Operation != "" {
		if s.operations == nil {
			s.operations = map[operationKey]*Operation{}
		}
		s.operations[key] = &Operation{Framework: c.Framework, ID: c.Operation, Agent: c.Agent, UUID: c.UUID, Info: c.Info, TimeNS: s.timeNS}
	}
	return Result{FrameworkID: c.Framework, AgentID: c.Agent}, nil
}

// converted is what an agent offers once some of its free resources are others.
func (s *State) converted(a *Agent, take, give Resources) (Resources, error) {
	was, err := take.Bases()
	if err != nil {
		return nil, err
	}
	is, err := give.Bases()
	if err != nil {
		return nil, err
	}
	if len(take) == 0 || !is.Hold(was) || !was.Hold(is) {
		return nil, fmt.Errorf("%s cannot become %s: %w", take, give, ErrCommandInvalid)
	}
	if free := a.Free(); !free.Hold(take) {
		return nil, fmt.Errorf("%s are wanted, agent %s has %s free: %w", take, a.ID, free, ErrNoRoom)
	}
	left, _ := a.Total.Minus(take)
	made := slices.Clone(give)
	for i := range made {
		r := &made[i]
		id := r.Volume()
		if id == "" {
			continue
		}
		if slices.ContainsFunc(left, func(o Resource) bool { return o.Role == r.Role && o.Volume() == id }) {
			return nil, fmt.Errorf("volume %s of role %s on agent %s: %w", id, r.Role, a.ID, ErrVolumeDuplicate)
		}
		_, grown := slices.BinarySearchFunc(take, *r, compareResource)
		was, found := slices.BinarySearchFunc(a.Total, *r, compareResource)
		if grown && found { // it stays the volume that it is
			r.Mounting = a.Total[was].Mounting
			continue
		}
		seen := Mounting{}
		if r.Mounting != nil {
			seen = *r.Mounting
		}
		seen.Serial = s.generation.Height<<40 ^ s.index // an entry's last volume of a name is the only one that is ever seen
		r.Mounting = &seen
	}
	return left.Plus(made)
}

// RestoreResources gives an agent that is being adopted what was made of its resources in
// the cluster that it outlived, as it tells.
type RestoreResources struct {
	Agent AgentID
	Made  Resources
}

func (RestoreResources) kind() kind { return kindRestoreResources }

func (c RestoreResources) encode(w *writer) {
	w.string(string(c.Agent))
	w.resources(c.Made)
}

func decodeRestoreResources(r *reader) Command {
	return RestoreResources{Agent: AgentID(r.string()), Made: r.resources()}
}

func (c RestoreResources) apply(s *State) (Result, error) {
	slot, ok := s.agentSlot[c.Agent]
	if !ok {
		return Result{}, fmt.Errorf("agent %s: %w", c.Agent, ErrAgentUnknown)
	}
	a := s.agents.at(slot)
	if !a.Adopting {
		return Result{}, fmt.Errorf("agent %s is not being adopted: %w", c.Agent, ErrCommandInvalid)
	}
	came, err := a.Total.Bases()
	if err != nil {
		return Result{}, err
	}
	total, err := Remade(came, c.Made.Made())
	if err != nil {
		return Result{}, err
	}
	a.Total = total
	return Result{AgentID: c.Agent}, nil
}

// Operation is one that was carried out and whose framework has not acknowledged it.
type Operation struct {
	Framework FrameworkID
	ID        OperationID
	Agent     AgentID
	UUID      []byte // of its status
	Info      []byte // mesos.v1.Offer.Operation
	TimeNS    int64
}

type operationKey struct {
	framework FrameworkID
	id        OperationID
}

func compareOperation(a, b operationKey) int {
	if c := cmp.Compare(a.framework, b.framework); c != 0 {
		return c
	}
	return cmp.Compare(a.id, b.id)
}

// Operation returns one that is not acknowledged; read only, as Framework.
func (s *State) Operation(framework FrameworkID, id OperationID) (*Operation, bool) {
	o, ok := s.operations[operationKey{framework, id}]
	return o, ok
}

// Operations are those of a framework, or of all where it is empty, in the order of ids.
func (s *State) Operations(framework FrameworkID) []*Operation {
	var out []*Operation
	for _, key := range slices.SortedFunc(maps.Keys(s.operations), compareOperation) {
		if framework == "" || key.framework == framework {
			out = append(out, s.operations[key])
		}
	}
	return out
}

// AcknowledgeOperation is a framework's word that it knows what became of an operation.
type AcknowledgeOperation struct {
	Framework FrameworkID
	ID        OperationID
	UUID      []byte
}

func (AcknowledgeOperation) kind() kind { return kindAcknowledgeOperation }

func (c AcknowledgeOperation) encode(w *writer) {
	w.string(string(c.Framework))
	w.string(string(c.ID))
	w.bytes(c.UUID)
}

func decodeAcknowledgeOperation(r *reader) Command {
	return AcknowledgeOperation{Framework: FrameworkID(r.string()), ID: OperationID(r.string()), UUID: r.bytes()}
}

func (c AcknowledgeOperation) apply(s *State) (Result, error) {
	key := operationKey{c.Framework, c.ID}
	o, ok := s.operations[key]
	switch {
	case !ok:
		return Result{}, fmt.Errorf("operation %s of framework %s: %w", c.ID, c.Framework, ErrOperationUnknown)
	case !bytes.Equal(o.UUID, c.UUID):
		return Result{}, fmt.Errorf("operation %s of framework %s: %w", c.ID, c.Framework, ErrNotNewest)
	}
	delete(s.operations, key)
	return Result{FrameworkID: c.Framework, AgentID: o.Agent}, nil
}

// dropOperations forgets those of a framework that is removed.
func (s *State) dropOperations(framework FrameworkID) {
	maps.DeleteFunc(s.operations, func(key operationKey, _ *Operation) bool { return key.framework == framework })
}

func (s *State) writeOperations(put func(kind uint64, f func(*writer))) {
	for _, o := range s.Operations("") {
		put(recordOperation, func(w *writer) {
			w.string(string(o.Framework))
			w.string(string(o.ID))
			w.string(string(o.Agent))
			w.bytes(o.UUID)
			w.bytes(o.Info)
			w.int(o.TimeNS)
		})
	}
}

func (r *reader) operation() Operation {
	return Operation{
		Framework: FrameworkID(r.string()), ID: OperationID(r.string()), Agent: AgentID(r.string()), UUID: r.bytes(), Info: r.bytes(), TimeNS: r.int(),
	}
}

func (s *State) restoreOperation(o Operation) error {
	key := operationKey{o.Framework, o.ID}
	if _, twice := s.operations[key]; twice || o.ID == "" || len(s.operations) >= maxOperations {
		return ErrCorrupt
	}
	if s.operations == nil {
		s.operations = map[operationKey]*Operation{}
	}
	s.operations[key] = &o
	return nil
}
