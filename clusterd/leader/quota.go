package leader

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/mesolith/mesolith/clusterd/state"
)

// QuotaChange is what an operator wants of quotas: all of it or none.
type QuotaChange struct {
	Quotas []state.RoleQuota
	// Force lets through what the cluster cannot keep now: guarantees that are more than
	// there is, limits below what a role has.
	Force bool
	// New refuses roles that have a quota, Known those that have none.
	New, Known bool
}

// UpdateQuota changes quotas; nil: that is committed. ErrInvalid: it cannot be, and nothing
// was changed; ErrConflict: it could be if the cluster were larger.
func (l *Leader) UpdateQuota(ctx context.Context, c QuotaChange) error {
	seen := map[string]bool{}
	for _, q := range c.Quotas {
		if err := checkRole(q.Role); err != nil {
			return invalidCall("%v", err)
		}
		if err := state.CheckQuota(q); err != nil {
			return invalidCall("%v", err)
		}
		if seen[q.Role] {
			return invalidCall("role %q is there twice", q.Role)
		}
		seen[q.Role] = true
	}
	return l.enter(ctx, func(answer func(error)) { l.changeQuotas(c, answer) })
}

// changeQuotas does one change after the other: each is held against what the one before
// has made.
func (l *Leader) changeQuotas(c QuotaChange, answer func(error)) {
	if l.quotaBusy {
		l.quotaNext = append(l.quotaNext, func() { l.changeQuotas(c, answer) })
		return
	}
	var refused error
	l.cfg.Machine.View(func(s *state.State) { refused = l.checkQuotas(s, c) })
	if refused != nil {
		answer(refused)
		return
	}
	l.quotaBusy = true
	l.propose(state.UpdateQuota{Quotas: c.Quotas}, func(_ state.Result, err error) {
		switch {
		case err == nil:
			// Who holds offers was given them by the old quotas, and may use all of them.
			l.rescindAll()
			l.allocate = true
		case isRefusal(err):
			err = invalidCall("%v", err)
		}
		answer(err)
		waiting := l.quotaNext
		l.quotaBusy, l.quotaNext = false, nil
		for _, next := range waiting {
			next()
		}
	})
}

// checkQuotas holds a change against the cluster as it is.
func (l *Leader) checkQuotas(s *state.State, c QuotaChange) error {
	after := map[string]state.Quota{}
	for role, q := range s.Quotas() {
		after[role] = q
	}
	for _, q := range c.Quotas {
		_, has := after[q.Role]
		switch {
		case c.New && has:
			return invalidCall("role %q has a quota already; remove it first, or update it with UPDATE_QUOTA", q.Role)
		case c.Known && !has:
			return invalidCall("role %q has no quota", q.Role)
		}
		if delete(after, q.Role); !q.Empty() {
			after[q.Role] = q.Quota
		}
	}
	guaranteed, err := totals(after)
	if err != nil || c.Force {
		return err
	}
	var capacity state.Resources
	for a := range s.Agents() {
		if sum, err := capacity.Plus(a.Total); err == nil && !a.Unreachable {
			capacity = sum
		}
	}
	for name, milli := range guaranteed {
		if most := scalarsOf(capacity, name); milli > most {
			return refusal{fmt.Sprintf("all guarantees together are %s %s, and all agents have %s; 'force' lets it through", amount(milli), name, amount(most)), ErrConflict}
		}
	}
	has := Consumed(s, after)
	for _, q := range c.Quotas {
		for name, most := range q.Limits {
			if has := has[q.Role][name]; has > most {
				return invalidCall("role %q has %s %s, which is more than the limit of %s; 'force' lets it through", q.Role, amount(has), name, amount(most))
			}
		}
	}
	return nil
}

// totals adds up what all roles are guaranteed: of a role its own guarantee, or those of
// its parts if they are more together. More than a role's limit cannot be.
func totals(quotas map[string]state.Quota) (map[string]int64, error) {
	var below func(top string) (map[string]int64, error)
	list := state.SortedQuotas(quotas)
	below = func(top string) (map[string]int64, error) {
		sum := map[string]int64{}
		for _, q := range list {
			if q.Role == top || top != "" && !strings.HasPrefix(q.Role, top+"/") || slices.ContainsFunc(list, func(o state.RoleQuota) bool {
				return o.Role != top && strings.HasPrefix(q.Role, o.Role+"/") && (top == "" || strings.HasPrefix(o.Role, top+"/"))
			}) {
				continue // not directly below
			}
			part, err := below(q.Role)
			if err != nil {
				return nil, err
			}
			for name, milli := range part {
				sum[name] += milli
			}
		}
		q := quotas[top]
		for name, milli := range q.Guarantees {
			sum[name] = max(sum[name], milli)
		}
		for name, milli := range sum {
			if most, ok := q.Limits[name]; ok && milli > most {
				return nil, invalidCall("the parts of role %q are guaranteed %s %s, and it is limited to %s", top, amount(milli), name, amount(most))
			}
		}
		return sum, nil
	}
	return below("")
}

func amount(milli int64) string { return fmt.Sprintf("%g", float64(milli)/1000) }

// scalarsOf is how much there is that quotas are about: not what may be taken back.
func scalarsOf(rs state.Resources, name string) (milli int64) {
	for _, r := range rs {
		if r.Name == name && r.Kind == state.ScalarKind && !r.Revocable() {
			milli += r.Milli
		}
	}
	return milli
}

// Consumed is how much of each scalar the roles with a quota have, with their parts: what is
// reserved for them, and what their tasks hold of the rest. What may be taken back counts nowhere.
func Consumed(s *state.State, quotas map[string]state.Quota) map[string]map[string]int64 {
	out := make(map[string]map[string]int64, len(quotas))
	for role := range quotas {
		out[role] = map[string]int64{}
	}
	add := func(role string, rs state.Resources, reserved bool) {
		for at := len(role); at > 0; at = strings.LastIndexByte(role[:at], '/') { // it, and what it is a part of
			has, ok := out[role[:at]]
			for _, r := range rs {
				if ok && r.Kind == state.ScalarKind && (r.Role != "") == reserved && !r.Revocable() && (!reserved || r.Role == role) {
					has[r.Name] += r.Milli
				}
			}
		}
	}
	names := map[string]bool{}
	for a := range s.Agents() {
		for i, r := range a.Total {
			names[r.Name] = names[r.Name] || r.Kind == state.ScalarKind
			if r.Role != "" {
				add(r.Role, a.Total[i:i+1], true)
			}
		}
	}
	for name, scalar := range names {
		for _, has := range out {
			if scalar {
				has[name] += 0 // said where it is nothing, too
			}
		}
	}
	for f := range s.Frameworks() {
		for _, held := range f.AllocatedRoles() {
			add(held, f.Allocated(held), false)
		}
	}
	return out
}
