package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// ErrNotSubscribed says that a call was not sent: there is no stream that it could belong
// to, or no connection to its master.
var ErrNotSubscribed = errors.New("the framework is not subscribed, nothing was sent")

// ErrStreamLost says that a call of a handler failed because its stream ended. A handler
// may return it: Run subscribes again.
var ErrStreamLost = errors.New("the stream of events was lost")

// attemptTime is how long one sending of a call may take. The cluster commits before it
// answers, in well under a second; a master without power never does.
const attemptTime = 15 * time.Second

// repeatable are the calls that do no harm when they arrive twice, and that mean the same
// on another stream. The answers to offers are not among them: offers end with their
// stream.
var repeatable = map[scheduler.Call_Type]bool{
	scheduler.Call_TEARDOWN: true, scheduler.Call_REVIVE: true, scheduler.Call_SUPPRESS: true, scheduler.Call_KILL: true,
	scheduler.Call_SHUTDOWN: true, scheduler.Call_ACKNOWLEDGE: true, scheduler.Call_RECONCILE: true, scheduler.Call_REQUEST: true,
}

// subscription is one established stream.
type subscription struct {
	id        string
	base      string // URL of its master
	framework *mesosv1.FrameworkID
	cancel    context.CancelCauseFunc // ends its connection and what its handler does

	once sync.Once
	over chan struct{} // closed when it has ended
}

func (s *subscription) isOver() bool {
	select {
	case <-s.over:
		return true
	default:
		return false
	}
}

// handlerKey marks the context of a handler with its subscription: such a call cannot wait
// for the next one, which begins only when the handler has returned.
type handlerKey struct{}

// note changes what is known and tells everybody who waits.
func (c *Client) note(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

// over notes that a subscription has ended.
func (c *Client) over(s *subscription) {
	s.once.Do(func() {
		close(s.over)
		c.note(func() {
			if c.sub == s {
				c.sub = nil
			}
		})
	})
}

// end gives a subscription up; Run opens another.
func (c *Client) end(s *subscription, why error) {
	c.over(s)
	// Only the words: what refused the call says nothing about subscribing.
	s.cancel(fmt.Errorf("%w: %v", ErrStreamLost, why))
}

// Call sends a call of a subscribed framework; its framework id is filled in. nil means
// that the cluster has taken it. Calls that do no harm twice wait for a subscription and
// are repeated until ctx ends (in a handler: until its stream does). ACCEPT, DECLINE and
// other calls are sent once: with ErrNotSubscribed nothing was sent, a StatusError below
// 500 (or 501) says that nothing was done; after any other error nobody knows, and Run
// subscribes again, so that reconciliation can tell. Without Run there is no subscription.
func (c *Client) Call(ctx context.Context, call *scheduler.Call) error {
	way := c.once
	if repeatable[call.GetType()] {
		way = c.repeat
	}
	err := way(ctx, call)
	if sub := ofHandler(ctx); err != nil && sub != nil && sub.isOver() {
		err = fmt.Errorf("%w: %w", ErrStreamLost, err)
	}
	return err
}

func ofHandler(ctx context.Context) *subscription {
	sub, _ := ctx.Value(handlerKey{}).(*subscription)
	return sub
}

func (c *Client) once(ctx context.Context, call *scheduler.Call) error {
	sub, err := c.present(ctx)
	if err != nil {
		return fmt.Errorf("call %s: %w", call.GetType(), err)
	}
	sent, err := c.attempt(ctx, sub, call)
	var refused *StatusError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused) && refused.nothingDone():
		if streamLost(refused) {
			c.end(sub, err)
		}
		return err
	}
	c.end(sub, err)
	if !sent {
		return fmt.Errorf("%w: %w", ErrNotSubscribed, err)
	}
	return err
}

// present gives the subscription that a call made now belongs to.
func (c *Client) present(ctx context.Context) (*subscription, error) {
	sub := ofHandler(ctx)
	if sub == nil {
		c.mu.Lock()
		sub = c.sub
		c.mu.Unlock()
	}
	if sub == nil || sub.framework == nil || sub.isOver() {
		return nil, ErrNotSubscribed
	}
	return sub, nil
}

// await is present, but waits where that helps.
func (c *Client) await(ctx context.Context) (*subscription, error) {
	for {
		c.mu.Lock()
		changed, ended := c.changed, c.ended
		c.mu.Unlock()
		sub, err := c.present(ctx)
		if err == nil || ofHandler(ctx) != nil {
			return sub, err
		}
		if ended != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotSubscribed, ended)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrNotSubscribed, ctx.Err())
		}
	}
}

func (c *Client) repeat(ctx context.Context, call *scheduler.Call) error {
	pause, maybeTaken := shortestPause, false
	for {
		sub, err := c.await(ctx)
		if maybeTaken && call.GetType() == scheduler.Call_TEARDOWN && errors.Is(err, ErrFrameworkEnded) {
			return nil // by this call
		}
		if err != nil {
			return fmt.Errorf("call %s: %w", call.GetType(), err)
		}
		sent, err := c.attempt(ctx, sub, call)
		var refused *StatusError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &refused):
			if ctx.Err() != nil {
				return err
			}
			c.end(sub, err)
		case streamLost(refused):
			c.end(sub, err)
		case refused.Code == http.StatusServiceUnavailable || refused.Code == http.StatusBadGateway ||
			refused.Code == http.StatusGatewayTimeout || refused.Code == http.StatusTooManyRequests:
			if !sleep(ctx, sub, pause) {
				return err
			}
			pause = min(2*pause, longestPause)
		default:
			return err
		}
		maybeTaken = maybeTaken || sent && (refused == nil || refused.Code >= 500)
	}
}

// sleep waits before the same stream is tried again; false when ctx ended.
func sleep(ctx context.Context, sub *subscription, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-sub.over:
	case <-ctx.Done():
		return false
	}
	return true
}

// streamLost tells the refusals that say that the cluster no longer has the stream which a
// call named, although nobody has told it to us yet.
func streamLost(refused *StatusError) bool {
	switch refused.Code {
	case http.StatusForbidden:
		return strings.Contains(refused.Text, "not subscribed")
	case http.StatusBadRequest:
		return strings.Contains(refused.Text, "stream ID") || strings.Contains(refused.Text, "Framework cannot be found")
	}
	return false
}

// attempt sends a call once; sent reports whether a byte of it may have left.
func (c *Client) attempt(ctx context.Context, sub *subscription, call *scheduler.Call) (sent bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	var asked, connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { asked.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	if ctx.Err() != nil {
		return false, fmt.Errorf("call %s: %w", call.GetType(), ctx.Err())
	}
	call.FrameworkId = sub.framework
	resp, err := c.post(ctx, sub.base, sub.id, call)
	if err != nil {
		return connected.Load() || !asked.Load(), err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusOK {
		return true, refusal(call, resp)
	}
	// The status says it all; the rest is read so that the connection can be used again.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxErrorText))
	return true, nil
}
