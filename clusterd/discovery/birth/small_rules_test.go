package birth

import (
	"fmt"
	"strings"
	"time"
)

// The small world is the explorer's second half: the same machines, messages and model of
// Raft as world, in a form that can be searched to the end. A state is a value without
// pointers (small_world_test.go); what Next answered is remembered, so that the real rules
// run once for each question that can be put to them.
//
// Time is taken out: a span that is waited for (the turn, masters.wait, the age of an
// attempt, a promise) may end at any moment and in any order, on each machine for itself.
// Every run with clocks is one of these runs, as far as the budget of untimely moves goes
// (see untimely; docs/birth.md says what else a search leaves out).

// most is how many machines a small world has room for.
const most = 5

// hole stands for a placeholder's incarnation; 0 is nobody.
const hole = 0xff

// short is a generation: id 0 is none.
type short struct{ height, id uint8 }

// truth is Own, in numbers.
type truth struct {
	incarnation, highest, term, last, config uint8
	bound, legacy, unwritten                 bool
	origin                                   smallReach
	gen                                      short
	voter                                    [most]uint8
}

// smallAnswer is Answer, in numbers; leader is a machine's number from 1 on.
type smallAnswer struct {
	truth    truth
	leader   uint8
	promised bool
}

type questionKind uint8

const (
	qStart  questionKind = iota + 1 // a tick after the turn has passed
	qWait                           // a tick after masters.wait has passed
	qGiveUp                         // a tick when the attempt is too old
	qAgain                          // a tick when the missing ones are challenged once more
	qExpire                         // the promise has ended
	qHeard
	qChallenged
	qAnswered
	qAsked
	qFounded
	qEnded
	qProven
	qRestart // the program is started again
)

// question is an event, in numbers.
type question struct {
	kind                               questionKind
	from, incarnation, attempt, leader uint8
	failed                             bool
	own                                truth
	answer                             smallAnswer
}

type deedKind uint8

const (
	dChallenge deedKind = iota + 1
	dEnd
	dReply
	dFound
	dBind
)

// deed is an action, in numbers.
type deed struct {
	kind            deedKind
	to              uint8 // machines, a bit each
	attempt, height uint8
	source          uint8 // from 1 on
	answer          smallAnswer
	found           [2]uint8    // the place of its Found in the rulebook
	incarnation     [most]uint8 // of those who take part
}

type outcome struct {
	state uint32
	deeds []deed
}

// remembered is a State with what is asked of it often.
type remembered struct {
	State
	self          int
	attempt       uint8
	promise       uint8 // the attempt, also an own one
	promisedTo    uint8 // from 1 on
	promisedInc   uint8
	own           bool // the promise is to itself
	ended         bool // and its time is over
	free, mayJoin bool
	mayWait       bool
	missing       uint8
	heights       uint64 // of generations whose places are told
	attempts      uint64
	gens          uint16
	incarnations  [most]lives
}

type asked struct {
	state uint32
	q     question
}

// rulebook remembers what Next answered.
type rulebook struct {
	n        int
	disks    bool
	plain    bool // nothing is merged: see merge
	states   []remembered
	numbers  map[string]uint32
	answered map[asked]outcome
	calls    int
	founds   []Found
	foundNo  map[string]int
}

func newRulebook(n int, disks bool) *rulebook {
	return &rulebook{n: n, disks: disks, states: make([]remembered, 1), numbers: map[string]uint32{}, answered: map[asked]outcome{}, foundNo: map[string]int{}}
}

func nameOf(i int) string { return string(rune('a' + i)) }

// An incarnation's number is a life, from 1 on, times epochs, and how many generations it
// has left.
const epochs = 8

// lives is a set of incarnations of one name.
type lives uint64

func incarnationOf(k uint8) string {
	if k == 0 || k == hole {
		return ""
	}
	s := string('0' + rune(k/epochs))
	if k%epochs != 0 {
		s += "." + string('0'+rune(k%epochs))
	}
	return s
}

func numberOf(incarnation string) uint8 {
	if incarnation == "" {
		return 0
	}
	life, epoch, left := strings.Cut(incarnation, ".")
	k := (life[0] - '0') * epochs
	if left {
		k += epoch[0] - '0'
	}
	return k
}

// An attempt's number tells whose it is: eight each.
func attemptName(k uint8) string {
	if k == 0 {
		return ""
	}
	return fmt.Sprintf("%s%d", nameOf(int(k-1)/8), (k-1)%8)
}

func attemptNumber(s string) uint8 {
	if s == "" {
		return 0
	}
	return (s[0]-'a')*8 + (s[1] - '0') + 1
}

func (g short) long() Generation {
	if g.id == 0 {
		return Generation{}
	}
	return Generation{uint64(g.height), "g" + string('0'+rune(g.id))}
}

func shortOf(g Generation) short {
	if g.ID == "" {
		return short{}
	}
	return short{uint8(g.Height), g.ID[1] - '0'}
}

func (r smallReach) long() Reach {
	return Reach{uint64(r.gen.height), uint64(r.term), uint64(r.index), r.gen.long().ID, votersOf(r.voter)}
}

func smallReachOf(r Reach) smallReach {
	return smallReach{uint8(r.Term), uint8(r.Index), shortOf(Generation{r.Height, r.ID}), votersIn(r.Voters)}
}

func votersOf(v [most]uint8) (out []Voter) {
	for j, v := range v {
		if v != 0 {
			out = append(out, Voter{nameOf(j), incarnationOf(v)})
		}
	}
	return out
}

func votersIn(list []Voter) (out [most]uint8) {
	for _, v := range list {
		out[v.Name[0]-'a'] = numberOf(v.Incarnation)
		if v.Incarnation == "" {
			out[v.Name[0]-'a'] = hole
		}
	}
	return out
}

func (o truth) reach() smallReach { return smallReachOf(o.long().Reach()) }

func (o truth) long() Own {
	return Own{
		Incarnation: incarnationOf(o.incarnation), Bound: o.bound, Legacy: o.legacy, Generation: o.gen.long(), Highest: uint64(o.highest),
		Term: uint64(o.term), LastIndex: uint64(o.last), ConfigIndex: uint64(o.config), Unwritten: o.unwritten, Origin: o.origin.long(),
		Voters: votersOf(o.voter),
	}
}

func truthOf(o Own) truth {
	return truth{
		incarnation: numberOf(o.Incarnation), highest: uint8(o.Highest), term: uint8(o.Term), last: uint8(o.LastIndex), config: uint8(o.ConfigIndex),
		bound: o.Bound, legacy: o.Legacy, gen: shortOf(o.Generation), unwritten: o.Unwritten, origin: smallReachOf(o.Origin),
		voter: votersIn(o.Voters),
	}
}

func (a smallAnswer) long(from int) Answer {
	out := Answer{Name: nameOf(from), ListVersion: 1, Own: a.truth.long(), Promised: a.promised}
	if a.leader != 0 {
		out.Leader = nameOf(int(a.leader) - 1)
	}
	return out
}

func inNumbers(a Answer) smallAnswer {
	out := smallAnswer{truth: truthOf(a.Own), promised: a.Promised}
	if a.Leader != "" {
		out.leader = a.Leader[0] - 'a' + 1
	}
	return out
}

// fresh is the memory of a program that was just started, with the promise that is open.
func (r *rulebook) fresh(i int, open Promise) uint32 {
	w := world{disks: r.disks}
	for k := range r.n {
		w.names = append(w.names, nameOf(k))
	}
	return r.number(New(w.config(nameOf(i)), start, open))
}

// number takes the time out of a state and gives its number.
func (r *rulebook) number(s State) uint32 {
	s.lastLeader, s.notBefore, s.yielded, s.why, s.held = start, time.Time{}, false, "", nil
	ended := s.promise.Attempt != "" && start.After(s.promisedUntil)
	if ended && s.promise.From != s.cfg.Self {
		s.promise, ended = Promise{}, false
	}
	s.promisedUntil = start.Add(wPromise)
	if ended {
		s.promisedUntil = start.Add(-time.Second)
	}
	s.began, s.asked = start, start
	if !s.enough.IsZero() {
		s.enough = start
	}
	if s.attempt == "" {
		s.enough, s.answers = time.Time{}, nil
	}
	if !r.plain {
		s = s.cutForSearch()
	}
	key := fmt.Sprintln(s.cfg.Self, s.promise, ended, s.attempt, s.enough.IsZero(), s.founding, s.stopped)
	for _, name := range s.cfg.List {
		if a, ok := s.answers[name]; ok {
			a.Refused = ""
			s.answers[name] = a
			key += fmt.Sprintln(a)
		}
	}
	if k, ok := r.numbers[key]; ok {
		return k
	}
	k := uint32(len(r.states))
	r.numbers[key] = k
	r.states = append(r.states, r.remember(s, ended))
	return k
}

func (r *rulebook) remember(s State, ended bool) remembered {
	m := remembered{
		State: s, self: int(s.cfg.Self[0] - 'a'), attempt: attemptNumber(s.attempt), promise: attemptNumber(s.promise.Attempt), ended: ended,
		own: s.promise.From == s.cfg.Self, promisedInc: numberOf(s.promise.Incarnation), free: s.free("", start), mayJoin: s.MayJoin(start),
		mayWait: s.attempt != "" && !s.founding && !s.enough.IsZero(),
	}
	if s.promise.From != "" {
		m.promisedTo = s.promise.From[0] - 'a' + 1
		m.incarnations[m.promisedTo-1] |= 1 << m.promisedInc
	}
	for _, k := range []uint8{m.attempt, m.promise} {
		if k != 0 {
			m.attempts |= 1 << k
		}
	}
	if s.attempt != "" && !s.founding {
		for _, name := range s.missing() {
			m.missing |= 1 << (name[0] - 'a')
		}
	}
	for name, a := range s.answers {
		m.gens |= truthOf(a.Own).refers(int(name[0]-'a'), &m.incarnations)
		m.heights |= truthOf(a.Own).heights()
	}
	return m
}

// refers notes the incarnations that a master's truth names, and gives its generation.
func (o truth) refers(of int, incarnations *[most]lives) uint16 {
	incarnations[of] |= 1 << o.incarnation
	note(incarnations, o.voter)
	note(incarnations, o.origin.voter)
	return (1<<o.gen.id | 1<<o.origin.gen.id) &^ 1
}

func note(incarnations *[most]lives, voter [most]uint8) {
	for j, v := range voter {
		if v != 0 && v != hole {
			incarnations[j] |= 1 << v
		}
	}
}

// heights are those of the generations whose places it tells.
func (o truth) heights() uint64 { return heightBit(o.gen.height) | o.origin.bit() }

// put asks the real rules, or remembers what they said.
func (r *rulebook) put(state uint32, q question) outcome {
	key := asked{state, q}
	if o, ok := r.answered[key]; ok {
		return o
	}
	r.calls++
	s := r.states[state].State
	if q.kind == qRestart {
		o := outcome{state: r.fresh(r.states[state].self, s.Promise())}
		r.answered[key] = o
		return o
	}
	var actions []Action
	switch q.kind {
	case qStart:
		s.lastLeader = start.Add(-1000 * time.Hour)
	case qWait:
		s.enough = start.Add(-1000 * time.Hour)
	case qGiveUp:
		s.began = start.Add(-1000 * time.Hour)
	case qAgain:
		s.asked = start.Add(-1000 * time.Hour)
	}
	switch q.kind {
	case qExpire:
		s.promisedUntil = start.Add(-time.Second)
	default:
		s, actions = Next(s, q.event())
	}
	o := outcome{state: r.number(s)}
	for _, a := range actions {
		if d, ok := deedOf(a); ok {
			if f, yes := a.(Found); yes {
				d.found = r.keep(f)
			}
			o.deeds = append(o.deeds, d)
		}
	}
	r.answered[key] = o
	return o
}

// keep numbers what founders decided: what the participants answered.
func (r *rulebook) keep(f Found) [2]uint8 {
	f.Attempt, f.Lost = "", ""
	key := fmt.Sprintf("%+v", f.Participants)
	k, ok := r.foundNo[key]
	if !ok {
		k = len(r.founds)
		r.founds, r.foundNo[key] = append(r.founds, f), k
	}
	return [2]uint8{uint8(k), uint8(k >> 8)}
}

func (q question) event() Event {
	attempt, from := attemptName(q.attempt), ""
	if q.from != 0 {
		from = nameOf(int(q.from) - 1)
	}
	switch q.kind {
	case qHeard:
		return LeaderHeard{start}
	case qChallenged:
		leader := ""
		if q.leader != 0 {
			leader = nameOf(int(q.leader) - 1)
		}
		return Challenged{Now: start, Own: q.own.long(), From: from, Incarnation: incarnationOf(q.incarnation), ListVersion: 1, Attempt: attempt, Leader: leader}
	case qAnswered:
		return Answered{Now: start, Own: q.own.long(), Attempt: attempt, Answer: q.answer.long(int(q.from) - 1)}
	case qAsked:
		return Asked{start, attempt}
	case qFounded:
		e := Founded{Now: start, Attempt: attempt}
		if q.failed {
			e.Err = "too few"
		}
		return e
	case qEnded:
		return Ended{attempt}
	case qProven:
		return Proven{Name: from, Incarnation: incarnationOf(q.incarnation)}
	}
	return Tick{Now: start, Own: q.own.long(), Attempt: attempt}
}

func deedOf(a Action) (deed, bool) {
	switch a := a.(type) {
	case Challenge:
		d := deed{kind: dChallenge, attempt: attemptNumber(a.Attempt)}
		for _, name := range a.To {
			d.to |= 1 << (name[0] - 'a')
		}
		return d, true
	case End:
		return deed{kind: dEnd, attempt: attemptNumber(a.Attempt)}, true
	case Reply:
		return deed{kind: dReply, answer: inNumbers(a.Answer)}, true
	case Bind:
		return deed{kind: dBind}, true
	case Found:
		d := deed{kind: dFound, attempt: attemptNumber(a.Attempt), height: uint8(a.Height)}
		for _, p := range a.Participants {
			d.to |= 1 << (p.Name[0] - 'a')
			d.incarnation[p.Name[0]-'a'] = numberOf(p.Incarnation)
		}
		if a.Source != "" {
			d.source = a.Source[0] - 'a' + 1
		}
		return d, true
	}
	return deed{}, false
}
