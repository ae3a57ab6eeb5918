package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// lan is masters behind connections that can lose power, in a bubble of virtual time.
type lan struct {
	t         *testing.T
	masters   []*master
	hosts     []*host
	transport *http.Transport
}

// host is a master's machine. Without power it says nothing, not even that it has gone.
type host struct {
	off   chan struct{} // closed when the power is cut
	full  atomic.Bool   // takes no further connections
	conns chan net.Conn
	once  sync.Once
}

func newLAN(t *testing.T, n int) *lan {
	l := &lan{t: t}
	var servers []*http.Server
	for range n {
		m, h := playedMaster(t, false), &host{off: make(chan struct{}), conns: make(chan net.Conn, 16)}
		m.limit = time.Minute
		l.masters, l.hosts = append(l.masters, m), append(l.hosts, h)
		srv := &http.Server{Handler: m}
		servers = append(servers, srv)
		go srv.Serve(h)
	}
	l.transport = &http.Transport{DialContext: l.dial}
	t.Cleanup(func() {
		l.transport.CloseIdleConnections()
		for _, srv := range servers {
			srv.Close()
		}
	})
	return l
}

func (l *lan) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	var i int
	if _, err := fmt.Sscanf(addr, "m%d:80", &i); err != nil {
		return nil, err
	}
	h := l.hosts[i]
	select {
	case <-h.off:
		select {
		case <-time.After(dialTime):
			return nil, errors.New("i/o timeout")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	default:
	}
	if h.full.Load() {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	closed := make(chan struct{})
	h.conns <- &farEnd{Conn: theirs, h: h, closed: closed}
	return &nearEnd{Conn: ours, h: h, closed: closed}, nil
}

func (h *host) Accept() (net.Conn, error) {
	c, ok := <-h.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (h *host) Close() error   { h.once.Do(func() { close(h.conns) }); return nil }
func (h *host) Addr() net.Addr { return &net.TCPAddr{} }

// nearEnd writes into a buffer that nobody empties when the other end has no power.
type nearEnd struct {
	net.Conn
	h      *host
	once   sync.Once
	closed chan struct{}
}

func (c *nearEnd) Write(p []byte) (int, error) {
	select {
	case <-c.h.off:
		return len(p), nil
	default:
		return c.Conn.Write(p)
	}
}

func (c *nearEnd) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

type farEnd struct {
	net.Conn
	h      *host
	closed chan struct{}
}

func (c *farEnd) Write(p []byte) (int, error) {
	select {
	case <-c.h.off:
		<-c.closed
		return 0, net.ErrClosed
	default:
		return c.Conn.Write(p)
	}
}

func (l *lan) cut(i int) { close(l.hosts[i].off) }

func (l *lan) client() *Client {
	cfg := Config{HTTP: &http.Client{Transport: l.transport}, Framework: framework()}
	for i := range l.masters {
		cfg.Masters = append(cfg.Masters, fmt.Sprintf("http://m%d", i))
	}
	c, err := New(cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

// run runs something until stop, which gives its error.
func (l *lan) run(f func(context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(l.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	return func() error { cancel(); return <-ended }
}
