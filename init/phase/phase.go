// Package phase runs the boot: a list of phases, each with a deadline and a stated
// action for when it fails. The loop that waits for a phase is also what feeds the
// watchdog, so a boot that hangs in this loop is ended by the hardware, and a phase that
// hangs is left behind at its deadline.
//
// Invariant: every phase ends in exactly one printed line (ok, degraded, failed, or late)
// with its duration; none is waited for longer than its deadline.
//
// It knows neither what a phase does nor how to reboot: the list and the ending belong to
// init's main. A phase left behind goes on in its goroutine; what it still does must be
// harmless, as every step of the house is idempotent.
package phase

import (
	"errors"
	"fmt"
	"time"
)

// OnFailure says what a failed or late phase means for the boot.
type OnFailure int

const (
	Degrade OnFailure = iota // say so and go on
	Retry                    // once more, then as Degrade
	Reboot                   // end the boot
)

// Phase is one step of the boot.
type Phase struct {
	Name      string
	Deadline  time.Duration
	OnFailure OnFailure
	Run       func() error
}

// ErrLate is a phase's failure when its deadline passed.
var ErrLate = errors.New("deadline passed")

// Loop runs phases in order.
type Loop struct {
	Say, Warn func(format string, args ...any)
	Feed      func()        // the watchdog; may be nil
	FeedEvery time.Duration // zero: one second
}

// Run runs all phases and ends early, with an error, only for a phase whose failure
// means Reboot.
func (l Loop) Run(phases []Phase) error {
	for _, p := range phases {
		tries := 1
		if p.OnFailure == Retry {
			tries = 2
		}
		err := l.try(p, tries)
		if err != nil && p.OnFailure == Reboot {
			return fmt.Errorf("phase %s: %w", p.Name, err)
		}
	}
	return nil
}

func (l Loop) try(p Phase, tries int) error {
	var err error
	for try := 1; try <= tries; try++ {
		start := time.Now()
		err = l.one(p)
		took := time.Since(start).Seconds()
		switch {
		case err == nil:
			l.Say("phase %s %.2fs ok", p.Name, took)
			return nil
		case p.OnFailure == Reboot:
			l.Warn("phase %s %.2fs failed: %v; rebooting", p.Name, took, err)
		case try < tries:
			l.Warn("phase %s %.2fs failed: %v; once more", p.Name, took, err)
		default:
			l.Warn("phase %s %.2fs degraded: %v; going on without", p.Name, took, err)
		}
	}
	return err
}

func (l Loop) one(p Phase) error {
	done := make(chan error, 1)
	go func() { done <- p.Run() }()

	every := l.FeedEvery
	if every <= 0 {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	late := time.NewTimer(p.Deadline)
	defer late.Stop()
	for {
		l.feed()
		select {
		case err := <-done:
			return err
		case <-late.C:
			return fmt.Errorf("%w (%s)", ErrLate, p.Deadline)
		case <-tick.C:
		}
	}
}

func (l Loop) feed() {
	if l.Feed != nil {
		l.Feed()
	}
}
