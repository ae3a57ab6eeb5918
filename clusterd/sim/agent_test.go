package sim

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/wire"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

// worker is a played agent: it keeps a connection to every master, obeys the newest
// leader, and what it holds outlives its connections. It keeps the rules of package agent
// that masters rely on.
type worker struct {
	w    *world
	name string
	run  time.Duration // how long its tasks take

	mu           sync.Mutex
	id           string
	height, term uint64
	leader       *speaker
	attached     bool
	sequence     uint64
	held         map[string]*container
	started      map[string]int // by task id, ever
	attaches     int
	asked        map[uint64]time.Time // by term: when it first asked its leader to attach it
	removed      int                  // how often a leader called it removed
	mute         bool
	uuids        uint64
}

// container is a task on a worker.
type container struct {
	task    string
	agent   *worker
	pending []pendingUpdate
	ended   bool
}

type pendingUpdate struct {
	state mesosv1.TaskState
	uuid  [16]byte
}

// speaker is one connection to a master.
type speaker struct {
	conn net.Conn
	out  chan *agentwire.FromAgent
}

func (s *speaker) send(m *agentwire.FromAgent) {
	if s == nil {
		return
	}
	select {
	case s.out <- m:
	default:
		s.conn.Close()
	}
}

func newWorker(w *world, name string) *worker {
	return &worker{w: w, name: name, run: 20 * beat, held: map[string]*container{}, started: map[string]int{}, asked: map[uint64]time.Time{}}
}

// setMute has it hear and say nothing, with its connections open, or speak again.
func (a *worker) setMute(mute bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mute = mute
	if !mute {
		a.w.net.sever(a.name) // it begins anew: what it was told meanwhile is lost
	}
}

func (a *worker) is() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.id
}

// askedIn says whether it had asked the leader of a term by some time.
func (a *worker) askedIn(term uint64, by time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := a.asked[term]
	return !at.IsZero() && !at.After(by)
}

func (a *worker) live(ctx context.Context) {
	for _, m := range a.w.all {
		a.w.ended.Go(func() {
			for ctx.Err() == nil {
				a.talk(ctx, m)
				if sleep(ctx, 500*time.Millisecond) != nil {
					return
				}
			}
		})
	}
}

func (a *worker) talk(ctx context.Context, master string) {
	dialling, cancel := context.WithTimeout(ctx, 5*time.Second)
	conn, err := a.w.net.dial(dialling, a.name, "", master, "agent/1")
	cancel()
	if err != nil {
		return
	}
	ctx, cancel = context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	s := &speaker{conn: conn, out: make(chan *agentwire.FromAgent, 4096)}
	wg.Go(func() {
		defer conn.Close()
		for {
			select {
			case <-ctx.Done():
				return
			case m := <-s.out:
				conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
				if wire.Write(conn, m) != nil {
					return
				}
			}
		}
	})
	a.mu.Lock()
	a.hello(s)
	a.mu.Unlock()
	for {
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		m := &agentwire.FromMaster{}
		if wire.Read(conn, m, wire.MaxFrame) != nil {
			a.mu.Lock()
			if a.leader == s {
				a.leader, a.attached = nil, false
			}
			a.mu.Unlock()
			return
		}
		a.mu.Lock()
		a.hear(s, m)
		a.mu.Unlock()
	}
}

func (a *worker) hello(s *speaker) {
	s.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Hello{Hello: &agentwire.Hello{
		Protocol: 1, ClusterId: "cluster", ListVersion: 1, Height: a.height, Term: a.term, Name: a.name, Incarnation: "i",
	}}})
}

func (a *worker) hear(s *speaker, m *agentwire.FromMaster) {
	if p := m.GetPing(); p != nil {
		if !a.mute {
			s.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Pong{Pong: &agentwire.Pong{Sequence: p.GetSequence()}}})
		}
		return
	}
	if m.GetHeight() < a.height || m.GetHeight() == a.height && m.GetTerm() < a.term || a.mute {
		return
	}
	if h := m.GetHello(); h != nil {
		if !h.GetLeading() {
			if a.leader == s {
				a.leader, a.attached = nil, false
			}
			return
		}
		a.height, a.term = m.GetHeight(), m.GetTerm()
		if a.leader == s && a.attached {
			return
		}
		a.leader, a.attached = s, false
		a.attach()
		return
	}
	if a.leader == s {
		a.obey(m)
	}
}

func (a *worker) attach() {
	a.sequence++
	if a.asked[a.term].IsZero() {
		a.asked[a.term] = time.Now()
	}
	at := &agentwire.Attach{AgentId: a.id, AttachKey: "key of " + a.name, AgentInfo: a.info(), Node: a.name, Address: "10.0.0.9", Sequence: a.sequence}
	for id, c := range a.held {
		at.Held = append(at.Held, &agentwire.Held{ContainerId: id, TaskId: c.task, Terminal: c.ended})
	}
	a.leader.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Attach{Attach: at}})
	s, sequence := a.leader, a.sequence
	time.AfterFunc(5*time.Second, func() { // an attach without an answer
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.leader == s && !a.attached && a.sequence == sequence {
			a.attach()
		}
	})
}

func (a *worker) info() []byte {
	raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.AgentInfo{
		Hostname: proto.String(a.name), Port: proto.Int32(5051),
		Resources: leader.ToWire(state.Resources{{Name: state.CPUs, Milli: 64_000}, {Name: state.Mem, Milli: 64_000_000}}, ""),
	})
	if err != nil {
		panic(err)
	}
	return raw
}

func (a *worker) obey(m *agentwire.FromMaster) {
	switch b := m.GetBody().(type) {
	case *agentwire.FromMaster_Attached:
		if b.Attached.GetSequence() != a.sequence {
			return
		}
		a.id, a.attached = b.Attached.GetAgentId(), true
		a.attaches++
		for id := range a.held {
			a.report(id)
		}
	case *agentwire.FromMaster_Refused:
		if b.Refused.GetRemoved() {
			a.removed++
		}
	case *agentwire.FromMaster_Run:
		if a.attached {
			a.launch(b.Run)
		}
	case *agentwire.FromMaster_Kill:
		a.change(b.Kill.GetContainerId(), mesosv1.TaskState_TASK_KILLED)
	case *agentwire.FromMaster_Acknowledge:
		c := a.held[b.Acknowledge.GetContainerId()]
		if c != nil && len(c.pending) > 0 && string(c.pending[0].uuid[:]) == string(b.Acknowledge.GetUuid()) {
			c.pending = c.pending[1:]
			a.report(b.Acknowledge.GetContainerId())
		}
	case *agentwire.FromMaster_Forget:
		for _, id := range b.Forget.GetContainerIds() {
			if c := a.held[id]; c != nil {
				a.w.ops.forgotten(c.task)
			}
			delete(a.held, id)
		}
		a.leader.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Forgotten{Forgotten: &agentwire.Forgotten{ContainerIds: b.Forget.GetContainerIds()}}})
	}
}

func (a *worker) launch(r *agentwire.Run) {
	id := r.GetContainerId()
	if a.held[id] != nil {
		return
	}
	t := &mesosv1.TaskInfo{}
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(r.GetTaskInfo(), t); err != nil {
		a.w.t.Errorf("%s: %v", a.name, err)
		return
	}
	a.held[id] = &container{task: t.GetTaskId().GetValue(), agent: a}
	a.started[t.GetTaskId().GetValue()]++
	a.change(id, mesosv1.TaskState_TASK_RUNNING)
	time.AfterFunc(a.run, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.change(id, mesosv1.TaskState_TASK_FINISHED)
	})
}

func (a *worker) change(id string, s mesosv1.TaskState) {
	c := a.held[id]
	if c == nil || c.ended {
		return
	}
	c.ended = s != mesosv1.TaskState_TASK_RUNNING
	u := pendingUpdate{state: s}
	a.uuids++
	binary.BigEndian.PutUint64(u.uuid[:], a.uuids)
	copy(u.uuid[8:], a.name)
	if c.pending = append(c.pending, u); len(c.pending) == 1 {
		a.report(id)
	}
}

// report sends the oldest update that nobody has acknowledged.
func (a *worker) report(id string) {
	c := a.held[id]
	if !a.attached || a.mute || c == nil || len(c.pending) == 0 {
		return
	}
	u := c.pending[0]
	a.w.ops.reported(c.task, u.state)
	raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.TaskStatus{
		TaskId: &mesosv1.TaskID{Value: proto.String(c.task)}, State: u.state.Enum(), Source: mesosv1.TaskStatus_SOURCE_EXECUTOR.Enum(),
		Uuid: u.uuid[:], AgentId: &mesosv1.AgentID{Value: proto.String(a.id)},
	})
	if err != nil {
		panic(err)
	}
	a.leader.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Update{Update: &agentwire.Update{ContainerId: id, Status: raw, LatestState: int32(u.state)}}})
}
