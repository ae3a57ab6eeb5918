package legacy

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/operator"
	"github.com/mesolith/mesolith/clusterd/state"
)

type weightObject struct {
	Role   string `json:"role"`
	Weight number `json:"weight"`
}

// weights lists the weights that were set, and takes a list of new ones from operators.
func (h *handler) weights(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPut:
		h.setWeights(w, r)
		return
	case http.MethodGet, http.MethodHead:
	default:
		httpio.NotAllowed(w, r, http.MethodGet, http.MethodPut)
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
	if why := operator.ForbiddenWeights(r.Context(), changed); why != "" {
		h.refuse(w, r, operator.Weighed(changed), why)
		return
	}
	h.changed(w, r, operator.Weighed(changed), l.UpdateWeights(r.Context(), changed))
}
