package supervise

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Program says how one program is run.
type Program struct {
	Name        string
	Path        string
	Args        []string // without argv[0]
	Env         []string
	UID         int // 0: root
	Groups      []uint32
	Caps        []uintptr // root only: what it may keep; nil: all
	NoNewPrivs  bool
	Cgroup      string // directory
	OOMScoreAdj int
	Files       []*os.File // from descriptor 3 on
}

// fork starts the program in its control group, its output in the given pipe. The
// privileges are taken from a thread of its own, which the child inherits from and which
// ends afterwards.
func fork(p Program, out *os.File) (int, error) {
	type result struct {
		pid int
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		pid, err := forkHere(p, out)
		done <- result{pid, err}
	}()
	r := <-done
	if r.err != nil {
		return 0, fmt.Errorf("start %s: %w", p.Path, r.err)
	}
	if err := os.WriteFile("/proc/"+strconv.Itoa(r.pid)+"/oom_score_adj", []byte(strconv.Itoa(p.OOMScoreAdj)), 0); err != nil {
		// It runs with init's own score, which is no reason to stop it.
		return r.pid, nil
	}
	return r.pid, nil
}

func forkHere(p Program, out *os.File) (int, error) {
	group, err := os.Open(p.Cgroup)
	if err != nil {
		return 0, fmt.Errorf("open control group: %w", err)
	}
	defer group.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()

	if p.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return 0, fmt.Errorf("set no_new_privs: %w", err)
		}
	}
	if err := boundCaps(p); err != nil {
		return 0, err
	}
	files := []uintptr{null.Fd(), out.Fd(), out.Fd()}
	for _, f := range p.Files {
		files = append(files, f.Fd())
	}
	attr := &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if p.UID != 0 {
		attr.Credential = &syscall.Credential{Uid: uint32(p.UID), Gid: uint32(p.UID), Groups: p.Groups}
	}
	return syscall.ForkExec(p.Path, append([]string{p.Path}, p.Args...), &syscall.ProcAttr{
		Dir: "/", Env: p.Env, Files: files, Sys: attr,
	})
}

// boundCaps drops from the bounding set what the program may never have.
func boundCaps(p Program) error {
	if p.Caps == nil && p.UID == 0 {
		return nil
	}
	keep := map[uintptr]bool{}
	for _, c := range p.Caps {
		keep[c] = true
	}
	// Changing the user and its groups needs these two until the exec; the user's
	// change then empties all sets.
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if keep[c] {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err != nil && err != unix.EINVAL { // EINVAL: this kernel has fewer
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}
