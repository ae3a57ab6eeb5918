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
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// Changes are a master's endpoints that only change something, by path. They answer on the
// leader, and tell operators from others themselves: what is refused is in the log, too.
func Changes(cfg Config) map[string]http.Handler {
	h := &handler{cfg}
	return map[string]http.Handler{
		"/teardown": http.HandlerFunc(h.teardown),
		"/reserve":  h.convert("resources", operator.Reserve), "/unreserve": h.convert("resources", operator.Unreserve),
		"/machine/down": h.machines((*leader.Leader).StartMaintenance), "/machine/up": h.machines((*leader.Leader).StopMaintenance),
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
		h.audit(r, "", "refused")
		httpio.Error(w, http.StatusForbidden, r.Method+" "+r.URL.Path+" needs the role 'operator', and "+from.String()+" does not have it")
		return nil, nil, false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		httpio.Error(w, http.StatusBadRequest, "Failed to read the request: "+err.Error())
		return nil, nil, false
	}
	return body, l, true
}

// changed answers a change, and writes down who made it.
func (h *handler) changed(w http.ResponseWriter, r *http.Request, object string, err error) {
	outcome := "done"
	if err != nil {
		outcome = err.Error()
	}
	h.audit(r, object, outcome)
	status, text, refused := operator.Refused(err)
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

func (h *handler) audit(r *http.Request, object, outcome string) {
	operator.Audit(h.Log, auth.PrincipalOf(r.Context()), r.Method+" "+r.URL.Path, object, outcome)
}

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
	err = l.Teardown(r.Context(), state.FrameworkID(id))
	if errors.Is(err, leader.ErrFrameworkUnknown) {
		h.audit(r, id, err.Error())
		httpio.Error(w, http.StatusBadRequest, "No framework found with specified ID")
		return
	}
	h.changed(w, r, id, err)
}
