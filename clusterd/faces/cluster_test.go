package faces

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/calls"
	"github.com/mesolith/mesolith/clusterd/files"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/operator"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/acl"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
)

const generation = "11111111-2222-3333-4444-555555555555"

// memoryLog commits at once into the real Machine.
type memoryLog struct {
	mu    sync.Mutex
	m     *state.Machine
	index uint64
}

func (g *memoryLog) Propose(_ context.Context, entry []byte) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.index++
	return g.m.Apply(g.index, 1, entry), nil
}

func (g *memoryLog) Barrier(context.Context) error { return nil }

// cluster is one master that leads (m1), and nodes that forward to it; all over real
// sockets of the loopback interface.
type cluster struct {
	level   slog.LevelVar // of all nodes
	t       *testing.T
	log     *slog.Logger
	machine *state.Machine
	raft    *memoryLog
	desk    *leader.Desk
	term    uint64
	end     func()
	runs    bool                // agents report what they are to run as running
	auth    *auth.Authenticator // of m1
	audit   *audited
	// revocable are cpus that agents have beyond what they have.
	revocable int64

	mu      sync.Mutex
	present *leader.Leader
	nodes   map[string]*node
}

type node struct {
	name    string
	board   *calls.Board
	api     *httptest.Server
	forward net.Listener
}

func newCluster(t *testing.T, policy auth.Policy, names ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, log: slog.New(slog.NewTextHandler(io.Discard, nil)), machine: state.NewMachine(), nodes: map[string]*node{}, audit: &audited{}}
	c.raft = &memoryLog{m: c.machine}
	c.desk = leader.NewDesk("m1", "incarnation-1", c.log)
	for _, name := range names {
		c.add(name, policy)
	}
	c.lead()
	t.Cleanup(func() { c.end() })
	return c
}

func (c *cluster) leader() *leader.Leader {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.present
}

func (c *cluster) add(name string, policy auth.Policy) {
	ctx, cancel := context.WithCancel(c.t.Context())
	n := &node{name: name, board: calls.NewBoard()}
	a := auth.New(time.Now)
	if name != "m1" {
		policy.Credentials = nil // only masters know them
	}
	if err := a.Set(policy); err != nil {
		c.t.Fatal(err)
	}
	a.AuditTo(slog.New(slog.NewJSONHandler(c.audit, nil)))
	if name == "m1" {
		c.auth = a
	}
	router := calls.NewRouter(calls.Router{
		Node: name, Board: n.board, Auth: a, Budget: httpio.NewBudget(4), Log: c.log, Stopping: ctx.Done(),
		Dial: func(ctx context.Context, to string) (net.Conn, error) {
			target := c.nodes[to]
			if target == nil {
				return nil, errors.New("no such node")
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", target.forward.Addr().String())
		},
	})
	leads := func() *leader.Leader { return nil }
	if name == "m1" {
		leads = c.leader
	}
	h := NewMasterMux(MasterConfig{
		Router: router, Leader: leads, Machine: c.machine, Version: &mesosv1.VersionInfo{Version: proto.String("1.11.0"), GitTag: proto.String("test")},
		Cluster: "test", Flags: map[string]string{"cluster": "test"}, Started: time.Now(), Log: c.log, Files: files.Config{Sandbox: newShelf(c.t), Log: c.log}, Logging: operator.NewLogging(&c.level),
		Agent: func(context.Context) (agent.View, error) { return agent.View{}, errors.New("no agent here") },
	})
	n.api = httptest.NewServer(h)
	var err error
	if n.forward, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		c.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- calls.ServeForwarded(ctx, n.forward, nil, h, c.log) }()
	c.nodes[name] = n
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("serve forwarded: %v", err)
		}
		n.api.CloseClientConnections()
		n.api.Close()
		router.Close()
	})
}

// standing is the fault domain of all.
var standing = &mesosv1.DomainInfo{FaultDomain: &mesosv1.DomainInfo_FaultDomain{
	Region: &mesosv1.DomainInfo_FaultDomain_RegionInfo{Name: proto.String("fra")},
	Zone:   &mesosv1.DomainInfo_FaultDomain_ZoneInfo{Name: proto.String("a")},
}}

func (c *cluster) lead() {
	c.term++
	l := leader.New(leader.Config{
		Generation: generation, Height: 1, Term: c.term, Log: c.raft, Machine: c.machine,
		Address: leader.Address{Host: "10.0.0.1", IP: "10.0.0.1", Port: 5050, Domain: standing}, Pool: "10.88.0.0/16", Logger: c.log,
		Authorize: func(principal string, action acl.Action, o acl.Object) bool {
			return c.auth == nil || c.auth.Allowed(principal, action, o)
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	<-l.Ready()
	c.desk.Lead(l, leader.Status{Height: 1, Term: c.term, Generation: generation, Leader: "m1"})
	c.mu.Lock()
	c.present = l
	c.mu.Unlock()
	for _, n := range c.nodes {
		n.board.Post(calls.Standing{Leader: "m1", Address: "10.0.0.1:5050", Height: 1, Term: c.term, Here: n.name == "m1", Ready: true})
	}
	c.end = func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("term ended: %v", err)
		}
	}
}

// audited are the lines of the audit log.
type audited struct {
	mu    sync.Mutex
	lines []map[string]any
}

func (a *audited) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := map[string]any{}
	if err := json.Unmarshal(line, &m); err != nil {
		return 0, err
	}
	a.lines = append(a.lines, m)
	return len(line), nil
}

// take gives the lines since it was last called.
func (a *audited) take() []map[string]any {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.lines
	a.lines = nil
	return out
}

// agent joins a node with 4 cpus, 1 GiB and some ports.
func (c *cluster) agent(name string) {
	c.t.Helper()
	ours, theirs := net.Pipe()
	c.t.Cleanup(func() { ours.Close() })
	go c.desk.ServeAgent(c.t.Context(), name, theirs)
	send := func(m *agentwire.FromAgent) {
		if err := wire.Write(ours, m); err != nil {
			c.t.Error(err)
		}
	}
	send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Hello{Hello: &agentwire.Hello{Protocol: 1, Name: name}}})
	info, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.AgentInfo{
		Hostname: proto.String(name), Port: proto.Int32(5051),
		Resources: leader.ToWire(state.Resources{
			{Name: state.CPUs, Milli: 4000},
			state.Resource{Name: state.CPUs, Milli: c.revocable * 1000}.With(state.Details{Revocable: true}),
			{Name: state.Mem, Milli: 1024_000},
			{Name: state.Disk, Milli: 1000_000},
			{Name: state.Ports, Kind: state.RangesKind, Ranges: []state.Range{{Begin: 31000, End: 32000}}},
		}, ""),
		Domain:     standing,
		Attributes: []*mesosv1.Attribute{{Name: proto.String("rack"), Type: mesosv1.Value_TEXT.Enum(), Text: &mesosv1.Value_Text{Value: proto.String("r1")}}},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	attached := make(chan struct{})
	go func() {
		sent := false
		for {
			m := &agentwire.FromMaster{}
			if wire.Read(ours, m, wire.MaxFrame) != nil {
				return
			}
			switch {
			case m.GetHello() != nil && !sent:
				sent = true
				send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Attach{Attach: &agentwire.Attach{
					AttachKey: name, AgentInfo: info, Node: name, Address: "10.0.0.2", Sequence: 1,
				}}})
			case m.GetAttached() != nil:
				close(attached)
			case m.GetRun() != nil && c.runs:
				send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Update{Update: running(c.t, m.GetRun().GetContainerId())}})
			case m.GetPing() != nil:
				wire.Write(ours, &agentwire.FromAgent{Body: &agentwire.FromAgent_Pong{Pong: &agentwire.Pong{}}})
			}
		}
	}()
	select {
	case <-attached:
	case <-time.After(10 * time.Second):
		c.t.Fatal("agent was not attached")
	}
}

// running is an agent's update that has everything in it.
func running(t *testing.T, container string) *agentwire.Update {
	raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.TaskStatus{
		State: mesosv1.TaskState_TASK_RUNNING.Enum(), Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(), Uuid: []byte("0123456789abcdef"),
		Timestamp: proto.Float64(1.5), Healthy: proto.Bool(true),
		Labels: &mesosv1.Labels{Labels: []*mesosv1.Label{{Key: proto.String("k"), Value: proto.String("v")}}},
		ContainerStatus: &mesosv1.ContainerStatus{
			ContainerId: &mesosv1.ContainerID{Value: &container},
			NetworkInfos: []*mesosv1.NetworkInfo{{
				Name: proto.String("n"), IpAddresses: []*mesosv1.NetworkInfo_IPAddress{{Protocol: mesosv1.NetworkInfo_IPv4.Enum(), IpAddress: proto.String("10.88.1.2")}},
			}},
		},
	})
	if err != nil {
		t.Error(err)
	}
	return &agentwire.Update{ContainerId: container, Status: raw, LatestState: int32(mesosv1.TaskState_TASK_RUNNING)}
}

// subscription is a framework's stream.
type subscription struct {
	t      *testing.T
	resp   *http.Response
	r      *recordio.Reader
	id     string
	stream string
	cancel context.CancelFunc
}

func (c *cluster) subscribe(via, name string, header ...string) *subscription {
	c.t.Helper()
	return c.subscribeAs(via, `{"user":"nobody","name":"`+name+`","failover_timeout":60}`, header...)
}

// subscribeAs subscribes with a FrameworkInfo.
func (c *cluster) subscribeAs(via, info string, header ...string) *subscription {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	c.t.Cleanup(cancel)
	body := `{"type":"SUBSCRIBE","subscribe":{"framework_info":` + info + `}}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.nodes[via].api.URL+"/api/v1/scheduler", strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.RoundTrip(req)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		c.t.Fatalf("subscribe: %d %s", resp.StatusCode, text)
	}
	s := &subscription{t: c.t, resp: resp, r: recordio.NewReader(resp.Body, 4<<20), stream: resp.Header.Get("Mesos-Stream-Id"), cancel: cancel}
	s.id = s.until(scheduler.Event_SUBSCRIBED).GetSubscribed().GetFrameworkId().GetValue()
	return s
}

// until reads up to an event of a type.
func (s *subscription) until(want scheduler.Event_Type) *scheduler.Event {
	s.t.Helper()
	return s.untilNoting(want, func(*scheduler.Event) {})
}

// untilNoting shows what it passes over.
func (s *subscription) untilNoting(want scheduler.Event_Type, pass func(*scheduler.Event)) *scheduler.Event {
	s.t.Helper()
	for {
		raw, err := s.r.Next()
		if err != nil {
			s.t.Fatalf("waiting for %v: %v", want, err)
		}
		e := &scheduler.Event{}
		if err := mesosjson.Unmarshal(raw, e); err != nil {
			s.t.Fatal(err)
		}
		if e.GetType() == want {
			return e
		}
		pass(e)
	}
}

// post sends a body and gives status, headers and text.
func (c *cluster) post(via, path, body string, header ...string) (int, http.Header, string) {
	c.t.Helper()
	return c.request(http.MethodPost, via, path, body, header...)
}

func (c *cluster) request(method, via, path, body string, header ...string) (int, http.Header, string) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.nodes[via].api.URL+path, bytes.NewReader([]byte(body)))
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.RoundTrip(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// client leaves compression to the tests.
var client = &http.Transport{DisableCompression: true}

var open = auth.Policy{Plaintext: true, Anonymous: nodedoc.AnonymousFramework}
