package birth

import (
	"math/bits"
	"slices"
	"time"
)

// Scenes that behave alike are made the same one, each for a reason of its own. A search
// without all this (plain) has to come to the same verdicts; TestMergedIsPlain compares.
//
//   - Ids are random, and nothing compares them but for being equal: they are named anew
//     in the order in which a scene names them.
//   - What nothing reads is cut: of a log that was left all but its end and its commands,
//     what refused promises, what an own attempt says of itself, answers once founded.
//   - Of a generation that was heard of and that nobody names any more only this matters,
//     that it is another one.
//   - Answers that only count arrive at once (settle).

// merge makes scenes that behave alike the same.
func (w *smallWorld) merge(s *scene) {
	w.cut(s)
	var r renaming
	for i := range w.n {
		p := &s.p[i]
		r.incarnation(i, &p.incarnation)
		r.generation(&p.gen.id)
		r.generation(&p.leftGen.id)
		r.generation(&p.birth.gen.id)
		r.attempt(&p.birth.attempt)
	}
	for i := range w.n {
		p := &s.p[i]
		for _, v := range [...]*[most]uint8{&p.log.voter, &p.log.learner, &p.birth.left, &p.living} {
			r.voters(v)
		}
		r.voterLives(&p.left.voter)
		for _, x := range [...]*smallReach{&p.log.origin, &p.left.origin, &p.birth.origin} {
			r.reach(x)
		}
		for j := range p.heard {
			r.generation(&p.heard[j].id)
		}
		if p.birth.on {
			w.renameFound(&p.birth.found, &r)
		}
		s.st[i] = w.renameState(s.st[i], &r)
	}
	for at := len(s.wire) - 1; at >= 0 && s.wire[at] != 0; at-- {
		s.wire[at] = w.renameLetter(s.wire[at], &r)
	}
	slices.Sort(s.wire[:])
	gens, born := s.gens, s.born
	s.gens, s.born = [len(gens)]uint8{}, 0
	for k := range gens {
		if now := r.generations[k]; now != 0 {
			s.gens[now] = gens[k]
			s.born |= born >> k & 1 << now
		}
	}
}

// cut removes what nothing reads.
func (w *smallWorld) cut(s *scene) {
	var unused [most]lives
	_, named := w.told(s, &unused)
	for i := range w.n {
		p := &s.p[i]
		named |= 1<<p.gen.id | 1<<p.leftGen.id | 1<<p.birth.gen.id | 1<<p.log.origin.gen.id | 1<<p.left.origin.gen.id | 1<<p.birth.origin.gen.id
		if p.held {
			l := smallLog{length: p.left.length, term: p.left.term, origin: p.left.origin, voter: p.left.voter}
			for c, at := range p.left.cmd {
				l.cmd[c] = min(at, 1)
			}
			p.left = l
		}
	}
	for i := range w.n {
		for j, g := range s.p[i].heard {
			if g.id != 0 && named&(1<<g.id) == 0 {
				s.p[i].heard[j] = gone
			}
		}
	}
}

// settle takes letters that nothing depends on when they arrive, but for what a fault
// does to them: it is for scenes in which only machines may still fail.
func (w *smallWorld) settle(s *scene) {
	if f := s.left; f.hasty|f.lost|f.late|f.replays|f.restarts|f.deaf != 0 {
		return
	}
	for k := range s.wire {
		if s.wire[k] == 0 || !w.letters[s.wire[k]].answers {
			continue
		}
		l := w.letters[s.wire[k]].letter
		i := int(l.to)
		p := &s.p[i]
		switch l.kind {
		case mLeave, mFound: // only the last one of a round has an effect, or none has
			b := &p.birth
			if b.on && b.attempt == l.attempt && b.binding == (l.kind == mFound) && b.asked == 1<<l.from {
				continue
			}
			s.take(k)
			w.note(s, i, l)
		case mChallenge: // one that does not decide
			if l.answer.leader != 0 || p.highest < w.tallest(s) {
				continue
			}
			o := w.put(s.st[i], question{kind: qAnswered, own: p.truth(i), from: l.from + 1, attempt: l.attempt, answer: l.answer})
			if len(o.deeds) > 0 {
				continue
			}
			s.take(k)
			p.hears(int(l.from), l.answer)
			s.st[i] = o.state
		}
	}
}

// tallest is the greatest height that anybody can hear of.
func (w *smallWorld) tallest(s *scene) (height uint8) {
	for i := range w.n {
		p := &s.p[i]
		height = max(height, p.highest, p.gen.height, p.leftGen.height, p.birth.gen.height)
	}
	for at := len(s.wire) - 1; at >= 0 && s.wire[at] != 0; at-- {
		l := &w.letters[s.wire[at]]
		height = max(height, l.gen.height, l.answer.truth.highest, l.answer.truth.gen.height)
	}
	return height
}

// cutForSearch leaves out what no rule reads: what a master said of itself when it was
// last asked (decide asks anew), what those said who promised nothing, and all answers
// once something is founded by them.
func (s State) cutForSearch() State {
	if s.founding {
		s.answers, s.enough = nil, time.Time{}
		return s
	}
	answers := make(map[string]Answer, len(s.answers))
	for name, a := range s.answers {
		if name == s.cfg.Self || !a.Promised {
			a.Own = Own{}
		}
		answers[name] = a
	}
	s.answers = answers
	return s
}

// cut leaves out what the reader of a letter does not read.
func (l letter) cut() letter {
	t := &l.answer.truth
	switch {
	case !l.answers:
	case l.kind == mAsk:
		*t = truth{incarnation: t.incarnation}
	case l.kind == mChallenge && !l.answer.promised:
		*t = truth{bound: t.bound, gen: t.gen, highest: max(t.highest, t.gen.height)}
		if !t.bound {
			t.gen = short{}
		}
	}
	return l
}

// rank numbers the places of logs anew, in the same order, where nobody was told of them:
// only their order matters. An acknowledged command may stand anywhere.
func (w *smallWorld) rank(s *scene) {
	var unused [most]lives
	_, told := w.told(s, &unused)
	shared := w.toldHeights(s) | w.sharedHeights(s)
	var done uint16
	for i := range w.n {
		for _, g := range [...]short{s.p[i].gen, s.p[i].leftGen} {
			if g.id == 0 || (told|done)&(1<<g.id) != 0 || shared&heightBit(g.height) != 0 {
				continue
			}
			done |= 1 << g.id
			w.rankGeneration(s, g)
		}
	}
}

// toldHeights collects the heights of generations whose places somebody was told of.
func (w *smallWorld) toldHeights(s *scene) (heights uint64) {
	for i := range w.n {
		p := &s.p[i]
		heights |= w.states[s.st[i]].heights | p.log.origin.bit() | p.left.origin.bit() | p.birth.origin.bit()
	}
	for at := len(s.wire) - 1; at >= 0 && s.wire[at] != 0; at-- {
		heights |= w.letters[s.wire[at]].heights
	}
	return heights
}

// sharedHeights collects those of more than one generation: their places are compared.
func (w *smallWorld) sharedHeights(s *scene) (heights uint64) {
	for i := range w.n {
		for j := range i + 1 {
			p, o := &s.p[i], &s.p[j]
			for _, g := range [...]short{p.gen, p.leftGen} {
				for _, h := range [...]short{o.gen, o.leftGen} {
					if g.id != h.id && g.height == h.height {
						heights |= heightBit(g.height)
					}
				}
			}
		}
	}
	return heights
}

func (r smallReach) bit() uint64 { return heightBit(r.gen.height) }

// heightBit stands for a height; great ones share theirs.
func heightBit(height uint8) uint64 {
	if height == 0 {
		return 0
	}
	return 1 << min(height, 63)
}

// numbering gives small numbers in the order of those that were seen.
type numbering [4]uint64

func (n *numbering) see(k uint8) { n[k/64] |= 1 << (k % 64) }

func (n *numbering) of(k uint8) uint8 {
	if k == 0 {
		return 0
	}
	count := bits.OnesCount64(n[k/64] & (1<<(k%64) - 1))
	for at := range k / 64 {
		count += bits.OnesCount64(n[at])
	}
	return uint8(count) + 1
}

func (w *smallWorld) rankGeneration(s *scene, g short) {
	var places, terms numbering
	each := func(place, term func(*uint8)) {
		for i := range w.n {
			p := &s.p[i]
			if p.member && p.gen == g {
				p.log.each(place, term)
				term(&p.term)
				place(&p.commit)
				for j := range w.n {
					place(&p.match[j])
				}
			}
			if p.held && p.leftGen == g {
				p.left.each(place, term)
			}
		}
	}
	places.see(1)
	terms.see(1)
	for i := range w.n {
		for _, l := range [...]*smallLog{&s.p[i].log, &s.p[i].left} {
			for c := range l.cmd {
				if l.cmd[c] > 2 && s.acked&(1<<c) != 0 && (l == &s.p[i].log && s.p[i].gen == g || l == &s.p[i].left && s.p[i].leftGen == g) {
					l.cmd[c] = 2
				}
			}
		}
	}
	each(places.note, terms.note)
	each(places.rewrite, terms.rewrite)
}

func (n *numbering) note(k *uint8) {
	if *k != 0 {
		n.see(*k)
	}
}

func (n *numbering) rewrite(k *uint8) { *k = n.of(*k) }

func (l *smallLog) each(place, term func(*uint8)) {
	place(&l.length)
	place(&l.start)
	place(&l.config)
	for c := range l.cmd {
		place(&l.cmd[c])
	}
	term(&l.term)
}
