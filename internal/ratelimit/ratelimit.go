// Package ratelimit is how often each principal may call: Mesos' rate limits, decoded
// strictly.
//
// A principal in the list may call qps times a second on average, and capacity times at
// once; without qps he is not limited. All others that are limited at all share the
// aggregate default. Unlike Mesos, which keeps up to capacity messages waiting, a call over
// the limit is refused: its caller is told when to come again.
//
// Invariant: what Decode accepts has positive finite rates and no principal twice. It
// counts nothing; package auth does.
package ratelimit

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/mesolith/mesolith/internal/jsontree"
)

// Bounds of what is read.
const (
	MaxBytes = 64 << 10
	maxList  = 1000
	maxRate  = 1e6
	maxBurst = 1_000_000
)

// Rate is a bound; QPS 0: there is none.
type Rate struct {
	QPS      float64
	Capacity uint64 // calls at once; at least 1 where there is a bound
}

// Limit is the bound of one principal.
type Limit struct {
	Principal string
	Rate
}

// Limits are all bounds.
type Limits struct {
	Limits    []Limit
	Aggregate Rate // of all others together
}

// Parse reads Mesos' JSON.
func Parse(text []byte) (*Limits, error) {
	n, bad := jsontree.Parse(text, MaxBytes)
	if len(bad) > 0 {
		return nil, bad
	}
	l, bad := Decode(n)
	if len(bad) > 0 {
		return nil, bad
	}
	return l, nil
}

// UnmarshalJSON implements json.Unmarshaler, as strictly as Parse.
func (l *Limits) UnmarshalJSON(text []byte) error {
	read, err := Parse(text)
	if err != nil {
		return fmt.Errorf("rate limits: %w", err)
	}
	*l = *read
	return nil
}

// Decode reads a tree of the same shape.
func Decode(n *jsontree.Node) (*Limits, jsontree.Problems) {
	d := decoder{seen: map[string]bool{}}
	d.top(n)
	if len(d.bad) > 0 {
		return nil, d.bad
	}
	return &d.out, nil
}

type decoder struct {
	out  Limits
	seen map[string]bool
	bad  jsontree.Problems
}

func (d *decoder) top(n *jsontree.Node) {
	if n.Kind != jsontree.Mapping {
		d.bad.At(n, "rate limits are %s — they must be a mapping: {\"limits\": [{\"principal\": …, \"qps\": …}]}.", n.Kind)
		return
	}
	var qps, capacity *jsontree.Node
	for _, e := range n.Entries {
		switch e.Key {
		case "limits":
			d.list(e.Value)
		case "aggregate_default_qps":
			qps = e.Value
		case "aggregate_default_capacity":
			capacity = e.Value
		default:
			d.unknown(e, "rate limits", "limits", "aggregate_default_qps", "aggregate_default_capacity")
		}
	}
	d.out.Aggregate = d.rate("aggregate_default_qps", "aggregate_default_capacity", qps, capacity)
}

func (d *decoder) unknown(e jsontree.Entry, where string, known ...string) {
	if like := jsontree.Nearest(e.Key, known); like != "" {
		d.bad.Add(e.Line, e.Col, "unknown key %.80q in %s — did you mean %q?", e.Key, where, like)
		return
	}
	d.bad.Add(e.Line, e.Col, "unknown key %.80q in %s — known are %v.", e.Key, where, known)
}

func (d *decoder) list(n *jsontree.Node) {
	if n.Kind != jsontree.List || len(n.Items) > maxList {
		d.bad.At(n, "limits must be a list of at most %d: [{\"principal\": …, \"qps\": …, \"capacity\": …}].", maxList)
		return
	}
	for i, item := range n.Items {
		d.limit(fmt.Sprintf("limits[%d]", i), item)
	}
}

func (d *decoder) limit(path string, n *jsontree.Node) {
	if n.Kind != jsontree.Mapping {
		d.bad.At(n, "%s is %s — write {\"principal\": …, \"qps\": …, \"capacity\": …}.", path, n.Kind)
		return
	}
	var principal, qps, capacity *jsontree.Node
	for _, e := range n.Entries {
		switch e.Key {
		case "principal":
			principal = e.Value
		case "qps":
			qps = e.Value
		case "capacity":
			capacity = e.Value
		default:
			d.unknown(e, path, "principal", "qps", "capacity")
		}
	}
	switch {
	case principal == nil:
		d.bad.At(n, "%s has no principal — say whose limit it is.", path)
		return
	case principal.Kind != jsontree.Scalar || principal.Text == "" || len(principal.Text) > 1024:
		d.bad.At(principal, "%s.principal must be a name of 1 to 1024 bytes.", path)
		return
	case d.seen[principal.Text]:
		d.bad.At(principal, "%s: %.80q has a limit already — keep one of them.", path, principal.Text)
		return
	}
	d.seen[principal.Text] = true
	d.out.Limits = append(d.out.Limits, Limit{principal.Text, d.rate(path+".qps", path+".capacity", qps, capacity)})
}

// rate reads a bound; without a capacity, what a second brings may come at once.
func (d *decoder) rate(qpsPath, capacityPath string, qps, capacity *jsontree.Node) Rate {
	if qps == nil {
		if capacity != nil {
			d.bad.At(capacity, "%s without %s limits nothing — give the rate, or remove it.", capacityPath, qpsPath)
		}
		return Rate{}
	}
	r := Rate{}
	r.QPS = d.number(qps)
	if !(r.QPS > 0 && r.QPS <= maxRate) {
		d.bad.At(qps, "%s must be a number of calls a second, more than 0 and at most %.0f — leave it out for no limit.", qpsPath, maxRate)
		return Rate{}
	}
	r.Capacity = uint64(math.Max(1, math.Ceil(r.QPS)))
	if capacity == nil {
		return r
	}
	n, err := strconv.ParseUint(capacity.Text, 10, 64)
	if capacity.Kind != jsontree.Scalar || err != nil || n < 1 || n > maxBurst {
		d.bad.At(capacity, "%s must be a whole number from 1 to %d: how many calls may come at once.", capacityPath, maxBurst)
		return r
	}
	r.Capacity = n
	return r
}

func (d *decoder) number(n *jsontree.Node) float64 {
	f, err := strconv.ParseFloat(n.Text, 64)
	if n.Kind != jsontree.Scalar || err != nil {
		return math.NaN()
	}
	return f
}

// MarshalJSON writes the limits in the one form that says the same: Parse of it gives them
// again.
func (l *Limits) MarshalJSON() ([]byte, error) {
	type row struct {
		Principal string  `json:"principal"`
		QPS       float64 `json:"qps,omitempty"`
		Capacity  uint64  `json:"capacity,omitempty"`
	}
	out := struct {
		Limits   []row   `json:"limits,omitempty"`
		QPS      float64 `json:"aggregate_default_qps,omitempty"`
		Capacity uint64  `json:"aggregate_default_capacity,omitempty"`
	}{QPS: l.Aggregate.QPS, Capacity: l.Aggregate.Capacity}
	for _, one := range l.Limits {
		out.Limits = append(out.Limits, row{one.Principal, one.QPS, one.Capacity})
	}
	return json.Marshal(out)
}
