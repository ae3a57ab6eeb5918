package lan

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// Switch is an Ethernet switch whose ports have names. The zero value is not usable.
type Switch struct {
	mu    sync.Mutex
	ports map[string]*port
	table map[[6]byte]*port // where each source address was last seen
	links map[direction]*link

	closed    chan struct{}
	closeOnce sync.Once
	lines     sync.WaitGroup
}

// port is one socket of the switch. out is never closed; gone is, when the port is left.
type port struct {
	name string
	out  chan []byte
	gone chan struct{}
}

// queueFrames is how many frames wait for a slow port before more are dropped, as a
// switch does; TCP between guests notices and slows down.
const queueFrames = 2048

// maxAddresses bounds the table of addresses; a guest that makes more up floods.
const maxAddresses = 4096

// ErrPortTaken says that another machine is plugged in under this name.
var ErrPortTaken = errors.New("port is taken")

// NewSwitch gives a switch without ports. Close ends it.
func NewSwitch() *Switch {
	return &Switch{
		ports:  make(map[string]*port),
		table:  make(map[[6]byte]*port),
		links:  make(map[direction]*link),
		closed: make(chan struct{}),
	}
}

// Close ends the delay lines. Ports end with their connections.
func (s *Switch) Close() {
	s.closeOnce.Do(func() { close(s.closed) })
	s.lines.Wait()
}

// join makes a port.
func (s *Switch) join(name string) (*port, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports[name] != nil {
		return nil, fmt.Errorf("plug %s into the LAN: %w", name, ErrPortTaken)
	}
	p := &port{name: name, out: make(chan []byte, queueFrames), gone: make(chan struct{})}
	s.ports[name] = p
	return p, nil
}

// leave removes a port and forgets its addresses.
func (s *Switch) leave(p *port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ports, p.name)
	for mac, at := range s.table {
		if at == p {
			delete(s.table, mac)
		}
	}
	close(p.gone)
}

// input takes a frame from a port and passes it on. The frame is not changed afterwards.
func (s *Switch) input(from *port, frame []byte) {
	if len(frame) < headerLen {
		return
	}
	dst, src := [6]byte(frame[0:6]), [6]byte(frame[6:12])
	s.mu.Lock()
	defer s.mu.Unlock()
	if src[0]&1 == 0 && (s.table[src] != nil || len(s.table) < maxAddresses) {
		s.table[src] = from
	}
	if to := s.table[dst]; to != nil && dst[0]&1 == 0 {
		if to != from {
			s.pass(from, to, frame)
		}
		return
	}
	for _, to := range s.ports {
		if to != from {
			s.pass(from, to, frame)
		}
	}
}

// Serve is the life of one port: frames come from conn and go to it until the connection
// or ctx ends. It closes conn. A connection that the other side ends is no error.
func (s *Switch) Serve(ctx context.Context, name string, conn net.Conn) error {
	defer conn.Close()
	p, err := s.join(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	var writer sync.WaitGroup
	writer.Go(func() {
		defer conn.Close()
		writeFrames(conn, p)
	})
	defer writer.Wait()
	defer s.leave(p)
	r := bufio.NewReaderSize(conn, 256<<10)
	for {
		frame, err := ReadFrame(r)
		if err != nil {
			if ctx.Err() != nil || isClosed(err) {
				return nil
			}
			return fmt.Errorf("port %s: %w", name, err)
		}
		s.input(p, frame)
	}
}

// writeFrames sends what is queued at a port, as many frames in one write as there are.
func writeFrames(conn net.Conn, p *port) {
	buf := make([]byte, 0, 256<<10)
	for {
		select {
		case <-p.gone:
			return
		case frame := <-p.out:
			buf = AppendFrame(buf[:0], frame)
		}
	more:
		for len(buf) < 128<<10 {
			select {
			case frame := <-p.out:
				buf = AppendFrame(buf, frame)
			default:
				break more
			}
		}
		if _, err := conn.Write(buf); err != nil {
			return
		}
	}
}
