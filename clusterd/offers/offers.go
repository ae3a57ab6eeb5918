// Package offers keeps one leader's promises: which free resources were shown to which
// framework. They live in memory and die with the term; what a framework accepts is
// checked against the state again when its launch is applied, so that a promise made
// twice (by two leaders, in two terms) is kept once.
//
// Invariants: an offer is of one agent, one role and one framework; an id is given out
// once in all terms of a generation (`<generation>-O<term>.<n>`); what is offered of an
// agent is the sum of its outstanding offers, at any moment.
//
// It sends nothing and decides nothing: alloc decides what is offered to whom, the
// leader tells, and has the one Book of its term, which does no locking.
package offers

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/mesolith/mesolith/clusterd/state"
)

// ID names an offer on the wire.
type ID string

// Offer is one promise.
type Offer struct {
	ID        ID
	Framework state.FrameworkID
	Role      string
	Agent     state.AgentID
	Resources state.Resources
	MadeNS    int64 // Unix time, for those who watch

	number uint64
}

// Reasons why a call's offers cannot be taken. The protocol treats them alike (the
// tasks are lost with REASON_INVALID_OFFERS); the words are for people.
var (
	ErrUnknown   = errors.New("offer is not valid any more")
	ErrForeign   = errors.New("offer was made to another framework")
	ErrDuplicate = errors.New("offer is named twice")
	ErrMixed     = errors.New("offers of several agents or roles in one call")
	ErrNone      = errors.New("no offer is named")
)

// Book is all outstanding offers of one term.
type Book struct {
	prefix      string
	last        uint64
	all         map[ID]*Offer
	byAgent     map[state.AgentID]map[ID]*Offer
	byFramework map[state.FrameworkID]map[ID]*Offer
}

// New begins a term's book; round counts the books that the same term had before.
func New(generation string, term uint64, round int) *Book {
	return &Book{
		last:        uint64(round) << 40,
		prefix:      generation + "-O" + strconv.FormatUint(term, 10) + ".",
		all:         map[ID]*Offer{},
		byAgent:     map[state.AgentID]map[ID]*Offer{},
		byFramework: map[state.FrameworkID]map[ID]*Offer{},
	}
}

// Make writes a promise down.
func (b *Book) Make(framework state.FrameworkID, role string, agent state.AgentID, rs state.Resources, nowNS int64) Offer {
	o := &Offer{
		ID: ID(b.prefix + strconv.FormatUint(b.last, 10)), Framework: framework, Role: role, Agent: agent,
		Resources: rs, MadeNS: nowNS, number: b.last,
	}
	b.last++
	b.all[o.ID] = o
	put(b.byAgent, agent, o)
	put(b.byFramework, framework, o)
	return *o
}

func put[K comparable](index map[K]map[ID]*Offer, key K, o *Offer) {
	if index[key] == nil {
		index[key] = map[ID]*Offer{}
	}
	index[key][o.ID] = o
}

func drop[K comparable](index map[K]map[ID]*Offer, key K, id ID) {
	delete(index[key], id)
	if len(index[key]) == 0 {
		delete(index, key)
	}
}

// Remove ends an offer: rescinded, declined or taken.
func (b *Book) Remove(id ID) (Offer, bool) {
	o, ok := b.all[id]
	if !ok {
		return Offer{}, false
	}
	delete(b.all, id)
	drop(b.byAgent, o.Agent, id)
	drop(b.byFramework, o.Framework, id)
	return *o, true
}

// Take ends the offers that a call names, for one use together. Whatever comes out,
// the framework's own offers among them are gone afterwards: they are in taken, also
// when err says that together they are good for nothing.
func (b *Book) Take(framework state.FrameworkID, ids []ID) (taken []Offer, err error) {
	if len(ids) == 0 {
		return nil, ErrNone
	}
	seen := make(map[ID]bool, len(ids))
	for _, id := range ids {
		if seen[id] {
			err = cmp.Or(err, fmt.Errorf("offer %s: %w", id, ErrDuplicate))
			continue
		}
		seen[id] = true
		o, known := b.all[id]
		switch {
		case !known:
			err = cmp.Or(err, fmt.Errorf("offer %s: %w", id, ErrUnknown))
			continue
		case o.Framework != framework:
			err = cmp.Or(err, fmt.Errorf("offer %s: %w", id, ErrForeign))
			continue
		}
		b.Remove(id)
		taken = append(taken, *o)
		if first := taken[0]; o.Agent != first.Agent || o.Role != first.Role {
			err = cmp.Or(err, fmt.Errorf("offer %s: %w", id, ErrMixed))
		}
	}
	return taken, err
}

// Get returns an outstanding offer.
func (b *Book) Get(id ID) (Offer, bool) {
	o, ok := b.all[id]
	if !ok {
		return Offer{}, false
	}
	return *o, true
}

// OfAgent returns an agent's outstanding offers, oldest first.
func (b *Book) OfAgent(id state.AgentID) []Offer { return sorted(b.byAgent[id]) }

// OfFramework returns what a framework has been offered, oldest first.
func (b *Book) OfFramework(id state.FrameworkID) []Offer { return sorted(b.byFramework[id]) }

// All returns every outstanding offer, oldest first.
func (b *Book) All() []Offer { return sorted(b.all) }

// Len is the number of outstanding offers.
func (b *Book) Len() int { return len(b.all) }

func sorted(m map[ID]*Offer) []Offer {
	out := make([]Offer, 0, len(m))
	for _, o := range m {
		out = append(out, *o)
	}
	slices.SortFunc(out, func(x, y Offer) int { return cmp.Compare(x.number, y.number) })
	return out
}

// Offered is the sum of what is promised of an agent; what is shared is in it once, whoever
// was promised it.
func (b *Book) Offered(id state.AgentID) state.Resources {
	var sum state.Resources
	for _, o := range b.byAgent[id] {
		total, err := sum.Join(o.Resources)
		if err != nil {
			continue // a sum beyond all bounds: nothing of it is free anyway
		}
		sum = total
	}
	return sum
}
