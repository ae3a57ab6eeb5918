package birth

import "slices"

// Member is a server of a running generation's configuration.
type Member struct {
	Voter
	Votes    bool
	CaughtUp bool // it has everything the leader had when it was asked
}

// Step is one change of membership. A leader does one, waits until it is committed, and
// asks again.
type Step struct {
	Kind StepKind
	Who  Voter
}

// StepKind says which change.
type StepKind int

const (
	// Nothing is to be done, or nothing can be done yet.
	Nothing StepKind = iota
	// AddLearner: it receives the log, without a vote.
	AddLearner
	// Remove takes a member out.
	Remove
	// AddVoter gives a vote.
	AddVoter
)

// Replacement says what a leader does next so that every name of the list has one vote,
// carried by the incarnation that lives. living has the incarnation of each master that
// answered a fresh question; who did not answer is not in it.
//
// The configuration stays full (with placeholders) but for the moment between removing
// a dead member and giving its successor the vote; a half-done replacement is finished
// before anything else is begun.
//
// Where the list has changed, a new name first lives, then votes, and after that whoever
// is not on the list goes, if enough of those who stay live: neither may leave a majority
// to machines that are not there.
func Replacement(list []string, members []Member, living map[string]string) Step {
	voters := map[string]Voter{}
	for _, m := range members {
		if m.Votes {
			voters[m.Name] = m.Voter
		}
	}
	for _, m := range members {
		if m.Votes {
			continue
		}
		lives := living[m.Name] == m.Incarnation
		old, voting := voters[m.Name]
		switch {
		case !slices.Contains(list, m.Name) || (!lives && living[m.Name] != ""):
			return Step{Remove, m.Voter} // it is not wanted, or gone already
		case !lives:
			// The newcomer vanished. Where its predecessor still has the place nothing
			// was begun; otherwise a placeholder follows. Waiting would keep all others
			// from being replaced.
			return Step{Remove, m.Voter}
		case !m.CaughtUp:
			return Step{}
		case voting:
			return Step{Remove, old}
		default:
			return Step{AddVoter, m.Voter}
		}
	}
	full := true
	for _, name := range list {
		if _, voting := voters[name]; voting {
			continue
		}
		if len(voters)%2 == 0 { // it makes no majority larger
			return Step{AddVoter, Voter{Name: name}} // full again before anything else
		}
		full = false // a new name
	}
	if full && len(voters) > len(list) {
		lives := 0
		for _, name := range list {
			if living[name] != "" && living[name] == voters[name].Incarnation {
				lives++
			}
		}
		for _, m := range members {
			if m.Votes && !slices.Contains(list, m.Name) && lives >= (len(voters)-1)/2+1 {
				return Step{Remove, m.Voter}
			}
		}
	}
	for _, name := range list {
		if now := living[name]; now != "" && now != voters[name].Incarnation {
			return Step{AddLearner, Voter{name, now}}
		}
	}
	return Step{}
}
