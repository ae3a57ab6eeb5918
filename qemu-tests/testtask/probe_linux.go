package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Probe is what a container can see and do, found out from inside. The JSON names are
// what the test compares.
type Probe struct {
	PID          int      `json:"pid"`
	UIDMap       []string `json:"uidMap"`
	NoNewPrivs   string   `json:"noNewPrivs"`
	Seccomp      string   `json:"seccomp"`
	Capabilities int      `json:"capabilities"` // in the bounding set
	CgroupPath   string   `json:"cgroupPath"`
	Descriptors  []string `json:"descriptors"` // beyond the standard three, what they lead to
	Interfaces   []string `json:"interfaces"`
	OpenFiles    uint64   `json:"openFiles"` // RLIMIT_NOFILE
	Sandbox      string   `json:"sandbox"`
	UID          int      `json:"uid"`
	Home         string   `json:"home"`
	OOMScore     string   `json:"oomScore"`  // oom_score_adj
	Effective    int      `json:"effective"` // capabilities that it has now
	// Namespaces has each namespace's name as the kernel numbers it.
	Namespaces map[string]string `json:"namespaces"`
	// Group has the limits of its control group.
	Group map[string]string `json:"group"`
	// Denied has, for each thing that must not work, the error that it gave, or "allowed".
	Denied map[string]string `json:"denied"`
	// Allowed has, for each thing that must work, its error or "allowed".
	Allowed map[string]string `json:"allowed"`
}

// probe prints what it finds as one line of JSON.
func probe(addresses []string) error {
	p := Probe{PID: os.Getpid(), UID: os.Getuid(), Home: os.Getenv("HOME"), Namespaces: map[string]string{}, Group: map[string]string{}, Denied: map[string]string{}, Allowed: map[string]string{}, Sandbox: os.Getenv("MESOS_SANDBOX")}
	p.Descriptors = descriptors()
	p.status()
	p.UIDMap = strings.Fields(read("/proc/self/uid_map"))
	p.OOMScore = strings.TrimSpace(read("/proc/self/oom_score_adj"))
	for _, n := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		p.Namespaces[n], _ = os.Readlink("/proc/self/ns/" + n)
	}
	for _, f := range []string{"cpu.weight", "memory.max", "memory.swap.max", "memory.oom.group", "pids.max"} {
		p.Group[f] = strings.TrimSpace(read("/sys/fs/cgroup/" + f))
	}
	p.CgroupPath = strings.TrimSpace(read("/proc/self/cgroup"))
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	p.OpenFiles = limit.Cur
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		p.Interfaces = append(p.Interfaces, i.Name)
	}
	for name, try := range mustFail() {
		p.Denied[name] = outcome(try())
	}
	results := make([]string, len(addresses))
	var trying sync.WaitGroup
	for i, at := range addresses {
		trying.Go(func() { results[i] = outcome(connect(at)()) })
	}
	trying.Wait()
	for i, at := range addresses {
		p.Denied["connect to "+at] = results[i]
	}
	for name, try := range mustWork() {
		p.Allowed[name] = outcome(try())
	}
	out, err := json.Marshal(p)
	if err != nil {
		return err
	}
	fmt.Println(string(out))
	return nil
}

func outcome(err error) string {
	if err == nil {
		return "allowed"
	}
	return err.Error()
}

func read(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(raw)
}

func (p *Probe) status() {
	for _, line := range strings.Split(read("/proc/self/status"), "\n") {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "NoNewPrivs":
			p.NoNewPrivs = value
		case "Seccomp":
			p.Seccomp = value
		case "CapBnd":
			p.Capabilities = count(value)
		case "CapEff":
			p.Effective = count(value)
		}
	}
}

func count(capabilities string) int {
	set, err := strconv.ParseUint(capabilities, 16, 64)
	if err != nil {
		set = 1<<64 - 1
	}
	return bits.OnesCount64(set)
}

// connect tries a port that must not answer: not even with a refusal, which would say
// that the way there is open.
func connect(at string) func() error {
	return func() error {
		c, err := net.DialTimeout("tcp", at, 2*time.Second)
		switch {
		case err == nil:
			return c.Close()
		case errors.Is(err, unix.ECONNREFUSED):
			return nil
		}
		return err
	}
}

// descriptors lists open files that the program has not opened itself.
func descriptors() []string {
	var found []string
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return []string{err.Error()}
	}
	for _, e := range entries {
		number, err := strconv.Atoi(e.Name())
		target, linkErr := os.Readlink("/proc/self/fd/" + e.Name())
		// The Go runtime of this program watches its own limits.
		own := strings.HasPrefix(target, "/proc/") || strings.HasPrefix(target, "anon_inode:[event") || target == "/sys/fs/cgroup/cpu.max"
		if err != nil || linkErr != nil || number <= 2 || own {
			continue
		}
		found = append(found, e.Name()+" "+target)
	}
	return found
}

// unreadable gives an error if a file shows nothing.
func unreadable(path string) func() error {
	return func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		var buf [16]byte
		n, err := f.Read(buf[:])
		if n > 0 {
			return nil
		}
		return errors.Join(errors.New("empty"), err)
	}
}

func emptyDir(path string) func() error {
	return func() error {
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return errors.New("empty")
		}
		return nil
	}
}

func writable(path string) func() error {
	return func() error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return f.Close()
	}
}

// call gives an error if a system call is refused as such.
func call(number uintptr, args ...uintptr) func() error {
	return func() error {
		var a [6]uintptr
		copy(a[:], args)
		_, _, errno := unix.RawSyscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
		switch errno {
		case unix.EPERM, unix.EACCES, unix.ENOSYS:
			return errno
		}
		return nil // any other error is about the arguments: the call itself was let through
	}
}

// mustFail is what an escape would begin with.
func mustFail() map[string]func() error {
	return map[string]func() error{
		"read /proc/kcore":             unreadable("/proc/kcore"),
		"read /proc/keys":              unreadable("/proc/keys"),
		"read /proc/timer_list":        unreadable("/proc/timer_list"),
		"read /proc/cmdline":           unreadable("/proc/cmdline"),
		"read /proc/kallsyms":          unreadable("/proc/kallsyms"),
		"read /proc/interrupts":        unreadable("/proc/interrupts"),
		"list /sys/firmware":           emptyDir("/sys/firmware"),
		"list /sys/kernel/security":    emptyDir("/sys/kernel/security"),
		"write /proc/sysrq-trigger":    writable("/proc/sysrq-trigger"),
		"write /proc/sys/kernel":       writable("/proc/sys/kernel/core_pattern"),
		"write /sys/kernel":            writable("/sys/kernel/uevent_helper"),
		"write /sys/fs/cgroup":         func() error { return os.Mkdir("/sys/fs/cgroup/escape", 0o755) },
		"open /dev/kmsg":               writable("/dev/kmsg"),
		"open /dev/mem":                writable("/dev/mem"),
		"make and open a block device": blockDevice,
		"mount":                        func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") },
		"remount /proc/sys writable":   func() error { return unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
		"unmount a mask":               func() error { return unix.Unmount("/proc/kcore", unix.MNT_DETACH) },
		"hide from the OOM killer":     func() error { return os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0) },
		"raise its memory limit":       writable("/sys/fs/cgroup/memory.max"),
		"pivot_root":                   call(unix.SYS_PIVOT_ROOT, 0, 0),
		"move a mount":                 call(unix.SYS_MOVE_MOUNT, 0, 0, 0, 0, 0),
		"enter another namespace":      call(unix.SYS_SETNS, 0, 0),
		"open by file handle":          call(unix.SYS_OPEN_BY_HANDLE_AT, 0, 0, 0),
		"io_uring":                     call(unix.SYS_IO_URING_SETUP, 0, 0),
		"perf_event_open":              call(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0, 0, 0),
		"add_key":                      call(unix.SYS_ADD_KEY, 0, 0, 0, 0, 0),
		"swap on":                      call(unix.SYS_SWAPON, 0, 0),
		"new user namespace":           call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER),
		"keyctl":                       call(unix.SYS_KEYCTL, 0, ^uintptr(2), 1),
		"bpf":                          call(unix.SYS_BPF, 0, 0, 0),
		"userfaultfd":                  call(unix.SYS_USERFAULTFD, 0),
		"kexec_load":                   call(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0),
		"load a module":                call(unix.SYS_FINIT_MODULE, 0, 0, 0),
		"set the clock":                call(unix.SYS_CLOCK_SETTIME, 0, 0),
		"reboot":                       call(unix.SYS_REBOOT, 0, 0, 0, 0),
		"change the hostname of all":   func() error { return os.WriteFile("/proc/sys/kernel/hostname", []byte("x"), 0) },
	}
}

func blockDevice() error {
	path := filepath.Join(os.TempDir(), "disk")
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(8, 0))); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// mustWork is what programs rightly expect.
func mustWork() map[string]func() error {
	return map[string]func() error{
		"bind port 80": func() error {
			l, err := net.Listen("tcp", ":80")
			if err != nil {
				return err
			}
			return l.Close()
		},
		"write the sandbox": func() error {
			return os.WriteFile(filepath.Join(os.Getenv("MESOS_SANDBOX"), "written"), []byte("x"), 0o600)
		},
		"write /tmp":     func() error { return os.WriteFile("/tmp/written", []byte("x"), 0o600) },
		"open /dev/null": writable("/dev/null"),
		"chown to another id": func() error {
			path := "/tmp/chowned"
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return os.Chown(path, 1000, 1000)
		},
	}
}
