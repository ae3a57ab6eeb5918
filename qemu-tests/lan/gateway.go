package lan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// nicID is the only network card of the gateway's stack.
const nicID tcpip.NICID = 1

// gateway is the TCP/IP stack that has the LAN's first address.
type gateway struct {
	lan   *LAN
	stack *stack.Stack
	link  *channel.Endpoint
	port  *port
	once  sync.Once
}

// gatewayMAC is locally administered and derived from the address, so that two LANs that
// a test joins do not collide.
func gatewayMAC(a netip.Addr) tcpip.LinkAddress {
	b := a.As4()
	return tcpip.LinkAddress([]byte{0x52, 0x55, b[0], b[1], b[2], b[3]})
}

// startGateway gives the LAN its gateway; LAN.Close ends it, also after an error.
func startGateway(l *LAN) error {
	addr := l.Gateway()
	g := &gateway{
		lan: l,
		stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
		}),
		link: channel.New(queueFrames, mtu+headerLen, gatewayMAC(addr)),
	}
	g.link.LinkEPCapabilities = stack.CapabilityRXChecksumOffload
	if err := g.configure(addr); err != nil {
		g.stack.Destroy()
		return fmt.Errorf("gateway %s of the LAN: %w", addr, err)
	}
	p, err := l.Switch.join(GatewayPort)
	if err != nil {
		g.stack.Destroy()
		return err
	}
	g.port = p
	l.gateway = g
	l.wg.Go(g.toSwitch)
	l.wg.Go(g.fromSwitch)
	if err := g.serveNames(); err != nil {
		return fmt.Errorf("DNS of the LAN: %w", err)
	}
	if !l.cfg.NoDHCP {
		if err := g.serveLeases(); err != nil {
			return fmt.Errorf("DHCP of the LAN: %w", err)
		}
	}
	return nil
}

func (g *gateway) configure(addr netip.Addr) error {
	if err := g.stack.CreateNIC(nicID, ethernet.New(g.link)); err != nil {
		return errors.New(err.String())
	}
	b := addr.As4()
	at := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(b), PrefixLen: g.lan.cfg.Subnet.Bits()},
	}
	if err := g.stack.AddProtocolAddress(nicID, at, stack.AddressProperties{}); err != nil {
		return errors.New(err.String())
	}
	// Connections to addresses beyond the LAN arrive here too: they are passed on or
	// refused, but never left without an answer.
	g.stack.SetSpoofing(nicID, true)
	g.stack.SetPromiscuousMode(nicID, true)
	g.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}})
	g.forwardBeyond()
	return nil
}

// toSwitch carries what the stack sends.
func (g *gateway) toSwitch() {
	for {
		pkt := g.link.ReadContext(g.lan.ctx)
		if pkt == nil {
			return
		}
		frame := append([]byte(nil), pkt.ToView().AsSlice()...)
		pkt.DecRef()
		if g.claimsForeign(frame) {
			continue
		}
		g.lan.Switch.input(g.port, frame)
	}
}

// claimsForeign reports whether a frame is an ARP reply for an address that is not the
// gateway's: a promiscuous stack would answer for everybody.
func (g *gateway) claimsForeign(frame []byte) bool {
	eth := header.Ethernet(frame)
	if len(frame) < headerLen || eth.Type() != header.ARPProtocolNumber {
		return false
	}
	h := header.ARP(frame[headerLen:])
	if !h.IsValid() || h.Op() != header.ARPReply {
		return false
	}
	b := g.lan.Gateway().As4()
	return string(h.ProtocolAddressSender()) != string(b[:])
}

// fromSwitch carries what the LAN sends to the gateway or to everybody.
func (g *gateway) fromSwitch() {
	for {
		select {
		case <-g.lan.ctx.Done():
			return
		case frame := <-g.port.out:
			eth := header.Ethernet(frame)
			if dst := eth.DestinationAddress(); dst != g.link.LinkAddress() && frame[0]&1 == 0 {
				continue
			}
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
			g.link.InjectInbound(eth.Type(), pkt)
			pkt.DecRef()
		}
	}
}

// close ends the stack; its sockets return errors from then on.
func (g *gateway) close() {
	g.once.Do(func() {
		g.lan.Switch.leave(g.port)
		g.stack.Destroy()
	})
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	b := a.Addr().As4()
	return tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom4(b), Port: a.Port()}
}

// Dial connects to a TCP port on the LAN: host:port, the host an address or a name that
// the LAN's DNS knows.
func (l *LAN) Dial(ctx context.Context, address string) (net.Conn, error) {
	to, err := l.resolve(address)
	if err != nil {
		return nil, fmt.Errorf("dial %s on the LAN: %w", address, err)
	}
	b := l.Gateway().As4()
	from := tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom4(b)}
	conn, err := gonet.DialTCPWithBind(ctx, l.gateway.stack, from, fullAddress(to), ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("dial %s on the LAN: %w", address, err)
	}
	return conn, nil
}

// Listen opens a TCP port of the gateway to the LAN.
func (l *LAN) Listen(port uint16) (net.Listener, error) {
	ln, err := gonet.ListenTCP(l.gateway.stack, fullAddress(netip.AddrPortFrom(l.Gateway(), port)), ipv4.ProtocolNumber)
	if err != nil {
		return nil, fmt.Errorf("listen on %s:%d of the LAN: %w", l.Gateway(), port, err)
	}
	return ln, nil
}

func (l *LAN) resolve(address string) (netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port %q is not a number up to 65535", portText)
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		found := false
		if addr, found = l.lookup(host); !found {
			return netip.AddrPort{}, fmt.Errorf("no host %q on this LAN", host)
		}
	}
	if !addr.Is4() {
		return netip.AddrPort{}, fmt.Errorf("%s is not an IPv4 address", addr)
	}
	return netip.AddrPortFrom(addr, uint16(port)), nil
}
