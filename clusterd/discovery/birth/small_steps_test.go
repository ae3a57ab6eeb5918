package birth

import "slices"

// let lets one event happen to a machine and does what follows.
func (w *smallWorld) let(s *scene, i int, q question) []deed {
	o := w.put(s.st[i], q)
	s.st[i] = o.state
	p := &s.p[i]
	for _, d := range o.deeds {
		switch d.kind {
		case dChallenge:
			for j := range w.n {
				if d.to&(1<<j) != 0 && j != i {
					w.post(s, letter{kind: mChallenge, from: uint8(i), to: uint8(j), incarnation: p.incarnation, attempt: d.attempt})
				}
			}
		case dEnd:
			for j := range w.n {
				if j != i {
					w.post(s, letter{kind: mEnd, from: uint8(i), to: uint8(j), attempt: d.attempt})
				}
			}
		case dFound:
			w.beginBirth(s, i, d)
		}
	}
	return o.deeds
}

// arrive lets a letter arrive that was taken from the wire; deaf: whoever it reaches does
// not hear its leader just now.
func (w *smallWorld) arrive(s *scene, l letter, deaf bool) {
	i, from := int(l.to), int(l.from)
	to := &s.p[i]
	w.trace("%s", l)
	if l.answers {
		w.readAnswer(s, l)
		return
	}
	r := letter{kind: l.kind, answers: true, from: l.to, to: l.from, attempt: l.attempt}
	switch l.kind {
	case mChallenge:
		r.answer = w.challenged(s, l, deaf)
	case mEnd:
		w.let(s, i, question{kind: qEnded, attempt: l.attempt})
		return
	case mAsk:
		r.answer.truth = to.truth(i)
	case mLeave:
		if w.bindsFor(s, i, l.attempt) {
			w.leave(s, i)
			r.agreed, r.answer.truth.incarnation = true, to.incarnation
			if l.want && to.held {
				r.state, r.origin = to.left.commands(), to.truth(i).reach()
			}
		}
	case mFound:
		if w.bindsFor(s, i, l.attempt) && !to.member {
			w.bind(s, i, l)
			r.agreed = true
		}
	}
	if !l.orphan && s.p[from].up {
		w.post(s, r)
	}
}

func (w *smallWorld) bindsFor(s *scene, i int, attempt uint8) bool {
	for _, d := range w.let(s, i, question{kind: qAsked, attempt: attempt}) {
		if d.kind == dBind {
			return true
		}
	}
	w.did.refused++
	return false
}

func (w *smallWorld) bind(s *scene, i int, l letter) {
	p := &s.p[i]
	first := smallLog{length: 1, term: 1, start: 1, config: 1, voter: l.voter, origin: l.origin}
	for c := range first.cmd {
		if l.state&(1<<c) != 0 {
			first.cmd[c] = 1
		}
	}
	w.enter(p, l.gen, first)
}

// enter makes a machine a member of a generation, as far as the log goes.
func (w *smallWorld) enter(p *player, g short, log smallLog) {
	p.member, p.gen, p.log, p.term = true, g, log, log.term
	p.highest = max(p.highest, g.height)
	if log.length > 0 {
		p.held, p.leftGen, p.left = false, short{}, smallLog{}
	}
}

func (w *smallWorld) challenged(s *scene, l letter, deaf bool) smallAnswer {
	i := int(l.to)
	to := &s.p[i]
	leader := w.leaderOf(s, i)
	if deaf {
		leader = 0
	}
	if to.member && to.log.length == 0 && leader == 0 {
		to.member, to.gen, to.term = false, short{}, 0 // it waited to be filled
	}
	st := &w.states[s.st[i]]
	if !st.own && st.promise != 0 && st.promisedTo == l.from+1 && st.promisedInc != l.incarnation {
		ask := letter{kind: mAsk, from: l.to, to: l.from}
		if !slices.ContainsFunc(s.wire[:], func(k uint32) bool { return w.letters[k].letter == ask }) {
			w.post(s, ask)
		}
	}
	for _, d := range w.let(s, i, question{kind: qChallenged, own: to.truth(i), from: l.from + 1, incarnation: l.incarnation, attempt: l.attempt, leader: leader}) {
		if d.kind == dReply {
			if d.answer.promised {
				w.did.promises++
			} else {
				w.did.refused++
			}
			return d.answer
		}
	}
	panic("a challenge without an answer")
}

func (w *smallWorld) readAnswer(s *scene, l letter) {
	i, from := int(l.to), int(l.from)
	p := &s.p[i]
	switch l.kind {
	case mAsk:
		w.let(s, i, question{kind: qProven, from: l.from + 1, incarnation: l.answer.truth.incarnation})
	case mLeave, mFound:
		w.note(s, i, l)
	case mChallenge:
		a := l.answer
		p.highest = max(p.highest, a.truth.highest, a.truth.gen.height)
		w.hear(s, i, from, a)
		w.let(s, i, question{kind: qAnswered, own: p.truth(i), from: l.from + 1, attempt: l.attempt, answer: a})
	}
}

// hear joins a generation that has a leader, as masters does; what was heard once is not
// forgotten, where masters forgets it after ten seconds.
func (w *smallWorld) hear(s *scene, i, from int, a smallAnswer) {
	p := &s.p[i]
	p.hears(from, a)
	if a.leader == 0 || !a.truth.bound || a.truth.gen == p.gen || w.leaderOf(s, i) != 0 || !w.states[s.st[i]].mayJoin {
		return
	}
	elsewhere := 0
	for _, g := range p.heard {
		if g.id != 0 && g != p.gen {
			elsewhere++
		}
	}
	if p.truth(i).bound && a.truth.gen.height <= p.gen.height && elsewhere <= w.n/2 {
		return
	}
	w.leave(s, i)
	w.enter(p, a.truth.gen, smallLog{})
	w.did.joined++
}

func (p *player) hears(from int, a smallAnswer) {
	p.heard[from] = short{}
	if a.truth.bound {
		p.heard[from] = a.truth.gen
	}
}

// leave makes a machine a new incarnation bound to nothing.
func (w *smallWorld) leave(s *scene, i int) {
	p := &s.p[i]
	if !p.member {
		return
	}
	was := p.log.length > 0
	if was {
		p.held, p.leftGen, p.left = true, p.gen, p.log
	}
	p.member, p.gen, p.log, p.term = false, short{}, smallLog{}, 0
	w.unlead(p)
	if was {
		p.incarnation = w.nextEpoch(s, i)
		s.unmatch(i)
	}
}

// unlead forgets what only a leader knows.
func (w *smallWorld) unlead(p *player) {
	p.leading, p.commit, p.match, p.looked, p.living = false, 0, [most]uint8{}, false, [most]uint8{}
}

// unmatch forgets what leaders know of an incarnation that is no more.
func (s *scene) unmatch(i int) {
	for j := range s.p {
		s.p[j].match[i] = 0
	}
}

func (w *smallWorld) beginBirth(s *scene, i int, d deed) {
	if d.height > w.highest {
		w.drop = true
		return
	}
	b := smallBirth{on: true, attempt: d.attempt, who: d.to, source: d.source, found: d.found}
	s.p[i].birth = smallBirth{}
	b.gen = short{d.height, w.newGeneration(s)}
	s.p[i].birth = b
	if w.anyElectable(s) {
		s.gens[b.gen.id] = overLiving
	}
	var source Reach
	living := map[string]string{}
	for _, p := range w.founds[int(d.found[0])|int(d.found[1])<<8].Participants {
		living[p.Name] = p.Incarnation
		if d.source != 0 && p.Name == nameOf(int(d.source)-1) {
			source = p.Reach()
		}
	}
	for j := range w.n {
		p := &s.p[j]
		if d.to&(1<<j) == 0 || d.incarnation[j] != p.incarnation {
			continue
		}
		if undecided(p.truth(j).long().Reach(), source, living) {
			w.did.undecided++
			continue
		}
		if p.member {
			s.gens[b.gen.id] |= p.log.commands()
		}
		if p.held {
			s.gens[b.gen.id] |= p.left.commands()
		}
	}
	w.ask(s, i, mLeave)
}

func (w *smallWorld) ask(s *scene, i int, kind messageKind) {
	b := &s.p[i].birth
	b.asked = b.who
	q := letter{kind: kind, from: uint8(i), attempt: b.attempt}
	if kind == mFound {
		q.gen, q.state, q.origin = b.gen, b.state, b.origin
		for j := range w.n {
			q.voter[j] = hole
			if b.left[j] != 0 {
				q.voter[j] = b.left[j]
			}
		}
	}
	for j := range w.n {
		if b.who&(1<<j) != 0 {
			q.to, q.want = uint8(j), kind == mLeave && int(b.source) == j+1
			w.post(s, q)
		}
	}
}

// failed lets a founder know that a question will not be answered.
func (w *smallWorld) failed(s *scene, l letter) {
	if l.kind != mLeave && l.kind != mFound || l.orphan {
		return
	}
	asker, other := l.from, l.to
	if l.answers {
		asker, other = l.to, l.from
	}
	if s.p[asker].up {
		w.note(s, int(asker), letter{kind: l.kind, from: other, attempt: l.attempt})
	}
}

// note takes in the answer to a founder's question, or that there is none.
func (w *smallWorld) note(s *scene, i int, a letter) {
	b := &s.p[i].birth
	if !b.on || b.attempt != a.attempt || b.binding != (a.kind == mFound) || b.asked&(1<<a.from) == 0 {
		return
	}
	b.asked &^= 1 << a.from
	if a.agreed && a.kind == mLeave {
		b.left[a.from] = a.answer.truth.incarnation
		if int(b.source) == int(a.from)+1 {
			b.state, b.origin = a.state, a.origin
		}
	}
	if a.agreed && a.kind == mFound {
		b.bound++
	}
	if b.asked != 0 {
		return
	}
	if b.binding {
		w.endBirth(s, i, int(b.bound) < w.n/2+1)
		return
	}
	left := func(name string) bool { return b.left[name[0]-'a'] != 0 }
	f := w.founds[int(b.found[0])|int(b.found[1])<<8]
	if b.source != 0 && b.left[b.source-1] == 0 || !f.Confirmed(left, w.n) {
		w.endBirth(s, i, true)
		return
	}
	b.binding = true
	w.ask(s, i, mFound)
}

func (w *smallWorld) endBirth(s *scene, i int, failed bool) {
	attempt := s.p[i].birth.attempt
	s.p[i].birth = smallBirth{}
	if failed {
		w.did.aborted++
	}
	w.let(s, i, question{kind: qFounded, attempt: attempt, failed: failed})
}

// The faults.

// powerOff takes a machine's memory, unless it has disks.
func (w *smallWorld) powerOff(s *scene, i int) {
	p := &s.p[i]
	if w.disks {
		p.up = false
		w.forgetProgram(s, i)
	} else {
		*p = player{}
		s.st[i] = w.fresh(i, Promise{})
		s.unmatch(i)
		s.forgot |= 1 << i
		w.forgive(s)
	}
	w.hangUp(s, i)
}

func (w *smallWorld) forgive(s *scene) {
	forgot := 0
	for i := range w.n {
		forgot += int(s.forgot>>i) & 1
	}
	if forgot >= w.n/2+1 && s.acked != 0 {
		s.acked = 0
		w.did.forgiven++
	}
}

func (w *smallWorld) powerOn(s *scene, i int) {
	p := &s.p[i]
	p.up = true
	if p.incarnation == 0 {
		p.incarnation = w.nextLife(s, i)
	}
}

// restart ends and starts the program; its files stay.
func (w *smallWorld) restart(s *scene, i int) {
	w.forgetProgram(s, i)
	w.hangUp(s, i)
}

// forgetProgram leaves what is on files.
func (w *smallWorld) forgetProgram(s *scene, i int) {
	p := &s.p[i]
	w.unlead(p)
	p.birth, p.heard, p.highest = smallBirth{}, [most]short{}, max(p.gen.height, p.leftGen.height)
	s.st[i] = w.put(s.st[i], question{kind: qRestart}).state
}

// hangUp ends a program's connections: nothing arrives at it any more; what it sent may
// still be read, and its answer goes nowhere.
func (w *smallWorld) hangUp(s *scene, i int) {
	lost := w.filter(s, func(l *knownLetter) bool { return int(l.to) != i })
	sent := w.filter(s, func(l *knownLetter) bool { return int(l.from) != i || l.answers || l.orphan || l.kind == mEnd })
	for _, l := range sent {
		if l.kind == mAsk {
			continue // its answer alone mattered
		}
		l.orphan, l.want = true, false
		w.post(s, l)
	}
	for _, l := range lost {
		w.failed(s, l)
	}
}
