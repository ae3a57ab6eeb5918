package zookeeper

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// conn is one client's connection. Its loop alone touches it.
type conn struct {
	s       *Server
	c       net.Conn
	seen    *tree // what the client was told last
	watches map[watch]bool
}

// serve leads one connection from its first byte to its end.
func (s *Server) serve(ctx context.Context, nc net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	defer nc.Close()
	nc.SetReadDeadline(time.Now().Add(s.cfg.Limits.Hello))
	var head [4]byte
	if _, err := io.ReadFull(nc, head[:]); err != nil {
		return
	}
	if answer, is := s.word(string(head[:])); is {
		nc.SetWriteDeadline(time.Now().Add(writeWait))
		if _, err := io.WriteString(nc, answer); err != nil {
			return
		}
		// A line end may follow the word: closing before it is read would take the answer back.
		if half, ok := nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
			nc.SetReadDeadline(time.Now().Add(time.Second))
			io.CopyN(io.Discard, nc, 64)
		}
		return
	}
	first, err := readRest(nc, head)
	if err != nil {
		s.dropped(nc, err)
		return
	}
	h, err := decodeHello(first)
	if err != nil {
		s.dropped(nc, err)
		return
	}
	c := &conn{s: s, c: nc, watches: map[watch]bool{}}
	defer func() { s.watches.Add(-int64(len(c.watches))) }()
	timeout, err := c.begin(ctx, h)
	if err != nil {
		s.dropped(nc, err)
		return
	}
	frames := make(chan []byte)
	go func() {
		defer close(frames)
		if err := s.readFrames(ctx, nc, timeout, frames); err != nil {
			s.dropped(nc, err)
		}
	}()
	if err := c.loop(frames); err != nil {
		s.dropped(nc, err)
	}
	cancel()
	nc.Close()
	for range frames { // until the reader has ended
	}
}

// dropped notes why a connection ended that its client did not end, for who looks closely:
// strangers must not push everything else out of the log.
func (s *Server) dropped(nc net.Conn, err error) {
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		s.cfg.Log.Debug("a zookeeper client's connection ended", "client", nc.RemoteAddr().String(), "why", err.Error())
	}
}

// readFrames hands on one frame after the other until one is wrong, the client is silent
// for longer than its timeout, or ctx ends.
func (s *Server) readFrames(ctx context.Context, nc net.Conn, timeout time.Duration, to chan<- []byte) error {
	for {
		nc.SetReadDeadline(time.Now().Add(timeout))
		var head [4]byte
		if _, err := io.ReadFull(nc, head[:]); err != nil {
			return err
		}
		f, err := readRest(nc, head)
		if err != nil {
			return err
		}
		select {
		case to <- f:
		case <-ctx.Done():
			return nil
		}
	}
}

// readRest reads the frame whose length is in head.
func readRest(r io.Reader, head [4]byte) ([]byte, error) {
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return nil, fmt.Errorf("%w: a frame of %d bytes, at most %d are read", errForm, n, maxFrame)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

var (
	errNotServing = errors.New("this node does not know yet to which life of the cluster it belongs")
	errBehind     = errors.New("the client has seen a later term than this node knows; another node may know more")
	errExpired    = errors.New("its session is of another cluster or another life of this one")
)

// begin answers the first frame.
func (c *conn) begin(ctx context.Context, h hello) (time.Duration, error) {
	l := c.s.cfg.Limits
	timeout := min(max(time.Duration(h.timeout)*time.Millisecond, l.Shortest), l.Longest)
	now, _ := c.s.read()
	if !now.serving() {
		return 0, errNotServing
	}
	session := h.session
	if session == 0 {
		session = newSession()
	} else {
		if string(h.password) != string(password(now.view.Generation, session)) {
			if err := c.write(expired(h)); err != nil {
				return 0, err
			}
			return 0, errExpired
		}
		var err error
		if now, err = c.catchUp(ctx, now, h.zxid); err != nil {
			return 0, err
		}
	}
	c.seen = now
	return timeout, c.write(welcome(h, session, timeout, password(now.view.Generation, session)))
}

// catchUp waits until this node knows the term that a client has seen.
func (c *conn) catchUp(ctx context.Context, now *tree, zxid int64) (*tree, error) {
	generation := now.view.Generation
	patience := time.NewTimer(c.s.cfg.Limits.CatchUp)
	defer patience.Stop()
	for {
		now, changed := c.s.read()
		switch {
		case now.view.Generation != generation:
			return nil, errExpired
		case !ahead(zxid, now.zxid):
			return now, nil
		}
		select {
		case <-changed:
		case <-patience.C:
			return nil, errBehind
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// loop answers requests in their order and tells of changes between them.
func (c *conn) loop(frames <-chan []byte) error {
	for {
		now, changed := c.s.read()
		if err := c.tell(now); err != nil {
			return err
		}
		select {
		case f, open := <-frames:
			if !open {
				return nil
			}
			c.s.received.Add(1)
			q, err := decodeRequest(f)
			if err != nil {
				return err
			}
			// What changed meanwhile is told before anything newer is answered.
			now, _ = c.s.read()
			if err := c.tell(now); err != nil {
				return err
			}
			if more, err := c.answer(q); err != nil || !more {
				return err
			}
		case <-changed:
		}
	}
}

// tell fires the watches that a change concerns.
func (c *conn) tell(now *tree) error {
	if now.view.Generation != c.seen.view.Generation {
		return errExpired
	}
	before := c.seen
	c.seen = now
	if before == now {
		return nil
	}
	type told struct {
		path string
		what event
	}
	done := map[told]bool{}
	for w := range c.watches {
		what := w.changed(before, now)
		if what == 0 {
			continue
		}
		c.forget(w)
		if done[told{w.path, what}] {
			continue
		}
		done[told{w.path, what}] = true
		if err := c.fire(w.path, what); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) fire(path string, what event) error {
	const connected = 3 // the client's own state, as ZooKeeper sends it along
	return c.write(newFrame().int32(xidEvent).int64(-1).int32(0).int32(int32(what)).int32(connected).bytes([]byte(path)).done())
}

func (c *conn) write(b []byte) error {
	c.s.sent.Add(1)
	c.c.SetWriteDeadline(time.Now().Add(writeWait))
	_, err := c.c.Write(b)
	return err
}

// want remembers a watch; false: the client has as many as it may have, or its path is
// too long.
func (c *conn) want(w watch) bool {
	if c.watches[w] {
		return true
	}
	if len(c.watches) >= c.s.cfg.Limits.Watches || len(w.path) > maxPath {
		return false
	}
	c.watches[w] = true
	c.s.watches.Add(1)
	return true
}

func (c *conn) forget(w watch) {
	if c.watches[w] {
		delete(c.watches, w)
		c.s.watches.Add(-1)
	}
}
