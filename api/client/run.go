package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// Handler takes one event. An error ends Run; an update is acknowledged without one. ctx
// is the stream's: it ends when that is lost, and calls made with it do not outlive it.
type Handler func(ctx context.Context, e *scheduler.Event) error

// ErrFrameworkEnded says that the cluster has ended the subscription for good: the
// framework was removed, took over elsewhere, or is not valid.
var ErrFrameworkEnded = errors.New("the cluster ended the subscription")

// ErrSilent says that a stream has brought nothing, not even a heartbeat, for too long.
var ErrSilent = errors.New("the stream of events fell silent")

const (
	// maxEvent bounds one event.
	maxEvent = 64 << 20
	// waitingEvents is how many events may wait for the handler; then reading pauses.
	waitingEvents = 64
	// lateBeat is how long a heartbeat may be overdue before the stream counts as lost: a
	// master without power says no goodbye.
	lateBeat = 5 * time.Second
	// subscribeWait is how long the first event may take; a cluster between two leaders
	// answers late on purpose.
	subscribeWait    = 20 * time.Second
	shortestPause    = 100 * time.Millisecond
	longestPause     = 3 * time.Second
	defaultHeartbeat = 15 * time.Second
	// shortLife is how long a stream must have lived for its master to be tried again first.
	shortLife = 5 * time.Second
	// lastCalls is what calls get that are under way when their stream ends.
	lastCalls = 2 * time.Second
)

// Run keeps the framework subscribed and hands every event to handle, one after the
// other, until ctx ends (then it gives ctx's error), handle fails, or the cluster says
// ERROR (ErrFrameworkEnded). Lost streams are opened again with the same framework id;
// handle sees another SUBSCRIBED then.
func (c *Client) Run(ctx context.Context, handle Handler) (err error) {
	c.note(func() { c.ended = nil })
	defer func() { c.note(func() { c.ended = err }) }()
	pause := shortestPause
	for {
		began := time.Now()
		progress, err := c.stream(ctx, handle)
		var ended endError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &ended):
			return ended.error
		case refusedForGood(err):
			return err
		}
		if progress {
			pause = shortestPause
		}
		c.cfg.Log.Info("subscription lost, subscribing again", "error", err, "pause", pause)
		// A stream that is ended in order ends with its leader; this master will find the
		// next one.
		if inOrder := progress && errors.Is(err, io.EOF); !inOrder || time.Since(began) < shortLife {
			c.cfg.HTTP.CloseIdleConnections() // their other end may be dead as well
			c.nextMaster(!inOrder)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		pause = min(2*pause, longestPause)
	}
}

// endError is an error after which subscribing again makes no sense.
type endError struct{ error }

// refusedForGood reports whether an answer will not change by asking again.
func refusedForGood(err error) bool {
	var s *StatusError
	return errors.As(err, &s) && s.Code >= 400 && s.Code < 500 && s.Code != http.StatusTooManyRequests && s.Code != http.StatusRequestTimeout
}

// stream is the life of one subscription; progress reports whether it was established.
func (c *Client) stream(ctx context.Context, handle Handler) (progress bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	silence := time.AfterFunc(subscribeWait, func() { cancel(ErrSilent) })
	defer silence.Stop()
	resp, err := c.subscribe(ctx)
	if err != nil {
		return false, causeOf(ctx, err)
	}
	defer resp.Body.Close()
	limit := subscribeWait // of silence; the reader's own once it runs
	records := recordio.NewReader(heard{resp.Body, func() { silence.Reset(limit) }}, maxEvent)
	next := func() (*scheduler.Event, error) {
		record, err := records.Next()
		if err != nil {
			return nil, causeOf(ctx, fmt.Errorf("read events: %w", err))
		}
		return c.decode(record)
	}
	first, err := next()
	if err != nil {
		return false, err
	}
	sub := &subscription{id: resp.Header.Get(streamHeader), over: make(chan struct{}), cancel: cancel}
	if first.GetType() == scheduler.Event_SUBSCRIBED {
		progress = true
		limit = c.subscribed(first.GetSubscribed(), sub)
	}
	defer c.over(sub)
	queue := make(chan *scheduler.Event, waitingEvents)
	queue <- first
	var lost error
	handled := make(chan struct{})
	defer close(handled)
	wg.Go(func() {
		defer close(queue)
		for {
			e, err := next()
			if err != nil {
				lost = err
				c.over(sub)
				silence.Stop()
				time.AfterFunc(lastCalls, func() { cancel(err) })
				return
			}
			select {
			case queue <- e:
				continue
			default:
			}
			// While nothing is read, silence means nothing.
			silence.Stop()
			select {
			case queue <- e:
				silence.Reset(limit)
			case <-handled:
				return
			}
		}
	})
	// What has arrived is handed over also when the stream is lost by then: an ERROR
	// among it decides what follows.
	for e := range queue {
		if err := c.deliver(ctx, handle, sub, e); err != nil {
			return progress, err
		}
	}
	return progress, lost
}

// heard tells of every byte that comes.
type heard struct {
	io.Reader
	tell func()
}

func (h heard) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	if n > 0 {
		h.tell()
	}
	return n, err
}

// causeOf gives the reason why ctx was cancelled instead of what that led to.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (c *Client) subscribe(ctx context.Context) (*http.Response, error) {
	c.mu.Lock()
	info := proto.Clone(c.info).(*mesosv1.FrameworkInfo)
	base := c.base()
	c.mu.Unlock()
	call := &scheduler.Call{
		Type: scheduler.Call_SUBSCRIBE.Enum(), FrameworkId: info.GetId(),
		Subscribe: &scheduler.Call_Subscribe{FrameworkInfo: info},
	}
	resp, err := c.post(ctx, base, "", call)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, refusal(call, resp)
	}
	return resp, nil
}

// subscribed notes what a new stream brings and gives the longest silence to bear.
func (c *Client) subscribed(s *scheduler.Event_Subscribed, sub *subscription) time.Duration {
	c.note(func() {
		c.info.Id = s.GetFrameworkId()
		sub.base, sub.framework = c.base(), s.GetFrameworkId()
		c.sub = sub
	})
	beat := time.Duration(s.GetHeartbeatIntervalSeconds() * float64(time.Second))
	if beat <= 0 {
		beat = defaultHeartbeat
	}
	return beat + lateBeat
}

// deliver hands an event over; an update that was taken is acknowledged.
func (c *Client) deliver(ctx context.Context, handle Handler, sub *subscription, e *scheduler.Event) error {
	ctx = context.WithValue(ctx, handlerKey{}, sub)
	if err := handle(ctx, e); err != nil {
		if errors.Is(err, ErrStreamLost) {
			return nil // it could not do what it wanted: the next stream gives it another chance
		}
		return endError{err}
	}
	switch e.GetType() {
	case scheduler.Event_ERROR:
		return endError{fmt.Errorf("%w: %s", ErrFrameworkEnded, e.GetError().GetMessage())}
	case scheduler.Event_UPDATE:
		if err := c.Acknowledge(ctx, e.GetUpdate().GetStatus()); err != nil {
			// The update comes again until it is acknowledged.
			c.cfg.Log.Info("acknowledgement failed", "task", e.GetUpdate().GetStatus().GetTaskId().GetValue(), "error", err)
		}
	}
	return nil
}
