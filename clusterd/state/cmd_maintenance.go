package state

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Errors of maintenance.
var (
	ErrMachineDown        = errors.New("machine is down for maintenance")
	ErrMachineUnscheduled = errors.New("machine is not in the maintenance schedule")
)

// MachineID names a machine by its host name, in lower case, or its address, or both.
type MachineID struct{ Hostname, IP string }

func (m MachineID) String() string { return strings.Trim(m.Hostname+" "+m.IP, " ") }

func compareMachine(a, b MachineID) int {
	if c := cmp.Compare(a.Hostname, b.Hostname); c != 0 {
		return c
	}
	return cmp.Compare(a.IP, b.IP)
}

// Is says whether an agent lives on the machine: all that names it holds for the agent.
func (m MachineID) Is(a *Agent) bool { return m.names(a.Hostname, a.Address) }

func (m MachineID) names(hostname, address string) bool {
	return m != MachineID{} && (m.Hostname == "" || m.Hostname == strings.ToLower(hostname)) && (m.IP == "" || m.IP == address)
}

// Window is when some machines will be away.
type Window struct {
	Machines []MachineID
	StartNS  int64 // Unix time
	Duration int64 // ns; <0: for good
}

// Maintenance is what operators plan with machines. What a State points to never changes.
type Maintenance struct {
	Windows []Window
	Down    []MachineID // ascending; of those in windows

	window map[MachineID]int // of each machine that is named
}

// indexed finds windows by machine.
func (m *Maintenance) indexed() *Maintenance {
	m.window = map[MachineID]int{}
	for i, w := range m.Windows {
		for _, id := range w.Machines {
			m.window[id] = i
		}
	}
	return m
}

// Window finds when an agent will be away; nil: nobody plans that.
func (m *Maintenance) Window(a *Agent) *Window {
	if len(m.Windows) == 0 {
		return nil
	}
	host := strings.ToLower(a.Hostname)
	for _, id := range []MachineID{{host, a.Address}, {Hostname: host}, {IP: a.Address}} { // the nearest name counts
		if i, ok := m.window[id]; ok && id != (MachineID{}) {
			return &m.Windows[i]
		}
	}
	return nil
}

// IsDown says whether an operator took a machine down.
func (m *Maintenance) IsDown(id MachineID) bool {
	_, down := slices.BinarySearchFunc(m.Down, id, compareMachine)
	return down
}

func (m *Maintenance) scheduled(id MachineID) bool {
	_, ok := m.window[id]
	return ok
}

// Maintenance is what is planned; it is never changed, by its readers neither.
func (s *State) Maintenance() *Maintenance {
	if s.maintenance == nil {
		return &Maintenance{}
	}
	return s.maintenance
}

// downFor says whether an agent of this name and address may not be here now.
func (s *State) downFor(hostname, address string) error {
	for _, id := range s.Maintenance().Down {
		if id.names(hostname, address) {
			return fmt.Errorf("machine %s: %w", id, ErrMachineDown)
		}
	}
	return nil
}

// maxMachines bounds the machines of a schedule.
const maxMachines = 100_000

// CheckSchedule says what is wrong with a schedule, also against the machines that are down
// now.
func CheckSchedule(windows []Window, now *Maintenance) error {
	seen := map[MachineID]bool{}
	for i, w := range windows {
		if len(w.Machines) == 0 {
			return fmt.Errorf("window %d of the schedule names no machine: %w", i+1, ErrCommandInvalid)
		}
		for _, id := range w.Machines {
			switch {
			case id == MachineID{}:
				return fmt.Errorf("window %d of the schedule has a machine with neither 'hostname' nor 'ip': %w", i+1, ErrCommandInvalid)
			case id.Hostname != strings.ToLower(id.Hostname) || len(id.Hostname) > 255:
				return fmt.Errorf("host name %.80q of the schedule: %w", id.Hostname, ErrCommandInvalid)
			case seen[id]:
				return fmt.Errorf("machine %s is in the schedule twice: %w", id, ErrCommandInvalid)
			}
			seen[id] = true
		}
	}
	if len(seen) > maxMachines {
		return fmt.Errorf("%d machines in the schedule: %w", len(seen), ErrListFull)
	}
	for _, id := range now.Down {
		if !seen[id] {
			return fmt.Errorf("machine %s is down and must stay in the schedule until its maintenance is stopped: %w", id, ErrCommandInvalid)
		}
	}
	return nil
}

// UpdateSchedule replaces the plan of who is away when.
type UpdateSchedule struct{ Windows []Window }

func (UpdateSchedule) kind() kind { return kindUpdateSchedule }

func (c UpdateSchedule) encode(w *writer) { w.windows(c.Windows) }

func decodeUpdateSchedule(r *reader) Command { return UpdateSchedule{r.windows()} }

func (c UpdateSchedule) apply(s *State) (Result, error) {
	now := s.Maintenance()
	if err := CheckSchedule(c.Windows, now); err != nil {
		return Result{}, err
	}
	s.setMaintenance(&Maintenance{Windows: c.Windows, Down: now.Down})
	for a := range s.Agents() { // who answered answered another question
		before, after := now.Window(a), s.Maintenance().Window(a)
		if before == nil || after == nil || before.StartNS != after.StartNS || before.Duration != after.Duration {
			delete(s.answers, a.ID)
		}
	}
	return Result{}, nil
}

func (s *State) setMaintenance(m *Maintenance) {
	if s.maintenance = m.indexed(); len(m.Windows) == 0 {
		s.maintenance = nil
	}
}

// StartMaintenance takes scheduled machines down: their agents end for good, and cannot come
// back before StopMaintenance, which takes the machines out of the schedule.
type StartMaintenance struct{ Machines []MachineID }

func (StartMaintenance) kind() kind { return kindStartMaintenance }

func (c StartMaintenance) encode(w *writer) { w.machines(c.Machines) }

func decodeStartMaintenance(r *reader) Command { return StartMaintenance{r.machines()} }

func (c StartMaintenance) apply(s *State) (Result, error) {
	now := s.Maintenance()
	next := &Maintenance{Windows: now.Windows, Down: slices.Clone(now.Down)}
	for _, id := range c.Machines {
		switch {
		case !now.scheduled(id):
			return Result{}, fmt.Errorf("machine %s: %w", id, ErrMachineUnscheduled)
		case next.IsDown(id):
			return Result{}, fmt.Errorf("machine %s: %w", id, ErrMachineDown)
		}
		next.Down = append(next.Down, id)
		slices.SortFunc(next.Down, compareMachine)
	}
	s.setMaintenance(next)
	r := Result{}
	var away []AgentID
	for a := range s.Agents() {
		if s.downFor(a.Hostname, a.Address) != nil {
			away = append(away, a.ID)
		}
	}
	slices.Sort(away)
	for _, id := range away {
		a, _ := s.Agent(id)
		r.Events = append(r.Events, s.endAgent(a, Status{
			State: TaskGone, Source: SourceMaster, Reason: ReasonAgentRemoved, TimeNS: s.timeNS, Message: "Operator initiated 'Machine DOWN'",
		})...)
	}
	return r, nil
}

// StopMaintenance ends the maintenance of machines that are down.
type StopMaintenance struct{ Machines []MachineID }

func (StopMaintenance) kind() kind { return kindStopMaintenance }

func (c StopMaintenance) encode(w *writer) { w.machines(c.Machines) }

func decodeStopMaintenance(r *reader) Command { return StopMaintenance{r.machines()} }

func (c StopMaintenance) apply(s *State) (Result, error) {
	next := &Maintenance{Down: slices.Clone(s.Maintenance().Down)}
	for _, id := range c.Machines {
		at, down := slices.BinarySearchFunc(next.Down, id, compareMachine)
		if !down {
			return Result{}, fmt.Errorf("machine %s is not down: %w", id, ErrMachineUnscheduled)
		}
		next.Down = slices.Delete(next.Down, at, at+1)
	}
	for _, w := range s.Maintenance().Windows {
		w.Machines = slices.DeleteFunc(slices.Clone(w.Machines), func(id MachineID) bool { return slices.Contains(c.Machines, id) })
		if len(w.Machines) > 0 {
			next.Windows = append(next.Windows, w)
		}
	}
	s.setMaintenance(next)
	return Result{}, nil
}

// InverseAnswer is what a framework said when it was asked for an agent.
type InverseAnswer struct {
	Accept bool
	TimeNS int64
}

// AnswerInverseOffer writes it down. Nothing follows from it: it is for operators.
type AnswerInverseOffer struct {
	Agent     AgentID
	Framework FrameworkID
	Accept    bool
}

func (AnswerInverseOffer) kind() kind { return kindAnswerInverseOffer }

func (c AnswerInverseOffer) encode(w *writer) {
	w.string(string(c.Agent))
	w.string(string(c.Framework))
	w.bool(c.Accept)
}

func decodeAnswerInverseOffer(r *reader) Command {
	return AnswerInverseOffer{AgentID(r.string()), FrameworkID(r.string()), r.bool()}
}

func (c AnswerInverseOffer) apply(s *State) (Result, error) {
	a, ok := s.Agent(c.Agent)
	if !ok {
		return Result{}, fmt.Errorf("agent %s: %w", c.Agent, ErrAgentUnknown)
	}
	if _, ok := s.Framework(c.Framework); !ok {
		return Result{}, s.frameworkError(c.Framework)
	}
	if s.Maintenance().Window(a) == nil {
		return Result{}, fmt.Errorf("agent %s: %w", c.Agent, ErrMachineUnscheduled)
	}
	s.answer(c.Agent, c.Framework, InverseAnswer{c.Accept, s.timeNS})
	return Result{AgentID: c.Agent, FrameworkID: c.Framework}, nil
}

func (s *State) answer(agent AgentID, framework FrameworkID, a InverseAnswer) {
	if s.answers == nil {
		s.answers = map[AgentID]map[FrameworkID]InverseAnswer{}
	}
	if s.answers[agent] == nil {
		s.answers[agent] = map[FrameworkID]InverseAnswer{}
	}
	s.answers[agent][framework] = a
}

// InverseAnswer is a framework's newest answer about an agent.
func (s *State) InverseAnswer(agent AgentID, framework FrameworkID) (InverseAnswer, bool) {
	a, ok := s.answers[agent][framework]
	return a, ok
}
