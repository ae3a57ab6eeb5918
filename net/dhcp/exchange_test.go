package dhcp

import (
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestExchange talks to a real server over a real card of a namespace: an address is
// granted, renewed by its server, and prolonged by whoever answers.
func TestExchange(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a network namespace of its own needs root")
	}
	runtime.LockOSThread() // the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		t.Skipf("a network namespace of its own: %v", err)
	}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "card0"}, PeerName: "card1"}); err != nil {
		t.Skipf("no virtual card in this kernel: %v", err)
	}
	for name, address := range map[string]string{"card0": "", "card1": "10.7.0.1/24"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if address != "" {
			a, err := netlink.ParseAddr(address)
			if err != nil {
				t.Fatal(err)
			}
			if err := netlink.AddrAdd(l, a); err != nil {
				t.Fatal(err)
			}
		}
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	var names []string
	server, err := server4.NewServer("card1", &net.UDPAddr{IP: net.IPv4zero, Port: 67}, func(conn net.PacketConn, _ net.Addr, m *dhcpv4.DHCPv4) {
		kind := dhcpv4.MessageTypeAck
		if m.MessageType() == dhcpv4.MessageTypeDiscover {
			kind = dhcpv4.MessageTypeOffer
		}
		mu.Lock()
		names = append(names, m.HostName())
		mu.Unlock()
		answer, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.IPv4(10, 7, 0, 50)),
			dhcpv4.WithLeaseTime(3600), dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 7, 0, 1))))
		if err == nil {
			_, _ = conn.WriteTo(answer.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 68}) // a lost one is asked for again
		}
	}, server4.WithLogger(server4.ShortSummaryLogger{Printfer: log.New(io.Discard, "", 0)}))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve() }()
	defer func() {
		_ = server.Close()
		<-ended
	}()

	card := lan{Config{Interface: "card0", Hostname: "n1"}}
	granted, err := card.discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := card.renew(t.Context(), granted, false)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := ack(t, dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 7, 0, 9))))
	prolonged, err := card.renew(t.Context(), &nclient4.Lease{Offer: elsewhere, ACK: granted.ACK}, true)
	if err != nil {
		t.Fatal(err)
	}
	for what, raw := range map[string]*nclient4.Lease{"granted": granted, "renewed": renewed, "prolonged": prolonged} {
		if l, err := read(raw.ACK); err != nil || l.Address != netip.MustParsePrefix("10.7.0.50/24") || l.Server != netip.MustParseAddr("10.7.0.1") {
			t.Errorf("%s: %+v, %v", what, l, err)
		}
	}
	if !prolonged.Offer.ServerIdentifier().Equal(net.IPv4(10, 7, 0, 1)) {
		t.Errorf("the next renewal would ask %s", prolonged.Offer.ServerIdentifier())
	}
	mu.Lock()
	defer mu.Unlock()
	for _, n := range names {
		if n != "n1" {
			t.Errorf("the server heard of %q", n)
		}
	}
}
