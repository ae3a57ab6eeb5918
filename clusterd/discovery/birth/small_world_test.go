package birth

import (
	"fmt"
	"math/bits"
	"strings"
	"unsafe"
)

// smallLog is all that matters of a log: how long it is, its last term and where that
// begins, the newest configuration and where it stands, and where each command stands
// (1: it came with the first snapshot).
type smallLog struct {
	length, term, start, config uint8
	voter, learner              [most]uint8
	cmd                         [2]uint8
	origin                      smallReach // of the first snapshot, while it is all there is
}

// smallReach is Reach, in numbers.
type smallReach struct {
	term, index uint8
	gen         short
	voter       [most]uint8
}

// smallBirth is what a founder remembers while it asks.
type smallBirth struct {
	on, binding                bool
	attempt, who, asked, bound uint8
	source                     uint8 // from 1 on
	state                      uint8 // commands, a bit each
	origin                     smallReach
	gen                        short
	left                       [most]uint8 // the new incarnation of who left
	found                      [2]uint8    // see rulebook.keep
}

// player is one machine. Nothing in it has padding: its bytes are its identity.
type player struct {
	up          bool
	incarnation uint8

	member, leading bool
	gen             short
	log             smallLog
	term, commit    uint8
	match           [most]uint8
	looked          bool // who lives was asked, and it has changed since
	living          [most]uint8

	held    bool
	leftGen short
	left    smallLog

	highest uint8
	heard   [most]short
	birth   smallBirth
}

// budgets are faults that may still happen.
type budgets struct {
	reboots, restarts, lost, late, replays, deaf, commands, hasty uint8
}

// scene is a whole state.
type scene struct {
	st     [most]uint32
	wire   [32]uint32 // numbers of letters, in order, zeros first
	born   uint16     // generations that had a quorum
	p      [most]player
	acked  uint8
	forgot uint8     // masters without memory
	gens   [10]uint8 // commands that those who took part in a birth held, until it has a quorum
	left   budgets   // faults to come
	pad    [1]uint8  // so that the size is a multiple of 4
}

func (s *scene) raw() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(s)), unsafe.Sizeof(*s))
}

// pack writes a scene without its zeros.
func (s *scene) pack(out []byte) []byte {
	raw := s.raw()
	for i := 0; i < len(raw); {
		j := i
		for j < len(raw) && raw[j] == 0 && j-i < 255 {
			j++
		}
		k := j
		for k < len(raw) && k-j < 255 && (raw[k] != 0 || k+2 < len(raw) && (raw[k+1] != 0 || raw[k+2] != 0)) {
			k++
		}
		out = append(out, byte(j-i), byte(k-j))
		out = append(out, raw[j:k]...)
		i = k
	}
	return out
}

func unpack(in []byte, s *scene) {
	*s = scene{}
	raw := s.raw()
	at := 0
	for len(in) > 0 {
		at += int(in[0])
		n := int(in[1])
		copy(raw[at:], in[2:2+n])
		at, in = at+n, in[2+n:]
	}
}

// letter is a message on its way.
type letter struct {
	kind         messageKind
	answers      bool
	orphan       bool // nobody waits for the answer any more
	want, agreed bool
	from, to     uint8
	attempt      uint8
	incarnation  uint8 // of the challenger
	answer       smallAnswer
	gen          short
	voter        [most]uint8
	state        uint8
	origin       smallReach
}

type knownLetter struct {
	letter
	heights      uint64 // of generations whose places are told
	attempts     uint64
	gens         uint16
	incarnations [most]lives
}

// smallWorld holds what all its scenes share.
type smallWorld struct {
	*rulebook
	highest  uint8 // heights beyond are not followed
	letters  []knownLetter
	letterNo map[letter]uint32
	beyond   int  // scenes that were not followed for their height
	drop     bool // the move at hand leads beyond
	did      counts
	trace    func(format string, args ...any)
	before   scene // see try
	names    naming
}

func newSmallWorld(n int, disks bool, highest uint8) *smallWorld {
	return &smallWorld{rulebook: newRulebook(n, disks), highest: highest, letters: make([]knownLetter, 1), letterNo: map[letter]uint32{}, trace: func(string, ...any) {}, names: naming{map[renamedKey]uint32{}, [3]map[uint32][]id{{}, {}, {}}}}
}

// first is a rack that was never on.
func (w *smallWorld) first(b budgets) scene {
	s := scene{left: b}
	for i := range w.n {
		s.st[i] = w.fresh(i, Promise{})
		s.forgot |= 1 << i
	}
	return s
}

// letterNumber gives the number of a letter.
func (w *smallWorld) letterNumber(l letter) uint32 {
	k, ok := w.letterNo[l]
	if ok {
		return k
	}
	k = uint32(len(w.letters))
	w.letterNo[l] = k
	known := knownLetter{letter: l}
	if l.attempt != 0 {
		known.attempts = 1 << l.attempt
	}
	known.gens = l.answer.truth.refers(int(l.from), &known.incarnations)
	if l.gen.id != 0 {
		known.gens |= 1 << l.gen.id
	}
	known.gens |= 1 << l.origin.gen.id &^ 1
	known.heights = l.answer.truth.heights() | l.origin.bit()
	known.incarnations[l.from] |= 1 << l.incarnation
	note(&known.incarnations, l.voter)
	note(&known.incarnations, l.origin.voter)
	w.letters = append(w.letters, known)
	return k
}

func (w *smallWorld) post(s *scene, l letter) {
	if !s.p[l.to].up { // no connection comes about
		w.failed(s, l)
		return
	}
	if !w.plain {
		l = l.cut()
	}
	k := w.letterNumber(l)
	if s.wire[0] != 0 {
		w.drop = true
		return
	}
	at := 0
	for at+1 < len(s.wire) && s.wire[at+1] < k {
		s.wire[at] = s.wire[at+1]
		at++
	}
	s.wire[at] = k
}

// take removes the k-th place of the wire.
func (s *scene) take(k int) {
	copy(s.wire[1:k+1], s.wire[:k])
	s.wire[0] = 0
}

// filter keeps the letters that f wants, and gives the others.
func (w *smallWorld) filter(s *scene, keep func(*knownLetter) bool) []letter {
	var out []letter
	for k := range s.wire {
		if s.wire[k] != 0 && !keep(&w.letters[s.wire[k]]) {
			out = append(out, w.letters[s.wire[k]].letter)
			s.take(k)
		}
	}
	return out
}

// refs collects what a scene still names, so that ids can be used again.
func (w *smallWorld) refs(s *scene) (attempts uint64, gens uint16, incarnations [most]lives) {
	attempts, gens = w.told(s, &incarnations)
	for i := range w.n {
		p := &s.p[i]
		incarnations[i] |= 1 << p.incarnation
		gens |= 1<<p.gen.id | 1<<p.leftGen.id | 1<<p.birth.gen.id
		for _, r := range [...]*smallReach{&p.log.origin, &p.left.origin, &p.birth.origin} {
			gens |= 1 << r.gen.id
			note(&incarnations, r.voter)
		}
		for _, v := range [...]*[most]uint8{&p.log.voter, &p.log.learner, &p.left.voter, &p.left.learner, &p.birth.left, &p.living} {
			note(&incarnations, *v)
		}
		if p.birth.attempt != 0 {
			attempts |= 1 << p.birth.attempt
		}
		for j := range w.n {
			gens |= 1 << p.heard[j].id
		}
	}
	return attempts, gens, incarnations
}

// told collects what is named in messages and in what a master remembers of them.
func (w *smallWorld) told(s *scene, incarnations *[most]lives) (attempts uint64, gens uint16) {
	for i := range w.n {
		st := &w.states[s.st[i]]
		attempts, gens = attempts|st.attempts, gens|st.gens
		for j := range w.n {
			incarnations[j] |= st.incarnations[j]
		}
	}
	for at := len(s.wire) - 1; at >= 0 && s.wire[at] != 0; at-- {
		l := &w.letters[s.wire[at]]
		attempts, gens = attempts|l.attempts, gens|l.gens
		for j := range w.n {
			incarnations[j] |= l.incarnations[j]
		}
	}
	return attempts, gens
}

// nextEpoch is who a machine is when it has left what it belonged to.
func (w *smallWorld) nextEpoch(s *scene, i int) uint8 {
	_, _, used := w.refs(s)
	life := s.p[i].incarnation / epochs
	k := bits.TrailingZeros8(^uint8(used[i] >> (life * epochs)))
	if k == epochs {
		w.drop = true // names are used up: not followed
		k = 0
	}
	return life*epochs + uint8(k)
}

// nextLife is who a machine is that has forgotten everything.
func (w *smallWorld) nextLife(s *scene, i int) uint8 {
	_, _, used := w.refs(s)
	for life := uint8(1); life < 8; life++ {
		if uint8(used[i]>>(life*epochs)) == 0 {
			return life * epochs
		}
	}
	w.drop = true
	return epochs
}

func (w *smallWorld) newAttempt(s *scene, i int) uint8 {
	used, _, _ := w.refs(s)
	for slot := range uint8(8) {
		if k := uint8(i)*8 + slot + 1; used&(1<<k) == 0 {
			return k
		}
	}
	w.drop = true
	return uint8(i)*8 + 8
}

func (w *smallWorld) newGeneration(s *scene) uint8 {
	_, used, _ := w.refs(s)
	k := uint8(bits.TrailingZeros16(^(used | 1)))
	if int(k) >= len(s.gens) {
		w.drop = true
		return uint8(len(s.gens) - 1)
	}
	s.gens[k], s.born = 0, s.born&^(1<<k)
	return k
}

// tidy removes what can have no effect any more, so that scenes that behave alike are the
// same: ends of attempts that nobody promised to, late questions that will be refused and
// whose answer nobody reads, and what an old leader saw when it is still so.
func (w *smallWorld) tidy(s *scene) {
	if !w.plain {
		w.settle(s)
	}
	var waiting [most]uint64 // attempts whose challenge is on its way, by receiver
	for at := len(s.wire) - 1; at >= 0 && s.wire[at] != 0; at-- {
		if l := &w.letters[s.wire[at]]; l.kind == mChallenge && !l.answers {
			waiting[l.to] |= 1 << l.attempt
		}
	}
	for k := range s.wire {
		if s.wire[k] == 0 {
			continue
		}
		l := &w.letters[s.wire[k]]
		st, p := &w.states[s.st[l.to]], &s.p[l.to]
		switch {
		case l.kind == mChallenge && l.answers && l.answer.leader == 0 && st.attempt != l.attempt:
			p.highest = max(p.highest, l.answer.truth.highest, l.answer.truth.gen.height)
			p.hears(int(l.from), l.answer)
			s.take(k)
		case !l.answers && (l.kind == mEnd || l.orphan && l.kind != mChallenge) && waiting[l.to]&(1<<l.attempt) == 0 && (st.promise == 0 || st.promise != l.attempt):
			s.take(k)
		}
	}
	now := s.lives(w.n)
	for i := range w.n {
		p := &s.p[i]
		for j, g := range p.heard {
			if g == p.gen {
				p.heard[j] = short{} // it counts for nothing
			}
		}
		if p.looked && p.living == now {
			p.looked, p.living = false, [most]uint8{}
		}
	}
	w.rank(s)
	_, gens, _ := w.refs(s)
	s.born &= gens
	for k := range s.gens {
		if gens&(1<<k) == 0 {
			s.gens[k] = 0
		}
	}
	if !w.plain {
		w.merge(s)
	}
}

// lives is who would answer now.
func (s *scene) lives(n int) (out [most]uint8) {
	for i := range n {
		if s.p[i].up {
			out[i] = s.p[i].incarnation
		}
	}
	return out
}

func (p *player) truth(of int) truth {
	o := truth{incarnation: p.incarnation, highest: p.highest}
	if p.held {
		o.legacy, o.gen, o.term, o.last, o.voter = true, p.leftGen, p.left.term, p.left.length, p.left.voter
		o.unwritten, o.origin = p.left.length == 1, p.left.origin
	}
	if !p.member || p.log.length == 0 {
		return o
	}
	o.bound, o.legacy, o.gen, o.term, o.last, o.voter, o.config = true, false, p.gen, p.log.term, p.log.length, p.log.voter, p.log.config
	o.unwritten, o.origin = p.log.length == 1, p.log.origin
	return o
}

// commands gives those in a log, a bit each.
func (l *smallLog) commands() (out uint8) {
	for c, at := range l.cmd {
		if at != 0 {
			out |= 1 << c
		}
	}
	return out
}

// leaderOf is the leader that a machine hears, or is, from 1 on.
func (w *smallWorld) leaderOf(s *scene, i int) uint8 {
	p := &s.p[i]
	if !p.member || !p.up {
		return 0
	}
	if p.leading {
		return uint8(i + 1)
	}
	for j := range w.n {
		if l := &s.p[j]; l.up && l.leading && l.gen == p.gen && l.term == p.term {
			return uint8(j + 1)
		}
	}
	return 0
}

// quorumOf counts the voters of a log and what a majority of them is.
func (l *smallLog) quorum() int {
	n := 0
	for _, v := range l.voter {
		if v != 0 {
			n++
		}
	}
	return n/2 + 1
}

func (w *smallWorld) describe(s *scene) string {
	var b strings.Builder
	for i := range w.n {
		p := &s.p[i]
		st := w.states[s.st[i]]
		fmt.Fprintf(&b, "%s/%d up=%v member=%v gen %v leads=%v term %d log %+v commit %d; held=%v %v %+v; highest %d heard %v; attempt %q promise %v ended %v founding %v; birth %+v\n",
			nameOf(i), p.incarnation, p.up, p.member, p.gen, p.leading, p.term, p.log, p.commit, p.held, p.leftGen, p.left, p.highest, p.heard[:w.n],
			st.State.attempt, st.State.promise, st.ended, st.State.founding, p.birth)
	}
	for _, k := range s.wire {
		if k != 0 {
			fmt.Fprintf(&b, "  on the wire: %s\n", w.letters[k].letter)
		}
	}
	fmt.Fprintf(&b, "acknowledged %02b, without memory %03b, left %+v\n", s.acked, s.forgot, s.left)
	return b.String()
}

func (l letter) String() string {
	what := "question"
	if l.answers {
		what = "answer"
	}
	return fmt.Sprintf("%c %s %s → %s attempt %s orphan=%v agreed=%v gen %v", l.kind, what, nameOf(int(l.from)), nameOf(int(l.to)), attemptName(l.attempt), l.orphan, l.agreed, l.gen)
}
