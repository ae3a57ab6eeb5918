package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/alloc"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/calls"
	"github.com/mesolith/mesolith/clusterd/discovery"
	"github.com/mesolith/mesolith/clusterd/discovery/birth"
	"github.com/mesolith/mesolith/clusterd/doors"
	"github.com/mesolith/mesolith/clusterd/faces"
	"github.com/mesolith/mesolith/clusterd/files"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/masters"
	"github.com/mesolith/mesolith/clusterd/operator"
	"github.com/mesolith/mesolith/clusterd/peers"
	"github.com/mesolith/mesolith/clusterd/replica"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/internal/wire/noded"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
)

// membership is all that a running clusterd needs to know, whether noded told it or the
// flags of --dev did.
type membership struct {
	doc         nodedoc.Document
	anchor      *nodedoc.Anchor // nil: --dev
	incarnation string
	bootID      string
	hardware    string                       // hash of what the machine says of itself; empty: --dev
	admitted    func() map[string]birth.Word // by master: what an operator let in; nil: nobody can
	address     string                       // LAN address, without prefix
	mtu         uint32
	closed      []string // addresses that tasks may not ask, as IPv4:port
	apiPort     int
	agentPort   int
	dataDir     string // Raft and the agent's journal
	workDir     string
	keeper      string // isolated's socket
	inventory   *noded.Inventory

	api, agentAPI, peer net.Listener
	zookeeper           func(context.Context) (net.Listener, error) // nil: the shim is off
	certificate         func() *tls.Certificate                     // nil: no TLS
	policy              auth.Policy
	resolve             func(name string) []string // node to node
	apiAddress          func(name string) string   // host:port of another node's API
	now                 func() time.Time
	report              func(*noded.ClusterStatus)   // to noded; may be nil
	announce            func(discovery.Announcement) // on the LAN; may be nil
	// known says whether a node was heard from an address; nil: nobody listens.
	known func(host string) bool
	// twin is another incarnation that speaks under this node's name; nil: nobody can.
	twin   func() (incarnation, address string, ok bool)
	issuer *issuer // masters that can issue certificates

	log *slog.Logger
}

// member is a running clusterd.
type member struct {
	membership
	mux     *peers.Mux
	machine *state.Machine
	desk    *leader.Desk
	board   *calls.Board
	auth    *auth.Authenticator
	agent   *agent.Agent
	masters *masters.Masters // nil where this node is none
	pulse   *replica.Pulse
	started time.Time
	logging *operator.Logging

	mu      sync.Mutex
	present *leader.Leader // while this node leads
}

func (m membership) master() bool { return m.doc.Masters.Has(m.doc.Name) }

// port is masters.Port over the node-to-node port.
type port struct{ mux *peers.Mux }

func (p port) Listener(alpn string) net.Listener { return p.mux.Listener(alpn) }

func (p port) Dial(ctx context.Context, name, alpn string) (net.Conn, error) {
	c, err := p.mux.Dial(ctx, name, alpn)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (p port) Peer(c net.Conn) (name, incarnation string) {
	who, _ := peers.PeerOf(c)
	return who.Name, who.Incarnation
}

// run serves until ctx ends or a part that cannot be done without fails.
func (m membership) run(ctx context.Context) error {
	b := &member{membership: m, machine: state.NewMachine(), pulse: &replica.Pulse{}, board: calls.NewBoard(), auth: auth.New(m.now), started: time.Now(), logging: operator.NewLogging(&logLevel)}
	b.auth.AuditTo(m.log.With("room", "audit"))
	if err := b.auth.Set(m.policy); err != nil {
		return err
	}
	self := nodecert.Peer{Name: m.doc.Name, Incarnation: m.incarnation, Roles: []string{nodecert.RoleAgent}}
	if m.master() {
		self.Roles = append(self.Roles, nodecert.RoleMaster)
	}
	cfg := peers.Config{Self: self, Certificate: m.certificate, Now: m.now, Resolve: m.resolve, Known: m.known, Plain: m.certificate == nil, Log: m.log}
	if m.anchor != nil {
		cfg.Anchor = *m.anchor
	}
	b.mux = peers.New(cfg)
	b.desk = leader.NewDesk(m.doc.Name, m.incarnation, m.log.With("room", "desk"))
	if err := b.newAgent(); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.mux.Run(ctx, m.peer) })
	g.Go(func() error { return b.agent.Run(ctx) })
	handler := b.handler(ctx)
	if m.master() {
		b.masters = masters.New(b.mastersConfig())
		b.desk.Heard = b.masters.Heard
		g.Go(func() error { return b.masters.Run(ctx) })
		g.Go(func() error { return b.serveAgents(ctx) })
		g.Go(func() error {
			return calls.ServeForwarded(ctx, b.mux.Listener("forward/1"), func(c net.Conn) string { p, _ := peers.PeerOf(c); return p.Name }, handler, m.log)
		})
		g.Go(func() error { b.watchMasters(ctx); return nil })
	} else {
		g.Go(func() error { b.watchLeader(ctx); return nil })
	}
	g.Go(func() error { return b.serve(ctx, m.api, handler, b.auth.PlainAllowed) })
	g.Go(func() error { return b.serve(ctx, m.agentAPI, b.agentHandler(), b.plainFromTasks) })
	if m.zookeeper != nil {
		g.Go(func() error { return b.serveZooKeeper(ctx) })
	}
	if m.issuer != nil {
		g.Go(func() error { return b.serveJoin(ctx) })
	}
	if m.announce != nil {
		g.Go(func() error { b.keepAnnouncing(ctx); return nil })
	}
	if m.report != nil {
		g.Go(func() error { b.tellNoded(ctx); return nil })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// serve opens one HTTP port to those who may come by plain HTTP, and to everybody by TLS.
func (b *member) serve(ctx context.Context, l net.Listener, h http.Handler, plain func(net.Addr) bool) error {
	cfg := doors.Config{}
	if b.certificate != nil {
		cfg.TLS = b.auth.ServerTLS(&tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c := b.certificate(); c != nil {
				return c, nil
			}
			return nil, peers.ErrNoCertificate
		}})
		cfg.Plain = plain
	}
	return doors.Serve(ctx, l, cfg, h)
}

// plainFromTasks also lets in who may be an executor: libraries of executors know nothing
// but plain HTTP. Every path but theirs asks the policy again.
func (b *member) plainFromTasks(remote net.Addr) bool {
	if b.auth.PlainAllowed(remote) {
		return true
	}
	from, err := netip.ParseAddrPort(remote.String())
	if err != nil {
		return false
	}
	ip := from.Addr().Unmap()
	pool, err := netip.ParsePrefix(b.doc.Tasks.Pool)
	return ip.IsLoopback() || ip.String() == b.address || err == nil && pool.Contains(ip)
}

func (b *member) newAgent() error {
	resources, err := agent.Offered(b.inventory, b.doc)
	if err != nil {
		return err
	}
	var memory uint64
	for _, r := range resources {
		if r.GetName() == "mem" {
			memory = uint64(r.GetScalar().GetValue()) << 20
		}
	}
	info := &mesosv1.AgentInfo{
		Hostname: proto.String(b.address), Port: proto.Int32(int32(b.agentPort)), Resources: resources, Attributes: agent.Attributes(b.doc),
		Domain: agent.Domain(b.doc),
	}
	k := &keeper.Configure{
		RegistriesOffline: b.doc.Registries.Offline, TaskImage: b.doc.Tasks.Image, TasksMemoryBytes: memory,
		NodeName: b.doc.Name, AdvertiseIp: b.address, HostPaths: b.doc.Tasks.HostPaths,
	}
	for host, endpoints := range b.doc.Registries.Mirrors {
		k.Mirrors = append(k.Mirrors, &keeper.Mirror{Host: host, Endpoints: endpoints})
	}
	b.agent = agent.New(agent.Config{
		JournalPath: filepath.Join(b.dataDir, "agent", "journal"), KeeperSocket: b.keeper, Keeper: k,
		ClusterID: b.doc.ClusterID, ListVersion: b.doc.Masters.Version, Name: b.doc.Name, Incarnation: b.incarnation, BootID: b.bootID,
		Address: b.address, MTU: b.mtu, Provisioning: b.closed, Info: info, Masters: b.doc.Masters.Names,
		Dial: func(ctx context.Context, name string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			return port{b.mux}.Dial(ctx, name, "agent/1")
		},
		Log: b.log.With("room", "agent"),
	})
	return nil
}

func (b *member) mastersConfig() masters.Config {
	return masters.Config{
		Dir: filepath.Join(b.dataDir, "raft"), Self: b.doc.Name, Incarnation: b.incarnation, ClusterID: b.doc.ClusterID,
		List: b.doc.Masters.Names, ListVersion: b.doc.Masters.Version, Disks: b.doc.Mode == nodedoc.ModeDisk,
		Wait: milliseconds(b.doc.Masters.WaitMS), Heartbeat: milliseconds(b.doc.Raft.HeartbeatMS), Stall: milliseconds(b.doc.Raft.StallMS),
		Machine: b.machine, Hardware: b.hardwareOfMasters(), Port: port{b.mux}, Lead: b.lead, Pulse: b.pulse, Log: b.log.With("room", "masters"), Twin: b.twin,
		Lives: func(ctx context.Context, address string) (string, bool) {
			incarnation, _, ok := b.mux.LivesAt(ctx, b.doc.Name, address)
			return incarnation, ok
		},
	}
}

// hardwareOfMasters is what the state and the operator say of masters' machines.
func (b *member) hardwareOfMasters() masters.Hardware {
	if b.admitted == nil {
		return masters.Hardware{}
	}
	return masters.Hardware{
		Own: b.hardware, Admitted: b.admitted,
		Known: func() (known map[string]string) {
			b.machine.View(func(s *state.State) { known = s.Hardware() })
			return known
		},
		Learn: func(ctx context.Context, name, hardware string) error {
			l := b.leads()
			if l == nil {
				return masters.ErrNotYet
			}
			return l.AdmitHardware(ctx, name, hardware)
		},
	}
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// lead serves one term.
func (b *member) lead(ctx context.Context, t masters.Term) error {
	l := leader.New(leader.Config{
		Generation: t.Generation.ID, Height: t.Generation.Height, Term: t.Term, Round: t.Round, Log: t.Log, Machine: b.machine,
		Address: leader.Address{Host: b.address, IP: b.address, Port: b.apiPort, Domain: agent.Domain(b.doc)}, Pool: b.doc.Tasks.Pool,
		AgentGrace: milliseconds(b.doc.AgentsGraceMS), AdoptWait: milliseconds(b.doc.AdoptWaitMS), HostNetworkRoles: b.doc.Tasks.HostNetworkRoles,
		Authorize: b.auth.Allowed, Sorting: sorting(b.doc.Allocation),
		Handover: func() {
			if err := t.Log.Handover(ctx); err != nil {
				b.log.Warn("handing over", "error", err)
			}
		},
		Logger: b.log.With("room", "leader"),
	})
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	st := leader.Status{Height: t.Generation.Height, Term: t.Term, Generation: t.Generation.ID, Leader: b.doc.Name}
	select {
	case err := <-done:
		return err
	case <-l.Ready():
	}
	b.mu.Lock()
	b.present = l
	b.desk.Lead(l, st)
	b.mu.Unlock()
	b.board.Post(calls.Standing{Leader: b.doc.Name, Address: b.apiHostPort(), Height: st.Height, Term: st.Term, Generation: st.Generation, Here: true, Ready: true})
	err := <-done
	b.mu.Lock()
	b.present = nil
	b.desk.Follow(leader.Status{Height: st.Height, Term: st.Term, Generation: st.Generation})
	b.mu.Unlock()
	b.board.Post(calls.Standing{Height: st.Height, Term: st.Term, Generation: st.Generation})
	return err
}

func sorting(a nodedoc.Allocation) alloc.Sorting {
	return alloc.Sorting{
		RandomRoles: a.RoleSorter == nodedoc.SorterRandom, RandomFrameworks: a.FrameworkSorter == nodedoc.SorterRandom, Excluded: a.FairSharingExcluded,
	}
}

func (b *member) apiHostPort() string { return net.JoinHostPort(b.address, strconv.Itoa(b.apiPort)) }

func (b *member) leads() *leader.Leader {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.present
}

// watchMasters posts who leads, on a master that does not.
func (b *member) watchMasters(ctx context.Context) {
	for {
		s, changed := b.masters.Status()
		b.mu.Lock()
		if b.present == nil {
			b.desk.Follow(leader.Status{Height: s.Generation.Height, Term: s.Term, Generation: s.Generation.ID, Leader: s.Leader})
			standing := calls.Standing{Leader: s.Leader, Height: s.Generation.Height, Term: s.Term, Generation: s.Generation.ID, Here: s.Leader == b.doc.Name && s.Leader != ""}
			if s.Leader != "" {
				standing.Address = b.apiAddress(s.Leader)
			}
			b.board.Post(standing)
		}
		b.mu.Unlock()
		if s.Stopped {
			b.watchLeader(ctx) // it votes no more; its agent still hears who leads
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// watchLeader posts who leads, on a node that is no master: its agent knows.
func (b *member) watchLeader(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		v, err := b.agent.View(ctx)
		if err != nil {
			return
		}
		standing := calls.Standing{Leader: v.Leader, Height: v.Height, Term: v.Term, Generation: v.Generation}
		if v.Leader != "" {
			standing.Address = b.apiAddress(v.Leader)
		}
		b.board.Post(standing)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// serveAgents takes the agents' connections in.
func (b *member) serveAgents(ctx context.Context) error {
	l := b.mux.Listener("agent/1")
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return ctx.Err()
		}
		who, _ := peers.PeerOf(c)
		wg.Go(func() {
			if err := b.desk.ServeAgent(ctx, who.Name, c); err != nil && ctx.Err() == nil {
				b.log.Info("conversation with an agent ended", "node", who.Name, "why", err.Error())
			}
		})
	}
}

func (b *member) handler(ctx context.Context) http.Handler {
	router := calls.NewRouter(calls.Router{
		Node: b.doc.Name, Board: b.board, Auth: b.auth, Budget: httpio.NewBudget(16),
		Dial: func(ctx context.Context, name string) (net.Conn, error) {
			return port{b.mux}.Dial(ctx, name, "forward/1")
		},
		Log: b.log.With("room", "calls"), Stopping: ctx.Done(),
	})
	cfg := faces.MasterConfig{
		Router: router, Leader: b.leads, Agent: b.agent.View, Files: b.files(), Version: versionInfo(), Cluster: b.doc.Cluster,
		Flags: b.flags(), Started: b.started, Logging: b.logging, Log: b.log.With("room", "faces"),
	}
	if b.master() {
		cfg.Machine, cfg.Pulse = b.machine, b.pulse
	}
	return faces.NewMasterMux(cfg)
}

func (b *member) agentHandler() http.Handler {
	return faces.NewAgentMux(faces.AgentConfig{
		Auth: b.auth, View: b.agent.View, Agent: b.agent, Files: b.files(), Containers: agent.Containers{Keeper: agent.Sandbox{Socket: b.keeper}}, Version: versionInfo(),
		Address: net.JoinHostPort(b.address, strconv.Itoa(b.agentPort)), WorkDir: b.workDir, Flags: b.flags(), Started: b.started,
		Logging: b.logging, Log: b.log.With("room", "faces"),
	})
}

func (b *member) files() files.Config {
	return files.Config{Sandbox: agent.Sandbox{Socket: b.keeper}, Latest: faces.Latest(b.agent.View, b.workDir), Owner: faces.Owner(b.agent.View), Log: b.log.With("room", "files")}
}

func (b *member) flags() map[string]string {
	return map[string]string{"work_dir": b.workDir, "hostname": b.address, "port": strconv.Itoa(b.apiPort)}
}

// keepAnnouncing tells discovery what this node's beacon says of it.
func (b *member) keepAnnouncing(ctx context.Context) {
	for {
		a := discovery.Announcement{Master: b.master(), ListVersion: b.doc.Masters.Version}
		var changed <-chan struct{}
		if b.masters != nil {
			var s masters.Status
			s, changed = b.masters.Status()
			a.Height, a.Generation, a.Term, a.Leader = s.Generation.Height, s.Generation.ID, s.Term, s.Leader
			a.Leading = b.leads() != nil
		}
		b.announce(a)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-time.After(time.Second):
		}
	}
}

// tellNoded keeps console and node API told.
func (b *member) tellNoded(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if s, err := b.clusterStatus(ctx); err == nil {
			b.report(s)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (b *member) clusterStatus(ctx context.Context) (*noded.ClusterStatus, error) {
	v, err := b.agent.View(ctx)
	if err != nil {
		return nil, err
	}
	s := &noded.ClusterStatus{Role: "agent", Leader: v.Leader, AgentId: v.ID, Term: v.Term, Height: v.Height}
	for _, t := range v.Tasks {
		if t.State == mesosv1.TaskState_TASK_RUNNING {
			s.TasksRunning++
		}
	}
	if b.masters != nil {
		st, _ := b.masters.Status()
		s.Role, s.Leader, s.Term, s.Height = "master", st.Leader, st.Term, st.Generation.Height
		if b.leads() != nil {
			s.Role = "leader"
		}
		s.Summary, s.Votes = st.Why, st.Votes
		for _, h := range st.Held {
			s.Held = append(s.Held, &noded.HeldHardware{Master: h.Name, Hardware: h.Hardware, Known: h.Known})
		}
		if s.Summary == "" {
			s.Summary = birth.Sentence(st.Held)
		}
	}
	switch {
	case s.Summary != "":
	case s.Leader == "":
		s.Summary = "no leader is known"
	case !v.Attached:
		s.Summary = fmt.Sprintf("%s leads; this node's agent is not attached yet", s.Leader)
	default:
		s.Summary = fmt.Sprintf("%s leads; %d tasks run here", s.Leader, s.TasksRunning)
	}
	return s, nil
}
