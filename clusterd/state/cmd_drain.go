package state

import (
	"errors"
	"fmt"
)

// ErrAgentDraining: an agent's tasks are still being ended.
var ErrAgentDraining = errors.New("agent is still being drained")

// Drain is an operator's wish that nothing runs on an agent any more.
type Drain struct {
	Grace   int64 // ns that tasks get at most to end; <0: what each one says itself
	Gone    bool  // the agent is gone for good once nothing is left
	BeganNS int64 // state time
}

// DrainAgent has everything on an agent ended, and nothing launched on it any more, until
// it is activated again.
type DrainAgent struct {
	ID    AgentID
	Grace int64
	Gone  bool
}

func (DrainAgent) kind() kind { return kindDrainAgent }

func (c DrainAgent) encode(w *writer) {
	w.string(string(c.ID))
	w.int(c.Grace)
	w.bool(c.Gone)
}

func decodeDrainAgent(r *reader) Command {
	return DrainAgent{ID: AgentID(r.string()), Grace: r.int(), Gone: r.bool()}
}

func (c DrainAgent) apply(s *State) (Result, error) {
	slot, ok := s.agentSlot[c.ID]
	if !ok {
		return Result{}, fmt.Errorf("agent %s: %w", c.ID, ErrAgentUnknown)
	}
	a := s.agents.at(slot)
	d := Drain{Grace: c.Grace, Gone: c.Gone, BeganNS: s.timeNS}
	if a.Drain != nil {
		d.BeganNS = a.Drain.BeganNS
	}
	a.Drain, a.Deactivated = &d, true
	return Result{AgentID: c.ID}, nil
}

// Drained says whether nothing is left on an agent that is drained: all its tasks have
// ended, what was done to its resources is done, and the frameworks know both.
func (s *State) Drained(a *Agent) bool {
	if a.Drain == nil || len(a.tasks) > 0 {
		return false
	}
	for _, open := range s.operations {
		for _, o := range open {
			if o.Agent == a.ID {
				return false
			}
		}
	}
	return true
}

// EndDrained marks an agent gone that is to be when it is drained, if it still is to be.
type EndDrained struct{ ID AgentID }

func (EndDrained) kind() kind { return kindEndDrained }

func (c EndDrained) encode(w *writer) { w.string(string(c.ID)) }

func decodeEndDrained(r *reader) Command { return EndDrained{ID: AgentID(r.string())} }

func (c EndDrained) apply(s *State) (Result, error) {
	if a, ok := s.Agent(c.ID); ok && (a.Drain == nil || !a.Drain.Gone || !s.Drained(a)) {
		return Result{}, fmt.Errorf("agent %s is not drained to be gone: %w", c.ID, ErrAgentDraining)
	}
	return MarkAgentGone(c).apply(s)
}

func (w *writer) drain(id AgentID, d *Drain) {
	w.string(string(id))
	w.int(d.Grace)
	w.bool(d.Gone)
	w.int(d.BeganNS)
}

func (s *State) restoreDrain(r *reader) error {
	slot, ok := s.agentSlot[AgentID(r.string())]
	d := Drain{Grace: r.int(), Gone: r.bool(), BeganNS: r.int()}
	if !ok || r.err != nil {
		return ErrCorrupt
	}
	s.agents.at(slot).Drain = &d
	return nil
}
