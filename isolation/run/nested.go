package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/records"
	"github.com/mesolith/mesolith/isolation/spec"
	"github.com/mesolith/mesolith/isolation/tree"
)

// A nested container is begun inside of a running one by a call of an operator's. No agent's
// journal knows it: its record here is all that is known, and goes with its parent's. In a
// pod it is made as the pod's tasks are; everywhere else, and always when it is to debug, it
// is entered as a check's command is: it sees what its parent sees, as the same user and
// within the same limits.

// ErrExists is a nested container whose name is taken.
var ErrExists = errors.New("it exists already")

// maxNested is how many nested containers of one parent are remembered; the oldest that
// ended go first.
const maxNested = 128

// nestedName is what the caller called a nested container: its id without the parent's.
func nestedName(l *keeper.Launch) string {
	return strings.TrimPrefix(l.GetContainerId(), l.GetParent()+".")
}

// nestedSuffix makes of a sandbox's name that of the directory beside it, for what is
// entered inside: a task can put nothing in its place there, which it could in its own.
const nestedSuffix = ".nested"

// nest completes a nested container's launch by what its parent has. The caller holds k.mu.
func (k *Keeper) nest(l *keeper.Launch) error {
	name := nestedName(l)
	if name == "" || name == l.GetContainerId() || strings.Contains(name, ".") || !containerID.MatchString(l.GetContainerId()) {
		return fmt.Errorf("%w: the id of a nested container %q; below its parent's it has letters, digits and _ + -, and both at most 127 characters together", ErrInvalid, name)
	}
	parent := k.containers[l.GetParent()]
	if parent == nil {
		return fmt.Errorf("%w: the parent container %q is not known here", ErrInvalid, l.GetParent())
	}
	rec := parent.record()
	of := rec.Launch
	switch {
	case of.GetNested():
		return fmt.Errorf("%w: the parent container %q is nested itself; launch inside of its parent", ErrInvalid, l.GetParent())
	case rec.Step != records.Exec || rec.Container.GetPhase() != keeper.Container_RUNNING || rec.Container.GetKillRequested():
		return fmt.Errorf("%w: the parent container %q does not run", ErrInvalid, l.GetParent())
	case l.GetSession() && !l.GetDebug():
		return fmt.Errorf("%w: a session's container is one that debugs", ErrInvalid)
	}
	l.AgentId, l.FrameworkId, l.ExecutorId, l.TaskId = of.GetAgentId(), of.GetFrameworkId(), of.GetExecutorId(), of.GetTaskId()
	l.User, l.UserId, l.Role, l.HostNetwork, l.FrameworkInfo = of.GetUser(), of.GetUserId(), of.GetRole(), of.GetHostNetwork(), of.GetFrameworkInfo()
	l.Env = of.GetEnv()
	l.MemoryBytes, l.CpuMillis, l.DiskBytes, l.ShareCgroups = of.GetMemoryBytes(), of.GetCpuMillis(), 0, true
	l.Above, l.Pod, l.Within, l.Volumes, l.Ports = of.GetParent(), false, "", nil, nil
	if l.GetDebug() || !of.GetPod() {
		l.Within = strings.TrimPrefix(of.GetParent()+"/"+l.GetParent(), "/")
		if of.GetPod() {
			l.Within += "/" + podOwn
		}
	}
	return checkNested(l)
}

// checkNested refuses what a nested container cannot have.
func checkNested(l *keeper.Launch) error {
	task := &mesosv1.TaskInfo{}
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(l.GetTaskInfo(), task); err != nil {
		return fmt.Errorf("%w: its command cannot be read: %w", ErrInvalid, err)
	}
	c := task.GetContainer()
	if u := task.GetCommand().GetUser(); u != "" && u != l.GetUser() {
		return fmt.Errorf("%w: command.user is %q; a nested container runs as its parent does, which is %q: leave it out", ErrInvalid, u, l.GetUser())
	}
	if l.GetWithin() == "" {
		return nil
	}
	switch {
	case c.GetMesos().GetImage() != nil || c.GetDocker() != nil || len(c.GetVolumes()) > 0:
		return fmt.Errorf("%w: container: an image or volumes of its own; only what is inside of a pod (a task group's executor) can have them, and only where it does not debug", ErrInvalid)
	case len(task.GetCommand().GetUris()) > 0:
		return fmt.Errorf("%w: command.uris: what is entered into its parent fetches nothing", ErrInvalid)
	}
	if _, err := spec.Argv(task.GetCommand(), noImage); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

// makeRoom forgets the oldest ended ones of a parent that has too many. The caller holds k.mu.
func (k *Keeper) makeRoom(parent string) error {
	var oldest *keeper.Container
	n := 0
	for _, c := range k.containers {
		rec := c.record()
		if !rec.Container.GetNested() || rec.Container.GetParent() != parent {
			continue
		}
		n++
		if rec.Step == records.Done && (oldest == nil || rec.Container.GetEndedUnixNs() < oldest.GetEndedUnixNs()) {
			oldest = rec.Container
		}
	}
	switch {
	case n < maxNested:
		return nil
	case oldest == nil:
		return fmt.Errorf("%w: %d containers are nested in %q already, and all run: end some", ErrInvalid, n, parent)
	}
	return k.drop(oldest.GetContainerId())
}

// drop forgets a container that has ended. The caller holds k.mu.
func (k *Keeper) drop(id string) error {
	if err := k.store.Delete(id); err != nil {
		return err
	}
	delete(k.containers, id)
	return nil
}

// dropNested forgets what was nested in a parent that is not remembered any more. The caller
// holds k.mu.
func (k *Keeper) dropNested() error {
	for id, c := range k.containers {
		rec := c.record()
		if !rec.Container.GetNested() || rec.Step != records.Done || k.containers[rec.Container.GetParent()] != nil {
			continue
		}
		if err := k.drop(id); err != nil {
			return err
		}
	}
	return nil
}

// nested finds one; nil: there is none.
func (k *Keeper) nested(id string) *container {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c := k.containers[id]; c != nil && c.record().Container.GetNested() {
		return c
	}
	return nil
}

// Signal sends a signal to a nested container's first process; SIGKILL ends all of it.
func (k *Keeper) Signal(m *keeper.Signal) error {
	if m.GetSignal() < 1 || m.GetSignal() > 64 {
		return fmt.Errorf("%w: %d is no signal; they have the numbers 1 to 64", ErrInvalid, m.GetSignal())
	}
	c := k.nested(m.GetContainerId())
	if c == nil {
		return fmt.Errorf("%w: nested container %q", ErrNotFound, m.GetContainerId())
	}
	rec := c.record()
	runs := rec.Step == records.Exec && rec.Container.GetPhase() == keeper.Container_RUNNING
	switch {
	case rec.Step == records.Done:
		return nil
	case syscall.Signal(m.GetSignal()) == syscall.SIGKILL || !runs:
		return k.kill(c, 0)
	}
	p := &Process{PID: int(rec.Container.GetPid()), StartTime: rec.Container.GetStartTime()}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !alive(p) { // the descriptor is another's
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.Signal(m.GetSignal()), nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// kill begins the end of a container without a leader's word.
func (k *Keeper) kill(c *container, grace time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.killKnown(c, grace)
}

// Remove forgets a nested container that has ended, with its sandbox.
func (k *Keeper) Remove(id string) error {
	c := k.nested(id)
	if c == nil {
		return nil
	}
	rec := c.record()
	if rec.Step != records.Done {
		return fmt.Errorf("nested container %q has not ended: kill it first", id)
	}
	sandbox := sandboxPath(k.cfg.WorkDir, rec.Launch)
	if rec.Launch.GetWithin() == "" {
		// In a pod, what is above is a task's to change: nothing is followed out of it.
		root, err := os.OpenRoot(filepath.Dir(filepath.Dir(sandbox)))
		if err == nil {
			err = root.RemoveAll(filepath.Join("containers", nestedName(rec.Launch)))
			root.Close()
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove the sandbox of %s: %w", id, err)
		}
	} else if err := tree.Remove(sandbox); err != nil {
		return fmt.Errorf("remove the sandbox of %s: %w", id, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.containers[id] != c {
		return nil
	}
	return k.drop(id)
}

// parentJob is as much of a parent as it takes to enter it.
func (k *Keeper) parentJob(l *keeper.Launch) *Job {
	of := &keeper.Launch{ContainerId: l.GetParent()}
	return &Job{ID: l.GetParent(), Launch: of, Paths: k.pathsOf(of)}
}

// enter begins a container inside of its parent, up to where its program may run.
func (k *Keeper) enter(ctx context.Context, c *container, j *Job) (*Process, error) {
	if j.Launch.GetSession() && c.found {
		return nil, failed(keeper.Container_KILLED_DURING_LAUNCH, errors.New("whoever began this session is gone"))
	}
	k.resolveUser(j)
	uid, gid := k.owner(j)
	if err := makeSandbox(k.cfg.WorkDir, j.Launch, uid, gid); err != nil {
		return nil, k.launchError(c, keeper.Container_LAUNCH, err)
	}
	return k.start(ctx, c, j)
}

// first makes a container's first process.
func (k *Keeper) first(ctx context.Context, c *container, j *Job) (*Process, error) {
	if j.Launch.GetWithin() == "" {
		if err := podLives(j); err != nil {
			return nil, err
		}
		return k.runtime.Start(ctx, j)
	}
	uid, gid := k.owner(j)
	s, err := openStdio(j, uid, gid)
	if err != nil {
		return nil, err
	}
	defer s.closeInner()
	p, err := k.runtime.Enter(ctx, j, k.parentJob(j.Launch), s)
	if err != nil {
		s.closeOuter()
		return p, err
	}
	c.mu.Lock()
	c.outer = s.outer
	c.mu.Unlock()
	return p, nil
}
