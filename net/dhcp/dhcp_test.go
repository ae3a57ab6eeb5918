package dhcp

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func ack(t testing.TB, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	p, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP(net.IPv4(10, 7, 0, 50)),
		dhcpv4.WithServerIP(net.IPv4(10, 7, 0, 1)),
	}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRead(t *testing.T) {
	l, err := read(ack(t,
		dhcpv4.WithNetmask(net.CIDRMask(16, 32)), dhcpv4.WithRouter(net.IPv4(10, 7, 0, 1)), dhcpv4.WithDNS(net.IPv4(10, 7, 0, 2)),
		dhcpv4.WithLeaseTime(7200), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 7, 0, 1))),
		dhcpv4.WithOption(dhcpv4.OptNTPServers(net.IPv4(10, 7, 0, 3))), dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x23, 0x28})))
	if err != nil {
		t.Fatal(err)
	}
	if l.Address != netip.MustParsePrefix("10.7.0.50/16") || l.Gateway != netip.MustParseAddr("10.7.0.1") || l.MTU != 9000 ||
		len(l.DNS) != 1 || len(l.NTP) != 1 || l.Duration != 2*time.Hour || l.Server != netip.MustParseAddr("10.7.0.1") {
		t.Errorf("lease %+v", l)
	}
	// A server that says little gets sane values; one that grants nonsense is refused.
	if l, err := read(ack(t, dhcpv4.WithLeaseTime(1))); err != nil || l.Address.Bits() != 8 || l.Duration != leastLease {
		t.Errorf("lease %+v: %v", l, err)
	}
	for _, bad := range []net.IP{net.IPv4zero, net.IPv4(127, 0, 0, 1), net.IPv4(224, 0, 0, 1)} {
		if l, err := read(ack(t, dhcpv4.WithYourIP(bad))); err == nil {
			t.Errorf("%s was taken: %+v", bad, l)
		}
	}
}

// FuzzRead feeds whole packets of servers.
func FuzzRead(f *testing.F) {
	f.Add(ack(f, dhcpv4.WithLeaseTime(60)).ToBytes())
	f.Add(ack(f, dhcpv4.WithNetmask(net.CIDRMask(24, 32))).ToBytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := dhcpv4.FromBytes(raw)
		if err != nil {
			return
		}
		l, err := read(p)
		if err == nil && (!l.Address.IsValid() || l.Duration < leastLease || l.Duration > longestLease || len(l.DNS) > maxAddresses) {
			t.Errorf("taken: %+v", l)
		}
	})
}
