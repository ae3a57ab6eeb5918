package main

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the container's filter says to a system call is found out without ever making it:
// a second filter, of one thread, hands every call that carries a mark in its sixth
// argument to a listener, which answers it. A refusal of the container's filter comes
// first, because the kernel takes the stricter of two verdicts; so whatever reaches the
// listener was allowed. Not even reboot or exit is carried out.
const (
	markLow, markHigh = 0x4d65736f, 0x6c697468
	// allowed is what the listener answers: an error that no filter uses.
	allowed = unix.EXFULL
)

// lastCall is the highest number that is asked about.
const lastCall = 470

// These two the kernel makes itself, in a page of its own: it lets them past every filter,
// and whoever makes them elsewhere is ended by SIGILL.
const (
	sysUretprobe = 335
	sysUprobe    = 336
)

// marked is the sixth argument of a call that is only asked about.
var marked = uintptr(markHigh)<<32 | markLow

type notification struct {
	id    uint64
	_     [8]byte // pid, flags
	call  int32
	arch  uint32
	_     uint64
	args  [6]uint64
	extra [0]byte
}

type answer struct {
	id    uint64
	_     int64
	errno int32
	_     uint32
}

// filtered gives the verdict for each call of the list.
func filtered(calls [][]uintptr) ([]string, error) {
	listeners := make(chan int)
	verdicts := make(chan []string)
	failed := make(chan error, 2)
	go func() {
		runtime.LockOSThread() // never unlocked: the filter is this thread's
		fd, err := listen()
		if err != nil {
			failed <- err
			return
		}
		listeners <- fd
		var out []string
		for _, c := range calls {
			var a [6]uintptr
			copy(a[:5], c[1:])
			a[5] = marked
			_, _, errno := unix.Syscall6(c[0], a[0], a[1], a[2], a[3], a[4], a[5])
			switch errno {
			case allowed:
				out = append(out, "allowed")
			case 0:
				out = append(out, "done without asking")
			default:
				out = append(out, unix.ErrnoName(errno))
			}
		}
		verdicts <- out
	}()
	var fd int
	select {
	case fd = <-listeners:
	case err := <-failed:
		return nil, err
	}
	go func() { failed <- answerAll(fd) }()
	select {
	case out := <-verdicts:
		return out, nil
	case err := <-failed:
		return nil, err
	}
}

// listen puts the filter on this thread.
func listen() (int, error) {
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 56}, // sixth argument, low half
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 3, K: markLow},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 60},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: markHigh},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	list := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, uintptr(unsafe.Pointer(&list)))
	if errno != 0 {
		return -1, fmt.Errorf("put a filter on a thread: %w", errno)
	}
	return int(fd), nil
}

func answerAll(fd int) error {
	for {
		var asked notification
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&asked)))
		if errno == unix.EINTR || errno == unix.ENOENT {
			continue
		}
		if errno != 0 {
			return fmt.Errorf("hear of a call: %w", errno)
		}
		said := answer{id: asked.id, errno: -int32(allowed)}
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&said)))
		if errno != 0 && errno != unix.ENOENT {
			return fmt.Errorf("answer a call: %w", errno)
		}
	}
}

// special are calls whose verdict depends on their arguments.
var special = []struct {
	name string
	call []uintptr
}{
	{"clone of a thread", []uintptr{unix.SYS_CLONE, unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD}},
	{"clone with a new user namespace", []uintptr{unix.SYS_CLONE, unix.CLONE_NEWUSER}},
	{"clone with a new mount namespace", []uintptr{unix.SYS_CLONE, unix.CLONE_NEWNS}},
	{"clone with a new network namespace", []uintptr{unix.SYS_CLONE, unix.CLONE_NEWNET}},
	{"clone with a new control group namespace", []uintptr{unix.SYS_CLONE, unix.CLONE_NEWCGROUP}},
	{"personality of Linux", []uintptr{unix.SYS_PERSONALITY, 0}},
	{"personality without random addresses", []uintptr{unix.SYS_PERSONALITY, 0x40000}},
	{"socket of the host's hypervisor (AF_VSOCK)", []uintptr{unix.SYS_SOCKET, unix.AF_VSOCK}},
	{"socket of the kernel's ciphers (AF_ALG)", []uintptr{unix.SYS_SOCKET, unix.AF_ALG}},
	{"socket of the Internet", []uintptr{unix.SYS_SOCKET, unix.AF_INET}},
	{"getpid by its x32 number", []uintptr{0x40000000 | unix.SYS_GETPID}},
}

// callRows asks the filter about every number, and about those with arguments that count.
// A number's row has the number as its name: who reads the table names it.
func callRows() ([]Row, error) {
	var calls [][]uintptr
	for n := range uintptr(lastCall + 1) {
		if n == sysUretprobe || n == sysUprobe {
			n = unix.SYS_GETPID // in its place: it stays unasked
		}
		calls = append(calls, []uintptr{n})
	}
	for _, s := range special {
		calls = append(calls, s.call)
	}
	verdicts, err := filtered(calls)
	if err != nil {
		return nil, err
	}
	if len(verdicts) != len(calls) {
		return nil, errors.New("not every call was answered")
	}
	var out []Row
	for i, v := range verdicts {
		if i <= lastCall {
			if i == sysUretprobe || i == sysUprobe {
				v = "not asked"
			}
			out = append(out, Row{"calls", fmt.Sprint(i), v})
			continue
		}
		out = append(out, Row{"calls by argument", special[i-lastCall-1].name, v})
	}
	return out, nil
}
