package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

func nothing(context.Context, *scheduler.Event) error { return nil }

func TestMasterWithoutPowerIsLeftForTheNext(t *testing.T) {
	for _, busy := range []bool{false, true} {
		t.Run(map[bool]string{false: "an idle stream", true: "calls under way, and more events waiting"}[busy], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLAN(t, 3)
				c := l.client()
				launcher := NewLauncher(c, nil)
				stop := l.run(launcher.Run)
				first := l.masters[0]
				first.expect(scheduler.Call_SUBSCRIBE)
				var cut time.Time
				if busy {
					var once sync.Once
					first.mu.Lock()
					first.refuse = func(*scheduler.Call) int {
						once.Do(func() { cut = time.Now(); l.cut(0) })
						return 0
					}
					first.mu.Unlock()
					for i := range 20 {
						first.events <- offer(fmt.Sprint("o", i), 1, 64)
					}
					first.expect(scheduler.Call_DECLINE)
				} else {
					time.Sleep(time.Hour) // heartbeats keep it
					cut = time.Now()
					l.cut(0)
				}
				// What is asked for meanwhile waits.
				task := Task{ID: "t1", CPUs: 1, Command: &mesosv1.CommandInfo{Value: proto.String("true")}}
				added := make(chan error, 1)
				go func() { added <- launcher.Add(t.Context(), task) }()
				next := l.masters[1]
				next.expect(scheduler.Call_SUBSCRIBE)
				if took := time.Since(cut); took > 21*time.Second {
					t.Errorf("subscribed again after %s", took)
				}
				if err := <-added; err != nil {
					t.Error(err)
				}
				next.events <- offer("o", 1, 64)
				for range 2 { // the offers are asked for again, unless a new stream brought them anyway
					if call := <-next.calls; call.GetType() == scheduler.Call_ACCEPT {
						break
					} else if call.GetType() != scheduler.Call_REVIVE {
						t.Errorf("call %s", call.GetType())
					}
				}
				if err := stop(); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		})
	}
}

// A call that does no harm twice is repeated until the cluster has taken it.
func TestHarmlessCallsAreRepeated(t *testing.T) {
	id := func(s string) *mesosv1.TaskID { return &mesosv1.TaskID{Value: &s} }
	calls := map[scheduler.Call_Type]func(context.Context, *Client) error{
		scheduler.Call_KILL:      func(ctx context.Context, c *Client) error { return c.Kill(ctx, id("t"), nil) },
		scheduler.Call_REVIVE:    func(ctx context.Context, c *Client) error { return c.Revive(ctx) },
		scheduler.Call_SUPPRESS:  func(ctx context.Context, c *Client) error { return c.Suppress(ctx) },
		scheduler.Call_RECONCILE: func(ctx context.Context, c *Client) error { return c.Reconcile(ctx) },
		scheduler.Call_TEARDOWN:  func(ctx context.Context, c *Client) error { return c.Teardown(ctx) },
		scheduler.Call_ACKNOWLEDGE: func(ctx context.Context, c *Client) error {
			return c.Acknowledge(ctx, &mesosv1.TaskStatus{TaskId: id("t"), AgentId: &mesosv1.AgentID{Value: proto.String("s")}, Uuid: make([]byte, 16)})
		},
	}
	for _, k := range []struct {
		name string
		code int
		anew bool // by another stream
	}{
		{"the cluster has forgotten the stream", http.StatusForbidden, true},
		{"the cluster has another stream", http.StatusBadRequest, true},
		{"the connection breaks", breakOff, true},
		{"no leader for the moment", http.StatusServiceUnavailable, false},
	} {
		for kind, do := range calls {
			t.Run(k.name+"/"+kind.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLAN(t, 1)
					c, m := l.client(), l.masters[0]
					m.refuseFirst(1, kind, k.code)
					stop := l.run(func(ctx context.Context) error { return c.Run(ctx, nothing) })
					if err := do(t.Context(), c); err != nil {
						t.Error(err)
					}
					m.expect(scheduler.Call_SUBSCRIBE)
					m.expect(kind)
					if k.anew {
						m.expect(scheduler.Call_SUBSCRIBE)
					}
					m.expect(kind)
					if err := stop(); !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
				})
			})
		}
	}
}

// A call that could be done twice is sent once, whatever comes of it.
func TestAnswersToOffersAreSentOnce(t *testing.T) {
	offers := []*mesosv1.OfferID{{Value: proto.String("o")}}
	calls := map[scheduler.Call_Type]func(context.Context, *Client) error{
		scheduler.Call_ACCEPT:  func(ctx context.Context, c *Client) error { return c.Accept(ctx, offers, nil, 0) },
		scheduler.Call_DECLINE: func(ctx context.Context, c *Client) error { return c.Decline(ctx, offers, 0) },
	}
	for _, k := range []struct {
		name string
		code int
		anew bool
	}{
		{"the cluster has forgotten the stream", http.StatusForbidden, true},
		{"the connection breaks", breakOff, true},
		{"the leader changes meanwhile", http.StatusServiceUnavailable, true},
		{"it cannot be processed", http.StatusInternalServerError, true},
		{"it is not supported", http.StatusNotImplemented, false},
	} {
		for kind, do := range calls {
			t.Run(k.name+"/"+kind.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLAN(t, 1)
					c, m := l.client(), l.masters[0]
					m.refuseFirst(1, kind, k.code)
					subscribed := make(chan bool, 8)
					stop := l.run(func(ctx context.Context) error {
						return c.Run(ctx, func(_ context.Context, e *scheduler.Event) error {
							if e.GetType() == scheduler.Event_SUBSCRIBED {
								subscribed <- true
							}
							return nil
						})
					})
					<-subscribed
					if err := do(t.Context(), c); err == nil || errors.Is(err, ErrNotSubscribed) {
						t.Errorf("the call gave %v", err)
					}
					m.expect(scheduler.Call_SUBSCRIBE)
					m.expect(kind)
					if k.anew {
						m.expect(scheduler.Call_SUBSCRIBE)
						<-subscribed
					}
					time.Sleep(time.Hour)
					if n := len(m.calls); n > 0 {
						t.Errorf("%d more calls, the first is %s", n, (<-m.calls).GetType())
					}
					if err := stop(); !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
				})
			})
		}
	}
}

func TestWithoutASubscriptionNothingIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, 1)
		c := l.client()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := c.Accept(ctx, nil, nil, 0); !errors.Is(err, ErrNotSubscribed) || ctx.Err() != nil {
			t.Errorf("ACCEPT: %v", err)
		}
		if err := c.Revive(ctx); !errors.Is(err, ErrNotSubscribed) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("REVIVE: %v", err)
		}
		if n := len(l.masters[0].calls); n > 0 {
			t.Errorf("%d calls arrived", n)
		}
	})
}

// An ACCEPT that never left this machine leaves its task free for another offer.
func TestLaunchThatCouldNotBeSentIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, 2)
		launcher := NewLauncher(l.client(), nil)
		stop := l.run(launcher.Run)
		first, next := l.masters[0], l.masters[1]
		first.expect(scheduler.Call_SUBSCRIBE)
		if err := launcher.Add(t.Context(), Task{ID: "t1", CPUs: 1, Command: &mesosv1.CommandInfo{Value: proto.String("true")}}); err != nil {
			t.Fatal(err)
		}
		l.hosts[0].full.Store(true)
		first.events <- offer("o1", 2, 1024)
		next.expect(scheduler.Call_SUBSCRIBE)
		next.events <- offer("o2", 2, 1024)
		next.expect(scheduler.Call_ACCEPT) // without a question about the task before it
		if n := len(first.calls); n > 0 {
			t.Errorf("%d calls arrived at the first master", n)
		}
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// A dead master costs its time once: as long as others answer it is not tried again.
func TestDeadMasterIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, 3)
		c := l.client()
		stop := l.run(func(ctx context.Context) error { return c.Run(ctx, nothing) })
		l.masters[0].expect(scheduler.Call_SUBSCRIBE)
		synctest.Wait()
		l.cut(0)
		l.masters[1].expect(scheduler.Call_SUBSCRIBE)
		// Leaders change at once: by turns, and never to the dead one.
		for _, next := range []int{2, 1, 2, 1} {
			synctest.Wait()
			began := time.Now()
			l.masters[3-next].events <- nil
			l.masters[next].expect(scheduler.Call_SUBSCRIBE)
			if took := time.Since(began); took > time.Second {
				t.Errorf("subscribed again after %s", took)
			}
		}
		// After a while: by the same master.
		time.Sleep(time.Hour)
		l.masters[1].events <- nil
		l.masters[1].expect(scheduler.Call_SUBSCRIBE)
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// While the handler works the stream is alive as long as bytes come.
func TestSlowHandlerIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, 1)
		c, m := l.client(), l.masters[0]
		seen := 0
		stop := l.run(func(ctx context.Context) error {
			return c.Run(ctx, func(_ context.Context, e *scheduler.Event) error {
				if e.GetType() == scheduler.Event_RESCIND {
					seen++
					time.Sleep(time.Minute)
				}
				return nil
			})
		})
		m.expect(scheduler.Call_SUBSCRIBE)
		for range 3 * waitingEvents {
			m.events <- &scheduler.Event{Type: scheduler.Event_RESCIND.Enum(), Rescind: &scheduler.Event_Rescind{OfferId: &mesosv1.OfferID{Value: proto.String("o")}}}
		}
		time.Sleep(4 * waitingEvents * time.Minute)
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if m.streams != 1 || seen != 3*waitingEvents {
			t.Errorf("%d streams, %d events", m.streams, seen)
		}
	})
}

// A cluster that waits for an agent gives no answer about its tasks: it is asked again.
func TestTasksAreAskedForUntilAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, 1)
		m := l.masters[0]
		launcher := NewLauncher(l.client(), nil)
		stop := l.run(launcher.Run)
		m.expect(scheduler.Call_SUBSCRIBE)
		if err := launcher.Add(t.Context(), Task{ID: "t1", CPUs: 1, Command: &mesosv1.CommandInfo{Value: proto.String("true")}}); err != nil {
			t.Fatal(err)
		}
		m.events <- offer("o1", 2, 1024)
		m.expect(scheduler.Call_ACCEPT)
		m.events <- nil
		m.expect(scheduler.Call_SUBSCRIBE)
		for range 5 {
			m.expect(scheduler.Call_RECONCILE)
		}
		// At once when the cluster has given an agent up.
		synctest.Wait()
		began := time.Now()
		m.events <- &scheduler.Event{Type: scheduler.Event_FAILURE.Enum(), Failure: &scheduler.Event_Failure{AgentId: &mesosv1.AgentID{Value: proto.String("s1")}}}
		m.expect(scheduler.Call_RECONCILE)
		if took := time.Since(began); took > time.Second {
			t.Errorf("asked after %s", took)
		}
		m.events <- update("t1", mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskStatus_REASON_RECONCILIATION, "")
		time.Sleep(time.Hour)
		if n := len(m.calls); n > 0 {
			t.Errorf("%d more calls after the answer, the first is %s", n, (<-m.calls).GetType())
		}
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// What came before a stream was lost is still handed over: an ERROR among it ends Run.
func TestErrorBeforeTheEndIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, 2)
		c, m := l.client(), l.masters[0]
		stop := l.run(func(ctx context.Context) error {
			return c.Run(ctx, func(ctx context.Context, e *scheduler.Event) error {
				if e.GetType() == scheduler.Event_OFFERS {
					time.Sleep(time.Hour) // the stream is long over when this returns
					return c.Revive(ctx)
				}
				return nil
			})
		})
		m.expect(scheduler.Call_SUBSCRIBE)
		m.events <- offer("o1", 2, 1024)
		m.events <- &scheduler.Event{Type: scheduler.Event_ERROR.Enum(), Error: &scheduler.Event_Error{Message: proto.String("Framework failed over")}}
		synctest.Wait()
		l.cut(0)
		time.Sleep(2 * time.Hour)
		if err := stop(); !errors.Is(err, ErrFrameworkEnded) {
			t.Errorf("Run: %v", err)
		}
		if l.masters[1].streams != 0 {
			t.Error("the framework took the subscription back")
		}
	})
}

// TEARDOWN whose answer got lost: that the framework is gone is what was wanted.
func TestTeardownWithoutAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t, 1)
		c, m := l.client(), l.masters[0]
		m.refuse = func(*scheduler.Call) int {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.removed = true
			return breakOff
		}
		stop := l.run(func(ctx context.Context) error { return c.Run(ctx, nothing) })
		if err := c.Teardown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := stop(); !errors.Is(err, ErrFrameworkEnded) {
			t.Errorf("Run: %v", err)
		}
	})
}
