package birth

// Reach is how far a state goes: the last entry in it. Zero: it is empty.
type Reach struct{ Height, Term, Index uint64 }

// Reach says how far what a master holds goes. A generation in which nothing was written
// goes no further than the state it was founded with, however high it stands: a birth
// that came to nothing must not outrank what was acknowledged meanwhile.
func (a Own) Reach() Reach {
	if a.Unwritten {
		return a.Origin
	}
	return Reach{a.Generation.Height, a.Term, a.LastIndex}
}

// Newer says whether what one master holds goes further than what another does.
func (a Own) Newer(b Own) bool { return a.Reach().further(b.Reach()) }

func (a Reach) further(b Reach) bool {
	if a.Height != b.Height {
		return a.Height > b.Height
	}
	if a.Term != b.Term {
		return a.Term > b.Term
	}
	return a.Index > b.Index
}
