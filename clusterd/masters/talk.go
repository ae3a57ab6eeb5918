package masters

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/mesolith/mesolith/clusterd/discovery/birth"
	"github.com/mesolith/mesolith/internal/wire"
	birthwire "github.com/mesolith/mesolith/internal/wire/birth"
)

// next lets one event happen to the birth and does what follows.
func (m *Masters) next(ctx context.Context, e birth.Event) []birth.Action {
	var actions []birth.Action
	m.birth, actions = birth.Next(m.birth, e)
	for _, a := range actions {
		switch a := a.(type) {
		case birth.Challenge:
			m.challengeAll(ctx, a.Attempt)
		case birth.End:
			m.tellAll(ctx, &birthwire.Request{Body: &birthwire.Request_End{End: &birthwire.End{Attempt: a.Attempt, From: m.cfg.Self}}})
		case birth.Found:
			m.found(ctx, a)
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

// ask sends one request and reads its answer.
func (m *Masters) ask(ctx context.Context, name string, r *birthwire.Request) (*birthwire.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, talkTime)
	defer cancel()
	conn, err := m.cfg.Port.Dial(ctx, name, BirthALPN)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := wire.Write(conn, r); err != nil {
		return nil, err
	}
	a := &birthwire.Answer{}
	if err := wire.Read(conn, a, wire.MaxFrame); err != nil {
		return nil, fmt.Errorf("answer of %s: %w", name, err)
	}
	if who, _ := m.cfg.Port.Peer(conn); who != name || a.GetName() != name {
		return nil, fmt.Errorf("asked %s, and %s answered as %s", name, who, a.GetName())
	}
	return a, nil
}

func (m *Masters) challengeAll(ctx context.Context, attempt string) {
	for _, name := range m.others() {
		m.talks.Go(func() {
			a, err := m.ask(ctx, name, &birthwire.Request{Body: &birthwire.Request_Challenge{Challenge: &birthwire.Challenge{
				ClusterId: m.cfg.ClusterID, ListVersion: m.cfg.ListVersion, From: m.cfg.Self, Incarnation: m.cfg.Incarnation, Attempt: attempt,
			}}})
			if err != nil {
				return // not there yet: it is asked again
			}
			m.post(ctx, func() { m.answered(ctx, attempt, a) })
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
			Incarnation: a.GetIncarnation(), Highest: a.GetHighest(), Term: a.GetTerm(), LastIndex: a.GetLastIndex(), Legacy: a.GetLegacy(),
			Generation: birth.Generation{Height: a.GetHeight(), ID: a.GetGeneration()},
		},
	}
	out.Bound = a.GetGeneration() != "" && !a.GetLegacy()
	for _, v := range a.GetVoters() {
		out.Voters = append(out.Voters, birth.Voter{Name: v.GetName(), Incarnation: v.GetIncarnation()})
	}
	return out
}

func (m *Masters) toWire(a birth.Answer) *birthwire.Answer {
	out := &birthwire.Answer{
		Refused: a.Refused, ListVersion: a.ListVersion, Name: a.Name, Incarnation: a.Incarnation, Generation: a.Generation.ID,
		Height: a.Generation.Height, Term: a.Term, LastIndex: a.LastIndex, Promised: a.Promised, Leader: a.Leader, Legacy: a.Legacy, Highest: a.Highest,
	}
	for _, v := range a.Voters {
		out.Voters = append(out.Voters, &birthwire.Voter{Name: v.Name, Incarnation: v.Incarnation})
	}
	return out
}

// answered takes in what another master said.
func (m *Masters) answered(ctx context.Context, attempt string, w *birthwire.Answer) {
	a := answerOf(w)
	m.highest = max(m.highest, a.Highest, a.Generation.Height)
	m.heardOf(a)
	m.next(ctx, birth.Answered{Now: time.Now(), Own: m.own(), Attempt: attempt, Answer: a})
}

// heardOf joins a generation that has a leader, when this master has none or an older
// one.
func (m *Masters) heardOf(a birth.Answer) {
	if a.Leader == "" || !a.Bound || a.ListVersion != m.cfg.ListVersion || a.Generation == m.gen || a.Generation.Height <= m.gen.Height {
		return
	}
	if err := m.leave(); err != nil {
		m.log.Error("leaving a dead generation", "error", err)
		return
	}
	if err := m.join(a.Generation); err != nil {
		m.log.Error("joining the generation that lives", "generation", a.Generation.ID, "error", err)
		return
	}
	m.log.Info("joined a generation; the leader lets this master vote once it has caught up", "generation", a.Generation.ID, "leader", a.Leader)
}

// takeBirth answers one request of another master.
func (m *Masters) takeBirth(ctx context.Context, c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(talkTime))
	name, _ := m.cfg.Port.Peer(c)
	r := &birthwire.Request{}
	if err := wire.Read(c, r, wire.MaxFrame); err != nil {
		return
	}
	answers := make(chan *birthwire.Answer, 1)
	m.post(ctx, func() { answers <- m.serve(ctx, name, r) })
	select {
	case a := <-answers:
		// The other end may be gone; it asks again.
		_ = wire.Write(c, a)
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

func (m *Masters) serve(ctx context.Context, from string, r *birthwire.Request) *birthwire.Answer {
	now := time.Now()
	truth := birth.Answer{Name: m.cfg.Self, ListVersion: m.cfg.ListVersion, Own: m.own(), Leader: m.leaderName()}
	refuse := func(format string, args ...any) *birthwire.Answer {
		a := m.toWire(truth)
		a.Refused = fmt.Sprintf(format, args...)
		return a
	}
	switch b := r.GetBody().(type) {
	case *birthwire.Request_Ask:
		return m.toWire(truth)
	case *birthwire.Request_Challenge:
		ch := b.Challenge
		if ch.GetFrom() != from || ch.GetClusterId() != m.cfg.ClusterID {
			return refuse("the certificate is %s's of this cluster, the challenge says %s of %s", from, ch.GetFrom(), ch.GetClusterId())
		}
		for _, a := range m.next(ctx, birth.Challenged{Now: now, Own: m.own(), From: from, ListVersion: ch.GetListVersion(), Attempt: ch.GetAttempt(), Leader: m.leaderName()}) {
			if reply, ok := a.(birth.Reply); ok {
				return m.toWire(reply.Answer)
			}
		}
		return refuse("no answer")
	case *birthwire.Request_End:
		m.next(ctx, birth.Ended{Attempt: b.End.GetAttempt()})
		return m.toWire(truth)
	case *birthwire.Request_Leave:
		if why := m.notAsked(ctx, b.Leave.GetAttempt()); why != "" {
			return refuse("%s", why)
		}
		return m.serveLeave(b.Leave.GetWantState(), refuse)
	case *birthwire.Request_Found:
		if why := m.notAsked(ctx, b.Found.GetAttempt()); why != "" {
			return refuse("%s", why)
		}
		var voters []birth.Voter
		for _, v := range b.Found.GetVoters() {
			voters = append(voters, birth.Voter{Name: v.GetName(), Incarnation: v.GetIncarnation()})
		}
		g := birth.Generation{Height: b.Found.GetHeight(), ID: b.Found.GetGeneration()}
		if err := m.bind(g, voters, b.Found.GetSnapshot()); err != nil {
			return refuse("cannot bind: %v", err)
		}
		m.log.Info("bound to a new generation", "generation", g.ID, "height", g.Height, "founder", from)
		truth.Own = m.own()
		a := m.toWire(truth)
		a.Accepted = true
		return a
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

func (m *Masters) serveLeave(wantState bool, refuse func(string, ...any) *birthwire.Answer) *birthwire.Answer {
	if err := m.leave(); err != nil {
		return refuse("cannot leave: %v", err)
	}
	out := &birthwire.Answer{Name: m.cfg.Self, ListVersion: m.cfg.ListVersion, Incarnation: m.self().Incarnation, Accepted: true}
	if wantState {
		state, err := m.legacyState()
		if err != nil {
			return refuse("cannot hand over the state: %v", err)
		}
		out.State = state
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
func (m *Masters) inLoop(ctx context.Context, f func() *birthwire.Answer) (*birthwire.Answer, error) {
	out := make(chan *birthwire.Answer, 1)
	m.post(ctx, func() { out <- f() })
	select {
	case a := <-out:
		if a.GetRefused() != "" {
			return nil, errors.New(a.GetRefused())
		}
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// each asks every participant at once, this master itself in its loop.
func (m *Masters) each(ctx context.Context, f birth.Found, request func(name string) *birthwire.Request) map[string]*birthwire.Answer {
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[string]*birthwire.Answer{}
	for _, p := range f.Participants {
		wg.Go(func() {
			var a *birthwire.Answer
			var err error
			if p.Name == m.cfg.Self {
				a, err = m.inLoop(ctx, func() *birthwire.Answer { return m.serve(ctx, m.cfg.Self, request(p.Name)) })
			} else if a, err = m.ask(ctx, p.Name, request(p.Name)); err == nil && a.GetRefused() != "" {
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
	left := m.each(ctx, f, func(name string) *birthwire.Request {
		return &birthwire.Request{Body: &birthwire.Request_Leave{Leave: &birthwire.Leave{Attempt: f.Attempt, From: m.cfg.Self, WantState: name == f.Source}}}
	})
	if len(left) < q {
		return fmt.Errorf("%d of %d masters left what they belonged to, %d are needed", len(left), len(f.Participants), q)
	}
	var state []byte
	if f.Source != "" {
		from, ok := left[f.Source]
		if !ok {
			return fmt.Errorf("%s, who has the newest state, did not hand it over", f.Source)
		}
		state = from.GetState()
	}
	g := birth.Generation{Height: f.Height, ID: newUUID()}
	found := &birthwire.Found{Attempt: f.Attempt, Height: g.Height, Generation: g.ID, Snapshot: state, ListVersion: m.cfg.ListVersion, From: m.cfg.Self}
	for _, name := range m.cfg.List {
		v := &birthwire.Voter{Name: name}
		if a, ok := left[name]; ok {
			v.Incarnation = a.GetIncarnation()
		}
		found.Voters = append(found.Voters, v)
	}
	bound := m.each(ctx, f, func(string) *birthwire.Request {
		return &birthwire.Request{Body: &birthwire.Request_Found{Found: found}}
	})
	if len(bound) < q {
		return fmt.Errorf("%d of %d masters bound to the new generation, %d are needed", len(bound), len(f.Participants), q)
	}
	m.log.Info("generation founded", "generation", g.ID, "height", g.Height, "masters", len(bound), "from", f.Source, "lost", f.Lost)
	return nil
}
