// Package clock keeps a node's time: a floor below which no clock may be at boot, and
// the time of NTP servers where any are named.
//
// Invariant: the clock is never set back below the floor (the newest of the image's
// build time and the document's signature), and a server's answer counts only when the
// protocol's own checks accept it and it is not below the floor either. It is stepped
// when it is off by more than half a second, else slewed.
//
// It blocks nobody: First tells when the first answer is in, and how long to wait for
// that is the caller's decision.
package clock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/beevik/ntp"
)

// State is what is known of the time.
type State struct {
	Synced bool
	Source string // "rtc", "floor", or the NTP server
	Offset time.Duration
}

// Machine is the clock that is kept. On a node it is the kernel's.
type Machine interface {
	Now() time.Time
	// Step sets the clock.
	Step(to time.Time) error
	// Slew moves the clock gently.
	Slew(by time.Duration) error
}

const (
	stepAbove    = 500 * time.Millisecond
	answerWithin = 3 * time.Second
	firstRetry   = 2 * time.Second
	longestRetry = 5 * time.Minute
	askEvery     = 10 * time.Minute
)

// Floor sets the clock to the newest of the given times when it is behind, and tells
// whether the machine's own clock could be believed.
func Floor(m Machine, atLeast ...time.Time) (State, error) {
	var floor time.Time
	for _, t := range atLeast {
		if t.After(floor) {
			floor = t
		}
	}
	now := m.Now()
	if !now.Before(floor) {
		return State{Source: "rtc"}, nil
	}
	if err := m.Step(floor); err != nil {
		return State{Source: "rtc"}, fmt.Errorf("set the clock from %s to %s: %w", now.Format(time.RFC3339), floor.Format(time.RFC3339), err)
	}
	return State{Source: "floor", Offset: floor.Sub(now)}, nil
}

// Keeper asks NTP servers for the time.
type Keeper struct {
	Machine Machine
	Floor   time.Time
	// Servers gives the servers as they are known now; it is asked before each round.
	Servers func() []string
	// Changed is told each new state.
	Changed func(State)
	Log     *slog.Logger
	// Query asks one server for the offset of its clock from ours.
	Query func(ctx context.Context, server string) (time.Duration, error)

	once  sync.Once
	first chan struct{}
}

// First is closed when the first valid answer has been applied.
func (k *Keeper) First() <-chan struct{} { return k.firstAnswer() }

func (k *Keeper) firstAnswer() chan struct{} {
	k.once.Do(func() { k.first = make(chan struct{}) })
	return k.first
}

// Run keeps the clock until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	first := k.firstAnswer()
	retry := firstRetry
	for {
		pause := askEvery
		state, err := k.round(ctx)
		switch {
		case err == nil:
			if retry != firstRetry {
				k.Log.Info("a server tells the time again", "server", state.Source)
			}
			retry = firstRetry
			k.Changed(state)
			if first != nil {
				close(first)
				first = nil
			}
		case errors.Is(err, errNoServers):
			pause = firstRetry
		default:
			k.Log.Warn("no time from any server", "error", err)
			pause = retry
			retry = min(retry*2, longestRetry)
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

var errNoServers = errors.New("no time servers are named")

func (k *Keeper) round(ctx context.Context) (State, error) {
	var failed []error
	servers := k.Servers()
	for _, server := range servers {
		offset, err := k.Query(ctx, server)
		if err == nil {
			err = k.apply(offset)
		}
		if err == nil {
			return State{Synced: true, Source: server, Offset: offset}, nil
		}
		failed = append(failed, fmt.Errorf("ask %s for the time: %w", server, err))
	}
	if len(servers) == 0 {
		return State{}, errNoServers
	}
	return State{}, errors.Join(failed...)
}

func (k *Keeper) apply(offset time.Duration) error {
	to := k.Machine.Now().Add(offset)
	if to.Before(k.Floor) {
		return fmt.Errorf("it says %s, which is before %s, when this node's image and document were made already", to.Format(time.RFC3339), k.Floor.Format(time.RFC3339))
	}
	if offset.Abs() > stepAbove {
		k.Log.Warn("clock moved to a server's time", "by", offset.Round(time.Millisecond).String())
		return k.Machine.Step(to)
	}
	return k.Machine.Slew(offset)
}

// AskNTP is Keeper.Query over the network. It ends with ctx, also while it looks a name up
// or waits for an answer.
func AskNTP(ctx context.Context, server string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*answerWithin) // half of it for the name
	defer cancel()
	resp, err := ntp.QueryWithOptions(server, ntp.QueryOptions{Timeout: answerWithin, Dialer: func(_, remote string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "udp", remote)
		if err == nil {
			context.AfterFunc(ctx, func() { conn.Close() })
		}
		return conn, err
	}})
	if err != nil {
		return 0, err
	}
	if err := resp.Validate(); err != nil {
		return 0, err
	}
	return resp.ClockOffset, nil
}
