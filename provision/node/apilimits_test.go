package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesolith/mesolith/internal/wire/noded"
)

// hall is a listener whose connections are pipes of the bubble.
type hall struct {
	in   chan net.Conn
	gone chan struct{}
}

func (h *hall) Accept() (net.Conn, error) {
	select {
	case c := <-h.in:
		return c, nil
	case <-h.gone:
		return nil, net.ErrClosed
	}
}

func (h *hall) Close() error {
	select {
	case <-h.gone:
	default:
		close(h.gone)
	}
	return nil
}

func (h *hall) Addr() net.Addr { return &net.TCPAddr{} }

// Strangers who hold every connection open, idle or within a request, keep nobody out for
// long.
func TestStrangersHoldNoPlaces(t *testing.T) {
	for name, request := range map[string]string{
		"idle":            "GET /v1/health HTTP/1.1\r\nHost: n\r\n\r\n",
		"a body for ever": "POST /v1/reboot HTTP/1.1\r\nHost: n\r\nContent-Length: 1000\r\n\r\n",
		"a head for ever": "GET /v1/health HTTP/1.1\r\nHost:",
		"silent":          "",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { strangersHoldNoPlaces(t, request) })
		})
	}
}

func strangersHoldNoPlaces(t *testing.T, request string) {
	l := &hall{make(chan net.Conn), make(chan struct{})}
	n := &machine{cfg: Config{API: l, Clock: &wall{}, Log: slog.New(slog.DiscardHandler)}, hub: newHub(&noded.Node{})}
	a, err := newAPI(n)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.serve(ctx) }()
	var open []net.Conn
	knock := func() *tls.Conn {
		ours, theirs := net.Pipe()
		l.in <- theirs
		open = append(open, ours)
		return tls.Client(ours, &tls.Config{InsecureSkipVerify: true})
	}
	for range maxAPIConns {
		c := knock()
		go func() {
			if _, err := io.WriteString(c, request); err == nil && request != "" {
				_, _ = io.Copy(io.Discard, c)
			}
		}()
	}
	synctest.Wait()
	began := time.Now()
	c := knock() // returns when a place is free
	if _, err := io.WriteString(c, "GET /v1/health HTTP/1.1\r\nHost: n\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusServiceUnavailable { // there is no document
		t.Errorf("answer %s", resp.Status)
	}
	if waited := time.Since(began); waited > time.Minute {
		t.Errorf("waited %s for a place", waited)
	}
	for _, c := range open {
		_ = c.Close()
	}
	cancel()
	<-ended
}
