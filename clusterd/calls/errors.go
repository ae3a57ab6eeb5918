package calls

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
)

// explanation is what an answer's sentence may need to name.
type explanation struct {
	call      *scheduler.Call
	principal auth.Principal
	streamID  string
}

// statuses is the one map from the leader's errors to what the caller hears. The
// sentences are those that clients of Mesos know.
var statuses = []struct {
	err    error
	status int
	text   func(e explanation) string
}{
	{leader.ErrFrameworkUnknown, http.StatusBadRequest, func(explanation) string { return "Framework cannot be found" }},
	{leader.ErrPrincipalMismatch, http.StatusBadRequest, func(e explanation) string {
		return "Authenticated principal '" + e.principal.Name + "' does not match principal that subscribed the framework"
	}},
	{leader.ErrNotSubscribed, http.StatusForbidden, func(explanation) string { return "Framework is not subscribed" }},
	{leader.ErrStreamIDMissing, http.StatusBadRequest, func(explanation) string {
		return "All non-subscribe calls should include the 'Mesos-Stream-Id' header"
	}},
	{leader.ErrStreamIDWrong, http.StatusBadRequest, func(e explanation) string {
		return "The stream ID '" + e.streamID + "' included in this request didn't match the stream ID currently associated with framework ID '" +
			e.call.GetFrameworkId().GetValue() + "'"
	}},
	{leader.ErrFrameworkGone, http.StatusConflict, func(explanation) string { return "Framework was removed while the call was processed" }},
	{leader.ErrNotLeader, http.StatusServiceUnavailable, func(explanation) string { return noLeader }},
	{leader.ErrUnknownOutcome, http.StatusServiceUnavailable, func(explanation) string {
		return "Leadership changed while the call was being committed; whether it took effect is not known"
	}},
	{context.DeadlineExceeded, http.StatusServiceUnavailable, func(explanation) string {
		return "The call was not committed in time; whether it will take effect is not known"
	}},
}

// fail answers a call that the leader did not accept. What is not in the table is our
// mistake: 500, and the log says it.
func fail(w http.ResponseWriter, r *http.Request, log *slog.Logger, err error, e explanation) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		return // the caller left
	}
	if errors.Is(err, leader.ErrInvalid) {
		httpio.Error(w, http.StatusBadRequest, err.Error())
		return
	}
	if errors.Is(err, leader.ErrForbidden) {
		auth.Refused(r.Context(), e.call.GetType().String(), "framework "+e.call.GetFrameworkId().GetValue(), err.Error())
		httpio.Error(w, http.StatusForbidden, err.Error())
		return
	}
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			httpio.Error(w, s.status, s.text(e))
			return
		}
	}
	log.Error("call failed", "call", e.call.GetType().String(), "framework", e.call.GetFrameworkId().GetValue(), "error", err)
	httpio.Error(w, http.StatusInternalServerError, "Failed to process the call: "+err.Error())
}
