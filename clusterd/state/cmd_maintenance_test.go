package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

// randomMaintenance is what operators and frameworks say of machines.
func randomMaintenance(r *rand.Rand, f FrameworkID, a AgentID) Command {
	some := []MachineID{{Hostname: fmt.Sprint("h", r.IntN(3))}}
	switch r.IntN(4) {
	case 0:
		return AnswerInverseOffer{Agent: a, Framework: f, Accept: r.IntN(2) == 0}
	case 1:
		return StartMaintenance{some}
	case 2:
		return StopMaintenance{some}
	}
	return UpdateSchedule{[]Window{{Machines: []MachineID{{Hostname: "h0"}, {IP: "10.0.0.1"}}, StartNS: int64(r.IntN(3))}, {Machines: some, Duration: -1}}}
}

// A machine that is down loses its agents, gets none back, and comes back out of the
// schedule; answers are of the window that was asked about.
func TestMaintenance(t *testing.T) {
	c := newCluster(t)
	f := c.framework()
	register := RegisterAgent{Node: "n1", AttachKey: "k", Hostname: "H1", Address: "10.0.0.1", Total: bag(t, 4, 64), Pool: "10.88.0.0/16"}
	a := c.do(register).AgentID
	other := c.agent("n2")
	c.do(launch(f, a, 1, bag(t, 1, 1)))
	machine := MachineID{Hostname: "h1", IP: "10.0.0.1"}
	window := Window{Machines: []MachineID{machine}, StartNS: 5, Duration: -1}
	c.refused(StartMaintenance{[]MachineID{machine}}, ErrMachineUnscheduled)
	c.refused(AnswerInverseOffer{a, f, true}, ErrMachineUnscheduled)
	for _, bad := range [][]Window{
		{{}},
		{{Machines: []MachineID{{}}}},
		{window, window},
		{{Machines: []MachineID{{Hostname: "UPPER"}}}},
	} {
		c.refused(UpdateSchedule{bad}, ErrCommandInvalid)
	}
	c.do(UpdateSchedule{[]Window{window}})
	c.do(AnswerInverseOffer{a, f, true})
	c.refused(AnswerInverseOffer{other, f, true}, ErrMachineUnscheduled)
	answered := func() (ok bool) {
		c.m.View(func(s *State) { _, ok = s.InverseAnswer(a, f) })
		return ok
	}
	c.do(UpdateSchedule{[]Window{window, {Machines: []MachineID{{Hostname: "elsewhere"}}}}})
	if !answered() {
		t.Error("the answer went with another machine's window")
	}
	later := window
	later.StartNS = 9
	c.do(UpdateSchedule{[]Window{later}})
	if answered() {
		t.Error("the answer stayed for another window")
	}
	r := c.do(StartMaintenance{[]MachineID{machine}})
	if len(r.Events) != 2 || r.Events[0].Status.State != TaskGone {
		t.Errorf("events %+v", r.Events)
	}
	c.refused(register, ErrMachineDown)
	c.refused(StartMaintenance{[]MachineID{machine}}, ErrMachineDown)
	c.refused(UpdateSchedule{nil}, ErrCommandInvalid)
	c.m.View(func(s *State) {
		if _, ok := s.Agent(other); !ok {
			t.Error("another machine's agent ended, too")
		}
	})
	c.do(StopMaintenance{[]MachineID{machine}})
	c.refused(StopMaintenance{[]MachineID{machine}}, ErrMachineUnscheduled)
	c.do(register)
	c.m.View(func(s *State) {
		if m := s.Maintenance(); len(m.Windows)+len(m.Down) != 0 {
			t.Errorf("left: %+v", m)
		}
	})
	if !errors.Is(CheckSchedule([]Window{{Machines: make([]MachineID, 1)}}, &Maintenance{}), ErrCommandInvalid) {
		t.Error("a machine without a name was taken")
	}
}
