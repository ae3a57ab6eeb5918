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
	living := 0
	for _, v := range newest {
		for _, a := range answers {
			if a.Bound && a.Generation == g && a.Name == v.Name && a.Incarnation == v.Incarnation {
				living++
			}
		}
	}
	return living < len(newest)/2+1
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
