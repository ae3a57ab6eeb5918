package birth

import "slices"

// Dead says whether a generation can have no quorum any more, by the truth of the
// masters that answered (n there are; all: every one answered).
func Dead(g Generation, answers []Answer, n int, all bool) bool {
	q := n/2 + 1
	outside := map[string]bool{}
	var newest []Voter
	var index uint64
	for _, a := range answers {
		switch {
		case !a.Bound || a.Generation != g:
			outside[a.Name] = true
		case a.ConfigIndex >= index && slices.Contains(a.Voters, Voter{a.Name, a.Incarnation}):
			// Only who votes in a configuration is needed for the next one: a learner
			// may know none of what came after.
			newest, index = a.Voters, a.ConfigIndex
		}
	}
	if len(outside) >= q {
		return true
	}
	if newest == nil {
		return all // nobody who lives votes in it
	}
	placeholders := 0
	for _, v := range newest {
		if v.Incarnation == "" {
			placeholders++
		}
	}
	// A replacement first commits n−1 members with all q real ones, so while the
	// configuration is full none of them believes in less. A placeholder's master may
	// have answered itself: it counts once.
	if len(newest) == n && n-placeholders == q {
		for _, v := range newest {
			if v.Incarnation == "" {
				outside[v.Name] = true
			}
		}
		if len(outside) >= q {
			return true
		}
	}
	if !all {
		return false
	}
	return !electable(g, answers)
}

// electable says whether one of those who answered could be elected by them. A server
// grants no vote to one with an older log, nor to one that has none in its own newest
// configuration: a leader that dies when only a newcomer knows of the newcomer's vote
// leaves masters behind that are a majority by number, and elect nobody for ever.
func electable(g Generation, answers []Answer) bool {
	for _, c := range answers {
		candidate := Voter{c.Name, c.Incarnation}
		if !c.Bound || c.Generation != g || !slices.Contains(c.Voters, candidate) {
			continue
		}
		granted := 0
		for _, v := range answers {
			voter := Voter{v.Name, v.Incarnation}
			if v.Bound && v.Generation == g && slices.Contains(c.Voters, voter) && slices.Contains(v.Voters, candidate) && !v.Reach().longer(c.Reach()) {
				granted++
			}
		}
		if granted >= len(c.Voters)/2+1 {
			return true
		}
	}
	return false
}

// Confirmed says whether a birth may go on with those who left what they belonged to:
// they alone kept their promise, so they alone are still what they answered. Another may
// have begun anew since, and be a voter of the very generation that its former answer
// helped to declare dead (n: all masters).
func (f Found) Confirmed(left func(name string) bool, n int) bool {
	var kept []Answer
	for _, p := range f.Participants {
		if left(p.Name) {
			kept = append(kept, p)
		}
	}
	for _, a := range kept {
		if a.Bound && !Dead(a.Generation, kept, n, len(kept) == n) {
			return false
		}
	}
	return len(kept) >= n/2+1
}
