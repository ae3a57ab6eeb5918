package doors

import (
	"errors"
	"net"
	"net/netip"
	"sync"
)

// mostPerAddress is how many connections one address may have open: each costs memory of
// the program that everybody needs. The machine itself has no bound.
const mostPerAddress = 2048

// crowds counts open connections by where they come from.
type crowds struct {
	mu   sync.Mutex
	open map[netip.Addr]int
}

// enter counts a connection until it is closed; of one too many it gives nil, closed.
func (s *crowds) enter(c net.Conn) net.Conn {
	at, err := netip.ParseAddrPort(c.RemoteAddr().String())
	from := at.Addr().Unmap().WithZone("")
	if err != nil || from.IsLoopback() {
		return c
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[from] >= mostPerAddress {
		c.Close()
		return nil
	}
	if s.open == nil {
		s.open = map[netip.Addr]int{}
	}
	s.open[from]++
	return &counted{Conn: c, leave: sync.OnceFunc(func() { s.leave(from) })}
}

func (s *crowds) leave(from netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[from]--; s.open[from] == 0 {
		delete(s.open, from)
	}
}

type counted struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}

// CloseWrite ends what is sent and goes on to read.
func (c *counted) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}
