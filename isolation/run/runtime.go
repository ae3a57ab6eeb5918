package run

import (
	"context"
	"log/slog"
	"os"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/fetchplan"
	"github.com/mesolith/mesolith/internal/imagestore"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/spec"
)

// Runtime is how containers are made: by libcontainer, or as plain processes.
type Runtime interface {
	Name() string
	// Prepare mounts or makes the root file system; Remove undoes it and everything
	// else that the runtime made. Both may be repeated.
	Prepare(ctx context.Context, j *Job) error
	// OpenGroup opens the container's control group, made with its bound of memory, for what is
	// done in its name before it starts; nil where there are no groups.
	OpenGroup(j *Job) (*os.File, error)
	// Start makes the first process and stops it before the program.
	Start(ctx context.Context, j *Job) (*Process, error)
	// Exec lets the program begin. An error says that it did not.
	Exec(j *Job, p *Process) error
	// Waiting says whether a process of before still stands before its program, and
	// Exec may be had again.
	Waiting(j *Job, p *Process) bool
	// Terminate sends SIGTERM to all processes and says whether none will notice.
	Terminate(j *Job, p *Process) (deaf bool, err error)
	// Kill ends all processes at once.
	Kill(j *Job, p *Process) error
	// Probe runs a command beside a container's program, as that was started and within
	// its limits; when ctx ends it is ended. It gives the wait status.
	Probe(ctx context.Context, j *Job, command *mesosv1.CommandInfo) (uint32, error)
	// Enter begins a command inside of a running container, as Probe does, with streams; what
	// becomes of it is the caller's. Exec lets it run where it does not yet.
	Enter(ctx context.Context, j, parent *Job, s *stdioEnds) (*Process, error)
	// RunsAs is whom a container's program was started as, in its own ids.
	RunsAs(j *Job) (spec.User, error)
	// Usage is what memory the container used, and whether it was ended for it.
	Usage(j *Job) (peak uint64, outOfMemory bool)
	Remove(j *Job) error
	// Strangers lists what exists without being in known, by container id.
	Strangers(known map[string]bool) ([]string, error)
	LimitAll(memory uint64) error
	// Limit gives a running container other shares than it began with.
	Limit(j *Job, cpuMillis, memory uint64) error
	// PinNetNS gives a container's network namespace a name in the file system, which
	// NetNS tells; Remove takes it away.
	PinNetNS(j *Job, p *Process) error
	NetNS(j *Job) string
	// IDs says whether containers have ranges of host ids.
	IDs() bool
}

// Process is a container's first process.
type Process struct {
	PID       int
	StartTime uint64 // field 22 of /proc/PID/stat
	// Wait gives the wait status once; nil for a process that is not our child.
	Wait func() (uint32, error)
	// Go holds what Exec needs of Start; nil after a restart.
	Go any
}

// Job is one container in the making, in words of the runtime.
type Job struct {
	ID       string
	Launch   *keeper.Launch
	Task     *mesosv1.TaskInfo
	Image    imagestore.Image
	HasImage bool // the task asked for it
	User     spec.User
	FirstID  uint32
	Hostname string
	Paths    paths
	Rootfs   string // filled by Prepare; empty: the node's own
	Env      []spec.Variable
	Volumes  []spec.Volume // persistent ones
	URIs     []fetchplan.Item
	Asked    []spec.Asked  // volumes that the task brought along
	Mounts   []spec.Volume // what is made of these
	// HostNetwork: it has no network of its own.
	HostNetwork bool
	// Pod is the first process of the pod that it is inside of; nil: of none.
	Pod *Process

	last time.Time
	took []slog.Attr // how long each part of the launch was
}

// lap notes how long a part of the launch was; an empty name only starts the clock.
func (j *Job) lap(part string) {
	now := time.Now()
	if part != "" {
		j.took = append(j.took, slog.Float64(part+"_ms", float64(now.Sub(j.last).Microseconds())/1000))
	}
	j.last = now
}
