package leader

import (
	"fmt"
	"slices"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// asks is what a task wants of an offer; a shared volume that is in it as often as not.
func (f *careless) asks(o *mesosv1.Offer) []*mesosv1.Resource {
	cpus := scalar("cpus", float64(1+f.rng.IntN(20))/10)
	for _, r := range o.GetResources() {
		if r.Revocable != nil && f.rng.IntN(2) == 0 {
			cpus.Revocable = r.Revocable
		}
	}
	out := []*mesosv1.Resource{cpus, scalar("mem", 32)}
	for _, r := range o.GetResources() {
		if r.Shared != nil && f.rng.IntN(4) > 0 {
			f.shared++
			out = append(out, r)
		}
	}
	return out
}

func holdsAnyShared(o *mesosv1.Offer) bool {
	return slices.ContainsFunc(o.GetResources(), func(r *mesosv1.Resource) bool { return r.Shared != nil })
}

// sharing makes a shared volume, or ends one that is offered.
func (f *careless) sharing(o *mesosv1.Offer) []*mesosv1.Offer_Operation {
	for _, r := range o.GetResources() {
		if r.Shared != nil {
			plain := reserved(scalar("disk", r.GetScalar().GetValue()), "x")
			return []*mesosv1.Offer_Operation{destroyOp(r), unreserveOp(plain)}
		}
	}
	volume := func() *mesosv1.Resource { return reserved(scalar("disk", float64(10*(1+f.rng.IntN(3)))), "x") }
	v := volume()
	made := persistent(reserved(scalar("disk", v.GetScalar().GetValue()), "x"), "s", "data")
	made.Shared = &mesosv1.Resource_SharedInfo{}
	return []*mesosv1.Offer_Operation{reserveOp(v), createOp(made)}
}

// conversions reserve something, take back something that is reserved, and then as often as
// not something that they have just made.
func (f *careless) conversions(o *mesosv1.Offer) (ops []*mesosv1.Offer_Operation) {
	if f.rng.IntN(2) == 0 && !holdsAnyShared(o) || f.rng.IntN(12) == 0 {
		return f.sharing(o)
	}
	fresh := reserved(scalar("cpus", float64(1+f.rng.IntN(5))/10), "x")
	ops = append(ops, reserveOp(fresh))
	for _, r := range o.GetResources() {
		if len(r.GetReservations()) > 0 && r.Shared == nil && f.rng.IntN(2) == 0 {
			r.AllocationInfo = nil
			ops = append(ops, unreserveOp(r))
		}
	}
	if f.rng.IntN(2) == 0 {
		ops = append(ops, unreserveOp(fresh))
	}
	for i, op := range ops {
		if f.rng.IntN(2) == 0 {
			named(fmt.Sprint("o", f.rng.IntN(20), "-", i), op)
		}
	}
	return ops
}
