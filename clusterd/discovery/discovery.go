// Package discovery is how nodes find each other: every node says on the LAN (5054/udp)
// who and where it is, signed with the key of its certificate, and keeps a table of whom
// it heard. Addresses that the node document states are there from the beginning; a
// cluster of plain processes (--dev) has only those.
//
// Invariants: only a beacon whose chain ends at the pinned root, whose certificate names
// this cluster and its sender, and whose signature holds enters the table; a beacon that
// was heard before does not enter again. Other clusters on the same LAN are left alone
// and reported once a minute. A node without a certificate of its own cannot check
// anything: it keeps bounded hints at where masters might be, and noded asks there by TLS.
//
// Nothing here decides: who is really at an address, which incarnation lives and who
// leads is proven over package peers; who may found is discovery/birth's.
package discovery

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mesolith/mesolith/internal/nodedoc"
)

// Port of the beacons.
const Port = 5054

const (
	hastyTime   = 5 * time.Second // after the start
	hastyPause  = 250 * time.Millisecond
	masterPause = time.Second
	agentPause  = 10 * time.Second
	// agentsPerPause: more agents than that speak more seldom, so that the LAN and
	// everybody's processor stay quiet.
	agentsPerPause = 500
	newsPause      = 100 * time.Millisecond // between beacons that changes cause

	freshFor    = 5 * time.Second // a master's word
	forgetAfter = 30 * time.Minute
	replayAfter = 15 * time.Second
	maxNodes    = 16384
	maxHints    = 64
)

// Announcement is what changes in a node's word about itself.
type Announcement struct {
	Master      bool
	ListVersion uint64
	Height      uint64
	Generation  string
	Term        uint64
	Leading     bool
	Leader      string
}

// Node is somebody who was heard.
type Node struct {
	Name, Incarnation string
	Addresses         []string // host:port of the port between nodes
	Announcement
	Heard time.Time // zero: never, only stated
}

// Static is an address that somebody stated.
type Static struct {
	Name    string
	Address string // host:port of the port between nodes
}

// Config is what discovery needs.
type Config struct {
	Name, Incarnation string
	Addresses         []string // own, host:port of the port between nodes
	Anchor            nodedoc.Anchor
	// Certificate gives the newest one, the root last; nil: none yet.
	Certificate func() *tls.Certificate
	// Now judges certificates; the zero time: not known yet.
	Now func() time.Time
	// Static are the addresses that the document states.
	Static []Static
	// Broadcast are the addresses that reach the LAN; see BroadcastOf.
	Broadcast []netip.AddrPort
	Log       *slog.Logger
}

// Table is who is where.
type Table struct {
	cfg     Config
	checked chains
	rumours rumours

	mu       sync.Mutex
	own      Announcement
	news     chan struct{} // 1: something to say at once
	nodes    map[string]*entry
	hosts    map[string]string // address without port: the node it was last heard of
	hints    map[string]hint
	twin     twin
	changed  chan struct{}
	sequence uint64
}

type entry struct {
	Node
	sequence uint64
}

type hint struct {
	address string
	at      time.Time
}

type twin struct {
	incarnation, address string
	at                   time.Time
}

// New gives a table that knows what was stated.
func New(cfg Config) *Table {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Table{
		cfg: cfg, nodes: map[string]*entry{}, hosts: map[string]string{}, hints: map[string]hint{}, news: make(chan struct{}, 1),
		changed: make(chan struct{}), rumours: rumours{log: cfg.Log}, checked: chains{known: map[[32]byte]checkedChain{}},
	}
}

// BroadcastOf gives the address that reaches everybody on the LAN of an address with
// prefix length, 10.7.0.11/24.
func BroadcastOf(address string) (netip.AddrPort, error) {
	p, err := netip.ParsePrefix(address)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("LAN address: %w", err)
	}
	if !p.Addr().Is4() {
		return netip.AddrPort{}, fmt.Errorf("LAN address %s: beacons are sent over IPv4", address)
	}
	ip := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		ip[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrPortFrom(netip.AddrFrom4(ip), Port), nil
}

// Announce sets what this node says of itself; a change is said at once.
func (t *Table) Announce(a Announcement) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.own == a {
		return
	}
	t.own = a
	select {
	case t.news <- struct{}{}:
	default: // already to be said
	}
}

// Run speaks and listens on conn until ctx ends, and closes it.
func (t *Table) Run(ctx context.Context, conn net.PacketConn) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		<-ctx.Done()
		conn.Close()
	})
	wg.Go(func() { t.speak(ctx, conn) })
	packet := make([]byte, maxDatagram+1)
	for {
		n, from, err := conn.ReadFrom(packet)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("listen for beacons: %w", err)
			}
			continue // a datagram that could not be taken is as good as lost
		}
		t.hear(packet[:n], from)
	}
}

// speak sends beacons: soon after the start and after changes, seldom otherwise.
func (t *Table) speak(ctx context.Context, conn net.PacketConn) {
	began := time.Now()
	lastWhy := ""
	for {
		if err := t.say(conn); fmt.Sprint(err) != lastWhy {
			if lastWhy = fmt.Sprint(err); err != nil {
				t.cfg.Log.Warn("beacon cannot be sent", "why", lastWhy)
			}
		}
		pause := time.NewTimer(t.pause(time.Since(began)))
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
			continue
		case <-t.news:
			pause.Stop()
		}
		select { // several changes in a row are one beacon
		case <-ctx.Done():
			return
		case <-time.After(newsPause):
		}
	}
}

func (t *Table) pause(age time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case age < hastyTime:
		return hastyPause
	case t.own.Master:
		return masterPause
	}
	return agentPause * time.Duration(1+len(t.nodes)/agentsPerPause)
}

// say sends one beacon everywhere.
func (t *Table) say(conn net.PacketConn) error {
	cert := t.cfg.Certificate()
	if cert == nil {
		return nil // nothing could be believed
	}
	packet, err := t.compose(cert)
	if err != nil {
		return err
	}
	var failures []error
	for _, to := range t.targets() {
		if _, err := conn.WriteTo(packet, net.UDPAddrFromAddrPort(to)); err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

// targets are the LAN and, for networks that drop broadcasts, the stated addresses.
func (t *Table) targets() []netip.AddrPort {
	to := slices.Clone(t.cfg.Broadcast)
	for _, s := range t.cfg.Static {
		if a, err := netip.ParseAddrPort(s.Address); err == nil && s.Name != t.cfg.Name {
			to = append(to, netip.AddrPortFrom(a.Addr(), Port))
		}
	}
	return to
}

// Resolve gives the addresses of a node, the one heard last first.
func (t *Table) Resolve(name string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	if e := t.nodes[name]; e != nil {
		out = append(out, e.Addresses...)
	}
	for _, s := range t.cfg.Static {
		if s.Name == name && !slices.Contains(out, s.Address) {
			out = append(out, s.Address)
		}
	}
	return out
}

// Nodes gives everybody who was heard or stated, by name.
func (t *Table) Nodes() []Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Node
	for _, e := range t.nodes {
		out = append(out, e.Node)
	}
	for _, s := range t.cfg.Static {
		if t.nodes[s.Name] == nil && s.Name != t.cfg.Name && !slices.ContainsFunc(out, func(n Node) bool { return n.Name == s.Name }) {
			out = append(out, Node{Name: s.Name, Addresses: []string{s.Address}})
		}
	}
	slices.SortFunc(out, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Leader gives the newest leader that was heard lately: of the highest generation and
// term. It may be gone; asking it tells.
func (t *Table) Leader() (Node, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var best *entry
	for _, e := range t.nodes {
		if !e.Leading || !e.Master || time.Since(e.Heard) > freshFor {
			continue
		}
		if best == nil || e.Height > best.Height || e.Height == best.Height && e.Term > best.Term {
			best = e
		}
	}
	if best == nil {
		return Node{}, false
	}
	return best.Node, true
}

// Known says whether a proven beacon named an address, given without port.
func (t *Table) Known(host string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.hosts[host]
	return ok
}

// Changed closes when somebody new was heard, or somebody's word changed.
func (t *Table) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// Hints are addresses where masters may be, for a node that has no certificate yet:
// stated ones, heard ones, and those of beacons that it could not check.
func (t *Table) Hints() []Static {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Static
	seen := map[string]bool{}
	add := func(name, address string) {
		if !seen[address] {
			seen[address] = true
			out = append(out, Static{name, address})
		}
	}
	for _, s := range t.cfg.Static {
		add(s.Name, s.Address)
	}
	for name, e := range t.nodes {
		if e.Master {
			for _, a := range e.Addresses {
				add(name, a)
			}
		}
	}
	for name, h := range t.hints {
		add(name, h.address)
	}
	slices.SortFunc(out, func(a, b Static) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address))
	})
	return out
}

// Twin gives the address of another incarnation that spoke lately under this node's own
// name, with a valid certificate: to be asked whether it lives.
func (t *Table) Twin() (incarnation, address string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.twin.address == "" || time.Since(t.twin.at) > freshFor {
		return "", "", false
	}
	return t.twin.incarnation, t.twin.address, true
}
