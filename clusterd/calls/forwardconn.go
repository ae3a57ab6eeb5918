package calls

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/forward"
)

// A forward/1 connection: the forwarder sends the frame of the Caller, then its HTTP/1.1
// requests in chunks of u32 length + bytes; a chunk of length 0 says that the caller itself
// closed its connection, after which nothing more comes. Answers are plain HTTP/1.1. So a
// leader can tell a framework that left from a link that broke: only the first starts the
// framework's failover timer as the framework asked for it.

const (
	maxChunk  = 1 << 20
	maxCaller = 64 << 10
	leftTime  = 2 * time.Second
	endTime   = 3 * time.Second // for streams to end with their last chunk
)

// leaderConn is the forwarder's end.
type leaderConn struct {
	net.Conn
	mu   sync.Mutex
	left bool
}

func (c *leaderConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	done := 0
	for done < len(p) {
		part := p[done:min(len(p), done+maxChunk)]
		buf := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(part)), uint32(len(part)))
		if _, err := c.Conn.Write(append(buf, part...)); err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, nil
}

// sayCallerLeft tells the leader, if the connection still works; if not, the leader finds
// out by itself that it broke, and gives the framework more time.
func (c *leaderConn) sayCallerLeft() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left || c.Conn.SetWriteDeadline(time.Now().Add(leftTime)) != nil {
		return
	}
	c.left = true
	_, _ = c.Conn.Write(make([]byte, 4))
}

// callerConn is the leader's end. The http.Server reads it by one goroutine at a time.
type callerConn struct {
	net.Conn
	peer       string // the forwarding node by its certificate; empty: not known
	caller     atomic.Pointer[forward.Caller]
	callerLeft atomic.Bool
	left       uint32 // of the present chunk
}

type connKey struct{}

// Read reads the first frame before anything else; the server's deadline for headers
// covers it.
func (c *callerConn) Read(p []byte) (int, error) {
	if c.caller.Load() == nil {
		if err := c.greeted(); err != nil {
			return 0, err
		}
	}
	if c.callerLeft.Load() {
		return 0, io.EOF
	}
	if c.left == 0 {
		var head [4]byte
		if _, err := io.ReadFull(c.Conn, head[:]); err != nil {
			return 0, err
		}
		if c.left = binary.BigEndian.Uint32(head[:]); c.left == 0 {
			c.callerLeft.Store(true)
			return 0, io.EOF
		}
	}
	if uint32(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.Conn.Read(p)
	c.left -= uint32(n)
	return n, err
}

func (c *callerConn) greeted() error {
	var caller forward.Caller
	if err := wire.Read(c.Conn, &caller, maxCaller); err != nil {
		return err
	}
	if caller.GetProtocol() != 1 {
		return fmt.Errorf("forward protocol %d, this node speaks 1", caller.GetProtocol())
	}
	if c.peer != "" && c.peer != caller.GetNode() {
		return fmt.Errorf("node %s forwards in the name of %s", c.peer, caller.GetNode())
	}
	c.caller.Store(&caller)
	return nil
}

// ServeForwarded answers forward/1 connections with the same handler as the API port until
// ctx ends. peer names the node at the other end of a connection, by its certificate; nil
// where connections carry no names.
func ServeForwarded(ctx context.Context, l net.Listener, peer func(net.Conn) string, h http.Handler, log *slog.Logger) error {
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, ok := r.Context().Value(connKey{}).(*callerConn)
			if !ok || c.caller.Load() == nil {
				panic(http.ErrAbortHandler)
			}
			h.ServeHTTP(w, r.WithContext(auth.WithCaller(r.Context(), c.caller.Load())))
		}),
		ReadHeaderTimeout: 15 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		// ctx is over; the streams that it carries need a moment to end in order.
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		if srv.Shutdown(limit) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(&callerListener{Listener: l, peer: peer})
	if !stop() {
		<-ended
	}
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve forwarded calls: %w", err)
}

type callerListener struct {
	net.Listener
	peer func(net.Conn) string
}

func (l *callerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	wrapped := &callerConn{Conn: c}
	if l.peer != nil {
		wrapped.peer = l.peer(c)
	}
	return wrapped, nil
}
