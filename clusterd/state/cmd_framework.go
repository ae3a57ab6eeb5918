package state

import (
	"fmt"
	"slices"
)

// BeginGeneration makes the state belong to a new Raft history; ids issued from now on
// begin with its UUID. What is in the state stays, with the ids it has.
type BeginGeneration struct{ Generation Generation }

func (BeginGeneration) kind() kind { return kindBeginGeneration }

func (c BeginGeneration) encode(w *writer) {
	w.uint(c.Generation.Height)
	w.string(c.Generation.ID)
}

func decodeBeginGeneration(r *reader) Command {
	return BeginGeneration{Generation{Height: r.uint(), ID: r.string()}}
}

func (c BeginGeneration) apply(s *State) (Result, error) {
	switch {
	case c.Generation.ID == "":
		return Result{}, fmt.Errorf("generation without id: %w", ErrCommandInvalid)
	case c.Generation == s.generation:
		return Result{}, nil
	case c.Generation.Height <= s.generation.Height && s.generation.ID != "":
		return Result{}, fmt.Errorf("height %d, present %d: %w", c.Generation.Height, s.generation.Height, ErrGenerationOlder)
	}
	if s.generation.ID != "" {
		s.past = append(slices.Clone(s.past), s.generation.ID)
		s.past = s.past[max(0, len(s.past)-maxPast):]
	}
	s.generation = c.Generation
	s.nextFramework, s.nextAgent = 0, 0
	return Result{}, nil
}

// SubscribeFramework registers a framework or connects a known one again. Without ID
// one is issued; an ID nobody knows is taken as it is (the framework outlived the
// cluster that gave it).
type SubscribeFramework struct {
	ID              FrameworkID
	Info            []byte
	Name            string
	User            string
	Principal       string
	Hostname        string
	Roles           []string
	Capabilities    Capabilities
	Checkpoint      bool
	FailoverTimeout int64 // ns
}

func (SubscribeFramework) kind() kind { return kindSubscribeFramework }

func (c SubscribeFramework) encode(w *writer) {
	w.string(string(c.ID))
	w.bytes(c.Info)
	w.string(c.Name)
	w.string(c.User)
	w.string(c.Principal)
	w.string(c.Hostname)
	w.strings(c.Roles)
	w.uint(uint64(c.Capabilities))
	w.bool(c.Checkpoint)
	w.int(c.FailoverTimeout)
}

func decodeSubscribeFramework(r *reader) Command {
	return SubscribeFramework{
		ID: FrameworkID(r.string()), Info: r.bytes(), Name: r.string(), User: r.string(), Principal: r.string(), Hostname: r.string(),
		Roles: r.strings(), Capabilities: Capabilities(r.uint()), Checkpoint: r.bool(), FailoverTimeout: r.int(),
	}
}

func (c SubscribeFramework) apply(s *State) (Result, error) {
	if err := c.check(); err != nil {
		return Result{}, err
	}
	if c.ID != "" && s.FrameworkRemoved(c.ID) {
		return Result{}, s.frameworkError(c.ID)
	}
	if slot, ok := s.frameworkSlot[c.ID]; ok {
		f := s.frameworks.at(slot)
		if err := c.replace(f); err != nil {
			return Result{}, err
		}
		f.Connected, f.ReregisteredNS, f.Remaining = true, s.timeNS, c.FailoverTimeout
		return Result{FrameworkID: c.ID}, nil
	}
	if len(s.frameworkSlot) >= maxFrameworks {
		return Result{}, fmt.Errorf("%d frameworks: %w", maxFrameworks, ErrListFull)
	}
	id := c.ID
	if id == "" {
		if s.generation.ID == "" {
			return Result{}, fmt.Errorf("no generation has begun: %w", ErrCommandInvalid)
		}
		id = FrameworkID(fmt.Sprintf("%s-%04d", s.generation.ID, s.nextFramework))
		s.nextFramework++
	} else if n, issued := s.issued(string(id), "-"); issued {
		s.nextFramework = max(s.nextFramework, n+1)
	}
	f := c.framework(s)
	f.ID, f.Connected, f.Remaining = id, true, c.FailoverTimeout
	s.frameworkSlot[id] = s.frameworks.add(f)
	return Result{FrameworkID: id}, nil
}

// UpdateFramework replaces what a framework says of itself, whether it is connected or not.
type UpdateFramework struct{ SubscribeFramework }

func (UpdateFramework) kind() kind { return kindUpdateFramework }

func decodeUpdateFramework(r *reader) Command {
	return UpdateFramework{decodeSubscribeFramework(r).(SubscribeFramework)}
}

func (c UpdateFramework) apply(s *State) (Result, error) {
	if err := c.check(); err != nil {
		return Result{}, err
	}
	slot, ok := s.frameworkSlot[c.ID]
	if !ok {
		return Result{}, s.frameworkError(c.ID)
	}
	return Result{FrameworkID: c.ID}, c.replace(s.frameworks.at(slot))
}

// check holds what is subscribed to its bounds.
func (c SubscribeFramework) check() error {
	if len(c.Roles) > maxRoles || c.FailoverTimeout < 0 {
		return fmt.Errorf("framework with %d roles, failover timeout %d: %w", len(c.Roles), c.FailoverTimeout, ErrCommandInvalid)
	}
	return nil
}

// replace gives a framework what may change in it.
func (c SubscribeFramework) replace(f *Framework) error {
	if f.Principal != c.Principal {
		return fmt.Errorf("framework %s: %w", c.ID, ErrPrincipal)
	}
	f.Info, f.Name, f.Hostname, f.Roles = c.Info, c.Name, c.Hostname, slices.Clone(c.Roles)
	f.Capabilities, f.FailoverTimeout = c.Capabilities, c.FailoverTimeout
	return nil
}

// framework is a new one, as it was subscribed.
func (c SubscribeFramework) framework(s *State) Framework {
	return Framework{
		ID: c.ID, Info: c.Info, Name: c.Name, User: c.User, Principal: c.Principal, Hostname: c.Hostname, Roles: slices.Clone(c.Roles),
		Capabilities: c.Capabilities, Checkpoint: c.Checkpoint, FailoverTimeout: c.FailoverTimeout, RegisteredNS: s.timeNS,
		tasks: map[TaskID]int32{}, executors: map[executorKey]int32{}, allocated: map[string]Resources{},
	}
}

// maxRoles bounds the roles of one framework.
const maxRoles = 1024

// DisconnectFramework writes down that a framework's stream was lost, and how long it
// may stay away.
type DisconnectFramework struct {
	ID        FrameworkID
	Remaining int64 // ns
}

func (DisconnectFramework) kind() kind { return kindDisconnectFramework }

func (c DisconnectFramework) encode(w *writer) {
	w.string(string(c.ID))
	w.int(c.Remaining)
}

func decodeDisconnectFramework(r *reader) Command {
	return DisconnectFramework{ID: FrameworkID(r.string()), Remaining: r.int()}
}

func (c DisconnectFramework) apply(s *State) (Result, error) {
	slot, ok := s.frameworkSlot[c.ID]
	if !ok {
		return Result{}, s.frameworkError(c.ID)
	}
	f := s.frameworks.at(slot)
	f.Connected, f.DisconnectedNS, f.Remaining = false, s.timeNS, max(0, c.Remaining)
	return Result{FrameworkID: c.ID}, nil
}

// RemoveFramework ends a framework for good. Its running tasks stay in the state, as
// nobody's, until their agents report them ended; their resources stay taken as long.
type RemoveFramework struct{ ID FrameworkID }

func (RemoveFramework) kind() kind { return kindRemoveFramework }

func (c RemoveFramework) encode(w *writer) { w.string(string(c.ID)) }

func decodeRemoveFramework(r *reader) Command { return RemoveFramework{ID: FrameworkID(r.string())} }

func (c RemoveFramework) apply(s *State) (Result, error) {
	slot, ok := s.frameworkSlot[c.ID]
	if !ok {
		return Result{}, s.frameworkError(c.ID)
	}
	r := Result{FrameworkID: c.ID}
	for t := range s.containersOfFramework(c.ID) {
		t.Orphan = true
		if t.State.Terminal() || t.Released {
			r.Events = append(r.Events, s.dropTask(t)...)
			continue
		}
		t.KillRequested, t.KillGrace = true, -1
		t.noteNewest(Status{State: TaskKilled, Source: SourceMaster, Reason: ReasonFrameworkRemoved, TimeNS: s.timeNS, Message: "Framework was removed"})
		r.Events = append(r.Events, Event{Change: KillWanted, Framework: c.ID, Task: t.TaskID, Container: t.ContainerID, Agent: t.AgentID})
		if a, ok := s.Agent(t.AgentID); ok && a.Unreachable {
			// It may never come back; when it does it is told to end the container.
			r.Events = append(r.Events, s.dropTask(t)...)
		}
	}
	delete(s.operations, c.ID)
	for _, answers := range s.answers {
		delete(answers, c.ID)
	}
	delete(s.frameworkSlot, c.ID)
	s.ended = append(s.ended, *s.frameworks.at(slot))
	s.frameworks.remove(slot)
	s.noteRemoved(c.ID)
	return r, nil
}

// noteNewest replaces what is newest known of a task by what the cluster decided.
func (t *Task) noteNewest(st Status) {
	t.Newest = st
	t.noteStatus(st)
}

func (s *State) noteRemoved(id FrameworkID) {
	s.removed = append(s.removed, id)
	s.removedSet[id] = struct{}{}
	if len(s.removed) > maxRemovedFrameworks {
		delete(s.removedSet, s.removed[0])
		s.removed = slices.Clone(s.removed[1:])
	}
}
