package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// master is a played one: it sends what the test tells it to and keeps what it hears.
type master struct {
	*httptest.Server
	t        *testing.T
	protobuf bool

	limit time.Duration // how long expect waits

	mu      sync.Mutex
	streams int
	events  chan *scheduler.Event // nil ends the stream
	calls   chan *scheduler.Call
	refuse  func(*scheduler.Call) int // an HTTP status instead of 202; 0: none
	removed bool                      // SUBSCRIBE is answered by an ERROR
}

func newMaster(t *testing.T, protobuf bool) *master {
	m := playedMaster(t, protobuf)
	m.Server = httptest.NewServer(m)
	t.Cleanup(m.Close)
	return m
}

func playedMaster(t *testing.T, protobuf bool) *master {
	return &master{t: t, protobuf: protobuf, limit: 10 * time.Second, events: make(chan *scheduler.Event, 256), calls: make(chan *scheduler.Call, 64)}
}

// breakOff is an answer of refuse: the connection ends without one.
const breakOff = -1

var refusals = map[int]string{
	http.StatusForbidden:           "Framework is not subscribed",
	http.StatusBadRequest:          "The stream ID 'x' included in this request didn't match the stream ID currently associated with framework ID 'f-0000'",
	http.StatusNotImplemented:      "The call is not supported yet",
	http.StatusServiceUnavailable:  "Leadership changed while the call was being committed; whether it took effect is not known",
	http.StatusInternalServerError: "Failed to process the call",
}

func (m *master) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		m.t.Error(err)
	}
	call := &scheduler.Call{}
	if m.protobuf {
		err = proto.Unmarshal(body, call)
	} else {
		err = mesosjson.Unmarshal(body, call)
	}
	if err != nil {
		m.t.Error(err)
	}
	m.calls <- call
	if call.GetType() == scheduler.Call_SUBSCRIBE {
		m.stream(w, r)
		return
	}
	m.mu.Lock()
	refuse, current := m.refuse, fmt.Sprint("stream-", m.streams)
	m.mu.Unlock()
	if got := r.Header.Get(streamHeader); got != current {
		m.t.Errorf("call %s with stream id %q, want %q", call.GetType(), got, current)
	}
	if refuse != nil {
		switch code := refuse(call); code {
		case 0:
		case breakOff:
			panic(http.ErrAbortHandler)
		default:
			http.Error(w, refusals[code], code)
			return
		}
	}
	w.WriteHeader(http.StatusAccepted)
}

func (m *master) stream(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.streams++
	w.Header().Set(streamHeader, fmt.Sprint("stream-", m.streams))
	m.mu.Unlock()
	send := func(e *scheduler.Event) {
		record := mesosjson.Marshal(e)
		if m.protobuf {
			record, _ = proto.Marshal(e)
		}
		_ = recordio.NewWriter(w).Write(record)
		_ = http.NewResponseController(w).Flush()
	}
	if m.isRemoved() {
		send(&scheduler.Event{Type: scheduler.Event_ERROR.Enum(), Error: &scheduler.Event_Error{Message: proto.String("Framework has been removed")}})
		return
	}
	send(&scheduler.Event{Type: scheduler.Event_SUBSCRIBED.Enum(), Subscribed: &scheduler.Event_Subscribed{
		FrameworkId: &mesosv1.FrameworkID{Value: proto.String("f-0000")}, HeartbeatIntervalSeconds: proto.Float64(15),
	}})
	for {
		select {
		case e := <-m.events:
			if e == nil {
				return
			}
			send(e)
		case <-time.After(5 * time.Second):
			send(&scheduler.Event{Type: scheduler.Event_HEARTBEAT.Enum()})
		case <-r.Context().Done():
			return
		}
	}
}

func (m *master) isRemoved() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.removed
}

// refuseFirst refuses the first n calls of a type.
func (m *master) refuseFirst(n int, kind scheduler.Call_Type, code int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse = func(c *scheduler.Call) int {
		if c.GetType() == kind && n > 0 {
			n--
			return code
		}
		return 0
	}
}

// expect waits for the next call and wants it to be of a type.
func (m *master) expect(want scheduler.Call_Type) *scheduler.Call {
	m.t.Helper()
	select {
	case c := <-m.calls:
		if c.GetType() != want {
			m.t.Fatalf("call %s, want %s", c.GetType(), want)
		}
		return c
	case <-time.After(m.limit):
		m.t.Fatalf("no call, want %s", want)
		return nil
	}
}

func offer(id string, cpus, mem float64) *scheduler.Event {
	scalar := func(name string, v float64) *mesosv1.Resource {
		return &mesosv1.Resource{Name: proto.String(name), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: proto.Float64(v)}}
	}
	ports := &mesosv1.Resource{Name: proto.String("ports"), Type: mesosv1.Value_RANGES.Enum(), Ranges: &mesosv1.Value_Ranges{
		Range: []*mesosv1.Value_Range{{Begin: proto.Uint64(31000), End: proto.Uint64(31000)}, {Begin: proto.Uint64(31005), End: proto.Uint64(31009)}},
	}}
	return &scheduler.Event{Type: scheduler.Event_OFFERS.Enum(), Offers: &scheduler.Event_Offers{Offers: []*mesosv1.Offer{{
		Id: &mesosv1.OfferID{Value: &id}, FrameworkId: &mesosv1.FrameworkID{Value: proto.String("f-0000")},
		AgentId: &mesosv1.AgentID{Value: proto.String("s1")}, Hostname: proto.String("10.77.0.11"),
		AllocationInfo: &mesosv1.Resource_AllocationInfo{Role: proto.String("*")},
		Resources:      []*mesosv1.Resource{scalar("cpus", cpus), scalar("mem", mem), ports},
	}}}}
}

func update(task string, state mesosv1.TaskState, reason mesosv1.TaskStatus_Reason, uuid string) *scheduler.Event {
	s := &mesosv1.TaskStatus{
		TaskId: &mesosv1.TaskID{Value: &task}, State: state.Enum(), Reason: reason.Enum(),
		AgentId: &mesosv1.AgentID{Value: proto.String("s1")},
	}
	if uuid != "" {
		s.Uuid = []byte(uuid)
	}
	return &scheduler.Event{Type: scheduler.Event_UPDATE.Enum(), Update: &scheduler.Event_Update{Status: s}}
}

func framework() *mesosv1.FrameworkInfo {
	return &mesosv1.FrameworkInfo{
		User: proto.String("root"), Name: proto.String("test"), Roles: []string{"*"},
		Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()}},
	}
}

// addTask gives a launcher one task, t1.
func addTask(t *testing.T, l *Launcher) {
	t.Helper()
	if err := l.Add(t.Context(), Task{ID: "t1", CPUs: 1, Command: &mesosv1.CommandInfo{Value: proto.String("true")}}); err != nil {
		t.Fatal(err)
	}
}

func launcher(t *testing.T, m *master) *Launcher {
	t.Helper()
	c, err := New(Config{Masters: []string{m.URL}, Protobuf: m.protobuf, Framework: framework()})
	if err != nil {
		t.Fatal(err)
	}
	l := NewLauncher(c, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	return l
}

func TestTaskRunsOnTheFirstOfferThatIsLargeEnough(t *testing.T) {
	for _, protobuf := range []bool{false, true} {
		m := newMaster(t, protobuf)
		l := launcher(t, m)
		task := Task{ID: "t1", CPUs: 1, MemMB: 64, Ports: 2, Command: &mesosv1.CommandInfo{Value: proto.String("true")}}
		if err := l.Add(t.Context(), task); err != nil {
			t.Fatal(err)
		}
		m.expect(scheduler.Call_SUBSCRIBE)
		m.events <- offer("small", 0.5, 1024)
		m.expect(scheduler.Call_DECLINE)
		m.events <- offer("large", 2, 1024)
		accept := m.expect(scheduler.Call_ACCEPT).GetAccept()
		info := accept.GetOperations()[0].GetLaunch().GetTaskInfos()[0]
		env := info.GetCommand().GetEnvironment().GetVariables()
		if accept.GetOfferIds()[0].GetValue() != "large" || len(env) != 2 || env[0].GetValue() != "31000" || env[1].GetValue() != "31005" {
			t.Errorf("accept %v", accept)
		}
		m.events <- update("t1", mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskStatus_REASON_TASK_HEALTH_CHECK_STATUS_UPDATED, "0123456789abcdef")
		if ack := m.expect(scheduler.Call_ACKNOWLEDGE).GetAcknowledge(); string(ack.GetUuid()) != "0123456789abcdef" {
			t.Errorf("acknowledged %q", ack.GetUuid())
		}
		if got, err := l.Wait(t.Context(), "t1", Running); err != nil || got.Hostname != "10.77.0.11" {
			t.Errorf("%+v, %v", got, err)
		}
		m.events <- update("t1", mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskStatus_REASON_COMMAND_EXECUTOR_FAILED, "1123456789abcdef")
		m.expect(scheduler.Call_ACKNOWLEDGE)
		if _, err := l.Wait(t.Context(), "t1", Ended); err != nil {
			t.Error(err)
		}
	}
}

func TestLostStreamIsOpenedAgainWithTheSameID(t *testing.T) {
	m := newMaster(t, false)
	l := launcher(t, m)
	m.expect(scheduler.Call_SUBSCRIBE)
	addTask(t, l)
	m.events <- offer("o1", 2, 1024)
	m.expect(scheduler.Call_ACCEPT)
	m.events <- nil
	if id := m.expect(scheduler.Call_SUBSCRIBE).GetSubscribe().GetFrameworkInfo().GetId().GetValue(); id != "f-0000" {
		t.Errorf("subscribed again with id %q", id)
	}
	if tasks := m.expect(scheduler.Call_RECONCILE).GetReconcile().GetTasks(); len(tasks) != 1 || tasks[0].GetTaskId().GetValue() != "t1" {
		t.Errorf("reconciled %v", tasks)
	}
}

func TestLaunchOfUnknownOutcomeIsNeitherLostNorDoubled(t *testing.T) {
	m := newMaster(t, false)
	m.refuse = func(c *scheduler.Call) int {
		if c.GetType() == scheduler.Call_ACCEPT {
			return http.StatusServiceUnavailable
		}
		return 0
	}
	l := launcher(t, m)
	m.expect(scheduler.Call_SUBSCRIBE)
	addTask(t, l)
	m.events <- offer("o1", 2, 1024)
	m.expect(scheduler.Call_ACCEPT)
	// The stream is given up with the call, so that a late one finds its id void …
	m.expect(scheduler.Call_SUBSCRIBE)
	m.expect(scheduler.Call_RECONCILE)
	// … and the task is not launched a second time while nobody knows …
	m.events <- offer("o2", 2, 1024)
	m.expect(scheduler.Call_DECLINE)
	// … but once the cluster has said that it never heard of the task.
	m.mu.Lock()
	m.refuse = nil
	m.mu.Unlock()
	m.events <- update("t1", mesosv1.TaskState_TASK_LOST, mesosv1.TaskStatus_REASON_RECONCILIATION, "")
	m.expect(scheduler.Call_REVIVE) // of what was declined for long
	m.events <- offer("o3", 2, 1024)
	m.expect(scheduler.Call_ACCEPT)
}

func TestTaskAddedDuringALongDeclineGetsOffers(t *testing.T) {
	m := newMaster(t, false)
	release := make(chan struct{})
	m.refuse = func(c *scheduler.Call) int {
		if c.GetType() == scheduler.Call_DECLINE {
			<-release
		}
		return 0
	}
	l := launcher(t, m)
	m.expect(scheduler.Call_SUBSCRIBE)
	m.events <- offer("o1", 2, 1024)
	m.expect(scheduler.Call_DECLINE)
	addTask(t, l)
	m.expect(scheduler.Call_REVIVE)
	close(release) // the decline takes effect only now
	m.expect(scheduler.Call_REVIVE)
}

func TestErrorEventEndsTheFramework(t *testing.T) {
	m := newMaster(t, false)
	c, err := New(Config{Masters: []string{m.URL}, Framework: framework()})
	if err != nil {
		t.Fatal(err)
	}
	m.events <- &scheduler.Event{Type: scheduler.Event_ERROR.Enum(), Error: &scheduler.Event_Error{Message: proto.String("Framework has been removed")}}
	if err := c.Run(t.Context(), func(context.Context, *scheduler.Event) error { return nil }); !errors.Is(err, ErrFrameworkEnded) {
		t.Errorf("Run: %v", err)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	for _, cfg := range []Config{{}, {Masters: []string{"127.0.0.1:5050"}, Framework: framework()}, {Masters: []string{"http://x"}}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}

// A task that was lost with its agent comes back with it; one that has ended does not.
func TestLostTaskComesBack(t *testing.T) {
	m := newMaster(t, false)
	l := launcher(t, m)
	m.expect(scheduler.Call_SUBSCRIBE)
	addTask(t, l)
	m.events <- offer("o1", 2, 1024)
	m.expect(scheduler.Call_ACCEPT)
	for _, c := range []struct{ told, want mesosv1.TaskState }{
		{mesosv1.TaskState_TASK_LOST, mesosv1.TaskState_TASK_LOST},
		{mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskState_TASK_RUNNING},
		{mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskState_TASK_FINISHED},
		{mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskState_TASK_FINISHED},
	} {
		m.events <- update("t1", c.told, mesosv1.TaskStatus_REASON_AGENT_REREGISTERED, "u")
		m.expect(scheduler.Call_ACKNOWLEDGE)
		if now, _ := l.Get("t1"); now.Status.GetState() != c.want {
			t.Errorf("told %s, it is %s, want %s", c.told, now.Status.GetState(), c.want)
		}
	}
}
