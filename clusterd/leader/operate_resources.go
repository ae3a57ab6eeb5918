package leader

import (
	"context"
	"errors"
	"fmt"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/state"
)

// ConvertResources makes resources of an agent something else, as an operator wants it; nil:
// that is committed. Offers that stand in the way are taken back, tasks are not touched.
// ErrInvalid: that cannot be asked; ErrForbidden: not by this principal; ErrConflict: as much is not free; ErrAgentUnknown.
func (l *Leader) ConvertResources(ctx context.Context, principal string, id state.AgentID, op *mesosv1.Offer_Operation) error {
	c, err := conversionOf(op, converter{principal: principal})
	if err != nil {
		return invalidCall("Invalid %s operation on agent %s: %v", op.GetType(), id, err)
	}
	return l.enter(ctx, func(answer func(error)) {
		if why := l.forbiddenOperation(principal, op, l.total(id)); why != "" {
			answer(refusal{why, ErrForbidden})
			return
		}
		if err := l.clear(id, c.take); err != nil {
			answer(err)
			return
		}
		by := holder{}
		if len(c.give) > 0 {
			by.role = c.give[0].Role
		}
		done, err := l.underWay(id, by, c.take)
		if err != nil {
			answer(invalidCall("agent %s: %v", id, err))
			return
		}
		l.propose(state.ConvertResources{Agent: id, Take: c.take, Give: c.give}, func(_ state.Result, err error) {
			done()
			switch {
			case err == nil:
				l.converted(id, c)
			case errors.Is(err, state.ErrAgentUnknown):
				err = fmt.Errorf("%w: %w", err, ErrAgentUnknown)
			case isRefusal(err):
				err = refusal{err.Error(), ErrConflict}
			}
			answer(err)
		})
	})
}

// total are the resources of an agent, with the volumes on them.
func (l *Leader) total(id state.AgentID) (out state.Resources) {
	l.cfg.Machine.View(func(s *state.State) {
		if a, ok := s.Agent(id); ok {
			out = a.Total
		}
	})
	return out
}

// clear takes back what is offered of an agent until some of its resources are free of
// offers.
func (l *Leader) clear(id state.AgentID, want state.Resources) error {
	var free state.Resources
	known := false
	l.cfg.Machine.View(func(s *state.State) {
		a, ok := s.Agent(id)
		if !ok {
			return
		}
		known, free = true, a.Free()
		for _, r := range want {
			if a.UsesOf(r) > 0 {
				free, _ = free.Minus(state.Resources{r})
			}
		}
	})
	if !known {
		return fmt.Errorf("agent %s: %w", id, ErrAgentUnknown)
	}
	free, _ = free.Minus(l.launching[id])
	if !free.Hold(want) {
		return refusal{fmt.Sprintf("%s are wanted, and agent %s has %s that no task uses", want, id, free), ErrConflict}
	}
	for _, o := range l.book.OfAgent(id) {
		if left, _ := free.Minus(l.book.Offered(id)); left.Hold(want) {
			break
		}
		l.rescind(o)
	}
	return nil
}
