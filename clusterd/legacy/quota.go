package legacy

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/api/mesos/v1/quota"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/operator"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/acl"
)

// quota lists quotas; operators set one by POST and remove one by DELETE /quota/ROLE.
func (h *handler) quota(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
		h.setQuota(w, r)
	case http.MethodDelete:
		h.removeQuota(w, r)
	case http.MethodGet, http.MethodHead:
		h.with(operator.Want{}, func(w http.ResponseWriter, r *http.Request, p *operator.Picture) {
			h.send(w, r, struct {
				Infos []json.RawMessage `json:"infos"`
			}{rawList(operator.QuotaInfos(p.Quotas))})
		}).ServeHTTP(w, r)
	default:
		httpio.NotAllowed(w, r, http.MethodGet, http.MethodPost, http.MethodDelete)
	}
}

func (h *handler) setQuota(w http.ResponseWriter, r *http.Request) {
	body, l, ok := h.change(w, r)
	if !ok {
		return
	}
	request := &quota.QuotaRequest{}
	err := mesosjson.Unmarshal(body, request)
	var change leader.QuotaChange
	if err == nil {
		change, err = operator.QuotaRequest(request)
	}
	if err != nil {
		httpio.Error(w, http.StatusBadRequest, "Failed to parse set quota request JSON: "+err.Error())
		return
	}
	if why := auth.Forbidden(r.Context(), acl.UpdateQuotaOld, "role", request.GetRole()); why != "" {
		h.refuse(w, r, string(mesosjson.Marshal(request)), why)
		return
	}
	h.changed(w, r, string(mesosjson.Marshal(request)), l.UpdateQuota(r.Context(), change))
}

func (h *handler) removeQuota(w http.ResponseWriter, r *http.Request) {
	_, role, _ := strings.Cut(strings.TrimSuffix(r.URL.Path, "/"), "/quota/")
	_, l, ok := h.change(w, r)
	if !ok {
		return
	}
	if why := auth.Forbidden(r.Context(), acl.UpdateQuotaOld, "role", role); why != "" {
		h.refuse(w, r, role, why)
		return
	}
	h.changed(w, r, role, l.UpdateQuota(r.Context(), leader.QuotaChange{Quotas: []state.RoleQuota{{Role: role}}, Known: true}))
}
