package leader

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/clusterd/streams"
	"github.com/mesolith/mesolith/internal/wire"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

const generation = "11111111-2222-3333-4444-555555555555"

// memoryLog commits at once into the real Machine; it can be told to fail.
type memoryLog struct {
	mu    sync.Mutex
	m     *state.Machine
	index uint64
	fail  error
	gate  chan struct{} // when set, each entry waits for one value
}

func (g *memoryLog) Propose(ctx context.Context, entry []byte) (any, error) {
	g.mu.Lock()
	gate := g.gate
	g.mu.Unlock()
	if gate != nil {
		<-gate
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail != nil {
		return nil, g.fail
	}
	g.index++
	return g.m.Apply(g.index, 1, entry), nil
}

func (g *memoryLog) Barrier(context.Context) error { return nil }

// cell is a cluster of one master whose terms the test begins and ends, inside a bubble
// of virtual time.
type cell struct {
	t    *testing.T
	m    *state.Machine
	log  *memoryLog
	desk *Desk
	l    *Leader
	end  func()
	term uint64
}

func newCell(t *testing.T) *cell {
	m := state.NewMachine()
	c := &cell{t: t, m: m, log: &memoryLog{m: m}, desk: NewDesk("m1", "i1", slog.New(slog.NewTextHandler(io.Discard, nil)))}
	c.lead()
	return c
}

func (c *cell) lead() {
	c.term++
	c.l = New(Config{
		Generation: generation, Height: 1, Term: c.term, Log: c.log, Machine: c.m, Address: Address{Host: "10.0.0.1", IP: "10.0.0.1", Port: 5050},
		Pool: "10.88.0.0/16", Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan error, 1)
	l := c.l
	go func() { done <- l.Run(ctx) }()
	<-l.Ready()
	c.desk.Lead(l, Status{Height: 1, Term: c.term, Generation: generation, Leader: "m1"})
	c.end = func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("term ended: %v", err)
		}
		c.desk.Follow(Status{Height: 1, Term: c.term, Generation: generation})
	}
}

// played is an agent that the test plays over a real connection.
type played struct {
	t    *testing.T
	conn net.Conn
	id   string
	seq  uint64
	in   chan *agentwire.FromMaster
}

func (c *cell) agent(node string) *played {
	ours, theirs := net.Pipe()
	p := &played{t: c.t, conn: ours, in: make(chan *agentwire.FromMaster, 1000)}
	go c.desk.ServeAgent(c.t.Context(), node, theirs)
	go func() {
		for {
			m := &agentwire.FromMaster{}
			if wire.Read(ours, m, wire.MaxFrame) != nil {
				close(p.in)
				return
			}
			if ping := m.GetPing(); ping != nil {
				if wire.Write(ours, &agentwire.FromAgent{Body: &agentwire.FromAgent_Pong{Pong: &agentwire.Pong{}}}) != nil {
					return
				}
				continue
			}
			p.in <- m
		}
	}()
	p.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Hello{Hello: &agentwire.Hello{Protocol: 1, Name: node}}})
	return p
}

func (p *played) send(m *agentwire.FromAgent) {
	p.t.Helper()
	if err := wire.Write(p.conn, m); err != nil {
		p.t.Fatal(err)
	}
}

func (p *played) next() *agentwire.FromMaster {
	p.t.Helper()
	select {
	case m, ok := <-p.in:
		if !ok {
			p.t.Fatal("the connection ended")
		}
		return m
	case <-time.After(time.Minute):
		p.t.Fatal("nothing came")
		return nil
	}
}

// until skips what does not interest a test.
func until[T any](p *played, pick func(*agentwire.FromMaster) *T) *T {
	p.t.Helper()
	for {
		if x := pick(p.next()); x != nil {
			return x
		}
	}
}

func (p *played) attach(node string, held ...*agentwire.Held) {
	p.t.Helper()
	for until(p, (*agentwire.FromMaster).GetHello); ; {
		break
	}
	p.seq++
	info, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.AgentInfo{
		Hostname: proto.String(node), Port: proto.Int32(5051),
		Resources: ToWire(state.Resources{{Name: state.CPUs, Milli: 4000}, {Name: state.Mem, Milli: 1024_000}}, ""),
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Attach{Attach: &agentwire.Attach{
		AgentId: p.id, AttachKey: node, AgentInfo: info, Node: node, Address: "10.0.0.2", Sequence: p.seq, Held: held,
	}}})
	p.id = until(p, (*agentwire.FromMaster).GetAttached).GetAgentId()
}

func (p *played) report(container string, uuid byte, s mesosv1.TaskState) {
	p.t.Helper()
	var id [16]byte
	id[0] = uuid
	raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.TaskStatus{
		State: s.Enum(), Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(), Uuid: id[:], AgentId: &mesosv1.AgentID{Value: proto.String(p.id)},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Update{Update: &agentwire.Update{ContainerId: container, Status: raw, LatestState: int32(s)}}})
}

// subscriber is a framework at the far end of a real stream.
type subscriber struct {
	t      *testing.T
	l      *Leader
	id     string
	stream *streams.Stream
	events chan *scheduler.Event
	passed []*scheduler.Event // read while another type was waited for
	over   chan error
}

type pipeWriter struct {
	*io.PipeWriter
	h http.Header
}

func (w pipeWriter) Header() http.Header { return w.h }
func (w pipeWriter) WriteHeader(int)     {}
func (w pipeWriter) Flush()              {}

func (c *cell) subscribe(name, id string, caps ...mesosv1.FrameworkInfo_Capability_Type) *subscriber {
	c.t.Helper()
	info := &mesosv1.FrameworkInfo{User: proto.String("root"), Name: proto.String(name), FailoverTimeout: proto.Float64(30)}
	if id != "" {
		info.Id = &mesosv1.FrameworkID{Value: proto.String(id)}
	}
	for _, cap := range caps {
		info.Capabilities = append(info.Capabilities, &mesosv1.FrameworkInfo_Capability{Type: cap.Enum()})
	}
	s := &subscriber{
		t: c.t, l: c.l, stream: streams.New(name+time.Now().String(), streams.Protobuf, streams.DefaultMaxBytes),
		events: make(chan *scheduler.Event, 1000), over: make(chan error, 1),
	}
	r, w := io.Pipe()
	go func() {
		s.over <- s.stream.Serve(c.t.Context(), pipeWriter{w, http.Header{}})
		w.Close()
	}()
	go func() {
		defer close(s.events)
		records := recordio.NewReader(bufio.NewReader(r), 8<<20)
		for {
			raw, err := records.Next()
			if err != nil {
				return
			}
			e := &scheduler.Event{}
			if proto.Unmarshal(raw, e) != nil {
				return
			}
			if e.GetType() != scheduler.Event_HEARTBEAT {
				s.events <- e
			}
		}
	}()
	if err := c.l.Subscribe(c.t.Context(), "", &scheduler.Call{Type: scheduler.Call_SUBSCRIBE.Enum(), Subscribe: &scheduler.Call_Subscribe{FrameworkInfo: info}}, s.stream); err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (s *subscriber) next(want scheduler.Event_Type) *scheduler.Event {
	s.t.Helper()
	for i, e := range s.passed {
		if e.GetType() == want {
			s.passed = append(s.passed[:i:i], s.passed[i+1:]...)
			return e
		}
	}
	for {
		select {
		case e, ok := <-s.events:
			if !ok {
				s.t.Fatalf("the stream ended before %s", want)
			}
			if want == scheduler.Event_SUBSCRIBED {
				s.id = e.GetSubscribed().GetFrameworkId().GetValue()
			}
			if e.GetType() == want {
				return e
			}
			s.passed = append(s.passed, e)
		case <-time.After(30 * time.Minute):
			s.t.Fatalf("no %s came", want)
		}
	}
}

func (s *subscriber) do(call *scheduler.Call) error {
	call.FrameworkId = &mesosv1.FrameworkID{Value: proto.String(s.id)}
	return s.l.Do(s.t.Context(), "", s.stream.ID(), call)
}

func (s *subscriber) accept(offer *mesosv1.Offer, id string, cpus float64) error {
	return s.do(&scheduler.Call{Type: scheduler.Call_ACCEPT.Enum(), Accept: &scheduler.Call_Accept{
		OfferIds: []*mesosv1.OfferID{offer.GetId()},
		Operations: []*mesosv1.Offer_Operation{{
			Type: mesosv1.Offer_Operation_LAUNCH.Enum(), Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: []*mesosv1.TaskInfo{{
				Name: proto.String(id), TaskId: &mesosv1.TaskID{Value: proto.String(id)}, AgentId: offer.GetAgentId(),
				Command:   &mesosv1.CommandInfo{Value: proto.String("true")},
				Resources: ToWire(state.Resources{{Name: state.CPUs, Milli: int64(cpus * 1000)}, {Name: state.Mem, Milli: 32_000}}, ""),
			}}},
		}},
		Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(0)},
	}})
}

func (s *subscriber) ack(st *mesosv1.TaskStatus) {
	s.t.Helper()
	if err := s.do(&scheduler.Call{Type: scheduler.Call_ACKNOWLEDGE.Enum(), Acknowledge: &scheduler.Call_Acknowledge{
		AgentId: st.GetAgentId(), TaskId: st.GetTaskId(), Uuid: st.GetUuid(),
	}}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *subscriber) update(want mesosv1.TaskState) *mesosv1.TaskStatus {
	s.t.Helper()
	st := s.next(scheduler.Event_UPDATE).GetUpdate().GetStatus()
	if st.GetState() != want {
		s.t.Fatalf("update %s (%s), want %s", st.GetState(), st.GetMessage(), want)
	}
	return st
}

func (s *subscriber) offer() *mesosv1.Offer {
	s.t.Helper()
	return s.next(scheduler.Event_OFFERS).GetOffers().GetOffers()[0]
}

func TestTaskFromOfferToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		offer := f.offer()
		if len(offer.GetResources()) != 2 || offer.GetAllocationInfo() != nil {
			t.Errorf("offer %v", offer)
		}
		if err := f.accept(offer, "t1", 1); err != nil {
			t.Fatal(err)
		}
		run := until(a, (*agentwire.FromMaster).GetRun)
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_RUNNING)
		running := f.update(mesosv1.TaskState_TASK_RUNNING)
		// Not acknowledged: it comes again, with the same uuid.
		if again := f.update(mesosv1.TaskState_TASK_RUNNING); string(again.GetUuid()) != string(running.GetUuid()) {
			t.Error("another uuid")
		}
		f.ack(running)
		until(a, (*agentwire.FromMaster).GetAcknowledge)
		a.report(run.GetContainerId(), 2, mesosv1.TaskState_TASK_FINISHED)
		f.ack(f.update(mesosv1.TaskState_TASK_FINISHED))
		until(a, (*agentwire.FromMaster).GetForget)
		f.offer() // what the launch left
		if rs, err := fromWire(f.offer().GetResources()); err != nil || rs.Milli(state.CPUs) != 1000 {
			t.Errorf("after its end %s is offered, %v", rs, err)
		}
	})
}

// The leader dies after each step; the next one goes on, and no launch is lost or twice.
func TestLeaderChangesAtEachStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		if err := f.accept(f.offer(), "t1", 1); err != nil {
			t.Fatal(err)
		}
		change := func(held ...*agentwire.Held) {
			t.Helper()
			id := f.id
			c.end()
			c.lead()
			f = c.subscribe("f", id)
			f.next(scheduler.Event_SUBSCRIBED)
			for h := until(a, (*agentwire.FromMaster).GetHello); h.GetLeading(); h = until(a, (*agentwire.FromMaster).GetHello) {
			}
			a.attach("n1", held...)
		}
		run := until(a, (*agentwire.FromMaster).GetRun)
		change() // the Run got lost with the old leader
		again := until(a, (*agentwire.FromMaster).GetRun)
		if again.GetContainerId() != run.GetContainerId() {
			t.Fatalf("another container: %s", again.GetContainerId())
		}
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_RUNNING)
		f.update(mesosv1.TaskState_TASK_RUNNING)
		held := &agentwire.Held{ContainerId: run.GetContainerId(), State: int32(mesosv1.TaskState_TASK_RUNNING)}
		change(held) // the acknowledgement got lost
		f.ack(f.update(mesosv1.TaskState_TASK_RUNNING))
		until(a, (*agentwire.FromMaster).GetAcknowledge)
		change(held)
		until(a, (*agentwire.FromMaster).GetAcknowledge) // told again: it may not have arrived
		a.report(run.GetContainerId(), 2, mesosv1.TaskState_TASK_FINISHED)
		f.ack(f.update(mesosv1.TaskState_TASK_FINISHED))
		held.Terminal = true
		change(held) // acknowledged, and the agent has not heard that it may forget
		if ids := until(a, (*agentwire.FromMaster).GetForget).GetContainerIds(); len(ids) != 1 {
			t.Errorf("forget %v", ids)
		}
		c.end()
	})
}

func TestAnswersOfDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		call := func(id string) *scheduler.Call {
			return &scheduler.Call{Type: scheduler.Call_REVIVE.Enum(), FrameworkId: &mesosv1.FrameworkID{Value: proto.String(id)}}
		}
		for _, test := range []struct {
			name, framework, principal, stream string
			want                               error
		}{
			{"unknown", "x", "", f.stream.ID(), ErrFrameworkUnknown},
			{"other principal", f.id, "other", f.stream.ID(), ErrPrincipalMismatch},
			{"no stream id", f.id, "", "", ErrStreamIDMissing},
			{"wrong stream id", f.id, "", "x", ErrStreamIDWrong},
			{"fine", f.id, "", f.stream.ID(), nil},
		} {
			if err := c.l.Do(t.Context(), test.principal, test.stream, call(test.framework)); !errors.Is(err, test.want) {
				t.Errorf("%s: %v, want %v", test.name, err, test.want)
			}
		}
		c.l.Disconnected(f.stream.ID(), true)
		synctest.Wait()
		if err := f.do(call(f.id)); !errors.Is(err, ErrNotSubscribed) {
			t.Errorf("after its stream ended: %v", err)
		}
		time.Sleep(31 * time.Second) // virtual: its failover timeout
		if err := f.do(call(f.id)); !errors.Is(err, ErrFrameworkUnknown) {
			t.Errorf("after its failover timeout: %v", err)
		}
		again := c.subscribe("f", f.id)
		if e := again.next(scheduler.Event_ERROR); e.GetError().GetMessage() != "Framework has been removed" {
			t.Errorf("%v", e)
		}
	})
}

func TestFailoverEndsTheOldStreamAndItsOffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		stale := f.offer()
		g := c.subscribe("f", f.id)
		g.next(scheduler.Event_SUBSCRIBED)
		if e := f.next(scheduler.Event_ERROR); e.GetError().GetMessage() != "Framework failed over" {
			t.Errorf("%v", e)
		}
		if err := g.accept(stale, "t1", 1); err != nil {
			t.Fatal(err)
		}
		if st := g.update(mesosv1.TaskState_TASK_LOST); st.GetReason() != mesosv1.TaskStatus_REASON_INVALID_OFFERS || st.Uuid != nil {
			t.Errorf("%v", st)
		}
		fresh := g.offer()
		if err := g.accept(fresh, "t2", 1); err != nil {
			t.Fatal(err)
		}
		// The same call again, because its answer got lost: the task is told as it is.
		if err := g.accept(fresh, "t2", 1); err != nil {
			t.Fatal(err)
		}
		if st := g.update(mesosv1.TaskState_TASK_STAGING); st.GetReason() != mesosv1.TaskStatus_REASON_RECONCILIATION {
			t.Errorf("%v", st)
		}
	})
}

func TestInvalidTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		for _, test := range []struct {
			id     string
			change func(*mesosv1.TaskInfo)
			want   string
		}{
			{"a/b", nil, `task id "a/b" contains the character '/', which is not allowed`},
			{"greedy", func(t *mesosv1.TaskInfo) { t.Resources[0].Scalar.Value = proto.Float64(99) }, "Task uses more resources cpus:99;mem:32 than available cpus:4;mem:1024"},
			{"executor", func(t *mesosv1.TaskInfo) { t.Command, t.Executor = nil, &mesosv1.ExecutorInfo{} }, "custom executors are not supported yet"},
			{"neither", func(t *mesosv1.TaskInfo) { t.Command = nil }, "task should have at least one (but not both) of CommandInfo or ExecutorInfo present"},
			{"nothing", func(t *mesosv1.TaskInfo) { t.Resources = nil }, "task uses no resources"},
		} {
			offer := f.offer()
			info := &mesosv1.TaskInfo{
				Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String(test.id)}, AgentId: offer.GetAgentId(), Command: &mesosv1.CommandInfo{},
				Resources: ToWire(state.Resources{{Name: state.CPUs, Milli: 1000}, {Name: state.Mem, Milli: 32_000}}, ""),
			}
			if test.change != nil {
				test.change(info)
			}
			if err := f.do(&scheduler.Call{Type: scheduler.Call_ACCEPT.Enum(), Accept: &scheduler.Call_Accept{
				OfferIds: []*mesosv1.OfferID{offer.GetId()}, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(0)},
				Operations: []*mesosv1.Offer_Operation{{Type: mesosv1.Offer_Operation_LAUNCH.Enum(), Launch: &mesosv1.Offer_Operation_Launch{TaskInfos: []*mesosv1.TaskInfo{info}}}},
			}}); err != nil {
				t.Fatal(err)
			}
			st := f.update(mesosv1.TaskState_TASK_ERROR)
			if st.GetMessage() != test.want || st.GetReason() != mesosv1.TaskStatus_REASON_TASK_INVALID || st.Uuid != nil {
				t.Errorf("%s: %q (%s), want %q", test.id, st.GetMessage(), st.GetReason(), test.want)
			}
		}
	})
}

func TestSilentAgentIsUnreachableAndReconciled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		a.attach("n1")
		f := c.subscribe("f", "", mesosv1.FrameworkInfo_Capability_PARTITION_AWARE)
		f.next(scheduler.Event_SUBSCRIBED)
		if err := f.accept(f.offer(), "t1", 1); err != nil {
			t.Fatal(err)
		}
		run := until(a, (*agentwire.FromMaster).GetRun)
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_RUNNING)
		f.ack(f.update(mesosv1.TaskState_TASK_RUNNING))
		a.conn.Close()
		st := f.update(mesosv1.TaskState_TASK_UNREACHABLE)
		if st.GetUnreachableTime() == nil || st.GetReason() != mesosv1.TaskStatus_REASON_AGENT_REMOVED {
			t.Errorf("%v", st)
		}
		if e := f.next(scheduler.Event_FAILURE); e.GetFailure().GetAgentId().GetValue() != a.id {
			t.Errorf("%v", e)
		}
		ask := func(task, agent string) {
			t.Helper()
			q := &scheduler.Call_Reconcile_Task{TaskId: &mesosv1.TaskID{Value: proto.String(task)}}
			if agent != "" {
				q.AgentId = &mesosv1.AgentID{Value: proto.String(agent)}
			}
			if err := f.do(&scheduler.Call{Type: scheduler.Call_RECONCILE.Enum(), Reconcile: &scheduler.Call_Reconcile{Tasks: []*scheduler.Call_Reconcile_Task{q}}}); err != nil {
				t.Fatal(err)
			}
		}
		ask("t1", a.id)
		f.update(mesosv1.TaskState_TASK_UNREACHABLE)
		ask("other", a.id)
		f.update(mesosv1.TaskState_TASK_UNREACHABLE)
		ask("other", "nobody")
		f.update(mesosv1.TaskState_TASK_UNKNOWN)
		b := c.agent("n1")
		defer b.conn.Close()
		b.id = a.id
		b.attach("n1", &agentwire.Held{ContainerId: run.GetContainerId(), State: int32(mesosv1.TaskState_TASK_RUNNING)})
		if st := f.update(mesosv1.TaskState_TASK_RUNNING); st.GetReason() != mesosv1.TaskStatus_REASON_AGENT_REREGISTERED {
			t.Errorf("%v", st)
		}
		ask("other", a.id)
		f.update(mesosv1.TaskState_TASK_GONE)
	})
}

func TestKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		kill := func(id string) {
			t.Helper()
			if err := f.do(&scheduler.Call{Type: scheduler.Call_KILL.Enum(), Kill: &scheduler.Call_Kill{TaskId: &mesosv1.TaskID{Value: proto.String(id)}}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.accept(f.offer(), "t1", 1); err != nil {
			t.Fatal(err)
		}
		run := until(a, (*agentwire.FromMaster).GetRun)
		kill("t1")
		if k := until(a, (*agentwire.FromMaster).GetKill); k.GetContainerId() != run.GetContainerId() || k.GetGraceNs() != -1 {
			t.Errorf("kill %v", k)
		}
		kill("nobody")
		f.update(mesosv1.TaskState_TASK_LOST) // reconciled: unknown, no partition awareness
		if err := f.do(&scheduler.Call{Type: scheduler.Call_TEARDOWN.Enum()}); err != nil {
			t.Fatal(err)
		}
		until(a, (*agentwire.FromMaster).GetKill)
		a.report(run.GetContainerId(), 1, mesosv1.TaskState_TASK_KILLED)
		until(a, (*agentwire.FromMaster).GetForget)
	})
}

func TestDeclineAndSuppress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		began := time.Now()
		o := f.offer()
		if err := f.do(&scheduler.Call{Type: scheduler.Call_DECLINE.Enum(), Decline: &scheduler.Call_Decline{
			OfferIds: []*mesosv1.OfferID{o.GetId(), o.GetId()}, Filters: &mesosv1.Filters{RefuseSeconds: proto.Float64(100)},
		}}); err != nil {
			t.Fatal(err)
		}
		o = f.offer()
		if waited := time.Since(began); waited < 100*time.Second || waited > 105*time.Second {
			t.Errorf("offered again after %s", waited)
		}
		for _, call := range []*scheduler.Call{
			{Type: scheduler.Call_SUPPRESS.Enum(), Suppress: &scheduler.Call_Suppress{}},
			{Type: scheduler.Call_DECLINE.Enum(), Decline: &scheduler.Call_Decline{OfferIds: []*mesosv1.OfferID{o.GetId()}}},
		} {
			if err := f.do(call); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Minute)
		select {
		case e := <-f.events:
			t.Errorf("suppressed, and got %v", e)
		default:
		}
		if err := f.do(&scheduler.Call{Type: scheduler.Call_REVIVE.Enum(), Revive: &scheduler.Call_Revive{}}); err != nil {
			t.Fatal(err)
		}
		f.offer()
	})
}
