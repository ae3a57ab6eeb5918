package masters

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/clusterd/discovery/birth"
	birthwire "github.com/mesolith/mesolith/internal/wire/birth"
)

// next lets one event happen to the birth and does what follows.
func (m *Masters) next(ctx context.Context, e birth.Event) []birth.Action {
	var actions []birth.Action
	before := m.birth.Promise()
	m.birth, actions = birth.Next(m.birth, e)
	if p := m.birth.Promise(); p != before {
		if err := m.writePromise(p); err != nil {
			m.log.Error("a promise cannot be written down", "error", err)
			if p.Attempt != "" {
				return nil // nothing that is not stored is promised
			}
		}
	}
	for _, a := range actions {
		switch a := a.(type) {
		case birth.Challenge:
			m.challenge(ctx, a)
		case birth.End:
			m.tellAll(ctx, &birthwire.Request{Body: &birthwire.Request_End{End: &birthwire.End{Attempt: a.Attempt, From: m.cfg.Self}}})
		case birth.Found:
			m.found(ctx, a)
		case birth.ProveTwin:
			m.proveTwin(ctx, a.Address)
		case birth.Stop:
			m.stopVoting(ctx, a.Why)
		}
	}
	return actions
}

func (m *Masters) others() []string {
	var out []string
	for _, n := range m.cfg.List {
		if n != m.cfg.Self {
			out = append(out, n)
		}
	}
	return out
}

// challenge asks each master once more, unless it still has a question to answer: a
// busy machine would only become busier.
func (m *Masters) challenge(ctx context.Context, c birth.Challenge) {
	incarnation := m.self().Incarnation
	for _, name := range c.To {
		if m.asking[name] == c.Attempt {
			continue
		}
		m.asking[name] = c.Attempt
		m.talks.Go(func() {
			a, err := m.ask(ctx, name, &birthwire.Request{Body: &birthwire.Request_Challenge{Challenge: &birthwire.Challenge{
				ClusterId: m.cfg.ClusterID, ListVersion: m.cfg.ListVersion, From: m.cfg.Self, Incarnation: incarnation, Attempt: c.Attempt, Hardware: m.cfg.Hardware.Own,
			}}})
			m.post(ctx, func() {
				if m.asking[name] == c.Attempt {
					delete(m.asking, name)
				}
				if err == nil { // otherwise it is not there yet: it is asked again
					m.answered(ctx, c.Attempt, a)
				}
			})
		})
	}
}

func (m *Masters) tellAll(ctx context.Context, r *birthwire.Request) {
	for _, name := range m.others() {
		m.talks.Go(func() { m.ask(ctx, name, r) })
	}
}

func answerOf(a *birthwire.Answer) birth.Answer {
	out := birth.Answer{
		Name: a.GetName(), ListVersion: a.GetListVersion(), Leader: a.GetLeader(), Promised: a.GetPromised(), Refused: a.GetRefused(),
		Own: birth.Own{
			Incarnation: a.GetIncarnation(), Highest: a.GetHighest(), Term: a.GetTerm(), LastIndex: a.GetLastIndex(), Legacy: a.GetLegacy(), ConfigIndex: a.GetConfigIndex(),
			Generation: birth.Generation{Height: a.GetHeight(), ID: a.GetGeneration()},
			Unwritten:  a.GetUnwritten(), Origin: reachOf(a.GetOrigin()),
			Hardware: a.GetHardware(), Known: hardwareOf(a.GetKnown()), Admitted: wordsOf(a.GetAdmitted()),
		},
	}
	out.Bound = a.GetGeneration() != "" && !a.GetLegacy()
	out.Voters = votersOf(a.GetVoters())
	return out
}

func (m *Masters) toWire(a birth.Answer) *birthwire.Answer {
	out := &birthwire.Answer{
		Refused: a.Refused, ListVersion: a.ListVersion, Name: a.Name, Incarnation: a.Incarnation, Generation: a.Generation.ID,
		Height: a.Generation.Height, Term: a.Term, LastIndex: a.LastIndex, Promised: a.Promised, Leader: a.Leader, Legacy: a.Legacy, Highest: a.Highest, ConfigIndex: a.ConfigIndex,
		Unwritten: a.Unwritten, Origin: reachToWire(a.Origin),
		Hardware: a.Hardware, Known: hardwareToWire(a.Known), Admitted: wordsToWire(a.Admitted),
	}
	out.Voters = votersToWire(a.Voters)
	return out
}

func votersOf(list []*birthwire.Voter) (out []birth.Voter) {
	for _, v := range list {
		out = append(out, birth.Voter{Name: v.GetName(), Incarnation: v.GetIncarnation()})
	}
	return out
}

func votersToWire(list []birth.Voter) (out []*birthwire.Voter) {
	for _, v := range list {
		out = append(out, &birthwire.Voter{Name: v.Name, Incarnation: v.Incarnation})
	}
	return out
}

func reachOf(r *birthwire.Reach) birth.Reach {
	return birth.Reach{Height: r.GetHeight(), Term: r.GetTerm(), Index: r.GetIndex(), ID: r.GetGeneration(), Voters: votersOf(r.GetVoters())}
}

func reachToWire(r birth.Reach) *birthwire.Reach {
	if r.Same(birth.Reach{}) {
		return nil
	}
	return &birthwire.Reach{Height: r.Height, Term: r.Term, Index: r.Index, Generation: r.ID, Voters: votersToWire(r.Voters)}
}

// answered takes in what another master said.
func (m *Masters) answered(ctx context.Context, attempt string, w *birthwire.Answer) {
	a := answerOf(w)
	m.highest = max(m.highest, a.Highest, a.Generation.Height)
	m.noteOwnHold(w)
	m.heardOf(ctx, a)
	m.next(ctx, birth.Answered{Now: time.Now(), Own: m.own(), Attempt: attempt, Answer: a})
}

// heard is what another master said of itself.
type heard struct {
	generation birth.Generation
	bound      bool
	at         time.Time
}

// heardOf joins a generation that has a leader, when this master has none. A generation
// of its own is left for it when the other is higher, or when a majority belongs to
// others: who founded without hearing of this one may have taken the same height.
func (m *Masters) heardOf(ctx context.Context, a birth.Answer) {
	now := time.Now()
	m.heard[a.Name] = heard{a.Generation, a.Bound, now}
	if a.Leader == "" || !a.Bound || a.ListVersion != m.cfg.ListVersion || a.Generation == m.gen || m.leaderName() != "" || !m.birth.MayJoin(now) {
		return
	}
	if m.own().Bound && a.Generation.Height <= m.gen.Height && m.elsewhere(now) <= len(m.cfg.List)/2 {
		return
	}
	if err := m.leave(ctx); err != nil {
		m.log.Error("leaving a dead generation", "error", err)
		return
	}
	if err := m.join(a.Generation); err != nil {
		m.log.Error("joining the generation that lives", "generation", a.Generation.ID, "error", err)
		return
	}
	m.log.Info("joined a generation; the leader lets this master vote once it has caught up", "generation", a.Generation.ID, "leader", a.Leader)
}

// elsewhere counts the masters that said lately that they belong to other generations.
func (m *Masters) elsewhere(now time.Time) int {
	n := 0
	for _, h := range m.heard {
		if h.bound && h.generation != m.gen && now.Sub(h.at) < talkTime {
			n++
		}
	}
	return n
}

// takeBirth answers one request of another master.
func (m *Masters) takeBirth(ctx context.Context, c net.Conn) {
	defer c.Close()
	name, _ := m.cfg.Port.Peer(c)
	r, err := readRequest(patient{c})
	if err != nil {
		m.log.Info("request of a master not understood", "from", name, "error", err)
		return
	}
	answers := make(chan reply, 1)
	m.post(ctx, func() { answers <- m.serve(ctx, name, r) })
	select {
	case a := <-answers:
		// The other end may be gone; it asks again.
		_ = a.write(patient{c})
	case <-ctx.Done():
	}
}

// leaderName is who this master hears, or is.
func (m *Masters) leaderName() string {
	if m.replica == nil {
		return ""
	}
	l, ok := m.replica.Leader()
	if !ok || (m.term == nil && !m.replica.Follows(2*m.cfg.Heartbeat)) {
		return ""
	}
	return l.Name
}

func (m *Masters) serve(ctx context.Context, from string, r request) reply {
	now := time.Now()
	if m.birth.Stopped() { // no word of it may count as this name's
		return reply{Answer: &birthwire.Answer{Name: m.cfg.Self, ListVersion: m.cfg.ListVersion, Refused: m.birth.Why()}}
	}
	if r.GetChallenge() != nil {
		m.unjoin()
	}
	truth := birth.Answer{Name: m.cfg.Self, ListVersion: m.cfg.ListVersion, Own: m.own(), Leader: m.leaderName()}
	refuse := func(format string, args ...any) reply {
		a := m.toWire(truth)
		a.Refused = fmt.Sprintf(format, args...)
		return reply{Answer: a}
	}
	switch b := r.GetBody().(type) {
	case *birthwire.Request_Ask:
		return reply{Answer: m.toWire(truth)}
	case *birthwire.Request_Challenge:
		ch := b.Challenge
		if ch.GetFrom() != from || ch.GetClusterId() != m.cfg.ClusterID {
			return refuse("the certificate is %s's of this cluster, the challenge says %s of %s", from, ch.GetFrom(), ch.GetClusterId())
		}
		if p := m.birth.Promise(); p.From == from && p.Incarnation != ch.GetIncarnation() {
			m.prove(ctx, from)
		}
		for _, a := range m.next(ctx, birth.Challenged{Now: now, Own: m.own(), From: from, Incarnation: ch.GetIncarnation(), Hardware: ch.GetHardware(), ListVersion: ch.GetListVersion(), Attempt: ch.GetAttempt(), Leader: m.leaderName()}) {
			if said, ok := a.(birth.Reply); ok {
				return reply{Answer: m.toWire(said.Answer)}
			}
		}
		return refuse("no answer")
	case *birthwire.Request_End:
		m.next(ctx, birth.Ended{Attempt: b.End.GetAttempt()})
		return reply{Answer: m.toWire(truth)}
	case *birthwire.Request_Leave:
		if why := m.notAsked(ctx, b.Leave.GetAttempt()); why != "" {
			return refuse("%s", why)
		}
		return m.serveLeave(ctx, b.Leave.GetWantState(), refuse)
	case *birthwire.Request_Found:
		if why := m.notAsked(ctx, b.Found.GetAttempt()); why != "" {
			return refuse("%s", why)
		}
		g := birth.Generation{Height: b.Found.GetHeight(), ID: b.Found.GetGeneration()}
		if err := m.bind(g, votersOf(b.Found.GetVoters()), r.state, reachOf(b.Found.GetOrigin())); err != nil {
			return refuse("cannot bind: %v", err)
		}
		m.log.Info("bound to a new generation", "generation", g.ID, "height", g.Height, "founder", from)
		truth.Own = m.own()
		a := m.toWire(truth)
		a.Accepted = true
		return reply{Answer: a}
	}
	return refuse("request of kind %T is not known", r.GetBody())
}

// notAsked says why an attempt has no claim on this master.
func (m *Masters) notAsked(ctx context.Context, attempt string) string {
	for _, a := range m.next(ctx, birth.Asked{Now: time.Now(), Attempt: attempt}) {
		if r, ok := a.(birth.Refuse); ok {
			return r.Why
		}
		if _, ok := a.(birth.Bind); ok {
			return ""
		}
	}
	return "no promise was given"
}

// prove asks who lives under a name; only an answer to a question asked now tells.
func (m *Masters) prove(ctx context.Context, name string) {
	m.talks.Go(func() {
		a, err := m.ask(ctx, name, &birthwire.Request{Body: &birthwire.Request_Ask{Ask: &birthwire.Ask{ClusterId: m.cfg.ClusterID, From: m.cfg.Self}}})
		if err != nil {
			return // it challenges again
		}
		m.post(ctx, func() {
			m.next(ctx, birth.Proven{Name: name, Incarnation: a.GetIncarnation(), Hardware: a.GetHardware()})
		})
	})
}

func (m *Masters) serveLeave(ctx context.Context, wantState bool, refuse func(string, ...any) reply) reply {
	if err := m.leave(ctx); err != nil {
		return refuse("cannot leave: %v", err)
	}
	out := reply{Answer: m.toWire(birth.Answer{Name: m.cfg.Self, ListVersion: m.cfg.ListVersion, Own: m.own()})}
	out.Accepted = true
	if wantState {
		state, err := m.legacyState()
		if err != nil {
			return refuse("cannot hand over the state: %v", err)
		}
		out.state = state
	}
	return out
}

// found carries a birth out, beside the loop.
func (m *Masters) found(ctx context.Context, f birth.Found) {
	m.talks.Go(func() {
		err := m.foundNow(ctx, f)
		m.post(ctx, func() {
			e := birth.Founded{Now: time.Now(), Attempt: f.Attempt}
			if err != nil {
				e.Err = err.Error()
				m.log.Warn("founding did not succeed", "why", err.Error())
			}
			m.next(ctx, e)
		})
	})
}

// inLoop runs f in the loop and waits for it.
func (m *Masters) inLoop(ctx context.Context, f func() reply) (reply, error) {
	out := make(chan reply, 1)
	m.post(ctx, func() { out <- f() })
	select {
	case a := <-out:
		if a.GetRefused() != "" {
			return reply{}, errors.New(a.GetRefused())
		}
		return a, nil
	case <-ctx.Done():
		return reply{}, ctx.Err()
	}
}

// each asks every participant at once, this master itself in its loop.
func (m *Masters) each(ctx context.Context, f birth.Found, ask func(name string) request) map[string]reply {
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[string]reply{}
	for _, p := range f.Participants {
		wg.Go(func() {
			var a reply
			var err error
			if p.Name == m.cfg.Self {
				a, err = m.inLoop(ctx, func() reply { return m.serve(ctx, m.cfg.Self, ask(p.Name)) })
			} else if a, err = m.askWith(ctx, p.Name, ask(p.Name)); err == nil && a.GetRefused() != "" {
				err = errors.New(a.GetRefused())
			}
			if err != nil {
				m.log.Warn("a master takes no part in the birth", "master", p.Name, "why", err.Error())
				return
			}
			mu.Lock()
			out[p.Name] = a
			mu.Unlock()
		})
	}
	wg.Wait()
	return out
}

func (m *Masters) foundNow(ctx context.Context, f birth.Found) error {
	q := len(m.cfg.List)/2 + 1
	left := m.each(ctx, f, func(name string) request {
		return request{Request: &birthwire.Request{Body: &birthwire.Request_Leave{Leave: &birthwire.Leave{Attempt: f.Attempt, From: m.cfg.Self, WantState: name == f.Source}}}}
	})
	if len(left) < q {
		return fmt.Errorf("%d of %d masters left what they belonged to, %d are needed", len(left), len(f.Participants), q)
	}
	if !f.Confirmed(func(name string) bool { _, ok := left[name]; return ok }, len(m.cfg.List)) {
		return fmt.Errorf("a generation that was taken for dead may be alive: only %d of %d masters kept their promise", len(left), len(f.Participants))
	}
	var state []byte
	var origin birth.Reach
	if f.Source != "" {
		from, ok := left[f.Source]
		if !ok {
			return fmt.Errorf("%s, who has the newest state, did not hand it over", f.Source)
		}
		state, origin = from.state, answerOf(from.Answer).Reach()
		var all []birth.Answer
		for _, name := range m.cfg.List {
			if a, ok := left[name]; ok {
				all = append(all, answerOf(a.Answer))
			}
		}
		if best := birth.Newest(all); best != nil && !best.Reach().Same(origin) {
			return fmt.Errorf("%s left with newer state than %s, who was to hand it over: it is tried again", best.Name, f.Source)
		}
	}
	g := birth.Generation{Height: f.Height, ID: newUUID()}
	found := &birthwire.Found{Attempt: f.Attempt, Height: g.Height, Generation: g.ID, ListVersion: m.cfg.ListVersion, From: m.cfg.Self, Origin: reachToWire(origin)}
	for _, name := range m.cfg.List {
		v := &birthwire.Voter{Name: name}
		if a, ok := left[name]; ok {
			v.Incarnation = a.GetIncarnation()
		}
		found.Voters = append(found.Voters, v)
	}
	bound := m.each(ctx, f, func(string) request {
		return request{Request: &birthwire.Request{Body: &birthwire.Request_Found{Found: proto.CloneOf(found)}}, state: state}
	})
	if len(bound) < q {
		return fmt.Errorf("%d of %d masters bound to the new generation, %d are needed", len(bound), len(f.Participants), q)
	}
	m.log.Info("generation founded", "generation", g.ID, "height", g.Height, "masters", len(bound), "from", f.Source, "lost", f.Lost)
	return nil
}
