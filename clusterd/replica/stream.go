package replica

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/raftlink"
)

// Links brings connections between masters; peers does it over mutual TLS.
type Links interface {
	// Dial connects to the named master's raft/1.
	Dial(ctx context.Context, name string) (net.Conn, error)
	// Accept waits for a connection of another master; peer is what its certificate says.
	Accept(ctx context.Context) (conn net.Conn, peer Voter, err error)
}

const maxHello = 4096

// streamLayer is raft.StreamLayer over Links: an address is a server id, and both ends
// prove theirs before anything else is said.
type streamLayer struct {
	cfg    Config
	ctx    context.Context
	cancel context.CancelFunc
	failed <-chan struct{}

	ready chan net.Conn

	mu    sync.Mutex
	have  map[string]uint64 // server id → last index it acknowledged
	conns map[net.Conn]bool
}

func newStreamLayer(cfg Config, failed <-chan struct{}) *streamLayer {
	ctx, cancel := context.WithCancel(context.Background())
	s := &streamLayer{cfg: cfg, ctx: ctx, cancel: cancel, failed: failed, have: map[string]uint64{}, conns: map[net.Conn]bool{}, ready: make(chan net.Conn)}
	go s.admit()
	go func() {
		// A replica that failed falls silent: its heartbeats must not keep a leader
		// in office that can write nothing.
		select {
		case <-failed:
		case <-ctx.Done():
		}
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.conns {
			c.Close()
		}
	}()
	return s
}

// Dial implements raft.StreamLayer.
func (s *streamLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	to := voterOf(raft.ServerID(address))
	if to.Placeholder() {
		return nil, fmt.Errorf("master %s has not been seen in this generation yet", to.Name)
	}
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	conn, err := s.cfg.Links.Dial(ctx, to.Name)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(timeout))
	// A replica that is closed waits for nobody's answer.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	hello := &raftlink.Hello{Protocol: 1, Height: s.cfg.Generation.Height, Generation: s.cfg.Generation.ID, From: s.cfg.Self.ServerID(), To: to.ServerID()}
	if err := wire.Write(conn, hello); err != nil {
		conn.Close()
		return nil, err
	}
	answer := &raftlink.Answer{}
	if err := wire.Read(conn, answer, maxHello); err != nil {
		conn.Close()
		return nil, fmt.Errorf("raft/1 to %s: %w", to.ServerID(), err)
	}
	if answer.GetRefused() != "" {
		conn.Close()
		return nil, fmt.Errorf("raft/1 to %s: refused: %s", to.ServerID(), answer.GetRefused())
	}
	return s.keep(conn)
}

func (s *streamLayer) keep(conn net.Conn) (net.Conn, error) {
	conn.SetDeadline(time.Time{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		conn.Close()
		return nil, net.ErrClosed
	}
	s.conns[conn] = true
	return &kept{conn, s}, nil
}

// kept is a connection that the layer can end.
type kept struct {
	net.Conn
	layer *streamLayer
}

// Close implements net.Conn.
func (k *kept) Close() error {
	k.layer.mu.Lock()
	delete(k.layer.conns, k.Conn)
	k.layer.mu.Unlock()
	return k.Conn.Close()
}

// Accept implements net.Listener.
func (s *streamLayer) Accept() (net.Conn, error) {
	select {
	case c := <-s.ready:
		return c, nil
	case <-s.ctx.Done():
		return nil, net.ErrClosed
	}
}

// admit takes connections in; each greets by itself, so that a silent one delays nobody.
func (s *streamLayer) admit() {
	for {
		conn, peer, err := s.cfg.Links.Accept(s.ctx)
		if err != nil {
			return
		}
		go func() {
			if err := s.welcome(conn, peer); err != nil {
				conn.Close()
				s.cfg.Log.Info("raft connection refused", "from", peer.ServerID(), "why", err.Error())
				return
			}
			c, err := s.keep(conn)
			if err != nil {
				return
			}
			select {
			case s.ready <- c:
			case <-s.ctx.Done():
				c.Close()
			}
		}()
	}
}

func (s *streamLayer) welcome(conn net.Conn, peer Voter) error {
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	hello := &raftlink.Hello{}
	if err := wire.Read(conn, hello, maxHello); err != nil {
		return err
	}
	why := ""
	switch {
	case hello.GetProtocol() != 1:
		why = fmt.Sprintf("protocol %d is not spoken here, 1 is", hello.GetProtocol())
	case hello.GetGeneration() != s.cfg.Generation.ID || hello.GetHeight() != s.cfg.Generation.Height:
		why = fmt.Sprintf("generation %s (height %d) is not ours, %s (height %d)", hello.GetGeneration(), hello.GetHeight(), s.cfg.Generation.ID, s.cfg.Generation.Height)
	case hello.GetTo() != s.cfg.Self.ServerID():
		why = fmt.Sprintf("%s is gone, here is %s", hello.GetTo(), s.cfg.Self.ServerID())
	case base(hello.GetFrom()) != base(peer.ServerID()):
		why = fmt.Sprintf("the certificate is %s's, the call says %s", peer.ServerID(), hello.GetFrom())
	}
	if err := wire.Write(conn, &raftlink.Answer{Refused: why}); err != nil {
		return err
	}
	if why != "" {
		return errors.New(why)
	}
	return nil
}

// base is a server id without the count of generations that its incarnation has left:
// the certificate knows the incarnation only.
func base(id string) string {
	b, _, _ := strings.Cut(id, ".")
	return b
}

// Close implements net.Listener.
func (s *streamLayer) Close() error {
	s.cancel()
	return nil
}

// Addr implements net.Listener.
func (s *streamLayer) Addr() net.Addr { return address(s.cfg.Self.ServerID()) }

// address is a server id as a net.Addr.
type address string

// Network implements net.Addr.
func (a address) Network() string { return "raft" }

// String implements net.Addr.
func (a address) String() string { return string(a) }

// transport remembers how far each server has come, as it answered.
type transport struct {
	*raft.NetworkTransport
	layer *streamLayer
}

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := t.NetworkTransport.AppendEntries(id, target, args, resp)
	if err == nil && resp.Success {
		last := args.PrevLogEntry
		if n := len(args.Entries); n > 0 {
			last = args.Entries[n-1].Index
		}
		t.layer.mu.Lock()
		t.layer.have[string(id)] = max(t.layer.have[string(id)], last)
		t.layer.mu.Unlock()
	}
	return err
}

func (s *streamLayer) applied(id string) (uint64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.have[id]
	return n, ok
}
