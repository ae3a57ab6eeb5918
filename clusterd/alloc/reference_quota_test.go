package alloc

import (
	"strings"

	"github.com/mesolith/mesolith/clusterd/state"
)

// The reference's quotas: whatever is asked is counted from the snapshot and the offers so far.

func within(role, top string) bool {
	return top == "" || role == top || strings.HasPrefix(role, top+"/")
}

// unreserved adds up what of a resource counts for who holds it.
func unreserved(rs state.Resources, name string) (sum int64) {
	for _, x := range rs {
		if x.Name == name && x.Kind == state.ScalarKind && x.Role == "" && !x.Revocable() {
			sum += x.Milli
		}
	}
	return sum
}

// has is what a role has of a resource with its parts: reserved for it, held, and offered.
func (r *reference) has(top, name string) (sum int64) {
	for _, a := range r.s.Agents {
		for _, x := range a.Total {
			if x.Name == name && x.Kind == state.ScalarKind && x.Role != "" && within(x.Role, top) {
				sum += x.Milli
			}
		}
	}
	for _, role := range r.s.Roles {
		if within(role.Name, top) {
			sum += unreserved(role.Holds, name)
		}
	}
	for _, o := range r.out {
		if within(o.Role, top) {
			sum += unreserved(o.Resources, name)
		}
	}
	return sum
}

// lacks is what guarantees below and of a role lack, if a role had more than it has.
func (r *reference) lacks(top, name, role string, more int64) int64 {
	below := int64(0)
	for part := range r.s.Quotas {
		direct := part != top && within(part, top)
		for between := range r.s.Quotas {
			direct = direct && (between == top || between == part || !within(between, top) || !within(part, between))
		}
		if direct {
			below += r.lacks(part, name, role, more)
		}
	}
	if top == "" {
		return below
	}
	has := r.has(top, name)
	if within(role, top) {
		has += more
	}
	return max(below, r.s.Quotas[top].Guarantees[name]-has, 0)
}

// own is the most that a guarantee of a role or of what it is a part of lacks; there is false
// where there is none.
func (r *reference) own(role, name string) (most int64, there bool) {
	for top, q := range r.s.Quotas {
		if q.Guarantees[name] > 0 && within(role, top) {
			most, there = max(most, q.Guarantees[name]-r.has(top, name)), true
		}
	}
	return most, there
}

func (r *reference) lacking(role string) bool {
	for _, q := range r.s.Quotas {
		for name := range q.Guarantees {
			if most, _ := r.own(role, name); most > 0 {
				return true
			}
		}
	}
	return false
}

func (r *reference) useful(role string, part state.Resources) bool {
	for _, x := range part {
		if most, _ := r.own(role, x.Name); most > 0 && x.Milli > 0 && !x.Revocable() {
			return true
		}
	}
	return false
}

// cut leaves of what a role could be offered what limits and others' guarantees leave room
// for, and with guarantees alone no more of what is guaranteed than is lacking.
func (r *reference) cut(role string, part state.Resources, guarantees bool) (out state.Resources) {
	for _, x := range part {
		if x.Kind != state.ScalarKind || x.Role != "" || x.Detail != "" {
			out = append(out, x)
			continue
		}
		for top, q := range r.s.Quotas {
			if most, limited := q.Limits[x.Name]; limited && within(role, top) {
				x.Milli = min(x.Milli, max(0, most-r.has(top, x.Name)))
			}
		}
		x.Milli = r.spared(role, x.Name, x.Milli)
		if most, there := r.own(role, x.Name); guarantees && there {
			x.Milli = min(x.Milli, most)
		}
		if x.Milli > 0 {
			out = append(out, x)
		}
	}
	return out
}

// spared is how much of what is asked all guarantees together can spare: what they lack stays
// free, or is not made more than it was.
func (r *reference) spared(role, name string, asked int64) int64 {
	free := int64(0)
	for _, a := range r.s.Agents {
		free += unreserved(a.Free, name)
	}
	for _, o := range r.out {
		free -= unreserved(o.Resources, name)
	}
	surplus := func(more int64) int64 { return free - more - r.lacks("", name, role, more) }
	least := min(surplus(0), 0)
	if surplus(asked) >= least {
		return asked
	}
	low, high := int64(0), asked
	for high-low > 1 {
		if mid := (low + high) / 2; surplus(mid) >= least {
			low = mid
		} else {
			high = mid
		}
	}
	return low
}
