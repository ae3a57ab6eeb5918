// Package streams carries events out to subscribers: one bounded queue for each, filled by
// the leader and emptied by the goroutine of the subscriber's HTTP request.
//
// Send never blocks. A subscriber that reads too slowly loses its stream, never an event
// out of the middle of it: what arrives is always a prefix of what was sent, in order, in
// whole records, one write and one flush each. An event is encoded once per format however
// many subscribers it has. The queue is bounded by the size of its messages, so a slow
// subscriber cannot grow the leader's memory.
//
// Serve writes a HEARTBEAT right after the first record and then after five seconds of
// silence, although fifteen are announced: some clients give up after ten. A stream that
// ends on our side ends with the last chunk of the HTTP body.
//
// Who is subscribed to what is the leader's knowledge; credentials and headers of the
// request are checked by calls.
package streams

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

const (
	// AnnouncedHeartbeat is the interval that SUBSCRIBED tells clients.
	AnnouncedHeartbeat = 15 * time.Second
	// silence is after what time without a record a heartbeat is written.
	silence = 5 * time.Second
	// writeLimit is how long one record may take to be taken over by the network.
	writeLimit = 30 * time.Second
	// DefaultMaxBytes is the bound of a framework's queue.
	DefaultMaxBytes = 16 << 20
)

var (
	// ErrOverflow ends Serve when the subscriber was too slow.
	ErrOverflow = errors.New("subscriber reads too slowly, its stream was ended")
	// ErrGone ends Serve when the subscriber, or the connection to it, went away.
	ErrGone = errors.New("subscriber went away")
	// ErrUnheard is ErrGone of a subscriber to whom nothing was written: it waited too long
	// for its first event and knows of no subscription.
	ErrUnheard = fmt.Errorf("%w before its first event", ErrGone)
)

// Stream is one subscription's way out. Send and Close may be called from any goroutine,
// also before Serve; Serve once.
type Stream struct {
	id        string
	encoding  Encoding
	maxBytes  int
	heartbeat *Event
	quiet     time.Duration // without a record, until a heartbeat
	greets    bool          // with a heartbeat after the first record

	wake chan struct{} // holds one token when there may be something to do

	mu         sync.Mutex
	queue      []*Event
	bytes      int
	closed     bool
	overflowed bool
}

// New makes the stream of a scheduler's subscription. maxBytes bounds what may wait to be
// written; a single event is let through whatever its size when nothing else waits.
func New(id string, enc Encoding, maxBytes int) *Stream {
	return &Stream{
		id:        id,
		encoding:  enc,
		maxBytes:  maxBytes,
		heartbeat: NewEvent(&scheduler.Event{Type: scheduler.Event_HEARTBEAT.Enum()}),
		quiet:     silence,
		greets:    true,
		wake:      make(chan struct{}, 1),
	}
}

// NewEvents makes the stream of another kind of subscription, with heartbeats of its own.
func NewEvents(id string, enc Encoding, maxBytes int, heartbeat *Event) *Stream {
	s := New(id, enc, maxBytes)
	s.heartbeat = heartbeat
	return s
}

// NewEvery makes the stream of a subscription without an id, whose heartbeats come only
// after so long a silence.
func NewEvery(quiet time.Duration, enc Encoding, maxBytes int, heartbeat *Event) *Stream {
	s := NewEvents("", enc, maxBytes, heartbeat)
	s.quiet, s.greets = quiet, false
	return s
}

// ID is the value of the Mesos-Stream-Id header.
func (s *Stream) ID() string { return s.id }

// Send queues an event and never blocks. False means that the stream is over: it had been
// closed, or its queue is full, in which case it is closed now and what waited is dropped.
func (s *Stream) Send(e *Event) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if len(s.queue) > 0 && s.bytes+e.bytes > s.maxBytes {
		s.closed, s.overflowed = true, true
		s.queue, s.bytes = nil, 0
		s.signal()
		return false
	}
	s.push(e)
	return true
}

// Close ends the stream after what is queued and, unless nil, last. Further calls do
// nothing.
func (s *Stream) Close(last *Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if last != nil {
		s.push(last)
	}
	s.closed = true
	s.signal()
}

func (s *Stream) push(e *Event) {
	s.queue = append(s.queue, e)
	s.bytes += e.bytes
	s.signal()
}

func (s *Stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take returns the oldest event waiting; none and over means that nothing will come.
func (s *Stream) take() (e *Event, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return nil, s.closed
	}
	e = s.queue[0]
	s.queue[0] = nil
	s.queue = s.queue[1:]
	s.bytes -= e.bytes
	return e, false
}

// Serve answers the subscriber's request with the stream and returns when it is over: nil
// after Close, ErrOverflow when the subscriber was too slow, ErrGone or ErrUnheard when it
// went away or ctx ended. When it returns, Send returns false.
func (s *Stream) Serve(ctx context.Context, w http.ResponseWriter) error {
	defer s.Close(nil)
	heard, err := s.serve(ctx, w)
	if errors.Is(err, ErrGone) && !heard {
		return fmt.Errorf("%w: %w", ErrUnheard, err)
	}
	return err
}

// serve does it, and says whether the first event was written.
func (s *Stream) serve(ctx context.Context, w http.ResponseWriter) (heard bool, err error) {
	h := w.Header()
	h.Set("Content-Type", s.encoding.ContentType())
	if s.id != "" {
		h.Set("Mesos-Stream-Id", s.id)
	}
	w.WriteHeader(http.StatusOK)
	out := NewSink(w)
	if err := out.Flush(); err != nil {
		return heard, err
	}

	quiet := time.NewTimer(s.quiet)
	defer quiet.Stop()
	for {
		e, over := s.take()
		if over {
			return heard, s.outcome()
		}
		if e == nil {
			select {
			case <-ctx.Done():
				return heard, fmt.Errorf("%w: %w", ErrGone, context.Cause(ctx))
			case <-s.wake:
				continue
			case <-quiet.C:
				if !heard { // nothing may precede SUBSCRIBED
					quiet.Reset(s.quiet)
					continue
				}
				e = s.heartbeat
			}
		}
		if err := out.Write(e.record(s.encoding)); err != nil {
			return heard, err
		}
		if !heard {
			heard = true
			if err := s.greet(out); err != nil {
				return heard, err
			}
		}
		quiet.Reset(s.quiet)
	}
}

// greet follows the first record with a heartbeat at once, unless the stream is already
// ending: nothing comes after its last record.
func (s *Stream) greet(out *Sink) error {
	s.mu.Lock()
	ending := s.closed && len(s.queue) == 0 || !s.greets
	s.mu.Unlock()
	if ending {
		return nil
	}
	return out.Write(s.heartbeat.record(s.encoding))
}

func (s *Stream) outcome() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.overflowed {
		return ErrOverflow
	}
	return nil
}
