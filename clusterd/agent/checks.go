package agent

import (
	"container/heap"
	"context"
	"errors"
	"time"

	"github.com/mesolith/mesolith/clusterd/task"
)

// maxProbing is how many probes of this node are under way at once; others wait for their
// turn, and the longest waiting one is the next.
const maxProbing = 64

// checks are those of all tasks here. Run's goroutine owns it; a probe has a goroutine of
// its own, which does nothing but ask and answer.
type checks struct {
	probe   func(ctx context.Context, container string, c task.Check) (task.Found, error)
	start   func(func(context.Context)) // a goroutine that Run waits for
	results chan probeResult            // bound maxProbing: as many as can be under way
	timer   *time.Timer                 // of the earliest that is due

	tasks   map[string]*checkedTask // by container
	due     dueChecks
	probing int
}

// checkedTask is a task while it may be checked. One that is begun anew is another.
type checkedTask struct {
	container string
	begun     time.Time
	probing   bool
	waiting   []*dueCheck // until the other check's probe is over
}

type dueCheck struct {
	of    *checkedTask
	check task.Check
	at    time.Time
}

type probeResult struct {
	of    *dueCheck
	found task.Found
	err   error // nobody could look
}

// dueChecks is a heap, the earliest first.
type dueChecks []*dueCheck

func (d dueChecks) Len() int           { return len(d) }
func (d dueChecks) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d dueChecks) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *dueChecks) Push(x any)        { *d = append(*d, x.(*dueCheck)) }
func (d *dueChecks) Pop() any {
	old := *d
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*d = old[:len(old)-1]
	return last
}

func newChecks() checks {
	c := checks{results: make(chan probeResult, maxProbing), timer: time.NewTimer(0), tasks: map[string]*checkedTask{}}
	c.timer.Stop()
	return c
}

// noteChecks begins or ends a task's checks, as the task is now. Their times are counted
// from here: a program that was started anew begins with delay and grace period again.
func (a *Agent) noteChecks(t *task.Task) {
	if !t.MayBeChecked() {
		delete(a.checks.tasks, t.ContainerID)
		a.checks.purge()
		return
	}
	if a.checks.tasks[t.ContainerID] != nil {
		return
	}
	list := task.ChecksOf(t.Info)
	if len(list) == 0 {
		return
	}
	now := time.Now()
	w := &checkedTask{container: t.ContainerID, begun: now}
	a.checks.tasks[t.ContainerID] = w
	for _, c := range list {
		heap.Push(&a.checks.due, &dueCheck{of: w, check: c, at: now.Add(c.Delay)})
	}
	a.setCheckTimer(now)
}

// purge drops what is due for tasks that are gone, before it is more than what is of use.
func (c *checks) purge() {
	if len(c.due) <= 4*len(c.tasks)+64 {
		return
	}
	kept := c.due[:0]
	for _, d := range c.due {
		if c.tasks[d.of.container] == d.of {
			kept = append(kept, d)
		}
	}
	clear(c.due[len(kept):])
	c.due = kept
	heap.Init(&c.due)
}

func (a *Agent) setCheckTimer(now time.Time) {
	if len(a.checks.due) > 0 && a.checks.probing < maxProbing {
		a.checks.timer.Reset(max(a.checks.due[0].at.Sub(now), 0))
	}
}

// onChecksDue starts the probes that are due, as far as there is room; without a keeper
// nobody can look, and nothing counts as a failure.
func (a *Agent) onChecksDue(now time.Time) {
	if a.keeper == nil {
		a.checks.timer.Reset(task.LeastInterval)
		return
	}
	for a.checks.probing < maxProbing && len(a.checks.due) > 0 && !a.checks.due[0].at.After(now) {
		d := heap.Pop(&a.checks.due).(*dueCheck)
		switch {
		case a.tasks[d.of.container] == nil:
			delete(a.checks.tasks, d.of.container)
		case a.checks.tasks[d.of.container] != d.of || a.retiring != "":
			// Of a task that is being ended.
		case d.of.probing:
			d.of.waiting = append(d.of.waiting, d)
		default:
			a.startProbe(d)
		}
	}
	a.setCheckTimer(now)
}

func (a *Agent) startProbe(d *dueCheck) {
	d.of.probing = true
	a.checks.probing++
	container, probe, results := d.of.container, a.checks.probe, a.checks.results
	a.checks.start(func(ctx context.Context) {
		found, err := probe(ctx, container, d.check)
		results <- probeResult{of: d, found: found, err: err}
	})
}

// onProbed takes what a probe found. What nobody could find out is looked for again after
// the interval, and is no result.
func (a *Agent) onProbed(r probeResult) error {
	a.checks.probing--
	d, now := r.of, time.Now()
	d.of.probing = false
	for _, w := range d.of.waiting {
		heap.Push(&a.checks.due, w) // its time has come before
	}
	d.of.waiting = nil
	t := a.tasks[d.of.container]
	if t == nil || a.checks.tasks[d.of.container] != d.of {
		a.setCheckTimer(now)
		return nil
	}
	d.at = now.Add(d.check.Interval)
	heap.Push(&a.checks.due, d)
	defer a.setCheckTimer(now)
	if r.err != nil {
		if !errors.Is(r.err, context.Canceled) {
			a.log.Warn("a task could not be checked; it is tried again", "container", d.of.container, "check", d.check.Type.String(), "why", r.err.Error())
		}
		return nil
	}
	return a.happen(t, task.Probed{Stamp: stamp(), Kind: d.check.Kind, Found: r.found, Running: now.Sub(d.of.begun)})
}
