// Package doors opens the HTTP ports: one listener serves TLS and plain HTTP side by
// side, told apart by the first byte a client sends, as Mesos' own ports do. Whether a
// plain client may come in is the caller's rule, asked before a byte of its request is
// read; a client that may not is told so in plain HTTP and the connection ends.
//
// Invariants: a client that sends nothing holds no goroutine longer than helloWait; a
// slow handshake delays nobody else; one that vanishes without a word is let go after
// vanishWait, with its stream and its offers; one address has no more than mostPerAddress
// connections, so that whoever hoards them is the one who gets no more; HTTP/1.1 only,
// because streams must be chunked.
//
// Who the caller is and what it may do is package auth's.
package doors

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/mesolith/mesolith/internal/vanish"
)

const (
	helloWait  = 30 * time.Second // a client may be starved of its processor
	lastWords  = 3 * time.Second  // for requests under way when the program ends
	headerWait = 15 * time.Second
	idleWait   = 2 * time.Minute
	maxHeaders = 64 << 10 // bytes
	// vanishWait is how long a client may acknowledge nothing of what it is sent. A
	// subscriber is sent a heartbeat every five seconds.
	vanishWait = 30 * time.Second
	// recordTypeHandshake is the first byte of every TLS ClientHello.
	recordTypeHandshake = 0x16
)

const refusal = "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n" +
	"This port speaks TLS. Use https://, or allow plain HTTP in the cluster file: api: {plaintext: true}.\n"

// Config says how one port is opened. TLS nil: plain HTTP only.
type Config struct {
	TLS   *tls.Config
	Plain func(remote net.Addr) bool // nil: everybody may come by plain HTTP
}

// Serve answers on l until ctx ends; then it stops listening and ends what is open.
func Serve(ctx context.Context, l net.Listener, cfg Config, h http.Handler) error {
	if cfg.TLS != nil {
		cfg.TLS = cfg.TLS.Clone()
		cfg.TLS.NextProtos = []string{"http/1.1"}
	}
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: headerWait, IdleTimeout: idleWait, MaxHeaderBytes: maxHeaders,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	sorted := &sorter{Listener: l, cfg: cfg, ready: make(chan net.Conn), closed: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(sorted.run)
	wg.Go(func() {
		<-ctx.Done()
		// Streams see ctx end too and end with their last chunk; what does not is cut.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		defer cancel()
		if s.Shutdown(last) != nil {
			s.Close()
		}
	})
	err := s.Serve(sorted)
	sorted.Close()
	if ctx.Err() != nil {
		err = nil
		wg.Wait()
	}
	return err
}

// sorter hands connections to the server once it is known what they speak.
type sorter struct {
	net.Listener
	cfg    Config
	ready  chan net.Conn
	once   sync.Once
	closed chan struct{}
	failed error // set before closed is closed
	crowds crowds
}

func (s *sorter) run() {
	var wg sync.WaitGroup
	defer wg.Wait()
	pause := time.Millisecond
	for {
		c, err := s.Listener.Accept()
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() || isTransient(err) {
				select { // out of descriptors: let some end
				case <-time.After(pause):
					pause = min(2*pause, time.Second)
					continue
				case <-s.closed:
					return
				}
			}
			_ = s.end(err) // of a listener that has failed already
			return
		}
		pause = time.Millisecond
		if err := vanish.After(c, vanishWait); err != nil {
			c.Close() // it is gone already
			continue
		}
		if c = s.crowds.enter(c); c != nil {
			wg.Go(func() { s.sort(c) })
		}
	}
}

func isTransient(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Temporary()
}

func (s *sorter) sort(c net.Conn) {
	if s.cfg.TLS == nil {
		s.hand(c)
		return
	}
	c.SetReadDeadline(time.Now().Add(helloWait))
	r := bufio.NewReaderSize(c, 16)
	first, err := r.Peek(1)
	if err != nil {
		c.Close()
		return
	}
	c.SetReadDeadline(time.Time{})
	p := &peeked{Conn: c, r: r}
	switch {
	case first[0] == recordTypeHandshake:
		s.hand(tls.Server(p, s.cfg.TLS))
	case s.cfg.Plain == nil || s.cfg.Plain(c.RemoteAddr()):
		s.hand(p)
	default:
		refuse(c)
	}
}

// refuse says why and then reads what is still coming: closing with unread bytes would
// reset the connection and take the sentence with it.
func refuse(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(c, refusal); err != nil {
		return
	}
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	io.CopyN(io.Discard, c, 1<<20)
}

func (s *sorter) hand(c net.Conn) {
	select {
	case s.ready <- c:
	case <-s.closed:
		c.Close()
	}
}

// Accept implements net.Listener.
func (s *sorter) Accept() (net.Conn, error) {
	select {
	case c := <-s.ready:
		return c, nil
	case <-s.closed:
		if s.failed != nil {
			return nil, s.failed
		}
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (s *sorter) Close() error { return s.end(nil) }

// end closes once; why is what Accept tells then, nil when somebody wanted the end.
func (s *sorter) end(why error) error {
	var err error
	s.once.Do(func() {
		s.failed = why
		close(s.closed)
		err = s.Listener.Close()
	})
	return err
}

// peeked gives back the bytes that were looked at.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }
