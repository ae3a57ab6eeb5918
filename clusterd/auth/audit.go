package auth

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
)

// How many lines a second the audit log takes, of what was refused and of what was changed.
// They are counted apart, so that a flood of refusals hides no change.
const (
	refusalsPerSecond = 10
	changesPerSecond  = 200
	// longestObject is how much of what a call is about goes into one line, in bytes.
	longestObject = 1024
)

// recorder writes the audit log: one line for each call that was refused and for each
// that changes something. It writes no secret: names, calls and their objects only.
type recorder struct {
	log      func() *slog.Logger
	mu       sync.Mutex
	refusals window
	changes  window
}

// window is one second of one kind of line.
type window struct {
	began   time.Time
	written int
	left    int // not written
}

// take says whether a line may be written now; first: it is the first that may not since
// somebody said how many there were.
func (w *window) take(now time.Time, most int) (ok, first bool) {
	if now.Sub(w.began) >= time.Second {
		w.began, w.written = now, 0
	}
	if w.written < most {
		w.written++
		return true, false
	}
	w.left++
	return false, w.left == 1
}

func (r *recorder) write(w *window, most int, kind string, attrs []any) {
	r.mu.Lock()
	ok, first := w.take(time.Now(), most)
	r.mu.Unlock()
	if ok {
		r.log().Info("audit", attrs...)
		return
	}
	if first {
		time.AfterFunc(time.Second, func() {
			r.mu.Lock()
			n := w.left
			w.left = 0
			r.mu.Unlock()
			r.log().Warn("audit: lines left out, there were too many a second", "of", kind, "lines", n, "most_a_second", most)
		})
	}
}

// caller is who Guard let in.
type caller struct {
	Principal
	origin Origin
	by     *Authenticator
}

// attributes are who and from where.
func (c caller) attributes(call, object, outcome string) []any {
	from := "unknown"
	if c.origin.Remote.IsValid() {
		from = c.origin.Remote.String()
	}
	out := []any{"principal", c.String(), "role", c.Role, "from", from}
	if c.origin.Node != "" {
		out = append(out, "through", c.origin.Node)
	}
	return append(out, "call", short(call), "object", short(object), "outcome", short(outcome))
}

func short(text string) string {
	if len(text) > longestObject {
		return strings.ToValidUTF8(text[:longestObject], "") + "…"
	}
	return text
}

// Refused writes down that the caller of a context was not allowed something, and why.
func Refused(ctx context.Context, call, object, why string) {
	if c, ok := ctx.Value(callerKind{}).(caller); ok {
		c.by.refused(c, call, object, why)
	}
}

func (a *Authenticator) refused(c caller, call, object, why string) {
	a.audit.write(&a.audit.refusals, refusalsPerSecond, "refusals", append(c.attributes(call, object, "refused"), "why", short(why)))
}

// Changed writes down that the caller of a context changed something, or tried to: the
// outcome is "done" or what went wrong.
func Changed(ctx context.Context, call, object, outcome string) {
	if c, ok := ctx.Value(callerKind{}).(caller); ok {
		a := c.by.audit
		a.write(&a.changes, changesPerSecond, "changes", c.attributes(call, object, outcome))
	}
}

// Outcome words what became of a change.
func Outcome(err error) string {
	if err != nil {
		return err.Error()
	}
	return "done"
}

// callOf names a request that is no call of an API with names of its own.
func callOf(r *http.Request) string { return r.Method + " " + r.URL.Path }
