package lan

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/containers/gvisor-tap-vsock/pkg/services/dhcp"
	"github.com/containers/gvisor-tap-vsock/pkg/tap"
	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/miekg/dns"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// serveLeases answers DHCP: known machines get their own address, others the lowest free.
func (g *gateway) serveLeases() error {
	l := g.lan
	subnet := net.IPNet{IP: l.cfg.Subnet.Addr().AsSlice(), Mask: net.CIDRMask(l.cfg.Subnet.Bits(), 32)}
	pool := tap.NewIPPool(&subnet)
	pool.Reserve(net.IP(l.Gateway().AsSlice()), g.link.LinkAddress().String())
	for _, h := range l.cfg.Hosts {
		pool.Reserve(net.IP(h.Address.AsSlice()), h.MAC.String())
	}
	cfg := &types.Configuration{MTU: mtu, Subnet: l.cfg.Subnet.String(), GatewayIP: l.Gateway().String(), DNSSearchDomains: []string{Domain}}
	server, err := dhcp.New(cfg, g.stack, pool)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(l.ctx, func() { _ = server.Underlying.Close() })
	l.wg.Go(func() {
		defer stop()
		if err := server.Serve(); err != nil && l.ctx.Err() == nil {
			l.cfg.Log.Error("DHCP server of the LAN ended", "error", err)
		}
	})
	return nil
}

// Domain is the domain of the LAN's hosts.
const Domain = "lan"

// lookup finds a host by its name with or without the domain; "gateway" and "registry"
// are the gateway.
func (l *LAN) lookup(name string) (netip.Addr, bool) {
	name = strings.TrimSuffix(strings.ToLower(strings.TrimSuffix(name, ".")), "."+Domain)
	if name == GatewayPort || name == "registry" {
		return l.Gateway(), true
	}
	for _, h := range l.cfg.Hosts {
		if h.Name == name {
			return h.Address, true
		}
	}
	return netip.Addr{}, false
}

// serveNames answers DNS on UDP and TCP.
func (g *gateway) serveNames() error {
	l := g.lan
	at := fullAddress(netip.AddrPortFrom(l.Gateway(), 53))
	packets, err := gonet.DialUDP(g.stack, &at, nil, ipv4.ProtocolNumber)
	if err != nil {
		return err
	}
	streams, err := l.Listen(53)
	if err != nil {
		packets.Close()
		return err
	}
	handler := dns.HandlerFunc(l.answerName)
	for _, server := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: streams, Handler: handler}} {
		stop := context.AfterFunc(l.ctx, func() {
			if server.Listener != nil {
				server.Listener.Close()
				return
			}
			server.PacketConn.Close()
		})
		l.wg.Go(func() {
			defer stop()
			if err := server.ActivateAndServe(); err != nil && l.ctx.Err() == nil {
				l.cfg.Log.Error("DNS server of the LAN ended", "error", err)
			}
		})
	}
	return nil
}

func (l *LAN) answerName(w dns.ResponseWriter, query *dns.Msg) {
	reply := new(dns.Msg)
	reply.SetReply(query)
	reply.RecursionAvailable = true
	if len(query.Question) != 1 {
		reply.Rcode = dns.RcodeFormatError
		_ = w.WriteMsg(reply)
		return
	}
	q := query.Question[0]
	addrs, err := l.addresses(q.Name)
	switch {
	case errors.Is(err, errNoName):
		reply.Rcode = dns.RcodeNameError
	case err != nil:
		reply.Rcode = dns.RcodeServerFailure
	case q.Qtype == dns.TypeA:
		for _, a := range addrs {
			hdr := dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 5}
			reply.Answer = append(reply.Answer, &dns.A{Hdr: hdr, A: a.AsSlice()})
		}
	}
	// A guest that has gone does not wait for the answer.
	_ = w.WriteMsg(reply)
}

var errNoName = errors.New("no such name")

// addresses resolves a name: the LAN's own first and, with NAT, whatever the host finds.
func (l *LAN) addresses(name string) ([]netip.Addr, error) {
	if a, ok := l.lookup(name); ok {
		return []netip.Addr{a}, nil
	}
	if !l.cfg.NAT || strings.HasSuffix(strings.ToLower(name), "."+Domain+".") {
		return nil, errNoName
	}
	ctx, cancel := context.WithTimeout(l.ctx, 5*time.Second)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", name)
	var missing *net.DNSError
	if errors.As(err, &missing) && missing.IsNotFound {
		return nil, errNoName
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, err
}
