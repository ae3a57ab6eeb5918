package alloc

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"sort"
)

// Where roles or frameworks are random, each agent is offered in an order that is drawn for
// it by lot: the chance to be next is one's weight among those who are left. A role's chance
// is that of its part of the tree, divided among siblings by their weights at each branch, so
// that many parts do not make a role likelier. What is drawn depends on the round's seed, on
// the agent and the role, and on nothing that happens in the round.

// lottery draws for one round; the zero value draws nothing.
type lottery struct {
	seed       uint64
	turn       uint64 // of the agent, and of which stage
	random     Sorting
	all        lots // the roles
	roles      draw
	frameworks draw // of one role
}

// lots are who may be drawn, in the order of their names, and up to where of the sum of all
// weights each one's reaches.
type lots struct {
	nodes []*node
	upTo  []float64
}

func (l *lots) add(n *node, weight float64) {
	if i := len(l.upTo); i > 0 {
		weight += l.upTo[i-1]
	}
	l.nodes, l.upTo = append(l.nodes, n), append(l.upTo, weight)
}

func (l *lots) weight(i int) float64 {
	if i == 0 {
		return l.upTo[0]
	}
	return l.upTo[i] - l.upTo[i-1]
}

// draw takes one after the other out of lots, each once.
type draw struct {
	from  *lots
	pcg   rand.PCG
	rng   *rand.Rand
	gone  []bool
	count int     // of those who are gone
	drawn float64 // their weight
}

// begin draws from all of them anew.
func (d *draw) begin(from *lots, seed, stream uint64) {
	if d.rng == nil {
		d.rng = rand.New(&d.pcg)
	}
	d.pcg.Seed(seed, stream)
	d.take(from)
}

func (d *draw) take(from *lots) {
	d.from, d.count, d.drawn = from, 0, 0
	d.gone = slices.Grow(d.gone[:0], len(from.nodes))[:len(from.nodes)]
	clear(d.gone)
}

// next is who is drawn next; nil: all were. Who was drawn already is drawn again and passed
// over until half of the weight is gone; then the others are counted anew.
func (d *draw) next() *node {
	if n := len(d.gone); d.count > 0 && d.drawn*2 >= d.from.upTo[n-1] {
		rest := &lots{}
		for i, one := range d.from.nodes {
			if !d.gone[i] {
				rest.add(one, d.from.weight(i))
			}
		}
		d.take(rest)
	}
	n := len(d.gone)
	for n > 0 {
		at := d.rng.Float64() * d.from.upTo[n-1]
		i := min(sort.Search(n, func(i int) bool { return d.from.upTo[i] > at }), n-1)
		if !d.gone[i] {
			d.gone[i] = true
			d.count, d.drawn = d.count+1, d.drawn+d.from.weight(i)
			return d.from.nodes[i]
		}
	}
	return nil
}

// prepare makes the round's lots of roles.
func (l *lottery) prepare(root *node, s Sorting, seed uint64) {
	if l.seed, l.random = seed, s; !s.RandomRoles {
		return
	}
	chances := map[*node]float64{}
	var leaves []*node
	var divide func(n *node, weight float64)
	divide = func(n *node, weight float64) {
		below, sum := served(n), 0.0
		for _, c := range below {
			sum += c.weight
		}
		for _, c := range below {
			if share := weight * c.weight / sum; c.leaf {
				leaves, chances[c] = append(leaves, c), share
			} else {
				divide(c, share)
			}
		}
	}
	divide(root, 1)
	slices.SortFunc(leaves, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	for _, n := range leaves {
		l.all.add(n, chances[n])
	}
}

// served are those below a node who want offers, by name.
func served(n *node) (out []*node) {
	for _, c := range n.order {
		if c.serves {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b *node) int { return cmp.Compare(a.part, b.part) })
	return out
}

// The streams of random numbers: 0 is that of the agents' order.
const (
	rolesStream      = 1 << 62
	frameworksStream = 1 << 63
	maxRoles         = 1 << 24
)

// begin is the turn of an agent, in one of two stages.
func (l *lottery) begin(agent int, guarantees bool) {
	l.turn = uint64(agent) << 1
	if guarantees {
		l.turn++
	}
	if l.random.RandomRoles {
		l.roles.begin(&l.all, l.seed, rolesStream|l.turn)
	}
}

// of draws from the frameworks of a role.
func (l *lottery) of(role *node) *draw {
	if role.lots == nil {
		role.lots = &lots{}
		for _, f := range served(role) {
			role.lots.add(f, 1)
		}
	}
	l.frameworks.begin(role.lots, l.seed, frameworksStream|l.turn*maxRoles|uint64(role.number))
	return &l.frameworks
}
