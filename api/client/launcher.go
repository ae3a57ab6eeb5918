package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// Task is what a Launcher shall run.
type Task struct {
	ID     string // unique within the framework
	Name   string
	CPUs   float64
	MemMB  float64
	DiskMB float64
	// Ports is how many ports of the offer it gets; they are in PORT0, PORT1, ….
	Ports     int
	Command   *mesosv1.CommandInfo
	Container *mesosv1.ContainerInfo
	// Hostname, if set, is the only agent that it may run on.
	Hostname string
	Labels   *mesosv1.Labels
	Grace    *mesosv1.KillPolicy
	// HealthCheck ends the task when it fails too often; Check is reported only.
	HealthCheck *mesosv1.HealthCheck
	Check       *mesosv1.CheckInfo
	// Limits are what it may use at most of cpus and of mem; without, that is what it
	// has of mem, and of cpus whatever nobody else wants. Infinity is no limit.
	Limits map[string]float64
	// Volumes are persistent volumes of the framework's role that it uses. They exist: it
	// runs where they are.
	Volumes []Volume
}

// Volume is a persistent volume as a task wants to see it.
type Volume struct {
	ID       string
	Path     string // in the container; empty: where its maker said
	ReadOnly bool
}

// Launcher is a framework that runs the tasks it is given, each once, on the first offer
// that is large enough.
type Launcher struct {
	client *Client
	tell   func(Launched)

	mu      sync.Mutex
	tasks   map[string]*launched
	order   []string
	quiet   bool // no more offers are wanted
	changed chan struct{}
	ended   error

	askAt    time.Time // when unanswered tasks are asked for again
	askPause time.Duration
}

// Launched is a task with what is known of it.
type Launched struct {
	Task     Task
	Info     *mesosv1.TaskInfo   // nil until it was sent
	Status   *mesosv1.TaskStatus // the newest; nil until one came
	Hostname string              // of the agent
	Ports    []uint64
}

type launched struct {
	Launched
	unsure bool // nobody knows whether the launch was taken
	asked  bool // its state was asked for on this stream, and nothing came yet
}

// Done reports whether the task has ended.
func (l Launched) Done() bool { return l.Status != nil && Terminal(l.Status.GetState()) }

// Terminal reports whether a task in this state will never run again.
func Terminal(s mesosv1.TaskState) bool {
	switch s {
	case mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskState_TASK_FAILED, mesosv1.TaskState_TASK_KILLED,
		mesosv1.TaskState_TASK_ERROR, mesosv1.TaskState_TASK_LOST, mesosv1.TaskState_TASK_DROPPED,
		mesosv1.TaskState_TASK_GONE, mesosv1.TaskState_TASK_GONE_BY_OPERATOR:
		return true
	}
	return false
}

const (
	refuseWhileWaiting = 1   // seconds: tasks wait for something larger
	refuseWhileQuiet   = 300 // seconds: there is nothing to run
	// A cluster does not answer for a task whose agent it still waits for, so that it is
	// asked again, after these pauses.
	askFirst = 5 * time.Second
	askMost  = time.Minute
)

// NewLauncher gives a launcher; tell, if not nil, hears of every launch and update, from
// one goroutine at a time, and must not call the launcher.
func NewLauncher(c *Client, tell func(Launched)) *Launcher {
	if tell == nil {
		tell = func(Launched) {}
	}
	return &Launcher{client: c, tell: tell, tasks: map[string]*launched{}, changed: make(chan struct{})}
}

// Add gives a task to run. It may be called before and during Run.
func (l *Launcher) Add(ctx context.Context, tasks ...Task) error {
	l.mu.Lock()
	for _, t := range tasks {
		if t.ID == "" || l.tasks[t.ID] != nil {
			l.mu.Unlock()
			return fmt.Errorf("task id %q is empty or was used already", t.ID)
		}
		l.tasks[t.ID] = &launched{Launched: Launched{Task: t}}
		l.order = append(l.order, t.ID)
	}
	wake := l.quiet
	l.quiet = false
	l.mu.Unlock()
	if wake {
		return l.client.Revive(ctx)
	}
	return nil
}

// Kill asks for a task's end; one that was not launched yet is forgotten.
func (l *Launcher) Kill(ctx context.Context, id string) error {
	l.mu.Lock()
	t := l.tasks[id]
	if t == nil {
		l.mu.Unlock()
		return fmt.Errorf("no task %q", id)
	}
	info := t.Info
	if info == nil {
		t.Status = &mesosv1.TaskStatus{TaskId: &mesosv1.TaskID{Value: &id}, State: mesosv1.TaskState_TASK_KILLED.Enum()}
		l.wake()
	}
	l.mu.Unlock()
	if info == nil {
		return nil
	}
	return l.client.Kill(ctx, info.GetTaskId(), info.GetAgentId())
}

// Get gives what is known of a task.
func (l *Launcher) Get(id string) (Launched, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tasks[id]
	if t == nil {
		return Launched{}, false
	}
	return t.Launched, true
}

// Wait waits until a task is as wanted and gives what is known of it then.
func (l *Launcher) Wait(ctx context.Context, id string, wanted func(Launched) bool) (Launched, error) {
	for {
		l.mu.Lock()
		t, changed, ended := l.tasks[id], l.changed, l.ended
		var now Launched
		if t != nil {
			now = t.Launched
		}
		l.mu.Unlock()
		switch {
		case t == nil:
			return now, fmt.Errorf("no task %q", id)
		case wanted(now):
			return now, nil
		case now.Done():
			return now, fmt.Errorf("task %s ended as %s: %s", id, now.Status.GetState(), now.Status.GetMessage())
		case ended != nil:
			return now, ended
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return now, fmt.Errorf("waiting for task %s (%s): %w", id, describe(now), ctx.Err())
		}
	}
}

func describe(t Launched) string {
	switch {
	case t.Info == nil:
		return "no offer was large enough yet"
	case t.Status == nil:
		return "launched, nothing heard yet"
	}
	return t.Status.GetState().String() + " " + t.Status.GetMessage()
}

// Running is a condition for Wait.
func Running(l Launched) bool { return l.Status.GetState() == mesosv1.TaskState_TASK_RUNNING }

// Ended is a condition for Wait.
func Ended(l Launched) bool { return l.Done() }

// wake tells everybody who waits; the caller holds the lock.
func (l *Launcher) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Run is the framework's life, until ctx ends or the subscription does for good.
func (l *Launcher) Run(ctx context.Context) error {
	err := l.client.Run(ctx, l.handle)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = err
	l.wake()
	return err
}

func (l *Launcher) handle(ctx context.Context, e *scheduler.Event) error {
	switch e.GetType() {
	case scheduler.Event_SUBSCRIBED:
		l.subscribed()
	case scheduler.Event_OFFERS:
		for _, o := range e.GetOffers().GetOffers() {
			l.use(ctx, o)
		}
	case scheduler.Event_UPDATE:
		if l.update(e.GetUpdate().GetStatus()) {
			l.revive(ctx)
		}
	case scheduler.Event_FAILURE:
		l.askNow() // the cluster no longer waits for this agent
	}
	l.reconcile(ctx) // heartbeats come when nothing else does
	return nil
}

// subscribed: the state of what was launched on an earlier stream is not known any more.
func (l *Launcher) subscribed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quiet = false // a new stream brings offers again
	for _, t := range l.tasks {
		t.asked = t.Info != nil && !t.Done()
	}
	l.askAt, l.askPause = time.Time{}, askFirst
}

func (l *Launcher) askNow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.askAt = time.Time{}
}

// reconcile asks for the state of tasks, when it is time, until each was answered.
func (l *Launcher) reconcile(ctx context.Context) {
	l.mu.Lock()
	var ask []*scheduler.Call_Reconcile_Task
	if now := time.Now(); !now.Before(l.askAt) {
		for _, id := range l.order {
			if t := l.tasks[id]; t.asked {
				ask = append(ask, &scheduler.Call_Reconcile_Task{TaskId: t.Info.GetTaskId(), AgentId: t.Info.GetAgentId()})
			}
		}
		l.askAt, l.askPause = now.Add(l.askPause), min(2*l.askPause, askMost)
	}
	l.mu.Unlock()
	if len(ask) == 0 {
		return
	}
	if err := l.client.Reconcile(ctx, ask...); err != nil {
		// The stream has ended if this failed; the next one asks again.
		l.client.cfg.Log.Info("reconciliation failed", "error", err)
	}
}

// use launches what fits into an offer, or declines it.
func (l *Launcher) use(ctx context.Context, o *mesosv1.Offer) {
	l.mu.Lock()
	left := newPool(o)
	var chosen []*launched
	waiting := false
	for _, id := range l.order {
		t := l.tasks[id]
		if t.Info != nil || t.Done() {
			continue
		}
		info, ports, ok := left.place(t.Task, o)
		if !ok {
			waiting = true
			continue
		}
		t.Info, t.Ports, t.Hostname, t.unsure = info, ports, o.GetHostname(), false
		chosen = append(chosen, t)
	}
	quiet := len(chosen) == 0 && !waiting
	l.quiet = l.quiet || quiet
	infos := make([]*mesosv1.TaskInfo, 0, len(chosen))
	for _, t := range chosen {
		infos = append(infos, t.Info)
	}
	l.mu.Unlock()
	ids := []*mesosv1.OfferID{o.GetId()}
	if len(chosen) == 0 {
		l.decline(ctx, ids, quiet)
		if quiet && l.pending() {
			// A task came while the offer was being declined for long: its own request
			// for offers may have overtaken the decline.
			l.revive(ctx)
		}
		return
	}
	err := l.client.Accept(ctx, ids, []*mesosv1.Offer_Operation{Launch(infos...)}, refuseWhileWaiting)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range chosen {
		l.sent(t, err)
	}
	l.wake()
}

// pending reports whether a task waits for an offer.
func (l *Launcher) pending() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.tasks {
		if t.Info == nil && !t.Done() {
			return true
		}
	}
	return false
}

func (l *Launcher) revive(ctx context.Context) {
	if err := l.client.Revive(ctx); err != nil {
		l.client.cfg.Log.Info("asking for offers failed", "error", err)
	}
}

// sent notes the outcome of an ACCEPT; the caller holds the lock.
func (l *Launcher) sent(t *launched, err error) {
	var refused *StatusError
	switch {
	case err == nil:
		l.tell(t.Launched)
	case errors.Is(err, ErrNotSubscribed), errors.As(err, &refused) && refused.nothingDone():
		t.Info = nil // certainly not launched: it waits for another offer
	default:
		t.unsure = true // the next stream's reconciliation will tell
	}
	if err != nil {
		l.client.cfg.Log.Info("launch failed", "task", t.Task.ID, "error", err)
	}
}

func (l *Launcher) decline(ctx context.Context, ids []*mesosv1.OfferID, quiet bool) {
	seconds := float64(refuseWhileWaiting)
	if quiet {
		seconds = refuseWhileQuiet
	}
	if err := l.client.Decline(ctx, ids, seconds); err != nil {
		l.client.cfg.Log.Info("decline failed", "error", err)
	}
}

// update notes a status. A task that a launch of unknown outcome did not reach, or whose
// offer had gone, waits for another offer; every other end is final. revive: offers are
// wanted again.
func (l *Launcher) update(s *mesosv1.TaskStatus) (revive bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tasks[s.GetTaskId().GetValue()]
	// What was lost with its agent may come back with it; any other end is one.
	if t == nil || t.Done() && t.Status.GetState() != mesosv1.TaskState_TASK_LOST {
		return false
	}
	t.asked = false
	reason := s.GetReason()
	neverRan := t.Status == nil && Terminal(s.GetState()) &&
		(reason == mesosv1.TaskStatus_REASON_INVALID_OFFERS || t.unsure && reason == mesosv1.TaskStatus_REASON_RECONCILIATION)
	if neverRan {
		t.Info, t.unsure = nil, false
		revive, l.quiet = l.quiet, false
		return revive
	}
	t.unsure = false
	t.Status = s
	l.tell(t.Launched)
	l.wake()
	return false
}
