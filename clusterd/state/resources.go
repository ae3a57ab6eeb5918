package state

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Names of the resources that mean something to the cluster itself.
const (
	CPUs  = "cpus"
	Mem   = "mem"  // MiB
	Disk  = "disk" // MiB
	GPUs  = "gpus"
	Ports = "ports"
)

// ResourceKind says which of a Resource's values counts. Values are in the log.
type ResourceKind uint8

const (
	ScalarKind ResourceKind = 0
	RangesKind ResourceKind = 1
	SetKind    ResourceKind = 2
)

// Range is a closed interval of ports or of any other numbered thing.
type Range struct{ Begin, End uint64 }

// Resource is one amount of one thing under one reservation. Scalars are thousandths
// of the wire's unit, which is also how finely the protocol compares them.
type Resource struct {
	Name   string
	Role   string // the role it is reserved for; empty: unreserved
	Detail string // what else tells it from others, see Details and With
	Kind   ResourceKind
	Milli  int64    // ScalarKind
	Ranges []Range  // RangesKind: ascending, disjoint, not touching
	Items  []string // SetKind: ascending, unique

	Mounting *Mounting // of a persistent volume; what it points to never changes
}

// Resources is a bag of resources in canonical form: ascending by name, role and details,
// each once, nothing empty. It is a value: operations return new bags and share what
// did not change.
type Resources []Resource

// ErrResourceInvalid says that an amount can not exist: negative, too large, two kinds
// under one name, a range that ends before it begins.
var ErrResourceInvalid = errors.New("invalid resource")

// maxMilli bounds one scalar, so that sums over any cluster fit an int64.
const maxMilli = 1 << 46

// Thousandths converts a scalar as the protocol compares it; ok is false for what no
// scalar may be.
func Thousandths(v float64) (milli int64, ok bool) {
	if math.IsNaN(v) || v < 0 || v > maxMilli/1000 {
		return 0, false
	}
	return int64(math.Round(v * 1000)), true
}

// NewResources brings any list into canonical form: equal names and roles are added.
func NewResources(list ...Resource) (Resources, error) {
	out := make(Resources, 0, len(list))
	for _, r := range list {
		clean, err := r.normalized()
		if err != nil {
			return nil, err
		}
		out = append(out, clean)
	}
	slices.SortStableFunc(out, compareResource)
	merged := out[:0]
	for _, r := range out {
		if n := len(merged); n > 0 && compareResource(merged[n-1], r) == 0 {
			sum, err := merged[n-1].plus(r)
			if err != nil {
				return nil, err
			}
			merged[n-1] = sum
			continue
		}
		merged = append(merged, r)
	}
	return slices.DeleteFunc(merged, Resource.empty), nil
}

func compareResource(a, b Resource) int {
	if c := cmp.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	if c := cmp.Compare(a.Role, b.Role); c != 0 {
		return c
	}
	return cmp.Compare(a.Detail, b.Detail)
}

func (r Resource) normalized() (Resource, error) {
	if r.Name == "" {
		return r, fmt.Errorf("resource without a name: %w", ErrResourceInvalid)
	}
	switch r.Kind {
	case ScalarKind:
		if r.Milli < 0 || r.Milli > maxMilli {
			return r, fmt.Errorf("%s %d/1000: %w", r.Name, r.Milli, ErrResourceInvalid)
		}
		r.Ranges, r.Items = nil, nil
	case RangesKind:
		ranges, err := normalRanges(r.Ranges)
		if err != nil {
			return r, fmt.Errorf("%s: %w", r.Name, err)
		}
		r.Milli, r.Ranges, r.Items = 0, ranges, nil
	case SetKind:
		items := slices.Clone(r.Items)
		slices.Sort(items)
		r.Milli, r.Ranges, r.Items = 0, nil, slices.Compact(items)
	default:
		return r, fmt.Errorf("%s of kind %d: %w", r.Name, r.Kind, ErrResourceInvalid)
	}
	return r, nil
}

func normalRanges(in []Range) ([]Range, error) {
	sorted := slices.Clone(in)
	slices.SortFunc(sorted, func(a, b Range) int { return cmp.Compare(a.Begin, b.Begin) })
	out := sorted[:0]
	for _, r := range sorted {
		if r.Begin > r.End {
			return nil, fmt.Errorf("range %d-%d: %w", r.Begin, r.End, ErrResourceInvalid)
		}
		if n := len(out); n > 0 && (out[n-1].End == math.MaxUint64 || r.Begin <= out[n-1].End+1) {
			out[n-1].End = max(out[n-1].End, r.End)
			continue
		}
		out = append(out, r)
	}
	return out, nil
}

func (r Resource) empty() bool {
	switch r.Kind {
	case ScalarKind:
		return r.Milli == 0
	case RangesKind:
		return len(r.Ranges) == 0
	default:
		return len(r.Items) == 0
	}
}

func (r Resource) plus(o Resource) (Resource, error) {
	if r.Kind != o.Kind {
		return r, fmt.Errorf("%s has values of two kinds: %w", r.Name, ErrResourceInvalid)
	}
	if r.Mounting == nil {
		r.Mounting = o.Mounting
	}
	switch r.Kind {
	case ScalarKind:
		r.Milli += o.Milli
		if r.Milli > maxMilli {
			return r, fmt.Errorf("%s is too large: %w", r.Name, ErrResourceInvalid)
		}
	case RangesKind:
		ranges, err := normalRanges(append(slices.Clone(r.Ranges), o.Ranges...))
		if err != nil {
			return r, err
		}
		r.Ranges = ranges
	case SetKind:
		items := append(slices.Clone(r.Items), o.Items...)
		slices.Sort(items)
		r.Items = slices.Compact(items)
	}
	return r, nil
}

// minus takes o out of r; whole is false when r does not hold all of it.
func (r Resource) minus(o Resource) (left Resource, whole bool) {
	if r.Kind != o.Kind {
		return r, false
	}
	switch r.Kind {
	case ScalarKind:
		whole = r.Milli >= o.Milli
		r.Milli = max(0, r.Milli-o.Milli)
	case RangesKind:
		r.Ranges, whole = minusRanges(r.Ranges, o.Ranges)
	case SetKind:
		whole = true
		for _, item := range o.Items {
			if _, found := slices.BinarySearch(r.Items, item); !found {
				whole = false
			}
		}
		r.Items = slices.DeleteFunc(slices.Clone(r.Items), func(item string) bool {
			_, found := slices.BinarySearch(o.Items, item)
			return found
		})
	}
	return r, whole
}

func minusRanges(have, take []Range) (left []Range, whole bool) {
	var had, taken uint64
	for _, h := range have {
		begin := h.Begin
		open := true
		for _, t := range take {
			if t.End < begin || t.Begin > h.End || !open {
				continue
			}
			from, to := max(t.Begin, begin), min(t.End, h.End)
			had += to - from + 1
			if from > begin {
				left = append(left, Range{begin, from - 1})
			}
			open = to < h.End
			begin = to + 1
		}
		if open {
			left = append(left, Range{begin, h.End})
		}
	}
	for _, t := range take {
		taken += t.End - t.Begin + 1
	}
	return left, had == taken
}

// Plus adds two bags. Amounts that would leave the bounds are an error.
func (rs Resources) Plus(o Resources) (Resources, error) {
	if len(o) == 0 {
		return rs, nil
	}
	if len(rs) == 0 {
		return o, nil
	}
	out := make(Resources, 0, len(rs)+len(o))
	for len(rs) > 0 && len(o) > 0 {
		switch c := compareResource(rs[0], o[0]); {
		case c < 0:
			out, rs = append(out, rs[0]), rs[1:]
		case c > 0:
			out, o = append(out, o[0]), o[1:]
		default:
			sum, err := rs[0].plus(o[0])
			if err != nil {
				return nil, err
			}
			out, rs, o = append(out, sum), rs[1:], o[1:]
		}
	}
	return append(append(out, rs...), o...), nil
}

// Minus takes o out of rs. Where rs does not hold what o asks, nothing is left of
// that amount and whole is false.
func (rs Resources) Minus(o Resources) (left Resources, whole bool) {
	if len(o) == 0 {
		return rs, true
	}
	out, whole := make(Resources, 0, len(rs)), true
	for _, have := range rs {
		for len(o) > 0 && compareResource(o[0], have) < 0 {
			o, whole = o[1:], false
		}
		if len(o) == 0 || compareResource(o[0], have) != 0 {
			out = append(out, have)
			continue
		}
		rest, all := have.minus(o[0])
		whole = whole && all
		if !rest.empty() {
			out = append(out, rest)
		}
		o = o[1:]
	}
	return out, whole && len(o) == 0
}

// Contains says whether o can be taken out of rs.
func (rs Resources) Contains(o Resources) bool {
	_, whole := rs.Minus(o)
	return whole
}

// Milli returns the sum of a scalar over all reservations.
func (rs Resources) Milli(name string) int64 {
	var sum int64
	for _, r := range rs {
		if r.Name == name && r.Kind == ScalarKind {
			sum += r.Milli
		}
	}
	return sum
}

// ForRole returns what may be offered to a role: unreserved, and reserved for it or for a
// role that it is a part of.
func (rs Resources) ForRole(role string) Resources {
	for i := range rs { // what is all for the role is a bag already
		if !rs[i].mayGoTo(role) {
			return slices.DeleteFunc(slices.Clone(rs), func(r Resource) bool { return !r.mayGoTo(role) })
		}
	}
	return rs
}

func (r *Resource) mayGoTo(role string) bool {
	return r.Role == "" || r.Role == role || len(role) > len(r.Role) && role[len(r.Role)] == '/' && strings.HasPrefix(role, r.Role)
}

// String prints the text form of the protocol: cpus:1.5;ports:[31000-31009].
func (rs Resources) String() string {
	parts := make([]string, 0, len(rs))
	for _, r := range rs {
		parts = append(parts, r.Name+r.words()+":"+r.value())
	}
	return strings.Join(parts, ";")
}

func (r Resource) value() string {
	switch r.Kind {
	case ScalarKind:
		return strconv.FormatFloat(float64(r.Milli)/1000, 'f', -1, 64)
	case RangesKind:
		var parts []string
		for _, g := range r.Ranges {
			parts = append(parts, fmt.Sprintf("%d-%d", g.Begin, g.End))
		}
		return "[" + strings.Join(parts, ",") + "]"
	default:
		return "{" + strings.Join(r.Items, ",") + "}"
	}
}

func (w *writer) resources(rs Resources) {
	w.uint(uint64(len(rs)))
	for _, r := range rs {
		w.string(r.Name)
		w.string(r.Role)
		if r.Detail == "" {
			w.uint(uint64(r.Kind))
		} else {
			w.uint(uint64(r.Kind) | detailed)
			w.string(r.Detail)
			w.mounting(r.Mounting)
		}
		switch r.Kind {
		case ScalarKind:
			w.int(r.Milli)
		case RangesKind:
			w.uint(uint64(len(r.Ranges)))
			for _, g := range r.Ranges {
				w.uint(g.Begin)
				w.uint(g.End)
			}
		case SetKind:
			w.strings(r.Items)
		}
	}
}

// detailed marks the kind of a resource with details in the log.
const detailed = 1 << 4

func (w *writer) mounting(m *Mounting) {
	w.bool(m != nil)
	if m != nil {
		w.string(m.Path)
		w.bool(m.ReadOnly)
		w.string(m.Principal)
		w.uint(m.Serial)
	}
}

func (r *reader) mounting() *Mounting {
	if !r.bool() {
		return nil
	}
	return &Mounting{Path: r.string(), ReadOnly: r.bool(), Principal: r.string(), Serial: r.uint()}
}

// resources accepts canonical bags only, so that what is compared byte for byte was
// written byte for byte alike.
func (r *reader) resources() Resources {
	n := r.count()
	if n == 0 {
		return nil
	}
	list := make([]Resource, 0, min(n, 64))
	for range n {
		res := Resource{Name: r.string(), Role: r.string()}
		kind := min(r.uint(), 255)
		if kind&detailed != 0 {
			res.Detail, res.Mounting = r.string(), r.mounting()
			if res.Detail == "" {
				r.fail("details of a resource")
			}
		}
		res.Kind = ResourceKind(kind &^ detailed)
		switch res.Kind {
		case ScalarKind:
			res.Milli = r.int()
		case RangesKind:
			for range r.count() {
				res.Ranges = append(res.Ranges, Range{r.uint(), r.uint()})
			}
		case SetKind:
			res.Items = r.strings()
		}
		if r.err == nil {
			r.err = res.checkDetail()
		}
		if r.err != nil {
			return nil
		}
		list = append(list, res)
	}
	out, err := NewResources(list...)
	if err != nil || len(out) != n {
		r.fail("resources")
		return nil
	}
	for i := range out {
		if !slices.Equal(out[i].Ranges, list[i].Ranges) || !slices.Equal(out[i].Items, list[i].Items) || compareResource(out[i], list[i]) != 0 {
			r.fail("resources out of order")
			return nil
		}
	}
	return out
}
