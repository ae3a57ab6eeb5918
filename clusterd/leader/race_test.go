package leader

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/clusterd/streams"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

// hold makes the log keep entries back; each call of what it gives lets one through, and
// all of them when the test is over with it.
func (g *memoryLog) hold() (open func()) {
	gate := make(chan struct{})
	g.mu.Lock()
	g.gate = gate
	g.mu.Unlock()
	return func() {
		g.mu.Lock()
		g.gate = nil
		g.mu.Unlock()
		close(gate)
	}
}

// drained gives the events that are there once nothing moves any more.
func (s *subscriber) drained() []*scheduler.Event {
	synctest.Wait()
	out := s.passed
	for {
		select {
		case e, ok := <-s.events:
			if !ok {
				return out
			}
			out = append(out, e)
		default:
			return out
		}
	}
}

// A client that sends its ACCEPT twice while the first waits for the log must not hear
// that the task was lost: it is about to run.
func TestAcceptRepeatedWhileTheFirstIsOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		offer := f.offer()
		open := c.log.hold()
		answers := make(chan error, 2)
		go func() { answers <- f.accept(offer, "t1", 1) }()
		synctest.Wait()
		go func() { answers <- f.accept(offer, "t1", 1) }()
		synctest.Wait()
		open()
		for range 2 {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
		for _, e := range f.drained() {
			if e.GetType() == scheduler.Event_UPDATE {
				t.Errorf("told %v", e.GetUpdate().GetStatus())
			}
		}
		if run := until(a, (*agentwire.FromMaster).GetRun); run.GetContainerId() == "" {
			t.Error("it does not run")
		}
	})
}

// A client that gave up while its SUBSCRIBE waited for the log leaves no framework behind
// that counts as connected and hoards offers.
func TestSubscriberThatGaveUpIsNotConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		open := c.log.hold()
		ctx, cancel := context.WithCancel(t.Context())
		answer := make(chan error, 1)
		stream := streams.New("s1", streams.JSON, streams.DefaultMaxBytes)
		go func() {
			answer <- c.l.Subscribe(ctx, "", &scheduler.Call{Type: scheduler.Call_SUBSCRIBE.Enum(), Subscribe: &scheduler.Call_Subscribe{
				FrameworkInfo: &mesosv1.FrameworkInfo{User: proto.String("root"), Name: proto.String("f")},
			}}, stream)
		}()
		synctest.Wait()
		cancel()
		if err := <-answer; err == nil {
			t.Fatal("subscribed")
		}
		open()
		synctest.Wait()
		if err := c.l.View(t.Context(), func(s *state.State, v Live) {
			if n, _, _ := s.Counts(); n != 1 || len(v.Connected) != 0 {
				t.Errorf("%d frameworks, %d connected", n, len(v.Connected))
			}
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute) // virtual: its failover timer runs out
		synctest.Wait()
		c.m.View(func(s *state.State) {
			if n, _, _ := s.Counts(); n != 0 {
				t.Errorf("%d frameworks left", n)
			}
		})
	})
}

// Nothing is offered of an agent whose connection ended, though it is not given up yet.
func TestAgentWithoutConnectionIsNotOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		f.offer()
		a.conn.Close()
		f.next(scheduler.Event_RESCIND)
		time.Sleep(5 * time.Second) // virtual: several rounds, shorter than the grace
		for _, e := range f.drained() {
			if e.GetType() == scheduler.Event_OFFERS {
				t.Fatal("offered")
			}
		}
		b := c.agent("n1")
		defer b.conn.Close()
		b.id = a.id
		b.attach("n1")
		f.offer()
	})
}

// A node that died with the leader it ran is given up soon after the election, not ten
// minutes later.
func TestAgentThatNeverAttachesToTheNewLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		agents := []*played{c.agent("n1"), c.agent("n2"), c.agent("n3")}
		for i, a := range agents {
			a.attach([]string{"n1", "n2", "n3"}[i])
		}
		agents[0].conn.Close()
		c.end()
		c.lead()
		defer c.end()
		for i, a := range agents[1:] {
			defer a.conn.Close()
			for h := until(a, (*agentwire.FromMaster).GetHello); h.GetLeading(); h = until(a, (*agentwire.FromMaster).GetHello) {
			}
			a.attach([]string{"n2", "n3"}[i])
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		c.m.View(func(s *state.State) {
			for ag := range s.Agents() {
				if ag.Unreachable != (ag.Node == "n1") {
					t.Errorf("agent of %s unreachable: %v", ag.Node, ag.Unreachable)
				}
			}
		})
	})
}
