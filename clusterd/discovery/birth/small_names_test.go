package birth

import "slices"

// gone is a generation that was heard of once and that nobody can belong to any more.
var gone = short{0, 15}

// id is what a state, a letter or a decision names.
type id struct{ kind, owner, value uint8 }

const (
	idIncarnation uint8 = iota
	idLife
	idGeneration
	idAttempt
)

// renaming gives ids new numbers, in the order in which they are asked for.
type renaming struct {
	lives          [most][8]uint8
	epochs         [most][8][epochs]uint8
	generations    [16]uint8
	attempts       [most][8]uint8
	nextLife       [most]uint8
	nextEpoch      [most][8]uint8
	nextGeneration uint8
	nextAttempt    [most]uint8
}

func (r *renaming) incarnation(of int, v *uint8) {
	if *v == 0 || *v == hole {
		return
	}
	life, epoch := *v/epochs, *v%epochs
	r.life(of, v)
	k := &r.epochs[of][life][epoch]
	if *k == 0 {
		r.nextEpoch[of][life]++
		*k = r.nextEpoch[of][life]
	}
	*v += *k - 1
}

// life forgets the epoch, where only the life counts.
func (r *renaming) life(of int, v *uint8) {
	if *v == 0 || *v == hole {
		*v = 0
		return
	}
	k := &r.lives[of][*v/epochs]
	if *k == 0 {
		r.nextLife[of]++
		*k = r.nextLife[of]
	}
	*v = *k * epochs
}

func (r *renaming) reach(x *smallReach) {
	r.generation(&x.gen.id)
	r.voterLives(&x.voter)
}

func (r *renaming) voterLives(v *[most]uint8) {
	for j := range v {
		r.life(j, &v[j])
	}
}

func (r *renaming) generation(id *uint8) {
	if *id == 0 || *id == gone.id {
		return
	}
	k := &r.generations[*id]
	if *k == 0 {
		r.nextGeneration++
		*k = r.nextGeneration
	}
	*id = *k
}

func (r *renaming) attempt(a *uint8) {
	if *a == 0 {
		return
	}
	owner, slot := (*a-1)/8, (*a-1)%8
	k := &r.attempts[owner][slot]
	if *k == 0 {
		r.nextAttempt[owner]++
		*k = r.nextAttempt[owner]
	}
	*a = owner*8 + *k
}

func (r *renaming) truth(of int, o *truth) {
	r.incarnation(of, &o.incarnation)
	r.generation(&o.gen.id)
	if o.legacy {
		r.voterLives(&o.voter)
	} else {
		r.voters(&o.voter)
	}
	r.reach(&o.origin)
}

func (r *renaming) voters(v *[most]uint8) {
	for j := range v {
		r.incarnation(j, &v[j])
	}
}

// renamedKey is what was renamed, and what each of its ids is now.
type renamedKey struct {
	what uint8
	k    uint32
	now  [40]uint8
}

// naming remembers what became of states, letters and decisions.
type naming struct {
	known map[renamedKey]uint32
	ids   [3]map[uint32][]id
}

const (
	ofState uint8 = iota
	ofLetter
	ofFound
)

// again gives the number under which k goes with other ids; rename makes it.
func (n *naming) again(r *renaming, what uint8, k uint32, list func(*[]id), rename func() uint32) uint32 {
	ids, ok := n.ids[what][k]
	if !ok {
		list(&ids)
		n.ids[what][k] = ids
	}
	key := renamedKey{what: what, k: k}
	same := true
	for at, x := range ids {
		was := x.value
		switch x.kind {
		case idIncarnation:
			r.incarnation(int(x.owner), &x.value)
		case idLife:
			r.life(int(x.owner), &x.value)
		case idGeneration:
			r.generation(&x.value)
		case idAttempt:
			r.attempt(&x.value)
		}
		same = same && was == x.value
		key.now[at] = x.value
	}
	if same {
		return k
	}
	out, ok := n.known[key]
	if !ok {
		out = rename()
		n.known[key] = out
	}
	return out
}

// lister notes ids in the order in which a renaming meets them, each once.
type lister struct{ ids *[]id }

func (l lister) note(kind, owner, value uint8) {
	x := id{kind, owner, value}
	if value != 0 && !(kind != idAttempt && value == hole) && !slices.Contains(*l.ids, x) {
		*l.ids = append(*l.ids, x)
	}
}

func (l lister) truth(of int, o truth) {
	l.note(idIncarnation, uint8(of), o.incarnation)
	l.note(idGeneration, 0, o.gen.id)
	if o.legacy {
		l.voterLives(o.voter)
	} else {
		l.voters(o.voter)
	}
	l.reach(o.origin)
}

func (l lister) reach(x smallReach) {
	l.note(idGeneration, 0, x.gen.id)
	l.voterLives(x.voter)
}

func (l lister) voterLives(v [most]uint8) {
	for j := range v {
		l.note(idLife, uint8(j), v[j])
	}
}

func (l lister) voters(v [most]uint8) {
	for j := range v {
		l.note(idIncarnation, uint8(j), v[j])
	}
}

func (w *smallWorld) renameState(k uint32, r *renaming) uint32 {
	s := w.states[k].State
	return w.names.again(r, ofState, k, func(ids *[]id) {
		l := lister{ids}
		l.note(idAttempt, 0, attemptNumber(s.attempt))
		l.note(idAttempt, 0, attemptNumber(s.promise.Attempt))
		if s.promise.From != "" {
			l.note(idIncarnation, s.promise.From[0]-'a', numberOf(s.promise.Incarnation))
		}
		for _, name := range s.cfg.List {
			if a, ok := s.answers[name]; ok {
				l.truth(int(name[0]-'a'), truthOf(a.Own))
			}
		}
	}, func() uint32 {
		attempt := func(a string) string {
			k := attemptNumber(a)
			r.attempt(&k)
			return attemptName(k)
		}
		s.attempt, s.promise.Attempt = attempt(s.attempt), attempt(s.promise.Attempt)
		if s.promise.From != "" {
			v := numberOf(s.promise.Incarnation)
			r.incarnation(int(s.promise.From[0]-'a'), &v)
			s.promise.Incarnation = incarnationOf(v)
		}
		s.answers = renameAnswers(s.answers, r)
		return w.number(s)
	})
}

func renameAnswers(answers map[string]Answer, r *renaming) map[string]Answer {
	out := map[string]Answer{}
	for name, a := range answers {
		out[name] = renameAnswer(a, r)
	}
	return out
}

func renameAnswer(a Answer, r *renaming) Answer {
	o := truthOf(a.Own)
	r.truth(int(a.Name[0]-'a'), &o)
	a.Own = o.long()
	return a
}

func (w *smallWorld) renameLetter(k uint32, r *renaming) uint32 {
	l := w.letters[k].letter
	return w.names.again(r, ofLetter, k, func(ids *[]id) {
		n := lister{ids}
		n.note(idAttempt, 0, l.attempt)
		n.note(idIncarnation, l.from, l.incarnation)
		n.truth(int(l.from), l.answer.truth)
		n.note(idGeneration, 0, l.gen.id)
		n.voters(l.voter)
		n.reach(l.origin)
	}, func() uint32 {
		r.attempt(&l.attempt)
		r.incarnation(int(l.from), &l.incarnation)
		r.truth(int(l.from), &l.answer.truth)
		r.generation(&l.gen.id)
		r.voters(&l.voter)
		r.reach(&l.origin)
		return w.letterNumber(l)
	})
}

func (w *smallWorld) renameFound(f *[2]uint8, r *renaming) {
	k := uint32(f[0]) | uint32(f[1])<<8
	k = w.names.again(r, ofFound, k, func(ids *[]id) {
		for _, a := range w.founds[k].Participants {
			lister{ids}.truth(int(a.Name[0]-'a'), truthOf(a.Own))
		}
	}, func() uint32 {
		x := w.founds[k]
		x.Participants = slices.Clone(x.Participants)
		for j, a := range x.Participants {
			x.Participants[j] = renameAnswer(a, r)
		}
		at := w.keep(x)
		return uint32(at[0]) | uint32(at[1])<<8
	})
	*f = [2]uint8{uint8(k), uint8(k >> 8)}
}
