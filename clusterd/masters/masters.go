// Package masters carries out, on one master, what discovery/birth decides: it asks and
// answers the other masters, founds, joins or leaves generations, keeps the replica of
// the present one open, and, while it leads, replaces members that died.
//
// One goroutine (Run) owns the birth state and the replica. Conversations with other
// masters have goroutines that end with their one answer; what they learn is posted to
// the loop.
//
// Invariants: an incarnation binds to one generation; to leave one is written down (the
// epoch in its server id) before anything of the next is; the state it leaves stays on
// disk until a newer generation is bound. While a term lasts, Lead runs, and only then.
//
// On disk, below Dir: `epoch` (generations left so far), `promise` (the open one), `g-<id>/` one a generation (see
// replica), in a left one `state` and `position`.
package masters

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mesolith/mesolith/clusterd/discovery/birth"
	"github.com/mesolith/mesolith/clusterd/replica"
)

// Port brings connections between nodes.
type Port interface {
	Listener(alpn string) net.Listener
	Dial(ctx context.Context, name, alpn string) (net.Conn, error)
	// Peer says whose certificate is at the other end.
	Peer(net.Conn) (name, incarnation string)
}

// Names of the conversations this package holds.
const (
	RaftALPN  = "raft/1"
	BirthALPN = "birth/1"
)

// Term is one time in office.
type Term struct {
	Generation birth.Generation
	Term       uint64
	Round      int // how often the same term was begun before
	Log        *replica.Replica
}

// Config is what main hands in.
type Config struct {
	Dir         string
	Self        string
	Incarnation string // of the certificate
	ClusterID   string
	List        []string
	ListVersion uint64
	Disks       bool
	Wait        time.Duration // masters.wait
	Heartbeat   time.Duration
	Stall       time.Duration
	Disk        replica.Disk  // nil: what the replica writes is written at once
	Sizes       replica.Sizes // zero: the usual ones
	Machine     replica.Machine
	Hardware    Hardware
	Port        Port
	// Twin says that another incarnation of this name spoke lately, and where; Lives who
	// answers there under this name, proven now. Without TLS nothing can be: nil.
	Twin  func() (incarnation, address string, ok bool)
	Lives func(ctx context.Context, address string) (incarnation string, ok bool)
	// Lead serves one term until ctx ends.
	Lead  func(ctx context.Context, t Term) error
	Pulse *replica.Pulse
	Log   *slog.Logger
}

// Status is how this master stands.
type Status struct {
	Generation birth.Generation // zero: bound to none
	Term       uint64
	Leader     string // name, or empty
	Leading    bool
	Votes      bool         // by the newest configuration that it knows
	Why        string       // one sentence, while there is no leader
	Stopped    bool         // for good: Why says what to do
	Held       []birth.Held // other machines under masters' names, which wait for an operator
}

// Masters is one master's part; Run gives it life.
type Masters struct {
	cfg   Config
	log   *slog.Logger
	inbox chan func()
	raft  chan raftConn
	// accepting: a replica is open that takes connections.
	accepting atomic.Bool

	// Owned by the loop.
	epoch   int
	birth   birth.State
	replica *replica.Replica
	gen     birth.Generation
	origin  *birth.Reach // see readOrigin
	ailing  string       // why there is no replica though one is bound; empty: no disk has failed
	legacy  *position
	highest uint64
	heard   map[string]heard  // by name: what the other masters said last
	asking  map[string]string // by name: the attempt whose challenge is under way
	proving bool              // a twin is being asked
	term    *office
	// hardware is what the state was last seen to know; ownHold that this machine is held.
	hardware map[string]string
	ownHold  string
	rounds   map[uint64]int
	talks    sync.WaitGroup

	height atomic.Uint64 // heard from outside, see Heard

	mu      sync.Mutex
	status  Status
	held    []birth.Held // by this leader's last look
	changed chan struct{}
}

type raftConn struct {
	conn net.Conn
	from replica.Voter
}

// New prepares; nothing is opened yet.
func New(cfg Config) *Masters {
	return &Masters{
		cfg: cfg, log: cfg.Log, inbox: make(chan func(), 64), raft: make(chan raftConn), rounds: map[uint64]int{}, heard: map[string]heard{}, asking: map[string]string{},
		changed: make(chan struct{}),
	}
}

// Status gives the newest, and a channel that closes when there is a newer one.
func (m *Masters) Status() (Status, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status, m.changed
}

// Heard tells of a generation's height that somebody else knows of, an agent above all:
// agents refuse masters of lower generations than they saw, so the next must be higher.
func (m *Masters) Heard(height uint64) {
	for {
		old := m.height.Load()
		if height <= old || m.height.CompareAndSwap(old, height) {
			return
		}
	}
}

func (m *Masters) publish() {
	s := Status{Generation: m.gen, Why: m.birth.Why(), Stopped: m.birth.Stopped()}
	if m.replica != nil {
		if l, ok := m.replica.Leader(); ok {
			s.Leader = l.Name
		}
		s.Term = m.replica.Position().Term
		s.Leading = m.term != nil
		if members, _, err := m.replica.Members(); err == nil {
			s.Votes = slices.Contains(members, replica.Member{Voter: m.self(), Votes: true})
		}
		if s.Leader != "" {
			s.Why = ""
		} else if s.Why == "" {
			s.Why = "bound to a generation, and no leader is elected in it"
		}
	}
	if s.Why == "" || s.Leader == "" && m.ownHold != "" {
		s.Why = m.ownHold
	}
	if m.ailing != "" {
		s.Why = m.ailing
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !s.Leading {
		m.held = nil
	}
	if s.Held = m.held; len(s.Held) == 0 {
		s.Held = m.birth.Held()
	}
	if reflect.DeepEqual(s, m.status) {
		return
	}
	if s.Leader != m.status.Leader || s.Why != m.status.Why {
		m.log.Info("standing of the masters", "leader", s.Leader, "term", s.Term, "generation", s.Generation.ID, "why", s.Why)
	}
	m.status = s
	close(m.changed)
	m.changed = make(chan struct{})
}

// quiet is how long no leader is borne before anything is tried: an election takes up
// to three heartbeat timeouts.
func (m *Masters) quiet() time.Duration { return 4 * m.cfg.Heartbeat }

// Run serves until ctx ends.
func (m *Masters) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer m.talks.Wait()
	defer cancel()
	promise, ok := m.begin(ctx)
	if !ok {
		return nil
	}
	m.birth = birth.New(birth.Config{
		Self: m.cfg.Self, List: m.cfg.List, ListVersion: m.cfg.ListVersion, Disks: m.cfg.Disks,
		Wait: m.cfg.Wait, Quiet: m.quiet(), Promise: m.cfg.Wait + 10*m.cfg.Heartbeat,
	}, time.Now(), promise)
	defer m.stop()
	m.listen(ctx, RaftALPN, m.takeRaft)
	m.listen(ctx, BirthALPN, m.takeBirth)
	tick := time.NewTicker(max(m.cfg.Heartbeat/2, 20*time.Millisecond))
	defer tick.Stop()
	for {
		var changed <-chan struct{}
		var failed <-chan struct{}
		if m.replica != nil {
			_, changed = m.replica.Leadership()
			failed = m.replica.Failed()
		}
		select {
		case <-ctx.Done():
			return nil
		case f := <-m.inbox:
			f()
		case <-changed:
		case <-failed:
			m.reopen(ctx)
		case now := <-tick.C:
			m.onTick(ctx, now)
		}
		m.follow(ctx)
		m.publish()
	}
}

// listen serves a conversation's connections until ctx ends.
func (m *Masters) listen(ctx context.Context, alpn string, take func(context.Context, net.Conn)) {
	l := m.cfg.Port.Listener(alpn)
	m.talks.Go(func() {
		<-ctx.Done()
		l.Close()
	})
	m.talks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			m.talks.Go(func() { take(ctx, c) })
		}
	})
}

func (m *Masters) takeRaft(ctx context.Context, c net.Conn) {
	name, incarnation := m.cfg.Port.Peer(c)
	if !m.accepting.Load() {
		c.Close() // no replica is open here
		return
	}
	select {
	case m.raft <- raftConn{c, replica.Voter{Name: name, Incarnation: incarnation}}:
	case <-ctx.Done():
		c.Close()
	case <-time.After(5 * time.Second):
		c.Close()
	}
}

// links is replica.Links over the port.
type links struct{ m *Masters }

// Dial implements replica.Links.
func (l links) Dial(ctx context.Context, name string) (net.Conn, error) {
	return l.m.cfg.Port.Dial(ctx, name, RaftALPN)
}

// Accept implements replica.Links.
func (l links) Accept(ctx context.Context) (net.Conn, replica.Voter, error) {
	select {
	case c := <-l.m.raft:
		return c.conn, c.from, nil
	case <-ctx.Done():
		return nil, replica.Voter{}, ctx.Err()
	}
}

// post runs f in the loop, some time.
func (m *Masters) post(ctx context.Context, f func()) {
	select {
	case m.inbox <- f:
	case <-ctx.Done():
	}
}

func (m *Masters) onTick(ctx context.Context, now time.Time) {
	if m.replica != nil {
		_, known := m.replica.Leader()
		if m.term != nil || (known && m.replica.Follows(2*m.cfg.Heartbeat)) {
			m.next(ctx, birth.LeaderHeard{Now: now})
		}
		if m.legacy != nil && m.own().Bound {
			m.forgetOthers()
		}
	}
	m.rememberHardware()
	m.lookForTwin(ctx, now)
	m.next(ctx, birth.Tick{Now: now, Own: m.own(), Attempt: randomID()})
}

// self is this incarnation's server id in parts.
func (m *Masters) self() replica.Voter {
	v := replica.Voter{Name: m.cfg.Self, Incarnation: m.cfg.Incarnation}
	if m.epoch > 0 {
		v.Incarnation = fmt.Sprintf("%s.%d", m.cfg.Incarnation, m.epoch)
	}
	return v
}

// own is the truth about this master now.
func (m *Masters) own() birth.Own {
	m.highest = max(m.highest, m.height.Load())
	told := m.told()
	o := birth.Own{Incarnation: m.self().Incarnation, Highest: m.highest, Hardware: m.cfg.Hardware.Own, Known: told.Known, Admitted: told.Admitted}
	if m.legacy != nil {
		left := m.legacy.own()
		o.Legacy, o.Generation, o.Term, o.LastIndex, o.Unwritten, o.Origin = true, left.Generation, left.Term, left.LastIndex, left.Unwritten, left.Origin
		o.Voters = left.Voters
	}
	if m.replica == nil {
		return o
	}
	p := m.replica.Position()
	if p.LastIndex == 0 {
		return o // joined, and nothing of it received: not bound yet
	}
	o.Bound, o.Legacy, o.Generation, o.Term, o.LastIndex = true, false, m.gen, p.LastTerm, p.LastIndex
	o.Unwritten, o.Origin = m.unwritten(p.LastIndex)
	o.Voters = nil
	if members, index, err := m.replica.Members(); err == nil {
		o.ConfigIndex = index
		for _, v := range members {
			if v.Votes {
				o.Voters = append(o.Voters, birth.Voter(v.Voter))
			}
		}
	}
	return o
}

// office is a term under way.
type office struct {
	term   uint64
	cancel context.CancelFunc
	done   chan struct{}
}

// follow begins and ends terms as Raft says.
func (m *Masters) follow(ctx context.Context) {
	if m.term != nil {
		select {
		case <-m.term.done:
			m.term = nil
		default:
		}
	}
	if m.replica == nil {
		return
	}
	l, _ := m.replica.Leadership()
	switch {
	case m.term != nil && (!l.Leading || l.Term != m.term.term):
		m.endTerm()
		m.follow(ctx)
	case m.term == nil && l.Leading:
		m.beginTerm(ctx, l.Term)
	}
}

func (m *Masters) beginTerm(ctx context.Context, number uint64) {
	ctx, cancel := context.WithCancel(ctx)
	o := &office{term: number, cancel: cancel, done: make(chan struct{})}
	t := Term{Generation: m.gen, Term: number, Round: m.rounds[number], Log: m.replica}
	m.rounds[number]++
	m.term = o
	r := m.replica
	m.talks.Go(func() {
		defer close(o.done)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		wg.Go(func() { m.keepMembers(ctx, r) })
		if err := m.cfg.Lead(ctx, t); err != nil && ctx.Err() == nil {
			m.log.Warn("term ended", "term", number, "why", err.Error())
			// Somebody else may do better; alone we begin again.
			if herr := r.Handover(ctx); herr != nil && !errors.Is(herr, context.Canceled) {
				m.log.Info("leadership stays here", "why", herr.Error())
				select {
				case <-time.After(m.cfg.Heartbeat):
				case <-ctx.Done():
				}
			}
		}
	})
}

func (m *Masters) endTerm() {
	m.term.cancel()
	<-m.term.done
	m.term = nil
}

// stop closes what is open.
func (m *Masters) stop() {
	if m.term != nil {
		m.endTerm()
	}
	if m.replica != nil {
		if err := m.replica.Close(); err != nil {
			m.log.Warn("closing the replica", "error", err)
		}
		m.replica = nil
	}
}
