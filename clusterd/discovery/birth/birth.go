// Package birth decides, as a pure function, when masters that may have forgotten
// everything may found a generation (one Raft history), and when they must wait or join:
//
//	Next(state, event) → (state, actions)
//
// Machines that boot into RAM forget their votes; a cluster must not be founded twice for
// it. A master without a leader challenges all the others. Their answers say what they
// belong to, and are a promise to bind to nobody else meanwhile. Only when q = n/2+1 of
// them belong to no generation that might still be alive does it found a new one, from
// the newest state that any of them holds.
//
// Invariants: a promise is given to one attempt at a time; a generation that might be
// alive is never replaced; so two generations never have quorums at once.
//
// A master that meets a live other incarnation of its own name stops (twin.go); another
// machine under a master's name waits for the operator (hardware.go).
//
// There is no clock and no randomness in here: events bring both. Messages, snapshots
// and the log are carried by masters; how a running generation replaces a member is
// Replacement, below; the reasons are in docs/birth.md.
package birth

import (
	"fmt"
	"slices"
	"time"
)

// Voter is a master's incarnation; without Incarnation it is a placeholder.
type Voter struct{ Name, Incarnation string }

// Generation is one Raft history.
type Generation struct {
	Height uint64
	ID     string
}

// Config never changes during an incarnation.
type Config struct {
	Self        string
	List        []string // names of all masters
	ListVersion uint64
	Disks       bool          // state survives reboots: births need everybody
	Wait        time.Duration // how long to wait for all, once there are enough
	Quiet       time.Duration // without a leader before anything is tried
	Promise     time.Duration // how long a promise lasts on the answerer's clock
}

// Own is the truth about this master at the moment of an event.
type Own struct {
	Incarnation string
	Bound       bool // belongs to Generation
	Generation  Generation
	Highest     uint64 // height heard of, anywhere
	Term        uint64 // of the last entry of the log, not the newest voted in
	LastIndex   uint64
	Voters      []Voter // newest configuration in the log, or in what is left of one
	ConfigIndex uint64  // and where it stands
	// Legacy: not bound, but the state of a generation it left is still here, up to
	// (Generation.Height, Term, LastIndex).
	Legacy bool
	// Unwritten: nothing was ever added to what Generation was founded with, which is a
	// state that goes as far as Origin.
	Unwritten bool
	Origin    Reach

	Hardware string            // this machine's; empty: nobody can tell
	Known    map[string]string // by name: the masters' hardware as the state has it
	Admitted map[string]Word   // by name: what an operator said here, and no state has yet
}

// Answer is another master's truth, and whether it promised.
type Answer struct {
	Name        string
	ListVersion uint64
	Own
	Leader   string // it hears one
	Promised bool
	Refused  string // why not
}

// State is what a master remembers of births between events.
type State struct {
	cfg        Config
	lastLeader time.Time

	promise       Promise
	promisedUntil time.Time

	attempt   string
	began     time.Time
	enough    time.Time // when q had answered
	answers   map[string]Answer
	founding  bool
	asked     time.Time // when the missing ones were last challenged
	notBefore time.Time // no attempt earlier
	yielded   bool      // left an attempt to a lower name: tries again as soon as that one ends
	why       string    // for people: what is waited for
	held      []Held    // other machines under masters' names: not counted

	twinAsked time.Time // when another incarnation of this name was last asked for proof
	stopped   bool      // it proved that it lives: no vote and no promise any more
}

// Promise is whom a master promised to bind to nobody else. A program that is started
// again must still know it.
type Promise struct{ Attempt, From, Incarnation, Hardware string }

// New begins a program's memory of an incarnation; a promise that was open when it
// ended runs its full time again.
func New(cfg Config, now time.Time, open Promise) State {
	cfg.List = slices.Clone(cfg.List)
	slices.Sort(cfg.List)
	return State{cfg: cfg, lastLeader: now, why: "looking for the other masters", promise: open, promisedUntil: now.Add(cfg.Promise)}
}

// Promise gives the promise to another master that is open; the zero value: none.
func (s State) Promise() Promise {
	if s.promise.From == s.cfg.Self {
		return Promise{}
	}
	return s.promise
}

// free says whether the master may bind to whom it likes, or to this attempt.
func (s State) free(attempt string, now time.Time) bool {
	return s.promise.Attempt == "" || s.promise.Attempt == attempt || now.After(s.promisedUntil)
}

// MayJoin says whether no promise forbids to join a generation that lives.
func (s State) MayJoin(now time.Time) bool {
	return !s.founding && !s.stopped && (s.promise.From == s.cfg.Self || s.free("", now))
}

// Why says in one sentence what this master is waiting for.
func (s State) Why() string { return s.why }

func (s State) quorum() int { return len(s.cfg.List)/2 + 1 }

// Event is one of Tick, LeaderHeard, Challenged, Answered, Asked, Founded, Ended, Proven,
// TwinHeard, TwinLives.
type Event interface{ event() }

type (
	// Tick: time passes. Attempt is a fresh random name for an attempt.
	Tick struct {
		Now     time.Time
		Own     Own
		Attempt string
	}
	// LeaderHeard: this master follows or is the leader of a generation.
	LeaderHeard struct{ Now time.Time }
	// Challenged: another master asks for the truth and a promise.
	Challenged struct {
		Now         time.Time
		Own         Own
		From        string
		Incarnation string // of the challenger
		Hardware    string // likewise
		ListVersion uint64
		Attempt     string
		Leader      string // heard by this master
	}
	// Answered: an answer to this master's challenge.
	Answered struct {
		Now     time.Time
		Own     Own
		Attempt string
		Answer  Answer
	}
	// Asked: another master asks this one to bind to a new generation.
	Asked struct {
		Now     time.Time
		Attempt string
	}
	// Founded: the birth this master carried out is over, well or not.
	Founded struct {
		Now     time.Time
		Attempt string
		Err     string
	}
	// Ended: a challenger gives its attempt up.
	Ended struct{ Attempt string }
	// Proven: asked anew, a master answered as this incarnation; others of its name and
	// on this hardware are dead.
	Proven struct{ Name, Incarnation, Hardware string }
)

func (Tick) event()        {}
func (LeaderHeard) event() {}
func (Challenged) event()  {}
func (Answered) event()    {}
func (Asked) event()       {}
func (Founded) event()     {}
func (Ended) event()       {}
func (Proven) event()      {}

// Action is one of Challenge, Reply, Found, End, Bind, Refuse, ProveTwin, Stop.
type Action interface{ action() }

type (
	// Challenge the masters that have not promised yet.
	Challenge struct {
		Attempt string
		To      []string
	}
	// Reply to the challenger.
	Reply struct{ Answer Answer }
	// Found a generation: those named stop voting, hand over their state and bind.
	Found struct {
		Attempt      string
		Height       uint64
		Participants []Answer // this master among them
		Source       string   // whose state it starts from; empty: from nothing
		Lost         string   // for people: what may be lost
	}
	// End tells all that the attempt is over.
	End struct{ Attempt string }
	// Bind: do as the founder asks.
	Bind struct{}
	// Refuse what was asked.
	Refuse struct{ Why string }
)

func (Challenge) action() {}
func (Reply) action()     {}
func (Found) action()     {}
func (End) action()       {}
func (Bind) action()      {}
func (Refuse) action()    {}

// Next is the whole behaviour.
func Next(s State, e Event) (State, []Action) {
	if s.stopped {
		return s.answerStopped(e)
	}
	switch e := e.(type) {
	case TwinHeard:
		return s.twinHeard(e)
	case TwinLives:
		return s.twinLives(e)
	case LeaderHeard:
		s.lastLeader = e.Now
		s.why, s.held = "", nil
		return s.giveUp("a leader is heard", e.Now)
	case Tick:
		return s.tick(e)
	case Challenged:
		return s.challenged(e)
	case Answered:
		if e.Attempt != s.attempt || s.attempt == "" || s.founding {
			return s, nil
		}
		s.answers = with(s.answers, e.Answer)
		return s.decide(e.Now, e.Own)
	case Asked:
		if s.promise.Attempt != e.Attempt || e.Now.After(s.promisedUntil) {
			return s, []Action{Refuse{"the promise to this attempt has ended"}}
		}
		return s, []Action{Bind{}}
	case Founded:
		if e.Attempt != s.attempt {
			return s, nil
		}
		if e.Err != "" {
			s.why = "founding did not succeed: " + e.Err
		}
		s, actions := s.giveUp(s.why, e.Now)
		s.lastLeader = e.Now // an election gets its time
		return s, actions
	case Ended:
		if s.promise.Attempt == e.Attempt && s.attempt != e.Attempt {
			s.promise = Promise{}
			if s.yielded {
				s.yielded, s.notBefore = false, time.Time{}
			}
		}
		return s, nil
	case Proven:
		if s.Promise().From == e.Name && s.promise.Incarnation != e.Incarnation && s.promise.Hardware == e.Hardware {
			s.promise = Promise{} // nothing can be born of that attempt any more
		}
		return s, nil
	}
	return s, nil
}

func with(m map[string]Answer, a Answer) map[string]Answer {
	out := make(map[string]Answer, len(m)+1)
	for k, v := range m {
		out[k] = v
	}
	out[a.Name] = a
	return out
}

// giveUp ends this master's own attempt, if there is one.
func (s State) giveUp(why string, now time.Time) (State, []Action) {
	if s.attempt == "" {
		return s, nil
	}
	ended := s.attempt
	if s.promise.Attempt == ended {
		s.promise = Promise{}
	}
	s.attempt, s.answers, s.founding, s.why = "", nil, false, why
	s.notBefore = now.Add(s.turn())
	return s, []Action{End{ended}}
}

// turn is how long this master leaves others to try first: the lowest name begins.
func (s State) turn() time.Duration {
	rank := slices.Index(s.cfg.List, s.cfg.Self)
	return s.cfg.Quiet * time.Duration(1+max(rank, 0))
}

// patience is how long a master goes without a leader before it tries. One that belongs
// to nothing has nothing to wait for but its turn; a member gives an election its time.
func (s State) patience(bound bool) time.Duration {
	if bound {
		return s.turn()
	}
	return s.cfg.Quiet/8 + (s.turn()-s.cfg.Quiet)/2
}

func (s State) tick(e Tick) (State, []Action) {
	if s.Promise().Attempt != "" && e.Now.After(s.promisedUntil) {
		s.promise = Promise{}
	}
	if s.founding {
		return s, nil
	}
	if s.attempt != "" {
		if e.Now.Sub(s.began) > s.cfg.Promise {
			// Promises given to this attempt are ending: begin again with fresh ones.
			return s.giveUp(s.waitingFor(), e.Now)
		}
		s, actions := s.decide(e.Now, e.Own)
		if s.attempt != "" && !s.founding && len(actions) == 0 && e.Now.Sub(s.asked) >= s.cfg.Quiet/4 {
			s.asked = e.Now // machines come up one by one
			actions = []Action{Challenge{s.attempt, s.missing()}}
		}
		return s, actions
	}
	switch {
	case e.Now.Sub(s.lastLeader) < s.patience(e.Own.Bound), e.Now.Before(s.notBefore):
		return s, nil
	case !s.free("", e.Now):
		return s, nil // somebody else is at it
	}
	s.yielded = false
	s.attempt, s.began, s.asked, s.enough, s.founding = e.Attempt, e.Now, e.Now, time.Time{}, false
	s.promise, s.promisedUntil = Promise{e.Attempt, s.cfg.Self, e.Own.Incarnation, e.Own.Hardware}, e.Now.Add(s.cfg.Promise)
	s.answers = map[string]Answer{s.cfg.Self: {Name: s.cfg.Self, ListVersion: s.cfg.ListVersion, Own: e.Own, Promised: true}}
	s, more := s.decide(e.Now, e.Own)
	if s.attempt == "" || s.founding {
		return s, more
	}
	return s, append([]Action{Challenge{s.attempt, s.missing()}}, more...)
}

func (s State) challenged(e Challenged) (State, []Action) {
	a := Answer{Name: s.cfg.Self, ListVersion: s.cfg.ListVersion, Own: e.Own, Leader: e.Leader}
	free := s.free(e.Attempt, e.Now)
	var actions []Action
	switch {
	case e.ListVersion != s.cfg.ListVersion:
		a.Refused = fmt.Sprintf("list of masters %d is not ours, %d", e.ListVersion, s.cfg.ListVersion)
	case !slices.Contains(s.cfg.List, e.From):
		a.Refused = e.From + " is not a master of ours"
	case e.Leader != "":
		a.Refused = "a leader is heard: " + e.Leader
	case !free && s.promise.Attempt == s.attempt && !s.founding && e.From < s.cfg.Self:
		// Two challengers met: the lower name goes on.
		s, actions = s.giveUp("leaving the attempt to "+e.From, e.Now)
		s.yielded, free = true, true
	case !free:
		a.Refused = "promised to another attempt"
	}
	if a.Refused == "" && free {
		a.Promised = true
		s.promise, s.promisedUntil = Promise{e.Attempt, e.From, e.Incarnation, e.Hardware}, e.Now.Add(s.cfg.Promise)
	}
	return s, append(actions, Reply{a})
}

// decide founds when the answers allow it.
func (s State) decide(now time.Time, own Own) (State, []Action) {
	mine := s.answers[s.cfg.Self]
	mine.Own = own
	s.answers = with(s.answers, mine)
	if s.held = s.hold(); s.heldName(s.cfg.Self) {
		// Whoever answers knows another machine under this name: it asks no more for now.
		s, actions := s.giveUp(Sentence(s.held), now)
		s.notBefore = now.Add(s.cfg.Wait)
		return s, actions
	}
	var valid []Answer
	for _, name := range s.cfg.List {
		a, ok := s.answers[name]
		switch {
		case !ok || a.ListVersion != s.cfg.ListVersion:
			continue
		case a.Leader != "":
			return s.giveUp("master "+name+" hears a leader, "+a.Leader, now)
		case a.Promised && !s.heldName(name):
			valid = append(valid, a)
		}
	}
	if len(valid) < s.quorum() {
		s.why = s.waitingFor()
		return s, nil
	}
	if s.enough.IsZero() {
		s.enough = now
	}
	all := len(valid) == len(s.cfg.List)
	if !all && (s.cfg.Disks || now.Sub(s.enough) < s.cfg.Wait) {
		s.why = s.waitingFor()
		return s, nil
	}
	return s.found(valid, all, now)
}

// missing are the masters that have not promised.
func (s State) missing() []string {
	var missing []string
	for _, name := range s.cfg.List {
		if a, ok := s.answers[name]; !ok || !a.Promised {
			missing = append(missing, name)
		}
	}
	return missing
}

// waitingFor names who is missing.
func (s State) waitingFor() string {
	if len(s.held) > 0 {
		return Sentence(s.held)
	}
	missing := s.missing()
	if len(missing) == 0 {
		return "all masters answered"
	}
	return fmt.Sprintf("waiting for %d of %d masters: %v not heard", len(missing), len(s.cfg.List), missing)
}

func (s State) found(valid []Answer, all bool, now time.Time) (State, []Action) {
	f := Found{Attempt: s.attempt, Height: 1}
	for _, a := range valid {
		f.Height = max(f.Height, a.Highest+1, a.Generation.Height+1)
		if a.Bound && !Dead(a.Generation, valid, len(s.cfg.List), all) {
			return s.giveUp(fmt.Sprintf("generation %s might be alive: %s belongs to it", a.Generation.ID, a.Name), now)
		}
	}
	f.Participants = valid
	if best := Newest(valid); best != nil {
		f.Source = best.Name
		if len(valid) < len(s.cfg.List) {
			f.Lost = fmt.Sprintf("born again from %s with %d of %d masters: what only the missing ones had is lost", best.Name, len(valid), len(s.cfg.List))
		}
	}
	s.founding = true
	s.why = fmt.Sprintf("founding a generation with %d of %d masters", len(valid), len(s.cfg.List))
	return s, []Action{f}
}
