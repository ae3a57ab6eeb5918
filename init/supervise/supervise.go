// Package supervise owns the programs of a node: it starts each in its control group,
// keeps its output, notices its death and starts it again, as service.Next says.
//
// Invariant: one goroutine (Run) owns all states and does all actions; callers talk to
// it through channels. Deaths come from reap, never from a wait of its own.
//
// The order of programs is main's business: it says Want for each when its time has come.
package supervise

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/mesolith/mesolith/init/reap"
	"github.com/mesolith/mesolith/init/service"
	"golang.org/x/sys/unix"
)

// Status is a program's state for who asks.
type Status struct {
	Name     string
	State    string
	PID      int
	Restarts int
	LastExit string
	Since    time.Time
}

// Supervisor runs programs. Want, Stop, List and Ping may be called from any goroutine
// while Run runs.
type Supervisor struct {
	reaper    *reap.Reaper
	logDir    string
	say, warn func(format string, args ...any)
	// Prepare is called before each start and may add files and environment, as a new
	// pipe; what it adds is closed here after the start.
	prepare func(p *Program) ([]*os.File, error)

	calls chan func() // run by Run, one after the other
	units map[string]*unit
	order []string
}

type unit struct {
	program Program
	state   service.Service
	timer   *time.Timer
	pipe    *os.File // write end of its output
	stopped []chan struct{}
}

// Config of a Supervisor.
type Config struct {
	Reaper    *reap.Reaper
	LogDir    string
	Say, Warn func(format string, args ...any)
	Prepare   func(p *Program) ([]*os.File, error)
}

// New gives a supervisor of the given programs, none of which is wanted yet.
func New(c Config, programs []Program) (*Supervisor, error) {
	s := &Supervisor{
		reaper: c.Reaper, logDir: c.LogDir, say: c.Say, warn: c.Warn, prepare: c.Prepare,
		calls: make(chan func()), units: map[string]*unit{},
	}
	for _, p := range programs {
		log, err := newRing(s.logDir+"/"+p.Name, logBytes)
		if err != nil {
			return nil, err
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("make output of %s: %w", p.Name, err)
		}
		// The program's end blocks when the pipe is full, as every program expects.
		if err := unix.SetNonblock(int(w.Fd()), false); err != nil {
			return nil, fmt.Errorf("make output of %s: %w", p.Name, err)
		}
		go output(p.Name, r, log, s.warn) // ends with the machine: w stays open here
		s.units[p.Name] = &unit{program: p, pipe: w, state: service.Service{Since: time.Now()}}
		s.order = append(s.order, p.Name)
	}
	return s, nil
}

// Run is the supervisor's one goroutine; it ends when done is closed.
func (s *Supervisor) Run(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case call := <-s.calls:
			call()
		}
	}
}

// Want says that a program is to run from now on.
func (s *Supervisor) Want(name string) {
	s.calls <- func() { s.event(name, service.Event{Kind: service.Want}) }
}

// Stop ends a program and waits until it is gone; it is killed after grace.
func (s *Supervisor) Stop(name string, grace time.Duration) {
	gone := make(chan struct{})
	s.calls <- func() {
		u := s.units[name]
		u.stopped = append(u.stopped, gone)
		s.event(name, service.Event{Kind: service.Stop, Grace: grace})
	}
	<-gone
}

// List gives the state of all programs in their order.
func (s *Supervisor) List() []Status {
	answer := make(chan []Status, 1)
	s.calls <- func() {
		var list []Status
		for _, name := range s.order {
			st := s.units[name].state
			list = append(list, Status{name, st.Phase.String(), st.PID, st.Restarts, st.LastExit, st.Since})
		}
		answer <- list
	}
	return <-answer
}

// Ping returns when the supervisor's goroutine has answered, or false after limit.
func (s *Supervisor) Ping(limit time.Duration) bool {
	pong := make(chan struct{})
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case s.calls <- func() { close(pong) }:
	case <-timer.C:
		return false
	}
	select {
	case <-pong:
		return true
	case <-timer.C:
		return false
	}
}

func (s *Supervisor) event(name string, e service.Event) {
	u := s.units[name]
	e.At = time.Now()
	was := u.state.Phase
	var actions []service.Action
	u.state, actions = service.Next(u.state, e)
	s.tell(name, was, u.state, e)
	for _, a := range actions {
		s.do(name, u, a)
	}
	if u.state.Phase == service.Stopped {
		for _, gone := range u.stopped {
			close(gone)
		}
		u.stopped = nil
	}
}

func (s *Supervisor) tell(name string, was service.Phase, now service.Service, e service.Event) {
	switch {
	case now.Phase == was:
	case now.Phase == service.Running:
		s.say("%s started, pid %d", name, now.PID)
	case now.Phase == service.Backoff:
		s.warn("%s ended (%s), starts again", name, e.Exit)
	case now.Phase == service.Stopped:
		s.say("%s stopped", name)
	}
}

func (s *Supervisor) do(name string, u *unit, a service.Action) {
	switch a.Do {
	case service.Spawn:
		s.spawn(name, u)
	case service.SetTimer:
		s.setTimer(name, u, a.After)
	case service.StopTimer:
		if u.timer != nil {
			u.timer.Stop()
		}
	case service.Terminate:
		if err := unix.Kill(u.state.PID, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
			s.warn("end %s: %v", name, err)
		}
	case service.Kill:
		s.killGroup(u.program.Cgroup)
	}
}

func (s *Supervisor) setTimer(name string, u *unit, after time.Duration) {
	if u.timer != nil {
		u.timer.Stop()
	}
	var timer *time.Timer
	timer = time.AfterFunc(after, func() {
		s.calls <- func() {
			if u.timer == timer { // not replaced meanwhile
				s.event(name, service.Event{Kind: service.TimerFired})
			}
		}
	})
	u.timer = timer
}

// spawn starts a program; children that its predecessor left in its group end first.
func (s *Supervisor) spawn(name string, u *unit) {
	s.killGroup(u.program.Cgroup)
	p := u.program
	p.Env, p.Files = slices.Clone(p.Env), slices.Clone(p.Files)
	mine, err := s.prepare(&p)
	if err != nil {
		s.event(name, service.Event{Kind: service.SpawnFailed, Exit: err.Error()})
		return
	}
	pid, exit, err := s.reaper.Start(func() (int, error) { return fork(p, u.pipe) })
	for _, f := range mine {
		f.Close()
	}
	if err != nil {
		s.event(name, service.Event{Kind: service.SpawnFailed, Exit: err.Error()})
		return
	}
	go func() { // ends with the process
		status := <-exit
		s.calls <- func() { s.event(name, service.Event{Kind: service.Died, Exit: inWords(status)}) }
	}()
	s.event(name, service.Event{Kind: service.Spawned, PID: pid})
}

func (s *Supervisor) killGroup(dir string) {
	err := os.WriteFile(dir+"/cgroup.kill", []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.warn("empty control group: %v", err)
	}
}

func inWords(w unix.WaitStatus) string {
	switch {
	case w.Signaled():
		return "signal: " + syscall.Signal(w.Signal()).String()
	default:
		return fmt.Sprintf("exit status %d", w.ExitStatus())
	}
}
