// Package spec makes the runtime specification of a container out of a task and its
// image's configuration: namespaces, limits, capabilities, mounts, identity. It is
// pure: the same input gives the same specification, which golden files show.
//
// Invariants of every container it describes: all namespaces private but the network
// where the task may use the host's; a user namespace with a range of ids of the task's
// own; no new privileges; a seccomp filter; devices denied but the usual pseudo ones; at
// most 14 capabilities, none for a user other than root unless asked for; memory, pids
// and CPU limited; an oom_score_adj of its own.
//
// Paths are handed in. Making the directories, files and mounts behind them, and
// starting the container, is isolation/run's.
package spec

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/imagestore"
)

// ImageSandbox is where a task with an image finds its sandbox.
const ImageSandbox = "/mnt/mesos/sandbox"

// Limits that every task has.
const (
	MaxPIDs        = 1024
	MinMemory      = 32 << 20 // bytes; as Mesos
	oomScoreAdj    = 500
	oomScoreBeyond = 900 // of a task that may use more memory than it was given
	shmBytes       = 64 << 20
	maxOpenFiles   = 524288
	cpuPeriod      = uint64(100_000) // microseconds
	NoMemoryLimit  = math.MaxUint64
	maxCPUWeight   = 10000
	weightPerCPU   = 100 // of cpu.weight; as Mesos
	millisPerCPU   = 1000
	maxSharedBytes = 16 << 30
)

// Input is all that a container is made of.
type Input struct {
	Task        *mesosv1.TaskInfo
	Image       imagestore.Config
	HasImage    bool // the task's own, not the base
	ContainerID string
	Hostname    string
	Rootfs      string // where the root is mounted
	Sandbox     string // on the node
	Etc         string // directory with hostname, hosts, resolv.conf and, if need be, passwd
	Cgroup      string // below the cgroup root
	HostNetwork bool
	User        User
	FirstID     uint32 // of the host's ids, for the task's 0
	CPUMillis   uint64
	CPULimit    uint64 // thousandths of a CPU; 0: none
	Memory      uint64 // bytes
	MemoryLimit uint64 // bytes; 0: as Memory; NoMemoryLimit: none
	Env         []Variable
	Seccomp     *specs.LinuxSeccomp
	Volumes     []Volume
	// PodPID is the first process of the pod that it is inside of: they have their users and
	// their network in common. 0: it is inside of none.
	PodPID int
	// Unlimited: CPU and memory are limited above.
	Unlimited bool
}

// Volume is a directory or a file of the node that a task sees. On disk it holds the ids that
// tasks see, but for one that is of this task only.
type Volume struct {
	From     string // on the node
	Path     string // in the container; not absolute: below the sandbox
	ReadOnly bool
	Own      bool   // its ids on the node are those of this task
	Bytes    uint64 // that it may hold; 0: as many as there are
}

// Inside is where a task sees the volume whose sandbox it sees at a path.
func (v Volume) Inside(sandbox string) string {
	if path.IsAbs(v.Path) {
		return path.Clean(v.Path)
	}
	return path.Join(sandbox, v.Path)
}

// SandboxInside is the sandbox's path as the task sees it.
func (in Input) SandboxInside() string {
	if in.HasImage {
		return ImageSandbox
	}
	return in.Sandbox
}

// Build gives the specification.
func Build(in Input) (*specs.Spec, error) {
	argv, err := Program(in.Task, in.Image)
	if err != nil {
		return nil, err
	}
	if in.PodPID != 0 && max(in.User.UID, in.User.GID) >= RangeSize {
		return nil, fmt.Errorf("%w: user %d:%d; inside a pod a user has a number below %d", ErrInvalidTask, in.User.UID, in.User.GID, RangeSize)
	}
	env, err := Env(in.Task.GetCommand(), in.Image, append(slices.Clone(in.Env), sandboxVariables(in)...))
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		env = append(env, "HOME="+home(in))
	}
	parameters, err := DockerParameters(in.Task.GetContainer())
	if err != nil {
		return nil, err
	}
	if parameters.CPUMillis > 0 {
		in.CPUMillis = min(in.CPUMillis, parameters.CPUMillis)
	}
	limits, err := rlimits(slices.Concat(in.Task.GetContainer().GetRlimitInfo().GetRlimits(), parameters.Rlimits))
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(in)
	if err != nil {
		return nil, err
	}
	score := oomScoreAdj
	if MemoryMax(in.Memory, in.MemoryLimit) > MemoryMax(in.Memory, 0) {
		score = oomScoreBeyond
	}
	s := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			User:            specs.User{UID: in.User.UID, GID: in.User.GID, AdditionalGids: in.User.Groups},
			Args:            argv,
			Env:             env,
			Cwd:             cwd(in),
			Capabilities:    caps,
			Rlimits:         limits,
			NoNewPrivileges: true,
			OOMScoreAdj:     &score,
		},
		Root:     &specs.Root{Path: in.Rootfs},
		Hostname: in.Hostname,
		Mounts:   mounts(in),
		Linux: &specs.Linux{
			UIDMappings:   idMappings(in, in.User.UID),
			GIDMappings:   idMappings(in, in.User.GID),
			Sysctl:        sysctls(in),
			Resources:     resources(in),
			CgroupsPath:   in.Cgroup,
			Namespaces:    namespaces(in),
			Seccomp:       in.Seccomp,
			MaskedPaths:   slices.Clone(maskedPaths),
			ReadonlyPaths: slices.Clone(readonlyPaths),
		},
	}
	return s, nil
}

var maskedPaths = []string{
	"/proc/acpi", "/proc/asound", "/proc/cmdline", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
	"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
	"/sys/devices/virtual/powercap", "/sys/firmware", "/sys/kernel/debug", "/sys/kernel/security",
}

var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

func sandboxVariables(in Input) []Variable {
	v := []Variable{{"MESOS_SANDBOX", in.SandboxInside()}, {"MESOS_DIRECTORY", in.Sandbox}}
	if !in.HasImage {
		v[1].Value = in.SandboxInside()
	}
	return v
}

func home(in Input) string {
	if in.User.Home != "" && in.User.Home != in.Sandbox {
		return in.User.Home
	}
	return in.SandboxInside()
}

func cwd(in Input) string {
	if in.HasImage && in.Image.WorkingDir != "" {
		return path.Clean("/" + in.Image.WorkingDir)
	}
	return in.SandboxInside()
}

// IDMapping is one row of a user namespace's map.
func idMappings(in Input, id uint32) []specs.LinuxIDMapping {
	if in.PodPID != 0 {
		return nil // the pod's
	}
	first := in.FirstID
	m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: first, Size: RangeSize}}
	if id >= RangeSize {
		m = append(m, specs.LinuxIDMapping{ContainerID: id, HostID: first + RangeSize, Size: 1})
	}
	return m
}

// HostID translates an id of the container to the host's.
func HostID(first, id uint32) uint32 {
	if id >= RangeSize {
		return first + RangeSize
	}
	return first + id
}

func namespaces(in Input) []specs.LinuxNamespace {
	of := func(name string) string {
		if in.PodPID == 0 {
			return ""
		}
		return fmt.Sprintf("/proc/%d/ns/%s", in.PodPID, name)
	}
	out := []specs.LinuxNamespace{
		{Type: specs.UserNamespace, Path: of("user")},
		{Type: specs.MountNamespace},
		{Type: specs.PIDNamespace},
		{Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace},
		{Type: specs.CgroupNamespace},
	}
	if !in.HostNetwork {
		out = append(out, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: of("net")})
	}
	return out
}

func sysctls(in Input) map[string]string {
	if in.HostNetwork || in.PodPID != 0 { // the pod has set them
		return nil
	}
	return map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 65535"}
}

func resources(in Input) *specs.LinuxResources {
	pids := int64(MaxPIDs)
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
		Pids:    &specs.LinuxPids{Limit: &pids},
		CPU:     &specs.LinuxCPU{},
		Memory:  &specs.LinuxMemory{},
		Unified: map[string]string{
			"cpu.weight":       fmt.Sprint(Weight(in.CPUMillis)),
			"memory.oom.group": "1",
		},
	}
	if in.Unlimited {
		r.Unified = nil
		return r
	}
	if in.CPULimit > 0 {
		period, quota := cpuPeriod, int64(in.CPULimit*cpuPeriod/millisPerCPU)
		quota = max(quota, 1000)
		r.CPU.Period, r.CPU.Quota = &period, &quota
	}
	if limit := MemoryMax(in.Memory, in.MemoryLimit); limit != NoMemoryLimit {
		l := int64(limit)
		r.Memory.Limit, r.Memory.Swap = &l, &l
	}
	return r
}

// Weight is cpu.weight for thousandths of a CPU.
func Weight(millis uint64) uint64 {
	return min(max(millis*weightPerCPU/millisPerCPU, 1), maxCPUWeight)
}

// MemoryMax is memory.max in bytes; NoMemoryLimit: none.
func MemoryMax(asked, limit uint64) uint64 {
	if limit == 0 {
		limit = asked
	}
	if limit == NoMemoryLimit || limit > math.MaxInt64 {
		return NoMemoryLimit
	}
	return max(limit, MinMemory)
}

func mounts(in Input) []specs.Mount {
	shm := uint64(shmBytes)
	if mb := in.Task.GetContainer().GetLinuxInfo().GetShmSize(); mb > 0 {
		shm = min(uint64(mb)<<20, maxSharedBytes)
	}
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", shm)}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
	}
	if in.HostNetwork {
		// sysfs shows a network namespace that this user namespace does not own: not to be had.
		out = append(out, specs.Mount{Destination: "/sys", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "nodev", "mode=755", "size=64k"}})
	} else {
		out = append(out, specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}})
	}
	out = append(out, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}})
	for _, name := range []string{"hostname", "hosts", "resolv.conf"} {
		out = append(out, bind(path.Join(in.Etc, name), "/etc/"+name))
	}
	if in.User.Line != "" {
		out = append(out, bind(path.Join(in.Etc, "passwd"), "/etc/passwd"))
	}
	out = append(out, bind(in.Sandbox, in.SandboxInside()))
	for _, v := range in.Volumes {
		m := bind(v.From, v.Inside(in.SandboxInside()))
		if !v.Own {
			m.Options = append(m.Options, "idmap")
		}
		if v.ReadOnly {
			m.Options = append(m.Options, "ro")
		}
		out = append(out, m)
	}
	return out
}

func bind(from, to string) specs.Mount {
	return specs.Mount{Destination: to, Type: "bind", Source: from, Options: []string{"bind", "nosuid", "nodev", "rprivate"}}
}
