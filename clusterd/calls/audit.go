package calls

import (
	"context"
	"errors"
	"slices"
	"strings"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/leader"
)

// refusals has what a call is refused written down.
func refusals(ctx context.Context, call *scheduler.Call) context.Context {
	return leader.WithRefused(ctx, func(object, why string) {
		auth.Refused(ctx, call.GetType().String(), "framework "+call.GetFrameworkId().GetValue()+": "+object, why)
	})
}

// changed writes a call down that changes what runs or who is subscribed. What frameworks
// say all the time of offers and updates, and change nothing by but their own share, is not.
func changed(ctx context.Context, call *scheduler.Call, err error) {
	if errors.Is(err, leader.ErrForbidden) {
		return // it is among the refusals
	}
	id := call.GetFrameworkId().GetValue()
	object := "framework " + id
	switch call.GetType() {
	case scheduler.Call_SUBSCRIBE:
		info := call.GetSubscribe().GetFrameworkInfo()
		if id == "" {
			id = info.GetId().GetValue()
		}
		object = "framework " + id + " " + info.GetName()
	case scheduler.Call_ACCEPT:
		if len(call.GetAccept().GetOperations()) == 0 {
			return
		}
		object += ": " + operations(call.GetAccept().GetOperations())
	case scheduler.Call_KILL:
		object += ": task " + call.GetKill().GetTaskId().GetValue()
	case scheduler.Call_SHUTDOWN:
		object += ": executor " + call.GetShutdown().GetExecutorId().GetValue()
	case scheduler.Call_TEARDOWN, scheduler.Call_UPDATE_FRAMEWORK:
	default:
		return
	}
	auth.Changed(ctx, call.GetType().String(), object, auth.Outcome(err))
}

// namedTasks is how many tasks one line names.
const namedTasks = 10

// operations names what an ACCEPT wants; nothing of what tasks are told, which may be secret.
func operations(list []*mesosv1.Offer_Operation) string {
	var parts []string
	tasks := 0
	for _, op := range list {
		parts = append(parts, op.GetType().String())
		for _, t := range slices.Concat(op.GetLaunch().GetTaskInfos(), op.GetLaunchGroup().GetTaskGroup().GetTasks()) {
			if tasks++; tasks <= namedTasks {
				parts = append(parts, t.GetTaskId().GetValue())
			}
		}
		if len(parts) > 10*namedTasks {
			parts = append(parts, "…")
			break
		}
	}
	if tasks > namedTasks {
		parts = append(parts, "…")
	}
	return strings.Join(parts, " ")
}
