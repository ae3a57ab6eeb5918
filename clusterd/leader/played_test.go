package leader

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
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
	// domain is where the next masters stand.
	domain *mesosv1.DomainInfo
	// configure changes the next masters' configuration; may be nil.
	configure func(*Config)
}

func newCell(t *testing.T) *cell {
	m := state.NewMachine()
	c := &cell{t: t, m: m, log: &memoryLog{m: m}, desk: NewDesk("m1", "i1", slog.New(slog.NewTextHandler(io.Discard, nil)))}
	c.lead()
	return c
}

func (c *cell) lead() {
	c.term++
	cfg := Config{
		Generation: generation, Height: 1, Term: c.term, Log: c.log, Machine: c.m, Address: Address{Host: "10.0.0.1", IP: "10.0.0.1", Port: 5050, Domain: c.domain},
		Pool: "10.88.0.0/16", AdoptWait: 10 * time.Minute, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if c.configure != nil {
		c.configure(&cfg)
	}
	c.l = New(cfg)
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
	role string                    // its resources are reserved for; empty: for nobody
	disk int64                     // MB that it has
	made []*agentwire.MadeResource // what it says was made of its resources
	mute atomic.Bool               // answers no ping
	// domain and extra are what else its AgentInfo says.
	domain *mesosv1.DomainInfo
	extra  state.Resources
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
				if p.mute.Load() {
					continue
				}
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
	p.sendAttach(node, held...)
	p.id = until(p, (*agentwire.FromMaster).GetAttached).GetAgentId()
}

func (p *played) sendAttach(node string, held ...*agentwire.Held) {
	p.t.Helper()
	p.seq++
	info, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.AgentInfo{
		Hostname: proto.String(node), Port: proto.Int32(5051), Domain: p.domain,
		Resources: append(ToWire(p.extra, ""), ToWire(state.Resources{
			{Name: state.CPUs, Role: p.role, Milli: 4000},
			{Name: state.Mem, Role: p.role, Milli: 1024_000},
			{Name: state.Ports, Role: p.role, Kind: state.RangesKind, Ranges: []state.Range{{Begin: 31000, End: 31009}}},
			{Name: state.Disk, Role: p.role, Milli: p.disk * 1000},
		}, "")...),
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Attach{Attach: &agentwire.Attach{
		AgentId: p.id, AttachKey: node, AgentInfo: info, Node: node, Address: "10.0.0.2", Sequence: p.seq, Held: held, Made: p.made,
	}}})
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
	t         *testing.T
	l         *Leader
	id        string
	principal string
	stream    *streams.Stream
	events    chan *scheduler.Event
	passed    []*scheduler.Event // read while another type was waited for
	over      chan error
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
	return c.subscribeAs("", info)
}

func (c *cell) subscribeAs(principal string, info *mesosv1.FrameworkInfo, suppressed ...string) *subscriber {
	c.t.Helper()
	return c.subscribeBy(principal, &scheduler.Call_Subscribe{FrameworkInfo: info, SuppressedRoles: suppressed})
}

func (c *cell) subscribeBy(principal string, sub *scheduler.Call_Subscribe) *subscriber {
	c.t.Helper()
	s := &subscriber{
		t: c.t, l: c.l, principal: principal, stream: streams.New(sub.GetFrameworkInfo().GetName()+time.Now().String(), streams.Protobuf, streams.DefaultMaxBytes),
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
	if err := c.l.Subscribe(c.t.Context(), principal, &scheduler.Call{Type: scheduler.Call_SUBSCRIBE.Enum(), Subscribe: sub}, s.stream); err != nil {
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
	return s.l.Do(s.t.Context(), s.principal, s.stream.ID(), call)
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
