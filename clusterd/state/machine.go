package state

import (
	"bufio"
	"io"
	"slices"
	"sync"
)

// Bounds of what is remembered of the past.
const (
	maxFinishedTasks     = 1000 // per framework
	maxFinishedAll       = 20_000
	maxEndedFrameworks   = 50
	finishedTrimHeadroom = 1000
)

// History is the bounded past: what the operator's views show as completed. It is no
// part of the truth: replicas may differ in it.
type History struct {
	Tasks      []Task // oldest first
	Frameworks []Framework
}

func (h *History) add(tasks []Task, frameworks []Framework) {
	h.Tasks = append(h.Tasks, tasks...)
	h.Frameworks = append(h.Frameworks, frameworks...)
	if n := len(h.Frameworks) - maxEndedFrameworks; n > 0 {
		h.Frameworks = slices.Clone(h.Frameworks[n:])
	}
	if len(h.Tasks) > maxFinishedAll+finishedTrimHeadroom {
		h.trim()
	}
}

// shared gives the history as it is now; its records never change, and what is added later
// goes elsewhere.
func (h *History) shared() History {
	return History{Tasks: slices.Clip(h.Tasks), Frameworks: slices.Clip(h.Frameworks)}
}

// trim keeps the newest of each framework.
func (h *History) trim() {
	kept := make([]Task, 0, maxFinishedAll)
	per := map[FrameworkID]int{}
	for _, t := range slices.Backward(h.Tasks) {
		if per[t.FrameworkID]++; per[t.FrameworkID] <= maxFinishedTasks && len(kept) < maxFinishedAll {
			kept = append(kept, t)
		}
	}
	slices.Reverse(kept)
	h.Tasks = kept
}

// Machine is a State behind a lock, in the shape the replicated log wants. Its methods
// may be called from anywhere.
type Machine struct {
	mu      sync.RWMutex
	state   *State
	history History
	fatal   error // the entry that could not be applied; nothing after it is
}

// NewMachine begins empty.
func NewMachine() *Machine { return &Machine{state: New()} }

// Apply carries out one committed entry; the answer is an Applied. After one that it could
// not read it takes no further ones and gives no snapshot, so that a replica whose owner
// is slow to stop it cannot pass on a state with a hole.
func (m *Machine) Apply(index, _ uint64, entry []byte) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fatal != nil {
		return Applied{Err: m.fatal}
	}
	out := m.state.Apply(index, entry)
	m.fatal = out.Err
	m.history.add(out.Finished, out.Ended)
	return out
}

// Snapshot copies the state; writing it out holds no lock.
func (m *Machine) Snapshot() (io.WriterTo, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.fatal != nil {
		return nil, m.fatal
	}
	s := m.state.Snapshot()
	s.history = m.history.shared()
	return s, nil
}

// Restore replaces the state by a snapshot, or leaves it as it is with an error. No bytes
// at all mean the state before the first entry: so a generation begins from nothing.
func (m *Machine) Restore(r io.Reader) error {
	br := bufio.NewReader(r)
	s, h := New(), History{}
	if _, err := br.Peek(1); err != io.EOF {
		if s, h, err = Read(br); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state, m.history, m.fatal = s, h, nil
	return nil
}

// View shows the state; f must not keep what it is given, nor call the Machine.
func (m *Machine) View(f func(*State)) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	f(m.state)
}

// History shows the past; f must not keep it.
func (m *Machine) History(f func(History)) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	f(m.history)
}

// Generation is the one the state belongs to.
func (m *Machine) Generation() Generation {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.generation
}

// Hash is the state's.
func (m *Machine) Hash() [32]byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.Hash()
}
