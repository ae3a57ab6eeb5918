package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/noded"
)

// Bounds of the local socket.
const (
	localProtocol = 1
	maxLocalFrame = 1 << 20
	maxLocalConns = 32
)

// serveLocal answers clusterd on noded.sock until ctx ends.
func (n *machine) serveLocal(ctx context.Context) error {
	if err := os.Remove(n.cfg.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open %s: %w", n.cfg.Socket, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: n.cfg.Socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("open %s: %w", n.cfg.Socket, err)
	}
	// Who may speak is decided by the caller's uid, which the kernel tells.
	if err := os.Chmod(n.cfg.Socket, 0o666); err != nil {
		return errors.Join(fmt.Errorf("open %s: %w", n.cfg.Socket, err), l.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var serving sync.WaitGroup
	defer serving.Wait()
	places := make(chan struct{}, maxLocalConns)
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("accept on %s: %w", n.cfg.Socket, err)
		}
		select {
		case places <- struct{}{}:
		default:
			_ = conn.Close() // more callers than programs there are
			continue
		}
		serving.Go(func() {
			defer func() { <-places }()
			n.local(ctx, conn)
		})
	}
}

func (n *machine) local(ctx context.Context, conn *net.UnixConn) {
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }()
	uid, err := peerUID(conn)
	if err != nil || !slices.Contains(n.cfg.LocalUIDs, uid) {
		n.cfg.Log.Warn("local caller refused", "uid", uid, "error", err)
		cancel()
		return
	}
	s := &localSession{n: n, conn: conn}
	if err := s.run(ctx, cancel); err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		n.cfg.Log.Info("local connection ended", "program", s.program, "error", err)
	}
}

func peerUID(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if failed != nil {
		return 0, fmt.Errorf("ask who calls: %w", failed)
	}
	return cred.Uid, nil
}

// localSession is one connection: a reader, and a sender of what changed.
type localSession struct {
	n       *machine
	conn    net.Conn
	program string
	writing sync.Mutex
}

func (s *localSession) run(ctx context.Context, cancel context.CancelFunc) error {
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	var req noded.Request
	if err := wire.Read(s.conn, &req, maxLocalFrame); err != nil {
		return err
	}
	hello := req.GetHello()
	if hello.GetProtocol() != localProtocol {
		return s.answer(req.Id, nil, fmt.Errorf("first frame is no hello of protocol %d", localProtocol))
	}
	s.program = hello.Program
	if err := s.answer(req.Id, &noded.Response{Body: &noded.Response_Hello{Hello: &noded.Hello{Protocol: localProtocol, Program: "noded"}}}, nil); err != nil {
		return err
	}
	told := false
	for {
		req := &noded.Request{}
		if err := wire.Read(s.conn, req, maxLocalFrame); err != nil {
			return err
		}
		switch body := req.Body.(type) {
		case *noded.Request_GetNode:
			events := !told
			told = true
			waiting.Go(func() { s.tellNode(ctx, req.Id, events) })
			continue
		case *noded.Request_PeerHints:
			s.n.hub.setHints(body.PeerHints.Issuers)
		case *noded.Request_Status:
			s.n.setStatus(body.Status)
		default:
			if err := s.answer(req.Id, nil, errors.New("unknown request")); err != nil {
				return err
			}
			continue
		}
		if err := s.answer(req.Id, &noded.Response{}, nil); err != nil {
			return err
		}
	}
}

// tellNode answers once the document is there and, for the first asker of a connection,
// goes on with every change.
func (s *localSession) tellNode(ctx context.Context, id uint64, events bool) {
	v, err := s.n.hub.await(ctx, func(v view) bool { return v.ready })
	for err == nil {
		if s.answer(id, &noded.Response{Body: &noded.Response_Node{Node: v.node}}, nil) != nil || !events {
			return // the reader sees the broken connection too
		}
		id = 0
		last := v.node
		v, err = s.n.hub.await(ctx, func(v view) bool { return v.node != last })
	}
}

func (s *localSession) answer(id uint64, r *noded.Response, refused error) error {
	if r == nil {
		r = &noded.Response{}
	}
	r.Id = id
	if refused != nil {
		r.Error = refused.Error()
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	return wire.Write(s.conn, r)
}
