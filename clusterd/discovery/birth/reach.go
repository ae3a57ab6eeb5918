package birth

import (
	"slices"
	"strings"
)

// Reach is how far a state goes: the last entry in it, and whose it is. Zero: it is empty.
type Reach struct {
	Height, Term, Index uint64
	ID                  string  `json:",omitempty"` // of the generation, with Height
	Voters              []Voter `json:",omitempty"` // the newest configuration in it
}

// Reach says how far what a master holds goes. A generation in which nothing was written
// goes no further than the state it was founded with, however high it stands: a birth
// that came to nothing must not outrank what was acknowledged meanwhile.
func (a Own) Reach() Reach {
	if a.Unwritten {
		return a.Origin
	}
	return Reach{a.Generation.Height, a.Term, a.LastIndex, a.Generation.ID, a.Voters}
}

// Same says whether two states are one.
func (a Reach) Same(b Reach) bool {
	return a.Height == b.Height && a.ID == b.ID && a.Term == b.Term && a.Index == b.Index
}

// longer says whether a state has come further by numbers alone.
func (a Reach) longer(b Reach) bool {
	if a.Height != b.Height {
		return a.Height > b.Height
	}
	if a.Term != b.Term {
		return a.Term > b.Term
	}
	return a.Index > b.Index
}

// precedes says whether a voter who lives proves that one generation was dead before
// another had him.
func (a Reach) precedes(b Reach, living map[string]string) bool {
	if a.ID == b.ID {
		return false
	}
	for _, v := range b.Voters {
		if v.Incarnation == "" || life(living[v.Name]) != life(v.Incarnation) {
			continue
		}
		for _, u := range a.Voters {
			if u.Name == v.Name && u.Incarnation != "" && life(u.Incarnation) != life(v.Incarnation) {
				return true
			}
		}
	}
	return false
}

// life is the part of an incarnation that stays when a generation is left: as long as it is
// the same, nothing was forgotten.
func life(incarnation string) string {
	life, _, _ := strings.Cut(incarnation, ".")
	return life
}

// Newest gives the answer of who holds the newest state, the first of those who hold the
// same; nil: nobody holds any.
//
// Mostly the founder of the later generation knew the former one and made its own higher.
// A birth that heard nobody of an earlier generation may have made one as high, or lower.
// But those that it was born without are dead, and that can be seen as long as a single
// voter of it lives: the earlier one has his name for an incarnation that he has forgotten
// (docs/adr/0012).
func Newest(answers []Answer) *Answer {
	living := make(map[string]string, len(answers))
	for _, a := range answers {
		living[a.Name] = a.Incarnation
	}
	var best, longest *Answer
	for i := range answers {
		a := &answers[i]
		if !a.Bound && !a.Legacy {
			continue
		}
		if longest == nil || a.Reach().longer(longest.Reach()) {
			longest = a
		}
		if !slices.ContainsFunc(answers, func(b Answer) bool { return (b.Bound || b.Legacy) && a.Reach().precedes(b.Reach(), living) }) &&
			(best == nil || a.Reach().longer(best.Reach())) {
			best = a
		}
	}
	if best == nil { // it cannot be that each precedes another; but nothing may be lost by it
		best = longest
	}
	return best
}
