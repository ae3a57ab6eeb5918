package run

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mesolith/mesolith/internal/fault"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/records"
)

// maxGrace keeps sums of times within their type.
const maxGrace = 366 * 24 * time.Hour

// Kill begins the end of a container, or shortens what is left of its grace. An id that
// is not known gets a tombstone, so that its launch, should it come later, fails.
func (k *Keeper) Kill(m *keeper.Kill) error {
	if !containerID.MatchString(m.GetContainerId()) {
		return fmt.Errorf("%w: container id %q", ErrInvalid, m.GetContainerId())
	}
	grace := time.Duration(m.GetGraceNs())
	if grace < 0 {
		grace = defaultGrace
	}
	grace = min(grace, maxGrace)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.admit(records.Fence{Height: m.GetHeight(), Term: m.GetTerm()}); err != nil {
		return err
	}
	c, ok := k.containers[m.GetContainerId()]
	if !ok {
		return k.tombstone(m.GetContainerId())
	}
	return k.killKnown(c, grace)
}

// killKnown begins the end of a container that there is. The caller holds k.mu.
func (k *Keeper) killKnown(c *container, grace time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rec.Step == records.Done {
		return nil
	}
	deadline := time.Now().Add(grace)
	if c.killed && !deadline.Before(c.deadline) {
		return nil
	}
	first := !c.rec.Container.GetKillRequested()
	c.rec.Container.KillRequested, c.rec.Grace = true, max(grace, 1)
	if err := k.store.Put(c.rec); err != nil {
		return err
	}
	fault.After(fault.KillRecord, c.rec.Container.GetContainerId())
	c.killed, c.deadline = true, deadline
	if first {
		k.tell(c)
	}
	if c.cancel != nil {
		c.cancel()
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

func (k *Keeper) tombstone(id string) error {
	c := &container{wake: make(chan struct{}, 1), rec: records.Record{Step: records.Done, Container: &keeper.Container{
		ContainerId: id, Phase: keeper.Container_FAILED, Failure: keeper.Container_KILLED_DURING_LAUNCH, KillRequested: true,
		Message: "the task was killed before its launch arrived", EndedUnixNs: time.Now().UnixNano(),
	}}}
	if err := k.store.Put(c.rec); err != nil {
		return err
	}
	k.containers[id] = c
	c.mu.Lock()
	defer c.mu.Unlock()
	k.tell(c)
	return nil
}

type ending struct {
	status uint32
	lost   bool
	err    error
}

// await returns when the first process has ended, carrying out kills meanwhile.
func (k *Keeper) await(ctx context.Context, c *container, j *Job, p *Process) (status uint32, lost bool, err error) {
	ended := make(chan ending, 1)
	go func() { ended <- k.awaitEnd(ctx, j, p) }()
	var grace <-chan time.Time
	timer := time.NewTimer(math.MaxInt64)
	defer timer.Stop()
	disk := watchDisk(ctx, j, diskInterval)
	defer disk.stop()
	signalled, asTERM := false, false
	for {
		select {
		case e := <-ended:
			if asTERM && syscall.WaitStatus(e.status).Signaled() && syscall.WaitStatus(e.status).Signal() == syscall.SIGKILL {
				e.status = uint32(syscall.SIGTERM)
			}
			return e.status, e.lost, e.err
		case <-ctx.Done():
			return 0, false, nil
		case why := <-disk.over:
			// Recorded first: whoever finds it killed, has to know why.
			k.report(j, k.change(c, true, func(c *container) {
				c.rec.Container.Limitation, c.rec.Container.Message = keeper.Container_DISK, why
			}))
			fault.After(fault.Limited, j.ID)
			k.report(j, k.runtime.Kill(j, p))
		case <-c.wake:
			c.mu.Lock()
			killed, left := c.killed, time.Until(c.deadline)
			c.mu.Unlock()
			if !killed {
				continue
			}
			c.probes.close()
			if !signalled && left > 0 {
				deaf, err := k.runtime.Terminate(j, p)
				k.report(j, err)
				fault.After(fault.Terminated, j.ID)
				if deaf {
					asTERM = true
					k.report(j, k.runtime.Kill(j, p))
				}
			}
			signalled = true
			timer.Reset(max(left, 0))
			grace = timer.C
		case <-grace:
			grace = nil
			k.report(j, k.runtime.Kill(j, p))
		}
	}
}

func (k *Keeper) report(j *Job, err error) {
	if err != nil {
		k.log.Error("kill", "container", j.ID, "error", err)
	}
}

// awaitEnd waits for our child, or for a process of before by a descriptor of it, whose
// status PID 1 keeps.
func (k *Keeper) awaitEnd(ctx context.Context, j *Job, p *Process) ending {
	if p.Wait != nil {
		// It stays to be reaped until its status is recorded: should we die before
		// that, PID 1 inherits it and keeps the status.
		status, err := peekEnd(ctx, p.PID)
		if err != nil && ctx.Err() == nil {
			status, err = p.Wait() // a kill has reaped it
		}
		return ending{status: status, err: err, lost: err != nil}
	}
	if err := waitGone(ctx, p.PID, p.StartTime); err != nil {
		return ending{lost: true, err: err}
	}
	if k.cfg.Init == nil {
		return ending{lost: true}
	}
	status, known, err := k.cfg.Init.Status(ctx, j.ID, p.StartTime)
	return ending{status: status, lost: !known, err: err}
}

// adopt finds a container whose program may have begun before this keeper did.
func (k *Keeper) adopt(c *container, j *Job) (*Process, error) {
	rec := c.record()
	p := &Process{PID: int(rec.Container.GetPid()), StartTime: rec.Container.GetStartTime()}
	if rec.Container.GetKillRequested() {
		// The grace is counted anew: nobody knows how long nobody counted.
		grace := rec.Grace
		if grace == 0 {
			grace = defaultGrace
		}
		c.mu.Lock()
		if deadline := time.Now().Add(grace); !c.killed || deadline.Before(c.deadline) {
			c.killed, c.deadline = true, deadline
		}
		c.mu.Unlock()
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	if !alive(p) {
		k.log.Info("container ended while nobody kept it", "container", j.ID, "pid", p.PID)
		return p, nil
	}
	if rec.Container.GetLimitation() != keeper.Container_NO_LIMITATION || rec.Launch.GetSession() {
		k.report(j, k.runtime.Kill(j, p)) // the keeper before this one was about to, or nobody is at the other end
		return p, nil
	}
	if k.runtime.IDs() {
		j.Rootfs = filepath.Join(j.Paths.bundle, "rootfs")
	}
	k.resolveUser(j)
	if k.runtime.Waiting(j, p) {
		if err := k.runtime.Exec(j, p); err != nil && alive(p) {
			return p, failed(keeper.Container_LAUNCH, err)
		}
	}
	k.log.Info("container is adopted", "container", j.ID, "pid", p.PID)
	return p, nil
}

func alive(p *Process) bool {
	start, err := startTime(p.PID)
	return err == nil && start == p.StartTime
}
