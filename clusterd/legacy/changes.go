package legacy

import (
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/operator"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/acl"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// Changes are a master's endpoints that only change something, by path. They answer on the
// leader, and tell operators from others themselves: what is refused is in the log, too.
func Changes(cfg Config) map[string]http.Handler {
	h := &handler{cfg}
	return map[string]http.Handler{
		"/teardown": http.HandlerFunc(h.teardown),
		"/reserve":  h.convert("resources", operator.Reserve), "/unreserve": h.convert("resources", operator.Unreserve),
		"/machine/down": h.machines(acl.StartMaintenance, (*leader.Leader).StartMaintenance), "/machine/up": h.machines(acl.StopMaintenance, (*leader.Leader).StopMaintenance),
		"/create-volumes": h.convert("volumes", operator.CreateVolumes), "/destroy-volumes": h.convert("volumes", operator.DestroyVolumes),
	}
}

// maxForm bounds what a request that changes something may hold, in bytes.
const maxForm = 1 << 20

// change lets operators change something with the body of a request, which it reads.
func (h *handler) change(w http.ResponseWriter, r *http.Request) (body []byte, l *leader.Leader, ok bool) {
	from := auth.PrincipalOf(r.Context())
	if l = h.Leader(); l == nil {
		httpio.Error(w, http.StatusServiceUnavailable, "No leader elected")
		return nil, nil, false
	}
	if !from.May(nodedoc.RoleOperator) {
		h.refuse(w, r, "", r.Method+" "+r.URL.Path+" needs the role 'operator', and "+from.String()+" does not have it")
		return nil, nil, false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		httpio.Error(w, http.StatusBadRequest, "Failed to read the request: "+err.Error())
		return nil, nil, false
	}
	return body, l, true
}

// refuse answers a change that its caller may not make, and writes that down.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, object, why string) {
	auth.Refused(r.Context(), callOf(r), object, why)
	httpio.Error(w, http.StatusForbidden, why)
}

// changed answers a change, and writes down who made it.
func (h *handler) changed(w http.ResponseWriter, r *http.Request, object string, err error) {
	status, text, refused := operator.Refused(err)
	if status == http.StatusForbidden {
		h.refuse(w, r, object, text)
		return
	}
	auth.Changed(r.Context(), callOf(r), object, auth.Outcome(err))
	switch {
	case refused:
		httpio.Error(w, status, "Failed to validate the request: "+text)
	case err != nil && r.Context().Err() != nil: // the caller left
	case err != nil:
		httpio.Error(w, http.StatusServiceUnavailable, "Failed to change it: "+err.Error())
	default:
		httpio.Empty(w, http.StatusOK)
	}
}

func callOf(r *http.Request) string { return r.Method + " " + r.URL.Path }

// teardown removes the framework that the form names.
func (h *handler) teardown(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		httpio.NotAllowed(w, r, http.MethodPost)
		return
	}
	body, l, ok := h.change(w, r)
	if !ok {
		return
	}
	form, err := url.ParseQuery(string(body))
	id := form.Get("frameworkId")
	if err != nil || id == "" {
		httpio.Error(w, http.StatusBadRequest, "Missing 'frameworkId' query parameter in the request body")
		return
	}
	if why := operator.ForbiddenTeardown(r.Context(), h.Machine, state.FrameworkID(id)); why != "" {
		h.refuse(w, r, id, why)
		return
	}
	err = l.Teardown(r.Context(), state.FrameworkID(id))
	if errors.Is(err, leader.ErrFrameworkUnknown) {
		auth.Changed(r.Context(), callOf(r), id, err.Error())
		httpio.Error(w, http.StatusBadRequest, "No framework found with specified ID")
		return
	}
	h.changed(w, r, id, err)
}
