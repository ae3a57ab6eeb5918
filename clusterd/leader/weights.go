package leader

import (
	"context"
	"strings"

	"github.com/mesolith/mesolith/clusterd/state"
)

// UpdateWeights changes the weights of roles, as an operator wants it; nil: that is
// committed. ErrInvalid: a role or a weight that cannot be, and nothing was changed.
func (l *Leader) UpdateWeights(ctx context.Context, list []state.Weight) error {
	for _, w := range list {
		if err := checkRole(w.Role); err != nil {
			return invalidCall("%v", err)
		}
		if err := state.CheckWeight(w); err != nil {
			return invalidCall("%v", err)
		}
	}
	return l.enter(ctx, func(answer func(error)) {
		l.propose(state.UpdateWeights{Weights: list}, func(_ state.Result, err error) {
			switch {
			case err == nil:
				l.reweighed(list)
			case isRefusal(err):
				err = invalidCall("%v", err)
			}
			answer(err)
		})
	})
}

// reweighed takes all offers back where a weight counts for somebody who is subscribed:
// who holds offers was given them by the old weights.
func (l *Leader) reweighed(list []state.Weight) {
	l.allocate = true
	for _, f := range l.frameworks {
		for _, role := range f.roles {
			for _, w := range list {
				if role == w.Role || strings.HasPrefix(role, w.Role+"/") {
					l.rescindAll()
					return
				}
			}
		}
	}
}

func (l *Leader) rescindAll() {
	for _, o := range l.book.All() {
		l.rescind(o)
	}
}
