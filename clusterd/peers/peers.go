// Package peers is the port between nodes, 5052: one listener, mutual TLS 1.3, and the
// conversation chosen by ALPN (raft/1, birth/1, agent/1, forward/1, join/1). Each
// conversation has a net.Listener of its own whose connections say who is at the other
// end; Dial reaches a node by its name.
//
// Invariants: a connection is handed over only when the other end holds a certificate of
// this cluster, chained to the pinned root, with a role that the conversation asks for
// (join/1 alone takes callers without one), and, when dialled, the name that was asked
// for. Certificates come from a callback at every handshake, so that renewal needs no
// restart. Handshakes are bounded in time, in number and per address. Who is refused
// hears why, and the log says it once a peer and minute.
//
// With Plain (clusterd --dev, loopback only) the same port speaks without TLS and
// believes the name that the caller states. Addresses come from package discovery;
// certificates are issued by provision/pki and read by internal/nodecert.
package peers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/vanish"
)

// The conversations.
const (
	Raft    = "raft/1"
	Birth   = "birth/1"
	Agent   = "agent/1"
	Forward = "forward/1"
	Join    = "join/1"
)

// conversations says which roles may begin one; join/1 has no certificate to look at.
var conversations = []struct {
	alpn  string
	roles []string
}{
	{Raft, []string{nodecert.RoleMaster}},
	{Birth, []string{nodecert.RoleMaster}},
	{Agent, []string{nodecert.RoleAgent, nodecert.RoleMaster}},
	{Forward, []string{nodecert.RoleAgent, nodecert.RoleMaster}},
	{Join, nil},
}

const (
	handshakeWait  = 30 * time.Second // a busy emulated machine needs many
	handoverWait   = 5 * time.Second  // for somebody to Accept what was let in
	maxHandshakes  = 128              // of strangers, and as many of known hosts
	maxPerAddress  = 16
	maxWelcome     = 512 // bytes
	dialWait       = 30 * time.Second
	keepaliveIdle  = 5 * time.Second
	keepaliveEvery = 2 * time.Second
	keepaliveCount = 4
)

var (
	// ErrUnknownName: no address of that node has been heard or stated.
	ErrUnknownName = errors.New("no address of that node is known")
	// ErrNoCertificate: this node has none yet.
	ErrNoCertificate = errors.New("this node has no certificate yet")
	// ErrRefused: the other end does not take the call; the text says why.
	ErrRefused = errors.New("refused")
)

// Config is what the port needs to know.
type Config struct {
	Self   nodecert.Peer // name, incarnation and roles of this node
	Anchor nodedoc.Anchor
	// Certificate gives the newest one, with the whole chain up to the root (see
	// Certificate); nil: none yet. Unused with Plain.
	Certificate func() *tls.Certificate
	// Now is the time by which certificates are judged; the zero time: not known yet.
	Now func() time.Time
	// Resolve gives the addresses (host:port) of a node, the likeliest first.
	Resolve func(name string) []string
	// Known says whether a node of this cluster was heard from an address: its callers
	// have places of their own, which a flood of strangers cannot take. nil: none is.
	Known func(host string) bool
	Plain bool
	Log   *slog.Logger
}

// Mux is the port.
type Mux struct {
	cfg      Config
	refusals refusals

	mu        sync.Mutex
	listeners map[string]*listener
	shaking   map[string]int // handshakes under way by address
	own       string         // where this node's own port is reached
}

// New prepares the port; Run serves it.
func New(cfg Config) *Mux {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Mux{cfg: cfg, listeners: map[string]*listener{}, shaking: map[string]int{}, refusals: refusals{log: cfg.Log}}
}

// Conn is a connection with who is at its other end.
type Conn struct {
	net.Conn
	peer nodecert.Peer
}

// Peer is who holds the other end's certificate; empty on join/1.
func (c *Conn) Peer() nodecert.Peer { return c.peer }

// CloseWrite tells the other end that nothing more comes.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// TLS gives the state of the connection's session; false without TLS.
func (c *Conn) TLS() (tls.ConnectionState, bool) {
	t, ok := c.Conn.(*tls.Conn)
	if !ok {
		return tls.ConnectionState{}, false
	}
	return t.ConnectionState(), true
}

// PeerOf says who is at the other end of a connection that a Mux gave out.
func PeerOf(c net.Conn) (nodecert.Peer, bool) {
	p, ok := c.(*Conn)
	if !ok {
		return nodecert.Peer{}, false
	}
	return p.peer, true
}

// Peer is PeerOf in the shape that package masters takes.
func (m *Mux) Peer(c net.Conn) (name, incarnation string) {
	p, _ := PeerOf(c)
	return p.Name, p.Incarnation
}

// listener is one conversation's share of the port.
type listener struct {
	mux    *Mux
	alpn   string
	ready  chan *Conn
	once   sync.Once
	closed chan struct{}
}

// Listener takes up a conversation; until then, and after it is closed, its callers are
// told that it is not spoken here. One at a time; a second call replaces the first.
func (m *Mux) Listener(alpn string) net.Listener {
	l := &listener{mux: m, alpn: alpn, ready: make(chan *Conn), closed: make(chan struct{})}
	m.mu.Lock()
	old := m.listeners[alpn]
	m.listeners[alpn] = l
	m.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return l
}

// Accept implements net.Listener; the connections are *Conn.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	l.mux.mu.Lock()
	defer l.mux.mu.Unlock()
	if l.mux.listeners[l.alpn] == l {
		delete(l.mux.listeners, l.alpn)
	}
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return conversation(l.alpn) }

type conversation string

// Network implements net.Addr.
func (c conversation) Network() string { return "mesolith" }

// String implements net.Addr.
func (c conversation) String() string { return string(c) }

// Run serves the port until ctx ends, then closes it. Connections already handed over
// belong to who accepted them.
func (m *Mux) Run(ctx context.Context, l net.Listener) error {
	m.mu.Lock()
	m.own = reachable(l.Addr())
	m.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		<-ctx.Done()
		l.Close()
	})
	strangers, known := make(chan struct{}, maxHandshakes), make(chan struct{}, maxHandshakes)
	pause := time.Millisecond
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("port between nodes: %w", err)
		}
		if err != nil { // out of descriptors: let some end
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = time.Millisecond
		host := hostOf(conn.RemoteAddr())
		if !m.begin(host) {
			conn.Close()
			continue
		}
		slots := strangers
		if m.cfg.Known != nil && m.cfg.Known(host) {
			slots = known
		}
		select {
		case slots <- struct{}{}:
		default: // nobody waits here: behind him would wait who has a place
			m.end(host)
			conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			defer m.end(host)
			m.admit(ctx, conn)
		})
	}
}

// begin counts handshakes per address, so that one silent host takes no more than its
// share of the slots.
func (m *Mux) begin(host string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shaking[host] >= maxPerAddress {
		return false
	}
	m.shaking[host]++
	return true
}

func (m *Mux) end(host string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shaking[host]--; m.shaking[host] == 0 {
		delete(m.shaking, host)
	}
}

// admit greets one caller and hands him to the conversation that he asked for.
func (m *Mux) admit(ctx context.Context, conn net.Conn) {
	tune(conn)
	conn.SetDeadline(time.Now().Add(handshakeWait))
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	c, alpn, who, err := m.greet(ctx, conn)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return
	}
	m.mu.Lock()
	l := m.listeners[alpn]
	m.mu.Unlock()
	if l == nil { // it was closed since it was looked up
		conn.Close()
		return
	}
	c.SetDeadline(time.Time{})
	late := time.NewTimer(handoverWait)
	defer late.Stop()
	select {
	case l.ready <- c:
	case <-l.closed:
		c.Close()
	case <-ctx.Done():
		c.Close()
	case <-late.C:
		c.Close()
		m.cfg.Log.Warn("connection dropped: nobody took it up in time", "conversation", alpn, "from", who)
	}
}

// greet does the handshake and answers with a welcome or the reason why not.
func (m *Mux) greet(ctx context.Context, conn net.Conn) (c *Conn, alpn, who string, err error) {
	if m.cfg.Plain {
		c, alpn, err = m.greetPlain(conn)
	} else {
		c, alpn, err = m.greetTLS(ctx, conn)
	}
	who = hostOf(conn.RemoteAddr())
	if c != nil && c.peer.Name != "" {
		who = c.peer.Name
	}
	if err == nil {
		err = m.allowed(alpn, c.peer)
	}
	if err != nil && !silent(err) {
		m.refusals.say(who, alpn, err)
	}
	switch {
	case c == nil:
		return nil, alpn, who, err
	case alpn == Join:
		return c, alpn, who, err // its own first frame answers
	case err == nil:
		return c, alpn, who, writeWelcome(c, m.cfg.Self, nil)
	}
	if werr := writeWelcome(c, m.cfg.Self, err); werr == nil {
		drain(c)
	}
	return c, alpn, who, err
}

// allowed says why a peer may not begin a conversation here.
func (m *Mux) allowed(alpn string, p nodecert.Peer) error {
	m.mu.Lock()
	served := m.listeners[alpn] != nil
	m.mu.Unlock()
	if !served {
		return fmt.Errorf("%w: %s does not speak %s (is it a master of this list?)", ErrRefused, m.cfg.Self.Name, alpn)
	}
	if alpn == Join {
		return nil
	}
	return mayBegin(alpn, p)
}

func mayBegin(alpn string, p nodecert.Peer) error {
	if p.Operator {
		return fmt.Errorf("%w: %s holds an operator's certificate; %s is spoken by nodes", ErrRefused, p.Name, alpn)
	}
	for _, c := range conversations {
		if c.alpn != alpn {
			continue
		}
		for _, r := range c.roles {
			if p.Has(r) {
				return nil
			}
		}
		return fmt.Errorf("%w: the certificate of %s has the roles %v, and %s takes %v", ErrRefused, p.Name, p.Roles, alpn, c.roles)
	}
	return fmt.Errorf("%w: no such conversation: %.40q", ErrRefused, alpn)
}

func tune(conn net.Conn) {
	if t, ok := conn.(*net.TCPConn); ok {
		t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepaliveIdle, Interval: keepaliveEvery, Count: keepaliveCount})
		// A connection that cannot be told so ends at its first use.
		_ = vanish.After(conn, keepaliveIdle+keepaliveCount*keepaliveEvery)
	}
}

func hostOf(a net.Addr) string {
	if a == nil {
		return "?"
	}
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// reachable is an address by which a listener on this machine is dialled.
func reachable(a net.Addr) string {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return a.String()
	}
	if t.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", fmt.Sprint(t.Port))
	}
	return t.String()
}
