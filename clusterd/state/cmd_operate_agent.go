package state

import "fmt"

// ActivateAgent says whether anything may be launched on an agent. What runs there goes on.
type ActivateAgent struct {
	ID     AgentID
	Active bool
}

func (ActivateAgent) kind() kind { return kindActivateAgent }

func (c ActivateAgent) encode(w *writer) {
	w.string(string(c.ID))
	w.bool(c.Active)
}

func decodeActivateAgent(r *reader) Command {
	return ActivateAgent{ID: AgentID(r.string()), Active: r.bool()}
}

func (c ActivateAgent) apply(s *State) (Result, error) {
	slot, ok := s.agentSlot[c.ID]
	if !ok {
		return Result{}, fmt.Errorf("agent %s: %w", c.ID, ErrAgentUnknown)
	}
	a := s.agents.at(slot)
	if c.Active {
		if a.Drain != nil && !s.Drained(a) {
			return Result{}, fmt.Errorf("agent %s: %w", c.ID, ErrAgentDraining)
		}
		a.Drain = nil
	}
	a.Deactivated = !c.Active
	return Result{AgentID: c.ID}, nil
}

// MarkAgentGone is an operator's word that an agent will never come back with what it
// holds: its tasks are over, its id is no more. Its node may begin anew.
type MarkAgentGone struct{ ID AgentID }

func (MarkAgentGone) kind() kind { return kindMarkAgentGone }

func (c MarkAgentGone) encode(w *writer) { w.string(string(c.ID)) }

func decodeMarkAgentGone(r *reader) Command { return MarkAgentGone{ID: AgentID(r.string())} }

func (c MarkAgentGone) apply(s *State) (Result, error) {
	a, ok := s.Agent(c.ID)
	if !ok {
		return Result{}, fmt.Errorf("agent %s: %w", c.ID, ErrAgentUnknown)
	}
	return Result{AgentID: c.ID, Events: s.endAgent(a, Status{
		State: TaskGoneByOperator, Source: SourceMaster, Reason: ReasonGoneByOperator, TimeNS: s.timeNS, Message: "Agent " + string(c.ID) + " was marked gone by an operator",
	})}, nil
}
