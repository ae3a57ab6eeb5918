// Package shutdown takes a node down in order: tasks are asked to end and then ended,
// what is left is killed, file systems are written out and unmounted, the machine
// reboots or powers off.
//
// Invariant: every step is bounded in time and the next one runs whatever it said, so
// that a shutdown always ends.
//
// The programs are stopped by supervise, in an order that main states.
package shutdown

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Tasks sends SIGTERM to every process of a control group and those below, waits at most
// grace for them to end and kills the rest.
func Tasks(group string, grace time.Duration) error {
	if err := signalAll(group); err != nil {
		return err
	}
	if empty(group, grace) {
		return nil
	}
	if err := os.WriteFile(group+"/cgroup.kill", []byte("1"), 0); err != nil {
		return fmt.Errorf("kill tasks: %w", err)
	}
	if !empty(group, 5*time.Second) {
		return fmt.Errorf("kill tasks: some are still there after 5 s")
	}
	return nil
}

func signalAll(group string) error {
	return filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return nil // groups come and go during the walk
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		for _, word := range strings.Fields(string(raw)) {
			if pid, err := strconv.Atoi(word); err == nil && pid > 1 {
				unix.Kill(pid, unix.SIGTERM) // it may have ended by itself
			}
		}
		return nil
	})
}

// empty waits until a group has no process left; the kernel announces it on cgroup.events.
func empty(group string, limit time.Duration) bool {
	file, err := os.Open(group + "/cgroup.events")
	if err != nil {
		return true
	}
	defer file.Close()
	end := time.Now().Add(limit)
	buf := make([]byte, 256)
	for {
		n, err := file.ReadAt(buf, 0)
		if n == 0 && err != nil {
			return true
		}
		if strings.Contains(string(buf[:n]), "populated 0") {
			return true
		}
		left := time.Until(end)
		if left <= 0 {
			return false
		}
		fds := []unix.PollFd{{Fd: int32(file.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
	}
}

// Everything kills all processes but PID 1.
func Everything() error {
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill all processes: %w", err)
	}
	return nil
}

// FileSystems writes everything out and unmounts what is not the kernel's own, last
// mounted first.
func FileSystems() error {
	unix.Sync()
	raw, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	var errs []error
	for i := len(lines) - 1; i >= 0; i-- {
		f := strings.Fields(lines[i])
		if len(f) < 3 || keep(f[1]) {
			continue
		}
		target := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`).Replace(f[1])
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", target, err))
		}
	}
	unix.Sync()
	return errors.Join(errs...)
}

func keep(target string) bool {
	if target == "/" {
		return true
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if target == dir || strings.HasPrefix(target, dir+"/") {
			return true
		}
	}
	return false
}

// End reboots or powers off; it returns only when the kernel refuses.
func End(powerOff bool) error {
	how := unix.LINUX_REBOOT_CMD_RESTART
	if powerOff {
		how = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	unix.Sync()
	if err := unix.Reboot(how); err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	return nil
}
