package agent

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

// limit is how long a test waits for what must come; it is a guard, not a measure.
const limitWait = 30 * time.Second

// node is an agent under test between a master and a keeper that the test plays,
// both over real connections in the real framing.
type node struct {
	t       *testing.T
	dir     string
	keeper  *playedKeeper
	masters chan net.Conn
	agent   *Agent
	stop    func()
	done    chan error
}

func startNode(t *testing.T, dir string, k *playedKeeper) *node {
	t.Helper()
	n := &node{t: t, dir: dir, keeper: k, masters: make(chan net.Conn), done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	a := New(Config{
		JournalPath: filepath.Join(dir, "journal"), KeeperSocket: k.path, Keeper: &keeper.Configure{},
		Name: "n1", Incarnation: "i1", Address: "10.0.0.1", Info: &mesosv1.AgentInfo{Hostname: proto.String("n1")},
		Masters: []string{"m1"},
		Dial: func(ctx context.Context, name string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			select {
			case n.masters <- theirs:
				return ours, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
		Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	})
	n.agent = a
	go func() { n.done <- a.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-n.done; err != nil {
			t.Errorf("agent ended: %v", err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Logf("%s", p)
	}
	return len(p), nil
}

// playedMaster is one connection of the agent, seen from the master.
type playedMaster struct {
	t            *testing.T
	conn         net.Conn
	height, term uint64
}

func (n *node) master(height, term uint64) *playedMaster {
	n.t.Helper()
	select {
	case c := <-n.masters:
		m := &playedMaster{t: n.t, conn: c, height: height, term: term}
		n.t.Cleanup(func() { c.Close() })
		if hello := m.read(); hello.GetHello().GetName() != "n1" {
			n.t.Fatalf("first frame: %v", hello)
		}
		m.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Hello{Hello: &agentwire.MasterHello{Protocol: 1, Name: "m1", Leading: true}}})
		return m
	case <-time.After(limitWait):
		n.t.Fatal("the agent did not dial")
		return nil
	}
}

func (m *playedMaster) read() *agentwire.FromAgent {
	m.t.Helper()
	m.conn.SetReadDeadline(time.Now().Add(limitWait))
	f := &agentwire.FromAgent{}
	if err := wire.Read(m.conn, f, wire.MaxFrame); err != nil {
		m.t.Fatalf("master reads: %v", err)
	}
	return f
}

func (m *playedMaster) write(f *agentwire.FromMaster) {
	m.t.Helper()
	f.Height, f.Term = m.height, m.term
	m.conn.SetWriteDeadline(time.Now().Add(limitWait))
	if err := wire.Write(m.conn, f); err != nil {
		m.t.Fatalf("master writes: %v", err)
	}
}

func (m *playedMaster) attach(id string) *agentwire.Attach {
	m.t.Helper()
	at := m.read().GetAttach()
	if at == nil {
		m.t.Fatal("no Attach")
	}
	m.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Attached{Attached: &agentwire.Attached{AgentId: id, Sequence: at.GetSequence()}}})
	return at
}

func (m *playedMaster) anyUpdate() *mesosv1.TaskStatus {
	m.t.Helper()
	u := m.read().GetUpdate()
	st := &mesosv1.TaskStatus{}
	if err := proto.Unmarshal(u.GetStatus(), st); err != nil {
		m.t.Fatal(err)
	}
	return st
}

func (m *playedMaster) update(want mesosv1.TaskState) *mesosv1.TaskStatus {
	m.t.Helper()
	st := m.anyUpdate()
	if st.GetState() != want {
		m.t.Fatalf("update %s, want %s", st.GetState(), want)
	}
	return st
}

func (m *playedMaster) ack(id string, st *mesosv1.TaskStatus) {
	m.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Acknowledge{Acknowledge: &agentwire.Acknowledge{ContainerId: id, Uuid: st.GetUuid()}}})
}

func (m *playedMaster) run(id string) {
	m.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Run{Run: m.launch(id)}})
}

func (m *playedMaster) told(id string) {
	m.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Told{Told: m.launch(id)}})
}

func (m *playedMaster) launch(id string) *agentwire.Run {
	info, err := proto.Marshal(&mesosv1.TaskInfo{
		Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String("task-" + id)}, AgentId: &mesosv1.AgentID{Value: proto.String("S1")},
		Command: &mesosv1.CommandInfo{Value: proto.String("true")},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return &agentwire.Run{ContainerId: id, FrameworkId: "F", Role: "*", TaskInfo: info}
}

func (m *playedMaster) kill(id string) {
	m.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Kill{Kill: &agentwire.Kill{ContainerId: id, TaskId: "task-" + id, FrameworkId: "F", GraceNs: -1}}})
}

// playedKeeper is isolated as the agent sees it.
type playedKeeper struct {
	t        *testing.T
	path     string
	requests chan *keeper.Request // without Hello, Configure, List

	mu         sync.Mutex
	refuse     func(*keeper.Request) *keeper.Error // nil: nothing
	probe      func(*keeper.Probe) (*keeper.Probed, *os.File)
	conn       net.Conn
	containers map[string]*keeper.Container
	launches   map[string]*keeper.Launch
}

func startKeeper(t *testing.T) *playedKeeper {
	t.Helper()
	dir, err := os.MkdirTemp("", "keeper")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	k := &playedKeeper{t: t, path: filepath.Join(dir, "s"), requests: make(chan *keeper.Request, 100), containers: map[string]*keeper.Container{}, launches: map[string]*keeper.Launch{}}
	l, err := net.Listen("unix", k.path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() {
		l.Close()
		k.drop()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { k.serve(c) })
		}
	})
	return k
}

func (k *playedKeeper) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn != nil {
		k.conn.Close()
	}
}

func (k *playedKeeper) serve(c net.Conn) {
	for {
		r := &keeper.Request{}
		if err := wire.Read(c, r, wire.MaxFrame); err != nil {
			return
		}
		if r.GetProbe() != nil {
			k.probed(c, r)
			continue
		}
		resp := &keeper.Response{Id: r.GetId()}
		k.mu.Lock()
		switch r.GetBody().(type) {
		case *keeper.Request_Hello:
			resp.Body = &keeper.Response_Hello{Hello: &keeper.Hello{Protocol: 1, Runtime: "containers"}}
			if r.GetHello().GetProgram() == "clusterd" {
				k.conn = c
			}
		case *keeper.Request_Launch:
			k.launches[r.GetLaunch().GetContainerId()] = r.GetLaunch()
		case *keeper.Request_List:
			list := &keeper.ContainerList{}
			for _, c := range k.containers {
				list.Containers = append(list.Containers, c)
				if l := k.launches[c.GetContainerId()]; l != nil && r.GetList().GetLaunches() {
					list.Launches = append(list.Launches, l)
				}
			}
			resp.Body = &keeper.Response_List{List: list}
		}
		if k.refuse != nil {
			resp.Error = k.refuse(r)
		}
		err := wire.Write(c, resp)
		k.mu.Unlock()
		if err != nil {
			return
		}
		switch r.GetBody().(type) {
		case *keeper.Request_Hello, *keeper.Request_Configure, *keeper.Request_List:
		default:
			k.requests <- r
		}
	}
}

func (k *playedKeeper) request() *keeper.Request {
	k.t.Helper()
	select {
	case r := <-k.requests:
		return r
	case <-time.After(limitWait):
		k.t.Fatal("the keeper was asked nothing")
		return nil
	}
}

func (k *playedKeeper) event(id string, phase keeper.Container_Phase, seq uint64) {
	k.t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	c := &keeper.Container{ContainerId: id, Phase: phase, Sequence: seq, IpAddresses: []string{"10.88.1.2"}}
	k.containers[id] = c
	if err := wire.Write(k.conn, &keeper.Response{Body: &keeper.Response_Event{Event: c}}); err != nil {
		k.t.Errorf("keeper tells: %v", err)
	}
}

func TestLaunchRunsAndEveryUpdateWaitsForItsAcknowledgement(t *testing.T) {
	k := startKeeper(t)
	n := startNode(t, t.TempDir(), k)
	m := n.master(1, 1)
	if at := m.attach("S1"); at.GetAgentId() != "" || at.GetAttachKey() == "" {
		t.Fatalf("a new agent attached as %v", at)
	}
	m.run("c1")
	if l := k.request().GetLaunch(); l.GetContainerId() != "c1" || l.GetAgentId() != "S1" {
		t.Fatalf("launch %v", l)
	}
	k.event("c1", keeper.Container_RUNNING, 1)
	k.event("c1", keeper.Container_ENDED, 2)
	for _, state := range []mesosv1.TaskState{mesosv1.TaskState_TASK_STARTING, mesosv1.TaskState_TASK_RUNNING, mesosv1.TaskState_TASK_FINISHED} {
		st := m.update(state)
		if ip := st.GetContainerStatus().GetNetworkInfos()[0].GetIpAddresses()[0].GetIpAddress(); ip != "10.88.1.2" {
			t.Errorf("%s from address %q", state, ip)
		}
		m.ack("c1", st)
	}
	if f := k.request().GetForget(); len(f.GetContainerIds()) != 1 {
		t.Errorf("after the last acknowledgement: %v", f)
	}
}

func TestKillBeforeRunLeavesATombstone(t *testing.T) {
	k := startKeeper(t)
	n := startNode(t, t.TempDir(), k)
	m := n.master(1, 1)
	m.attach("S1")
	m.kill("c1")
	m.run("c1")
	m.update(mesosv1.TaskState_TASK_KILLED)
	select {
	case r := <-k.requests:
		t.Errorf("the keeper was asked %v", r)
	default:
	}
}

func TestOlderLeaderIsNotObeyed(t *testing.T) {
	k := startKeeper(t)
	n := startNode(t, t.TempDir(), k)
	m := n.master(2, 5)
	m.attach("S1")
	m.run("c1")
	k.request()
	m.term = 4
	m.run("c2")
	m.height, m.term = 1, 9
	m.run("c3")
	m.height, m.term = 2, 5
	m.run("c4")
	if id := k.request().GetLaunch().GetContainerId(); id != "c4" {
		t.Errorf("launched %s", id)
	}
}

// The program dies after each step of a task's life; the next one goes on from there
// with the same identity, and nothing is launched twice or told twice as something new.
func TestRestartAtEachStep(t *testing.T) {
	k := startKeeper(t)
	dir := t.TempDir()
	n := startNode(t, dir, k)
	m := n.master(1, 1)
	m.attach("S1")
	m.run("c1")
	k.request()

	restart := func(want string) *agentwire.Attach {
		t.Helper()
		n.stop()
		n = startNode(t, dir, k)
		m = n.master(1, 1)
		at := m.attach("S1")
		if at.GetAgentId() != "S1" || len(at.GetHeld()) != 1 || at.GetHeld()[0].GetContainerId() != "c1" {
			t.Fatalf("%s: attached as %v", want, at)
		}
		return at
	}
	restart("launched")
	if l := k.request().GetLaunch(); l.GetContainerId() != "c1" {
		t.Fatalf("the keeper has no record: launch again, got %v", l)
	}
	k.event("c1", keeper.Container_RUNNING, 1)
	first := m.update(mesosv1.TaskState_TASK_STARTING)
	restart("starting was sent")
	again := m.update(mesosv1.TaskState_TASK_STARTING)
	if string(first.GetUuid()) != string(again.GetUuid()) {
		t.Error("the update came again with another uuid")
	}
	m.ack("c1", again)
	running := m.update(mesosv1.TaskState_TASK_RUNNING)
	m.ack("c1", running)
	k.event("c1", keeper.Container_ENDED, 2)
	finished := m.update(mesosv1.TaskState_TASK_FINISHED)
	restart("finished was sent")
	m.update(mesosv1.TaskState_TASK_FINISHED)
	m.ack("c1", finished)
	k.request() // forget
	if at := restart("acknowledged"); !at.GetHeld()[0].GetTerminal() || at.GetHeld()[0].GetPendingUpdate() != nil {
		t.Errorf("held %v", at.GetHeld()[0])
	}
	m.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Forget{Forget: &agentwire.Forget{ContainerIds: []string{"c1"}}}})
	if f := m.read().GetForgotten(); len(f.GetContainerIds()) != 1 {
		t.Errorf("forgotten %v", f)
	}
}

func TestKeeperReturnsWithoutTheContainer(t *testing.T) {
	k := startKeeper(t)
	n := startNode(t, t.TempDir(), k)
	m := n.master(1, 1)
	m.attach("S1")
	m.run("c1")
	k.request()
	k.event("c1", keeper.Container_RUNNING, 1)
	m.ack("c1", m.update(mesosv1.TaskState_TASK_STARTING))
	m.ack("c1", m.update(mesosv1.TaskState_TASK_RUNNING))
	k.mu.Lock()
	delete(k.containers, "c1")
	k.mu.Unlock()
	k.drop()
	if st := m.update(mesosv1.TaskState_TASK_FAILED); st.GetReason() != mesosv1.TaskStatus_REASON_EXECUTOR_TERMINATED {
		t.Errorf("reason %s", st.GetReason())
	}
}

func TestRemovedAgentEndsItsContainersAndBeginsAnew(t *testing.T) {
	k := startKeeper(t)
	n := startNode(t, t.TempDir(), k)
	m := n.master(1, 1)
	first := m.attach("S1")
	m.run("c1")
	k.request()
	k.event("c1", keeper.Container_RUNNING, 1)
	m.update(mesosv1.TaskState_TASK_STARTING)
	m.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Shutdown{Shutdown: &agentwire.Shutdown{Reason: "test"}}})
	if kill := k.request().GetKill(); kill.GetContainerId() != "c1" {
		t.Fatalf("asked %v", kill)
	}
	k.event("c1", keeper.Container_ENDED, 2)
	at := m.attach("S2")
	if at.GetAgentId() != "" || at.GetAttachKey() == first.GetAttachKey() || len(at.GetHeld()) != 0 {
		t.Errorf("attached as %v", at)
	}
}

func TestUnknownContainerIsEnded(t *testing.T) {
	k := startKeeper(t)
	k.containers["stray"] = &keeper.Container{ContainerId: "stray", Phase: keeper.Container_RUNNING, Sequence: 1}
	startNode(t, t.TempDir(), k)
	if kill := k.request().GetKill(); kill.GetContainerId() != "stray" {
		t.Errorf("asked %v", kill)
	}
}

func TestCompactedJournalGivesTheSameTasks(t *testing.T) {
	k := startKeeper(t)
	dir := t.TempDir()
	n := startNode(t, dir, k)
	m := n.master(1, 1)
	m.attach("S1")
	for _, id := range []string{"c1", "c2", "c3"} {
		m.run(id)
		k.request()
	}
	k.event("c1", keeper.Container_RUNNING, 1)
	st := m.update(mesosv1.TaskState_TASK_STARTING)
	m.ack("c1", st)
	m.update(mesosv1.TaskState_TASK_RUNNING)
	m.kill("c2")
	k.request()
	n.stop()

	load := func() *Agent {
		a := New(Config{JournalPath: filepath.Join(dir, "journal"), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if err := a.recover(); err != nil {
			t.Fatal(err)
		}
		return a
	}
	before := load()
	if err := before.compact(); err != nil {
		t.Fatal(err)
	}
	before.journal.Close()
	after := load()
	defer after.journal.Close()
	if after.id != "S1" || len(after.tasks) != 3 || after.term != 1 {
		t.Fatalf("id %q, %d tasks, term %d", after.id, len(after.tasks), after.term)
	}
	for id, b := range before.tasks {
		a := after.tasks[id]
		if a.Latest != b.Latest || len(a.Pending) != len(b.Pending) || a.KillRequested != b.KillRequested || a.Known != b.Known || !proto.Equal(a.Framework, b.Framework) || a.User != b.User {
			t.Errorf("%s: %+v became %+v", id, b, a)
		}
	}
}
