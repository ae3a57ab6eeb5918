package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"golang.org/x/sys/unix"
)

// Sandbox reads tasks' files through isolated, which resolves paths and opens them:
// clusterd itself has no right to. Each call takes a connection of its own.
type Sandbox struct {
	Socket string
	dial   func(ctx context.Context) (net.Conn, error) // nil: by the socket
}

// Open gives an open descriptor and what the file is.
func (s Sandbox) Open(ctx context.Context, path string) (*os.File, *keeper.FileInfo, error) {
	resp, f, err := s.ask(ctx, &keeper.Request{Id: 2, Body: &keeper.Request_OpenFile{OpenFile: &keeper.OpenFile{Path: path}}})
	if err != nil {
		return nil, nil, err
	}
	if f == nil || resp.GetFile() == nil {
		if f != nil {
			f.Close()
		}
		return nil, nil, fmt.Errorf("open %s: isolated sent no descriptor", path)
	}
	return f, resp.GetFile(), nil
}

// ReadDir lists a directory.
func (s Sandbox) ReadDir(ctx context.Context, path string) ([]*keeper.FileInfo, error) {
	resp, f, err := s.ask(ctx, &keeper.Request{Id: 2, Body: &keeper.Request_ReadDir{ReadDir: &keeper.ReadDir{Path: path}}})
	if f != nil {
		f.Close()
	}
	if err != nil {
		return nil, err
	}
	return resp.GetFiles().GetFiles(), nil
}

func (s Sandbox) ask(ctx context.Context, req *keeper.Request) (*keeper.Response, *os.File, error) {
	return s.askAs(ctx, "clusterd-files", 30*time.Second, req)
}

// askAs asks as a program of this name and waits for the answer at most for a time.
func (s Sandbox) askAs(ctx context.Context, program string, within time.Duration, req *keeper.Request) (*keeper.Response, *os.File, error) {
	dial := s.dial
	if dial == nil {
		dial = func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", s.Socket)
		}
	}
	c, err := dial(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("ask isolated: %w", err)
	}
	defer c.Close()
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("ask isolated: a connection of the kind %T carries no descriptors", c)
	}
	deadline := time.Now().Add(within)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := wire.Write(conn, &keeper.Request{Id: 1, Body: &keeper.Request_Hello{Hello: &keeper.Hello{Protocol: 1, Program: program}}}); err != nil {
		return nil, nil, err
	}
	if err := wire.Write(conn, req); err != nil {
		return nil, nil, err
	}
	r := &fdReader{conn: conn}
	for {
		resp := &keeper.Response{}
		if err := wire.Read(r, resp, wire.MaxFrame); err != nil {
			r.close()
			return nil, nil, fmt.Errorf("ask isolated: %w", err)
		}
		if resp.GetId() != req.GetId() {
			continue // the answer to Hello, or an event
		}
		if e := resp.GetError(); e != nil {
			r.close()
			return nil, nil, sandboxError(e)
		}
		return resp, r.take(), nil
	}
}

func sandboxError(e *keeper.Error) error {
	switch e.GetCode() {
	case keeper.Error_NOT_FOUND:
		return fmt.Errorf("%s: %w", e.GetMessage(), fs.ErrNotExist)
	case keeper.Error_FORBIDDEN:
		return fmt.Errorf("%s: %w", e.GetMessage(), fs.ErrPermission)
	case keeper.Error_EXISTS:
		return fmt.Errorf("%s: %w", e.GetMessage(), fs.ErrExist)
	case keeper.Error_INVALID:
		return fmt.Errorf("%s: %w", e.GetMessage(), fs.ErrInvalid)
	}
	return errors.New(e.GetMessage())
}

// fdReader reads a Unix socket and keeps the descriptor that came along, if any.
type fdReader struct {
	conn *net.UnixConn
	file *os.File
}

func (r *fdReader) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := r.conn.ReadMsgUnix(p, oob)
	if err != nil {
		return n, err
	}
	if oobn > 0 {
		if err := r.receive(oob[:oobn]); err != nil {
			return n, err
		}
	}
	if n == 0 && len(p) > 0 {
		return 0, net.ErrClosed
	}
	return n, nil
}

func (r *fdReader) receive(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("read descriptor: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fmt.Errorf("read descriptor: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			r.close()
			r.file = os.NewFile(uintptr(fd), "sandbox file")
		}
	}
	return nil
}

func (r *fdReader) take() *os.File {
	f := r.file
	r.file = nil
	return f
}

func (r *fdReader) close() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}
