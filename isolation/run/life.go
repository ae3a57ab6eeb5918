package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/mesolith/mesolith/internal/fault"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/records"
	"github.com/mesolith/mesolith/isolation/spec"
)

// Pauses between tries to remove what was left of an ended container.
const (
	undoPause     = time.Second
	undoPauseMost = time.Minute
)

// defaultGrace is how long a task has between SIGTERM and SIGKILL, as in Mesos.
const defaultGrace = 3 * time.Second

// container is one life. Its goroutine alone changes the record, but for a kill's mark.
type container struct {
	mu       sync.Mutex // held after Keeper.mu where both are
	rec      records.Record
	found    bool // recorded by a keeper before this one
	killed   bool
	deadline time.Time          // of the kill; only ever earlier
	cancel   context.CancelFunc // of a launch under way
	wake     chan struct{}      // bound 1: the deadline changed
	probes   probes
	outer    outerEnds // of a session's streams, until they are handed over

	// The pumps belong to the life's goroutine.
	pumpStop context.CancelFunc
	pumps    sync.WaitGroup
}

func (c *container) record() records.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec
}

func (c *container) isKilled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.killed
}

// failure is why a container never ran, with the kind that others are told.
type failure struct {
	kind keeper.Container_Failure
	err  error
}

func (f failure) Error() string { return f.err.Error() }
func (f failure) Unwrap() error { return f.err }

func failed(kind keeper.Container_Failure, err error) error {
	if err == nil {
		return nil
	}
	return failure{kind, err}
}

// begin starts the goroutine of a container. The caller holds k.mu.
func (k *Keeper) begin(c *container) {
	ctx := k.ctx
	if ctx == nil {
		return // Run begins with all that is recorded
	}
	k.lives.Go(func() { k.live(ctx, c) })
}

// live takes a container from where its record stands to its end. When ctx ends, the
// keeper ends and the container goes on.
func (k *Keeper) live(ctx context.Context, c *container) {
	rec := c.record()
	id := rec.Container.GetContainerId()
	if rec.Step == records.Done {
		return
	}
	j, err := k.job(rec)
	if err != nil {
		k.end(ctx, c, j, nil, failed(keeper.Container_INVALID_TASK, err))
		return
	}
	var p *Process
	switch rec.Step {
	case records.Accepted, records.Started:
		p, err = k.launch(ctx, c, j)
	case records.Exec:
		p, err = k.adopt(c, j)
	case records.Exited:
		k.end(ctx, c, j, nil, nil)
		return
	}
	if err != nil {
		if ctx.Err() != nil {
			c.stopPumps()
			return // the next start undoes it and begins again
		}
		k.log.Warn("container failed", "container", id, "error", err)
		k.end(ctx, c, j, p, err)
		return
	}
	k.keep(ctx, c, j, p)
}

// job words a record for the runtime.
func (k *Keeper) job(rec records.Record) (*Job, error) {
	l := rec.Launch
	j := &Job{ID: rec.Container.GetContainerId(), Launch: l, Paths: k.pathsOf(l), Hostname: hostname(rec.Container.GetContainerId())}
	if k.runtime.IDs() {
		j.FirstID = slotFirstID(rec.Slot)
	}
	j.HostNetwork = l.GetHostNetwork() || k.cfg.Network == nil
	if l.GetParent() != "" {
		k.inside(j, l.GetParent())
	}
	if j.HostNetwork && k.settings().GetNodeName() != "" {
		j.Hostname = k.settings().GetNodeName()
	}
	for _, v := range l.GetEnv() {
		j.Env = append(j.Env, spec.Variable{Name: v.GetName(), Value: v.GetValue()})
	}
	if err := j.decode(); err != nil {
		return j, err
	}
	var err error
	if j.Volumes, err = volumesOf(k.cfg.WorkDir, l); err != nil {
		return j, err
	}
	if name := j.Task.GetContainer().GetHostname(); name != "" && !j.HostNetwork {
		j.Hostname = hostname(name)
	}
	return j, nil
}

// launch does everything up to the running program. What a death before left is undone
// first.
func (k *Keeper) launch(ctx context.Context, c *container, j *Job) (*Process, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	c.cancel = cancel
	killed := c.killed || c.rec.Container.GetKillRequested()
	again := c.found
	c.mu.Unlock()
	if killed {
		return nil, failed(keeper.Container_KILLED_DURING_LAUNCH, errors.New("killed before it was started"))
	}
	fault.After(fault.Record, j.ID)
	j.lap("")
	if again {
		k.log.Info("launch is begun again", "container", j.ID)
		if err := k.undo(j, nil); err != nil {
			return nil, failed(keeper.Container_LAUNCH, fmt.Errorf("remove what an earlier try left: %w", err))
		}
		k.acknowledge(ctx, j.ID, c.record().Container.GetStartTime())
	}
	if err := spec.Supported(j.Task); err != nil {
		return nil, failed(keeper.Container_INVALID_TASK, err)
	}
	if err := k.joinPod(j); err != nil {
		return nil, failed(keeper.Container_LAUNCH, err)
	}
	if j.Launch.GetWithin() != "" {
		return k.enter(ctx, c, j)
	}
	if err := k.wantURIs(j, again); err != nil {
		return nil, err
	}
	if err := k.wantVolumes(j); err != nil {
		return nil, failed(keeper.Container_INVALID_TASK, err)
	}
	if _, err := portMappings(j); err != nil && !j.HostNetwork && j.Pod == nil {
		return nil, failed(keeper.Container_INVALID_TASK, err)
	}
	if err := k.findImage(ctx, c, j); err != nil {
		k.askCollect() // it may have been for want of room
		return nil, k.launchError(c, keeper.Container_IMAGE, err)
	}
	fault.After(fault.Image, j.ID)
	j.lap("image")
	if err := k.prepare(ctx, c, j); err != nil {
		return nil, k.launchError(c, keeper.Container_LAUNCH, err)
	}
	j.lap("prepare")
	if err := k.fetch(ctx, j); err != nil {
		return nil, k.launchError(c, keeper.Container_LAUNCH, err)
	}
	fault.After(fault.Fetched, j.ID)
	if err := k.mountVolumes(j); err != nil {
		return nil, k.launchError(c, keeper.Container_LAUNCH, err)
	}
	fault.After(fault.Mounted, j.ID)
	return k.start(ctx, c, j)
}

// findImage pulls the image if need be and notes what the container is made of, so that
// nobody collects it.
func (k *Keeper) findImage(ctx context.Context, c *container, j *Job) error {
	k.pulls.pause.RLock()
	defer k.pulls.pause.RUnlock()
	if err := k.pull(ctx, c, j); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rec.Layers = j.Image.Layers
	return nil
}

// launchError keeps the kind that an error brings along, and calls it a kill if that is
// why it happened.
func (k *Keeper) launchError(c *container, kind keeper.Container_Failure, err error) error {
	if c.isKilled() {
		return failed(keeper.Container_KILLED_DURING_LAUNCH, fmt.Errorf("killed during its launch (%w)", err))
	}
	if errors.Is(err, spec.ErrInvalidTask) {
		kind = keeper.Container_INVALID_TASK
	}
	var f failure
	if errors.As(err, &f) {
		return err
	}
	return failed(kind, err)
}

func (k *Keeper) start(ctx context.Context, c *container, j *Job) (*Process, error) {
	p, err := k.first(ctx, c, j)
	if err != nil {
		return p, k.launchError(c, keeper.Container_LAUNCH, err)
	}
	fault.After(fault.Start, j.ID)
	k.leaveVolumes(j)
	fault.After(fault.Left, j.ID)
	err = k.change(c, true, func(c *container) {
		c.rec.Step = records.Started
		c.rec.Container.Pid, c.rec.Container.StartTime = int32(p.PID), p.StartTime
	})
	fault.After(fault.Started, j.ID)
	if err == nil && k.cfg.Init != nil {
		err = k.cfg.Init.Register(ctx, j.ID, p.PID, p.StartTime)
	}
	if err != nil {
		return p, k.launchError(c, keeper.Container_LAUNCH, err)
	}
	fault.After(fault.Register, j.ID)
	j.lap("start")
	got, err := k.attach(ctx, j, p)
	if err != nil {
		return p, k.launchError(c, keeper.Container_NETWORK, err)
	}
	if ctx.Err() != nil {
		return p, k.launchError(c, keeper.Container_LAUNCH, ctx.Err())
	}
	j.lap("network")
	// From here on somebody holds the pipes: a task may end before Exec returns.
	k.pump(c, j)
	err = k.change(c, true, func(c *container) {
		c.rec.Step = records.Exec
		c.rec.Container.IpAddresses, c.rec.Container.PortMappings, c.rec.Container.Network = got.IPs, got.Ports, got.Name
	})
	fault.After(fault.ExecRecord, j.ID)
	if err == nil {
		err = k.runtime.Exec(j, p)
	}
	if err != nil {
		return p, k.launchError(c, keeper.Container_LAUNCH, err)
	}
	fault.After(fault.Exec, j.ID)
	j.lap("exec")
	k.busy()
	k.log.Info("container runs", "container", j.ID, "task", j.Launch.GetTaskId(), "pid", p.PID, "took", slog.GroupValue(j.took...))
	return p, nil
}

// attach gives the container its network.
func (k *Keeper) attach(ctx context.Context, j *Job, p *Process) (Attached, error) {
	if j.HostNetwork {
		return Attached{}, nil
	}
	if j.Pod != nil { // it is in the pod's
		got := k.podNetwork(j)
		if j.Launch.GetWithin() != "" {
			return got, nil // with its parent's files
		}
		return got, k.writeEtc(j, got.IPs)
	}
	if err := k.runtime.PinNetNS(j, p); err != nil {
		return Attached{}, err
	}
	fault.After(fault.Netns, j.ID)
	ports, err := portMappings(j)
	if err != nil {
		return Attached{}, err
	}
	got, err := k.cfg.Network.Attach(ctx, Attachment{ID: j.ID, NetNS: k.runtime.NetNS(j), Hostname: j.Hostname, Ports: ports})
	if err != nil {
		return Attached{}, err
	}
	fault.After(fault.Attached, j.ID)
	if err := k.writeEtc(j, got.IPs); err != nil {
		return Attached{}, err
	}
	fault.After(fault.Connected, j.ID)
	return got, nil
}

// keep pumps the output of a running container, ends it when it is told to, and brings
// it to its end.
func (k *Keeper) keep(ctx context.Context, c *container, j *Job, p *Process) {
	k.pump(c, j)
	err := k.change(c, false, func(c *container) {
		c.rec.Container.Phase = keeper.Container_RUNNING
		c.sayIgnored(j)
		if c.rec.Container.StartedUnixNs == 0 {
			c.rec.Container.StartedUnixNs = time.Now().UnixNano()
		}
	})
	if err != nil {
		k.log.Error("container cannot be told", "container", j.ID, "error", err)
	}
	fault.After(fault.Running, j.ID)
	k.limitAsRecorded(c, j)
	status, lost, err := k.await(ctx, c, j, p)
	if ctx.Err() != nil {
		c.stopPumps()
		return
	}
	if err != nil {
		k.log.Error("end of a container", "container", j.ID, "error", err)
	}
	fault.After(fault.Noticed, j.ID)
	c.probes.close()
	if err := k.runtime.Kill(j, p); err != nil {
		k.log.Error("processes of an ended container", "container", j.ID, "error", err)
	}
	fault.After(fault.Killed, j.ID)
	c.stopPumps()
	fault.After(fault.Drained, j.ID)
	peak, oom := k.runtime.Usage(j)
	err = k.change(c, true, func(c *container) {
		c.rec.Step = records.Exited
		describeEnd(c, j, status, lost, peak, oom)
	})
	if err != nil {
		k.log.Error("end of a container is not recorded", "container", j.ID, "error", err)
	}
	fault.After(fault.Exited, j.ID)
	k.end(ctx, c, j, p, nil)
}

func describeEnd(c *container, j *Job, status uint32, lost bool, peak uint64, oom bool) {
	o := c.rec.Container
	o.WaitStatus, o.MemoryPeakBytes, o.EndedUnixNs = status, peak, time.Now().UnixNano()
	killedBySignal := syscall.WaitStatus(status).Signaled() && syscall.WaitStatus(status).Signal() == syscall.SIGKILL
	switch {
	case o.GetLimitation() != keeper.Container_NO_LIMITATION: // recorded when it was ended for that
	case lost:
		o.Failure = keeper.Container_LOST
		o.Message = "its exit status could not be kept: isolated ended while the container ran, and no init of Mesolith's keeps statuses on this machine"
	case oom && killedBySignal && !c.killed:
		o.Limitation = keeper.Container_MEMORY
		if j.Launch.GetShareCgroups() {
			o.Message = fmt.Sprintf("Memory limit exceeded: its pod may use no more, the container itself used %d MB; ask for more mem", peak>>20)
			return
		}
		limit := spec.MemoryMax(j.Launch.GetMemoryBytes(), j.Launch.GetMemoryLimitBytes())
		if limit == spec.NoMemoryLimit {
			o.Message = fmt.Sprintf("All memory of tasks is in use: the container has no limit, was given %d MB and used %d MB; ask for more mem", j.Launch.GetMemoryBytes()>>20, peak>>20)
			return
		}
		o.Message = fmt.Sprintf("Memory limit exceeded: the container may use %d MB and used %d MB; ask for more mem, or set limits.mem", limit>>20, peak>>20)
	}
}

// end removes what a container had and records its end. With ferr it never ran, unless
// it exited meanwhile.
func (k *Keeper) end(ctx context.Context, c *container, j *Job, p *Process, ferr error) {
	id := c.record().Container.GetContainerId()
	if j != nil && j.Launch != nil {
		err := k.undo(j, p)
		c.stopPumps()
		if err != nil {
			k.log.Error("something of a container is left; it is tried again", "container", id, "error", err)
			k.lives.Go(func() { k.undoAgain(ctx, j) })
		}
		k.settle(ctx, j.Paths.sandbox)
		if len(j.Volumes) > 0 && k.filesAreMemory() {
			k.report(j, k.limitTasks()) // what it left in them is nobody's memory now
		}
	}
	var startTime uint64
	err := k.change(c, true, func(c *container) {
		o := c.rec.Container
		startTime = o.GetStartTime()
		c.rec.Step = records.Done
		o.Phase = keeper.Container_ENDED
		if ferr == nil {
			return
		}
		o.Phase, o.Failure, o.Message = keeper.Container_FAILED, keeper.Container_LAUNCH, ferr.Error()
		if o.EndedUnixNs == 0 {
			o.EndedUnixNs = time.Now().UnixNano()
		}
		var f failure
		if errors.As(ferr, &f) {
			o.Failure = f.kind
		}
	})
	if err != nil {
		k.log.Error("end of a container is not recorded", "container", id, "error", err)
		return
	}
	k.endInside(id)
	if c.record().Container.GetNested() {
		k.mu.Lock()
		err := k.dropNested()
		k.mu.Unlock()
		if err != nil {
			k.log.Error("an ended nested container is still remembered", "container", id, "error", err)
		}
	}
	fault.After(fault.Done, id)
	k.acknowledge(ctx, id, startTime)
	fault.After(fault.Acknowledged, id)
	k.askCollect()
	k.busy()
}

// acknowledge lets PID 1 forget a process whose status is stored, or matters to nobody.
func (k *Keeper) acknowledge(ctx context.Context, id string, startTime uint64) {
	if k.cfg.Init == nil || startTime == 0 {
		return
	}
	if err := k.cfg.Init.Ack(ctx, id, startTime); err != nil {
		k.log.Warn("PID 1 keeps a status that nobody needs", "container", id, "error", err)
	}
}

// undo removes all of a container but its record and its sandbox, in reverse order of
// making; it may be repeated.
func (k *Keeper) undo(j *Job, p *Process) error {
	var errs []error
	if err := k.runtime.Kill(j, p); err != nil {
		errs = append(errs, err)
	}
	if p != nil && p.Wait != nil {
		// Reap our child; after a normal end this returns at once.
		_, _ = p.Wait()
	}
	fault.After(fault.Reaped, j.ID)
	if k.cfg.Network != nil && !j.HostNetwork && j.Launch.GetParent() == "" {
		// Each of its steps has its time; how long many wait for one another has no limit.
		if err := k.cfg.Network.Detach(context.Background(), j.ID, k.runtime.NetNS(j)); err != nil {
			errs = append(errs, err)
		}
	}
	fault.After(fault.Detached, j.ID)
	if err := k.runtime.Remove(j); err != nil {
		errs = append(errs, err)
	}
	if err := k.unmountVolumes(j.ID); err != nil {
		errs = append(errs, err)
	}
	fault.After(fault.Unvolumed, j.ID)
	if err := os.RemoveAll(j.Paths.pipes); err != nil {
		errs = append(errs, err)
	}
	fault.After(fault.Unpiped, j.ID)
	return errors.Join(errs...)
}

// undoAgain removes what could not be removed at a container's end: an address, a port or
// a mount would be missing until the next start otherwise. The end itself is told meanwhile.
func (k *Keeper) undoAgain(ctx context.Context, j *Job) {
	for pause := undoPause; ; pause = min(2*pause, undoPauseMost) {
		select {
		case <-ctx.Done():
			return // the sweep of the next start does it
		case <-time.After(pause):
		}
		err := k.undo(j, nil)
		if err == nil {
			k.log.Info("what was left of a container is removed", "container", j.ID)
			return
		}
		k.log.Warn("something of a container is still left", "container", j.ID, "error", err)
	}
}
