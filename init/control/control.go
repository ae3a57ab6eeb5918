package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/mesolith/mesolith/init/reap"
	"golang.org/x/sys/unix"
)

// Service is one supervised program, as noded shows it.
type Service struct {
	Name, State string
	PID         int
	Restarts    int
	LastExit    string
	SinceUnixMS int64
}

// Server answers on the socket.
type Server struct {
	Reaper   *reap.Reaper
	Services func() []Service
	Power    func(off bool, reason string) // begins an orderly end; returns at once
	Warn     func(format string, args ...any)

	pipes pipes

	mu    sync.Mutex
	conns int
}

const (
	maxConns = 256 // isolated takes one for each question
	maxOpen  = 64  // requests of one connection that wait for a death
)

// Listen makes the socket, readable and writable for root only.
func Listen(path string) (int, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return -1, fmt.Errorf("make socket: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make socket %s: %w", path, err)
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), os.Chmod(path, 0o600), unix.Listen(fd, 16)); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("make socket %s: %w", path, err)
	}
	return fd, nil
}

// scarceFor is how long a server waits that has no descriptor, or no memory, for a caller.
const scarceFor = 200 * time.Millisecond

// Run accepts until the listening socket is closed. Who calls while there is no descriptor
// for him waits in the kernel's queue.
func (s *Server) Run(listener int) error {
	scarce := false
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		if shortage(err) {
			if !scarce {
				s.Warn("init.sock: callers wait: %v", err)
			}
			scarce = true
			time.Sleep(scarceFor)
			continue
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		if scarce {
			scarce = false
			s.Warn("init.sock: callers are answered again")
		}
		who, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil || who.Uid != 0 {
			unix.Close(fd)
			continue
		}
		if !s.enter(1) {
			s.Warn("init.sock: more than %d connections, closing that of pid %d", maxConns, who.Pid)
			unix.Close(fd)
			continue
		}
		go func() { // ends with the connection
			defer s.enter(-1)
			c := &conn{server: s, file: os.NewFile(uintptr(fd), "init.sock")}
			defer c.file.Close()
			if err := c.serve(); err != nil && !errors.Is(err, io.EOF) {
				s.Warn("init.sock: pid %d: %v", who.Pid, err)
			}
		}()
	}
}

// shortage reports whether an error passes by itself.
func shortage(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOBUFS)
}

func (s *Server) enter(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns+n > maxConns {
		return false
	}
	s.conns += n
	return true
}

type conn struct {
	server *Server
	file   *os.File

	mu   sync.Mutex // writing, and open
	open int
}

func (c *conn) serve() error {
	greeted := false
	gone := make(chan struct{})
	defer close(gone)
	for {
		raw, err := readFrame(c.file)
		if err != nil {
			return err
		}
		r, err := decode(raw)
		if err != nil {
			return err
		}
		if !greeted && (r.body != bodyHello || r.protocol != Protocol) {
			c.answer(r.id, fmt.Errorf("the first frame is a hello with protocol %d", Protocol), nil)
			return fmt.Errorf("%w: no hello", errForm)
		}
		greeted = true
		if r.body == bodyStatus && r.wait {
			c.later(r, gone)
			continue
		}
		body, err := c.server.do(r)
		if err := c.answer(r.id, err, body); err != nil {
			return err
		}
	}
}

func (s *Server) do(r request) (message, error) {
	k := reap.Key{Container: r.container, StartTime: r.startTime}
	switch r.body {
	case bodyHello:
		return helloBody(), nil
	case bodyRegister:
		if err := s.Reaper.Register(k, int(r.pid)); err != nil {
			return nil, err
		}
		s.pipes.hold(k, int(r.pid))
		return nil, nil
	case bodyStatus:
		state, status := s.Reaper.Status(k)
		return exitBody(int(state), uint32(status)), nil
	case bodyAck:
		s.Reaper.Ack(k)
		s.pipes.release(k)
		return nil, nil
	case bodyServices:
		return servicesBody(s.Services()), nil
	case bodyPower:
		s.Power(r.powerOff, r.reason)
		return nil, nil
	}
	return nil, errForm
}

// later answers a waiting status request when its process is dead, at once when it is
// unknown.
func (c *conn) later(r request, gone <-chan struct{}) {
	k := reap.Key{Container: r.container, StartTime: r.startTime}
	done := c.server.Reaper.Wait(k)
	state, _ := c.server.Reaper.Status(k)
	if done == nil || state != reap.Running {
		body, err := c.server.do(r)
		c.answer(r.id, err, body)
		return
	}
	c.mu.Lock()
	full := c.open >= maxOpen
	if !full {
		c.open++
	}
	c.mu.Unlock()
	if full {
		c.answer(r.id, fmt.Errorf("more than %d requests wait on this connection", maxOpen), nil)
		return
	}
	go func() { // ends with the process, its acknowledgement or the connection
		select {
		case <-done:
			body, err := c.server.do(r)
			c.answer(r.id, err, body)
		case <-gone:
		}
		c.mu.Lock()
		c.open--
		c.mu.Unlock()
	}()
}

func (c *conn) answer(id uint64, err error, body message) error {
	m := response(id, err, body)
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(m)), uint32(len(m)))
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.file.Write(append(frame, m...)); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("read frame: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxRequest {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", errForm, n, maxRequest)
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(r, raw); err != nil {
		return nil, fmt.Errorf("read frame: %w", err)
	}
	return raw, nil
}
