package state

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Quota is what a role, with its parts, is guaranteed and at most may have, in thousandths
// by the name of a scalar. What has no limit is not limited.
type Quota struct{ Guarantees, Limits map[string]int64 }

// Empty says whether it is none.
func (q Quota) Empty() bool { return len(q.Guarantees) == 0 && len(q.Limits) == 0 }

// RoleQuota is a role with its quota; with an empty one the role has none.
type RoleQuota struct {
	Role string
	Quota
}

const (
	maxQuotas     = 10_000
	maxQuotaNames = 1000 // scalars in one of a quota's lists
)

// UpdateQuota changes the quotas of some roles, all or none; those of others stay.
type UpdateQuota struct{ Quotas []RoleQuota }

func (UpdateQuota) kind() kind { return kindUpdateQuota }

func (c UpdateQuota) encode(w *writer) {
	w.uint(uint64(len(c.Quotas)))
	for _, q := range c.Quotas {
		w.quota(q)
	}
}

func (w *writer) quota(q RoleQuota) {
	w.string(q.Role)
	for _, list := range []map[string]int64{q.Guarantees, q.Limits} {
		w.uint(uint64(len(list)))
		for _, name := range slices.Sorted(maps.Keys(list)) {
			w.string(name)
			w.int(list[name])
		}
	}
}

func (r *reader) quota() RoleQuota {
	q := RoleQuota{Role: r.string()}
	for _, list := range []*map[string]int64{&q.Guarantees, &q.Limits} {
		for range r.count() {
			if *list == nil {
				*list = map[string]int64{}
			}
			name := r.string()
			(*list)[name] = r.int()
		}
	}
	return q
}

func decodeUpdateQuota(r *reader) Command {
	var c UpdateQuota
	for range r.count() {
		c.Quotas = append(c.Quotas, r.quota())
	}
	return c
}

// CheckQuota says why a quota cannot be, whatever the cluster is.
func CheckQuota(q RoleQuota) error {
	if q.Role == "" || q.Role == "*" || len(q.Role) > maxRoleName {
		return fmt.Errorf("role %.64q can have no quota: %w", q.Role, ErrCommandInvalid)
	}
	for what, list := range map[string]map[string]int64{"guarantee": q.Guarantees, "limit": q.Limits} {
		if len(list) > maxQuotaNames {
			return fmt.Errorf("%s of %d resources for role %q: %w", what, len(list), q.Role, ErrCommandInvalid)
		}
		for name, milli := range list {
			if name == "" || milli < 0 || milli > maxMilli {
				return fmt.Errorf("%s of %d/1000 %q for role %q: %w", what, milli, name, q.Role, ErrCommandInvalid)
			}
		}
	}
	for name, milli := range q.Guarantees {
		if most, ok := q.Limits[name]; ok && milli > most {
			return fmt.Errorf("role %q is guaranteed %d/1000 %s and limited to %d/1000: %w", q.Role, milli, name, most, ErrCommandInvalid)
		}
	}
	return nil
}

func (c UpdateQuota) apply(s *State) (Result, error) {
	next := maps.Clone(s.quotas)
	if next == nil {
		next = map[string]Quota{}
	}
	for _, q := range c.Quotas {
		if err := CheckQuota(q); err != nil {
			return Result{}, err
		}
		if q.Empty() {
			delete(next, q.Role)
			continue
		}
		next[q.Role] = Quota{maps.Clone(q.Guarantees), maps.Clone(q.Limits)}
	}
	if len(next) > maxQuotas {
		return Result{}, fmt.Errorf("%d quotas: %w", len(next), ErrListFull)
	}
	s.quotas = next // snapshots share the one before
	return Result{}, nil
}

// Quotas gives the quota of each role that has one. The map is never changed, by its
// readers neither.
func (s *State) Quotas() map[string]Quota { return s.quotas }

// SortedQuotas is Quotas as a list, in the roles' order.
func SortedQuotas(quotas map[string]Quota) []RoleQuota {
	out := make([]RoleQuota, 0, len(quotas))
	for role, q := range quotas {
		out = append(out, RoleQuota{role, q})
	}
	slices.SortFunc(out, func(a, b RoleQuota) int { return cmp.Compare(a.Role, b.Role) })
	return out
}

func (s *State) writeQuotas(put func(kind uint64, f func(*writer))) {
	for _, q := range SortedQuotas(s.quotas) {
		put(recordQuota, func(w *writer) { w.quota(q) })
	}
}

func (s *State) restoreQuota(q RoleQuota) error {
	if _, twice := s.quotas[q.Role]; twice || CheckQuota(q) != nil || q.Empty() || len(s.quotas) >= maxQuotas {
		return ErrCorrupt
	}
	if s.quotas == nil {
		s.quotas = map[string]Quota{}
	}
	s.quotas[q.Role] = q.Quota
	return nil
}
