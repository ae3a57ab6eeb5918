package fault

import "golang.org/x/sys/unix"

// Tools are what faults are made with, and told by.
type Tools struct {
	// Start runs a program of PID 1's and gives its end.
	Start func(fork func() (pid int, err error)) (int, <-chan unix.WaitStatus, error)
	// Reaped counts the processes that ended as PID 1's children.
	Reaped func() uint64
	Say    func(format string, args ...any)
}
