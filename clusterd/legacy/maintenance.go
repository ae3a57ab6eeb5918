package legacy

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/maintenance"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/operator"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/acl"
)

// schedule shows who will be away when; operators replace that by POST.
func (h *handler) schedule(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		h.with(operator.Want{}, func(w http.ResponseWriter, r *http.Request, _ *operator.Picture) {
			h.send(w, r, json.RawMessage(mesosjson.Marshal(operator.Schedule(h.Machine, auth.JudgeOf(r.Context())))))
		}).ServeHTTP(w, r)
	case http.MethodPost:
		body, l, ok := h.change(w, r)
		if !ok {
			return
		}
		asked := &maintenance.Schedule{}
		err := mesosjson.Unmarshal(body, asked)
		var windows []state.Window
		if err == nil {
			windows, err = operator.Windows(asked)
		}
		if err != nil {
			httpio.Error(w, http.StatusBadRequest, "Failed to parse the schedule: "+err.Error())
			return
		}
		if why := auth.Forbidden(r.Context(), acl.UpdateMaintenanceSchedule, ""); why != "" {
			h.refuse(w, r, string(mesosjson.Marshal(asked)), why)
			return
		}
		h.changed(w, r, string(mesosjson.Marshal(asked)), l.UpdateSchedule(r.Context(), windows))
	default:
		httpio.NotAllowed(w, r, http.MethodGet, http.MethodPost)
	}
}

// machines takes machines down or lets them come up again: the body is a JSON list of them.
func (h *handler) machines(action acl.Action, carryOut func(*leader.Leader, context.Context, []state.MachineID) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			httpio.NotAllowed(w, r, http.MethodPost)
			return
		}
		body, l, ok := h.change(w, r)
		if !ok {
			return
		}
		list, err := machineList(body)
		if err != nil {
			httpio.Error(w, http.StatusBadRequest, "Failed to parse the list of machines: "+err.Error())
			return
		}
		if why := auth.Forbidden(r.Context(), action, ""); why != "" {
			h.refuse(w, r, string(body), why)
			return
		}
		h.changed(w, r, string(body), carryOut(l, r.Context(), list))
	})
}

func machineList(body []byte) ([]state.MachineID, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, fmt.Errorf("a list of machines in JSON is wanted: %w", err)
	}
	if len(raw) == 0 {
		return nil, fmt.Errorf("the list is empty")
	}
	var out []*mesosv1.MachineID
	for i, one := range raw {
		id := &mesosv1.MachineID{}
		if err := mesosjson.Unmarshal(one, id); err != nil {
			return nil, fmt.Errorf("machine %d: %w", i+1, err)
		}
		out = append(out, id)
	}
	return operator.Machines(out)
}
