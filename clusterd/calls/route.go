package calls

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/internal/wire/forward"
)

// leaderWait is how long a SUBSCRIBE waits for a leader: clients spin on 503, or give up.
const leaderWait = 8 * time.Second

// officeWait is how long a forwarded SUBSCRIBE waits at a node that does not lead. It may
// have been elected and not know it yet, which takes a moment; if it led and was started
// again, it never will lead in the term that the forwarder means.
const officeWait = 500 * time.Millisecond

// notHere marks the answer to a forwarded call of a node that does not lead: nothing was
// done, and whoever forwarded looks for the leader anew.
const notHere = "Mesolith-Not-Here"

// RedirectHeader set to 1 asks for Mesos' 307 instead of forwarding.
const RedirectHeader = "Mesolith-Redirect"

// Answers of a node that cannot lead a call on.
const (
	noLeader     = "No leader elected"
	notRecovered = "Master has not finished recovery"
)

// Router brings each request to the leader: here if this node leads, else over one
// connection to the node that does. It is step 2 and 3 of the order of checks.
type Router struct {
	Node   string // this node's name
	Board  *Board
	Auth   *auth.Authenticator
	Budget *httpio.Budget
	Dial   Dialer
	Log    *slog.Logger
	// Stopping is closed when this program is going to end: what breaks then is our doing.
	Stopping <-chan struct{}

	forwarder *forwarder
}

// NewRouter completes a router.
func NewRouter(r Router) *Router {
	r.forwarder = newForwarder(r.Dial)
	return &r
}

// Close ends the connections that are kept for forwarding.
func (rt *Router) Close() { rt.forwarder.transport.CloseIdleConnections() }

// ToLeader serves local where this node leads and brings the request to the leader
// elsewhere.
func (rt *Router) ToLeader(local http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now, _ := rt.Board.Read()
		if now.answers() {
			local.ServeHTTP(w, r)
			return
		}
		body, done, err := rt.Budget.Read(w, r)
		if err != nil {
			httpio.BodyError(w, err)
			return
		}
		defer done()
		rt.bring(w, r, body, local)
	})
}

// bring takes a request to the leader, as it is known then.
func (rt *Router) bring(w http.ResponseWriter, r *http.Request, body []byte, local http.Handler) {
	ctx, cancel := r.Context(), context.CancelFunc(func() {})
	patient := isSubscribe(r, body)
	if patient {
		ctx, cancel = context.WithTimeout(ctx, leaderWait)
	}
	defer cancel()
	for {
		now := rt.await(ctx, r, patient)
		switch {
		case now.answers():
			r.Body = io.NopCloser(bytes.NewReader(body))
			local.ServeHTTP(w, r)
		case now.Here:
			httpio.Error(w, http.StatusServiceUnavailable, notRecovered)
		case auth.Forwarded(r.Context()):
			w.Header().Set(notHere, "1")
			httpio.Error(w, http.StatusServiceUnavailable, noLeader)
		case now.Leader == "":
			httpio.Error(w, http.StatusServiceUnavailable, noLeader)
		case r.Header.Get(RedirectHeader) == "1" && now.Address != "":
			Redirect(w, now.Address, r.URL.RequestURI())
		default:
			err := rt.forward(w, r, body, now)
			if !errors.Is(err, errNotReached) {
				return
			}
			// Nothing of it has left: the leader may have died before anybody noticed.
			if patient && !rt.Board.wait(ctx, func(s Standing) bool { return !s.same(now) }).same(now) {
				continue
			}
			if errors.Is(err, errNotHere) {
				httpio.Error(w, http.StatusServiceUnavailable, noLeader)
				return
			}
			httpio.Error(w, http.StatusServiceUnavailable, "Leader "+now.Leader+" did not answer: it was not reached, and nothing was sent")
		}
		return
	}
}

// await gives a SUBSCRIBE time for an election; everything else is answered at once. A
// forwarded one waits for this node itself to be ready, since it goes no further, and not
// for long where it does not lead.
func (rt *Router) await(ctx context.Context, r *http.Request, patient bool) Standing {
	now, _ := rt.Board.Read()
	if !patient {
		return now
	}
	if !auth.Forwarded(r.Context()) {
		return rt.Board.wait(ctx, func(s Standing) bool { return s.answers() || !s.Here && s.Leader != "" })
	}
	short, cancel := context.WithTimeout(ctx, officeWait)
	defer cancel()
	if now = rt.Board.wait(short, func(s Standing) bool { return s.Here }); !now.Here {
		return now
	}
	return rt.Board.wait(ctx, func(s Standing) bool { return s.answers() || !s.Here })
}

func isSubscribe(r *http.Request, body []byte) bool {
	media := r.Header.Get("Content-Type")
	if r.Method != http.MethodPost || media != httpio.JSON && media != httpio.Protobuf {
		return false
	}
	var call scheduler.Call
	return httpio.Decode(media, body, &call) == nil && call.GetType() == scheduler.Call_SUBSCRIBE && call.Subscribe != nil
}

// Redirect answers 307 in the form that clients parse: without a scheme.
func Redirect(w http.ResponseWriter, address, uri string) {
	w.Header().Set("Location", "//"+address+uri)
	httpio.Empty(w, http.StatusTemporaryRedirect)
}

// forward gives errNotReached when nothing was sent and nothing answered.
func (rt *Router) forward(w http.ResponseWriter, r *http.Request, body []byte, to Standing) error {
	origin, err := rt.Auth.Origin(r)
	if err != nil {
		auth.Refuse(w, auth.RealmScheduler, err)
		return err
	}
	remote := ""
	if origin.Remote.IsValid() {
		remote = origin.Remote.String()
	}
	caller := &forward.Caller{
		Protocol: 1, Node: rt.Node, Remote: remote, Tls: origin.TLS,
		Height: to.Height, Term: to.Term, Leader: to.Leader,
	}
	if origin.Certificate.Role != "" {
		caller.CertificateName = origin.Certificate.Name
		caller.CertificateRoles = []string{origin.Certificate.Role}
	}
	err = rt.forwarder.do(w, r, body, caller, func(ctx context.Context) error { return rt.termOver(ctx, r, to) })
	if err != nil {
		rt.Log.Info("forwarded call ended", "leader", to.Leader, "path", r.URL.Path, "reason", err)
	}
	return err
}

// Why a forwarded stream ended.
var (
	errTermOver   = errors.New("another leader, or another term")
	errStopping   = errors.New("this node is stopping")
	errCallerLeft = errors.New("the caller closed its connection")
)

// termOver returns when a forwarded stream must end, with the reason, or nil with ctx.
func (rt *Router) termOver(ctx context.Context, r *http.Request, to Standing) error {
	for {
		now, changed := rt.Board.Read()
		if !now.same(to) {
			return errTermOver
		}
		select {
		case <-changed:
		case <-rt.Stopping:
			return errStopping
		case <-r.Context().Done():
			if rt.callerLeft(r) {
				return errCallerLeft
			}
			return errStopping
		case <-ctx.Done():
			return nil
		}
	}
}

// callerLeft tells whether the caller closed the connection that this node holds, and not
// we.
func (rt *Router) callerLeft(r *http.Request) bool {
	select {
	case <-rt.Stopping:
		return false
	default:
		return r.Context().Err() != nil
	}
}

// Plainly tells, where a stream ended, whether its subscriber's own connection was seen to
// close: here, or by the node that forwarded it and said so.
func (rt *Router) plainly(r *http.Request) bool {
	if c, ok := r.Context().Value(connKey{}).(*callerConn); ok {
		return c.callerLeft.Load()
	}
	return rt.callerLeft(r)
}
