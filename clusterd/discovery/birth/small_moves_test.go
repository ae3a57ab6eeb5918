package birth

import (
	"fmt"
	"math/bits"
)

type moveKind uint8

const (
	mvDeliver moveKind = iota
	mvStart
	mvWait
	mvGiveUp
	mvExpire
	mvAgain
	mvHeard
	mvElect
	mvReplicate
	mvCommand
	mvChange
	mvChangeOld
	mvStepDown
	mvOn
	mvOff
	mvRestart
	mvLose
	mvLate
	mvReplay
	mvDeafStart
	mvDeafElect
	mvDeafDeliver
	moveKinds
)

var moveNames = [moveKinds]string{
	"delivered", "attempts", "waited for all", "attempts given up", "promises ended", "challenged again", "leaders heard in an attempt",
	"elections", "replications", "commands", "membership", "membership by old news", "stepped down", "power on",
	"power off", "programs restarted", "messages lost", "answers not awaited", "messages replayed", "attempts deaf to a leader", "elections deaf to a leader", "promises deaf to a leader",
}

// move is one thing that may happen. stale: a leader asked who lives just before it.
type move struct {
	kind  moveKind
	i, j  uint8
	stale bool
}

func (m move) String() string {
	return fmt.Sprintf("%s %s %d stale=%v", moveNames[m.kind], nameOf(int(m.i)), m.j, m.stale)
}

// apply does a move; false: it cannot happen or changes nothing.
func (w *smallWorld) apply(s *scene, m move) bool {
	before := s.lives(w.n)
	w.drop = false
	if !w.happen(s, m) {
		return false
	}
	if m.stale {
		if before == s.lives(w.n) || !spend(&s.left.hasty) {
			return false
		}
		any := false
		for i := range w.n {
			if p := &s.p[i]; p.leading && !p.looked {
				p.looked, p.living, any = true, before, true
			}
		}
		if !any {
			return false
		}
	}
	if w.drop {
		w.beyond++
		return false
	}
	w.tidy(s)
	return true
}

// endless is a budget that is never spent.
const endless = 255

func spend(budget *uint8) bool {
	if *budget == 0 {
		return false
	}
	if *budget != endless {
		*budget--
	}
	return true
}

// waits says whether a move is the end of a span that somebody waited for, which is long
// against the way of a message.
func (k moveKind) waits() bool {
	switch k {
	case mvStart, mvWait, mvGiveUp, mvExpire, mvAgain, mvElect, mvChange, mvChangeOld, mvStepDown, mvDeafStart, mvDeafElect, mvOn, mvCommand:
		return true
	}
	return false
}

// untimely says whether clocks of the same speed and messages that take no time would have
// something else happen before: a message arrives, an attempt that is under way ends, a
// leader is elected. Such a move costs one of the budget.
func (w *smallWorld) untimely(s *scene, m move) bool {
	if w.busy(s) {
		return true
	}
	st := &w.states[s.st[m.i]]
	switch m.kind {
	case mvExpire:
		return st.own || st.promise != 0 && s.p[st.promisedTo-1].up && w.states[s.st[st.promisedTo-1]].attempt == st.promise
	case mvGiveUp:
		return st.mayWait
	case mvStart:
		for j := range w.n {
			if s.p[j].up && w.states[s.st[j]].attempt != 0 {
				return true
			}
			if _, ok := w.electable(s, j); ok && s.p[j].gen == s.p[m.i].gen && w.votes(s, j) {
				return true
			}
		}
	}
	return false
}

// votes says whether those who are on would elect a machine.
func (w *smallWorld) votes(s *scene, j int) bool {
	return s.p[j].up && bits.OnesCount8(w.reachable(s, j)) >= s.p[j].log.quorum()
}

func (w *smallWorld) happen(s *scene, m move) bool {
	i := int(m.i)
	if m.kind.waits() && w.untimely(s, m) && !spend(&s.left.hasty) {
		return false
	}
	switch m.kind {
	case mvDeliver, mvLose, mvLate, mvReplay, mvDeafDeliver:
		return w.mail(s, m)
	case mvElect, mvDeafElect:
		// Without a fault everybody votes who can, and nobody stands against a leader.
		calm := !w.wouldHear(s, i) && m.j == w.reachable(s, i)
		if calm != (m.kind == mvElect) || !calm && !spend(&s.left.deaf) {
			return false
		}
		return w.elect(s, i, m.j)
	case mvReplicate:
		return w.replicate(s, i, int(m.j))
	case mvOn:
		if s.p[i].up {
			return false
		}
		w.powerOn(s, i)
		return true
	}
	p := &s.p[i]
	if !p.up {
		return false
	}
	switch m.kind {
	case mvCommand:
		return w.command(s, i)
	case mvChange:
		return w.change(s, i, s.lives(w.n))
	case mvChangeOld:
		old := p.living
		if !p.looked {
			return false
		}
		p.looked, p.living = false, [most]uint8{}
		w.change(s, i, old)
		return true
	case mvStepDown:
		if !p.leading || w.holdsQuorum(s, i) {
			return false
		}
		w.unlead(p)
		w.did.stepsDown++
		return true
	case mvOff:
		if !spend(&s.left.reboots) {
			return false
		}
		w.powerOff(s, i)
		return true
	case mvRestart:
		if !spend(&s.left.restarts) {
			return false
		}
		w.restart(s, i)
		return true
	}
	return w.passTime(s, m)
}

// wouldHear says whether a leader is there that a machine hears, or is about to.
func (w *smallWorld) wouldHear(s *scene, i int) bool {
	p := &s.p[i]
	for j := range w.n {
		if l := &s.p[j]; p.member && l.up && l.leading && l.gen == p.gen && l.term >= p.term {
			return true
		}
	}
	return false
}

// reachable gives those who are on and would vote for a machine.
func (w *smallWorld) reachable(s *scene, i int) uint8 {
	who, _ := w.electable(s, i)
	for j := range w.n {
		if !s.p[j].up {
			who &^= 1 << j
		}
	}
	return who
}

// passTime ends one span that a machine waits for.
func (w *smallWorld) passTime(s *scene, m move) bool {
	i := int(m.i)
	p, st := &s.p[i], &w.states[s.st[i]]
	q := question{own: p.truth(i)}
	switch m.kind {
	case mvStart, mvDeafStart:
		if st.attempt != 0 || !st.free && !st.own {
			return false
		}
		if calm := !w.wouldHear(s, i); calm != (m.kind == mvStart) || !calm && !spend(&s.left.deaf) {
			return false
		}
		// What it asked in its last attempt is forgotten by now.
		w.filter(s, func(l *knownLetter) bool {
			return l.kind != mChallenge || (int(l.from) != i || l.answers) && (int(l.to) != i || !l.answers)
		})
		q.kind, q.attempt = qStart, w.newAttempt(s, i)
	case mvWait:
		if !st.mayWait {
			return false
		}
		q.kind = qWait
	case mvGiveUp:
		if st.attempt == 0 || st.founding {
			return false
		}
		q.kind = qGiveUp
	case mvAgain:
		if st.missing == 0 || !w.mayAskAgain(s, i, st) {
			return false
		}
		q.kind = qAgain
	case mvExpire:
		if st.promise == 0 || st.ended || st.own && !st.founding {
			return false
		}
		q = question{kind: qExpire}
	case mvHeard:
		if st.attempt == 0 || w.leaderOf(s, i) == 0 {
			return false
		}
		q = question{kind: qHeard}
	}
	was := s.st[i]
	w.let(s, i, q)
	return was != s.st[i] || m.kind == mvAgain && w.busy(s)
}

// busy says whether something is on its way, or a follower is about to hear of its leader.
func (w *smallWorld) busy(s *scene) bool {
	if s.wire[len(s.wire)-1] != 0 {
		return true
	}
	for i := range w.n {
		if !s.p[i].leading {
			continue
		}
		for j := range w.n {
			if w.behind(s, i, j) {
				return true
			}
		}
	}
	return false
}

// mayAskAgain: who still has a question to answer is not asked once more.
func (w *smallWorld) mayAskAgain(s *scene, i int, st *remembered) bool {
	for _, k := range s.wire {
		if l := &w.letters[k]; k != 0 && l.kind == mChallenge && (int(l.from) == i && !l.answers || int(l.to) == i && l.answers) {
			return false
		}
	}
	return true
}

// mail does what may happen to the j-th letter.
func (w *smallWorld) mail(s *scene, m move) bool {
	k := s.wire[m.j]
	if k == 0 || m.j > 0 && s.wire[m.j-1] == k {
		return false
	}
	l := w.letters[k].letter
	switch m.kind {
	case mvDeliver:
		s.take(int(m.j))
		w.arrive(s, l, false)
	case mvLose:
		if l.orphan || !spend(&s.left.lost) {
			return false
		}
		s.take(int(m.j))
		w.failed(s, l)
	case mvLate: // who asked waits no longer, and the question arrives all the same
		if l.kind != mLeave && l.kind != mFound || l.answers || l.orphan || !spend(&s.left.late) {
			return false
		}
		s.take(int(m.j))
		late := l
		late.orphan, late.want = true, false
		w.post(s, late)
		w.failed(s, l)
	case mvReplay:
		if !spend(&s.left.replays) {
			return false
		}
		w.arrive(s, l, false)
	case mvDeafDeliver:
		if l.kind != mChallenge || l.answers || w.leaderOf(s, int(l.to)) == 0 || !spend(&s.left.deaf) {
			return false
		}
		s.take(int(m.j))
		w.arrive(s, l, true)
	}
	return true
}

// moves calls f with everything that might happen.
func (w *smallWorld) moves(s *scene, f func(move)) {
	for k := range s.wire {
		if s.wire[k] == 0 {
			continue
		}
		for _, kind := range []moveKind{mvDeliver, mvLose, mvLate, mvReplay, mvDeafDeliver} {
			f(move{kind: kind, j: uint8(k)})
		}
	}
	for i := range uint8(w.n) {
		for kind := mvStart; kind < mvLose; kind++ {
			switch kind {
			case mvElect:
			case mvReplicate:
				for j := range uint8(w.n) {
					f(move{kind: kind, i: i, j: j})
				}
			default:
				f(move{kind: kind, i: i})
			}
		}
		f(move{kind: mvDeafStart, i: i})
		if could, ok := w.electable(s, int(i)); ok {
			for who := could; who != 0; who = (who - 1) & could {
				f(move{kind: mvElect, i: i, j: who})
				f(move{kind: mvDeafElect, i: i, j: who})
			}
		}
	}
}
