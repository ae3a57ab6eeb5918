// Package lan gives a node its place on the LAN: it finds the card of every network of
// the node document, brings it up, gives it its address (fixed, or a lease that it
// keeps), the default route, the MTU, and writes the resolver's file.
//
// Invariant: it never stops trying, and says on the console what it waits for; a card
// keeps its address when noded ends or starts again, and a changed document changes only
// what differs.
//
// What is to be is decided by the node document; how it is done is in net/link, net/route
// and net/dhcp.
package lan

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/net/dhcp"
	"github.com/mesolith/mesolith/net/link"
	"github.com/mesolith/mesolith/net/route"
)

// State is what a node's place on the LAN is now.
type State struct {
	Addresses []netip.Prefix // in the order of the document's networks
	MTU       int            // the least of all cards that have an address; 0: none has
	DNS, NTP  []string
	Domain    string
}

// Lan does it on this machine's cards.
type Lan struct {
	Resolver string // path of resolv.conf
	Say      func(subject, line string)
	Changed  func(State)
	Log      *slog.Logger

	kernel kernel // zero: this machine's

	mu    sync.Mutex
	name  string // told to DHCP servers once known
	want  []nodedoc.Network
	ports map[string]port // by network name
	cards map[int]bool    // taken
	last  State
}

// kernel is what is asked and done; a test has cards of its own.
type kernel struct {
	links   func() ([]link.Link, error)
	doLink  func(link.Step) error
	routes  func() ([]route.Route, error)
	doRoute func(route.Step) error
	lease   func(context.Context, dhcp.Config) error
}

func thisMachine() kernel {
	return kernel{link.Observe, link.Do, route.Observe, route.Do, dhcp.Run}
}

// port is what one network has now.
type port struct {
	address  netip.Prefix
	dns, ntp []netip.Addr
	domain   string
	mtu      int
}

const (
	lookEvery  = 250 * time.Millisecond // for a card that is not there yet
	checkEvery = 10 * time.Second       // that everything still is as planned
)

// Named tells the name by which DHCP servers shall know this node, from the next lease on.
func (l *Lan) Named(hostname string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.name = hostname
}

// Run keeps the networks as the newest list from wants says, until ctx ends.
func (l *Lan) Run(ctx context.Context, wants <-chan []nodedoc.Network) error {
	l.ports, l.cards = map[string]port{}, map[int]bool{}
	if l.kernel.links == nil {
		l.kernel = thisMachine()
	}
	if err := l.loopback(); err != nil {
		l.Log.Warn("loopback stays down", "error", err)
	}
	var running sync.WaitGroup
	defer running.Wait()
	type worker struct {
		network nodedoc.Network
		stop    context.CancelFunc
		done    chan struct{}
	}
	workers := map[string]worker{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case networks := <-wants:
			l.mu.Lock()
			l.want = networks
			l.mu.Unlock()
			for name, w := range workers {
				if !slices.ContainsFunc(networks, func(n nodedoc.Network) bool { return same(n, w.network) }) {
					w.stop()
					<-w.done
					delete(workers, name)
				}
			}
			for _, n := range networks {
				if _, ok := workers[n.Name]; ok {
					continue
				}
				sub, stop := context.WithCancel(ctx)
				w := worker{n, stop, make(chan struct{})}
				workers[n.Name] = w
				running.Go(func() {
					defer close(w.done)
					defer stop()
					l.keep(sub, n)
				})
			}
		}
	}
}

func same(a, b nodedoc.Network) bool {
	return a.Name == b.Name && a.Match == b.Match && a.DHCP == b.DHCP && a.Address == b.Address &&
		a.Gateway == b.Gateway && a.MTU == b.MTU && slices.Equal(a.DNS, b.DNS)
}

func (l *Lan) loopback() error {
	have, err := l.kernel.links()
	if err != nil {
		return err
	}
	for _, s := range link.PlanLoopback(have) {
		if err := l.kernel.doLink(s); err != nil {
			return err
		}
	}
	return nil
}

// keep gives one network its card and its address until ctx ends, and another card when
// that one is gone: drivers are loaded anew, cards are pulled out and put in.
func (l *Lan) keep(ctx context.Context, n nodedoc.Network) {
	for {
		card, ok := l.find(ctx, n)
		if !ok {
			return
		}
		l.serve(ctx, n, card)
		l.release(card.Index)
		if ctx.Err() != nil {
			return
		}
		l.lose(n.Name)
		l.Say("network "+n.Name, fmt.Sprintf("%s is gone; waiting for a card", card.Name))
	}
}

// serve is a network's life on one card; it ends with ctx or with the card.
func (l *Lan) serve(ctx context.Context, n nodedoc.Network, card link.Link) {
	ctx, gone := context.WithCancel(ctx)
	defer gone()
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { l.watch(ctx, gone, card) })
	if n.DHCP {
		l.lease(ctx, n, card)
	} else {
		l.fixed(ctx, n, card)
	}
	<-ctx.Done() // an address that cannot be read is said, and stays
}

// watch notices when a card is gone.
func (l *Lan) watch(ctx context.Context, gone func(), card link.Link) {
	for pause(ctx, checkEvery) == nil {
		have, err := l.kernel.links()
		if err == nil && !slices.ContainsFunc(have, func(c link.Link) bool { return c.Index == card.Index && c.MAC == card.MAC }) {
			gone()
			return
		}
	}
}

// find waits for the card that a network means.
func (l *Lan) find(ctx context.Context, n nodedoc.Network) (link.Link, bool) {
	match := link.Match{MAC: n.Match.MAC, Driver: n.Match.Driver, AnyUp: n.Match.Link == "any-up"}
	for tries := 0; ; tries++ {
		card, err := l.take(match)
		if err == nil {
			return card, true
		}
		if tries >= int(3*time.Second/lookEvery) {
			l.Say("network "+n.Name, "waiting: "+err.Error())
		}
		if pause(ctx, lookEvery) != nil {
			return link.Link{}, false
		}
	}
}

func (l *Lan) take(match link.Match) (link.Link, error) {
	have, err := l.kernel.links()
	if err != nil {
		return link.Link{}, err
	}
	for _, c := range link.Candidates(match, have) {
		if !c.Up {
			if err := l.kernel.doLink(link.Step{Kind: link.SetUp, Index: c.Index, Name: c.Name}); err != nil {
				return link.Link{}, err
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	card, err := link.Choose(match, have, l.cards)
	if err == nil {
		l.cards[card.Index] = true
	}
	return card, err
}

func (l *Lan) release(index int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.cards, index)
}

func (l *Lan) fixed(ctx context.Context, n nodedoc.Network, card link.Link) {
	address, err := netip.ParsePrefix(n.Address)
	if err != nil {
		l.Say("network "+n.Name, fmt.Sprintf("address %q of the node document: %v", n.Address, err))
		return
	}
	var gateway netip.Addr
	if n.Gateway != "" {
		if gateway, err = netip.ParseAddr(n.Gateway); err != nil {
			l.Say("network "+n.Name, fmt.Sprintf("gateway %q of the node document: %v", n.Gateway, err))
			return
		}
	}
	l.hold(ctx, n, card, address, gateway, port{address: address, mtu: n.MTU})
}

// hold applies one address and looks from time to time that it is still there.
func (l *Lan) hold(ctx context.Context, n nodedoc.Network, card link.Link, address netip.Prefix, gateway netip.Addr, p port) {
	wait := firstTry
	for {
		err := l.apply(n, card, address, gateway, p.mtu)
		if err != nil {
			l.Say("network "+n.Name, fmt.Sprintf("%s: %v; trying again", card.Name, err))
		} else {
			wait = checkEvery
			l.set(n.Name, p)
		}
		if pause(ctx, wait) != nil {
			return
		}
	}
}

const firstTry = time.Second

func (l *Lan) lease(ctx context.Context, n nodedoc.Network, card link.Link) {
	leases := make(chan *dhcp.Lease, 1) // the newest only: an older one has no meaning
	newest := func(lease *dhcp.Lease) {
		select {
		case <-leases:
		default:
		}
		leases <- lease
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	l.mu.Lock()
	name := l.name
	l.mu.Unlock()
	asking.Go(func() {
		err := l.kernel.lease(ctx, dhcp.Config{
			Interface: card.Name, Hostname: name,
			Say:     func(line string) { l.Say("network "+n.Name, line) },
			Granted: func(lease dhcp.Lease) { newest(&lease) },
			Lost:    func() { newest(nil) },
		})
		if err != nil && ctx.Err() == nil {
			l.Log.Error("dhcp ended", "network", n.Name, "error", err)
		}
	})
	stop := func() {}
	var holding sync.WaitGroup
	defer func() { stop(); holding.Wait() }()
	for {
		select {
		case <-ctx.Done():
			return
		case lease := <-leases:
			stop()
			holding.Wait()
			if lease == nil {
				l.lose(n.Name)
				continue
			}
			sub, cancel := context.WithCancel(ctx)
			stop = cancel
			holding.Go(func() { l.hold(sub, n, card, lease.Address, gatewayOf(n, lease), portOf(n, lease)) })
		}
	}
}

func gatewayOf(n nodedoc.Network, lease *dhcp.Lease) netip.Addr {
	if g, err := netip.ParseAddr(n.Gateway); err == nil {
		return g
	}
	return lease.Gateway
}

func portOf(n nodedoc.Network, lease *dhcp.Lease) port {
	p := port{address: lease.Address, dns: lease.DNS, ntp: lease.NTP, domain: lease.Domain, mtu: lease.MTU}
	if n.MTU != 0 {
		p.mtu = n.MTU
	}
	return p
}

func (l *Lan) apply(n nodedoc.Network, card link.Link, address netip.Prefix, gateway netip.Addr, mtu int) error {
	have, err := l.kernel.links()
	if err != nil {
		return err
	}
	steps, err := link.Plan(link.Want{Index: card.Index, Address: address, MTU: mtu}, have)
	if err != nil {
		return err
	}
	for _, s := range steps {
		l.Log.Info("network step", "network", n.Name, "step", s.String())
		err := l.kernel.doLink(s)
		if err != nil && s.Kind == link.SetMTU {
			// A server or a document that asks for more than the card can is no reason to
			// be without an address.
			l.Say("network "+n.Name+" MTU", fmt.Sprintf("%v; it stays as it is", err))
			continue
		}
		if err != nil {
			return err
		}
	}
	routes, err := l.kernel.routes()
	if err != nil {
		return err
	}
	for _, s := range route.Plan(route.Route{Link: card.Index, Gateway: gateway, Metric: l.metric(n.Name)}, routes) {
		l.Log.Info("network step", "network", n.Name, "step", s.String())
		if err := l.kernel.doRoute(s); err != nil {
			return err
		}
	}
	return nil
}

// metric lets the document's first network win over later ones.
func (l *Lan) metric(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return 100 + slices.IndexFunc(l.want, func(n nodedoc.Network) bool { return n.Name == name })
}

func (l *Lan) lose(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.ports, name)
	l.tell()
}

func (l *Lan) set(name string, p port) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports[name] = p
	l.tell()
}

// tell hands on what changed and keeps resolv.conf; the lock is held.
func (l *Lan) tell() {
	s := Merge(l.want, l.ports)
	s.MTU = l.leastMTU(s)
	if slices.Equal(s.Addresses, l.last.Addresses) && slices.Equal(s.DNS, l.last.DNS) && slices.Equal(s.NTP, l.last.NTP) && s.Domain == l.last.Domain && s.MTU == l.last.MTU {
		return
	}
	if err := writeResolver(l.Resolver, s); err != nil {
		l.Log.Error("resolver file not written", "error", err)
	}
	l.last = s
	l.Changed(s)
}

func (l *Lan) leastMTU(s State) int {
	have, err := l.kernel.links()
	if err != nil {
		return s.MTU
	}
	least := 0
	for _, c := range have {
		for _, a := range s.Addresses {
			if slices.Contains(c.Addresses, a) && (least == 0 || c.MTU < least) {
				least = c.MTU
			}
		}
	}
	return least
}

// Merge joins what the networks have, in the document's order.
func Merge(want []nodedoc.Network, ports map[string]port) State {
	var s State
	add := func(list []string, more ...string) []string {
		for _, m := range more {
			if !slices.Contains(list, m) {
				list = append(list, m)
			}
		}
		return list
	}
	for _, n := range want {
		p, ok := ports[n.Name]
		if !ok {
			continue
		}
		s.Addresses = append(s.Addresses, p.address)
		s.DNS = add(s.DNS, n.DNS...)
		if len(n.DNS) == 0 {
			s.DNS = add(s.DNS, texts(p.dns)...)
		}
		s.NTP = add(s.NTP, texts(p.ntp)...)
		if s.Domain == "" {
			s.Domain = p.domain
		}
	}
	return s
}

func texts(list []netip.Addr) []string {
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

const maxNameServers = 3 // what resolvers read of the file

func writeResolver(path string, s State) error {
	var b strings.Builder
	if s.Domain != "" && !strings.ContainsAny(s.Domain, " \t\r\n") {
		fmt.Fprintf(&b, "search %s\n", s.Domain)
	}
	for _, d := range s.DNS[:min(len(s.DNS), maxNameServers)] {
		fmt.Fprintf(&b, "nameserver %s\n", d)
	}
	next := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(next, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
