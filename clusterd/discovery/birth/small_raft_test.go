package birth

// The model of Raft, as in explorer_steps_test.go.

func (l *smallLog) upToDate(than *smallLog) bool {
	if l.term != than.term {
		return l.term > than.term
	}
	return l.length >= than.length
}

// electable gives those who would vote for a machine if everything were on and connected,
// a bit each, and whether they are enough. The library lets nobody be elected by a server
// in whose own configuration he has no vote.
func (w *smallWorld) electable(s *scene, i int) (uint8, bool) {
	p := &s.p[i]
	if !p.member || p.log.length == 0 || p.log.voter[i] != p.incarnation {
		return 0, false
	}
	var who uint8
	count := 0
	for j, v := range p.log.voter {
		f := &s.p[j]
		if v != 0 && v != hole && f.member && f.gen == p.gen && f.incarnation == v && f.log.voter[i] == p.incarnation && p.log.upToDate(&f.log) {
			who |= 1 << j
			count++
		}
	}
	return who, count >= p.log.quorum()
}

// elect lets exactly these vote.
func (w *smallWorld) elect(s *scene, i int, who uint8) bool {
	p := &s.p[i]
	if !p.up || p.leading || who&(1<<i) == 0 {
		return false
	}
	could, ok := w.electable(s, i)
	if !ok || who&^could != 0 {
		return false
	}
	count, term := 0, uint8(0)
	for j := range w.n {
		if who&(1<<j) != 0 {
			if !s.p[j].up {
				return false
			}
			count++
			term = max(term, s.p[j].term)
		}
	}
	if count < p.log.quorum() {
		return false
	}
	for j := range w.n {
		if who&(1<<j) != 0 {
			s.p[j].term = term + 1
			w.unlead(&s.p[j])
		}
	}
	p.leading = true
	w.did.elections++
	w.extend(s, i)
	w.commit(s, i)
	return true
}

// extend adds an entry to a leader's log.
func (w *smallWorld) extend(s *scene, i int) {
	p := &s.p[i]
	p.log.length++
	p.log.origin = smallReach{}
	if p.log.term != p.term {
		p.log.term, p.log.start = p.term, p.log.length
	}
	p.match[i] = p.log.length
}

func (w *smallWorld) holdsQuorum(s *scene, i int) bool {
	p, n := &s.p[i], 0
	for j, v := range p.log.voter {
		f := &s.p[j]
		if v != 0 && v != hole && f.member && f.up && f.gen == p.gen && f.incarnation == v && f.term <= p.term {
			n++
		}
	}
	return n >= p.log.quorum()
}

// behind says whether a leader has something to say to a follower.
func (w *smallWorld) behind(s *scene, i, j int) bool {
	p, f := &s.p[i], &s.p[j]
	if !p.leading || i == j || !f.up || !f.member || f.gen != p.gen {
		return false
	}
	if f.term > p.term {
		return true
	}
	if p.log.voter[j] != f.incarnation && p.log.learner[j] != f.incarnation {
		return false
	}
	return f.term != p.term || f.log != p.log || p.match[j] != p.log.length
}

// replicate brings a follower to where the leader is.
func (w *smallWorld) replicate(s *scene, i, j int) bool {
	if !w.behind(s, i, j) {
		return false
	}
	p, f := &s.p[i], &s.p[j]
	if f.term > p.term {
		w.unlead(p)
		w.did.stepsDown++
		return true
	}
	w.enter(f, p.gen, p.log)
	f.term = p.term
	w.unlead(f)
	p.match[j] = p.log.length
	w.commit(s, i)
	return true
}

// commit moves the leader's commit index and tells who waits.
func (w *smallWorld) commit(s *scene, i int) {
	p := &s.p[i]
	q := p.log.quorum()
	for k := p.log.length; k > p.commit && k >= p.log.start; k-- {
		n := 0
		for j, v := range p.log.voter {
			if v != 0 && v != hole && s.p[j].incarnation == v && p.match[j] >= k {
				n++
			}
		}
		if n < q {
			continue
		}
		for c, at := range p.log.cmd {
			if at > p.commit && at <= k && s.acked&(1<<c) == 0 {
				s.acked |= 1 << c
				w.did.acknowledged++
			}
		}
		p.commit = k
		break
	}
	if p.log.config > p.commit || p.commit < p.log.start {
		return
	}
	for j, v := range p.log.voter {
		f := &s.p[j]
		if v != 0 && f.member && f.gen == p.gen && f.incarnation == v && f.log.length > 0 {
			s.forgot &^= 1 << j
		}
	}
}

// command lets the leader append something that a client wants.
func (w *smallWorld) command(s *scene, i int) bool {
	p := &s.p[i]
	if !p.leading || s.left.commands == 0 {
		return false
	}
	s.left.commands--
	w.extend(s, i)
	p.log.cmd[s.left.commands] = p.log.length
	w.commit(s, i)
	return true
}

// member makes one change of membership; living is what was seen, perhaps long ago.
func (w *smallWorld) change(s *scene, i int, living [most]uint8) bool {
	p := &s.p[i]
	if !p.leading || p.commit < p.log.start || p.log.config > p.commit {
		return false
	}
	list := make([]string, w.n)
	var members []Member
	seen := map[string]string{}
	for j := range w.n {
		list[j] = nameOf(j)
		if living[j] != 0 {
			seen[list[j]] = incarnationOf(living[j])
		}
		caught := p.match[j] >= p.log.length
		if v := p.log.voter[j]; v != 0 {
			members = append(members, Member{Voter{list[j], incarnationOf(v)}, true, caught && v == s.p[j].incarnation})
		}
		if v := p.log.learner[j]; v != 0 {
			members = append(members, Member{Voter{list[j], incarnationOf(v)}, false, caught && v == s.p[j].incarnation})
		}
	}
	step := Replacement(list, members, seen)
	if step.Kind == Nothing {
		return false
	}
	j := step.Who.Name[0] - 'a'
	who := numberOf(step.Who.Incarnation)
	if who == 0 {
		who = hole
	}
	switch step.Kind {
	case AddLearner:
		p.log.learner[j] = who
		w.did.learners++
	case AddVoter:
		p.log.voter[j] = who
		if p.log.learner[j] == who {
			p.log.learner[j] = 0
		}
		w.did.replaced++
	case Remove:
		if p.log.voter[j] == who {
			p.log.voter[j] = 0
		}
		if p.log.learner[j] == who {
			p.log.learner[j] = 0
		}
	}
	w.extend(s, i)
	p.log.config = p.log.length
	w.commit(s, i)
	return true
}

// What must never be.
const (
	wrongTwo   = "two live quorums"
	wrongLost  = "a command was acknowledged, and a generation lives that does not hold it"
	wrongBorn  = "a generation was born, and when its founder decided another one could still have a quorum"
	wrongStuck = "everything is on and connected, and"
)

// wrong names the first thing that must never be and is.
func (w *smallWorld) wrong(s *scene) string {
	var living short
	for i := range w.n {
		g := s.p[i].gen
		if g == living || !s.p[i].member {
			continue
		}
		if _, ok := w.electable(s, i); !ok {
			continue
		}
		if living.id != 0 {
			return wrongTwo
		}
		living = g
	}
	if living.id == 0 {
		return ""
	}
	if s.born&(1<<living.id) == 0 {
		if s.gens[living.id]&overLiving != 0 {
			return wrongBorn
		}
		w.countBirth(s, living)
	}
	for i := range w.n {
		if p := &s.p[i]; p.member && p.gen == living {
			if _, ok := w.electable(s, i); ok && s.acked&^p.log.commands() != 0 {
				return wrongLost
			}
		}
	}
	return ""
}

// overLiving marks a generation whose founder decided while another could have a quorum.
// It may do so by old answers; but then those who gave them no longer keep their promise,
// and nothing is born of it.
const overLiving = 1 << 7

func (w *smallWorld) anyElectable(s *scene) bool {
	for i := range w.n {
		if _, ok := w.electable(s, i); ok {
			return true
		}
	}
	return false
}

// countBirth forgives what only masters knew that could not be heard in time.
func (w *smallWorld) countBirth(s *scene, g short) {
	s.born |= 1 << g.id
	w.did.births++
	var base uint8
	for i := range w.n {
		if p := &s.p[i]; p.member && p.gen == g && p.log.length > 0 {
			for c, at := range p.log.cmd {
				if at == 1 {
					base |= 1 << c
				}
			}
		}
	}
	if base == 0 {
		w.did.empty++
	} else {
		w.did.rebirths++
	}
	kept := s.acked & (base | s.gens[g.id])
	if kept != s.acked {
		w.did.forgiven++
	}
	s.acked, s.gens[g.id] = kept, 0
}

// well says whether a leader leads, and every living master votes.
func (w *smallWorld) well(s *scene) bool {
	for i := range w.n {
		p := &s.p[i]
		if !p.leading || p.log.config > p.commit || p.log.learner != [most]uint8{} {
			continue
		}
		all := true
		for j := range w.n {
			all = all && s.p[j].up && p.log.voter[j] == s.p[j].incarnation
		}
		if all {
			return true
		}
	}
	return false
}
