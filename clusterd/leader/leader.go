// Package leader is what a master does while it leads, for one term: it turns calls and
// agents' messages into commands of the log, and what was committed into effects.
//
// One goroutine (Run) decides everything: it selects over calls, messages of agents,
// finished proposals and the clock, asks the pure rooms (state, alloc, offers), and hands
// effects to queues that never block it. Commands that arrive while an entry is on its
// way ride together in the next one.
//
// Invariants: nobody is told what is not committed; after an election nothing is served
// before a Barrier in that term; no agent is offered before it attached in this term;
// every effect can be had again from the state alone (Outstanding), so that a leader that
// dies owes nothing. Offers, filters, streams and timers live in memory and end with the
// term; timers of frameworks begin anew with the whole of what was left.
//
// It knows nothing of HTTP (calls), of Raft (replica) or of how agents are reached (Desk
// holds their connections over terms); the state's rules are the state's.
package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/alloc"
	"github.com/mesolith/mesolith/clusterd/constraints"
	"github.com/mesolith/mesolith/clusterd/offers"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/clusterd/streams"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
)

// Errors of Do and Subscribe; calls maps them to statuses and their texts.
var (
	ErrFrameworkUnknown  = errors.New("framework cannot be found")
	ErrPrincipalMismatch = errors.New("principal does not match the one that subscribed")
	ErrNotSubscribed     = errors.New("framework is not subscribed")
	ErrStreamIDMissing   = errors.New("all non-subscribe calls should include the 'Mesos-Stream-Id' header")
	ErrStreamIDWrong     = errors.New("the stream id is not that of the framework's subscription")
	// ErrInvalid: the call asks for what cannot be; the error that wraps it is the sentence.
	ErrInvalid = errors.New("invalid call")
	// ErrConflict: the call asks for what cannot be as the cluster is now; likewise.
	ErrConflict = errors.New("conflict")
	// ErrFrameworkGone: the framework was removed while the call was on its way.
	ErrFrameworkGone = errors.New("framework was removed meanwhile")
	// ErrNotLeader: nothing was done; the call may be sent again to the leader.
	ErrNotLeader = errors.New("this master does not lead")
	// ErrUnknownOutcome: the leader lost its office while the call was on its way into
	// the log; whether it took effect is for reconciliation to find out.
	ErrUnknownOutcome = errors.New("leadership changed while the call was being committed; its outcome is unknown")
)

// Log is where commands become decisions.
type Log interface {
	// Propose returns what Machine.Apply returned, once the entry is committed.
	Propose(ctx context.Context, entry []byte) (any, error)
	Barrier(ctx context.Context) error
}

// Config is what a term needs to know.
type Config struct {
	Generation string // id of the Raft history
	Height     uint64
	Term       uint64
	// Round counts how often this term was served before: offers' ids go on from there.
	Round   int
	Log     Log
	Machine *state.Machine
	Address Address
	// Pool is where nodes' task subnets are taken from.
	Pool string
	// AdoptWait: that long nothing is said of tasks that agents may bring after an empty birth.
	AdoptWait time.Duration
	// AgentGrace is how long an agent may be silent before it is unreachable.
	AgentGrace time.Duration
	// AllocationInterval is the time between rounds that nothing triggered; 1 s by default.
	AllocationInterval time.Duration
	Sorting            alloc.Sorting // who is offered next
	// HostNetworkRoles may use the nodes' network; "*" is every role.
	HostNetworkRoles []string
	// Handover is asked for when more than a third of the agents fall silent together:
	// it is likelier that this master is cut off than that they died.
	Handover func()
	// HostNetworkAlways: tasks see the host's network whatever their role (without isolation).
	HostNetworkAlways bool
	Authorize         Authorize // nil: everybody may everything
	// Wall is the time of day, for people to read and for nothing else: no decision
	// follows from it. time.Now by default.
	Wall   func() time.Time
	Logger *slog.Logger
}

const (
	inboxLength   = 4096
	maxEntryBytes = 256 << 10
	tickInterval  = 250 * time.Millisecond
	pingInterval  = 2 * time.Second
	// afterElection is what a connected framework gets to come back to a new leader,
	// whatever its failover_timeout: it lost its stream by our doing.
	afterElection = 10 * time.Minute
	// afterOurFault is the same when a forwarder or a link between nodes broke.
	afterOurFault = time.Minute
)

// Leader is one term in office.
type Leader struct {
	cfg    Config
	log    *slog.Logger
	info   *mesosv1.MasterInfo
	inbox  chan func()
	ready  chan struct{} // closed once the Barrier passed
	done   chan struct{} // closed when Run returns
	landed chan landing

	height atomic.Uint64 // of the generation, see raise

	// Owned by Run's goroutine.
	elected    time.Time
	book       *offers.Book
	filters    *alloc.Filters
	frameworks map[state.FrameworkID]*framework
	agents     map[state.AgentID]*agent
	attaching  map[*agentConn]*agentwire.Attach // the newest, while one is on its way into the log
	raising    map[uint64]bool                  // heights on their way into the log
	waiting    []pending
	begun      bool          // the state belongs to this term's generation
	confirming []func(error) // who must be sure that this master leads, see confirm
	inFlight   bool
	retries    map[state.ContainerID]*retry
	operations map[operationKey]*retry // carried out, and not acknowledged by their frameworks
	// converting are operations on their way into the state, with what must wait for them.
	converting map[operationKey][]func()
	// starting are launches on their way into the state, with what must wait for them.
	starting   map[taskKey][]func()
	beginnings map[executorKey]*beginning
	naming     map[string]bool // names of users on their way into the state
	// launching is what launches on their way into the log will take: neither offered
	// any more nor used yet.
	launching map[state.AgentID]state.Resources
	// launchingBy is the same by who will hold it.
	launchingBy map[holder]state.Resources
	told        map[state.AgentID]window // as the newest offers of each agent say
	ended       map[state.AgentID]*agent // by the command that is being told of
	inverse     map[offers.ID]inverseOffer
	inverseOut  map[inverseKey]offers.ID
	// inverseAgain is when who answered is asked again.
	inverseAgain map[inverseKey]time.Time
	inverseLast  uint64
	deadlines    map[state.FrameworkID]time.Time
	unattached   time.Time // when agents that never attached in this term are given up
	allocate     bool
	lastRound    time.Time
	lastPing     time.Time
	givingUp     map[state.AgentID]bool // called unreachable, on the way into the log
	ending       map[state.AgentID]bool // drained, and on the way to be gone
	// network is the newest plan of the tasks' networks that anybody was told.
	network     *agentwire.NetworkPlan
	lastNetwork time.Time
	seed        uint64
	pingNumber  uint64
	counters    map[string]float64
	watch       watchers
	quotaBusy   bool     // a change of quotas is on its way into the state
	quotaNext   []func() // changes that wait for it
}

// framework is a framework's presence in this term.
type framework struct {
	id         state.FrameworkID
	stream     *streams.Stream
	info       *mesosv1.FrameworkInfo
	caps       state.Capabilities
	roles      []string
	principal  string
	suppressed map[string]bool
	wants      constraints.Set
}

// agent is an agent that attached in this term.
type agent struct {
	id        state.AgentID
	node      string
	conn      *agentConn
	info      *mesosv1.AgentInfo
	lastHeard time.Time
	away      bool   // its connection ended, and its grace has not
	network   uint64 // version of the network plan it was told
}

// taskKey names a task as its framework does.
type taskKey struct {
	framework state.FrameworkID
	task      state.TaskID
}

// holder is a framework in a role.
type holder struct {
	role      string
	framework state.FrameworkID
}

// retry is an update that a framework has not acknowledged.
type retry struct {
	at    time.Time
	pause time.Duration
}

// pending is a command with what to do when it is committed; then gets the command's
// refusal or, when the term ended, ErrUnknownOutcome.
type pending struct {
	command state.Command
	then    func(state.Result, error)
}

type landing struct {
	batch     []pending
	confirmed []func(error)
	results   []state.Result
	err       error
}

// New prepares a term; Run serves it.
func New(cfg Config) *Leader {
	if cfg.AllocationInterval == 0 {
		cfg.AllocationInterval = time.Second
	}
	if cfg.AgentGrace == 0 {
		cfg.AgentGrace = 25 * time.Second
	}
	if cfg.Wall == nil {
		cfg.Wall = time.Now
	}
	l := &Leader{
		cfg: cfg, log: cfg.Logger.With("term", cfg.Term), info: MasterInfo(cfg.Generation, cfg.Address),
		inbox: make(chan func(), inboxLength), ready: make(chan struct{}), done: make(chan struct{}), landed: make(chan landing, 1),
		book: offers.New(cfg.Generation, cfg.Term, cfg.Round), filters: alloc.NewFilters(),
		frameworks: map[state.FrameworkID]*framework{}, agents: map[state.AgentID]*agent{}, attaching: map[*agentConn]*agentwire.Attach{},
		retries: map[state.ContainerID]*retry{}, operations: map[operationKey]*retry{}, converting: map[operationKey][]func(){}, starting: map[taskKey][]func(){}, beginnings: map[executorKey]*beginning{}, naming: map[string]bool{}, launching: map[state.AgentID]state.Resources{}, launchingBy: map[holder]state.Resources{}, deadlines: map[state.FrameworkID]time.Time{}, counters: map[string]float64{},
		raising: map[uint64]bool{}, givingUp: map[state.AgentID]bool{}, ending: map[state.AgentID]bool{}, told: map[state.AgentID]window{}, ended: map[state.AgentID]*agent{}, inverse: map[offers.ID]inverseOffer{}, inverseOut: map[inverseKey]offers.ID{}, inverseAgain: map[inverseKey]time.Time{},
		seed: cfg.Term<<32 ^ cfg.Height,
	}
	l.height.Store(cfg.Height)
	return l
}

// Height is the height of the generation as agents know it: an agent that outlived one
// which nobody remembers may have raised it.
func (l *Leader) Height() uint64 { return l.height.Load() }

// Ready is closed when calls are served.
func (l *Leader) Ready() <-chan struct{} { return l.ready }

// MasterInfo is how this leader introduces itself.
func (l *Leader) MasterInfo() *mesosv1.MasterInfo { return l.info }

// Elected is when this term began to be served; zero before.
func (l *Leader) Elected() time.Time {
	select {
	case <-l.ready:
		return l.elected
	default:
		return time.Time{}
	}
}

// Run leads until ctx ends (nil) or the log refuses (its error). Streams of frameworks
// end with it.
func (l *Leader) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer l.leave()
	defer cancel()
	if err := l.cfg.Log.Barrier(ctx); err != nil {
		return fmt.Errorf("barrier at the beginning of term %d: %w", l.cfg.Term, err)
	}
	l.takeOver()
	close(l.ready)
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	rest := time.NewTimer(time.Hour) // until the next round may be
	defer rest.Stop()
	for {
		l.launchEntry(ctx)
		select {
		case <-ctx.Done():
			return nil
		case f := <-l.inbox:
			f()
			l.drain()
		case landed := <-l.landed:
			l.inFlight = false
			l.land(landed)
			if landed.err != nil {
				return fmt.Errorf("propose: %w", landed.err)
			}
		case now := <-tick.C:
			l.onTick(now)
		case <-rest.C:
		}
		if l.allocate {
			now := time.Now()
			if left := l.roundPause() - now.Sub(l.lastRound); left > 0 {
				rest.Reset(left)
				continue
			}
			l.round(now)
		}
	}
}

// drain takes what else is there, so that it shares an entry, but not for ever.
func (l *Leader) drain() {
	for range 256 {
		select {
		case f := <-l.inbox:
			f()
		default:
			return
		}
	}
}

// takeOver finds in the state what the last leader left to be done.
func (l *Leader) takeOver() {
	now := time.Now()
	l.elected = now
	l.unattached = now.Add(2 * l.cfg.AgentGrace)
	l.cfg.Machine.View(func(s *state.State) {
		for f := range s.Frameworks() {
			left := time.Duration(f.Remaining)
			if f.Connected {
				left = max(time.Duration(f.FailoverTimeout), afterElection)
			}
			l.deadlines[f.ID] = now.Add(left)
		}
		nf, na, nt := s.Counts()
		l.log.Info("leading", "generation", l.cfg.Generation, "height", l.cfg.Height, "frameworks", nf, "agents", na, "tasks", nt)
	})
	l.beginGeneration()
}

// leave ends what this term promised.
func (l *Leader) leave() {
	for _, f := range l.frameworks {
		f.stream.Close(nil)
	}
	for _, p := range l.waiting {
		p.then(state.Result{}, ErrNotLeader)
	}
	for _, f := range l.confirming {
		f(ErrNotLeader)
	}
	l.waiting, l.confirming = nil, nil
	if l.inFlight {
		landed := <-l.landed
		for _, f := range landed.confirmed {
			f(ErrNotLeader)
		}
		for _, p := range landed.batch {
			p.then(state.Result{}, ErrUnknownOutcome)
		}
	}
	close(l.done)
}

// propose queues a command; then is called in the loop.
func (l *Leader) propose(c state.Command, then func(state.Result, error)) {
	if err := state.Check(c); err != nil {
		then(state.Result{}, err)
		return
	}
	l.waiting = append(l.waiting, pending{c, then})
}

// confirm calls then once an entry is committed that was proposed after this: whatever
// anybody was told before is in the state by then, also if others led meanwhile without
// this master's knowledge. It rides with what waits, or has an entry of its own.
func (l *Leader) confirm(then func(error)) { l.confirming = append(l.confirming, then) }

// launchEntry sends what waits as one entry, if none is on its way.
func (l *Leader) launchEntry(ctx context.Context) {
	if l.inFlight || len(l.waiting)+len(l.confirming) == 0 {
		return
	}
	var entry []byte // an empty one proves as much
	var batch []pending
	if len(l.waiting) > 0 {
		commands := make([]state.Command, 0, len(l.waiting))
		for _, p := range l.waiting {
			commands = append(commands, p.command)
		}
		var n int
		entry, n = state.EncodeEntry(l.wallNS(), commands, maxEntryBytes)
		batch = l.waiting[:n:n]
		l.waiting = append([]pending(nil), l.waiting[n:]...)
	}
	confirmed := l.confirming
	l.confirming = nil
	l.inFlight = true
	go func() {
		out, err := l.cfg.Log.Propose(ctx, entry)
		landed := landing{batch: batch, confirmed: confirmed, err: err}
		if err == nil {
			applied, ok := out.(state.Applied)
			if !ok {
				landed.err = fmt.Errorf("the log answered %T", out)
			} else if applied.Err != nil {
				landed.err = applied.Err
			}
			landed.results = applied.Results
		}
		l.landed <- landed
	}()
}

func (l *Leader) land(landed landing) {
	for i, p := range landed.batch {
		if landed.err != nil || i >= len(landed.results) {
			p.then(state.Result{}, ErrUnknownOutcome)
			continue
		}
		r := landed.results[i]
		clear(l.ended)
		l.tell(r.Events) // updates of tasks come before what is said of their agent
		p.then(r, r.Err)
		l.happened(p.command, r)
	}
	for _, f := range landed.confirmed {
		if landed.err != nil {
			f(ErrNotLeader) // a read had no outcome that anybody could wonder about
			continue
		}
		f(nil)
	}
}

// enter runs f in the loop and waits until answer was called, or the term or ctx ends.
func (l *Leader) enter(ctx context.Context, f func(answer func(error))) error {
	select {
	case <-l.ready:
	case <-l.done:
		return ErrNotLeader
	case <-ctx.Done():
		return ctx.Err()
	}
	answered := make(chan error, 1)
	answer := func(err error) {
		select {
		case answered <- err:
		default:
		}
	}
	select {
	case l.inbox <- func() { f(answer) }:
	case <-l.done:
		return ErrNotLeader
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answered:
		return err
	case <-l.done:
		// What was in flight has been answered before done closed.
		select {
		case err := <-answered:
			return err
		default:
			return ErrNotLeader
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// post runs f in the loop, some time; it waits only for room in the inbox.
func (l *Leader) post(ctx context.Context, f func()) {
	select {
	case l.inbox <- f:
	case <-l.done:
	case <-ctx.Done():
	}
}

// wallNS is the time of day in Unix nanoseconds.
func (l *Leader) wallNS() int64 { return l.cfg.Wall().UnixNano() }

// sinceNS counts this term's own time, which no setting of a clock moves.
func (l *Leader) sinceNS(now time.Time) int64 { return int64(now.Sub(l.elected)) }

func (l *Leader) count(name string) { l.counters[name]++ }

// toAgent sends to an attached agent; one that is away gets it when it attaches.
func (l *Leader) toAgent(id state.AgentID, m *agentwire.FromMaster) {
	if a := l.agents[id]; a != nil {
		a.conn.send(l.Height(), l.cfg.Term, m)
	}
}
