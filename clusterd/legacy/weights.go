package legacy

import (
	"encoding/json"
	"errors"
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
	l, from := h.Leader(), auth.PrincipalOf(r.Context())
	if l == nil {
		httpio.Error(w, http.StatusServiceUnavailable, "No leader elected")
		return
	}
	var list []weightObject
	audit := func(outcome string) {
		var changed []state.Weight
		for _, x := range list {
			changed = append(changed, state.Weight{Role: x.Role, Weight: float64(x.Weight)})
		}
		h.Log.Info("audit", "principal", from.String(), "call", "PUT /weights", "object", operator.Weighed(changed), "outcome", outcome)
	}
	if !from.May(nodedoc.RoleOperator) {
		audit("refused")
		httpio.Error(w, http.StatusForbidden, "PUT /weights needs the role 'operator', and "+from.String()+" does not have it")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err == nil {
		err = json.Unmarshal(body, &list)
	}
	if err != nil {
		httpio.Error(w, http.StatusBadRequest, "Failed to parse update weights request JSON: "+err.Error())
		return
	}
	var changed []state.Weight
	for _, x := range list {
		changed = append(changed, state.Weight{Role: strings.TrimSpace(x.Role), Weight: float64(x.Weight)})
	}
	err = l.UpdateWeights(r.Context(), changed)
	if err != nil {
		audit(err.Error())
	} else {
		audit("done")
	}
	switch {
	case errors.Is(err, leader.ErrInvalid):
		httpio.Error(w, http.StatusBadRequest, "Failed to validate update weights request JSON: "+strings.TrimSuffix(err.Error(), ": "+leader.ErrInvalid.Error()))
	case err != nil && r.Context().Err() != nil: // the caller left
	case err != nil:
		httpio.Error(w, http.StatusServiceUnavailable, "Failed to change the weights: "+err.Error())
	default:
		httpio.Empty(w, http.StatusOK)
	}
}
