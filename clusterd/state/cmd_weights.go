package state

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// Bounds of what is remembered of roles.
const (
	maxWeights  = 10_000
	maxRoleName = 4096 // bytes
)

// Weight is how much of the cluster a role, or a part of one, is to have against its
// siblings; 1 where nobody said otherwise.
type Weight struct {
	Role   string
	Weight float64 // > 0
}

// UpdateWeights changes the weights of some roles; those of others stay.
type UpdateWeights struct{ Weights []Weight }

func (UpdateWeights) kind() kind { return kindUpdateWeights }

func (c UpdateWeights) encode(w *writer) {
	w.uint(uint64(len(c.Weights)))
	for _, x := range c.Weights {
		w.weight(x)
	}
}

func (w *writer) weight(x Weight) {
	w.string(x.Role)
	w.uint(math.Float64bits(x.Weight))
}

func (r *reader) weight() Weight {
	return Weight{r.string(), math.Float64frombits(r.uint())}
}

func decodeUpdateWeights(r *reader) Command {
	var c UpdateWeights
	for range r.count() {
		c.Weights = append(c.Weights, r.weight())
	}
	return c
}

// CheckWeight says why a weight cannot be.
func CheckWeight(w Weight) error {
	if w.Role == "" || len(w.Role) > maxRoleName {
		return fmt.Errorf("role of %d bytes: %w", len(w.Role), ErrCommandInvalid)
	}
	if !(w.Weight > 0) || math.IsInf(w.Weight, 0) {
		return fmt.Errorf("weight %v of role %q: it must be more than 0: %w", w.Weight, w.Role, ErrCommandInvalid)
	}
	return nil
}

func (c UpdateWeights) apply(s *State) (Result, error) {
	next := maps.Clone(s.weights)
	if next == nil {
		next = map[string]float64{}
	}
	for _, w := range c.Weights {
		if err := CheckWeight(w); err != nil {
			return Result{}, err
		}
		next[w.Role] = w.Weight
	}
	if len(next) > maxWeights {
		return Result{}, fmt.Errorf("%d weights: %w", len(next), ErrListFull)
	}
	s.weights = next // snapshots share the one before
	return Result{}, nil
}

// Weights gives the weight of each role that was given one. The map is never changed, by
// its readers neither.
func (s *State) Weights() map[string]float64 { return s.weights }

// writeWeights writes a record for each, in the roles' order.
func (s *State) writeWeights(put func(kind uint64, f func(*writer))) {
	for _, role := range slices.Sorted(maps.Keys(s.weights)) {
		put(recordWeight, func(w *writer) { w.weight(Weight{role, s.weights[role]}) })
	}
}

func (s *State) restoreWeight(w Weight) error {
	if _, twice := s.weights[w.Role]; twice || CheckWeight(w) != nil || len(s.weights) >= maxWeights {
		return ErrCorrupt
	}
	if s.weights == nil {
		s.weights = map[string]float64{}
	}
	s.weights[w.Role] = w.Weight
	return nil
}
