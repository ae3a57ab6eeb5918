// Package mounts puts up the file systems of a node: the kernel's own, the sized tmpfs
// for state and for tasks, and a root that pivot_root accepts. It also makes the
// directories that the programs expect.
//
// Invariant: every step may be done twice; what is mounted already stays as it is.
//
// The root stays the initramfs: made pivotable by a bind mount moved over /, which costs
// no memory. Sizes come from the node plan; who may use which directory is in the table.
package mounts

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Places on a node that other packages of init name too.
const (
	StateDir  = "/var/lib/mesolith"
	StoreDir  = "/store"
	WorkDir   = "/var/lib/mesos"
	RunDir    = "/run/mesolith"
	LogDir    = RunDir + "/log"
	CgroupDir = "/sys/fs/cgroup"

	// ClusterdUID is the user and group of clusterd, the one program without root.
	ClusterdUID = 990
)

type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
	optional             bool
}

const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// kernel lists what a node needs before anything else can work.
var kernel = []mount{
	{source: "proc", target: "/proc", kind: "proc", flags: quiet},
	{source: "sys", target: "/sys", kind: "sysfs", flags: quiet},
	{source: "dev", target: "/dev", kind: "devtmpfs", flags: unix.MS_NOSUID, data: "mode=0755"},
	{source: "devpts", target: "/dev/pts", kind: "devpts", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "mode=0620,ptmxmode=0666,gid=5"},
	{source: "shm", target: "/dev/shm", kind: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=1777,size=16m"},
	{source: "run", target: "/run", kind: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=0755,size=32m"},
	{source: "tmp", target: "/tmp", kind: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=1777,size=16m"},
}

// late lists what comes after the root has been made pivotable.
var late = []mount{
	{source: "cgroup2", target: CgroupDir, kind: "cgroup2", flags: quiet, data: "nsdelegate,memory_recursiveprot"},
	{source: "securityfs", target: "/sys/kernel/security", kind: "securityfs", flags: quiet, optional: true},
	{source: "bpf", target: "/sys/fs/bpf", kind: "bpf", flags: quiet, data: "mode=0700", optional: true},
}

// Records mounts the kernel's records of how it ended before.
func Records(options string) error {
	return mount{source: "pstore", target: "/sys/fs/pstore", kind: "pstore", flags: quiet, data: options}.do()
}

// Kernel mounts proc, sys, dev and the small tmpfs.
func Kernel() error { return all(kernel) }

// Late mounts the control groups and what helps to look into the kernel.
func Late() error { return all(late) }

func all(list []mount) error {
	var errs []error
	for _, m := range list {
		if err := m.do(); err != nil && !m.optional {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (m mount) do() error {
	if mounted, err := isMounted(m.target, m.kind); err == nil && mounted {
		return nil
	}
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("make mount point %s: %w", m.target, err)
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
	}
	return nil
}

// isMounted reads /proc/self/mounts, which is not there before the first mount.
func isMounted(target, kind string) (bool, error) {
	file, err := os.Open("/proc/self/mounts")
	if err != nil {
		return false, fmt.Errorf("read mounts: %w", err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) > 2 && f[1] == target && f[2] == kind {
			return true, nil
		}
	}
	return false, nil
}

// PivotableRoot makes / a mount that pivot_root accepts, which the initramfs is not:
// / is bound to a directory, the mounts move into it, and it moves over /.
func PivotableRoot() error {
	const next = "/.root"
	if err := os.Mkdir(next, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make %s: %w", next, err)
	}
	if err := unix.Mount("/", next, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind / to %s: %w", next, err)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run", "/tmp"} {
		if err := unix.Mount(dir, next+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s below %s: %w", dir, next, err)
		}
	}
	if err := unix.Chdir(next); err != nil {
		return fmt.Errorf("enter %s: %w", next, err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s over /: %w", next, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter /: %w", err)
	}
	return nil
}
