// Package serve answers the keeper's socket: frames of internal/wire, a Hello first,
// several clients at once. Who is at the other end is checked by SO_PEERCRED before a
// byte is read. A client that reads slowly is cut off and asks for the list again; no
// client can make the keeper wait.
//
// What requests mean is isolation/run's; this package translates and keeps order: the
// answer to Hello comes before the first event, and events of one container in theirs.
package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/run"
)

const (
	protocol    = 1
	helloWithin = 10 * time.Second
	writeWithin = 10 * time.Second
)

// Networker sets a node's part of the cluster's network.
type Networker interface {
	SetNetwork(ctx context.Context, n *keeper.SetNetwork) error
}

// Server is the keeper's socket.
type Server struct {
	Keeper *run.Keeper
	// Network is nil where tasks have no network of their own.
	Network Networker
	Reason  string // why the runtime is "processes"
	UIDs    []uint32
	Log     *slog.Logger
}

// Listen makes the socket, replacing one that nobody answers on.
func Listen(path string) (*net.UnixListener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("another isolated answers on %s: end it first, or give another --socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o666); err != nil { // who may is checked by credentials
		l.Close()
		return nil, fmt.Errorf("open socket to clients: %w", err)
	}
	return l, nil
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context, l *net.UnixListener) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept client: %w", err)
		}
		conns.Go(func() {
			if err := s.client(ctx, c); err != nil && ctx.Err() == nil {
				s.Log.Warn("client", "error", err)
			}
		})
	}
}

func (s *Server) allowed(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return fmt.Errorf("ask who the client is: %w", credErr)
	}
	if cred.Uid != 0 && !slices.Contains(s.UIDs, cred.Uid) {
		return fmt.Errorf("process %d of user %d may not speak to the container keeper", cred.Pid, cred.Uid)
	}
	return nil
}

// client is one connection.
type client struct {
	s    *Server
	conn *net.UnixConn
	mu   sync.Mutex // of writing
	// sessions were launched here and end with it; the reader of requests alone changes it.
	sessions []string
}

func (s *Server) client(ctx context.Context, conn *net.UnixConn) error {
	defer conn.Close()
	if err := s.allowed(conn); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c := &client{s: s, conn: conn}
	if err := conn.SetReadDeadline(time.Now().Add(helloWithin)); err != nil {
		return err
	}
	first := &keeper.Request{}
	if err := wire.Read(conn, first, wire.MaxFrame); err != nil {
		if errors.Is(err, io.EOF) {
			return nil // somebody looked whether we answer
		}
		return err
	}
	if first.GetHello() == nil {
		return c.refuse(first.GetId(), keeper.Error_INVALID, "the first frame is not a Hello")
	}
	if v := first.GetHello().GetProtocol(); v != protocol {
		return c.refuse(first.GetId(), keeper.Error_INVALID, fmt.Sprintf("protocol %d is not spoken here, but %d", v, protocol))
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	w := s.Keeper.Watch()
	defer s.Keeper.Unwatch(w)
	hello := &keeper.Hello{Protocol: protocol, Program: "isolated", Runtime: s.Keeper.RuntimeName(), RuntimeReason: s.Reason}
	if err := c.write(&keeper.Response{Id: first.GetId(), Body: &keeper.Response_Hello{Hello: hello}}, nil); err != nil {
		return err
	}
	var events sync.WaitGroup
	defer events.Wait()
	defer cancel()
	events.Go(func() { c.events(ctx, cancel, w) })
	defer func() {
		for _, id := range c.sessions {
			s.Keeper.EndSession(id)
		}
	}()
	return c.requests(ctx)
}

func (c *client) events(ctx context.Context, cancel func(), w *run.Watcher) {
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.Events:
			if !ok {
				c.s.Log.Warn("client fell behind and is cut off")
				return
			}
			if err := c.write(&keeper.Response{Body: &keeper.Response_Event{Event: e}}, nil); err != nil {
				return
			}
		}
	}
}

func (c *client) requests(ctx context.Context) error {
	for {
		m := &keeper.Request{}
		if err := wire.Read(c.conn, m, wire.MaxFrame); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
				return nil
			}
			return err
		}
		resp, file := c.answer(ctx, m)
		resp.Id = m.GetId()
		err := c.write(resp, file)
		if file != nil {
			file.Close()
		}
		if err != nil {
			if errors.Is(err, unix.EPIPE) || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
	}
}

func (c *client) refuse(id uint64, code keeper.Error_Code, message string) error {
	return c.write(&keeper.Response{Id: id, Error: &keeper.Error{Code: code, Message: message}}, nil)
}

// write sends one frame; a descriptor rides with its first byte.
func (c *client) write(m *keeper.Response, file *os.File) error {
	frame, err := wire.Append(nil, m)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
		return err
	}
	if file != nil {
		n, _, err := c.conn.WriteMsgUnix(frame[:1], unix.UnixRights(int(file.Fd())), nil)
		if err != nil {
			return err
		}
		frame = frame[n:]
	}
	_, err = c.conn.Write(frame)
	return err
}

func (c *client) answer(ctx context.Context, m *keeper.Request) (*keeper.Response, *os.File) {
	k := c.s.Keeper
	out := &keeper.Response{}
	var file *os.File
	var err error
	switch b := m.GetBody().(type) {
	case *keeper.Request_Configure:
		err = k.Configure(b.Configure)
	case *keeper.Request_Launch:
		if err = k.Launch(b.Launch); err == nil && b.Launch.GetSession() {
			c.sessions = append(c.sessions, b.Launch.GetContainerId())
		}
	case *keeper.Request_Kill:
		err = k.Kill(b.Kill)
	case *keeper.Request_Resize:
		err = k.Resize(b.Resize)
	case *keeper.Request_List:
		list := &keeper.ContainerList{Containers: k.List()}
		if b.List.GetLaunches() {
			list.Launches = k.Launches()
		}
		out.Body = &keeper.Response_List{List: list}
	case *keeper.Request_Forget:
		err = k.Forget(b.Forget.GetContainerIds())
	case *keeper.Request_RemoveVolumes:
		err = k.RemoveVolumes(b.RemoveVolumes.GetVolumes())
	case *keeper.Request_OpenFile:
		var info *keeper.FileInfo
		if file, info, err = k.OpenFile(b.OpenFile.GetPath()); err == nil {
			out.Body = &keeper.Response_File{File: info}
		}
	case *keeper.Request_ReadDir:
		var files []*keeper.FileInfo
		if files, err = k.ReadDir(b.ReadDir.GetPath()); err == nil {
			out.Body = &keeper.Response_Files{Files: &keeper.FileList{Files: files}}
		}
	case *keeper.Request_Probe:
		var found *keeper.Probed
		if found, file, err = k.Probe(ctx, b.Probe); err == nil {
			out.Body = &keeper.Response_Probed{Probed: found}
		}
	case *keeper.Request_Signal:
		err = k.Signal(b.Signal)
	case *keeper.Request_Remove:
		err = k.Remove(b.Remove.GetContainerId())
	case *keeper.Request_Attach:
		file, err = k.Attach(b.Attach)
	case *keeper.Request_SetNetwork:
		if c.s.Network != nil {
			err = c.s.Network.SetNetwork(ctx, b.SetNetwork)
		}
	default:
		err = fmt.Errorf("%w: request of a kind that is not known here", run.ErrInvalid)
	}
	if err != nil {
		out.Error = &keeper.Error{Code: code(err), Message: err.Error()}
	}
	return out, file
}

func code(err error) keeper.Error_Code {
	switch {
	case errors.Is(err, run.ErrStale):
		return keeper.Error_STALE
	case errors.Is(err, run.ErrExists):
		return keeper.Error_EXISTS
	case errors.Is(err, run.ErrInvalid):
		return keeper.Error_INVALID
	case errors.Is(err, run.ErrNotFound):
		return keeper.Error_NOT_FOUND
	case errors.Is(err, run.ErrDenied):
		return keeper.Error_FORBIDDEN
	}
	return keeper.Error_INTERNAL
}
