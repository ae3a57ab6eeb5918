package vm

import (
	"errors"
	"fmt"
	"os"
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

// Signal sends a signal to the process if it is still the same. On Linux the handle that
// is looked up first stays with the process that had the number then: one that gets the
// number between the check and the signal is not hit.
func (p Process) Signal(sig syscall.Signal) error {
	handle, err := os.FindProcess(p.PID)
	if err != nil {
		return fmt.Errorf("process %d (%s): %w", p.PID, p.Program, errors.Join(ErrGone, err))
	}
	defer func() { _ = handle.Release() }()
	if !p.Alive() {
		return fmt.Errorf("process %d (%s): %w", p.PID, p.Program, ErrGone)
	}
	if err := handle.Signal(sig); errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("process %d (%s): %w", p.PID, p.Program, ErrGone)
	} else if err != nil {
		return fmt.Errorf("signal process %d (%s): %w", p.PID, p.Program, err)
	}
	return nil
}
