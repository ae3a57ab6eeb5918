package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/mesolith/mesolith/internal/joinwire"
)

// overNetwork is the Joiner of a node: join/1 on the masters' port between nodes.
type overNetwork struct{}

// Join asks one master after the other. A refusal that another master could not lift
// (an unknown node, a wrong credential, a living other incarnation) ends the round.
func (overNetwork) Join(ctx context.Context, req JoinRequest) (JoinAnswer, error) {
	var failed []error
	for _, i := range req.Issuers {
		grant, err := joinwire.Ask(ctx, i.Address, joinwire.Request{
			Anchor: req.Anchor, Name: req.Name, Incarnation: req.Incarnation, CSR: req.CSR,
			Credential: req.BootKey, Now: req.Now, Previous: req.Previous,
		})
		if err == nil {
			return JoinAnswer{Chain: grant.Chain, Time: grant.Time}, nil
		}
		failed = append(failed, fmt.Errorf("ask %s at %s for a certificate: %w", i.Name, i.Address, err))
		if errors.Is(err, joinwire.ErrUnknownNode) || errors.Is(err, joinwire.ErrWrongCredential) || errors.Is(err, joinwire.ErrAlive) {
			break
		}
	}
	return JoinAnswer{}, errors.Join(failed...)
}
