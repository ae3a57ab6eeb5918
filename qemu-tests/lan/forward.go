package lan

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"time"
)

func portText(p uint16) string { return strconv.Itoa(int(p)) }

// dialTimeout is how long a connection from the host may take to a guest.
const dialTimeout = 10 * time.Second

// Forward opens a TCP port of the host (for example 127.77.1.1:5050, or port 0 for a free
// one) and carries its connections to a port on the LAN: the first of the targets that
// takes them. It gives the address opened.
func (l *LAN) Forward(listen string, targets ...string) (string, error) {
	for _, target := range targets {
		if _, err := l.resolve(target); err != nil {
			return "", fmt.Errorf("forward %s to %s: %w", listen, target, err)
		}
	}
	return l.ForwardFunc(listen, func() []string { return targets })
}

// ForwardFunc is Forward to targets that change: each connection asks for those of its
// moment. Without any it ends at once.
func (l *LAN) ForwardFunc(listen string, targets func() []string) (string, error) {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return "", fmt.Errorf("forward %s to the LAN: %w", listen, err)
	}
	l.serve(ln, func(conn net.Conn) { l.carryTo(conn, targets()) })
	return ln.Addr().String(), nil
}

func (l *LAN) carryTo(conn net.Conn, targets []string) {
	guest, err := l.dialFirst(targets)
	if err != nil {
		// The caller sees the connection end at once, as with a refused one.
		abort(conn)
		return
	}
	l.splice(conn, guest)
}

// errNoTarget says that nothing on the LAN is behind a port of the host just now.
var errNoTarget = errors.New("nothing takes connections there now")

func (l *LAN) dialFirst(targets []string) (net.Conn, error) {
	var troubles []error
	for _, target := range targets {
		ctx, cancel := context.WithTimeout(l.ctx, dialTimeout/time.Duration(len(targets)))
		conn, err := l.Dial(ctx, target)
		cancel()
		if err == nil {
			return conn, nil
		}
		troubles = append(troubles, err)
	}
	return nil, cmp.Or(errors.Join(troubles...), errNoTarget)
}

// abort closes with a reset, so that a client does not take it for an empty answer.
func abort(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

// Socks opens a SOCKS5 port of the host through which every address and name of the LAN
// can be reached. It gives the address opened.
func (l *LAN) Socks(listen string) (string, error) {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		return "", fmt.Errorf("SOCKS port of the LAN: %w", err)
	}
	l.serve(ln, func(conn net.Conn) {
		if err := l.socksConn(conn); err != nil {
			l.cfg.Log.Debug("SOCKS connection failed", "error", err)
		}
	})
	return ln.Addr().String(), nil
}

// SOCKS5, RFC 1928.
const (
	socksVersion      = 5
	socksNoAuth       = 0
	socksNoMethod     = 0xff
	socksConnect      = 1
	socksIPv4         = 1
	socksName         = 3
	socksOK           = 0
	socksUnreachable  = 4
	socksBadCommand   = 7
	socksBadAddrType  = 8
	socksHandshakeFor = 10 * time.Second
)

func (l *LAN) socksConn(conn net.Conn) error {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(socksHandshakeFor)); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	if err := socksGreeting(r, conn); err != nil {
		return err
	}
	target, code, err := socksRequest(r)
	if err != nil {
		return errors.Join(err, socksReply(conn, code))
	}
	ctx, cancel := context.WithTimeout(l.ctx, dialTimeout)
	defer cancel()
	guest, err := l.Dial(ctx, target)
	if err != nil {
		return errors.Join(err, socksReply(conn, socksUnreachable))
	}
	if err := socksReply(conn, socksOK); err != nil {
		guest.Close()
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		guest.Close()
		return err
	}
	if n := r.Buffered(); n > 0 {
		early, _ := r.Peek(n)
		if _, err := guest.Write(early); err != nil {
			guest.Close()
			return err
		}
	}
	l.splice(conn, guest)
	return nil
}

func socksGreeting(r io.Reader, w io.Writer) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(r, methods); err != nil {
		return err
	}
	if head[0] != socksVersion {
		return fmt.Errorf("SOCKS version %d, not %d", head[0], socksVersion)
	}
	for _, m := range methods {
		if m == socksNoAuth {
			_, err := w.Write([]byte{socksVersion, socksNoAuth})
			return err
		}
	}
	_, err := w.Write([]byte{socksVersion, socksNoMethod})
	return errors.Join(errors.New("SOCKS client offers no method without authentication"), err)
}

func socksRequest(r io.Reader) (target string, code byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", socksBadCommand, err
	}
	if head[0] != socksVersion || head[1] != socksConnect {
		return "", socksBadCommand, fmt.Errorf("SOCKS command %d of version %d is not CONNECT", head[1], head[0])
	}
	var host string
	switch head[3] {
	case socksIPv4:
		var a [4]byte
		if _, err := io.ReadFull(r, a[:]); err != nil {
			return "", socksBadAddrType, err
		}
		host = netip.AddrFrom4(a).String()
	case socksName:
		var n [1]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return "", socksBadAddrType, err
		}
		name := make([]byte, n[0])
		if _, err := io.ReadFull(r, name); err != nil {
			return "", socksBadAddrType, err
		}
		host = string(name)
	default:
		return "", socksBadAddrType, fmt.Errorf("SOCKS address type %d: the LAN is IPv4", head[3])
	}
	var port [2]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return "", socksBadAddrType, err
	}
	return net.JoinHostPort(host, portText(binary.BigEndian.Uint16(port[:]))), socksOK, nil
}

func socksReply(w io.Writer, code byte) error {
	_, err := w.Write([]byte{socksVersion, code, 0, socksIPv4, 0, 0, 0, 0, 0, 0})
	return err
}
