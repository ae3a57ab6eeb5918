package task

import (
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// Drain says whether a task is ended because its agent is drained. Values are in the
// agent's journal.
type Drain uint8

const (
	NoDrain  Drain = 0
	Draining Drain = 1
	// DrainingGone: the agent will be gone when it is drained.
	DrainingGone Drain = 2
)

// graceOf is how long a task may take to end. A drain leaves it what its kill policy says,
// at most the drain's own.
func graceOf(info *mesosv1.TaskInfo, e Kill) time.Duration {
	switch {
	case e.Grace < 0:
		return policyGrace(info)
	case e.Drain != NoDrain:
		return min(e.Grace, policyGrace(info))
	}
	return e.Grace
}

// drained is what is said of a task that a drain ended: that, and where its agent will be
// gone that it is, to a framework that knows the state.
func drained(t Task, s mesosv1.TaskState, r *mesosv1.TaskStatus_Reason) (mesosv1.TaskState, *mesosv1.TaskStatus_Reason) {
	if t.Drain == NoDrain || s != mesosv1.TaskState_TASK_KILLED {
		return s, r
	}
	if t.Drain == DrainingGone && partitionAware(t.Framework) {
		s = mesosv1.TaskState_TASK_GONE_BY_OPERATOR
	}
	return s, mesosv1.TaskStatus_REASON_AGENT_DRAINING.Enum()
}
