// Package service is the life of one supervised program as a pure function: a state and
// an event give the next state and the actions to do. It reads no clock, starts nothing
// and waits for nothing; supervise does.
//
// Invariant: at most one process of a service lives at a time; a service that ends by
// itself is started again, for ever, after a pause that doubles from 100 ms to 10 s and
// begins anew once it has run for a minute; after Stop nothing is started any more.
package service

import "time"

// Pauses between starts, and what ends a pause's growth.
const (
	FirstPause  = 100 * time.Millisecond
	ProvenAfter = time.Minute
)

// Phase is where a service is in its life.
type Phase int

const (
	Idle     Phase = iota // not wanted yet
	Starting              // Spawn was asked for, no answer yet
	Running
	Backoff  // died, waits to be started again
	Stopping // asked to end
	Stopped  // will not be started again
)

var phaseNames = [...]string{"idle", "starting", "running", "backoff", "stopping", "stopped"}

func (p Phase) String() string { return phaseNames[p] }

// Service is the state of one program.
type Service struct {
	Phase    Phase
	PID      int
	Restarts int
	LastExit string
	Since    time.Time // begin of the present phase
	pause    time.Duration
}

// Event is what happened.
type Event struct {
	Kind  Kind
	PID   int           // Spawned
	Exit  string        // Died, SpawnFailed: in words
	Grace time.Duration // Stop: how long before it is killed
	At    time.Time
}

// Kind of an event.
type Kind int

const (
	Want        Kind = iota // it is to run
	Spawned                 // the process is there
	SpawnFailed             // it could not be started
	Died                    // the process ended
	TimerFired              // the pause, or the grace, is over
	Stop                    // it is to end and stay so
)

// Action is what to do next, in order.
type Action struct {
	Do    Do
	After time.Duration // SetTimer
}

// Do names an action.
type Do int

const (
	Spawn     Do = iota // kill what is left in its group, then start it
	SetTimer            // one timer; a new one replaces the old
	StopTimer           //
	Terminate           // SIGTERM
	Kill                // SIGKILL to its whole group
)

// Next gives the state after an event and what is to be done.
func Next(s Service, e Event) (Service, []Action) {
	to := func(p Phase) { s.Phase, s.Since = p, e.At }
	switch {
	case e.Kind == Want && s.Phase == Idle:
		to(Starting)
		return s, []Action{{Do: Spawn}}

	case e.Kind == Spawned && s.Phase == Starting:
		s.PID = e.PID
		to(Running)
		return s, nil

	case e.Kind == Spawned && s.Phase == Stopping: // Stop overtook the start
		s.PID = e.PID
		return s, []Action{{Do: Terminate}}

	case e.Kind == SpawnFailed && s.Phase == Starting, e.Kind == Died && s.Phase == Running:
		if s.Phase == Running && e.At.Sub(s.Since) >= ProvenAfter {
			s.pause = 0
		}
		s.pause = min(max(2*s.pause, FirstPause), LongestWait)
		s.PID, s.LastExit = 0, e.Exit
		to(Backoff)
		return s, []Action{{Do: SetTimer, After: s.pause}}

	case e.Kind == TimerFired && s.Phase == Backoff:
		s.Restarts++
		to(Starting)
		return s, []Action{{Do: Spawn}}

	case e.Kind == Stop:
		return stop(s, e)

	case e.Kind == TimerFired && s.Phase == Stopping:
		return s, []Action{{Do: Kill}}

	case (e.Kind == Died || e.Kind == SpawnFailed) && s.Phase == Stopping:
		s.PID, s.LastExit = 0, e.Exit
		to(Stopped)
		return s, []Action{{Do: StopTimer}, {Do: Kill}}
	}
	return s, nil // an event that came too late to mean anything
}

func stop(s Service, e Event) (Service, []Action) {
	was := s.Phase
	s.Since = e.At
	switch was {
	case Running:
		s.Phase = Stopping
		return s, []Action{{Do: Terminate}, {Do: SetTimer, After: e.Grace}}
	case Starting:
		s.Phase = Stopping
		return s, []Action{{Do: SetTimer, After: e.Grace}}
	case Idle, Backoff:
		s.Phase = Stopped
		return s, []Action{{Do: StopTimer}}
	}
	return s, nil
}
