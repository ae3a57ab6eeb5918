package auth

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/time/rate"

	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/ratelimit"
)

// limiter counts calls against the rate limits. What it holds is as much as the limits
// name: one bucket for each principal of the list, one for all others.
type limiter struct {
	named map[string]*bucket // nil: that principal is not limited
	rest  *bucket            // nil: nobody else is
}

type bucket struct {
	ratelimit.Rate
	tokens *rate.Limiter
}

func newLimiter(l *ratelimit.Limits) *limiter {
	if l == nil {
		return nil
	}
	out := &limiter{named: make(map[string]*bucket, len(l.Limits)), rest: newBucket(l.Aggregate)}
	for _, one := range l.Limits {
		out.named[one.Principal] = newBucket(one.Rate)
	}
	return out
}

func newBucket(r ratelimit.Rate) *bucket {
	if r.QPS == 0 {
		return nil
	}
	return &bucket{r, rate.NewLimiter(rate.Limit(r.QPS), int(r.Capacity))}
}

// excess is a call over a limit.
type excess struct {
	wait time.Duration // until one more is allowed
	why  string
}

// take counts a call; nil: it is within the limits. Operators are limited only by name:
// strangers must not be able to use up what they need to stop them.
func (l *limiter) take(p Principal, now time.Time) *excess {
	if l == nil {
		return nil
	}
	b, whose := l.rest, "All callers without a rate limit of their own together"
	if own, ok := l.named[p.Name]; ok && p.Name != "" {
		b, whose = own, "Principal '"+p.Name+"'"
	} else if p.May(nodedoc.RoleOperator) {
		return nil
	}
	if b == nil {
		return nil
	}
	r := b.tokens.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	r.CancelAt(now)
	return &excess{wait, fmt.Sprintf("%s may make %g calls a second, %d at once, and made more; wait %d s and call again, or have the limit raised (api.rateLimits of the cluster file)",
		whose, b.QPS, b.Capacity, retryAfter(wait))}
}

// retryAfter is a time to wait in whole seconds.
func retryAfter(wait time.Duration) int { return int(math.Ceil(max(1, wait.Seconds()))) }

// refuse answers 429.
func (e *excess) refuse(w http.ResponseWriter) {
	w.Header().Set("Retry-After", strconv.Itoa(retryAfter(e.wait)))
	refuseText(w, http.StatusTooManyRequests, e.why)
}
