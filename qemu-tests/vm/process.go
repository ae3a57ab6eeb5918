package vm

import (
	"errors"
	"fmt"
	"syscall"
)

// Process names a process so that a later one with the same number is not taken for it.
type Process struct {
	PID int `json:"pid"`
	// Start is when it began, in the system's own words: comparable, not readable.
	Start   string `json:"start"`
	Program string `json:"program"`
}

// ErrGone says that a process has ended, whoever has its number now.
var ErrGone = errors.New("the process has ended")

// Alive reports whether it is still this very process that has the number.
func (p Process) Alive() bool {
	now, err := Identify(p.PID)
	return err == nil && now == p
}

// Signal sends a signal to the process if it is still the same.
func (p Process) Signal(sig syscall.Signal) error {
	if !p.Alive() {
		return fmt.Errorf("process %d (%s): %w", p.PID, p.Program, ErrGone)
	}
	if err := syscall.Kill(p.PID, sig); err != nil {
		return fmt.Errorf("signal process %d (%s): %w", p.PID, p.Program, err)
	}
	return nil
}
