// Package machine asks noded, over its Unix socket, what machine this is: the verified
// node document, the credentials, the inventory, the addresses. It keeps the newest
// answer and tells when it changes; it tells noded in turn what the console and the
// node API show of the cluster, and where issuers were heard.
//
// Invariant: Node is never older than one that was seen before, also over restarts of
// noded (an answer is taken whole or not at all). While noded is away the last answer
// holds; nothing here gives up.
package machine

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/noded"
	"google.golang.org/protobuf/proto"
)

// Client is the connection to noded. Run keeps it; the other methods may be called
// from anywhere.
type Client struct {
	socket string
	log    *slog.Logger

	mu      sync.Mutex
	node    *noded.Node
	changed chan struct{} // closed and replaced at each change
	status  *noded.ClusterStatus
	hints   *noded.PeerHints
	wake    chan struct{} // there is something to tell
}

// New gives a client of the socket; nothing is dialled yet.
func New(socket string, log *slog.Logger) *Client {
	return &Client{socket: socket, log: log, changed: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// Run keeps the connection until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	lastWhy := ""
	for ctx.Err() == nil {
		err := c.talk(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if why := fmt.Sprint(err); why != lastWhy {
			c.log.Warn("no connection to noded", "socket", c.socket, "why", why)
			lastWhy = why
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	return nil
}

func (c *Client) talk(ctx context.Context) error {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", c.socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer conn.Close()
	wg.Go(func() {
		<-ctx.Done()
		conn.Close()
	})
	if err := wire.Write(conn, &noded.Request{Id: 1, Body: &noded.Request_Hello{Hello: &noded.Hello{Protocol: 1, Program: "clusterd"}}}); err != nil {
		return err
	}
	if err := wire.Write(conn, &noded.Request{Id: 2, Body: &noded.Request_GetNode{GetNode: &noded.GetNode{}}}); err != nil {
		return err
	}
	wg.Go(func() { c.tell(ctx, conn) })
	for {
		m := &noded.Response{}
		if err := wire.Read(conn, m, wire.MaxFrame); err != nil {
			return err
		}
		if m.GetError() != "" {
			c.log.Warn("noded refused a request", "why", m.GetError())
			continue
		}
		if n := m.GetNode(); n != nil {
			c.take(n)
		}
	}
}

func (c *Client) take(n *noded.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.node != nil && proto.Equal(c.node, n) {
		return
	}
	c.node = n
	close(c.changed)
	c.changed = make(chan struct{})
}

// tell writes the newest status and hints whenever they changed, first what is known.
func (c *Client) tell(ctx context.Context, conn net.Conn) {
	id := uint64(2)
	var toldStatus *noded.ClusterStatus
	var toldHints *noded.PeerHints
	for {
		c.mu.Lock()
		status, hints := c.status, c.hints
		c.mu.Unlock()
		var requests []*noded.Request
		if status != nil && status != toldStatus {
			requests = append(requests, &noded.Request{Body: &noded.Request_Status{Status: status}})
		}
		if hints != nil && hints != toldHints {
			requests = append(requests, &noded.Request{Body: &noded.Request_PeerHints{PeerHints: hints}})
		}
		toldStatus, toldHints = status, hints
		for _, r := range requests {
			id++
			r.Id = id
			if err := wire.Write(conn, r); err != nil {
				conn.Close()
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
	}
}

// Node gives the newest answer (nil: none yet) and a channel that closes when there is
// a newer one.
func (c *Client) Node() (*noded.Node, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.node, c.changed
}

// Wait returns the first answer for which ready is true.
func (c *Client) Wait(ctx context.Context, ready func(*noded.Node) bool) (*noded.Node, error) {
	for {
		n, changed := c.Node()
		if n != nil && ready(n) {
			return n, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Report sets what console and node API show of the cluster.
func (c *Client) Report(s *noded.ClusterStatus) {
	c.mu.Lock()
	same := proto.Equal(c.status, s)
	if !same {
		c.status = s
	}
	c.mu.Unlock()
	if !same {
		c.nudge()
	}
}

// Hint sets where issuers were heard.
func (c *Client) Hint(h *noded.PeerHints) {
	c.mu.Lock()
	same := proto.Equal(c.hints, h)
	if !same {
		c.hints = h
	}
	c.mu.Unlock()
	if !same {
		c.nudge()
	}
}

func (c *Client) nudge() {
	select {
	case c.wake <- struct{}{}:
	default: // it is on its way already
	}
}
