package dhcp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// servers are those of a LAN, as a script: what is asked when, and what is answered.
type servers struct {
	t       *testing.T
	began   time.Time
	asked   []string // "discover", "renew 1h0m0s", "anybody 1h45m0s"
	answer  func(anybody bool) ([]dhcpv4.Modifier, error)
	silent  time.Duration // nobody is there before
	granted []Lease
	lost    []time.Duration
	said    []string
}

var errSilent = errors.New("no answer")

const twoHours = 7200

func (s *servers) discover(ctx context.Context) (*nclient4.Lease, error) {
	s.asked = append(s.asked, "discover")
	if time.Since(s.began) < s.silent {
		return nil, errSilent
	}
	a := ack(s.t, dhcpv4.WithLeaseTime(twoHours), dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(net.IPv4(10, 7, 0, 1)),
		dhcpv4.WithDNS(net.IPv4(10, 7, 0, 2)), dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x05, 0x78}))
	return &nclient4.Lease{Offer: a, ACK: a}, ctx.Err()
}

func (s *servers) renew(ctx context.Context, lease *nclient4.Lease, anybody bool) (*nclient4.Lease, error) {
	who := "renew "
	if anybody {
		who = "anybody "
	}
	s.asked = append(s.asked, who+time.Since(s.began).String())
	mods, err := s.answer(anybody)
	if err != nil {
		return nil, err
	}
	a := ack(s.t, mods...)
	return &nclient4.Lease{Offer: lease.Offer, ACK: a}, ctx.Err()
}

// live runs a card's lease for so long.
func live(t *testing.T, how long, answer func(anybody bool) ([]dhcpv4.Modifier, error)) *servers {
	s := &servers{t: t, began: time.Now(), answer: answer}
	s.live(how)
	return s
}

func (s *servers) live(how long) {
	t := s.t
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(how))
	defer cancel()
	err := run(ctx, Config{
		Interface: "eth0", Say: func(line string) { s.said = append(s.said, line) },
		Granted: func(l Lease) { s.granted = append(s.granted, l) },
		Lost:    func() { s.lost = append(s.lost, time.Since(s.began)) },
	}, s)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended with %v", err)
	}
}

type long time.Duration

// At half of its life a lease is renewed; a server that says nothing but the time again
// changes nothing.
func TestRenewedAtHalfOfItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := live(t, long(150*time.Minute), func(bool) ([]dhcpv4.Modifier, error) {
			return []dhcpv4.Modifier{dhcpv4.WithLeaseTime(twoHours)}, nil
		})
		if want := []string{"discover", "renew 1h0m0s", "renew 2h0m0s"}; !slices.Equal(s.asked, want) {
			t.Errorf("asked %q, want %q", s.asked, want)
		}
		if len(s.granted) != 3 || len(s.lost) != 0 {
			t.Fatalf("granted %d, lost %v", len(s.granted), s.lost)
		}
		for _, l := range s.granted {
			if l.Address != netip.MustParsePrefix("10.7.0.50/24") || l.Gateway != netip.MustParseAddr("10.7.0.1") || len(l.DNS) != 1 || l.MTU != 1400 {
				t.Errorf("lease %+v", l)
			}
		}
		if len(s.said) != 2 { // that it asks, and what it got
			t.Errorf("said %q", s.said)
		}
	})
}

// Its server is gone: from seven eighths on anybody is asked, and another one prolongs.
func TestAnotherServerProlongs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := live(t, long(110*time.Minute), func(anybody bool) ([]dhcpv4.Modifier, error) {
			if !anybody {
				return nil, errSilent
			}
			return []dhcpv4.Modifier{dhcpv4.WithLeaseTime(twoHours), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 7, 0, 9)))}, nil
		})
		last := s.asked[len(s.asked)-1]
		if !strings.HasPrefix(last, "anybody 1h45m") || len(s.lost) != 0 || len(s.granted) != 2 || s.granted[1].Server != netip.MustParseAddr("10.7.0.9") {
			t.Errorf("asked %q, granted %+v, lost %v", s.asked, s.granted, s.lost)
		}
		for _, a := range s.asked[1 : len(s.asked)-1] {
			if !strings.HasPrefix(a, "renew ") {
				t.Errorf("%q came before seven eighths", a)
			}
		}
		var warned int
		for _, line := range s.said {
			if strings.Contains(line, "is not renewed, 1h0m0s are left: no answer; asking on (is the DHCP server there?)") {
				warned++
			}
		}
		if warned != 1 {
			t.Errorf("said %q", s.said)
		}
	})
}

// Nobody answers: the lease runs out when its time is over, not before, and is asked for
// anew.
func TestRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := live(t, long(121*time.Minute), func(bool) ([]dhcpv4.Modifier, error) { return nil, errSilent })
		if len(s.lost) != 1 || s.lost[0] < 2*time.Hour || s.lost[0] > 2*time.Hour+2*time.Second {
			t.Errorf("lost after %v", s.lost)
		}
		if s.asked[len(s.asked)-1] != "discover" || len(s.asked) > 200 {
			t.Errorf("asked %d times, last %q", len(s.asked), s.asked[len(s.asked)-1])
		}
	})
}

// Ten minutes without a network: it is asked for again and again, more and more seldom,
// said once, and granted soon after there is one.
func TestNobodyForTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &servers{t: t, began: time.Now(), silent: 10 * time.Minute}
		s.live(long(11 * time.Minute))
		// Half a second, doubled up to half a minute, each with its jitter.
		if n := len(s.asked); n < 15 || n > 60 {
			t.Errorf("asked %d times", n)
		}
		if len(s.granted) != 1 || len(s.lost) != 0 || len(s.said) != 3 {
			t.Errorf("granted %d, lost %v, said %q", len(s.granted), s.lost, s.said)
		}
		t.Logf("asked %d times in ten minutes", len(s.asked))
	})
}

func TestRefusedIsLostAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := live(t, long(61*time.Minute), func(bool) ([]dhcpv4.Modifier, error) { return nil, &nclient4.ErrNak{} })
		if len(s.lost) != 1 || s.lost[0] != time.Hour || !slices.Equal(s.asked, []string{"discover", "renew 1h0m0s", "discover"}) {
			t.Errorf("asked %q, lost %v", s.asked, s.lost)
		}
	})
}
