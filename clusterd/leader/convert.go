package leader

import (
	"fmt"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/state"
	"google.golang.org/protobuf/proto"
)

// fromWire turns the protocol's resources into the state's. allocation_info does not
// count; reservations and disks of their own are refused, because nothing acts on them.
func fromWire(list []*mesosv1.Resource) (state.Resources, error) {
	out := make([]state.Resource, 0, len(list))
	for _, r := range list {
		one, err := resourceFromWire(r)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return state.NewResources(out...)
}

func resourceFromWire(r *mesosv1.Resource) (state.Resource, error) {
	name := r.GetName()
	out := state.Resource{Name: name}
	switch {
	case name == "":
		return out, fmt.Errorf("a resource has no name: %w", state.ErrResourceInvalid)
	case r.GetRevocable() != nil:
		return out, fmt.Errorf("%s is revocable: oversubscription is not supported yet: %w", name, state.ErrResourceInvalid)
	case r.GetDisk() != nil:
		return out, fmt.Errorf("%s has a disk of its own: persistent volumes are not supported yet: %w", name, state.ErrResourceInvalid)
	case r.GetReservation() != nil || len(r.GetReservations()) > 1 || dynamic(r):
		return out, fmt.Errorf("%s is reserved: dynamic reservations are not supported yet: %w", name, state.ErrResourceInvalid)
	case r.GetShared() != nil:
		return out, fmt.Errorf("%s is shared: not supported yet: %w", name, state.ErrResourceInvalid)
	}
	if role := r.GetRole(); role != "*" {
		out.Role = role
	}
	if len(r.GetReservations()) == 1 {
		out.Role = r.GetReservations()[0].GetRole()
	}
	switch r.GetType() {
	case mesosv1.Value_SCALAR:
		milli, ok := state.Thousandths(r.GetScalar().GetValue())
		if !ok || r.Scalar == nil {
			return out, fmt.Errorf("%s: %v is no amount: %w", name, r.GetScalar().GetValue(), state.ErrResourceInvalid)
		}
		if milli == 0 && r.GetScalar().GetValue() > 0 {
			return out, fmt.Errorf("%s: %v is less than 0.001: %w", name, r.GetScalar().GetValue(), state.ErrResourceInvalid)
		}
		if name == state.GPUs && milli%1000 != 0 {
			return out, fmt.Errorf("gpus: %v is not a whole number: %w", r.GetScalar().GetValue(), state.ErrResourceInvalid)
		}
		out.Kind, out.Milli = state.ScalarKind, milli
	case mesosv1.Value_RANGES:
		out.Kind = state.RangesKind
		for _, g := range r.GetRanges().GetRange() {
			out.Ranges = append(out.Ranges, state.Range{Begin: g.GetBegin(), End: g.GetEnd()})
		}
	case mesosv1.Value_SET:
		out.Kind, out.Items = state.SetKind, r.GetSet().GetItem()
	default:
		return out, fmt.Errorf("%s has values of type %s: %w", name, r.GetType(), state.ErrResourceInvalid)
	}
	return out, nil
}

// dynamic tells reservations that somebody made from those that the agent came with.
func dynamic(r *mesosv1.Resource) bool {
	for _, v := range r.GetReservations() {
		if v.GetType() != mesosv1.Resource_ReservationInfo_STATIC || v.GetRole() == "" || v.GetRole() == "*" || r.GetRole() != "*" {
			return true
		}
	}
	return false
}

// refined turns ToWire's resources into the form with a stack of reservations, which is
// what frameworks get that have the capability RESERVATION_REFINEMENT.
func refined(list []*mesosv1.Resource) []*mesosv1.Resource {
	for _, r := range list {
		if role := r.GetRole(); role != "*" {
			r.Reservations = []*mesosv1.Resource_ReservationInfo{{Type: mesosv1.Resource_ReservationInfo_STATIC.Enum(), Role: proto.String(role)}}
		}
		r.Role = nil
	}
	return list
}

// ToWire is the protocol's form of resources, allocated to a role unless it is empty.
func ToWire(rs state.Resources, allocated string) []*mesosv1.Resource {
	out := make([]*mesosv1.Resource, 0, len(rs))
	for _, r := range rs {
		w := &mesosv1.Resource{Name: proto.String(r.Name), Role: proto.String("*")}
		if r.Role != "" {
			w.Role = proto.String(r.Role)
		}
		if allocated != "" {
			w.AllocationInfo = &mesosv1.Resource_AllocationInfo{Role: proto.String(allocated)}
		}
		switch r.Kind {
		case state.ScalarKind:
			w.Type = mesosv1.Value_SCALAR.Enum()
			w.Scalar = &mesosv1.Value_Scalar{Value: proto.Float64(float64(r.Milli) / 1000)}
		case state.RangesKind:
			w.Type, w.Ranges = mesosv1.Value_RANGES.Enum(), &mesosv1.Value_Ranges{}
			for _, g := range r.Ranges {
				w.Ranges.Range = append(w.Ranges.Range, &mesosv1.Value_Range{Begin: proto.Uint64(g.Begin), End: proto.Uint64(g.End)})
			}
		case state.SetKind:
			w.Type, w.Set = mesosv1.Value_SET.Enum(), &mesosv1.Value_Set{Item: r.Items}
		}
		out = append(out, w)
	}
	return out
}
