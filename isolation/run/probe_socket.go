package run

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// socketIn makes a TCP socket in a network namespace that belongs to a user of the node:
// whoever asks the kernel whose it is (sock_diag does, for callers in the node's network)
// hears the task's name and not root's. An empty path is the namespace we are in.
//
// A thread that has changed is never used again: it ends with the goroutine that is
// locked to it.
func socketIn(netns string, uid int, ipv6 bool) (int, error) {
	type made struct {
		fd  int
		err error
	}
	answer := make(chan made, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := socketHere(netns, uid, ipv6)
		answer <- made{fd, err}
	}()
	m := <-answer
	return m.fd, m.err
}

func socketHere(netns string, uid int, ipv6 bool) (int, error) {
	if netns != "" {
		ns, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("open network of the container: %w", err)
		}
		defer unix.Close(ns)
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			return -1, fmt.Errorf("enter network of the container: %w", err)
		}
	}
	if uid != unix.Geteuid() {
		// It tells who it was before, and says nothing where it fails: ask again.
		unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0)
		if now, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, ^uintptr(0), 0, 0); int(now) != uid {
			return -1, fmt.Errorf("make a socket as user %d: not permitted", uid)
		}
	}
	family := unix.AF_INET
	if ipv6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	return fd, nil
}
