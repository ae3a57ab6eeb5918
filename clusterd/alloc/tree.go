package alloc

import (
	"cmp"
	"slices"
	"strings"

	"github.com/mesolith/mesolith/clusterd/state"
)

// node is one competitor: a part of the tree of roles, a role, or a framework in it.
//
// Roles are a tree by their slashes. Siblings compete by their shares; what one gets, its
// children share among themselves. A role that has frameworks and parts below it competes
// with those as a leaf of its own, "." with weight 1, so that its frameworks and its
// parts are siblings.
type node struct {
	name   string // of the leaf's role, or the framework's
	part   string // the last component: order of siblings on a tie
	weight float64
	holds  []int64 // with everything below
	share  float64
	count  int // allocations in this round: fewer first on a tie
	place  int // in the parent's order

	parent *node
	order  []*node // children, or the frameworks of a leaf, smallest share first
	leaf   bool    // its children are frameworks
	serves bool    // something below wants offers

	// With quotas; nil: none here. Both by resource.
	limit, guarantee []int64
	consumed         []int64 // what the role has, see Quota
	quoted           []*node // children with a quota, or above one

	member Member // of a framework
	sees   kinds
	lots   *lots // of a leaf's frameworks, where they are drawn
	number int   // of a leaf, in the order of the snapshot's roles
}

// self is the component under which a role's own frameworks compete with its parts.
const self = "."

// grow builds the tree of all roles, with frameworks that want offers as its ends.
func (r *round) grow(s *Snapshot) *node {
	root := &node{weight: 1, holds: make([]int64, len(r.names)), consumed: make([]int64, len(r.names))}
	inner := map[string]*node{}
	place := func(role string) *node {
		at, path := root, ""
		for part := range strings.SplitSeq(role, "/") {
			path = join(path, part)
			if inner[path] == nil {
				inner[path] = r.child(at, part, weightOf(s.Weights, path))
			}
			at = inner[path]
		}
		return at
	}
	leaves := make([]*node, len(s.Roles))
	for i := range s.Roles {
		leaves[i] = place(s.Roles[i].Name)
	}
	for role := range s.Quotas {
		place(role)
	}
	r.root = root
	r.quotas(inner, s)
	for i, at := range leaves { // once it is known who has parts
		if len(at.order) > 0 {
			at = r.child(at, self, 1)
		}
		at.number = i
		r.fill(at, &s.Roles[i])
	}
	r.settle(root)
	return root
}

func join(path, part string) string {
	if path == "" {
		return part
	}
	return path + "/" + part
}

func weightOf(weights map[string]float64, role string) float64 {
	if w, ok := weights[role]; ok && w > 0 {
		return w
	}
	return 1
}

func (r *round) child(parent *node, part string, weight float64) *node {
	n := &node{part: part, weight: weight, parent: parent, holds: make([]int64, len(r.names)), consumed: make([]int64, len(r.names))}
	parent.order = append(parent.order, n)
	return n
}

// fill makes a leaf of a node: a role with its frameworks.
func (r *round) fill(n *node, role *Role) {
	n.leaf, n.name = true, role.Name
	for _, m := range role.Members {
		if !m.Suppressed {
			f := r.child(n, string(m.Framework), 1)
			f.name, f.member, f.serves, f.sees = string(m.Framework), m, true, sight(&m)
			r.hold(f, m.Holds)
		}
	}
	r.hold(n, role.Holds)
}

func (r *round) hold(n *node, rs state.Resources) {
	for i, name := range r.names {
		n.holds[i] = rs.Milli(name)
	}
}

// amounts are the scalars of resources, by resource; good until they are asked for again.
func (r *round) amounts(rs state.Resources) []int64 {
	if r.sums == nil {
		r.sums = make([]int64, len(r.names))
	}
	for i, name := range r.names {
		r.sums[i] = rs.Milli(name)
	}
	return r.sums
}

// settle adds up what is held, from the leaves up, and puts siblings in order.
func (r *round) settle(n *node) {
	for _, c := range n.order {
		r.settle(c)
		n.serves = n.serves || c.serves
		if !n.leaf {
			for i, held := range c.holds {
				n.holds[i] += held
			}
		}
	}
	n.share = r.shareOf(n)
	slices.SortFunc(n.order, compare)
	for i, c := range n.order {
		c.place = i
	}
}

func (r *round) shareOf(n *node) float64 {
	top := 0.0
	for i, held := range n.holds {
		if r.total[i] > 0 {
			top = max(top, float64(held)/r.total[i])
		}
	}
	return top / n.weight
}

func compare(a, b *node) int {
	switch { // shares are numbers: cmp.Compare would look for those that are none
	case a.share < b.share:
		return -1
	case a.share > b.share:
		return 1
	case a.count != b.count:
		return cmp.Compare(a.count, b.count)
	}
	return cmp.Compare(a.part, b.part)
}

// charge lets a framework hold more, and everything above it.
func (r *round) charge(n *node, rs state.Resources) {
	more := r.amounts(rs)
	for ; n.parent != nil; n = n.parent {
		for i := range more {
			n.holds[i] += more[i]
		}
		n.count++
		n.share = r.shareOf(n)
		n.moveBack()
	}
}

// moveBack puts a node where it belongs again after its share grew.
func (n *node) moveBack() {
	order := n.parent.order
	for n.place+1 < len(order) && compare(n, order[n.place+1]) > 0 {
		next := order[n.place+1]
		order[n.place], order[n.place+1] = next, n
		next.place, n.place = n.place, n.place+1
	}
}
