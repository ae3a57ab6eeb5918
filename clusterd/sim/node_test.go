package sim

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/calls"
	"github.com/mesolith/mesolith/clusterd/doors"
	"github.com/mesolith/mesolith/clusterd/faces"
	"github.com/mesolith/mesolith/clusterd/files"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/masters"
	"github.com/mesolith/mesolith/clusterd/replica"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// beat is the heartbeat timeout of everything here.
const beat = time.Second

const (
	stallLimit = 5 * beat
	grace      = 25 * time.Second
)

// node is a machine that can be a master; what it has on disk outlives its programs.
type node struct {
	w     *world
	name  string
	dir   string
	boots int
	rng   *rand.Rand
	life  *life // nil: it has no power

	list    []string // of masters, as its document has it
	version uint64
}

// life is one run of the program.
type life struct {
	node        *node
	incarnation string
	log         *slog.Logger
	disk        *disk
	machine     *recorder
	masters     *masters.Masters
	desk        *leader.Desk
	board       *calls.Board
	stop        context.CancelFunc
	ended       sync.WaitGroup
	died        chan struct{} // closed when a planned death has come

	mu      sync.Mutex
	present *leader.Leader
	replica *replica.Replica // of the term that is served
	clock   time.Duration    // how wrong this node's wall clock is
}

// port is masters.Port on the simulated wire.
type port struct {
	n                 *network
	name, incarnation string
}

func (p port) Listener(alpn string) net.Listener { return p.n.listen(p.name, alpn) }

func (p port) Dial(ctx context.Context, name, alpn string) (net.Conn, error) {
	return p.n.dial(ctx, p.name, p.incarnation, name, alpn)
}

func (p port) Peer(c net.Conn) (name, incarnation string) { return peerOf(c) }

// start runs the program on what the machine has.
func (n *node) start() {
	n.w.net.rise(n.name)
	ctx, cancel := context.WithCancel(context.Background())
	l := &life{
		node: n, incarnation: fmt.Sprint("boot", n.boots), stop: cancel, died: make(chan struct{}), board: calls.NewBoard(),
		log: n.w.log.With("node", n.name), machine: newRecorder(n.w.history, n.name),
	}
	l.disk = newDisk(rand.New(rand.NewPCG(n.rng.Uint64(), 2)), &n.w.net.counts, func(dark bool) {
		n.w.net.die(n.name, dark)
		close(l.died)
	})
	l.desk = leader.NewDesk(n.name, l.incarnation, l.log)
	p := port{n.w.net, n.name, l.incarnation}
	l.masters = masters.New(masters.Config{
		Dir: n.dir, Self: n.name, Incarnation: l.incarnation, ClusterID: "cluster", List: n.list, ListVersion: n.version, Disks: n.w.disks,
		Wait: 3 * beat, Heartbeat: beat, Stall: stallLimit, Disk: l.disk, Sizes: n.w.sizes, Machine: l.machine, Port: p, Lead: l.lead, Log: l.log,
	})
	l.desk.Heard = l.masters.Heard
	n.life = l
	run := func(what string, f func() error) {
		l.ended.Go(func() {
			if err := f(); err != nil && ctx.Err() == nil && !l.disk.isDead() {
				n.w.t.Errorf("%s: %s ended: %v", n.name, what, err)
			}
		})
	}
	handler := l.handler(ctx)
	run("masters", func() error { return l.masters.Run(ctx) })
	run("watch", func() error { l.watchMasters(ctx); return nil })
	run("agents", func() error { return l.serveAgents(ctx, p.Listener("agent/1")) })
	run("api", func() error { return doors.Serve(ctx, p.Listener("api"), doors.Config{}, handler) })
	run("forward", func() error {
		return calls.ServeForwarded(ctx, p.Listener("forward/1"), func(c net.Conn) string { name, _ := peerOf(c); return name }, handler, l.log)
	})
}

// off ends the life at once: the program is killed, or the power is cut.
func (n *node) off(dark bool) {
	if n.life == nil {
		return
	}
	n.life.disk.die(dark)
	n.w.net.die(n.name, dark)
	n.bury()
}

// bury waits for what is left of a life that has ended.
func (n *node) bury() {
	l := n.life
	n.life = nil
	l.stop()
	l.ended.Wait()
	n.w.passed(l.disk)
	loseSnapshots(n.dir, n.rng, &n.w.net.counts)
}

// lead serves one term as clusterd does.
func (l *life) lead(ctx context.Context, t masters.Term) error {
	l.node.w.history.elected(t.Generation.ID, t.Term, l.node.name)
	ld := leader.New(leader.Config{
		Generation: t.Generation.ID, Height: t.Generation.Height, Term: t.Term, Round: t.Round, Log: &proposals{t.Log, l.node.w.history},
		Machine: l.machine.Machine, Address: leader.Address{Host: l.node.name, IP: "10.0.0.1", Port: 5050}, Pool: "10.88.0.0/16",
		AgentGrace: grace, AdoptWait: 10 * time.Minute, HostNetworkAlways: true,
		Handover: func() {
			if err := t.Log.Handover(ctx); err != nil {
				l.log.Warn("handing over", "error", err)
			}
		},
		Wall: l.wall, Logger: l.log,
	})
	done := make(chan error, 1)
	go func() { done <- ld.Run(ctx) }()
	st := leader.Status{Height: t.Generation.Height, Term: t.Term, Generation: t.Generation.ID, Leader: l.node.name}
	select {
	case err := <-done:
		return err
	case <-ld.Ready():
	}
	l.mu.Lock()
	l.present, l.replica = ld, t.Log
	l.desk.Lead(ld, st)
	l.mu.Unlock()
	l.node.w.net.counts.add("terms served")
	l.board.Post(calls.Standing{Leader: l.node.name, Address: l.node.name + ":5050", Height: st.Height, Term: st.Term, Here: true, Ready: true})
	err := <-done
	l.mu.Lock()
	l.present, l.replica = nil, nil
	l.desk.Follow(leader.Status{Height: st.Height, Term: st.Term, Generation: st.Generation})
	l.mu.Unlock()
	l.board.Post(calls.Standing{Height: st.Height, Term: st.Term})
	return err
}

// wall is this node's time of day, which may be hours from everybody else's.
func (l *life) wall() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Add(l.clock)
}

func (l *life) leads() *leader.Leader {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.present
}

// setClock makes this node's time of day wrong.
func (l *life) setClock(by time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock = by
}

// members are those of the configuration, on the node that leads.
func (l *life) members() []replica.Member {
	l.mu.Lock()
	r := l.replica
	l.mu.Unlock()
	if r == nil {
		return nil
	}
	list, _, err := r.Members()
	if err != nil {
		return nil
	}
	return list
}

func (l *life) watchMasters(ctx context.Context) {
	for {
		s, changed := l.masters.Status()
		l.mu.Lock()
		if l.present == nil {
			l.desk.Follow(leader.Status{Height: s.Generation.Height, Term: s.Term, Generation: s.Generation.ID, Leader: s.Leader})
			l.board.Post(calls.Standing{
				Leader: s.Leader, Address: s.Leader + ":5050", Height: s.Generation.Height, Term: s.Term, Here: s.Leader == l.node.name && s.Leader != "",
			})
		}
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

func (l *life) serveAgents(ctx context.Context, door net.Listener) error {
	stop := context.AfterFunc(ctx, func() { door.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := door.Accept()
		if err != nil {
			return nil
		}
		name, _ := peerOf(c)
		wg.Go(func() {
			if err := l.desk.ServeAgent(ctx, name, c); err != nil {
				l.log.Info("conversation with an agent ended", "agent", name, "why", err.Error())
			}
		})
	}
}

func (l *life) handler(ctx context.Context) http.Handler {
	a := auth.New(time.Now)
	if err := a.Set(auth.Policy{Plaintext: true, Anonymous: nodedoc.AnonymousFramework}); err != nil {
		l.node.w.t.Fatal(err)
	}
	p := port{l.node.w.net, l.node.name, l.incarnation}
	router := calls.NewRouter(calls.Router{
		Node: l.node.name, Board: l.board, Auth: a, Budget: httpio.NewBudget(16),
		Dial: func(ctx context.Context, name string) (net.Conn, error) { return p.Dial(ctx, name, "forward/1") },
		Log:  l.log, Stopping: ctx.Done(),
	})
	context.AfterFunc(ctx, router.Close)
	return faces.NewMasterMux(faces.MasterConfig{
		Router: router, Leader: l.leads, Machine: l.machine.Machine, Files: files.Config{}, Log: l.log, Started: time.Now(),
		Agent: func(context.Context) (agent.View, error) { return agent.View{}, nil },
	})
}

// index is how far this life's state has come.
func (l *life) index() (n uint64) {
	l.machine.View(func(s *state.State) { n = s.Index() })
	return n
}
