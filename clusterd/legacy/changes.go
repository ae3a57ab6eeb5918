package legacy

import (
	"errors"
	"log/slog"
	"net/http"

	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/state"
)

// ChangesConfig is what the endpoints need that change something.
type ChangesConfig struct {
	// Leader returns this node's term in office, nil while it does not lead.
	Leader func() *leader.Leader
	Log    *slog.Logger
}

// Changes are a master's endpoints that change something, by path, for operators. They
// answer on the leader and take POST alone.
func Changes(cfg ChangesConfig) map[string]http.Handler {
	return map[string]http.Handler{"/teardown": cfg.posted(cfg.teardown)}
}

// maxForm bounds what a form may hold, in bytes.
const maxForm = 1 << 20

func (cfg ChangesConfig) posted(change func(http.ResponseWriter, *http.Request, *leader.Leader)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l := cfg.Leader()
		switch {
		case l == nil:
			httpio.Error(w, http.StatusServiceUnavailable, "No leader elected")
			return
		case r.Method != http.MethodPost:
			w.Header().Set("Allow", http.MethodPost)
			httpio.Error(w, http.StatusMethodNotAllowed, "Expecting one of { 'POST' }, but received '"+r.Method+"'")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if err := r.ParseForm(); err != nil {
			httpio.Error(w, http.StatusBadRequest, "Unable to decode query string: "+err.Error())
			return
		}
		change(w, r, l)
	})
}

// teardown removes the framework that the form names.
func (cfg ChangesConfig) teardown(w http.ResponseWriter, r *http.Request, l *leader.Leader) {
	id := r.PostForm.Get("frameworkId")
	if id == "" {
		httpio.Error(w, http.StatusBadRequest, "Missing 'frameworkId' query parameter in the request body")
		return
	}
	err := l.Teardown(r.Context(), state.FrameworkID(id))
	outcome := "done"
	if err != nil {
		outcome = err.Error()
	}
	cfg.Log.Info("audit", "principal", auth.PrincipalOf(r.Context()).String(), "call", "/teardown", "object", id, "outcome", outcome)
	switch {
	case errors.Is(err, leader.ErrFrameworkUnknown):
		httpio.Error(w, http.StatusBadRequest, "No framework found with specified ID")
	case err != nil && r.Context().Err() != nil: // the caller left
	case err != nil:
		httpio.Error(w, http.StatusServiceUnavailable, "Failed to tear the framework down: "+err.Error())
	default:
		httpio.Empty(w, http.StatusOK)
	}
}
