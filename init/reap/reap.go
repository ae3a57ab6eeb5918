// Package reap takes every dead child of PID 1, and only here: the one place that waits.
//
// It peeks at a zombie without taking it, finds out who it was, takes exactly that pid and
// hands the status to its owner: a program that was started through Start, or a process
// that was registered (a container's first process, which becomes PID 1's child when its
// keeper dies). All others are reaped and forgotten.
//
// Invariant: between fork and registration no other pid is taken (one lock covers both);
// a registered status is kept until it is acknowledged, and its zombie until somebody can
// say whose it is; the table is bounded, and a full one refuses a registration instead of
// forgetting an old one.
//
// Nobody in init may use os/exec or os.StartProcess: a peek returns the same zombie until
// somebody takes it.
package reap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Errors of the table.
var (
	ErrFull    = errors.New("table of registered processes is full")
	ErrNotThat = errors.New("no such process, or its pid belongs to another by now")
	ErrOther   = errors.New("registered already as another process")
)

// Key names one registered process; a container may be started again under no other id.
type Key struct {
	Container string
	StartTime uint64 // clock ticks since boot, field 22 of /proc/PID/stat
}

// State is what is known of a registered process.
type State int

const (
	Unknown State = iota // never registered, acknowledged, or taken by its own parent
	Running
	Exited
)

// Reaper owns all children. Its methods may be called from any goroutine.
type Reaper struct {
	max       int
	startTime func(pid int) (uint64, error)

	mu       sync.Mutex
	programs map[int]chan<- unix.WaitStatus
	byKey    map[Key]*entry
	byPID    map[int]Key // registered and not yet dead
	reaped   uint64
}

type entry struct {
	pid    int
	dead   bool
	status unix.WaitStatus
	done   chan struct{} // closed with dead
}

// New gives a reaper whose table holds at most max registered processes.
func New(max int) *Reaper {
	return &Reaper{
		max: max, startTime: StartTime,
		programs: map[int]chan<- unix.WaitStatus{}, byKey: map[Key]*entry{}, byPID: map[int]Key{},
	}
}

// Start forks through fork and gives a channel that receives the exit status once.
func (r *Reaper) Start(fork func() (pid int, err error)) (int, <-chan unix.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := fork()
	if err != nil {
		return 0, nil, err
	}
	exit := make(chan unix.WaitStatus, 1)
	r.programs[pid] = exit
	return pid, exit, nil
}

// Register remembers the status of a process when it comes to be this process's child.
// Doing it again with the same facts is no fault.
func (r *Reaper) Register(k Key, pid int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.byKey[k]; e != nil {
		if e.pid == pid {
			return nil
		}
		return fmt.Errorf("register %s as pid %d: %w (pid %d)", k.Container, pid, ErrOther, e.pid)
	}
	if len(r.byKey) >= r.max {
		return fmt.Errorf("register %s: %w (%d)", k.Container, ErrFull, r.max)
	}
	start, err := r.startTime(pid)
	if err == nil && start != k.StartTime || gone(err) {
		return fmt.Errorf("register %s as pid %d: %w", k.Container, pid, ErrNotThat)
	}
	if err != nil {
		return fmt.Errorf("register %s as pid %d: %w", k.Container, pid, err)
	}
	r.byKey[k] = &entry{pid: pid, done: make(chan struct{})}
	r.byPID[pid] = k
	return nil
}

// Status says what is known of a registered process.
func (r *Reaper) Status(k Key) (State, unix.WaitStatus) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.byKey[k]
	switch {
	case e == nil:
		return Unknown, 0
	case e.dead:
		return Exited, e.status
	}
	start, err := r.startTime(e.pid)
	if err == nil && start != k.StartTime || gone(err) {
		return Unknown, 0 // its own parent took the status
	}
	return Running, 0 // also when it cannot be asked now: what is not known is not lost
}

// Wait gives a channel that is closed when the status is known, nil for an unknown one.
func (r *Reaper) Wait(k Key) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.byKey[k]; e != nil {
		return e.done
	}
	return nil
}

// Ack forgets a registered process. Who waits for it is let go.
func (r *Reaper) Ack(k Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.byKey[k]
	if e == nil {
		return
	}
	if !e.dead {
		close(e.done)
		if r.byPID[e.pid] == k { // the pid may be another's by now
			delete(r.byPID, e.pid)
		}
	}
	delete(r.byKey, k)
}

// Registered says how many processes the table holds, and Reaped how many died here.
func (r *Reaper) Registered() (registered int, reaped uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.byKey), r.reaped
}

// Sweep takes every zombie there is now.
func (r *Reaper) Sweep() error {
	for {
		more, err := r.one()
		if err != nil || !more {
			return err
		}
	}
}

// one holds the lock only for one zombie, so that a storm of orphans does not keep a
// program from being started.
func (r *Reaper) one() (more bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := peek()
	if err != nil || pid == 0 {
		return false, err
	}
	k, registered := r.byPID[pid]
	if r.programs[pid] != nil || !registered { // most orphans are nobody's
		return true, r.take(pid)
	}
	start, err := r.startTime(pid)
	if err != nil {
		// Without a descriptor nobody can say whose it is. It stays a zombie, so that its
		// status is not lost, and a peek shows nothing else: the programs are asked for.
		return false, errors.Join(err, r.takePrograms())
	}
	status, err := wait(pid, 0)
	if err != nil {
		return false, err
	}
	r.reaped++
	delete(r.byPID, pid)
	if e := r.byKey[k]; e != nil && start == k.StartTime {
		e.dead, e.status = true, status
		close(e.done)
	}
	return true, nil
}

// take takes a zombie and hands its status to the program's owner, if it has one.
func (r *Reaper) take(pid int) error {
	status, err := wait(pid, 0)
	if err != nil {
		return err
	}
	r.reaped++
	if owner := r.programs[pid]; owner != nil {
		delete(r.programs, pid)
		owner <- status
	}
	return nil
}

// takePrograms takes those that are dead of the programs.
func (r *Reaper) takePrograms() error {
	for pid, owner := range r.programs {
		status, err := wait(pid, unix.WNOHANG)
		if errors.Is(err, errAlive) {
			continue
		}
		if err != nil {
			return err
		}
		r.reaped++
		delete(r.programs, pid)
		owner <- status
	}
	return nil
}

var errAlive = errors.New("still alive")

func wait(pid, options int) (status unix.WaitStatus, err error) {
	for {
		got, err := unix.Wait4(pid, &status, options, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, fmt.Errorf("take pid %d: %w", pid, err)
		case got == 0:
			return 0, errAlive
		}
		return status, nil
	}
}

// gone tells a process that is not there from one that cannot be asked now.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// peek gives the pid of a zombie without taking it, 0 when there is none.
func peek() (int, error) {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECHILD:
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("peek at children: %w", err)
		}
		// siginfo_t of a child: si_pid follows signo, errno, code and, on 64 bits, a gap.
		return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), 16))), nil
	}
}

// StartTime reads when a process began, in clock ticks since boot.
func StartTime(pid int) (uint64, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("read start time: %w", err)
	}
	return parseStartTime(string(raw))
}

// parseStartTime skips the program's name, which may hold blanks and brackets.
func parseStartTime(stat string) (uint64, error) {
	i := strings.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, fmt.Errorf("read start time: %.80q is no stat line", stat)
	}
	f := strings.Fields(stat[i+1:])
	if len(f) < 20 {
		return 0, fmt.Errorf("read start time: stat line of %d fields", len(f))
	}
	n, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read start time: %w", err)
	}
	return n, nil
}
