package mounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

type place struct {
	path string
	mode fs.FileMode
	uid  int
}

// runPlaces are on /run.
var runPlaces = []place{
	{RunDir, 0o755, 0},
	{RunDir + "/secret", 0o700, 0},
	{LogDir, 0o755, 0},
	{"/run/netns", 0o755, 0},
}

// statePlaces are on the tmpfs "state": what survives a program's death.
var statePlaces = []place{
	{StateDir + "/clusterd", 0o700, ClusterdUID},
	{StateDir + "/agent", 0o700, ClusterdUID},
	{StateDir + "/isolated", 0o700, 0},
	{StateDir + "/noded", 0o700, 0},
}

// Run makes the directories and links below /run.
func Run() error {
	if err := makePlaces(runPlaces); err != nil {
		return err
	}
	if err := os.MkdirAll("/var", 0o755); err != nil {
		return fmt.Errorf("make /var: %w", err)
	}
	if err := os.Symlink("/run", "/var/run"); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("link /var/run: %w", err)
	}
	for path, to := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(to, path); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("link %s: %w", path, err)
		}
	}
	return nil
}

func makePlaces(list []place) error {
	for _, p := range list {
		if err := os.MkdirAll(p.path, p.mode); err != nil {
			return fmt.Errorf("make %s: %w", p.path, err)
		}
		if err := os.Chmod(p.path, p.mode); err != nil {
			return fmt.Errorf("set mode of %s: %w", p.path, err)
		}
		if err := os.Chown(p.path, p.uid, p.uid); err != nil {
			return fmt.Errorf("give %s to user %d: %w", p.path, p.uid, err)
		}
	}
	return nil
}

// Sized are the tmpfs of RAM mode.
type Sized struct {
	StateBytes, StateInodes uint64
	StoreBytes, StoreInodes uint64
	TasksBytes, TasksInodes uint64
}

// RAM mounts the tmpfs, or gives them another size when they are there already, and
// makes the directories on them. Images have one of their own: what tasks write is their
// own memory, so that each comes to its own limit first, and never to the end of a file
// system that others need too.
func RAM(s Sized) error {
	if err := tmpfs("state", StateDir, s.StateBytes, s.StateInodes, quiet); err != nil {
		return err
	}
	// Tasks' programs are run from the store, and images hold device nodes' names only.
	if err := tmpfs("ramStore", StoreDir, s.StoreBytes, s.StoreInodes, unix.MS_NODEV); err != nil {
		return err
	}
	const tasks = StoreDir + "/tasks"
	if err := tmpfs("ramTasks", tasks, s.TasksBytes, s.TasksInodes, unix.MS_NODEV); err != nil {
		return err
	}
	if err := makePlaces(statePlaces); err != nil {
		return err
	}
	return errors.Join(bind(tasks+"/mesos", WorkDir, 0o755), bind(tasks+"/containers", StoreDir+"/containers", 0o711))
}

// bind shows a directory at another place, making both.
func bind(from, to string, mode fs.FileMode) error {
	if err := makePlaces([]place{{from, mode, 0}, {to, mode, 0}}); err != nil {
		return err
	}
	if mounted, err := isMounted(to, "tmpfs"); err != nil || mounted {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", from, to, err)
	}
	return nil
}

func tmpfs(name, target string, bytes, inodes uint64, flags uintptr) error {
	data := fmt.Sprintf("mode=0755,size=%d,nr_inodes=%d", bytes, inodes)
	mounted, err := isMounted(target, "tmpfs")
	if err != nil {
		return err
	}
	if mounted {
		flags |= unix.MS_REMOUNT
	} else if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", target, err)
	}
	if err := unix.Mount(name, target, "tmpfs", flags, data); err != nil {
		return fmt.Errorf("mount tmpfs %s of %d MiB on %s: %w", name, bytes>>20, target, err)
	}
	return nil
}
