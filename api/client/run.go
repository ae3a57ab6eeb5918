package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// Handler takes one event. An error ends Run; an update is acknowledged without one.
type Handler func(ctx context.Context, e *scheduler.Event) error

// ErrFrameworkEnded says that the cluster has ended the subscription for good: the
// framework was removed, took over elsewhere, or is not valid.
var ErrFrameworkEnded = errors.New("the cluster ended the subscription")

// ErrSilent says that a stream has brought nothing, not even a heartbeat, for too long.
var ErrSilent = errors.New("the stream of events fell silent")

const (
	// maxEvent bounds one event.
	maxEvent = 64 << 20
	// missedBeats is how many heartbeats may be missing before a stream counts as lost.
	missedBeats = 5
	// subscribeWait is how long the first event may take; a cluster between two leaders
	// answers late on purpose.
	subscribeWait    = 30 * time.Second
	shortestPause    = 100 * time.Millisecond
	longestPause     = 10 * time.Second
	defaultHeartbeat = 15 * time.Second
)

// Run keeps the framework subscribed and hands every event to handle, one after the
// other, until ctx ends (then it gives ctx's error), handle fails, or the cluster says
// ERROR (ErrFrameworkEnded). Lost streams are opened again with the same framework id;
// handle sees another SUBSCRIBED then.
func (c *Client) Run(ctx context.Context, handle Handler) error {
	pause := shortestPause
	for {
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
		c.nextMaster()
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
	defer cancel(nil)
	silence := time.AfterFunc(subscribeWait, func() { cancel(ErrSilent) })
	defer silence.Stop()
	resp, err := c.subscribe(ctx)
	if err != nil {
		return false, causeOf(ctx, err)
	}
	defer resp.Body.Close()
	records := recordio.NewReader(resp.Body, maxEvent)
	beat := subscribeWait
	for {
		record, err := records.Next()
		if err != nil {
			return progress, causeOf(ctx, fmt.Errorf("read events: %w", err))
		}
		e, err := c.decode(record)
		if err != nil {
			return progress, err
		}
		if e.GetType() == scheduler.Event_SUBSCRIBED {
			progress = true
			beat = c.subscribed(e.GetSubscribed(), resp.Header.Get(streamHeader))
		}
		// While the handler works nothing is read, so that time does not count.
		silence.Stop()
		if err := c.deliver(ctx, handle, e); err != nil {
			return progress, err
		}
		silence.Reset(beat)
	}
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
func (c *Client) subscribed(s *scheduler.Event_Subscribed, streamID string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.info.Id = s.GetFrameworkId()
	c.streamID = streamID
	beat := time.Duration(s.GetHeartbeatIntervalSeconds() * float64(time.Second))
	if beat <= 0 {
		beat = defaultHeartbeat
	}
	return missedBeats * beat
}

// deliver hands an event over; an update that was taken is acknowledged.
func (c *Client) deliver(ctx context.Context, handle Handler, e *scheduler.Event) error {
	if err := handle(ctx, e); err != nil {
		return endError{err}
	}
	switch e.GetType() {
	case scheduler.Event_ERROR:
		return endError{fmt.Errorf("%w: %s", ErrFrameworkEnded, e.GetError().GetMessage())}
	case scheduler.Event_UPDATE:
		err := c.Acknowledge(ctx, e.GetUpdate().GetStatus())
		if err != nil && !errors.Is(err, io.EOF) {
			// The update comes again until it is acknowledged.
			c.cfg.Log.Info("acknowledgement failed", "task", e.GetUpdate().GetStatus().GetTaskId().GetValue(), "error", err)
		}
	}
	return nil
}
