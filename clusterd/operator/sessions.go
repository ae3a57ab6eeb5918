package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	agentv1 "github.com/mesolith/mesolith/api/mesos/v1/agent"
	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/streams"
)

const (
	// ioHeartbeatEvery is how often a stream of output says that it is there, as Mesos does.
	ioHeartbeatEvery = 30 * time.Second
	// maxSessions is how many sessions and streams of output there are at a time.
	maxSessions = 256
	outputChunk = 16 << 10
	// watchQueue is how many chunks somebody who attached may be behind.
	watchQueue = 256
)

// endOfTransmission ends what is typed on a terminal.
const endOfTransmission = 4

// sessions are those that are open, by isolated's id.
type sessions struct {
	mu   sync.Mutex
	open map[string]*session
	n    int // streams under way
}

// begin counts one stream more; false: there are too many.
func (x *sessions) begin() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.n >= maxSessions {
		return false
	}
	x.n++
	return true
}

func (x *sessions) end() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.n--
}

func (x *sessions) find(id string) *session {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.open[id]
}

func (x *sessions) set(id string, s *session) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.open == nil {
		x.open = map[string]*session{}
	}
	if s == nil {
		delete(x.open, id)
		return
	}
	x.open[id] = s
}

// session is a command whose streams are here.
type session struct {
	of       *agent.Session
	terminal bool
	out      chan *agentv1.ProcessIO // for whoever began it; closed at the end of all output
	over     chan struct{}           // closed when it is

	mu       sync.Mutex
	attached bool // somebody gives it input
	watchers map[chan *agentv1.ProcessIO]bool
}

func newSession(of *agent.Session) *session {
	s := &session{of: of, terminal: of.Stdin == of.Stdout, out: make(chan *agentv1.ProcessIO), over: make(chan struct{}), watchers: map[chan *agentv1.ProcessIO]bool{}}
	var readers sync.WaitGroup
	readers.Go(func() { s.read(of.Stdout, agentv1.ProcessIO_Data_STDOUT) })
	if of.Stderr != nil {
		readers.Go(func() { s.read(of.Stderr, agentv1.ProcessIO_Data_STDERR) })
	}
	go func() {
		readers.Wait()
		close(s.out)
	}()
	return s
}

// read moves a stream to all who listen. Who began the session holds it up; others are left
// behind.
func (s *session) read(f *os.File, t agentv1.ProcessIO_Data_Type) {
	for {
		buf := make([]byte, outputChunk)
		n, err := f.Read(buf)
		if n > 0 {
			p := outputOf(t, buf[:n])
			s.tell(p)
			select {
			case s.out <- p:
			case <-s.over:
				return
			}
		}
		if err != nil { // also EIO, a terminal's end
			return
		}
	}
}

func (s *session) tell(p *agentv1.ProcessIO) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		select {
		case w <- p:
		default:
			delete(s.watchers, w)
			close(w)
		}
	}
}

func (s *session) watch() chan *agentv1.ProcessIO {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := make(chan *agentv1.ProcessIO, watchQueue)
	s.watchers[w] = true
	return w
}

func (s *session) unwatch(w chan *agentv1.ProcessIO) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, w)
}

// close ends it and everything that is attached to it.
func (s *session) close() {
	close(s.over)
	s.of.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		delete(s.watchers, w)
		close(w)
	}
}

// attach is had by one giver of input at a time.
func (s *session) attach() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attached {
		return false
	}
	s.attached = true
	return true
}

func (s *session) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attached = false
}

// take does what one record of input wants.
func (s *session) take(in input) error {
	switch {
	case in.size != nil:
		return s.resize(in.size)
	case in.end && s.terminal:
		_, err := s.of.Stdin.Write([]byte{endOfTransmission})
		return err
	case in.end:
		if err := s.of.Stdin.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			return err
		}
		return nil
	case len(in.data) == 0:
		return nil
	}
	_, err := s.of.Stdin.Write(in.data)
	return err
}

func (s *session) resize(size *mesosv1.TTYInfo_WindowSize) error {
	if !s.terminal {
		return fmt.Errorf("%w: 'tty_info' for a session without a terminal", errInput)
	}
	raw, err := s.of.Stdin.SyscallConn()
	if err != nil {
		return err
	}
	var setErr error
	if err := raw.Control(func(fd uintptr) {
		setErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(size.GetRows()), Col: uint16(size.GetColumns())})
	}); err != nil {
		return err
	}
	return setErr
}

// feed gives a session what a stream brings, until that or the session ends. A nil error is
// the stream's end.
func (s *session) feed(in *inputs) error {
	for {
		next, err := in.process()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.take(next); err != nil {
			if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.EIO) || errors.Is(err, os.ErrClosed) {
				return errOver
			}
			return err
		}
	}
}

var errOver = errors.New("the container has finished, or closed its standard input")

// serveOutput writes a stream of output until it ends or the caller leaves.
func serveOutput(ctx context.Context, w http.ResponseWriter, m mediaOf, out <-chan *agentv1.ProcessIO) error {
	w.Header().Set("Content-Type", m.content)
	if m.streaming {
		w.Header().Set("Message-Content-Type", m.message)
	}
	w.WriteHeader(http.StatusOK)
	sink := streams.NewSink(w)
	if err := sink.Flush(); err != nil {
		return err
	}
	beat := time.NewTicker(ioHeartbeatEvery)
	defer beat.Stop()
	for {
		p := (*agentv1.ProcessIO)(nil)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-beat.C:
			p = ioHeartbeat()
		case next, ok := <-out:
			if !ok {
				return nil
			}
			p = next
		}
		if err := sink.Write(frame(m.message, p)); err != nil {
			return err
		}
	}
}
