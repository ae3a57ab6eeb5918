package state

import (
	"maps"
	"slices"
)

func (w *writer) machines(list []MachineID) {
	w.uint(uint64(len(list)))
	for _, id := range list {
		w.string(id.Hostname)
		w.string(id.IP)
	}
}

func (r *reader) machines() []MachineID {
	var out []MachineID
	for range r.count() {
		out = append(out, MachineID{r.string(), r.string()})
	}
	return out
}

func (w *writer) windows(list []Window) {
	w.uint(uint64(len(list)))
	for _, x := range list {
		w.machines(x.Machines)
		w.int(x.StartNS)
		w.int(x.Duration)
	}
}

func (r *reader) windows() []Window {
	var out []Window
	for range r.count() {
		out = append(out, Window{r.machines(), r.int(), r.int()})
	}
	return out
}

func (s *State) writeMaintenance(put func(kind uint64, f func(*writer))) {
	if m := s.maintenance; m != nil {
		put(recordMaintenance, func(w *writer) {
			w.windows(m.Windows)
			w.machines(m.Down)
		})
	}
	for _, agent := range slices.Sorted(maps.Keys(s.answers)) {
		for _, framework := range slices.Sorted(maps.Keys(s.answers[agent])) {
			put(recordAnswer, func(w *writer) {
				w.string(string(agent))
				w.string(string(framework))
				w.bool(s.answers[agent][framework].Accept)
				w.int(s.answers[agent][framework].TimeNS)
			})
		}
	}
}

func (s *State) restoreMaintenance(r *reader) error {
	m := &Maintenance{Windows: r.windows(), Down: r.machines()}
	if r.err != nil || s.maintenance != nil || len(m.Windows) == 0 || CheckSchedule(m.Windows, m) != nil || !slices.IsSortedFunc(m.Down, compareMachine) {
		return ErrCorrupt
	}
	s.maintenance = m.indexed()
	return nil
}

func (s *State) restoreAnswer(r *reader) error {
	agent, framework := AgentID(r.string()), FrameworkID(r.string())
	a := InverseAnswer{r.bool(), r.int()}
	if _, ok := s.Agent(agent); !ok || r.err != nil {
		return ErrCorrupt
	}
	s.answer(agent, framework, a)
	return nil
}

func clonedAnswers(all map[AgentID]map[FrameworkID]InverseAnswer) map[AgentID]map[FrameworkID]InverseAnswer {
	out := maps.Clone(all)
	for agent, answers := range out {
		out[agent] = maps.Clone(answers)
	}
	return out
}
