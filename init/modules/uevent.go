package modules

import (
	"bytes"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Events is the kernel's announcement of devices that come after the walk: disks behind
// a controller, sticks, what a loaded module found.
type Events struct{ fd int }

// Listen opens the announcements; those since then are kept by the kernel (in 4 MiB)
// until they are read.
func Listen() (*Events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open uevent socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("size uevent socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind uevent socket: %w", err)
	}
	return &Events{fd: fd}, nil
}

// Close ends the announcements.
func (e *Events) Close() error { return unix.Close(e.fd) }

// Next waits at most quiet for the next device that was added and gives its modalias;
// ok is false when nothing came in that time. Lost announcements count as none.
func (e *Events) Next(quiet time.Duration) (modalias string, ok bool) {
	buf := make([]byte, 16<<10)
	end := time.Now().Add(quiet)
	for {
		left := time.Until(end)
		if left <= 0 {
			return "", false
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return "", false
		}
		size, from, err := unix.Recvfrom(e.fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			continue
		}
		if nl, isNetlink := from.(*unix.SockaddrNetlink); !isNetlink || nl.Pid != 0 {
			continue // not from the kernel
		}
		if alias := addedAlias(buf[:size]); alias != "" {
			return alias, true
		}
	}
}

// addedAlias reads "add@/devices/…\0KEY=value\0…".
func addedAlias(msg []byte) string {
	if !bytes.HasPrefix(msg, []byte("add@")) {
		return ""
	}
	for field := range bytes.SplitSeq(msg, []byte{0}) {
		if value, found := bytes.CutPrefix(field, []byte("MODALIAS=")); found {
			return string(value)
		}
	}
	return ""
}
