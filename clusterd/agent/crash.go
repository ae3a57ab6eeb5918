package agent

import (
	"github.com/mesolith/mesolith/clusterd/agent/journal"
	"github.com/mesolith/mesolith/clusterd/task"
	"github.com/mesolith/mesolith/internal/fault"
)

// journalled names the point after a record was written down.
func journalled(r *journal.Record) fault.Point {
	switch r.GetBody().(type) {
	case *journal.Record_Launched:
		return fault.AgentLaunch
	case *journal.Record_KillAsked:
		return fault.AgentKill
	case *journal.Record_Updated:
		return fault.AgentUpdate
	case *journal.Record_Acknowledged:
		return fault.AgentSettled
	}
	return ""
}

// done names the point after an action.
func done(act task.Action) fault.Point {
	switch act.(type) {
	case task.Launch:
		return fault.AgentAsked
	case task.Send:
		return fault.AgentSent
	}
	return ""
}
