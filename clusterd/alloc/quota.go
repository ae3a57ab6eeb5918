package alloc

import (
	"maps"
	"slices"

	"github.com/mesolith/mesolith/clusterd/state"
)

// Quota bounds what a role, with all its parts, may have. A limit is never exceeded, not
// even if every offer is accepted. A guarantee is held back from others: as much of what is
// free stays free as all guarantees together still lack.
//
// What a role has is what is reserved for it, used or not, and what it holds or is offered
// of the rest. Only scalars count; offers are cut so that they fit, what is reserved for
// the role and what is no scalar is offered whole.

// needWith is what a part of the tree would still lack of its guarantees if the leaf below
// had more: its own, or more than that if its parts lack more together.
func (n *node) needWith(i int, leaf *node, more int64) int64 {
	below := int64(0)
	for _, c := range n.quoted {
		below += c.needWith(i, leaf, more)
	}
	if n.guarantee == nil {
		return below
	}
	has := n.consumed[i]
	if leaf.isIn(n) {
		has += more
	}
	return max(below, n.guarantee[i]-has, 0)
}

func (n *node) isIn(above *node) bool {
	for ; n != nil; n = n.parent {
		if n == above {
			return true
		}
	}
	return false
}

// quotas puts quotas on their places in the tree, and counts what roles have.
func (r *round) quotas(inner map[string]*node, s *Snapshot) {
	for _, a := range s.Agents {
		for _, x := range a.Total {
			if i, ok := slices.BinarySearch(r.names, x.Name); ok && x.Kind == state.ScalarKind && x.Role != "" {
				consume(nearest(inner, x.Role), i, x.Milli)
			}
		}
		for _, x := range a.Free {
			if i, ok := slices.BinarySearch(r.names, x.Name); ok && counted(&x) {
				r.free[i] += x.Milli
			}
		}
	}
	for _, role := range s.Roles {
		for _, x := range role.Holds {
			if i, ok := slices.BinarySearch(r.names, x.Name); ok && counted(&x) {
				consume(inner[role.Name], i, x.Milli)
			}
		}
	}
	for _, role := range slices.Sorted(maps.Keys(s.Quotas)) {
		n, q := inner[role], s.Quotas[role]
		n.limit, n.guarantee = slices.Repeat([]int64{noLimit}, len(r.names)), make([]int64, len(r.names))
		for i, name := range r.names {
			if most, ok := q.Limits[name]; ok {
				n.limit[i] = most
			}
			n.guarantee[i] = q.Guarantees[name]
			r.guaranteed[i] = r.guaranteed[i] || n.guarantee[i] > 0
		}
		for at := n; at.parent != nil && !slices.Contains(at.parent.quoted, at); at = at.parent {
			at.parent.quoted = append(at.parent.quoted, at)
		}
	}
	r.quoted = len(s.Quotas) > 0
}

// counted says whether a resource counts for who holds it: what is reserved counts for its
// role, held or not, and what may be taken back for nobody.
func counted(x *state.Resource) bool {
	return x.Kind == state.ScalarKind && x.Role == "" && !x.Revocable()
}

// noLimit is the limit where there is none.
const noLimit = -1

// nearest is a role's place, or that of the closest role above it that has one.
func nearest(inner map[string]*node, role string) *node {
	for at := len(role); at > 0; at-- {
		if at == len(role) || role[at] == '/' {
			if n := inner[role[:at]]; n != nil {
				return n
			}
		}
	}
	return nil
}

// consume counts what a role has, there and above.
func consume(n *node, i int, milli int64) {
	for ; n != nil; n = n.parent {
		n.consumed[i] += milli
	}
}

// cut takes away from what could be offered to a leaf what no quota leaves room for. With
// guarantees alone, no more of what is guaranteed stays than the leaf's role lacks. What it
// gives is good until the next cut.
func (r *round) cut(leaf *node, part state.Resources, guarantees bool) state.Resources {
	out, i := r.scratch[:0], 0
	for _, x := range part {
		for i < len(r.names) && r.names[i] < x.Name { // both are in order
			i++
		}
		ok := i < len(r.names) && r.names[i] == x.Name
		if x.Role != "" || x.Detail != "" || x.Kind != state.ScalarKind || !ok {
			out = append(out, x)
			continue
		}
		x.Milli = min(x.Milli, r.room(leaf, i, x.Milli))
		if guarantees {
			if lacks, has := leaf.lacks(i); has {
				x.Milli = min(x.Milli, lacks)
			}
		}
		if x.Milli > 0 {
			out = append(out, x)
		}
	}
	r.scratch = out
	return out
}

// room is how much of what is asked a leaf may get.
func (r *round) room(leaf *node, i int, asked int64) int64 {
	for n := leaf; n != nil; n = n.parent {
		if n.limit != nil && n.limit[i] != noLimit {
			asked = min(asked, max(0, n.limit[i]-n.consumed[i]))
		}
	}
	if !r.guaranteed[i] || asked == 0 {
		return asked
	}
	// What lacks for guarantees must stay free, or no more of it lack than before.
	surplus := func(more int64) int64 { return r.free[i] - more - r.root.needWith(i, leaf, more) }
	least := min(surplus(0), 0)
	if surplus(asked) >= least {
		return asked
	}
	low, high := int64(0), asked // surplus never grows with more
	for high-low > 1 {
		if mid := low + (high-low)/2; surplus(mid) >= least {
			low = mid
		} else {
			high = mid
		}
	}
	return low
}

// lacks is the most that a guarantee on a leaf's way up still lacks; has: there is one.
func (n *node) lacks(i int) (most int64, has bool) {
	for ; n != nil; n = n.parent {
		if n.guarantee != nil && n.guarantee[i] > 0 {
			most, has = max(most, n.guarantee[i]-n.consumed[i]), true
		}
	}
	return most, has
}

// lacking says whether a guarantee on a leaf's way up is not fulfilled.
func (r *round) lacking(leaf *node) bool {
	for i := range r.names {
		if most, _ := leaf.lacks(i); most > 0 {
			return true
		}
	}
	return false
}

// useful says whether a cut part holds something of what a guarantee lacks.
func (r *round) useful(leaf *node, part state.Resources) bool {
	for i, name := range r.names {
		if most, _ := leaf.lacks(i); most > 0 && lasting(part, name) {
			return true
		}
	}
	return false
}

// lasting says whether resources hold some of a name that is not to be taken back.
func lasting(rs state.Resources, name string) bool {
	for i := range rs {
		if rs[i].Name == name && rs[i].Kind == state.ScalarKind && rs[i].Milli > 0 && !rs[i].Revocable() {
			return true
		}
	}
	return false
}

// taken counts an offer at once, so that the next one of the same agent sees it.
func (r *round) taken(leaf *node, part state.Resources) {
	if !r.quoted {
		return
	}
	for _, x := range part {
		if i, ok := slices.BinarySearch(r.names, x.Name); ok && counted(&x) {
			consume(leaf, i, x.Milli)
			r.free[i] -= x.Milli
		}
	}
}
