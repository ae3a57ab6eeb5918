// Package zookeeper answers clients that look for the leading master in ZooKeeper: they
// are given zk://host:2181/mesos and speak its wire protocol (frames with a length, fields
// one after the other). What they find is one group: the leader's znode has the lowest
// sequence number and holds its MasterInfo in JSON, the other masters follow. Watches fire
// when that changes.
//
// Invariants: nothing can be written, whatever a client sends; each node answers from what
// it knows itself and asks nobody; a client that saw a later term than this node knows is
// not told of an earlier one; a sequence number stands for one leader of one term.
// Connections (in all and of one address), frames, watches and silence have bounds.
//
// A session owns nothing here, so no node remembers any: its number and password prove
// that one of this cluster's nodes gave it out since the cluster's state was born, and with
// that a client may go on at any node, however long it was away.
//
// Who leads is the main package's to say (Post); it is what /redirect tells everybody too,
// so nobody has to say who he is. TLS is not spoken: such clients know none.
package zookeeper

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Port is where ZooKeeper's clients look when they are given no port.
const Port = 2181

// Limits bound what clients may use. A zero is the default of DefaultLimits.
type Limits struct {
	Connections int // open at a time
	PerAddress  int // of these, from one address
	Watches     int // of one connection
	// Hello is how long a client may take until its first frame is here.
	Hello time.Duration
	// Shortest and Longest bound the session's timeout that a client asks for: after so much
	// silence its connection is closed.
	Shortest, Longest time.Duration
	// CatchUp is how long a client waits that has seen a later term than this node.
	CatchUp time.Duration
}

// DefaultLimits are those of a node. Timeouts are bounded as ZooKeeper bounds them.
var DefaultLimits = Limits{
	Connections: 2048, PerAddress: 256, Watches: 128, Hello: 10 * time.Second,
	Shortest: 4 * time.Second, Longest: 40 * time.Second, CatchUp: 2 * time.Second,
}

const (
	// maxFrame is the longest frame that is read: a request is a path and a few numbers, and
	// setting maxPath-long watches again is the longest. Who writes much is refused anyway.
	maxFrame = 64 << 10
	// maxPath bounds the paths that are remembered for watches.
	maxPath = 1 << 10
	// writeWait is how long a client may leave an answer unread.
	writeWait = 10 * time.Second
)

// Config says what is served.
type Config struct {
	Path   string // of the group, as nodedoc.CheckZooKeeper accepts it
	Limits Limits
	Now    func() time.Time
	Log    *slog.Logger
}

// Server is one node's shim. Make it with New, tell it with Post, open it with Serve.
type Server struct {
	cfg Config

	mu      sync.Mutex
	now     *tree
	changed chan struct{} // closed with the next tree
	open    int
	from    map[netip.Addr]int

	// Owned by Serve.
	turnedAway int       // since that was said last
	said       time.Time // when that was

	received, sent, watches atomic.Int64
}

// New returns a server that knows nothing yet and serves nobody.
func New(cfg Config) *Server {
	for _, l := range []struct{ at, usual *int }{
		{&cfg.Limits.Connections, &DefaultLimits.Connections}, {&cfg.Limits.PerAddress, &DefaultLimits.PerAddress}, {&cfg.Limits.Watches, &DefaultLimits.Watches},
	} {
		if *l.at == 0 {
			*l.at = *l.usual
		}
	}
	for _, l := range []struct{ at, usual *time.Duration }{
		{&cfg.Limits.Hello, &DefaultLimits.Hello}, {&cfg.Limits.Shortest, &DefaultLimits.Shortest}, {&cfg.Limits.Longest, &DefaultLimits.Longest}, {&cfg.Limits.CatchUp, &DefaultLimits.CatchUp},
	} {
		if *l.at == 0 {
			*l.at = *l.usual
		}
	}
	return &Server{cfg: cfg, now: &tree{}, changed: make(chan struct{}), from: map[netip.Addr]int{}}
}

// Post tells who leads now.
func (s *Server) Post(v View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.now.next(v, s.cfg.Path, s.cfg.Now().UnixMilli())
	if next.same(s.now) {
		return
	}
	s.now = next
	close(s.changed)
	s.changed = make(chan struct{})
}

// read gives the present tree, and a channel that is closed when another follows.
func (s *Server) read() (*tree, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now, s.changed
}

// Serve answers on l until ctx ends; then it stops listening and ends what is open.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	pause := time.Millisecond
	for {
		c, err := l.Accept()
		if err != nil {
			var op *net.OpError
			if ctx.Err() != nil {
				return nil
			}
			if !errors.As(err, &op) || !op.Temporary() {
				return err
			}
			select { // out of descriptors: let some end
			case <-time.After(pause):
				pause = min(2*pause, time.Second)
			case <-ctx.Done():
			}
			continue
		}
		pause = time.Millisecond
		leave, why := s.enter(c)
		if leave == nil {
			s.turnAway(c, why)
			continue
		}
		wg.Go(func() {
			defer leave()
			s.serve(ctx, c)
		})
	}
}

// sayEvery is how often clients that are turned away are written of: strangers must not
// push everything else out of the log.
const sayEvery = time.Minute

func (s *Server) turnAway(c net.Conn, why string) {
	s.turnedAway++
	if now := s.cfg.Now(); now.Sub(s.said) >= sayEvery {
		s.cfg.Log.Warn("a zookeeper client was turned away", "client", c.RemoteAddr().String(), "why", why, "connections", s.turnedAway)
		s.said, s.turnedAway = now, 0
	}
	c.Close()
}

// enter counts a connection; nil: there are too many.
func (s *Server) enter(c net.Conn) (leave func(), why string) {
	var from netip.Addr
	if at, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
		from = at.Addr().Unmap().WithZone("")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.open >= s.cfg.Limits.Connections:
		return nil, "as many as may be are open already"
	case s.from[from] >= s.cfg.Limits.PerAddress:
		return nil, "its address has as many open as one may have"
	}
	s.open++
	s.from[from]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.open--
		if s.from[from]--; s.from[from] == 0 {
			delete(s.from, from)
		}
	}, ""
}
