package lan

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/containers/gvisor-tap-vsock/pkg/services/forwarder"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// maxHalfOpen bounds connections through the gateway that are not yet established.
const maxHalfOpen = 256

// forwardBeyond takes what guests send to addresses outside the LAN: with NAT the host
// sends it on, without it TCP is refused at once and UDP vanishes.
func (g *gateway) forwardBeyond() {
	conns := tcp.NewForwarder(g.stack, 0, maxHalfOpen, g.forwardTCP)
	g.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, conns.HandlePacket)
	var nat sync.Mutex
	packets := forwarder.UDP(g.stack, map[tcpip.Address]tcpip.Address{}, &nat, false)
	g.stack.SetTransportProtocolHandler(udp.ProtocolNumber, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		if !g.lan.cfg.NAT || !g.beyond(id.LocalAddress) {
			return true // taken, and dropped
		}
		return packets.HandlePacket(id, pkt)
	})
}

// beyond reports whether an address is one that NAT is for: not the LAN's, not loopback
// and link-local ones (on which hosts keep what is meant for themselves), and nobody's
// broadcast.
func (g *gateway) beyond(a tcpip.Address) bool {
	ip, ok := netip.AddrFromSlice(a.AsSlice())
	return ok && !g.lan.cfg.Subnet.Contains(ip) && ip.IsGlobalUnicast()
}

func (g *gateway) forwardTCP(r *tcp.ForwarderRequest) {
	id := r.ID()
	if !g.lan.cfg.NAT || !g.beyond(id.LocalAddress) {
		r.Complete(true)
		return
	}
	to := net.JoinHostPort(id.LocalAddress.String(), portText(id.LocalPort))
	ctx, cancel := context.WithTimeout(g.lan.ctx, 15*time.Second)
	defer cancel()
	out, err := g.lan.cfg.dial(ctx, "tcp", to)
	if err != nil {
		r.Complete(true)
		return
	}
	var wq waiter.Queue
	ep, terr := r.CreateEndpoint(&wq)
	r.Complete(terr != nil)
	if terr != nil {
		out.Close()
		return
	}
	g.lan.splice(gonet.NewTCPConn(&wq, ep), out)
}

type closeWriter interface{ CloseWrite() error }

// splice carries bytes both ways until both directions have ended, or the LAN closes.
func (l *LAN) splice(a, b net.Conn) {
	stop := context.AfterFunc(l.ctx, func() {
		a.Close()
		b.Close()
	})
	defer stop()
	defer a.Close()
	defer b.Close()
	var wg sync.WaitGroup
	carry := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		if half, ok := to.(closeWriter); ok && err == nil {
			_ = half.CloseWrite()
			return
		}
		a.Close()
		b.Close()
	}
	wg.Go(func() { carry(a, b) })
	wg.Go(func() { carry(b, a) })
	wg.Wait()
}
