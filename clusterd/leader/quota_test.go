package leader

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	"google.golang.org/protobuf/proto"
)

// offered adds up the cpus of open offers.
func offered(list []*mesosv1.Offer) (cpus float64) {
	for _, o := range list {
		for _, r := range o.GetResources() {
			if r.GetName() == state.CPUs {
				cpus += r.GetScalar().GetValue()
			}
		}
	}
	return cpus
}

func cpus(guarantee, limit int64) state.Quota {
	q := state.Quota{}
	if guarantee >= 0 {
		q.Guarantees = map[string]int64{state.CPUs: guarantee * 1000}
	}
	if limit >= 0 {
		q.Limits = map[string]int64{state.CPUs: limit * 1000}
	}
	return q
}

// Four agents of four processors each, and frameworks in roles.
func quotaCell(t *testing.T) *cell {
	c := newCell(t)
	for i := range 4 {
		a := c.agent(fmt.Sprint("n", i))
		t.Cleanup(func() { a.conn.Close() })
		a.attach(fmt.Sprint("n", i))
	}
	return c
}

func (c *cell) in(role string) *subscriber {
	s := c.subscribeAs("", frameworkInfo(func(i *mesosv1.FrameworkInfo) { i.Role = proto.String(role) }))
	s.next(scheduler.Event_SUBSCRIBED)
	return s
}

// A quota holds from the moment that it is set: offers by the old ones are taken back.
func TestQuotaDividesAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := quotaCell(t)
		defer c.end()
		a, b := c.in("a"), c.in("b/part")
		count := func() (float64, float64) {
			return offered(a.offersWithin(5 * time.Second)), offered(b.offersWithin(0))
		}
		if x, y := count(); x+y != 16 {
			t.Fatalf("%v and %v of 16 are offered", x, y)
		}
		set := func(q ...state.RoleQuota) {
			t.Helper()
			if err := c.l.UpdateQuota(t.Context(), QuotaChange{Quotas: q}); err != nil {
				t.Fatal(err)
			}
		}
		set(state.RoleQuota{Role: "a", Quota: cpus(-1, 3)})
		if x, y := count(); x != 3 || y != 13 {
			t.Errorf("limited to 3: %v and %v", x, y)
		}
		set(state.RoleQuota{Role: "a"}, state.RoleQuota{Role: "b", Quota: cpus(-1, 5)}, state.RoleQuota{Role: "away", Quota: cpus(6, -1)})
		if x, y := count(); y > 5 || x+y != 10 {
			t.Errorf("6 for who is not there, at most 5 for the second: %v and %v", x, y)
		}
		away := c.in("away/x")
		if z := offered(away.offersWithin(5 * time.Second)); z != 6 {
			t.Errorf("who was guaranteed 6 is offered %v", z)
		}
	})
}

// With quotas a new leader offers nothing before four fifths of the agents are back, or ten
// minutes are over.
func TestQuotaWaitsForAgents(t *testing.T) {
	for _, quota := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newCell(t)
			var all []*played
			for i := range 5 {
				a := c.agent(fmt.Sprint("n", i))
				defer a.conn.Close()
				a.attach(fmt.Sprint("n", i))
				all = append(all, a)
			}
			if quota {
				if err := c.l.UpdateQuota(t.Context(), QuotaChange{Quotas: []state.RoleQuota{{Role: "x", Quota: cpus(1, -1)}}}); err != nil {
					t.Fatal(err)
				}
			}
			c.end()
			c.lead()
			defer c.end()
			back := func(from, to int) {
				for i := from; i < to; i++ {
					all[i].attach(fmt.Sprint("n", i))
				}
			}
			f := c.in("b")
			back(0, 3)
			if got := len(f.offersWithin(5 * time.Second)); (got == 0) != quota {
				t.Errorf("quota %v, 3 of 5 are back: %d offers", quota, got)
			}
			back(3, 4)
			if got := len(f.offersWithin(5 * time.Second)); got == 0 {
				t.Errorf("quota %v, 4 of 5 are back, and nothing is offered", quota)
			}
		})
	}
	// Where half of them are missing they get ten minutes; then it goes on without them.
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		var all []*played
		for i := range 6 {
			a := c.agent(fmt.Sprint("n", i))
			defer a.conn.Close()
			a.attach(fmt.Sprint("n", i))
			all = append(all, a)
		}
		if err := c.l.UpdateQuota(t.Context(), QuotaChange{Quotas: []state.RoleQuota{{Role: "x", Quota: cpus(1, -1)}}}); err != nil {
			t.Fatal(err)
		}
		c.end()
		c.lead()
		defer c.end()
		f := c.in("b")
		for i, a := range all[:3] {
			a.attach(fmt.Sprint("n", i))
		}
		if got := f.offersWithin(afterElection - time.Minute); len(got) > 0 {
			t.Errorf("half of the agents are back, and %d offers are made", len(got))
		}
		if got := f.offersWithin(2 * time.Minute); len(got) == 0 {
			t.Error("nothing is offered after ten minutes")
		}
	})
}

// What is on its way into the log counts for its role: accepting does not make room.
func TestQuotaCountsLaunchesUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := quotaCell(t)
		defer c.end()
		if err := c.l.UpdateQuota(t.Context(), QuotaChange{Quotas: []state.RoleQuota{{Role: "a", Quota: cpus(-1, 4)}}}); err != nil {
			t.Fatal(err)
		}
		a := c.in("a")
		offers := a.offersWithin(5 * time.Second)
		if offered(offers) != 4 {
			t.Fatalf("%v", offers)
		}
		gate := make(chan struct{})
		c.log.mu.Lock()
		c.log.gate = gate
		c.log.mu.Unlock()
		accepted := make(chan error, 1)
		go func() { accepted <- a.accept(offers[0], "all", offered(offers[:1])) }()
		if got := offered(a.offersWithin(5 * time.Second)); got > 4-offered(offers) {
			t.Errorf("4 are limited and taken, and %v more are offered meanwhile", got)
		}
		c.log.mu.Lock()
		c.log.gate = nil
		c.log.mu.Unlock()
		close(gate)
		if err := <-accepted; err != nil {
			t.Fatal(err)
		}
		if got := offered(a.offersWithin(5 * time.Second)); got > 4-offered(offers) {
			t.Errorf("4 are limited and held, and %v more are offered", got)
		}
	})
}

func TestWhatNoQuotaCanBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := quotaCell(t)
		defer c.end()
		a := c.in("a/x")
		a.launch(a.offer(), "t", nil) // holds one
		var held int64
		c.m.View(func(s *state.State) { held = Consumed(s, map[string]state.Quota{"a": {}})["a"][state.CPUs] })
		if held != 500 {
			t.Fatalf("a has %d", held)
		}
		role := func(r string, q state.Quota) QuotaChange {
			return QuotaChange{Quotas: []state.RoleQuota{{Role: r, Quota: q}}}
		}
		forced := func(q QuotaChange) QuotaChange { q.Force = true; return q }
		if err := c.l.UpdateQuota(t.Context(), role("b", cpus(9, 10))); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			name   string
			change QuotaChange
			want   error
			says   string
		}{
			{"of a role that cannot be", role("x//y", cpus(1, 1)), ErrInvalid, "two in a row"},
			{"of everybody", role("*", cpus(1, 1)), ErrInvalid, "can have no quota"},
			{"more guaranteed than the limit", role("x", cpus(3, 2)), ErrInvalid, "limited to"},
			{"twice", QuotaChange{Quotas: []state.RoleQuota{{Role: "x"}, {Role: "x"}}}, ErrInvalid, "twice"},
			{"the parts more than the whole", role("b/part", cpus(11, -1)), ErrInvalid, `the parts of role "b" are guaranteed 11 cpus, and it is limited to 10`},
			{"more than there is", role("x", cpus(8, -1)), ErrConflict, "all guarantees together are 17 cpus, and all agents have 16"},
			{"less than it has", role("a", cpus(-1, 0)), ErrInvalid, `role "a" has 0.5 cpus, which is more than the limit of 0`},
			{"new, and it has one", QuotaChange{Quotas: []state.RoleQuota{{Role: "b", Quota: cpus(1, 1)}}, New: true}, ErrInvalid, "has a quota already"},
			{"gone, and it has none", QuotaChange{Quotas: []state.RoleQuota{{Role: "x"}}, Known: true}, ErrInvalid, "has no quota"},
			{"one of two", QuotaChange{Quotas: []state.RoleQuota{{Role: "y", Quota: cpus(1, 1)}, {Role: "x", Quota: cpus(3, 2)}}}, ErrInvalid, "limited to"},
		} {
			if err := c.l.UpdateQuota(t.Context(), test.change); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s: %v", test.name, err)
			}
		}
		c.m.View(func(s *state.State) {
			if q := s.Quotas(); len(q) != 1 || q["b"].Limits[state.CPUs] != 10_000 {
				t.Errorf("refusals changed something: %v", q)
			}
		})
		for _, q := range []QuotaChange{forced(role("x", cpus(8, -1))), forced(role("a", cpus(-1, 0)))} {
			if err := c.l.UpdateQuota(t.Context(), q); err != nil {
				t.Errorf("by force: %v", err)
			}
		}
	})
}
