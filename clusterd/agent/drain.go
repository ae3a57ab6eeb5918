package agent

import (
	"time"

	"github.com/mesolith/mesolith/clusterd/task"
	wire "github.com/mesolith/mesolith/internal/wire/agent"
)

// onDrain ends everything that is here. Nothing new comes: the log refuses launches on an
// agent that is drained.
func (a *Agent) onDrain(d *wire.Drain) error {
	if !d.GetOn() {
		a.drain = nil
		return nil
	}
	if a.drain == nil {
		a.log.Warn("the agent is drained: all its tasks are ended", "agent", a.id, "tasks", len(a.order), "mark_gone", d.GetMarkGone())
	}
	a.drain = d
	why := task.Draining
	if d.GetMarkGone() {
		why = task.DrainingGone
	}
	for _, id := range append([]string(nil), a.order...) {
		t := a.tasks[id]
		if t == nil || t.Terminal() || t.Executes() {
			continue // executors follow their tasks
		}
		if err := a.happen(t, task.Kill{Stamp: stamp(), Grace: time.Duration(d.GetMaxGraceNs()), Drain: why}); err != nil {
			return err
		}
	}
	return nil
}
