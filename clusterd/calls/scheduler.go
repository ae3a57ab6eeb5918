// Package calls is the scheduler API: HTTP in, checked in the protocol's order, then handed
// to the leader; and the way a request takes to the leader when it arrives elsewhere.
//
// The order of checks is that of Mesos 1.11, because clients tell failures apart by their
// status: is there a leader (a node that does not lead forwards, over one hop), has it
// recovered, method, media type, decoding, validity of the call, and then what only the
// leader knows: framework, principal, subscription, stream id. errors.go is the one map
// from the leader's errors to statuses.
//
// Invariants: a call that another node forwarded goes no further; no call is sent twice
// once a byte of it has left, reads excepted; a stream that this side ends is ended with
// its last chunk.
//
// Who calls is judged by auth before a request arrives here; what a call does is the
// leader's business. A new call is a line in the table of validate.go and a case in the
// leader.
package calls

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/streams"
)

// maxStreamID is the longest Mesos-Stream-Id that is looked at.
const maxStreamID = 128

// Config is what the scheduler API needs.
type Config struct {
	// Leader returns this node's term in office, nil while it does not lead.
	Leader func() *leader.Leader
	Router *Router
	Log    *slog.Logger
}

// Handler answers POST /api/v1/scheduler on the leader. It expects a caller that
// auth.Guard has let in; Router.ToLeader brings requests of other nodes here.
func Handler(cfg Config) http.Handler { return &handler{cfg} }

type handler struct{ Config }

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l := h.Leader()
	if l == nil {
		httpio.Error(w, http.StatusServiceUnavailable, noLeader)
		return
	}
	select {
	case <-l.Ready():
	default:
		httpio.Error(w, http.StatusServiceUnavailable, notRecovered)
		return
	}
	call, done, ok := h.read(w, r)
	defer done()
	if !ok {
		return
	}
	principal := auth.PrincipalOf(r.Context())
	if err := validate(call, principal.Name); err != nil {
		httpio.Error(w, http.StatusBadRequest, "Failed to validate scheduler::Call: "+err.Error())
		return
	}
	if call.GetType() == scheduler.Call_SUBSCRIBE {
		h.subscribe(w, r, l, principal, call)
		return
	}
	if !supported(call.GetType()) {
		httpio.Error(w, http.StatusNotImplemented, "The call "+call.GetType().String()+" is not known")
		return
	}
	streamID := r.Header.Get("Mesos-Stream-Id")
	if len(streamID) > maxStreamID {
		httpio.Error(w, http.StatusBadRequest, "Mesos-Stream-Id is longer than 128 bytes")
		return
	}
	err := l.Do(refusals(r.Context(), call), principal.Name, streamID, call)
	changed(r.Context(), call, err)
	if err != nil {
		fail(w, r, h.Log, err, explanation{call, principal, streamID})
		return
	}
	if call.GetType() == scheduler.Call_UPDATE_FRAMEWORK { // the one call that is over when it is answered
		httpio.Empty(w, http.StatusOK)
		return
	}
	httpio.Empty(w, http.StatusAccepted)
}

// read does the checks up to decoding.
func (h *handler) read(w http.ResponseWriter, r *http.Request) (call *scheduler.Call, done func(), ok bool) {
	done = func() {}
	if r.Method != http.MethodPost {
		httpio.NotAllowed(w, r, http.MethodPost)
		return nil, done, false
	}
	call = &scheduler.Call{}
	done, ok = httpio.ReadCall(w, r, h.Router.Budget, "scheduler::Call", call)
	return call, done, ok
}

func (h *handler) subscribe(w http.ResponseWriter, r *http.Request, l *leader.Leader, p auth.Principal, call *scheduler.Call) {
	media, ok := httpio.Negotiate(r)
	if !ok {
		httpio.Error(w, http.StatusNotAcceptable, "Expecting 'Accept' to allow 'application/json' or 'application/x-protobuf'")
		return
	}
	if r.Header.Get("Mesos-Stream-Id") != "" {
		httpio.Error(w, http.StatusBadRequest, "Subscribe calls should not include the 'Mesos-Stream-Id' header")
		return
	}
	if info := call.GetSubscribe().GetFrameworkInfo(); p.Kind == auth.Basic && info.Principal == nil {
		// So that nobody else takes the framework over. Operators act for one another.
		info.Principal = proto.String(p.Name)
	}
	encoding := streams.JSON
	if media == httpio.Protobuf {
		encoding = streams.Protobuf
	}
	s := streams.New(uuid.NewString(), encoding, streams.DefaultMaxBytes)
	err := l.Subscribe(refusals(r.Context(), call), p.Name, call, s)
	changed(r.Context(), call, err)
	if err != nil {
		fail(w, r, h.Log, err, explanation{call, p, ""})
		// It may have been decided all the same.
		l.Disconnected(s.ID(), h.Router.plainly(r))
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	err = s.Serve(ctx, w)
	// Who never heard that it is subscribed did not leave: we were too slow for it.
	l.Disconnected(s.ID(), err != nil && !errors.Is(err, streams.ErrUnheard) && h.Router.plainly(r))
	if err != nil {
		h.Log.Info("subscription ended", "stream", s.ID(), "principal", p.String(), "reason", err)
	}
}
