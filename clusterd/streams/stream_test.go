package streams

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// wire is a ResponseWriter that keeps each write apart and counts flushes.
type wire struct {
	header  http.Header
	status  int
	block   chan struct{} // when set, writes wait until it is closed
	flushes int

	mu     sync.Mutex
	writes []string
}

func newWire() *wire { return &wire{header: http.Header{}} }

func (w *wire) Header() http.Header { return w.header }
func (w *wire) WriteHeader(s int)   { w.status = s }
func (w *wire) Flush()              { w.flushes++ }

func (w *wire) Write(p []byte) (int, error) {
	if w.block != nil {
		<-w.block
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = append(w.writes, string(p))
	return len(p), nil
}

func (w *wire) seen() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.writes)
}

func subscribed() *Event {
	return NewEvent(&scheduler.Event{
		Type: scheduler.Event_SUBSCRIBED.Enum(),
		Subscribed: &scheduler.Event_Subscribed{
			FrameworkId:              &mesosv1.FrameworkID{Value: new("f")},
			HeartbeatIntervalSeconds: proto.Float64(15),
		},
	})
}

func failed(message string) *Event {
	return NewEvent(&scheduler.Event{
		Type:  scheduler.Event_ERROR.Enum(),
		Error: &scheduler.Event_Error{Message: &message},
	})
}

const heartbeatRecord = "20\n" + `{"type":"HEARTBEAT"}`

func TestServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New("id-1", JSON, 1<<20)
		w := newWire()
		if !s.Send(subscribed()) {
			t.Fatal("first event refused")
		}
		done := make(chan error, 1)
		go func() { done <- s.Serve(t.Context(), w) }()
		synctest.Wait()
		if w.status != 200 || w.header.Get("Mesos-Stream-Id") != "id-1" || w.header.Get("Content-Type") != "application/json" {
			t.Errorf("status %d, header %v", w.status, w.header)
		}
		want := []string{record(subscribed()), heartbeatRecord}
		compare(t, w.seen(), want)

		time.Sleep(4 * time.Second)
		synctest.Wait()
		compare(t, w.seen(), want)
		time.Sleep(time.Second)
		synctest.Wait()
		want = append(want, heartbeatRecord)
		compare(t, w.seen(), want)

		// An event puts the next heartbeat off.
		time.Sleep(4 * time.Second)
		s.Send(failed("a"))
		time.Sleep(4 * time.Second)
		synctest.Wait()
		want = append(want, record(failed("a")))
		compare(t, w.seen(), want)

		s.Send(failed("b"))
		s.Close(failed("c"))
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		compare(t, w.seen(), append(want, record(failed("b")), record(failed("c"))))
		if w.flushes != len(w.writes)+1 {
			t.Errorf("%d flushes for %d writes", w.flushes, len(w.writes))
		}
		if s.Send(failed("d")) {
			t.Error("a closed stream took an event")
		}
	})
}

// A subscription that is refused is one ERROR and nothing else.
func TestServeErrorOnly(t *testing.T) {
	s := New("id", Protobuf, 1<<20)
	s.Close(failed("no"))
	w := newWire()
	if err := s.Serve(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	if len(w.writes) != 1 {
		t.Fatalf("%d writes", len(w.writes))
	}
	body, err := recordio.NewReader(strings.NewReader(w.writes[0]), 1000).Next()
	if err != nil {
		t.Fatal(err)
	}
	var e scheduler.Event
	if err := proto.Unmarshal(body, &e); err != nil || e.GetError().GetMessage() != "no" {
		t.Errorf("%v, %v", &e, err)
	}
}

func TestOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New("id", JSON, 10_000)
		w := newWire()
		w.block = make(chan struct{})
		s.Send(subscribed())
		done := make(chan error, 1)
		go func() { done <- s.Serve(t.Context(), w) }()
		synctest.Wait()
		sent := 0
		for s.Send(failed(strings.Repeat("x", 1000))) {
			sent++
		}
		if sent < 8 || sent > 10 {
			t.Errorf("%d events fitted", sent)
		}
		close(w.block)
		if err := <-done; !errors.Is(err, ErrOverflow) {
			t.Errorf("Serve: %v", err)
		}
		if s.Send(failed("late")) {
			t.Error("took an event after the overflow")
		}
	})
}

func TestServeGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := New("id", JSON, 1<<20)
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx, newWire()) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, ErrGone) || !errors.Is(err, ErrUnheard) {
			t.Errorf("Serve: %v", err)
		}
		if s.Send(subscribed()) {
			t.Error("took an event after the subscriber went")
		}
	})
}

// Who goes after the first event has left; who goes before never came.
func TestServeGoneAfterTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := New("id", JSON, 1<<20)
		s.Send(subscribed())
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx, newWire()) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, ErrGone) || errors.Is(err, ErrUnheard) {
			t.Errorf("Serve: %v", err)
		}
	})
}

// Over real HTTP: chunked, records arrive one by one while the stream is open, and the
// body ends cleanly, also for a client that asked for Connection: close.
func TestServeHTTP(t *testing.T) {
	s := New("id", JSON, 1<<20)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.Serve(r.Context(), w); err != nil {
			t.Errorf("Serve: %v", err)
		}
	}))
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if len(resp.TransferEncoding) != 1 || resp.TransferEncoding[0] != "chunked" {
		t.Errorf("transfer encoding %v", resp.TransferEncoding)
	}
	r := recordio.NewReader(resp.Body, 1<<20)
	s.Send(subscribed())
	for range 2 {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	s.Close(failed("end"))
	if b, err := r.Next(); err != nil || !bytes.Contains(b, []byte("end")) {
		t.Errorf("%s, %v", b, err)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("end of stream: %v", err)
	}
}

func record(e *Event) string { return string(e.record(JSON)) }

func compare(t *testing.T, have, want []string) {
	t.Helper()
	if strings.Join(have, "|") != strings.Join(want, "|") {
		t.Errorf("have %q\nwant %q", have, want)
	}
}
