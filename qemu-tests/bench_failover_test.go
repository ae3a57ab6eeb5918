//go:build vm && bench

package qemutests

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// Figure 8: the leader is killed, to the first committed entry (a framework that is new is
// subscribed) and to the first launch accepted from one that reconnects at once. A leader
// without power sends no reset: its times stand apart.
func TestBenchFailover(t *testing.T) {
	w := newWorld(t, options{nodes: 3})
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	killed := newFailover(t, w)
	for i := range benchRuns(20) {
		killed.run(t, func(l cluster.Node) error { return w.nodeAPI(l).Kill(t.Context(), "clusterd", "KILL") })
		progress("kill %d: %s", i+1, killed.last())
		if err := w.WaitReady(within(t, toNotice)); err != nil {
			t.Fatal(err)
		}
	}
	killed.figure("leader's clusterd killed (kill -9)")
	cut := newFailover(t, w)
	for i := range benchRuns(5) {
		var dark *cluster.Machine
		cut.run(t, func(l cluster.Node) error { dark = w.Machine(l.Name); dark.PowerCut(); return nil })
		progress("power cut %d: %s", i+1, cut.last())
		if err := dark.PowerOn(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.WaitReady(within(t, toElect)); err != nil {
			t.Fatal(err)
		}
	}
	cut.figure("leader's power cut")
}

// failover measures one way to lose a leader.
type failover struct {
	w                 *world
	roundTrip         time.Duration
	committed, launch []time.Duration
}

func newFailover(t *testing.T, w *world) *failover {
	t.Helper()
	f := &failover{w: w}
	var trips []time.Duration
	for range 20 {
		began := time.Now()
		resp, err := w.Client().Get(w.APIs()[0] + "/version")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		trips = append(trips, time.Since(began))
	}
	f.roundTrip = median(trips)
	return f
}

// run loses the leader once.
func (f *failover) run(t *testing.T, lose func(cluster.Node) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(within(t, toElect+toNotice))
	defer cancel()
	leader, err := f.w.WaitLeader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var others []string
	for _, m := range f.w.Machines() {
		if m.Node.Name != leader.Name {
			others = append(others, f.w.URL(m.Node, ""))
		}
	}
	r, err := newRelauncher(others, f.w.Client(), f.w.image(t))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { r.ended <- r.client.Run(ctx, r.handle) })
	r.await(t, ctx) // a launch with the leader that is about to go
	r.arm()
	began := time.Now()
	if err := lose(leader); err != nil {
		t.Fatal(err)
	}
	committed := make(chan error, 1)
	var at time.Time
	wg.Go(func() {
		var err error
		at, err = subscribed(ctx, others, f.w.Client())
		committed <- err
	})
	launched := r.await(t, ctx)
	if err := <-committed; err != nil {
		t.Fatal(err)
	}
	f.committed, f.launch = append(f.committed, at.Sub(began)), append(f.launch, launched.Sub(began))
}

func (f *failover) last() string {
	n := len(f.launch) - 1
	return fmt.Sprintf("first entry committed after %.2f s, first launch accepted after %.2f s", f.committed[n].Seconds(), f.launch[n].Seconds())
}

func (f *failover) figure(what string) {
	limit, p50 := 3*heartbeat(), median(f.launch)
	figure{
		number: 8, n: len(f.launch), reached: slices.Max(f.committed) <= limit && p50 <= limit+6*f.roundTrip, what: what,
		value: fmt.Sprintf("entry p50 %.2f, worst %.2f s; launch p50 %.2f, worst %.2f s",
			median(f.committed).Seconds(), slices.Max(f.committed).Seconds(), p50.Seconds(), slices.Max(f.launch).Seconds()),
		goal: fmt.Sprintf("entry 3 heartbeats = %.2f s; launch p50 + 6 round trips of %d ms = %.2f s", limit.Seconds(), f.roundTrip.Milliseconds(), (limit + 6*f.roundTrip).Seconds()),
	}.note()
}

// subscribed subscribes a framework that nobody knows, and says when it was told.
func subscribed(ctx context.Context, masters []string, through *http.Client) (at time.Time, err error) {
	info := benchFramework("first-entry")
	info.FailoverTimeout = proto.Float64(0)
	c, err := client.New(client.Config{Masters: masters, HTTP: through, Framework: info})
	if err != nil {
		return at, err
	}
	enough := errors.New("subscribed")
	err = c.Run(ctx, func(_ context.Context, e *scheduler.Event) error {
		if e.GetType() == scheduler.Event_SUBSCRIBED {
			at = time.Now()
			return enough
		}
		return nil
	})
	if errors.Is(err, enough) {
		err = nil
	}
	return at, err
}

// relauncher launches one task on each subscription that it was armed for.
type relauncher struct {
	client   *client.Client
	image    string
	ended    chan error
	accepted chan time.Time

	mu    sync.Mutex
	armed bool
	fresh bool // a subscription came since
	next  int
}

func newRelauncher(masters []string, through *http.Client, image string) (*relauncher, error) {
	info := benchFramework("relauncher")
	info.FailoverTimeout = proto.Float64(0)
	c, err := client.New(client.Config{Masters: masters, HTTP: through, Framework: info})
	return &relauncher{client: c, image: image, ended: make(chan error, 1), accepted: make(chan time.Time, 1), armed: true}, err
}

// arm asks for a launch on the next subscription.
func (r *relauncher) arm() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.armed, r.fresh = true, false
}

func (r *relauncher) await(t *testing.T, ctx context.Context) time.Time {
	t.Helper()
	select {
	case at := <-r.accepted:
		return at
	case err := <-r.ended:
		t.Fatal(err)
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
	return time.Time{}
}

func (r *relauncher) handle(ctx context.Context, e *scheduler.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e.GetType() {
	case scheduler.Event_SUBSCRIBED:
		r.fresh = true
	case scheduler.Event_OFFERS:
		for _, o := range e.GetOffers().GetOffers() {
			ids := []*mesosv1.OfferID{o.GetId()}
			if !r.armed || !r.fresh {
				_ = r.client.Decline(ctx, ids, 0.05) // it comes again
				continue
			}
			r.next++
			task := benchTask(fmt.Sprintf("again-%d", r.next), r.image, o)
			if r.client.Accept(ctx, ids, []*mesosv1.Offer_Operation{client.Launch(task)}, 0.05) == nil {
				r.armed = false
				r.accepted <- time.Now()
			}
		}
	}
	return nil
}
