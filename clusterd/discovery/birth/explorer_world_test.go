package birth

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// The explorer plays masters against everything that can happen to them: messages of the
// birth lost, delayed and reordered; machines that lose power, programs that start anew,
// cuts, cloned machines. Births are what Next decides and what masters carries out; Raft
// below is a model that does in one step what the library does in several, and never what
// it would not do.

// entry is one of a generation's log.
type entry struct {
	term    int
	cmd     int      // a command, 0: none
	base    []int    // commands that the first snapshot brought along
	origin  Reach    // and how far it goes
	members []Member // a configuration, nil: none
}

// held is what is left of a generation that was left.
type held struct {
	gen Generation
	log []entry
}

// birthUnderWay is what the founder remembers while it asks.
type birthUnderWay struct {
	f       Found
	gen     Generation
	binding bool // the second round of questions
	asked   []int
	left    map[int]string // machine → its new incarnation
	state   []int
	origin  Reach
	bound   int
}

// machine is one computer with a master's program on it.
type machine struct {
	name  string
	up    bool
	boots int
	epoch int
	proc  int // starts of the program
	now   time.Time
	st    State

	member  bool // a replica is open
	gen     Generation
	log     []entry
	term    int
	leading bool
	commit  int
	match   map[Voter]int // what the leader knows of each server; never changed, only replaced
	living  map[string]string

	left    *held
	highest uint64
	heard   map[string]heardOf // what the others said last; never changed, only replaced
	birth   *birthUnderWay
}

type heardOf struct {
	gen   Generation
	bound bool
	at    time.Time
}

type messageKind byte

const (
	mChallenge messageKind = 'c'
	mLeave     messageKind = 'l'
	mFound     messageKind = 'f'
	mEnd       messageKind = 'e'
	mAsk       messageKind = 'a'
)

// message is a request on its way, or its answer.
type message struct {
	kind     messageKind
	answers  bool
	from, to int // of this direction
	proc     int // of the program that asked
	inc      string
	attempt  string
	want     bool
	answer   Answer
	accepted bool
	gen      Generation
	voters   []Voter
	state    []int
	origin   Reach
}

// counts says what really happened: a fault that never fired proves nothing.
type counts struct {
	steps, births, empty, rebirths, aborted, learners, replaced, refused, elections, acknowledged int
	powerCuts, restarts, lost, cuts, clones, twins, forgiven, stepsDown, joined, promises         int
	undecided                                                                                     int
}

type world struct {
	n        int
	names    []string
	machines []machine
	wire     []message
	cut      map[[2]int]bool
	next     int // numbers for attempts, generations, commands
	acked    []int
	forgot   map[string]bool  // masters without their memory, until they vote again
	counted  map[string]bool  // generations whose birth was counted
	origin   map[string][]int // by generation: commands that those who took part in its birth held
	did      counts
	trace    []string
	tracing  bool
	disks    bool
}

const (
	wQuiet   = 200 * time.Second // so long that an attempt asks once: the next attempt asks again
	wWait    = 30 * time.Second
	wPromise = 40 * time.Second
)

func newWorld(n int, disks bool) *world {
	w := &world{n: n, cut: map[[2]int]bool{}, forgot: map[string]bool{}, counted: map[string]bool{}, origin: map[string][]int{}, disks: disks}
	for i := range n {
		w.names = append(w.names, string(rune('a'+i)))
	}
	for _, name := range w.names {
		w.machines = append(w.machines, machine{name: name, now: start})
	}
	for i := range w.machines {
		w.powerOn(i)
	}
	return w
}

func (w *world) quorum() int { return w.n/2 + 1 }

func (w *world) config(name string) Config {
	return Config{Self: name, List: w.names, ListVersion: 1, Disks: w.disks, Wait: wWait, Quiet: wQuiet, Promise: wPromise}
}

func (w *world) say(format string, args ...any) {
	if w.tracing {
		w.trace = append(w.trace, fmt.Sprintf(format, args...))
	}
}

func (m *machine) incarnation() string {
	if m.epoch == 0 {
		return fmt.Sprint(m.boots)
	}
	return fmt.Sprintf("%d.%d", m.boots, m.epoch)
}

func (m *machine) voter() Voter { return Voter{m.name, m.incarnation()} }

func lastTerm(log []entry) int {
	if len(log) == 0 {
		return 0
	}
	return log[len(log)-1].term
}

// unwritten says whether a log is only what its generation was founded with.
func unwritten(log []entry) (bool, Reach) {
	if len(log) != 1 {
		return false, Reach{}
	}
	return true, log[0].origin
}

func (m *machine) own() Own {
	o := Own{Incarnation: m.incarnation(), Highest: m.highest}
	if m.left != nil {
		o.Legacy, o.Generation, o.Term, o.LastIndex = true, m.left.gen, uint64(lastTerm(m.left.log)), uint64(len(m.left.log))
		o.Unwritten, o.Origin = unwritten(m.left.log)
	}
	if !m.member || len(m.log) == 0 {
		return o
	}
	ms, index := members(m.log)
	o.Bound, o.Legacy, o.Generation, o.Term, o.LastIndex = true, false, m.gen, uint64(lastTerm(m.log)), uint64(len(m.log))
	o.Voters, o.ConfigIndex = voters(ms), uint64(index)
	o.Unwritten, o.Origin = unwritten(m.log)
	return o
}

// reach says whether what one machine sends arrives at another.
func (w *world) reach(from, to int) bool {
	return w.machines[from].up && w.machines[to].up && !w.cut[[2]int{from, to}]
}

func (w *world) both(a, b int) bool { return w.reach(a, b) && w.reach(b, a) }

// leaderOf is the name of the leader that a machine hears, or is.
func (w *world) leaderOf(i int) string {
	m := &w.machines[i]
	if !m.member {
		return ""
	}
	if m.leading {
		return m.name
	}
	for j := range w.machines {
		l := &w.machines[j]
		if l.up && l.leading && l.member && l.gen == m.gen && l.term == m.term && w.both(j, i) {
			return l.name
		}
	}
	return ""
}

// let lets one event happen to a machine and does what follows.
func (w *world) let(i int, e Event) []Action {
	m := &w.machines[i]
	var actions []Action
	m.st, actions = Next(m.st, e)
	for _, a := range actions {
		switch a := a.(type) {
		case Challenge:
			for _, name := range a.To {
				w.send(message{kind: mChallenge, from: i, to: w.find(i, name), inc: m.incarnation(), attempt: a.Attempt})
			}
		case End:
			for j := range w.machines {
				if j != i && w.machines[j].name != m.name {
					w.send(message{kind: mEnd, from: i, to: j, attempt: a.Attempt})
				}
			}
		case Found:
			w.beginBirth(i, a)
		}
	}
	return actions
}

// find is the machine that answers under a name; a master has no other of its own.
func (w *world) find(asker int, name string) int {
	found := -1
	for j := range w.machines {
		if w.machines[j].name == name && name != w.machines[asker].name && (found < 0 || w.machines[j].up) {
			found = j
		}
	}
	return found
}

func (w *world) send(m message) {
	if m.to < 0 {
		return
	}
	m.proc = w.machines[m.from].proc
	w.wire = append(w.wire, m)
}

func (w *world) number() int {
	w.next++
	return w.next
}

// powerOff takes a machine's memory.
func (w *world) powerOff(i int) {
	m := &w.machines[i]
	w.say("%s loses power", m.name)
	m.up = false
	if !w.disks {
		*m = machine{name: m.name, boots: m.boots, now: m.now, proc: m.proc}
		w.forgot[m.name] = true
		w.forgive()
	} else {
		m.leading, m.birth, m.living = false, nil, nil
	}
	w.hangUp(i)
	w.did.powerCuts++
}

// forgive drops what nobody promised to keep: q masters were without memory at once.
func (w *world) forgive() {
	if len(w.forgot) >= w.quorum() && len(w.acked) > 0 {
		w.acked = nil
		w.did.forgiven++
	}
}

// powerOn starts a machine. One whose name lives already gets no certificate: cloned
// machines are refused by trust, and births need not know of them.
func (w *world) powerOn(i int) {
	m := &w.machines[i]
	if slices.ContainsFunc(w.machines, func(x machine) bool { return x.up && x.name == m.name }) {
		w.did.twins++
		return
	}
	m.up = true
	if !w.disks || m.boots == 0 {
		m.boots++
		m.st = New(w.config(m.name), m.now, Promise{})
		w.forgot[m.name] = true
	}
	m.proc++
	if w.disks {
		m.st = New(w.config(m.name), m.now, m.st.Promise())
	}
	w.say("%s starts as %s", m.name, m.incarnation())
}

// hangUp ends a program's connections: answers to it arrive nowhere, and what it was
// asked is never answered. Requests that it sent may still be read.
func (w *world) hangUp(i int) {
	var lost []message
	w.wire = slices.DeleteFunc(slices.Clone(w.wire), func(m message) bool {
		if m.to == i {
			lost = append(lost, m)
		}
		return m.to == i
	})
	for _, m := range lost {
		w.failed(m)
	}
}

// restart ends and starts the program; its files stay.
func (w *world) restart(i int) {
	m := &w.machines[i]
	w.say("the program on %s is started again", m.name)
	m.proc++
	m.leading, m.birth, m.living = false, nil, nil
	m.st = New(w.config(m.name), m.now, m.st.Promise())
	w.hangUp(i)
	w.did.restarts++
}

// failed lets a founder know that a question will not be answered: either it does not
// arrive, or its answer does not, whatever was done.
func (w *world) failed(m message) {
	if m.kind != mLeave && m.kind != mFound {
		return
	}
	asker, asked := m.from, m.to
	if m.answers {
		asker, asked = m.to, m.from
	}
	w.note(asker, m.proc, message{kind: m.kind, from: asked, attempt: m.attempt})
}

// leave makes a machine a new incarnation bound to nothing.
func (w *world) leave(i int) {
	m := &w.machines[i]
	if !m.member {
		return
	}
	if len(m.log) > 0 {
		m.left = &held{m.gen, m.log}
		m.epoch++
	}
	m.member, m.log, m.gen, m.leading, m.commit, m.match, m.term, m.living = false, nil, Generation{}, false, 0, nil, 0, nil
}

func (w *world) enter(i int, g Generation, log []entry) {
	m := &w.machines[i]
	m.member, m.gen, m.log, m.term, m.leading, m.commit = true, g, log, lastTerm(log), false, len(log)
	m.highest = max(m.highest, g.Height)
	if len(log) > 0 {
		m.left = nil
	}
}

func (w *world) beginBirth(i int, f Found) {
	m := &w.machines[i]
	b := &birthUnderWay{f: f, gen: Generation{f.Height, fmt.Sprintf("g%d", w.number())}, left: map[int]string{}}
	m.birth = b
	var held []int
	var source Reach
	living := map[string]string{}
	for _, p := range f.Participants {
		living[p.Name] = p.Incarnation
		if p.Name == f.Source {
			source = p.Reach()
		}
	}
	for j := range w.machines {
		x := &w.machines[j]
		took := slices.ContainsFunc(f.Participants, func(p Answer) bool { return p.Name == x.name && p.Incarnation == x.incarnation() })
		if took && undecided(x.own().Reach(), source, living) {
			w.did.undecided++
			continue
		}
		if took && x.member {
			held = append(held, commands(x.log)...)
		}
		if took && x.left != nil {
			held = append(held, commands(x.left.log)...)
		}
	}
	w.origin = maps.Clone(w.origin)
	w.origin[b.gen.ID] = held
	w.say("%s founds height %d with %d masters from %q", m.name, f.Height, len(f.Participants), f.Source)
	w.ask(i, mLeave)
}

// undecided says whether nothing tells which of two states is the newer one
// (docs/adr/0012-unheard.md): what is in the one that is not taken is forgiven.
func undecided(a, b Reach, living map[string]string) bool {
	return a.Height == b.Height && a.ID != b.ID && !a.precedes(b, living) && !b.precedes(a, living)
}

func (w *world) ask(i int, kind messageKind) {
	m := &w.machines[i]
	b := m.birth
	b.asked = nil
	q := message{kind: kind, from: i, attempt: b.f.Attempt, gen: b.gen, state: b.state, origin: b.origin}
	if kind == mFound {
		for _, name := range w.names {
			v := Voter{Name: name}
			for j, inc := range b.left {
				if w.machines[j].name == name {
					v.Incarnation = inc
				}
			}
			q.voters = append(q.voters, v)
		}
	}
	for _, p := range b.f.Participants {
		to := i
		if p.Name != m.name {
			to = w.find(i, p.Name)
		}
		b.asked = append(b.asked, to)
		q.to, q.want = to, p.Name == b.f.Source
		w.send(q)
	}
}

// note takes in the answer to a founder's question; from -1: there is none.
func (w *world) note(founder, proc int, a message) {
	m := &w.machines[founder]
	b := m.birth
	if b == nil || m.proc != proc || b.f.Attempt != a.attempt || b.binding != (a.kind == mFound) {
		return
	}
	at := slices.Index(b.asked, a.from)
	if at < 0 {
		return
	}
	b.asked = slices.Delete(slices.Clone(b.asked), at, at+1)
	if a.accepted && a.kind == mLeave {
		b.left[a.from] = a.answer.Incarnation
		if w.machines[a.from].name == b.f.Source {
			b.state, b.origin = a.state, a.origin
		}
	}
	if a.accepted && a.kind == mFound {
		b.bound++
	}
	if len(b.asked) > 0 {
		return
	}
	if !b.binding {
		source := b.f.Source == ""
		for j := range b.left {
			source = source || w.machines[j].name == b.f.Source
		}
		left := func(name string) bool {
			return slices.ContainsFunc(slices.Collect(maps.Keys(b.left)), func(j int) bool { return w.machines[j].name == name })
		}
		if !source || !b.f.Confirmed(left, w.n) {
			w.endBirth(founder, "too few left")
			return
		}
		b.binding = true
		w.ask(founder, mFound)
		return
	}
	why := ""
	if b.bound < w.quorum() {
		why = "too few bound"
	}
	w.endBirth(founder, why)
}

func (w *world) endBirth(i int, why string) {
	m := &w.machines[i]
	attempt := m.birth.f.Attempt
	m.birth = nil
	if why != "" {
		w.did.aborted++
		w.say("%s: the birth did not succeed: %s", m.name, why)
	}
	w.let(i, Founded{Now: m.now, Attempt: attempt, Err: why})
}
