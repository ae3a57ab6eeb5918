package legacy

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/operator"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

type weightObject struct {
	Role   string `json:"role"`
	Weight number `json:"weight"`
}

// weights lists the weights that were set, and takes a list of new ones from operators.
func (h *handler) weights(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		h.setWeights(w, r)
		return
	}
	h.with(operator.Want{}, func(w http.ResponseWriter, r *http.Request, p *operator.Picture) {
		out := []weightObject{}
		for _, x := range p.Weights {
			out = append(out, weightObject{x.Role, number(x.Weight)})
		}
		h.send(w, r, out)
	}).ServeHTTP(w, r)
}

func (h *handler) setWeights(w http.ResponseWriter, r *http.Request) {
	var list []weightObject
	body, l, ok := h.change(w, r)
	if !ok {
		return
	}
	if err := json.Unmarshal(body, &list); err != nil {
		httpio.Error(w, http.StatusBadRequest, "Failed to parse update weights request JSON: "+err.Error())
		return
	}
	var changed []state.Weight
	for _, x := range list {
		changed = append(changed, state.Weight{Role: strings.TrimSpace(x.Role), Weight: float64(x.Weight)})
	}
	h.changed(w, r, operator.Weighed(changed), l.UpdateWeights(r.Context(), changed))
}

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
	h.Log.Info("audit", "principal", auth.PrincipalOf(r.Context()).String(), "call", r.Method+" "+r.URL.Path, "object", object, "outcome", outcome)
}
