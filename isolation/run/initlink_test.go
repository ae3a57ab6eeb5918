package run

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/pid1"
)

// A hundred tasks that ended while nobody looked keep their statuses, although PID 1 takes
// few questions at a time and may turn one away.
func TestStatusesOfManyAtOnce(t *testing.T) {
	const tasks = 100
	l := shortQueue(t, filepath.Join(t.TempDir(), "s"))
	link := NewInitLink(l.Addr().String())
	var asking sync.WaitGroup
	for i := range uint64(tasks) {
		asking.Go(func() {
			status, known, err := link.Status(t.Context(), fmt.Sprint("c", i), i)
			if err != nil || !known || status != uint32(i)<<8 {
				t.Errorf("task %d: status %#x, known %t, %v", i, status, known, err)
			}
		})
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			turnedAway := n == 3
			serving.Go(func() {
				defer c.Close()
				for !turnedAway {
					m := &pid1.Request{}
					if wire.Read(c, m, maxInitFrame) != nil {
						return
					}
					resp := &pid1.Response{Id: m.GetId()}
					if s := m.GetStatus(); s != nil {
						resp.Body = &pid1.Response_Exit{Exit: &pid1.ExitStatus{State: pid1.ExitStatus_EXITED, WaitStatus: uint32(s.GetStartTime()) << 8}}
					}
					if wire.Write(c, resp) != nil {
						return
					}
				}
			})
		}
	})
	asking.Wait()
	l.Close()
	serving.Wait()
}

// shortQueue listens as PID 1 does: few connections wait to be taken, all others are
// refused at once.
func shortQueue(t *testing.T, path string) net.Listener {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 16)); err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
