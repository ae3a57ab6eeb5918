package sim

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// network is the wire between hosts. Each direction between two of them can be cut; then
// nothing arrives, and what was sent comes when it is whole again, as TCP has it.
type network struct {
	mu     sync.Mutex
	rng    *rand.Rand
	hosts  map[string]*host
	cuts   map[[2]string]bool
	woken  chan struct{} // closed, and made anew, when cuts or hosts change
	slow   float64       // share of chunks that are late by up to late
	late   time.Duration
	conns  map[*conn]bool
	counts counts
}

// host is a machine on the wire.
type host struct {
	doors map[string]*door // by ALPN
	down  bool             // no program runs
	dark  bool             // without power: nothing answers, not even with a reset
}

const (
	rtt    = 2 * time.Millisecond
	window = 256 << 10
)

func newNetwork(seed uint64) *network {
	return &network{
		rng: rand.New(rand.NewPCG(seed, 1)), hosts: map[string]*host{}, cuts: map[[2]string]bool{}, woken: make(chan struct{}),
		conns: map[*conn]bool{}, late: 3 * beat, counts: counts{},
	}
}

func (n *network) host(name string) *host {
	h := n.hosts[name]
	if h == nil {
		h = &host{doors: map[string]*door{}}
		n.hosts[name] = h
	}
	return h
}

// changed wakes all that wait for the wire; the caller holds the lock.
func (n *network) changed() {
	close(n.woken)
	n.woken = make(chan struct{})
}

func (n *network) cut(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cuts[[2]string{from, to}] == cut {
		return
	}
	n.cuts[[2]string{from, to}] = cut
	if cut {
		n.counts.add("directions cut")
	}
	n.changed()
}

func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
	n.slow = 0
	n.changed()
}

func (n *network) jitter(slow float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slow = slow
}

// die ends a host's doors and connections: with a reset when the machine is still there,
// with silence when it has no power.
func (n *network) die(name string, dark bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.host(name)
	h.down, h.dark = true, dark
	for _, d := range h.doors {
		d.shut()
	}
	clear(h.doors)
	for c := range n.conns {
		if c.from == name || c.to == name {
			c.broken, c.silent = true, dark && c.from != name
			delete(n.conns, c)
		}
	}
	n.changed()
}

// sever resets all connections of a host, whose program goes on.
func (n *network) sever(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if c.from == name || c.to == name {
			c.broken = true
			delete(n.conns, c)
			c.changed()
		}
	}
}

// rise gives a host power; what is left of its former connections is reset.
func (n *network) rise(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.host(name).down, n.host(name).dark = false, false
	n.changed()
}

// door is a listener of one host for one ALPN.
type door struct {
	n    *network
	in   chan *conn
	once sync.Once
	over chan struct{}
}

func (n *network) listen(name, alpn string) net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := &door{n: n, in: make(chan *conn), over: make(chan struct{})}
	n.host(name).doors[alpn] = d
	return d
}

func (d *door) shut() { d.once.Do(func() { close(d.over) }) }

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.in:
		return c, nil
	case <-d.over:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (d *door) Close() error { d.shut(); return nil }

// Addr implements net.Listener.
func (d *door) Addr() net.Addr { return where("door") }

// dial connects; it takes as long as the wire does.
func (n *network) dial(ctx context.Context, from, incarnation, to, alpn string) (net.Conn, error) {
	if err := sleep(ctx, rtt); err != nil {
		return nil, err
	}
	for {
		n.mu.Lock()
		h, woken := n.host(to), n.woken
		blocked := h.dark || n.cuts[[2]string{from, to}] || n.cuts[[2]string{to, from}]
		d := h.doors[alpn]
		if h.down {
			d = nil
		}
		n.mu.Unlock()
		switch {
		case blocked:
			select {
			case <-woken:
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("dial %s: %w", to, ctx.Err())
			}
		case d == nil:
			return nil, fmt.Errorf("dial %s for %s: %w", to, alpn, syscall.ECONNREFUSED)
		}
		ours, theirs := n.pair(from, incarnation, to)
		select {
		case d.in <- theirs:
			return ours, nil
		case <-d.over:
			ours.Close()
			return nil, fmt.Errorf("dial %s for %s: %w", to, alpn, syscall.ECONNREFUSED)
		case <-ctx.Done():
			ours.Close()
			return nil, ctx.Err()
		}
	}
}

// chunk is what one Write sent, or the end of a stream.
type chunk struct {
	at   time.Time // it arrives
	data []byte
	end  bool
}

// conn is one end; what the other end sends lies in its queue.
type conn struct {
	n           *network
	from, to    string // hosts of this end and the other
	incarnation string // of the dialler, seen by the listener
	peer        *conn

	// Guarded by the network's lock.
	queue         []chunk
	bytes         int
	closed        bool
	broken        bool // this end is reset
	silent        bool // and does not know it: the other machine has no power
	readBy, write time.Time
	wake          chan struct{} // closed, and made anew, at each change
}

func (n *network) pair(from, incarnation, to string) (ours, theirs *conn) {
	ours = &conn{n: n, from: from, to: to, wake: make(chan struct{})}
	theirs = &conn{n: n, from: to, to: from, incarnation: incarnation, wake: make(chan struct{})}
	ours.peer, theirs.peer = theirs, ours
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[ours], n.conns[theirs] = true, true
	return ours, theirs
}

func (c *conn) changed() {
	close(c.wake)
	c.wake = make(chan struct{})
}

// lost says what a broken connection answers; nil: it is whole, or nothing is known yet.
func (c *conn) lost() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.broken && (!c.silent || !c.n.host(c.to).dark):
		return syscall.ECONNRESET
	}
	return nil
}

// await waits for a change that concerns c; at may be zero. The lock is held on both sides.
func (c *conn) await(until, deadline time.Time) error {
	wake, woken := c.wake, c.n.woken
	c.n.mu.Unlock()
	defer c.n.mu.Lock()
	if until.IsZero() || !deadline.IsZero() && deadline.Before(until) {
		until = deadline
	}
	var timer <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-wake:
	case <-woken:
	case <-timer:
		if !deadline.IsZero() && !time.Now().Before(deadline) {
			return os.ErrDeadlineExceeded
		}
	}
	return nil
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	for {
		if err := c.lost(); err != nil {
			return 0, err
		}
		if !c.readBy.IsZero() && !time.Now().Before(c.readBy) {
			return 0, os.ErrDeadlineExceeded
		}
		var until time.Time
		if len(c.queue) > 0 && !c.broken && !c.n.cuts[[2]string{c.to, c.from}] {
			head := &c.queue[0]
			if now := time.Now(); !now.Before(head.at) {
				if head.end {
					return 0, io.EOF
				}
				k := copy(p, head.data)
				head.data = head.data[k:]
				if len(head.data) == 0 {
					c.queue = c.queue[1:]
				}
				c.bytes -= k
				c.peer.changed()
				return k, nil
			}
			until = head.at
		}
		if err := c.await(until, c.readBy); err != nil {
			return 0, err
		}
	}
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	for {
		if err := c.lost(); err != nil {
			return 0, err
		}
		if !c.write.IsZero() && !time.Now().Before(c.write) {
			return 0, os.ErrDeadlineExceeded
		}
		if c.peer.closed {
			return 0, syscall.EPIPE
		}
		if c.peer.bytes < window {
			c.send(chunk{data: append([]byte(nil), p...)})
			return len(p), nil
		}
		if err := c.await(time.Time{}, c.write); err != nil {
			return 0, err
		}
	}
}

func (c *conn) send(k chunk) {
	delay := rtt/2 + time.Duration(c.n.rng.Int64N(int64(rtt)/4))
	if c.n.slow > 0 && c.n.rng.Float64() < c.n.slow {
		delay += time.Duration(c.n.rng.Int64N(int64(c.n.late)))
		c.n.counts.add("chunks late")
	}
	k.at = time.Now().Add(delay)
	if q := c.peer.queue; len(q) > 0 && q[len(q)-1].at.After(k.at) {
		k.at = q[len(q)-1].at // a stream keeps its order
	}
	c.peer.queue = append(c.peer.queue, k)
	c.peer.bytes += len(k.data)
	c.peer.changed()
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	delete(c.n.conns, c)
	if !c.broken && !c.peer.closed {
		c.send(chunk{end: true})
	}
	c.changed()
	return nil
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.readBy, c.write = t, t
	c.changed()
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.readBy = t
	c.changed()
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.write = t
	c.changed()
	return nil
}

type where string

// Network implements net.Addr.
func (where) Network() string { return "sim" }

// String implements net.Addr.
func (w where) String() string { return "10.0.0.1:1" }

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return where(c.from) }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return where(c.to) }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// peerOf is who is at a connection's other end, as TLS would prove it.
func peerOf(c net.Conn) (name, incarnation string) {
	s, ok := c.(*conn)
	if !ok {
		return "", ""
	}
	return s.to, s.incarnation
}
