package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	_ "github.com/opencontainers/cgroups/devices" // libcontainer's device filter
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/fault"
	"github.com/mesolith/mesolith/internal/imagestore"
	"github.com/mesolith/mesolith/isolation/cgroup"
	"github.com/mesolith/mesolith/isolation/rootfs"
	"github.com/mesolith/mesolith/isolation/seccomp"
	"github.com/mesolith/mesolith/isolation/spec"
	"github.com/mesolith/mesolith/isolation/stdio"
)

// Containers is the runtime of nodes: libcontainer, all namespaces, cgroup2.
type Containers struct {
	State string // libcontainer's own directory
	Store imagestore.Store
	Group string // control group of all tasks
	// NetNSPrefix goes before a container's id below /run/netns.
	NetNSPrefix string
}

var _ Runtime = Containers{}

const netnsDir = "/run/netns"

// NewContainers makes the directories and the group that all containers share.
func NewContainers(state, store, group, netnsPrefix string) (Containers, error) {
	r := Containers{State: state, Store: imagestore.Store{Dir: store}, Group: group, NetNSPrefix: netnsPrefix}
	for _, dir := range []string{state, filepath.Join(store, "containers"), netnsDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return r, fmt.Errorf("make directory: %w", err)
		}
	}
	return r, cgroup.Ensure(group)
}

func (Containers) Name() string { return "containers" }

func (Containers) IDs() bool { return true }

func (r Containers) LimitAll(memory uint64) error {
	if memory == 0 {
		return nil
	}
	return cgroup.Set(r.Group, "memory.max", strconv.FormatUint(memory, 10))
}

// Limit writes the group's weight and bound of memory. Memory in use stays allowed.
func (r Containers) Limit(j *Job, cpuMillis, memory uint64) error {
	g := r.group(j)
	if err := cgroup.Set(g, "cpu.weight", strconv.FormatUint(spec.Weight(cpuMillis), 10)); err != nil {
		return err
	}
	limit := spec.MemoryMax(memory, j.Launch.GetMemoryLimitBytes())
	if limit == spec.NoMemoryLimit {
		return nil
	}
	if used := cgroup.Number(g, "memory.current"); used > limit {
		limit = used
	}
	return cgroup.Set(g, "memory.max", strconv.FormatUint(limit, 10))
}

// group is what is all of a container, for who ends, measures or removes it. A pod's is that
// of all inside it.
func (r Containers) group(j *Job) string {
	if within := j.Launch.GetWithin(); within != "" {
		return r.Group + "/" + within + "/" + j.ID
	}
	if pod := j.Launch.GetParent(); pod != "" {
		return r.Group + "/" + pod + "/" + j.ID
	}
	return r.Group + "/" + j.ID
}

// own is where a container's own processes are: a group with others below it has none.
func (r Containers) own(j *Job) string {
	if j.Launch.GetPod() {
		return r.group(j) + "/" + podOwn
	}
	return r.group(j)
}

// podOwn is the group of a pod's own first process, beside those that are inside it.
const podOwn = "pod"

// Prepare mounts the image's layers, mapped to the task's ids.
func (r Containers) Prepare(_ context.Context, j *Job) error {
	var layers []string
	for _, l := range j.Image.Layers {
		layers = append(layers, r.Store.Layer(l))
	}
	root, err := rootfs.Mount(layers, j.Paths.bundle, rootfs.IDs{Disk: StoreIDs, Host: j.FirstID, Count: spec.RangeSize})
	if err != nil {
		return fmt.Errorf("make root file system: %w", err)
	}
	j.Rootfs = root
	return nil
}

// OpenGroup makes the container's group; libcontainer finds it, and sets all of its bounds.
func (r Containers) OpenGroup(j *Job) (*os.File, error) {
	if err := unix.Mkdir(filepath.Join(cgroup.Root, r.group(j)), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make control group: %w", err)
	}
	if limit := spec.MemoryMax(j.Launch.GetMemoryBytes(), j.Launch.GetMemoryLimitBytes()); limit != spec.NoMemoryLimit && !j.Launch.GetShareCgroups() {
		if err := cgroup.Set(r.group(j), "memory.max", strconv.FormatUint(limit, 10)); err != nil {
			return nil, err
		}
	}
	if err := cgroup.Set(r.group(j), "pids.max", strconv.Itoa(spec.MaxPIDs)); err != nil {
		return nil, err
	}
	return cgroup.Open(r.group(j))
}

// Start makes the container with its first process stopped before the program.
func (r Containers) Start(_ context.Context, j *Job) (*Process, error) {
	s, err := r.spec(j)
	if err != nil {
		return nil, err
	}
	if err := rootfs.CheckProgram(j.Rootfs, s.Process.Args[0], pathOf(s.Process.Env), s.Process.Cwd); err != nil {
		return nil, err
	}
	if err := r.makeGroup(j); err != nil {
		return nil, err
	}
	fault.After(fault.Cgroup, j.ID)
	if err := saveProgram(j, s.Process); err != nil {
		return nil, err
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: j.ID, Spec: s})
	if err != nil {
		return nil, fmt.Errorf("make container: %w", err)
	}
	c, err := libcontainer.Create(r.State, j.ID, config)
	if err != nil {
		return nil, fmt.Errorf("make container: %w", err)
	}
	fault.After(fault.Create, j.ID)
	lp := FirstProcess(s.Process)
	for _, name := range stdio.Streams {
		w, err := stdio.OpenWriter(j.Paths.pipes, name)
		if err != nil {
			return nil, err
		}
		defer w.Close()
		if name == "stdout" {
			lp.Stdout = w
		} else {
			lp.Stderr = w
		}
	}
	if err := c.Start(lp); err != nil {
		return nil, fmt.Errorf("start container: %w", err)
	}
	p := &Process{Go: c}
	if p.PID, err = lp.Pid(); err != nil {
		return p, fmt.Errorf("start container: %w", err)
	}
	// Not lp's own Wait: it would hold all that the container was made of for as long as
	// it runs, some 100 KiB.
	p.Wait = sync.OnceValues(func() (uint32, error) { return reap(p.PID) })
	if p.StartTime, err = startTime(p.PID); err != nil {
		return p, fmt.Errorf("start container: %w", err)
	}
	return p, nil
}

// makeGroup makes the group, so that it is there when somebody looks for what to remove. A
// pod's carries the limits of all that will be inside.
func (r Containers) makeGroup(j *Job) error {
	if j.Launch.GetPod() {
		if err := cgroup.Ensure(r.group(j)); err != nil {
			return err
		}
		if err := cgroup.Set(r.group(j), "memory.oom.group", "1"); err != nil {
			return err
		}
		return r.Limit(j, j.Launch.GetCpuMillis(), j.Launch.GetMemoryBytes())
	}
	if err := unix.Mkdir(filepath.Join(cgroup.Root, r.group(j)), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make control group: %w", err)
	}
	return nil
}

// reap takes the status of a child of ours.
func reap(pid int) (uint32, error) {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for process %d: %w", pid, err)
		}
		return uint32(status), nil
	}
}

func (r Containers) spec(j *Job) (*specs.Spec, error) {
	in := spec.Input{
		Task: j.Task, Image: j.Image.Config, HasImage: j.HasImage, ContainerID: j.ID, Hostname: j.Hostname, Rootfs: j.Rootfs,
		Sandbox: j.Paths.sandbox, Etc: j.Paths.etc, Cgroup: r.own(j), HostNetwork: j.HostNetwork, User: j.User, FirstID: j.FirstID,
		CPUMillis: j.Launch.GetCpuMillis(), CPULimit: j.Launch.GetCpuLimitMillis(), Memory: j.Launch.GetMemoryBytes(),
		MemoryLimit: j.Launch.GetMemoryLimitBytes(), Env: j.Env, Volumes: slices.Concat(j.Volumes, j.Mounts),
		Unlimited: j.Launch.GetPod() || j.Launch.GetShareCgroups(),
	}
	if j.Pod != nil {
		in.PodPID = j.Pod.PID
	}
	s, err := spec.Build(in)
	if err != nil {
		return nil, err
	}
	s.Linux.Seccomp, err = seccomp.For(s.Process.Capabilities.Bounding)
	return s, err
}

func pathOf(env []string) string {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			return v
		}
	}
	return ""
}

// FirstProcess words the specification's process for libcontainer.
func FirstProcess(p *specs.Process) *libcontainer.Process {
	lp := &libcontainer.Process{
		Args: p.Args, Env: p.Env, UID: int(p.User.UID), GID: int(p.User.GID), Cwd: p.Cwd, NoNewPrivileges: &p.NoNewPrivileges, Init: true,
		Capabilities: &configs.Capabilities{
			Bounding: p.Capabilities.Bounding, Effective: p.Capabilities.Effective, Permitted: p.Capabilities.Permitted,
			Inheritable: p.Capabilities.Inheritable, Ambient: p.Capabilities.Ambient,
		},
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	for _, l := range p.Rlimits {
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: rlimitNumbers[l.Type], Soft: l.Soft, Hard: l.Hard})
	}
	return lp
}

var rlimitNumbers = map[string]int{
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_STACK": unix.RLIMIT_STACK,
	"RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
}

// Exec lets the program begin.
func (r Containers) Exec(j *Job, p *Process) error {
	c, ok := p.Go.(*libcontainer.Container)
	if !ok {
		fifo := filepath.Join(r.State, j.ID, "exec.fifo")
		if err := release(fifo, func() bool { return alive(p) && r.Waiting(j, p) }); err != nil {
			return fmt.Errorf("start program: %w", err)
		}
		return nil
	}
	if err := c.Exec(); err != nil {
		return fmt.Errorf("start program: %w", err)
	}
	p.Go = nil // nothing else needs it; an idle container should cost nothing here
	return nil
}

// release lets the first process of an earlier keeper's container begin its program, if
// that keeper did not. It writes to libcontainer's named pipe fifo, which takes a reader
// to let it go on, and whoever reads removes the pipe. The earlier keeper may have died
// before, between or after these, and the process may still be on its way to its program
// when the pipe is gone: libcontainer's own Exec fails there, or waits until the task ends.
func release(fifo string, waiting func() bool) error {
	fd, err := unix.Open(fifo, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: fifo, Err: err}
	}
	defer unix.Close(fd)
	// Neither end nor deadline tells that a writer is still to come.
	for b := make([]byte, 1); ; time.Sleep(releasePoll) {
		stood := waiting()
		if n, _ := unix.Read(fd, b); n > 0 || !stood {
			break
		}
	}
	if err := os.Remove(fifo); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// releasePoll is how often release looks.
const releasePoll = 5 * time.Millisecond

// Waiting says whether the first process is still libcontainer's, before the program.
func (r Containers) Waiting(_ *Job, p *Process) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID))
	return err == nil && strings.HasPrefix(string(raw), "runc:[")
}

func (r Containers) netns(j *Job) string { return filepath.Join(netnsDir, r.NetNSPrefix+j.ID) }

// NetNS is where PinNetNS keeps the network namespace; inside a pod it is the pod's.
func (r Containers) NetNS(j *Job) string {
	if pod := j.Launch.GetParent(); pod != "" {
		return filepath.Join(netnsDir, r.NetNSPrefix+pod)
	}
	return r.netns(j)
}

// PinNetNS gives the network namespace a name, as CNI plugins want it.
func (r Containers) PinNetNS(j *Job, p *Process) error {
	at := r.netns(j)
	if err := unpin(at); err != nil {
		return err
	}
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("name network namespace: %w", err)
	}
	f.Close()
	if err := unix.Mount(fmt.Sprintf("/proc/%d/ns/net", p.PID), at, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("name network namespace: %w", err), os.Remove(at))
	}
	return nil
}

func unpin(at string) error {
	if err := rootfs.Unbind(at); err != nil {
		return err
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove name of network namespace: %w", err)
	}
	return nil
}

// Terminate sends SIGTERM to every process. A first process without a handler does not
// notice it, being PID 1 of its namespace: alone, it is called deaf.
func (r Containers) Terminate(j *Job, p *Process) (deaf bool, err error) {
	pids, err := cgroup.PIDs(r.own(j))
	if err != nil {
		return false, err
	}
	if len(pids) == 1 && pids[0] == p.PID && !handlesTERM(p.PID) {
		return true, nil
	}
	var errs []error
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("signal process %d: %w", pid, err))
		}
	}
	return false, errors.Join(errs...)
}

// handlesTERM reads whether a process catches SIGTERM, or ignores it on purpose.
func handlesTERM(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return true
	}
	for line := range strings.SplitSeq(string(raw), "\n") {
		for _, field := range []string{"SigCgt:", "SigIgn:"} {
			value, ok := strings.CutPrefix(line, field)
			if !ok {
				continue
			}
			if mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64); err == nil && mask&(1<<(uint(unix.SIGTERM)-1)) != 0 {
				return true
			}
		}
	}
	return false
}

func (r Containers) Kill(j *Job, _ *Process) error { return cgroup.Kill(r.group(j)) }

// Usage reads the group's peak of memory and whether the kernel ended it for want of it.
func (r Containers) Usage(j *Job) (peak uint64, outOfMemory bool) {
	g := r.group(j)
	return cgroup.Number(g, "memory.peak"), cgroup.Event(g, "memory.events", "oom_kill") > 0
}

// Remove takes away the group, the mounts and the directories.
func (r Containers) Remove(j *Job) error {
	var errs []error
	for _, part := range []struct {
		after  fault.Point
		remove func() error
	}{
		{fault.Ungroup, func() error { return cgroup.Remove(r.group(j)) }},
		{fault.Unpinned, func() error { return unpin(r.netns(j)) }},
		{fault.Uncreated, func() error { return os.RemoveAll(filepath.Join(r.State, j.ID)) }},
		{fault.Unmounted, func() error { return rootfs.Unmount(j.Paths.bundle) }},
	} {
		errs = append(errs, part.remove())
		fault.After(part.after, j.ID)
	}
	return errors.Join(errs...)
}

// Strangers looks where a container leaves traces: the groups first of all.
func (r Containers) Strangers(known map[string]bool) ([]string, error) {
	names, err := cgroup.Children(r.Group)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range names {
		if !known[n] {
			out = append(out, n)
		}
	}
	for _, dir := range []string{r.State, filepath.Join(r.Store.Dir, "containers")} {
		more, err := unknownIn(dir, known)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	pinned, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, n := range pinned {
		if id, ok := strings.CutPrefix(n.Name(), r.NetNSPrefix); ok && !known[id] {
			out = append(out, id)
		}
	}
	return out, nil
}
