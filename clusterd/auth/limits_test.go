package auth

import (
	"log/slog"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesolith/mesolith/internal/acl"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/ratelimit"
)

// Over any time no more calls pass than the rate and the capacity allow, and who waits as
// long as he is told passes.
func TestLimiterKeepsItsRate(t *testing.T) {
	l := newLimiter(&ratelimit.Limits{Limits: []ratelimit.Limit{{Principal: "a", Rate: ratelimit.Rate{QPS: 2, Capacity: 5}}}})
	a := Principal{Name: "a", Role: nodedoc.RoleFramework}
	now := time.Unix(1000, 0)
	passed := 0
	for range 10_000 { // ten seconds, a call each millisecond
		if over := l.take(a, now); over == nil {
			passed++
		} else if have := l.named["a"].tokens.TokensAt(now.Add(over.wait)); have < 0.999 || have > 1.01 {
			t.Fatalf("told to wait %v, and %v calls are allowed then", over.wait, have)
		}
		now = now.Add(time.Millisecond)
	}
	if passed < 24 || passed > 26 {
		t.Errorf("%d calls passed in 10 s of 2 a second, 5 at once", passed)
	}
}

// Callers without a limit of their own share one bucket: names that come by take no memory.
func TestLimiterIsBounded(t *testing.T) {
	l := newLimiter(&ratelimit.Limits{Limits: []ratelimit.Limit{{Principal: "a"}}, Aggregate: ratelimit.Rate{QPS: 1, Capacity: 10}})
	now := time.Unix(1000, 0)
	passed := 0
	for i := range 1000 {
		if l.take(Principal{Name: strconv.Itoa(i), Role: nodedoc.RoleFramework}, now) == nil {
			passed++
		}
		if l.take(Principal{Name: "a", Role: nodedoc.RoleReader}, now) != nil || l.take(Principal{Name: "boss", Role: nodedoc.RoleOperator}, now) != nil {
			t.Fatal("somebody is limited who is not")
		}
	}
	if passed != 10 || len(l.named) != 1 {
		t.Errorf("%d passed; %d buckets", passed, len(l.named))
	}
	if (*limiter)(nil).take(Principal{}, now) != nil {
		t.Error("without limits somebody is limited")
	}
}

// A second takes its lines, and says afterwards how many it did not; then it takes more.
func TestAuditWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines counter
		a := New(time.Now)
		a.AuditTo(slog.New(slog.NewTextHandler(&lines, nil)))
		for range 3 {
			for range 100 {
				a.refused(caller{by: a}, "GET /x", "", "no")
			}
			synctest.Wait()
			time.Sleep(1100 * time.Millisecond)
			synctest.Wait()
		}
		if want := 3 * (refusalsPerSecond + 1); int(lines) != want {
			t.Errorf("%d lines, want %d", lines, want)
		}
	})
}

// counter counts writes.
type counter int

func (c *counter) Write(b []byte) (int, error) { *c++; return len(b), nil }

// The principal that the ACLs judge is the one that was proven, and they are those of the
// newest policy.
func TestAllowedByTheNewestPolicy(t *testing.T) {
	a := New(time.Now)
	if !a.Allowed("x", acl.ViewFlags, acl.Object{}) {
		t.Error("without ACLs something is refused")
	}
	rules, err := acl.Parse([]byte(`{"view_flags":[{"principals":{"values":["x"]},"flags":{"type":"NONE"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	p, err := PolicyOf(nodedoc.API{Anonymous: nodedoc.AnonymousNone, ACLs: rules, RateLimits: &ratelimit.Limits{Aggregate: ratelimit.Rate{QPS: 1, Capacity: 1}}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Set(p); err != nil {
		t.Fatal(err)
	}
	if a.Allowed("x", acl.ViewFlags, acl.Object{}) || !a.Allowed("y", acl.ViewFlags, acl.Object{}) || a.current.Load().limits == nil {
		t.Error("the policy of the document is not in force")
	}
	if JudgeOf(t.Context()).May(acl.ViewRole, acl.Named("r")) || Forbidden(t.Context(), acl.ViewRole, "role", "r") == "" {
		t.Error("who was not let in may see a role")
	}
}
