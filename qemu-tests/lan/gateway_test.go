package lan

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// guest is a machine with a TCP/IP stack on the LAN, in this process.
type guest struct {
	*stack.Stack
	addr netip.Addr
}

func boot(t *testing.T, n *nic, addr string) *guest {
	t.Helper()
	link := channel.New(512, mtu+headerLen, tcpip.LinkAddress(n.mac[:]))
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	if err := s.CreateNIC(nicID, ethernet.New(link)); err != nil {
		t.Fatal(err)
	}
	g := &guest{Stack: s, addr: netip.MustParseAddr(addr)}
	at := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(g.addr.As4()), PrefixLen: 24},
	}
	if err := s.AddProtocolAddress(nicID, at, stack.AddressProperties{}); err != nil {
		t.Fatal(err)
	}
	gw := netip.MustParseAddr("10.77.0.1")
	s.SetRouteTable([]tcpip.Route{
		{Destination: at.AddressWithPrefix.Subnet(), NIC: nicID},
		{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFrom4(gw.As4()), NIC: nicID},
	})
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() {
		for {
			pkt := link.ReadContext(ctx)
			if pkt == nil {
				return
			}
			_, _ = n.conn.Write(AppendFrame(nil, pkt.ToView().AsSlice()))
			pkt.DecRef()
		}
	}()
	go func() {
		r := bufio.NewReader(n.conn)
		for {
			frame, err := ReadFrame(r)
			if err != nil {
				return
			}
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
			link.InjectInbound(0, pkt)
			pkt.DecRef()
		}
	}()
	return g
}

func (g *guest) dial(t *testing.T, to string) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return gonet.DialContextTCP(ctx, g.Stack, fullAddress(netip.MustParseAddrPort(to)), ipv4.ProtocolNumber)
}

// serveHello answers HTTP on port 80 of the guest.
func (g *guest) serveHello(t *testing.T) {
	t.Helper()
	ln, err := gonet.ListenTCP(g.Stack, fullAddress(netip.AddrPortFrom(g.addr, 80)), ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello from the guest")
	})}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { server.Close() })
}

func get(t *testing.T, client *http.Client, at string) string {
	t.Helper()
	resp, err := client.Get(at)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func oneHost() []Host {
	return []Host{{Name: "n1", MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}, Address: netip.MustParseAddr("10.77.0.11")}}
}

func TestHostReachesGuestByDialForwardAndSocks(t *testing.T) {
	l := newLAN(t, Config{Hosts: oneHost()})
	boot(t, plug(t, l, "n1", 1), "10.77.0.11").serveHello(t)
	const want = "hello from the guest"

	dialing := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		return l.Dial(ctx, addr)
	}}}
	if got := get(t, dialing, "http://n1.lan/"); got != want {
		t.Errorf("by Dial: %q", got)
	}

	at, err := l.Forward("127.0.0.1:0", "n1:80")
	if err != nil {
		t.Fatal(err)
	}
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if got := get(t, plain, "http://"+at+"/"); got != want {
		t.Errorf("by Forward: %q", got)
	}

	proxy, err := l.Socks("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	through := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: http.ProxyURL(&url.URL{Scheme: "socks5", Host: proxy})}}
	for _, host := range []string{"n1.lan", "10.77.0.11"} {
		if got := get(t, through, "http://"+host+"/"); got != want {
			t.Errorf("by Socks to %s: %q", host, got)
		}
	}

	closed, err := l.Forward("127.0.0.1:0", "n1:81")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Get("http://" + closed + "/"); err == nil {
		t.Error("a forward to a closed port answered")
	}
}

func TestAForwardFollowsItsTarget(t *testing.T) {
	l := newLAN(t, Config{Hosts: oneHost()})
	g := boot(t, plug(t, l, "n1", 1), "10.77.0.11")
	g.serveHello(t)
	var target atomic.Value
	target.Store([]string(nil))
	at, err := l.ForwardFunc("127.0.0.1:0", func() []string { return target.Load().([]string) })
	if err != nil {
		t.Fatal(err)
	}
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if _, err := plain.Get("http://" + at + "/"); err == nil {
		t.Error("a forward to nothing answered")
	}
	target.Store([]string{"n1:80"})
	if got := get(t, plain, "http://"+at+"/"); got != "hello from the guest" {
		t.Errorf("after its target came: %q", got)
	}
}

func TestGuestReachesGatewayAndNothingBeyond(t *testing.T) {
	l := newLAN(t, Config{Hosts: oneHost()})
	g := boot(t, plug(t, l, "n1", 1), "10.77.0.11")
	ln, err := l.Listen(5000)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "registry")
			conn.Close()
		}
	}()
	conn, err := g.dial(t, "10.77.0.1:5000")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "registry" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := g.dial(t, "192.0.2.1:80"); err == nil {
		t.Error("a connection beyond the LAN was accepted without NAT")
	} else if errors.Is(err, context.DeadlineExceeded) {
		t.Error("a connection beyond the LAN was left without an answer")
	}
}

// With NAT a guest's connection to the world beyond is made by the host; what hosts keep
// for themselves stays out of reach.
func TestNATReachesTheWorldButNotTheHost(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	asked := make(chan string, 8)
	l := newLAN(t, Config{Hosts: oneHost(), NAT: true, dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		asked <- address
		return new(net.Dialer).DialContext(ctx, network, ln.Addr().String())
	}})
	g := boot(t, plug(t, l, "n1", 1), "10.77.0.11")
	conn, err := g.dial(t, "192.0.2.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	echo := make([]byte, 5)
	if _, err := io.ReadFull(conn, echo); err != nil || string(echo) != "hello" {
		t.Errorf("came back %q, %v", echo, err)
	}
	if at := <-asked; at != "192.0.2.1:80" {
		t.Errorf("the host was asked for %s", at)
	}
	for _, at := range []string{"169.254.169.254:80", "10.77.0.99:80"} {
		if _, err := g.dial(t, at); err == nil {
			t.Errorf("%s was reached", at)
		}
	}
	if len(asked) > 0 {
		t.Errorf("the host was asked for %s too", <-asked)
	}
}

func TestNamesOfTheLAN(t *testing.T) {
	l := newLAN(t, Config{Hosts: oneHost()})
	g := boot(t, plug(t, l, "n1", 1), "10.77.0.11")
	for _, c := range []struct {
		name, want string
		code       int
	}{
		{"n1.lan.", "10.77.0.11", dns.RcodeSuccess},
		{"registry.lan.", "10.77.0.1", dns.RcodeSuccess},
		{"elsewhere.example.", "", dns.RcodeNameError},
	} {
		conn, err := g.dial(t, "10.77.0.1:53")
		if err != nil {
			t.Fatal(err)
		}
		query := new(dns.Msg).SetQuestion(c.name, dns.TypeA)
		reply, _, err := new(dns.Client).ExchangeWithConn(query, &dns.Conn{Conn: conn})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, rr := range reply.Answer {
			got = rr.(*dns.A).A.String()
		}
		if got != c.want || reply.Rcode != c.code {
			t.Errorf("%s: %q, code %d; want %q, code %d", c.name, got, reply.Rcode, c.want, c.code)
		}
	}
}

func TestLeasesFollowTheMachine(t *testing.T) {
	for _, off := range []bool{false, true} {
		l := newLAN(t, Config{Hosts: oneHost(), NoDHCP: off})
		n := plug(t, l, "n1", 1)
		offer := discover(t, n, off)
		if off {
			if offer != nil {
				t.Errorf("an offer although DHCP is off: %s", offer.Summary())
			}
			continue
		}
		if got := offer.YourIPAddr.String(); got != "10.77.0.11" {
			t.Errorf("offered %s", got)
		}
		if got := offer.Router(); len(got) != 1 || got[0].String() != "10.77.0.1" {
			t.Errorf("router %v", got)
		}
	}
}

// discover broadcasts a DHCPDISCOVER as raw frames and waits for the offer. When none is
// expected, a request to the gateway's DNS afterwards shows that the LAN had its chance.
func discover(t *testing.T, n *nic, none bool) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.NewDiscovery(net.HardwareAddr(n.mac[:]), dhcpv4.WithBroadcast(true))
	if err != nil {
		t.Fatal(err)
	}
	payload := m.ToBytes()
	total := 20 + 8 + len(payload)
	frame := append(append(append([]byte{}, broadcast[:]...), n.mac[:]...), 0x08, 0x00)
	ip := header.IPv4(make([]byte, 20))
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(total), TTL: 64, Protocol: uint8(header.UDPProtocolNumber),
		SrcAddr: header.IPv4Any, DstAddr: header.IPv4Broadcast,
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	u := header.UDP(make([]byte, 8))
	u.Encode(&header.UDPFields{SrcPort: 68, DstPort: 67, Length: uint16(8 + len(payload))})
	frame = append(append(append(frame, ip...), u...), payload...)
	if _, err := n.conn.Write(AppendFrame(nil, frame)); err != nil {
		t.Fatal(err)
	}
	wait := 10 * time.Second
	if none {
		wait = 300 * time.Millisecond
	}
	if err := n.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := ReadFrame(n.conn)
		if err != nil {
			if none {
				return nil
			}
			t.Fatalf("no offer: %v", err)
		}
		if header.Ethernet(frame).Type() != header.IPv4ProtocolNumber || len(frame) < headerLen+28 {
			continue
		}
		if offer, err := dhcpv4.FromBytes(frame[headerLen+28:]); err == nil {
			return offer
		}
	}
}
