package state

import (
	"bytes"
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

// Bounds of the operations of one framework that wait to be acknowledged.
const (
	maxOperations    = 10_000
	maxOperationInfo = 64 << 10 // bytes
)

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
	if c.Framework != "" {
		if _, ok := s.frameworkSlot[c.Framework]; !ok {
			return Result{}, s.frameworkError(c.Framework)
		}
	}
	told := c.Framework != "" && c.Operation != ""
	if told {
		open := s.operations[c.Framework]
		switch _, used := open[c.Operation]; {
		case used:
			return Result{}, fmt.Errorf("operation %s: %w", c.Operation, ErrOperationDuplicate)
		case len(open) >= maxOperations:
			return Result{}, fmt.Errorf("%d operations that are not acknowledged: %w", maxOperations, ErrListFull)
		case len(c.Info) > maxOperationInfo:
			return Result{}, fmt.Errorf("operation %s of %d bytes, at most %d are allowed: %w", c.Operation, len(c.Info), maxOperationInfo, ErrCommandInvalid)
		}
	}
	total, err := s.converted(a, c.Take, c.Give)
	if err != nil {
		return Result{}, err
	}
	a.Total = total
	if told {
		s.addOperation(&Operation{Framework: c.Framework, ID: c.Operation, Agent: c.Agent, UUID: c.UUID, Info: c.Info, TimeNS: s.timeNS})
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
	for _, r := range take {
		if n := a.UsesOf(r); n > 0 {
			return nil, fmt.Errorf("%s of agent %s is used by %d tasks: %w", Resources{r}, a.ID, n, ErrNoRoom)
		}
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
		if slices.ContainsFunc(left, func(o Resource) bool { return o.Role == r.Role && o.Volume() == id }) { // it would be one with it
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
	total, err := left.Plus(made)
	if err == nil {
		err = total.checkMade()
	}
	if err != nil {
		return nil, fmt.Errorf("agent %s: %w", a.ID, err)
	}
	return total, nil
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
	if err == nil {
		err = total.checkMade()
	}
	if err != nil {
		return Result{}, fmt.Errorf("agent %s: %w", c.Agent, err)
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

func (s *State) addOperation(o *Operation) {
	if s.operations == nil {
		s.operations = map[FrameworkID]map[OperationID]*Operation{}
	}
	if s.operations[o.Framework] == nil {
		s.operations[o.Framework] = map[OperationID]*Operation{}
	}
	s.operations[o.Framework][o.ID] = o
}

// Operation returns one that is not acknowledged; read only, as Framework.
func (s *State) Operation(framework FrameworkID, id OperationID) (*Operation, bool) {
	o, ok := s.operations[framework][id]
	return o, ok
}

// Operations are those of a framework that are not acknowledged, in the order of ids.
func (s *State) Operations(framework FrameworkID) []*Operation {
	open := s.operations[framework]
	out := make([]*Operation, 0, len(open))
	for _, id := range slices.Sorted(maps.Keys(open)) {
		out = append(out, open[id])
	}
	return out
}

// AllOperations are those of all frameworks.
func (s *State) AllOperations() []*Operation {
	var out []*Operation
	for _, framework := range slices.Sorted(maps.Keys(s.operations)) {
		out = append(out, s.Operations(framework)...)
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
	o, ok := s.operations[c.Framework][c.ID]
	switch {
	case !ok:
		return Result{}, fmt.Errorf("operation %s of framework %s: %w", c.ID, c.Framework, ErrOperationUnknown)
	case !bytes.Equal(o.UUID, c.UUID):
		return Result{}, fmt.Errorf("operation %s of framework %s: %w", c.ID, c.Framework, ErrNotNewest)
	}
	if delete(s.operations[c.Framework], c.ID); len(s.operations[c.Framework]) == 0 {
		delete(s.operations, c.Framework)
	}
	return Result{FrameworkID: c.Framework, AgentID: o.Agent}, nil
}

// clonedOperations copies what changes; the records never do.
func clonedOperations(all map[FrameworkID]map[OperationID]*Operation) map[FrameworkID]map[OperationID]*Operation {
	out := maps.Clone(all)
	for framework, open := range out {
		out[framework] = maps.Clone(open)
	}
	return out
}

func (s *State) writeOperations(put func(kind uint64, f func(*writer))) {
	for _, o := range s.AllOperations() {
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
	open := s.operations[o.Framework]
	if _, twice := open[o.ID]; twice || o.ID == "" || len(open) >= maxOperations {
		return ErrCorrupt
	}
	s.addOperation(&o)
	return nil
}
