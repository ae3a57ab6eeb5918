package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// Containers are those that operators begin inside of running ones. Nobody but isolated
// remembers them; each call takes a connection of its own. Errors wrap fs.ErrNotExist,
// fs.ErrExist and fs.ErrInvalid where isolated says so.
type Containers struct{ Keeper Sandbox }

// Nested is one to begin.
type Nested struct {
	Parent    string // id of the container that it is to be inside of
	Name      string
	Command   *mesosv1.CommandInfo
	Container *mesosv1.ContainerInfo
	Terminal  *mesosv1.TTYInfo // of a session; nil: it has none
}

// NestedID is what isolated calls a nested container.
func NestedID(parent, name string) string { return parent + "." + name }

func (n Nested) launch() (*keeper.Launch, error) {
	raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.TaskInfo{Command: n.Command, Container: n.Container})
	if err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	return &keeper.Launch{ContainerId: NestedID(n.Parent, n.Name), Parent: n.Parent, Nested: true, TaskInfo: raw}, nil
}

// Launch begins a container and returns when its program runs, or has ended.
func (c Containers) Launch(ctx context.Context, n Nested) error {
	l, err := n.launch()
	if err != nil {
		return err
	}
	link, err := c.dial(ctx, l.GetContainerId())
	if err != nil {
		return err
	}
	defer link.close()
	return link.launch(l)
}

// Look gives what is known of a container.
func (c Containers) Look(ctx context.Context, id string) (*keeper.Container, error) {
	link, err := c.dial(ctx, id)
	if err != nil {
		return nil, err
	}
	defer link.close()
	return link.look()
}

// Nested gives those that have not ended.
func (c Containers) Nested(ctx context.Context) ([]*keeper.Container, error) {
	resp, f, err := c.Keeper.askAs(ctx, "clusterd-containers", 30*time.Second, &keeper.Request{Id: 2, Body: &keeper.Request_List{List: &keeper.List{}}})
	if f != nil {
		f.Close()
	}
	var out []*keeper.Container
	for _, k := range resp.GetList().GetContainers() {
		if k.GetNested() && !containerGone(k) {
			out = append(out, k)
		}
	}
	return out, err
}

// Wait returns when a container has ended.
func (c Containers) Wait(ctx context.Context, id string) (*keeper.Container, error) {
	link, err := c.dial(ctx, id)
	if err != nil {
		return nil, err
	}
	defer link.close()
	if _, err := link.look(); err != nil {
		return nil, err
	}
	return link.until(containerGone)
}

// Signal sends a signal to a nested container's program; SIGKILL ends all of it.
func (c Containers) Signal(ctx context.Context, id string, signal int32) error {
	return c.once(ctx, &keeper.Request{Id: 2, Body: &keeper.Request_Signal{Signal: &keeper.Signal{ContainerId: id, Signal: signal}}})
}

// Remove forgets a nested container that has ended, with its sandbox.
func (c Containers) Remove(ctx context.Context, id string) error {
	return c.once(ctx, &keeper.Request{Id: 2, Body: &keeper.Request_Remove{Remove: &keeper.Remove{ContainerId: id}}})
}

// Open opens a file of a container's sandbox.
func (c Containers) Open(ctx context.Context, path string) (*os.File, *keeper.FileInfo, error) {
	return c.Keeper.Open(ctx, path)
}

func (c Containers) once(ctx context.Context, req *keeper.Request) error {
	_, f, err := c.Keeper.askAs(ctx, "clusterd-containers", 30*time.Second, req)
	if f != nil {
		f.Close()
	}
	return err
}

// Session is a command inside of a container, with the outer ends of its standard streams.
// It is killed when this is closed.
type Session struct {
	Stdin, Stdout, Stderr *os.File // with a terminal, Stdin is Stdout and Stderr nil
	link                  *containerLink
	drained               sync.WaitGroup
}

// Session begins one, and returns when its program runs.
func (c Containers) Session(ctx context.Context, n Nested) (*Session, error) {
	l, err := n.launch()
	if err != nil {
		return nil, err
	}
	l.Debug, l.Session = true, true
	streams := []keeper.Attach_Stream{keeper.Attach_STDIN, keeper.Attach_STDOUT, keeper.Attach_STDERR}
	if n.Terminal != nil {
		l.Terminal = &keeper.Terminal{Rows: n.Terminal.GetWindowSize().GetRows(), Columns: n.Terminal.GetWindowSize().GetColumns()}
		streams = []keeper.Attach_Stream{keeper.Attach_STDOUT}
	}
	link, err := c.dial(ctx, l.GetContainerId())
	if err != nil {
		return nil, err
	}
	s := &Session{link: link}
	if err := link.launch(l); err != nil {
		s.Close()
		return nil, err
	}
	ends := map[keeper.Attach_Stream]*os.File{}
	for _, stream := range streams {
		_, f, err := link.do(&keeper.Request{Body: &keeper.Request_Attach{Attach: &keeper.Attach{ContainerId: link.id, Stream: stream}}})
		ends[stream] = f
		if err == nil && f == nil {
			err = errors.New("isolated sent no descriptor of a session's stream")
		}
		if err != nil {
			s.Stdin, s.Stdout, s.Stderr = ends[keeper.Attach_STDIN], ends[keeper.Attach_STDOUT], ends[keeper.Attach_STDERR]
			s.Close()
			return nil, err
		}
	}
	s.Stdin, s.Stdout, s.Stderr = ends[keeper.Attach_STDIN], ends[keeper.Attach_STDOUT], ends[keeper.Attach_STDERR]
	if n.Terminal != nil {
		s.Stdin = s.Stdout
	}
	// Events of all containers come here too: who does not read them is cut off.
	s.drained.Go(func() {
		for {
			if err := wire.Read(link.r, &keeper.Response{}, wire.MaxFrame); err != nil {
				return
			}
		}
	})
	return s, nil
}

// Close ends the session. It may be called once.
func (s *Session) Close() {
	s.link.close()
	s.drained.Wait()
	if s.Stdin != nil && s.Stdin != s.Stdout {
		s.Stdin.Close()
	}
	for _, f := range []*os.File{s.Stdout, s.Stderr} {
		if f != nil {
			f.Close()
		}
	}
}

// containerLink is a connection to isolated for one container: it is asked and listened to
// by turns.
type containerLink struct {
	id   string
	conn *net.UnixConn
	r    *fdReader
	stop func() bool
	last *keeper.Container // newest that was heard of it
	n    uint64
}

func (c Containers) dial(ctx context.Context, id string) (*containerLink, error) {
	dial := c.Keeper.dial
	if dial == nil {
		dial = func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", c.Keeper.Socket)
		}
	}
	conn, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask isolated: %w", err)
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("ask isolated: a connection of the kind %T carries no descriptors", conn)
	}
	l := &containerLink{id: id, conn: u, r: &fdReader{conn: u}, stop: context.AfterFunc(ctx, func() { u.Close() })}
	if _, _, err := l.do(&keeper.Request{Body: &keeper.Request_Hello{Hello: &keeper.Hello{Protocol: 1, Program: "clusterd-containers"}}}); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *containerLink) close() {
	l.stop()
	l.conn.Close()
	l.r.close()
}

// do asks and gives the answer.
func (l *containerLink) do(req *keeper.Request) (*keeper.Response, *os.File, error) {
	l.n++
	req.Id = l.n
	if err := wire.Write(l.conn, req); err != nil {
		return nil, nil, fmt.Errorf("ask isolated: %w", err)
	}
	for {
		resp, err := l.next()
		switch {
		case err != nil:
			return nil, nil, err
		case resp.GetId() != req.Id:
			continue
		case resp.GetError() != nil:
			return nil, nil, sandboxError(resp.GetError())
		}
		return resp, l.r.take(), nil
	}
}

// next reads one frame and notes what it says of the container.
func (l *containerLink) next() (*keeper.Response, error) {
	resp := &keeper.Response{}
	if err := wire.Read(l.r, resp, wire.MaxFrame); err != nil {
		return nil, fmt.Errorf("ask isolated: %w", err)
	}
	l.note(resp.GetEvent())
	return resp, nil
}

func (l *containerLink) note(c *keeper.Container) {
	if c.GetContainerId() == l.id && c.GetSequence() >= l.last.GetSequence() {
		l.last = c
	}
}

func (l *containerLink) look() (*keeper.Container, error) {
	resp, _, err := l.do(&keeper.Request{Body: &keeper.Request_List{List: &keeper.List{}}})
	if err != nil {
		return nil, err
	}
	for _, c := range resp.GetList().GetContainers() {
		l.note(c)
	}
	if l.last == nil {
		return nil, fmt.Errorf("container %q: %w", l.id, fs.ErrNotExist)
	}
	return l.last, nil
}

// until listens until the container is as wanted.
func (l *containerLink) until(is func(*keeper.Container) bool) (*keeper.Container, error) {
	for l.last == nil || !is(l.last) {
		if _, err := l.next(); err != nil {
			return nil, err
		}
	}
	return l.last, nil
}

func (l *containerLink) launch(req *keeper.Launch) error {
	if _, _, err := l.do(&keeper.Request{Body: &keeper.Request_Launch{Launch: req}}); err != nil {
		return err
	}
	c, err := l.until(func(c *keeper.Container) bool { return c.GetPhase() == keeper.Container_RUNNING || containerGone(c) })
	if err == nil && c.GetPhase() == keeper.Container_FAILED {
		err = fmt.Errorf("%s: %w", c.GetMessage(), fs.ErrInvalid)
	}
	return err
}
