// Package executors is the executor API of an agent: POST /api/v1/executor, by which a
// framework's executor subscribes to what it is given and reports what became of it.
//
// The order of checks is that of Mesos 1.11: an agent that has not recovered is 503, then
// method, media type, decoding, validity of the call, whether there is such an executor
// (400), whether the caller is it (403), whether it is subscribed (403). A call that
// reports is answered when the agent's journal holds it.
//
// Invariants: the port takes these calls by plain HTTP from the node's own containers,
// because executors' libraries know nothing else, and nothing else from them; who is which
// executor package agent decides, by the container that the call comes from. A body is
// bounded as everywhere (httpio), a stream by its queue.
//
// What a call does is package agent's.
package executors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/executor"
	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/streams"
)

// Agent is whom the calls are for.
type Agent interface {
	Subscribe(ctx context.Context, who agent.Caller, call *executor.Call, s *streams.Stream) error
	Do(ctx context.Context, who agent.Caller, call *executor.Call) error
	Disconnected(s *streams.Stream)
}

// Config is what the API needs.
type Config struct {
	Agent  Agent
	Budget *httpio.Budget
	Log    *slog.Logger
}

const (
	// heartbeat is how long a stream is silent before a HEARTBEAT; as Mesos' agents.
	heartbeat = 30 * time.Minute
	// callTime is how long the agent's loop may take for a call.
	callTime = 30 * time.Second
	// maxQueue bounds what waits for one executor, in bytes.
	maxQueue = 16 << 20
)

// Handler answers the path for everybody: who calls is checked with the call.
func Handler(cfg Config) http.Handler { return &handler{cfg} }

type handler struct{ Config }

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		httpio.NotAllowed(w, r, http.MethodPost)
		return
	}
	call := &executor.Call{}
	release, ok := httpio.ReadCall(w, r, h.Budget, "executor::Call", call)
	done := sync.OnceFunc(release) // a stream lasts longer than the call that began it
	defer done()
	if !ok {
		return
	}
	if err := validate(call); err != nil {
		httpio.Error(w, http.StatusBadRequest, "Failed to validate executor::Call: "+err.Error())
		return
	}
	who := callerOf(r)
	if call.GetType() == executor.Call_SUBSCRIBE {
		h.subscribe(w, r, who, call, done)
		return
	}
	if _, known := needs[call.GetType()]; !known {
		httpio.Error(w, http.StatusNotImplemented, "The call "+call.GetType().String()+" is not known")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTime)
	defer cancel()
	if err := h.Agent.Do(ctx, who, call); err != nil {
		h.fail(w, r, call, err)
		return
	}
	httpio.Empty(w, http.StatusAccepted)
}

func (h *handler) subscribe(w http.ResponseWriter, r *http.Request, who agent.Caller, call *executor.Call, done func()) {
	media, ok := httpio.Negotiate(r)
	if !ok {
		httpio.Error(w, http.StatusNotAcceptable, "Expecting 'Accept' to allow 'application/json' or 'application/x-protobuf'")
		return
	}
	encoding := streams.JSON
	if media == httpio.Protobuf {
		encoding = streams.Protobuf
	}
	s := streams.NewEvery(heartbeat, encoding, maxQueue, streams.NewEvent(&executor.Event{Type: executor.Event_HEARTBEAT.Enum()}))
	defer h.Agent.Disconnected(s)
	if err := h.Agent.Subscribe(r.Context(), who, call, s); err != nil {
		h.fail(w, r, call, err)
		return
	}
	id, framework := call.GetExecutorId().GetValue(), call.GetFrameworkId().GetValue()
	done()
	if err := s.Serve(r.Context(), w); err != nil {
		h.Log.Info("an executor's stream ended", "executor", id, "framework", framework, "why", err)
	}
}

// fail is the one map from the agent's errors to statuses.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, call *executor.Call, err error) {
	status := http.StatusInternalServerError
	switch {
	case r.Context().Err() != nil:
		return // nobody listens
	case errors.Is(err, agent.ErrExecutorUnknown):
		status = http.StatusBadRequest
	case errors.Is(err, agent.ErrNotTheExecutor), errors.Is(err, agent.ErrNotSubscribed):
		status = http.StatusForbidden
	case errors.Is(err, agent.ErrRecovering), errors.Is(err, agent.ErrTooMany), errors.Is(err, context.DeadlineExceeded):
		status = http.StatusServiceUnavailable
	}
	h.Log.Warn("an executor's call is refused", "call", call.GetType().String(), "from", r.RemoteAddr, "status", status, "why", err.Error())
	httpio.Error(w, status, err.Error())
}

// callerOf is where a request comes from, and the token it brings.
func callerOf(r *http.Request) agent.Caller {
	var who agent.Caller
	// An address that cannot be read is nobody's.
	who.From, _ = netip.ParseAddrPort(r.RemoteAddr)
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		who.To, _ = netip.ParseAddrPort(local.String())
	}
	who.Token, _ = strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if who.Token == r.Header.Get("Authorization") {
		who.Token = "" // of another scheme: clients send empty credentials by habit
	}
	return who
}

// needs are the calls, and the sub-message each must have.
var needs = map[executor.Call_Type]struct {
	message string
	present func(*executor.Call) bool
}{
	executor.Call_SUBSCRIBE: {"subscribe", func(c *executor.Call) bool { return c.Subscribe != nil }},
	executor.Call_UPDATE:    {"update", func(c *executor.Call) bool { return c.Update != nil }},
	executor.Call_MESSAGE:   {"message", func(c *executor.Call) bool { return c.Message != nil }},
	executor.Call_HEARTBEAT: {},
}

// invalid is a sentence in Mesos' words.
type invalid string

func (e invalid) Error() string { return string(e) }

// validate is what can be said of a call without knowing the executor, in Mesos' words.
func validate(c *executor.Call) error {
	if c.Type == nil {
		return invalid("Expecting 'type' to be present")
	}
	if n := needs[c.GetType()]; n.present != nil && !n.present(c) {
		return invalid("Expecting '" + n.message + "' to be present")
	}
	if c.GetType() == executor.Call_UPDATE {
		return checkStatus(c, c.GetUpdate().GetStatus())
	}
	for _, u := range c.GetSubscribe().GetUnacknowledgedUpdates() {
		if err := checkStatus(c, u.GetStatus()); err != nil {
			return err
		}
	}
	return nil
}

const (
	uuidBytes = 16
	// maxStatus bounds an update in bytes: many of them may have to be kept.
	maxStatus = 64 << 10
)

func checkStatus(c *executor.Call, st *mesosv1.TaskStatus) error {
	switch {
	case proto.Size(st) > maxStatus:
		return fmt.Errorf("the status of task %q has %d bytes, at most %d are taken: put large data into the sandbox or a MESSAGE", st.GetTaskId().GetValue(), proto.Size(st), maxStatus)
	case len(st.GetUuid()) != uuidBytes:
		return fmt.Errorf("'status.uuid' of task %q must have %d bytes, it has %d", st.GetTaskId().GetValue(), uuidBytes, len(st.GetUuid()))
	case st.ExecutorId != nil && st.GetExecutorId().GetValue() != c.GetExecutorId().GetValue():
		return fmt.Errorf("executor '%s' of the status differs from the caller '%s'", st.GetExecutorId().GetValue(), c.GetExecutorId().GetValue())
	case st.Source != nil && st.GetSource() != mesosv1.TaskStatus_SOURCE_EXECUTOR:
		return fmt.Errorf("received %s, an executor's source is SOURCE_EXECUTOR", st.GetSource())
	}
	switch st.GetState() {
	case mesosv1.TaskState_TASK_STARTING, mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskState_TASK_KILLING, mesosv1.TaskState_TASK_FINISHED,
		mesosv1.TaskState_TASK_FAILED, mesosv1.TaskState_TASK_KILLED, mesosv1.TaskState_TASK_ERROR, mesosv1.TaskState_TASK_LOST,
		mesosv1.TaskState_TASK_DROPPED, mesosv1.TaskState_TASK_GONE:
		return nil
	}
	return fmt.Errorf("state %s cannot be an executor's to report", st.GetState())
}
