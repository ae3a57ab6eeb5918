// Package dhcp keeps one network card's lease: it asks until a server answers, hands the
// lease on, renews it at half of its life, asks anybody at seven eighths, and begins anew
// when it has run out or was refused.
//
// Invariant: it never gives up and is never silent: each change of what happens is told
// once through Config.Say, with what to look at when no server answers. A lease is handed
// on only when its address, mask and lifetime are sane.
//
// It sets nothing on the card (net/link and net/route do) and knows no IPv6.
package dhcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// Lease is what a server granted.
type Lease struct {
	Address  netip.Prefix
	Gateway  netip.Addr // invalid: none
	DNS, NTP []netip.Addr
	Domain   string
	MTU      int // 0: not said
	Server   netip.Addr
	Duration time.Duration
}

// Config says where to ask and whom to tell.
type Config struct {
	Interface string
	Hostname  string
	// Say tells people what happens, one line a change.
	Say func(line string)
	// Granted is called with each lease, also renewed ones; Lost when it has run out.
	Granted func(Lease)
	Lost    func()
}

// Bounds of one round of asking and of the pause between rounds.
const (
	answerTimeout = 2 * time.Second
	answerTries   = 3
	firstPause    = 500 * time.Millisecond
	longestPause  = 30 * time.Second
	leastLease    = 30 * time.Second
	longestLease  = 30 * 24 * time.Hour
)

// server is how a lease is asked for; a test has one of its own.
type server interface {
	// discover asks all servers for an address, once.
	discover(ctx context.Context) (*nclient4.Lease, error)
	// renew asks the lease's server to prolong it, or, with anybody, whoever answers.
	renew(ctx context.Context, lease *nclient4.Lease, anybody bool) (*nclient4.Lease, error)
}

// Run keeps the lease until ctx ends.
func Run(ctx context.Context, cfg Config) error { return run(ctx, cfg, lan{cfg}) }

func run(ctx context.Context, cfg Config, s server) error {
	pause := firstPause
	silent := false
	cfg.Say(fmt.Sprintf("%s: asking for an address (DHCP)", cfg.Interface))
	for ctx.Err() == nil {
		raw, err := s.discover(ctx)
		var ours Lease
		if err == nil {
			ours, err = read(raw.ACK)
		}
		if err == nil {
			pause, silent = firstPause, false
			cfg.Say(fmt.Sprintf("%s: %s from %s for %s", cfg.Interface, ours.Address, ours.Server, ours.Duration))
			cfg.Granted(ours)
			err = keep(ctx, cfg, s, raw, ours)
			if ctx.Err() != nil {
				break
			}
			cfg.Lost()
			cfg.Say(fmt.Sprintf("%s: lease of %s lost: %v; asking anew", cfg.Interface, ours.Address, err))
			continue
		}
		if ctx.Err() != nil {
			break
		}
		if !silent {
			silent = true
			cfg.Say(fmt.Sprintf("%s: no address yet: %v; asking on (is a DHCP server on this LAN? else give an address in the cluster file)", cfg.Interface, err))
		}
		wait(ctx, jitter(pause))
		pause = min(pause*2, longestPause)
	}
	return ctx.Err()
}

// keep renews until the lease is lost: from half of its life on it asks the server that
// granted it, from seven eighths on anybody.
func keep(ctx context.Context, cfg Config, s server, raw *nclient4.Lease, ours Lease) error {
	granted := time.Now()
	next := granted.Add(ours.Duration / 2)
	told := false
	for {
		if wait(ctx, time.Until(next)) != nil {
			return ctx.Err()
		}
		life := ours.Duration
		asked := time.Now() // a lease counts from when it was asked for
		fresh, err := s.renew(ctx, raw, asked.Sub(granted) >= life/8*7)
		var lease Lease
		if err == nil {
			if lease, err = read(fresh.ACK); err == nil {
				lease = prolonged(lease, ours, fresh.ACK)
			}
		}
		if err == nil {
			if lease.Address != ours.Address {
				cfg.Say(fmt.Sprintf("%s: address changed from %s to %s", cfg.Interface, ours.Address, lease.Address))
			} else if told {
				cfg.Say(fmt.Sprintf("%s: %s renewed by %s for %s", cfg.Interface, lease.Address, lease.Server, lease.Duration))
			}
			raw, granted, ours, told = fresh, asked, lease, false
			next = granted.Add(ours.Duration / 2)
			cfg.Granted(ours)
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var refused *nclient4.ErrNak
		if errors.As(err, &refused) {
			return errors.New("the server refused to renew it")
		}
		left := time.Until(granted.Add(life))
		if left <= 0 {
			return fmt.Errorf("it ran out after %s: %w", life, err)
		}
		if !told {
			told = true
			cfg.Say(fmt.Sprintf("%s: lease of %s is not renewed, %s are left: %v; asking on (is the DHCP server there?)", cfg.Interface, ours.Address, left.Round(time.Second), err))
		}
		next = time.Now().Add(max(min(left/2, longestPause*2), time.Second))
	}
}

// prolonged keeps what a server did not say again: some answer a renewal with the
// lease's time only.
func prolonged(lease, before Lease, ack *dhcpv4.DHCPv4) Lease {
	if lease.Address.Addr() != before.Address.Addr() {
		return lease
	}
	if ack.SubnetMask() == nil {
		lease.Address = before.Address
	}
	if !lease.Gateway.IsValid() {
		lease.Gateway = before.Gateway
	}
	if len(lease.DNS) == 0 {
		lease.DNS = before.DNS
	}
	if len(lease.NTP) == 0 {
		lease.NTP = before.NTP
	}
	lease.Domain, lease.MTU = cmp.Or(lease.Domain, before.Domain), cmp.Or(lease.MTU, before.MTU)
	return lease
}

// lan asks the servers of a card's LAN.
type lan struct{ cfg Config }

func (l lan) open() (*nclient4.Client, error) {
	c, err := nclient4.New(l.cfg.Interface, nclient4.WithTimeout(answerTimeout), nclient4.WithRetry(answerTries))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", l.cfg.Interface, err)
	}
	return c, nil
}

func (l lan) discover(ctx context.Context) (*nclient4.Lease, error) {
	c, err := l.open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Request(ctx, modifiers(l.cfg)...)
}

func (l lan) renew(ctx context.Context, lease *nclient4.Lease, anybody bool) (*nclient4.Lease, error) {
	c, err := l.open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if !anybody {
		return c.Renew(ctx, lease, modifiers(l.cfg)...)
	}
	request, err := dhcpv4.NewRenewFromAck(lease.ACK, modifiers(l.cfg)...)
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	answer, err := c.SendAndRead(ctx, c.RemoteAddr(), request, nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak))
	if err != nil {
		return nil, err
	}
	if answer.MessageType() == dhcpv4.MessageTypeNak {
		return nil, &nclient4.ErrNak{Offer: lease.Offer, Nak: answer}
	}
	// The next renewal asks who answered now.
	return &nclient4.Lease{Offer: answer, ACK: answer, CreationTime: time.Now()}, nil
}

func modifiers(cfg Config) []dhcpv4.Modifier {
	out := []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(
		dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName,
		dhcpv4.OptionNTPServers, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionIPAddressLeaseTime)}
	if cfg.Hostname != "" {
		out = append(out, dhcpv4.WithOption(dhcpv4.OptHostName(cfg.Hostname)))
	}
	return out
}

// read takes what matters out of a server's answer and refuses what makes no sense.
func read(ack *dhcpv4.DHCPv4) (Lease, error) {
	addr, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() {
		return Lease{}, fmt.Errorf("server %s granted %s, which is no address", ack.ServerIdentifier(), ack.YourIPAddr)
	}
	ones := 0
	if mask := ack.SubnetMask(); mask != nil {
		ones, _ = mask.Size()
	}
	if ones < 1 || ones > 32 {
		ones, _ = net.IP(addr.AsSlice()).DefaultMask().Size()
		if ones == 0 {
			ones = 24
		}
	}
	l := Lease{
		Address: netip.PrefixFrom(addr, ones), DNS: addresses(ack.DNS()), NTP: addresses(ack.NTPServers()),
		Domain: ack.DomainName(), Duration: min(max(ack.IPAddressLeaseTime(time.Hour), leastLease), longestLease),
	}
	if routers := addresses(ack.Router()); len(routers) > 0 {
		l.Gateway = routers[0]
	}
	if servers := addresses([]net.IP{ack.ServerIdentifier()}); len(servers) > 0 {
		l.Server = servers[0]
	}
	if raw := ack.Options.Get(dhcpv4.OptionInterfaceMTU); len(raw) == 2 {
		if mtu := int(raw[0])<<8 | int(raw[1]); mtu >= 576 {
			l.MTU = mtu
		}
	}
	return l, nil
}

const maxAddresses = 8 // of one kind that are taken from a server

func addresses(list []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range list {
		if a, ok := netip.AddrFromSlice(ip.To4()); ok && !a.IsUnspecified() && len(out) < maxAddresses {
			out = append(out, a)
		}
	}
	return out
}

func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(max(d, 0))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
