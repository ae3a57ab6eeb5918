package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// statFields gives the fields of /proc/PID/stat after the name, which may have blanks.
func statFields(raw []byte) []string {
	i := bytes.LastIndexByte(raw, ')')
	if i < 0 {
		return nil
	}
	return strings.Fields(string(raw[i+1:]))
}

// startTime is field 22 of /proc/PID/stat: with the pid it names a process for good.
func startTime(pid int) (uint64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := statFields(raw)
	if len(f) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// childInfo is siginfo_t as waitid fills it in, on 64-bit machines.
type childInfo struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32
	_                     [100]byte
}

const (
	childExited = 1 // CLD_EXITED; all others end by a signal
	childDumped = 3 // CLD_DUMPED
	coreFlag    = 0x80
)

// peekEnd waits for the end of a child of ours and leaves it to be reaped. The status is
// as wait4 words it.
func peekEnd(ctx context.Context, pid int) (uint32, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return 0, fmt.Errorf("watch process %d: %w", pid, err)
	}
	end := os.NewFile(uintptr(fd), "end of a process")
	defer end.Close()
	if status, ended, err := peek(pid); ended || err != nil {
		return status, err
	}
	if err := watchEnd(ctx, end); err != nil {
		return 0, fmt.Errorf("watch process %d: %w", pid, err)
	}
	status, ended, err := peek(pid)
	if err == nil && !ended {
		err = fmt.Errorf("wait for process %d: it was said to have ended", pid)
	}
	return status, err
}

// peek looks whether a child of ours has ended.
func peek(pid int) (status uint32, ended bool, err error) {
	var info childInfo
	for {
		err := unix.Waitid(unix.P_PID, pid, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, false, fmt.Errorf("wait for process %d: %w", pid, err)
		}
		break
	}
	switch {
	case info.pid == 0:
		return 0, false, nil
	case info.code == childExited:
		return uint32(info.status&0xff) << 8, true, nil
	case info.code == childDumped:
		return uint32(info.status) | coreFlag, true, nil
	}
	return uint32(info.status), true, nil
}

// waitGone returns when a process that is not our child has ended.
func waitGone(ctx context.Context, pid int, start uint64) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	end := os.NewFile(uintptr(fd), "end of a process")
	defer end.Close()
	if now, err := startTime(pid); err != nil || now != start {
		return nil // another process has the number now
	}
	if err := watchEnd(ctx, end); err != nil {
		return fmt.Errorf("watch process %d: %w", pid, err)
	}
	return nil
}

// watchEnd returns when the process behind a descriptor has ended, or ctx has. Go's
// poller waits for it: a thread for each container would cost more than all else that
// isolated has of an idle one.
func watchEnd(ctx context.Context, end *os.File) error {
	stop := context.AfterFunc(ctx, func() { end.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := end.SyscallConn()
	if err != nil {
		return err
	}
	var pollErr error
	err = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n := 0
		for {
			n, pollErr = unix.Poll(fds, 0)
			if !errors.Is(pollErr, unix.EINTR) {
				return n != 0 || pollErr != nil
			}
		}
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return errors.Join(err, pollErr)
}
