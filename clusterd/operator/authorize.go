package operator

import (
	"context"
	"net/http"

	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/acl"
)

// forbidden says why the ACLs do not allow a call of the master, "" if they do. What a call
// shows is filtered instead (visible.go), files and conversions of resources are judged where
// their owners are known.
func (h *handler) forbidden(c *call) string {
	ctx := c.Context()
	switch c.GetType() {
	case master.Call_GET_FLAGS:
		return auth.Forbidden(ctx, acl.ViewFlags, "")
	case master.Call_GET_METRICS:
		return auth.Forbidden(ctx, acl.GetEndpoint, "path", "/metrics/snapshot")
	case master.Call_GET_LOGGING_LEVEL:
		return auth.Forbidden(ctx, acl.GetEndpoint, "path", "/logging/toggle")
	case master.Call_SET_LOGGING_LEVEL:
		return auth.Forbidden(ctx, acl.SetLogLevel, "")
	case master.Call_UPDATE_WEIGHTS:
		return ForbiddenWeights(ctx, weightsOf(c.Call.GetUpdateWeights().GetWeightInfos()))
	case master.Call_UPDATE_QUOTA:
		var names []string
		for _, q := range c.Call.GetUpdateQuota().GetQuotaConfigs() {
			names = append(names, q.GetRole())
		}
		if len(names) == 0 {
			return "" // and 400 from whom it concerns
		}
		return auth.Forbidden(ctx, acl.UpdateQuota, "role", names...)
	case master.Call_SET_QUOTA:
		return auth.Forbidden(ctx, acl.UpdateQuotaOld, "role", c.Call.GetSetQuota().GetQuotaRequest().GetRole())
	case master.Call_REMOVE_QUOTA:
		return auth.Forbidden(ctx, acl.UpdateQuotaOld, "role", c.Call.GetRemoveQuota().GetRole())
	case master.Call_TEARDOWN:
		return ForbiddenTeardown(ctx, h.Machine, state.FrameworkID(c.Call.GetTeardown().GetFrameworkId().GetValue()))
	}
	if action, ok := wholeActions[c.GetType()]; ok {
		return auth.Forbidden(ctx, action, "")
	}
	return ""
}

// wholeActions are calls that are allowed or not, whatever they name.
var wholeActions = map[master.Call_Type]acl.Action{
	master.Call_MARK_AGENT_GONE:             acl.MarkAgentGone,
	master.Call_DRAIN_AGENT:                 acl.DrainAgent,
	master.Call_DEACTIVATE_AGENT:            acl.DeactivateAgent,
	master.Call_REACTIVATE_AGENT:            acl.ReactivateAgent,
	master.Call_UPDATE_MAINTENANCE_SCHEDULE: acl.UpdateMaintenanceSchedule,
	master.Call_START_MAINTENANCE:           acl.StartMaintenance,
	master.Call_STOP_MAINTENANCE:            acl.StopMaintenance,
}

// ForbiddenWeights says why the caller of a context may not set weights.
func ForbiddenWeights(ctx context.Context, list []state.Weight) string {
	for _, w := range list {
		if why := auth.Forbidden(ctx, acl.UpdateWeight, "role", w.Role); why != "" {
			return why
		}
	}
	return ""
}

// ForbiddenTeardown says why the caller of a context may not tear a framework down: whose it
// is decides. One that is not there is not protected.
func ForbiddenTeardown(ctx context.Context, m *state.Machine, id state.FrameworkID) (why string) {
	owner, known := "", false
	m.View(func(s *state.State) {
		if f, ok := s.Framework(id); ok {
			owner, known = f.Principal, true
		}
	})
	if !known {
		return ""
	}
	return auth.Forbidden(ctx, acl.TeardownFramework, "frameworks of principal", owner)
}

// refuse is the answer to a call that is not allowed; it is written down.
func refuse(ctx context.Context, call, object, why string) error {
	auth.Refused(ctx, call, object, why)
	return refusal{http.StatusForbidden, why}
}
