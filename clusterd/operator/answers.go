package operator

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/state"
)

func (h *handler) flags(*call) (*master.Response, error) {
	out := &master.Response_GetFlags{}
	for _, name := range slices.Sorted(maps.Keys(h.Flags)) {
		out.Flags = append(out.Flags, &mesosv1.Flag{Name: proto.String(name), Value: proto.String(h.Flags[name])})
	}
	return &master.Response{Type: master.Response_GET_FLAGS.Enum(), GetFlags: out}, nil
}

// metrics takes no longer than the caller wants to wait; what does not answer until then
// is left out.
func (h *handler) metrics(c *call) (*master.Response, error) {
	ctx := c.Context()
	if t := c.Call.GetGetMetrics().GetTimeout(); t != nil {
		if t.GetNanoseconds() <= 0 {
			return nil, refusal{http.StatusBadRequest, "'get_metrics.timeout' must be longer than 0"}
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(t.GetNanoseconds()))
		defer cancel()
	}
	out := &master.Response_GetMetrics{}
	measured := h.Measure(ctx)
	for _, name := range slices.Sorted(maps.Keys(measured)) {
		out.Metrics = append(out.Metrics, &mesosv1.Metric{Name: proto.String(name), Value: proto.Float64(measured[name])})
	}
	return &master.Response{Type: master.Response_GET_METRICS.Enum(), GetMetrics: out}, nil
}

func (h *handler) master(c *call) (*master.Response, error) {
	return &master.Response{Type: master.Response_GET_MASTER.Enum(), GetMaster: &master.Response_GetMaster{
		MasterInfo: c.leader.MasterInfo(), StartTime: proto.Float64(seconds(h.Started)), ElectedTime: proto.Float64(seconds(c.leader.Elected())),
	}}, nil
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// executors are frameworks' own; a task that is run by its command has none.
func (h *handler) executors(c *call) (*master.Response, error) {
	p, err := h.collect(c, Want{Executors: true})
	if err != nil {
		return nil, err
	}
	return &master.Response{Type: master.Response_GET_EXECUTORS.Enum(), GetExecutors: p.getExecutors()}, nil
}

func (p *Picture) getExecutors() *master.Response_GetExecutors {
	return &master.Response_GetExecutors{Executors: p.Executors}
}

func (h *handler) roles(c *call) (*master.Response, error) {
	p, err := h.collect(c, Want{Frameworks: true, Roles: true})
	if err != nil {
		return nil, err
	}
	out := &master.Response_GetRoles{}
	for _, r := range p.Roles {
		role := &mesosv1.Role{Name: proto.String(r.Name), Weight: proto.Float64(r.Weight), Resources: r.wire()}
		for _, id := range r.Frameworks {
			role.Frameworks = append(role.Frameworks, &mesosv1.FrameworkID{Value: proto.String(id)})
		}
		out.Roles = append(out.Roles, role)
	}
	return &master.Response{Type: master.Response_GET_ROLES.Enum(), GetRoles: out}, nil
}

// weights are those that somebody set; all others are 1.
func (h *handler) weights(c *call) (*master.Response, error) {
	p, err := h.collect(c, Want{})
	if err != nil {
		return nil, err
	}
	out := &master.Response_GetWeights{}
	for _, w := range p.Weights {
		out.WeightInfos = append(out.WeightInfos, &mesosv1.WeightInfo{Role: proto.String(w.Role), Weight: proto.Float64(w.Weight)})
	}
	return &master.Response{Type: master.Response_GET_WEIGHTS.Enum(), GetWeights: out}, nil
}

func weightsOf(list []*mesosv1.WeightInfo) (out []state.Weight) {
	for _, w := range list {
		out = append(out, state.Weight{Role: strings.TrimSpace(w.GetRole()), Weight: w.GetWeight()})
	}
	return out
}

// Weighed is a list of weights in one line, for the log.
func Weighed(list []state.Weight) string {
	var parts []string
	for _, w := range list {
		parts = append(parts, w.Role+"="+strconv.FormatFloat(w.Weight, 'g', -1, 64))
	}
	return strings.Join(parts, ",")
}

func (h *handler) updateWeights(c *call) (*master.Response, error) {
	return nil, refused(c.leader.UpdateWeights(c.Context(), weightsOf(c.Call.GetUpdateWeights().GetWeightInfos())))
}

func (h *handler) teardown(c *call) (*master.Response, error) {
	err := c.leader.Teardown(c.Context(), state.FrameworkID(c.Call.GetTeardown().GetFrameworkId().GetValue()))
	if errors.Is(err, leader.ErrFrameworkUnknown) {
		return nil, refusal{http.StatusBadRequest, "No framework found with specified ID"}
	}
	return nil, err
}

// Role is a role that a framework is subscribed to or holds something in, or that was
// given a weight or a quota, or for which something is reserved.
type Role struct {
	Name       string
	Weight     float64
	Frameworks []string // subscribed, by id
	Allocated  state.Resources
	Offered    state.Resources
	Reserved   state.Resources  // of all agents, used or not
	Quota      state.Quota      // Empty: none
	Consumed   map[string]int64 // of a role with a quota: what counts against it
}

// wire is what the role holds or is offered, in the protocol's form.
func (r *Role) wire() []*mesosv1.Resource {
	sum, err := r.Allocated.Plus(r.Offered)
	if err != nil {
		sum = r.Allocated
	}
	return leader.ToWire(sum, r.Name)
}

// rolesOf adds up by role what frameworks hold and are offered.
func rolesOf(r *rows) []Role {
	byName := map[string]*Role{}
	role := func(name string) *Role {
		if byName[name] == nil {
			byName[name] = &Role{Name: name, Weight: 1}
			if w, ok := r.weights[name]; ok {
				byName[name].Weight = w
			}
		}
		return byName[name]
	}
	add := func(to *state.Resources, rs state.Resources) {
		if sum, err := to.Plus(rs); err == nil {
			*to = sum
		}
	}
	for i := range r.frameworks {
		f := &r.frameworks[i]
		for _, name := range f.Roles {
			x := role(name)
			x.Frameworks = append(x.Frameworks, string(f.ID))
		}
		for _, a := range f.allocated {
			add(&role(a.role).Allocated, a.resources)
		}
	}
	for name := range r.weights {
		role(name)
	}
	for name, rs := range r.reserved {
		role(name).Reserved = rs
	}
	for name, q := range r.quotas {
		role(name).Quota, role(name).Consumed = q, r.consumed[name]
	}
	for _, o := range r.live.Offers {
		add(&role(o.Role).Offered, o.Resources)
	}
	out := make([]Role, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		x := byName[name]
		slices.Sort(x.Frameworks)
		out = append(out, *x)
	}
	return out
}
