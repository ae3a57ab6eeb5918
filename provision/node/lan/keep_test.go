package lan

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/net/dhcp"
	"github.com/mesolith/mesolith/net/link"
	"github.com/mesolith/mesolith/net/route"
)

// bus is a machine whose cards come and go.
type bus struct {
	mu     sync.Mutex
	cards  []link.Link
	route  []route.Route
	maxMTU int
	lease  *dhcp.Lease
	leased []string // cards that asked
}

func (b *bus) kernel() kernel {
	return kernel{
		links: func() ([]link.Link, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			out := slices.Clone(b.cards)
			for i := range out {
				out[i].Addresses = slices.Clone(out[i].Addresses)
			}
			return out, nil
		},
		doLink: b.doLink,
		routes: func() ([]route.Route, error) { return nil, nil },
		doRoute: func(s route.Step) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.route = append(b.route, s.Route)
			return nil
		},
		lease: func(ctx context.Context, cfg dhcp.Config) error {
			b.mu.Lock()
			b.leased = append(b.leased, cfg.Interface)
			lease := b.lease
			b.mu.Unlock()
			if lease != nil {
				cfg.Granted(*lease)
			}
			<-ctx.Done()
			return ctx.Err()
		},
	}
}

func (b *bus) doLink(s link.Step) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.cards, func(c link.Link) bool { return c.Index == s.Index })
	if i < 0 {
		return errors.New("no such device")
	}
	c := &b.cards[i]
	switch s.Kind {
	case link.SetUp:
		c.Up, c.Carrier = true, true
	case link.SetMTU:
		if s.MTU > b.maxMTU {
			return errors.New("mtu greater than device maximum")
		}
		c.MTU = s.MTU
	case link.AddAddress:
		c.Addresses = append(c.Addresses, s.Address)
	case link.RemoveAddress:
		c.Addresses = slices.DeleteFunc(c.Addresses, func(a netip.Prefix) bool { return a == s.Address })
	}
	return nil
}

func (b *bus) plug(index int, name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cards = []link.Link{{Index: index, Name: name, MAC: "52:54:00:00:00:01", Physical: true, MTU: 1500}}
}

func (b *bus) pull() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cards = nil
}

// told is what the Lan said and reported.
type told struct {
	mu     sync.Mutex
	lines  []string
	states []State
}

func (s *told) last() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.states) == 0 {
		return State{}
	}
	return s.states[len(s.states)-1]
}

func (s *told) says(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.lines, func(l string) bool { return strings.Contains(l, text) })
}

// start runs a Lan in the bubble until the test ends.
func start(t *testing.T, b *bus, networks ...nodedoc.Network) *told {
	t.Helper()
	out := &told{}
	l := &Lan{
		kernel: b.kernel(), Resolver: filepath.Join(t.TempDir(), "resolv.conf"), Log: slog.New(slog.DiscardHandler),
		Say: func(subject, line string) {
			out.mu.Lock()
			defer out.mu.Unlock()
			out.lines = append(out.lines, subject+": "+line)
		},
		Changed: func(s State) {
			out.mu.Lock()
			defer out.mu.Unlock()
			out.states = append(out.states, s)
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	wants := make(chan []nodedoc.Network, 1)
	wants <- networks
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx, wants) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return out
}

var fixed = nodedoc.Network{Name: "lan", Match: nodedoc.Match{MAC: "52:54:00:00:00:01"}, Address: "10.7.0.11/24", Gateway: "10.7.0.1"}

// A card that goes and comes back as another device gets its address again.
func TestACardComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bus{}
		s := start(t, b, fixed)
		time.Sleep(5 * time.Second)
		if !s.says("network lan: waiting: no card with mac 52:54:00:00:00:01 among none at all") {
			t.Errorf("said %q", s.lines)
		}
		for i, name := range []string{"eth0", "eth1"} {
			b.plug(i+2, name)
			time.Sleep(5 * time.Second)
			if got := s.last(); len(got.Addresses) != 1 || got.Addresses[0].String() != "10.7.0.11/24" {
				t.Fatalf("state %+v on %s", got, name)
			}
			b.pull()
			time.Sleep(checkEvery + time.Second)
			if got := s.last(); len(got.Addresses) != 0 || !s.says(name+" is gone; waiting for a card") {
				t.Fatalf("state %+v without %s, said %q", got, name, s.lines)
			}
		}
	})
}

// Ten minutes without any card are said in one line, and leave nothing behind.
func TestTenMinutesWithoutACard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bus{}
		s := start(t, b, fixed)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		before := runtime.NumGoroutine()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := runtime.NumGoroutine(); n > before {
			t.Errorf("%d goroutines, %d ten minutes before", n, before)
		}
		said := map[string]int{} // the console says each but once
		s.mu.Lock()
		for _, line := range s.lines {
			said[line]++
		}
		s.mu.Unlock()
		if len(said) != 1 {
			t.Errorf("said %v", said)
		}
		b.plug(2, "eth0")
		time.Sleep(time.Second)
		if got := s.last(); len(got.Addresses) != 1 {
			t.Errorf("state %+v", got)
		}
	})
}

// The same with a lease: the new device asks for one of its own.
func TestALeasedCardComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bus{lease: &dhcp.Lease{Address: netip.MustParsePrefix("10.7.0.50/24"), Gateway: netip.MustParseAddr("10.7.0.1")}}
		s := start(t, b, nodedoc.Network{Name: "lan", Match: nodedoc.Match{Link: "any-up"}, DHCP: true})
		for i, name := range []string{"eth0", "eth1"} {
			b.plug(i+2, name)
			time.Sleep(5 * time.Second)
			if got := s.last(); len(got.Addresses) != 1 {
				t.Fatalf("state %+v on %s", got, name)
			}
			b.pull()
			time.Sleep(checkEvery + time.Second)
		}
		if got := s.last(); len(got.Addresses) != 0 || !slices.Equal(b.leased, []string{"eth0", "eth1"}) {
			t.Errorf("state %+v, asked on %q", got, b.leased)
		}
	})
}

// A server that names an MTU beyond the card's costs the MTU, not the address.
func TestAnMTUThatTheCardRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bus{maxMTU: 1500, lease: &dhcp.Lease{Address: netip.MustParsePrefix("10.7.0.50/24"), Gateway: netip.MustParseAddr("10.7.0.1"), MTU: 65000}}
		b.plug(2, "eth0")
		s := start(t, b, nodedoc.Network{Name: "lan", Match: nodedoc.Match{Link: "any-up"}, DHCP: true})
		time.Sleep(5 * time.Second)
		if got := s.last(); len(got.Addresses) != 1 || got.MTU != 1500 || len(b.route) == 0 {
			t.Errorf("state %+v, routes %v", got, b.route)
		}
		if !s.says("mtu greater than device maximum; it stays as it is") {
			t.Errorf("said %q", s.lines)
		}
	})
}
