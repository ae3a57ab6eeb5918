package agent

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/mesolith/mesolith/clusterd/agent/journal"
	"github.com/mesolith/mesolith/clusterd/task"
	"github.com/mesolith/mesolith/internal/fault"
	"github.com/mesolith/mesolith/internal/wire"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

const (
	dialPause   = 500 * time.Millisecond // between two attempts to reach a master
	attachRetry = 5 * time.Second        // after an Attach without an answer
	silence     = 60 * time.Second       // a master that says nothing at all for that long is dialled anew
	queueFrames = 4096
)

// linkGroup waits for the goroutines of connections.
type linkGroup struct{ wg sync.WaitGroup }

func (g *linkGroup) start(f func()) { g.wg.Go(f) }
func (g *linkGroup) wait()          { g.wg.Wait() }

// masterLink is one connection to a master. A nil link sends nowhere.
type masterLink struct {
	name string
	conn net.Conn
	out  chan *agentwire.FromAgent
}

// send never blocks: a master that does not read its frames is cut off.
func (l *masterLink) send(m *agentwire.FromAgent) {
	if l == nil {
		return
	}
	select {
	case l.out <- m:
	default:
		l.conn.Close()
	}
}

type masterEvent struct {
	link    *masterLink
	message *agentwire.FromMaster // nil: the link came up or, with err, went down
	err     error
}

// keepMaster holds a connection to one master for as long as ctx lasts.
func (a *Agent) keepMaster(ctx context.Context, name string) {
	lastWhy := ""
	for ctx.Err() == nil {
		err := a.talk(ctx, name)
		if ctx.Err() != nil {
			return
		}
		if why := fmt.Sprint(err); why != lastWhy {
			a.log.Info("no connection to master", "master", name, "why", why)
			lastWhy = why
		}
		select {
		case <-ctx.Done():
		case <-time.After(dialPause):
		}
	}
}

func (a *Agent) talk(ctx context.Context, name string) error {
	conn, err := a.cfg.Dial(ctx, name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	link := &masterLink{name: name, conn: conn, out: make(chan *agentwire.FromAgent, queueFrames)}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer conn.Close()
	wg.Go(func() {
		<-ctx.Done()
		conn.Close()
	})
	wg.Go(func() { writeFrames(ctx, conn, link.out) })
	a.tellMaster(ctx, masterEvent{link: link})
	for {
		conn.SetReadDeadline(time.Now().Add(silence))
		m := &agentwire.FromMaster{}
		if err := wire.Read(conn, m, wire.MaxFrame); err != nil {
			a.tellMaster(ctx, masterEvent{link: link, err: err})
			return err
		}
		a.tellMaster(ctx, masterEvent{link: link, message: m})
	}
}

func (a *Agent) tellMaster(ctx context.Context, e masterEvent) {
	select {
	case a.loops.masters <- e:
	case <-ctx.Done():
	}
}

// writeFrames writes what comes and closes the connection at the first failure.
func writeFrames[M proto.Message](ctx context.Context, conn net.Conn, out <-chan M) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-out:
			conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if err := wire.Write(conn, m); err != nil {
				conn.Close()
				return
			}
		}
	}
}

func (a *Agent) onMaster(e masterEvent) error {
	switch {
	case e.err != nil:
		if a.leader == e.link {
			a.leader, a.attached = nil, false
			a.log.Info("connection to the leader ended", "leader", e.link.name, "why", e.err.Error())
		}
		return nil
	case e.message == nil:
		a.sayHello(e.link)
		return nil
	}
	m := e.message
	if p := m.GetPing(); p != nil {
		e.link.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Pong{Pong: &agentwire.Pong{Sequence: p.GetSequence()}}})
		return nil
	}
	if a.isOlder(m) {
		if h := m.GetHello(); h.GetLeading() {
			a.sayHello(e.link) // it may lead a cluster that nobody told of ours
		} else if h == nil {
			a.log.Warn("message of an older leader refused", "from", e.link.name, "term", m.GetTerm(), "obeyed_term", a.term)
		}
		return nil
	}
	if h := m.GetHello(); h != nil {
		return a.onHello(e.link, m, h)
	}
	if e.link != a.leader {
		a.log.Warn("order from a master that does not lead refused", "from", e.link.name)
		return nil
	}
	return a.onOrder(m)
}

// isOlder says whether a message comes from an older leader than was obeyed. Of two
// generations of one height neither is known to be the newer one, so the other is refused.
func (a *Agent) isOlder(m *agentwire.FromMaster) bool {
	if h := m.GetHello(); h != nil && a.generation != "" && h.GetGeneration() != a.generation {
		return m.GetHeight() <= a.height
	}
	return older(m.GetHeight(), m.GetTerm(), a.height, a.term)
}

func older(height, term, seenHeight, seenTerm uint64) bool {
	return height < seenHeight || (height == seenHeight && term < seenTerm)
}

func (a *Agent) sayHello(l *masterLink) {
	l.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Hello{Hello: &agentwire.Hello{
		Protocol: 1, ClusterId: a.cfg.ClusterID, ListVersion: a.cfg.ListVersion, Height: a.height, Generation: a.generation, Term: a.term,
		Name: a.cfg.Name, Incarnation: a.cfg.Incarnation,
	}}})
}

func (a *Agent) onHello(l *masterLink, m *agentwire.FromMaster, h *agentwire.MasterHello) error {
	if !h.GetLeading() {
		if a.leader == l {
			a.leader, a.attached = nil, false
		}
		return nil
	}
	if m.GetHeight() != a.height || m.GetTerm() != a.term || h.GetGeneration() != a.generation {
		// Before a word is exchanged with a newer leader, older ones are done with.
		rec := &journal.Record{Body: &journal.Record_Seen{Seen: &journal.Seen{Height: m.GetHeight(), Term: m.GetTerm(), Generation: h.GetGeneration()}}}
		if err := a.journal.Append(rec); err != nil {
			return err
		}
		a.height, a.term, a.generation = m.GetHeight(), m.GetTerm(), h.GetGeneration()
		if a.strays {
			a.keeper.send(&keeper.Request{Body: &keeper.Request_List{List: &keeper.List{}}})
		}
	}
	if a.leader == l && a.attached {
		return nil
	}
	a.leader, a.attached, a.whole = l, false, false
	a.attach()
	return nil
}

// attach tells the leader who we are and everything that the journal holds.
func (a *Agent) attach() {
	if a.retiring != "" || a.leader == nil || a.keeper == nil || a.gap != "" {
		return // without the keeper nothing true could be said of the containers
	}
	a.sequence++
	a.sentAt = time.Now()
	info, err := proto.MarshalOptions{AllowPartial: true}.Marshal(a.cfg.Info)
	if err != nil {
		a.log.Error("agent info cannot be encoded", "error", err)
		return
	}
	at := &agentwire.Attach{
		AgentId: a.id, AttachKey: a.key, AgentInfo: info, BootId: a.cfg.BootID, Incarnation: a.cfg.Incarnation,
		Node: a.cfg.Name, Address: a.cfg.Address, Sequence: a.sequence,
	}
	for _, id := range a.order {
		at.Held = append(at.Held, heldOf(a.tasks[id]))
	}
	if a.whole {
		a.tellWhole(at)
	}
	a.leader.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Attach{Attach: at}})
}

func heldOf(t *task.Task) *agentwire.Held {
	h := &agentwire.Held{
		ContainerId: t.ContainerID, FrameworkId: t.FrameworkID, TaskId: t.Info.GetTaskId().GetValue(),
		State: int32(t.Latest), Terminal: t.Terminal(), Tombstone: t.Tombstone,
	}
	if len(t.Pending) > 0 {
		h.PendingUpdate = t.Pending[0].Status
	}
	return h
}

// onOrder obeys the leader.
func (a *Agent) onOrder(m *agentwire.FromMaster) error {
	switch b := m.GetBody().(type) {
	case *agentwire.FromMaster_Attached:
		return a.onAttached(b.Attached)
	case *agentwire.FromMaster_Refused:
		a.attached = false
		a.log.Warn("the leader refuses this agent", "agent", a.id, "why", b.Refused.GetReason())
		if b.Refused.GetRemoved() {
			a.retiring = b.Refused.GetReason()
			return a.retire()
		}
		if b.Refused.GetReport() && !a.whole {
			return a.report()
		}
		return nil
	case *agentwire.FromMaster_Shutdown:
		a.log.Warn("the leader ends this agent", "agent", a.id, "why", b.Shutdown.GetReason())
		a.retiring = b.Shutdown.GetReason()
		return a.retire()
	case *agentwire.FromMaster_Network:
		a.network = b.Network
		a.tellNetwork()
		return nil
	}
	if a.retiring != "" || !a.attached {
		return nil // who attaches is told all of it again
	}
	switch b := m.GetBody().(type) {
	case *agentwire.FromMaster_Drain:
		return a.onDrain(b.Drain)
	case *agentwire.FromMaster_Made:
		return a.onMade(b.Made.GetResources())
	case *agentwire.FromMaster_Run:
		return a.onRun(b.Run, task.Run{Stamp: stamp()})
	case *agentwire.FromMaster_Told:
		return a.onRun(b.Told, task.Forgotten{Stamp: stamp()})
	case *agentwire.FromMaster_Kill:
		return a.onKill(b.Kill)
	case *agentwire.FromMaster_Message:
		a.onMessage(b.Message)
	case *agentwire.FromMaster_Acknowledge:
		t := a.tasks[b.Acknowledge.GetContainerId()]
		if t == nil || len(b.Acknowledge.GetUuid()) != 16 {
			return nil
		}
		fault.After(fault.AgentHeard, t.ContainerID)
		return a.happen(t, task.Acknowledged{UUID: [16]byte(b.Acknowledge.GetUuid())})
	case *agentwire.FromMaster_Forget:
		return a.onForget(b.Forget.GetContainerIds())
	}
	return nil
}

func (a *Agent) onAttached(m *agentwire.Attached) error {
	if m.GetSequence() != a.sequence {
		return nil // of an earlier attempt on this connection
	}
	if a.id != m.GetAgentId() {
		rec := &journal.Record{Body: &journal.Record_Identity{Identity: &journal.Identity{AgentId: m.GetAgentId(), AttachKey: a.key}}}
		if err := a.journal.Append(rec); err != nil {
			return err
		}
		a.id = m.GetAgentId()
	}
	a.attached, a.whole, a.drain = true, false, nil // who drains it says so again
	a.log.Info("attached to the leader", "leader", a.leader.name, "agent", a.id, "term", a.term)
	for _, id := range a.order {
		a.sendUpdate(a.tasks[id])
	}
	return nil
}

// onRun takes a task that is not held; what becomes of it is begin's.
func (a *Agent) onRun(r *agentwire.Run, begin task.Event) error {
	held := a.tasks[r.GetContainerId()]
	if held != nil && !held.Tombstone {
		a.sendUpdate(held) // asked again: the leader has not heard of it yet
		return nil
	}
	l := &journal.Launched{
		ContainerId: r.GetContainerId(), FrameworkId: r.GetFrameworkId(), Role: r.GetRole(),
		FrameworkInfo: r.GetFrameworkInfo(), TaskInfo: r.GetTaskInfo(), HostNetwork: r.GetHostNetwork(), UserId: r.GetUserId(),
		ExecutorId: r.GetExecutorId(), ExecutorContainer: r.GetExecutorContainer(), Group: r.GetGroup(),
	}
	t, err := a.newTask(l)
	if err != nil {
		a.log.Error("launch refused: it cannot be read", "container", r.GetContainerId(), "error", err)
		return nil
	}
	if held != nil {
		t.Tombstone, t.KillRequested, t.KillGrace, t.Drain = true, true, held.KillGrace, held.Drain
	}
	a.put(t)
	records := []*journal.Record{{Body: &journal.Record_Launched{Launched: l}}}
	if _, lost := begin.(task.Forgotten); lost { // what is torn after the first of them begins nothing
		records = slices.Insert(records, 0, &journal.Record{Body: &journal.Record_KillAsked{KillAsked: &journal.KillAsked{
			ContainerId: t.ContainerID, FrameworkId: t.FrameworkID, TaskId: t.Info.GetTaskId().GetValue(),
		}}})
		t.KillRequested = true
	}
	if err := a.happen(t, begin, records...); err != nil || !t.Executed() && !t.Inside() || t.Terminal() {
		return err
	}
	return a.onRunMember(t)
}

func (a *Agent) onKill(k *agentwire.Kill) error {
	t := a.tasks[k.GetContainerId()]
	if t == nil {
		t = tombstone(k.GetContainerId(), k.GetFrameworkId(), k.GetTaskId())
		a.put(t)
	}
	ask := task.Kill{Stamp: stamp(), Grace: time.Duration(k.GetGraceNs())}
	if err := a.killGroup(t, ask); err != nil {
		return err
	}
	return a.happen(t, ask)
}

// onForget drops ended containers that the leader's state no longer holds. One that
// still runs is nobody's: it is ended, and forgotten when the leader asks again.
func (a *Agent) onForget(ids []string) error {
	var gone []string
	for _, id := range ids {
		t := a.tasks[id]
		switch {
		case t == nil || t.Tombstone || t.Terminal():
			gone = append(gone, id)
		default:
			if err := a.happen(t, task.Kill{Stamp: stamp(), Grace: task.DefaultGrace}); err != nil {
				return err
			}
		}
	}
	if len(gone) == 0 {
		return nil
	}
	if err := a.journal.Append(&journal.Record{Body: &journal.Record_Dropped{Dropped: &journal.Dropped{ContainerIds: gone}}}); err != nil {
		return err
	}
	for _, id := range gone {
		fault.After(fault.AgentDropped, id)
		a.remove(id)
	}
	a.keeper.forget(gone)
	a.leader.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Forgotten{Forgotten: &agentwire.Forgotten{ContainerIds: gone}}})
	return nil
}

// retire ends everything that ran under the old agent id, then begins a new one.
func (a *Agent) retire() error {
	if a.keeper == nil {
		return nil
	}
	left := 0
	var all []string
	for _, id := range a.order {
		t := a.tasks[id]
		all = append(all, id)
		if t.Executed() || t.Tombstone || (t.Container != nil && containerGone(t.Container)) || (t.Container == nil && t.Terminal()) {
			continue
		}
		a.killContainer(t, 0)
		if t.Container != nil {
			left++ // one that the keeper never saw leaves a tombstone there and no end to wait for
		}
	}
	if left > 0 {
		a.log.Info("waiting for containers of the former agent id to end", "agent", a.id, "left", left)
		return nil
	}
	a.keeper.forget(all)
	a.tasks, a.order, a.executions = map[string]*task.Task{}, nil, map[string]*execution{}
	old := a.id
	if err := a.newIdentity(); err != nil {
		return err
	}
	a.log.Warn("agent begins anew under a new id", "former", old, "why", a.retiring)
	a.retiring = ""
	a.attach()
	return nil
}
