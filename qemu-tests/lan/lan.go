package lan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/mesolith/mesolith/internal/sockpath"
)

// GatewayPort is the name of the gateway's port in the switch, for faults.
const GatewayPort = "gateway"

// mtu is the LAN's.
const mtu = 1500

// Host is a machine that the LAN knows: its DHCP lease and its name in DNS.
type Host struct {
	Name    string
	MAC     net.HardwareAddr
	Address netip.Addr
}

// Config says what a LAN is like.
type Config struct {
	// Subnet is the LAN's network, for example 10.77.0.0/24; the gateway has its first
	// address.
	Subnet netip.Prefix
	Hosts  []Host
	// NoDHCP: nobody answers DHCP.
	NoDHCP bool
	// NAT lets guests reach the host's networks. Without it their connections are refused
	// and names outside the LAN do not exist.
	NAT bool
	Log *slog.Logger

	// dial connects to the host's networks; nil is the host's own way.
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// LAN is a switch with a gateway. It works until Close.
type LAN struct {
	*Switch
	cfg     Config
	gateway *gateway

	ctx    context.Context // ends with Close; everything that serves a socket watches it
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New starts a LAN.
func New(cfg Config) (*LAN, error) {
	if !cfg.Subnet.IsValid() || !cfg.Subnet.Addr().Is4() || cfg.Subnet.Bits() > 29 {
		return nil, fmt.Errorf("LAN %s: not an IPv4 network of at least 8 addresses", cfg.Subnet)
	}
	cfg.Subnet = cfg.Subnet.Masked()
	if cfg.dial == nil {
		cfg.dial = (&net.Dialer{}).DialContext
	}
	for _, h := range cfg.Hosts {
		if !cfg.Subnet.Contains(h.Address) || h.Address == gatewayAddr(cfg.Subnet) {
			return nil, fmt.Errorf("LAN %s: address %s of %s is not one of its hosts'", cfg.Subnet, h.Address, h.Name)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &LAN{Switch: NewSwitch(), cfg: cfg, ctx: ctx, cancel: cancel}
	if err := startGateway(l); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close ends the LAN and everything that it serves, and waits for it.
func (l *LAN) Close() {
	l.cancel()
	if l.gateway != nil {
		l.gateway.close()
	}
	l.wg.Wait()
	l.Switch.Close()
}

// Gateway is the address of the gateway, DHCP and DNS server.
func (l *LAN) Gateway() netip.Addr { return gatewayAddr(l.cfg.Subnet) }

func gatewayAddr(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// Plug opens a Unix socket for the named machine's network card; whoever connects is that
// port. QEMU's stream sockets cannot reconnect: a machine that is started again connects
// again.
func (l *LAN) Plug(name, socket string) error {
	ln, err := sockpath.Listen(socket)
	if err != nil {
		return fmt.Errorf("plug %s into the LAN: %w", name, err)
	}
	l.serve(ln, func(conn net.Conn) {
		if err := l.Switch.Serve(l.ctx, name, conn); err != nil {
			l.cfg.Log.Warn("port of the LAN failed", "port", name, "error", err)
		}
	})
	return nil
}

// serve accepts connections until the LAN closes, each in a goroutine of its own.
func (l *LAN) serve(ln net.Listener, handle func(net.Conn)) {
	stop := context.AfterFunc(l.ctx, func() { ln.Close() })
	l.wg.Go(func() {
		defer stop()
		defer ln.Close()
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			l.wg.Go(func() { handle(conn) })
		}
	})
}

// isClosed reports whether an error only says that a connection has ended.
func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
