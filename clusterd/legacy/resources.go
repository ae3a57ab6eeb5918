package legacy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/operator"
	"github.com/mesolith/mesolith/clusterd/state"
)

// convert makes an agent's resources something else: the form names the agent as slaveId,
// and the resources as a JSON list.
func (h *handler) convert(field string, word func([]*mesosv1.Resource) *mesosv1.Offer_Operation) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			httpio.NotAllowed(w, r, http.MethodPost)
			return
		}
		body, l, ok := h.change(w, r)
		if !ok {
			return
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			httpio.Error(w, http.StatusBadRequest, "Unable to decode query string: "+err.Error())
			return
		}
		for _, name := range []string{"slaveId", field} {
			if form.Get(name) == "" {
				httpio.Error(w, http.StatusBadRequest, "Missing '"+name+"' query parameter in the request body")
				return
			}
		}
		list, err := resourceList(form.Get(field))
		if err != nil {
			httpio.Error(w, http.StatusBadRequest, "Error in parsing '"+field+"' query parameter in the request body: "+err.Error())
			return
		}
		id := form.Get("slaveId")
		err = operator.Conversion(l.ConvertResources(r.Context(), auth.PrincipalOf(r.Context()).Name, state.AgentID(id), word(list)))
		if err == nil {
			auth.Changed(r.Context(), callOf(r), id+" "+form.Get(field), "done")
			httpio.Empty(w, http.StatusAccepted)
			return
		}
		h.changed(w, r, id+" "+form.Get(field), err)
	})
}

// resourceList reads a list of resources in JSON.
func resourceList(text string) ([]*mesosv1.Resource, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return nil, fmt.Errorf("a list of resources in JSON is wanted: %w", err)
	}
	var out []*mesosv1.Resource
	for i, one := range raw {
		r := &mesosv1.Resource{}
		if err := mesosjson.Unmarshal(one, r); err != nil {
			return nil, fmt.Errorf("resource %d: %w", i+1, err)
		}
		out = append(out, r)
	}
	return out, nil
}
