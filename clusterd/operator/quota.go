package operator

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/api/mesos/v1/quota"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/state"
)

func (h *handler) quota(c *call) (*master.Response, error) {
	p, err := h.collect(c, Want{})
	if err != nil {
		return nil, err
	}
	status := &quota.QuotaStatus{Infos: QuotaInfos(p.Quotas)}
	for _, q := range p.Quotas {
		status.Configs = append(status.Configs, &quota.QuotaConfig{Role: proto.String(q.Role), Guarantees: scalars(q.Guarantees), Limits: scalars(q.Limits)})
	}
	return &master.Response{Type: master.Response_GET_QUOTA.Enum(), GetQuota: &master.Response_GetQuota{Status: status}}, nil
}

// QuotaInfos are quotas as they were told before limits had a place of their own.
func QuotaInfos(list []state.RoleQuota) []*quota.QuotaInfo {
	out := []*quota.QuotaInfo{}
	for _, q := range list {
		info := &quota.QuotaInfo{Role: proto.String(q.Role)}
		for _, name := range slices.Sorted(maps.Keys(q.Guarantees)) {
			info.Guarantee = append(info.Guarantee, &mesosv1.Resource{
				Name: proto.String(name), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: proto.Float64(float64(q.Guarantees[name]) / 1000)}, Role: proto.String("*"),
			})
		}
		out = append(out, info)
	}
	return out
}

func scalars(list map[string]int64) map[string]*mesosv1.Value_Scalar {
	out := make(map[string]*mesosv1.Value_Scalar, len(list))
	for name, milli := range list {
		out[name] = &mesosv1.Value_Scalar{Value: proto.Float64(float64(milli) / 1000)}
	}
	return out
}

func (h *handler) updateQuota(c *call) (*master.Response, error) {
	u := c.Call.GetUpdateQuota()
	change := leader.QuotaChange{Force: u.GetForce()}
	for _, config := range u.GetQuotaConfigs() {
		q := state.RoleQuota{Role: config.GetRole()}
		for _, list := range []struct {
			from map[string]*mesosv1.Value_Scalar
			to   *map[string]int64
		}{{config.GetGuarantees(), &q.Guarantees}, {config.GetLimits(), &q.Limits}} {
			for name, v := range list.from {
				milli, ok := state.Thousandths(v.GetValue())
				if !ok {
					return nil, refusal{http.StatusBadRequest, fmt.Sprintf("Invalid QuotaConfig: %v is no amount of %q for role %q", v.GetValue(), name, q.Role)}
				}
				if *list.to == nil {
					*list.to = map[string]int64{}
				}
				(*list.to)[name] = milli
			}
		}
		change.Quotas = append(change.Quotas, q)
	}
	err := c.leader.UpdateQuota(c.Context(), change)
	if errors.Is(err, leader.ErrConflict) { // this call says 400 of everything, as in Mesos
		return nil, refusal{http.StatusBadRequest, err.Error()}
	}
	return nil, refused(err)
}

// QuotaRequest is the older form, of SET_QUOTA and /quota: the guarantee is the limit too.
func QuotaRequest(r *quota.QuotaRequest) (leader.QuotaChange, error) {
	q := state.RoleQuota{Role: r.GetRole(), Quota: state.Quota{Guarantees: map[string]int64{}, Limits: map[string]int64{}}}
	for _, g := range r.GetGuarantee() {
		milli, ok := state.Thousandths(g.GetScalar().GetValue())
		switch {
		case g.GetType() != mesosv1.Value_SCALAR || g.Scalar == nil || !ok:
			return leader.QuotaChange{}, fmt.Errorf("quota of %q must be a scalar that is not negative", g.GetName())
		case g.GetReservation() != nil, len(g.GetReservations()) > 0, g.GetDisk() != nil, g.GetRevocable() != nil, g.GetRole() != "*" && g.GetRole() != q.Role:
			return leader.QuotaChange{}, fmt.Errorf("quota of %q must be neither reserved, nor revocable, nor a disk", g.GetName())
		}
		if _, twice := q.Guarantees[g.GetName()]; twice {
			return leader.QuotaChange{}, fmt.Errorf("quota of %q is there twice", g.GetName())
		}
		q.Guarantees[g.GetName()], q.Limits[g.GetName()] = milli, milli
	}
	if q.Empty() {
		return leader.QuotaChange{}, errors.New("quota of nothing")
	}
	return leader.QuotaChange{Quotas: []state.RoleQuota{q}, Force: r.GetForce(), New: true}, nil
}

func (h *handler) setQuota(c *call) (*master.Response, error) {
	change, err := QuotaRequest(c.Call.GetSetQuota().GetQuotaRequest())
	if err != nil {
		return nil, refusal{http.StatusBadRequest, "Failed to validate set quota request: " + err.Error()}
	}
	return nil, refused(c.leader.UpdateQuota(c.Context(), change))
}

func (h *handler) removeQuota(c *call) (*master.Response, error) {
	return nil, refused(c.leader.UpdateQuota(c.Context(), leader.QuotaChange{Quotas: []state.RoleQuota{{Role: c.Call.GetRemoveQuota().GetRole()}}, Known: true}))
}

// refused gives what the leader refused its status.
func refused(err error) error {
	switch {
	case errors.Is(err, leader.ErrConflict):
		return refusal{http.StatusConflict, err.Error()}
	case errors.Is(err, leader.ErrForbidden):
		return refusal{http.StatusForbidden, err.Error()}
	case errors.Is(err, leader.ErrInvalid):
		return refusal{http.StatusBadRequest, err.Error()}
	}
	return err
}

// Refused gives status and sentence of what the leader refused; false: it did not.
func Refused(err error) (status int, text string, ok bool) {
	var r refusal
	if errors.As(refused(err), &r) {
		return r.status, r.text, true
	}
	return 0, "", false
}
