package calls

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/streams"
	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/forward"
)

const (
	dialTime   = 5 * time.Second
	answerTime = 30 * time.Second // until the leader's first byte; it commits before it answers
	idleTime   = 20 * time.Second // less than the leader's, so that it does not close first
	// silenceLimit is after what time without a record a forwarded stream is given up; the
	// leader writes a heartbeat every five seconds.
	silenceLimit = 20 * time.Second
	maxRecord    = 64 << 20
	// lastWord is what a leader gets to answer when another one is known already.
	lastWord = 2 * time.Second
)

var (
	// errNotReached says that no byte of a request has left, or errNotHere.
	errNotReached = errors.New("the leader was not reached")
	// errNotHere says that a request met somebody who does not lead and did nothing.
	errNotHere = fmt.Errorf("%w: who was taken for it does not lead", errNotReached)
)

// Dialer opens a forward/1 connection to the named node.
type Dialer func(ctx context.Context, node string) (net.Conn, error)

// forwarder sends requests to the leader. Connections are kept for further calls of the
// same caller (the first frame says who that is), so a connection never serves two.
type forwarder struct{ transport *http.Transport }

type dialKey struct{}

func newForwarder(dial Dialer) *forwarder {
	return &forwarder{transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			caller, ok := ctx.Value(dialKey{}).(*forward.Caller)
			if !ok {
				return nil, errors.New("forwarded call without a caller")
			}
			return open(ctx, dial, caller)
		},
		DisableCompression:     true, // what the leader encoded is passed on as it is
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        idleTime,
		ResponseHeaderTimeout:  answerTime,
		MaxResponseHeaderBytes: 64 << 10,
	}}
}

func open(ctx context.Context, dial Dialer, caller *forward.Caller) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	c, err := dial(ctx, caller.GetLeader())
	if err != nil {
		return nil, fmt.Errorf("dial leader %s: %w", caller.GetLeader(), err)
	}
	if err = c.SetWriteDeadline(time.Now().Add(dialTime)); err == nil {
		err = wire.Write(c, caller)
	}
	if err == nil {
		err = c.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("greet leader %s: %w", caller.GetLeader(), err)
	}
	return &leaderConn{Conn: c}, nil
}

// do sends one call and passes the answer on. until returns when the leader's term is over,
// or a stream must end for another reason. A call is never sent twice once a byte of it may
// have left: net/http repeats only reads, and what it could not begin to write. With
// errNotReached nothing was answered either.
func (f *forwarder) do(w http.ResponseWriter, r *http.Request, body []byte, caller *forward.Caller, until func(context.Context) error) error {
	// Not the caller's context: when the caller leaves, the leader is told before the
	// connection closes.
	ctx, cancel := context.WithCancelCause(context.WithValue(context.WithoutCancel(r.Context()), dialKey{}, caller))
	defer cancel(nil)
	var upstream *leaderConn
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { upstream, _ = info.Conn.(*leaderConn) },
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	answered, markAnswered := context.WithCancel(ctx)
	defer markAnswered()
	wg.Go(func() { // a caller who leaves before the answer
		select {
		case <-r.Context().Done():
			cancel(errCallerLeft)
		case <-answered.Done():
		}
	})
	wg.Go(func() { // a leader that has lost its office, or its power
		if !errors.Is(until(answered), errTermOver) {
			return
		}
		timer := time.NewTimer(lastWord)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel(errTermOver)
		case <-answered.Done():
		}
	})
	resp, err := f.transport.RoundTrip(outgoing(ctx, r, body, caller))
	markAnswered()
	if err != nil && upstream == nil {
		return fmt.Errorf("forward to %s: %w: %w", caller.GetLeader(), errNotReached, err)
	}
	if err != nil {
		if r.Context().Err() == nil {
			httpio.Error(w, http.StatusServiceUnavailable, "Leader "+caller.GetLeader()+" did not answer; whether it did what was asked is not known")
		}
		return fmt.Errorf("forward to %s: %w", caller.GetLeader(), err)
	}
	defer resp.Body.Close()
	if resp.Header.Get(notHere) != "" {
		return fmt.Errorf("forward to %s: %w", caller.GetLeader(), errNotHere)
	}
	copyHeader(w.Header(), resp.Header)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Mesos-Stream-Id") == "" {
		return passOn(ctx, cancel, w, r, resp)
	}
	wg.Go(func() {
		why := until(ctx)
		if errors.Is(why, errCallerLeft) && upstream != nil {
			upstream.sayCallerLeft()
		}
		if why != nil {
			cancel(why)
		}
	})
	return passStream(ctx, cancel, w, resp)
}

func outgoing(ctx context.Context, r *http.Request, body []byte, caller *forward.Caller) *http.Request {
	u := *r.URL
	u.Scheme, u.Host = "http", poolName(caller)
	out := (&http.Request{
		Method: r.Method, URL: &u, Host: r.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header, len(r.Header)), ContentLength: int64(len(body)),
	}).WithContext(ctx)
	copyHeader(out.Header, r.Header)
	// net/http would take either for a licence to send a POST twice.
	out.Header.Del("Idempotency-Key")
	out.Header.Del("X-Idempotency-Key")
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // none was given, none is made up
	}
	if len(body) > 0 {
		out.Body = io.NopCloser(bytes.NewReader(body))
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	}
	return out
}

// poolName names the connections that may be used for a caller's calls: those that were
// opened for the same caller and term.
func poolName(c *forward.Caller) string {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil { // it has no required fields and no invalid text that we put there
		raw = []byte(url.QueryEscape(c.String()))
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:16]) + ".leader.invalid:80"
}

// hop are the headers that are between two neighbours only.
var hop = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true,
	"Proxy-Authorization": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}

func copyHeader(to, from http.Header) {
	named := map[string]bool{}
	for _, line := range from.Values("Connection") {
		for _, name := range strings.Split(line, ",") {
			named[http.CanonicalHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	for name, values := range from {
		if !hop[name] && !named[name] {
			to[name] = append([]string(nil), values...)
		}
	}
}

// passOn writes a unary answer as it comes.
func passOn(ctx context.Context, cancel context.CancelCauseFunc, w http.ResponseWriter, r *http.Request, resp *http.Response) error {
	defer context.AfterFunc(r.Context(), func() { cancel(errCallerLeft) })()
	control := http.NewResponseController(w)
	if err := control.SetWriteDeadline(time.Now().Add(2 * time.Minute)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("pass on answer: %w", err)
	}
	if resp.Header.Get("Content-Type") == "" {
		w.Header()["Content-Type"] = nil // net/http must not make one up
	}
	w.WriteHeader(resp.StatusCode)
	if _, err := io.Copy(w, resp.Body); err != nil {
		// The caller must not take what it got for the whole.
		panic(http.ErrAbortHandler)
	}
	return nil
}

// passStream passes whole records on until the stream ends. Whatever ends it, the caller
// sees its last chunk.
func passStream(ctx context.Context, cancel context.CancelCauseFunc, w http.ResponseWriter, resp *http.Response) error {
	w.WriteHeader(resp.StatusCode)
	out := streams.NewSink(w)
	if err := out.Flush(); err != nil {
		return err
	}
	quiet := time.AfterFunc(silenceLimit, func() { cancel(errors.New("the leader is silent")) })
	defer quiet.Stop()
	in := recordio.NewReader(resp.Body, maxRecord)
	for {
		record, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return fmt.Errorf("forwarded stream: %w", err)
		}
		quiet.Reset(silenceLimit)
		if err := out.Write(recordio.Append(make([]byte, 0, len(record)+12), record)); err != nil {
			return err
		}
	}
}
