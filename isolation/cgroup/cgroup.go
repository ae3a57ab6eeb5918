// Package cgroup reads and ends groups of the unified hierarchy at /sys/fs/cgroup. A
// group is named by its path below that root. Making a container's group and setting
// its limits is libcontainer's, by isolation/spec's word; the groups above are PID 1's.
package cgroup

import (
	"bufio"
	"bytes"
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

// Root is where the hierarchy is mounted.
const Root = "/sys/fs/cgroup"

// Unavailable says why containers cannot be limited here; empty: they can.
func Unavailable() string {
	var st unix.Statfs_t
	if err := unix.Statfs(Root, &st); err != nil {
		return fmt.Sprintf("%s cannot be read: %v", Root, err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		return Root + " is not cgroup2"
	}
	raw, err := os.ReadFile(filepath.Join(Root, "cgroup.controllers"))
	if err != nil {
		return err.Error()
	}
	have := " " + strings.TrimSpace(string(raw)) + " "
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !strings.Contains(have, " "+c+" ") {
			return fmt.Sprintf("%s has no %s controller", Root, c)
		}
	}
	return ""
}

// Open opens a group's directory.
func Open(group string) (*os.File, error) { return os.Open(filepath.Join(Root, group)) }

// Ensure makes a group with the controllers that its children need.
func Ensure(group string) error {
	at := Root
	for part := range strings.SplitSeq(strings.Trim(group, "/"), "/") {
		if err := write(filepath.Join(at, "cgroup.subtree_control"), "+cpu +memory +pids"); err != nil {
			return err
		}
		at = filepath.Join(at, part)
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make control group: %w", err)
		}
	}
	return write(filepath.Join(at, "cgroup.subtree_control"), "+cpu +memory +pids")
}

// Set writes one of a group's files.
func Set(group, file, value string) error { return write(filepath.Join(Root, group, file), value) }

func write(path, value string) error {
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("write %q to control group: %w", value, err)
	}
	return nil
}

// Children names the groups below a group.
func Children(group string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(Root, group))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("walk control groups: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// PIDs lists the processes of a group and of those below it.
func PIDs(group string) ([]int, error) {
	var out []int
	err := filepath.WalkDir(filepath.Join(Root, group), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, f := range strings.Fields(string(raw)) {
			if pid, err := strconv.Atoi(f); err == nil {
				out = append(out, pid)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read control group: %w", err)
	}
	return out, nil
}

// Kill ends all processes of a group; it is no error if there is no group.
func Kill(group string) error {
	err := os.WriteFile(filepath.Join(Root, group, "cgroup.kill"), []byte("1"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("kill control group: %w", err)
	}
	return nil
}

// removeWithin is how long a killed group may take to become empty.
const removeWithin = 10 * time.Second

// Remove removes a group and those below it, once its processes are gone.
func Remove(group string) error {
	top := filepath.Join(Root, group)
	if _, err := os.Stat(top); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := awaitEmpty(top); err != nil {
		return err
	}
	var dirs []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		if rerr := unix.Rmdir(dirs[i]); rerr != nil && !errors.Is(rerr, unix.ENOENT) {
			err = fmt.Errorf("remove control group %s: %w", dirs[i], rerr)
		}
	}
	return err
}

// awaitEmpty waits for the kernel's word (cgroup.events changes) that nobody is in it.
func awaitEmpty(dir string) error {
	f, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch control group: %w", err)
	}
	defer f.Close()
	deadline := time.Now().Add(removeWithin)
	buf := make([]byte, 4096)
	for {
		n, err := f.ReadAt(buf, 0)
		if n == 0 && err != nil {
			return nil // gone
		}
		if bytes.Contains(buf[:n], []byte("populated 0")) {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("control group %s still has processes %s after they were killed", dir, removeWithin)
		}
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(min(left, 100*time.Millisecond).Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("watch control group: %w", err)
		}
	}
}

// Number reads a file with one number; 0 if it is not there or says "max".
func Number(group, file string) uint64 {
	raw, err := os.ReadFile(filepath.Join(Root, group, file))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Event reads one line of a file of names and numbers.
func Event(group, file, name string) uint64 {
	raw, err := os.ReadFile(filepath.Join(Root, group, file))
	if err != nil {
		return 0
	}
	s := bufio.NewScanner(bytes.NewReader(raw))
	for s.Scan() {
		if value, ok := strings.CutPrefix(s.Text(), name+" "); ok {
			if n, err := strconv.ParseUint(value, 10, 64); err == nil {
				return n
			}
		}
	}
	return 0
}
