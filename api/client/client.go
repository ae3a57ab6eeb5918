// Package client is for authors of frameworks: it speaks the Mesos v1 scheduler API to a
// cluster, in JSON or protobuf.
//
// Client sends calls and opens the stream of events. Client.Run keeps a framework
// subscribed: it reconnects with the framework's id, tries the next master when one does
// not answer, takes a silent stream for a lost one, and acknowledges each status update
// after the handler has returned. Launcher, above it, is a whole small framework: tasks
// in, their updates out.
//
// Invariants: a status update is acknowledged only after the handler has accepted it, so
// that one that the program died over comes again. A call that does no harm twice (KILL,
// RECONCILE, …) waits for the next subscription and is repeated until ctx ends; one that
// could be done twice (ACCEPT) is sent once, and when it stays without an answer its
// stream is ended with it: the next SUBSCRIBED is the handler's sign to reconcile, and
// what was still on its way can no longer take effect, because it bears the id of a
// stream that is over.
//
// It decides nothing about offers (Launcher does, first fit) and keeps no state on disk.
package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// Config says whom to talk to and as whom.
type Config struct {
	// Masters are the URLs of one or more nodes, such as http://127.0.0.1:5050; any node
	// answers for the whole cluster, the others are tried when one does not.
	Masters []string
	// HTTP carries the connections; nil: a client of its own. One with a Timeout would
	// cut the stream of events.
	HTTP *http.Client
	// Principal and Secret are sent as Basic credentials when Principal is set.
	Principal, Secret string
	// Protobuf: calls and events are protobuf instead of JSON.
	Protobuf bool
	// Framework describes the framework. Its id is set by the first subscription.
	Framework *mesosv1.FrameworkInfo
	// Log tells of reconnections; nil: nothing is told.
	Log *slog.Logger
}

// Client is one framework's connection to a cluster.
type Client struct {
	cfg Config

	mu      sync.Mutex
	info    *mesosv1.FrameworkInfo
	master  int           // index of the master in use
	failed  []time.Time   // by master: when it last did not answer
	sub     *subscription // nil between two streams
	changed chan struct{} // closed, and made anew, when sub or ended changes
	ended   error         // why Run returned
}

const (
	path         = "/api/v1/scheduler"
	streamHeader = "Mesos-Stream-Id"
	typeJSON     = "application/json"
	typeProtobuf = "application/x-protobuf"
	maxErrorText = 4 << 10
	// dialTime is how long a master may take to be reached.
	dialTime = 5 * time.Second
	// avoidTime is for how long a master that did not answer is tried last.
	avoidTime = time.Minute
)

// StatusError is an answer that refuses a call.
type StatusError struct {
	Call string // the call's type
	Code int    // HTTP status
	Text string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("call %s refused with status %d: %s", e.Call, e.Code, strings.TrimSpace(e.Text))
}

// nothingDone tells the refusals that came before anything was decided.
func (e *StatusError) nothingDone() bool { return e.Code < 500 || e.Code == http.StatusNotImplemented }

// New checks a configuration and gives a client; nothing is sent yet.
func New(cfg Config) (*Client, error) {
	if len(cfg.Masters) == 0 {
		return nil, errors.New("no master's URL given")
	}
	for _, m := range cfg.Masters {
		if !strings.HasPrefix(m, "http://") && !strings.HasPrefix(m, "https://") {
			return nil, fmt.Errorf("master %q is not a URL such as http://127.0.0.1:5050", m)
		}
	}
	if cfg.Framework == nil {
		return nil, errors.New("no FrameworkInfo given")
	}
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Transport: transport()}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	info := proto.Clone(cfg.Framework).(*mesosv1.FrameworkInfo)
	if cfg.Principal != "" && info.Principal == nil {
		info.Principal = proto.String(cfg.Principal)
	}
	return &Client{cfg: cfg, info: info, changed: make(chan struct{}), failed: make([]time.Time, len(cfg.Masters))}, nil
}

func transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: dialTime}).DialContext
	t.TLSHandshakeTimeout = dialTime
	return t
}

// FrameworkID is the framework's id, empty before the first subscription.
func (c *Client) FrameworkID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.info.GetId().GetValue()
}

// base is the URL of the master in use; the caller holds the lock.
func (c *Client) base() string {
	return strings.TrimSuffix(c.cfg.Masters[c.master], "/")
}

// nextMaster turns to another master; failed: the present one did not answer, so that it is
// left alone for a while. A dead one takes long to be noticed each time.
func (c *Client) nextMaster(failed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, n := time.Now(), len(c.failed)
	if failed {
		c.failed[c.master] = now
	}
	best := (c.master + 1) % n
	for i := 1; i <= n; i++ {
		m := (c.master + i) % n
		if c.failed[m].IsZero() || now.Sub(c.failed[m]) > avoidTime {
			best = m
			break
		}
		if c.failed[m].Before(c.failed[best]) {
			best = m
		}
	}
	c.master = best
}

func (c *Client) post(ctx context.Context, base, streamID string, call *scheduler.Call) (*http.Response, error) {
	body, contentType, err := c.encode(call)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", call.GetType(), err)
	}
	// net/http repeats a POST only when no byte of it has left, so that this is sent once.
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", contentType)
	if streamID != "" {
		req.Header.Set(streamHeader, streamID)
	}
	if c.cfg.Principal != "" {
		req.SetBasicAuth(c.cfg.Principal, c.cfg.Secret)
	}
	resp, err := c.cfg.HTTP.Do(req)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", call.GetType(), err)
	}
	return resp, nil
}

func (c *Client) encode(call *scheduler.Call) (body []byte, contentType string, err error) {
	if !c.cfg.Protobuf {
		return mesosjson.Marshal(call), typeJSON, nil
	}
	body, err = proto.Marshal(call)
	if err != nil {
		return nil, "", fmt.Errorf("encode call %s: %w", call.GetType(), err)
	}
	return body, typeProtobuf, nil
}

func (c *Client) decode(record []byte) (*scheduler.Event, error) {
	var e scheduler.Event
	var err error
	if c.cfg.Protobuf {
		err = proto.Unmarshal(record, &e)
	} else {
		err = mesosjson.Unmarshal(record, &e)
	}
	if err != nil {
		return nil, fmt.Errorf("decode event: %w", err)
	}
	return &e, nil
}

func refusal(call *scheduler.Call, resp *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorText))
	if err != nil {
		text = []byte(err.Error())
	}
	return &StatusError{Call: call.GetType().String(), Code: resp.StatusCode, Text: string(text)}
}
