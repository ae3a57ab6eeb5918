package run

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/pid1"
)

// InitLink asks PID 1 to keep the exit statuses of containers' first processes.
type InitLink struct {
	socket string
	slots  chan struct{} // bound askedAtOnce: others wait
}

// NewInitLink makes no connection yet.
func NewInitLink(socket string) *InitLink {
	return &InitLink{socket: socket, slots: make(chan struct{}, askedAtOnce)}
}

const (
	maxInitFrame = 64 << 10
	// askedAtOnce stays below what PID 1's socket queues: a hundred tasks may have ended
	// while nobody looked.
	askedAtOnce = 8
	// A status that cannot be had now is asked for again: it is nowhere else.
	statusTries = 10
	statusPause = 500 * time.Millisecond
)

// Register makes PID 1 keep a process's status should it become an orphan.
func (l *InitLink) Register(ctx context.Context, id string, pid int, start uint64) error {
	_, err := l.ask(ctx, 5*time.Second, &pid1.Request{Body: &pid1.Request_Register{Register: &pid1.Register{ContainerId: id, Pid: int32(pid), StartTime: start}}})
	if err != nil {
		return fmt.Errorf("register container with PID 1: %w", err)
	}
	return nil
}

// Status waits for the status of a process that has ended.
func (l *InitLink) Status(ctx context.Context, id string, start uint64) (status uint32, known bool, err error) {
	for try := 1; ; try++ {
		resp, err := l.ask(ctx, 30*time.Second, &pid1.Request{Body: &pid1.Request_Status{Status: &pid1.Status{ContainerId: id, StartTime: start, Wait: true}}})
		if err == nil {
			e := resp.GetExit()
			return e.GetWaitStatus(), e.GetState() == pid1.ExitStatus_EXITED, nil
		}
		if ctx.Err() != nil || try == statusTries {
			return 0, false, fmt.Errorf("ask PID 1 for an exit status: %w", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(statusPause):
		}
	}
}

// Ack lets PID 1 forget a status that is recorded.
func (l *InitLink) Ack(ctx context.Context, id string, start uint64) error {
	_, err := l.ask(ctx, 5*time.Second, &pid1.Request{Body: &pid1.Request_Ack{Ack: &pid1.Ack{ContainerId: id, StartTime: start}}})
	return err
}

// ask takes a connection of its own: nothing is shared that could be out of step.
func (l *InitLink) ask(ctx context.Context, within time.Duration, req *pid1.Request) (*pid1.Response, error) {
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", l.socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	req.Id = 2
	for _, m := range []*pid1.Request{{Id: 1, Body: &pid1.Request_Hello{Hello: &pid1.Hello{Protocol: 1, Program: "isolated"}}}, req} {
		if err := wire.Write(conn, m); err != nil {
			return nil, err
		}
		resp := &pid1.Response{}
		if err := wire.Read(conn, resp, maxInitFrame); err != nil {
			return nil, err
		}
		if resp.GetError() != "" {
			return nil, errors.New(resp.GetError())
		}
		if resp.GetId() == req.GetId() {
			return resp, nil
		}
	}
	return nil, errors.New("PID 1 answered another request")
}
