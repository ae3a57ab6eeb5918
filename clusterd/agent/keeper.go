package agent

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/mesolith/mesolith/clusterd/task"
	"github.com/mesolith/mesolith/internal/fault"
	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// keeperLink is the connection to isolated. A nil link sends nowhere. But for the two
// goroutines that read and write frames it belongs to Run's.
type keeperLink struct {
	conn net.Conn
	out  chan *keeper.Request

	lastID uint64
	asked  map[uint64]*keeper.Request // Launch, Kill and RemoveVolumes without an answer yet, by request
}

func (l *keeperLink) send(r *keeper.Request) {
	if l == nil {
		return
	}
	l.lastID++
	r.Id = l.lastID
	if r.GetLaunch() != nil || r.GetKill() != nil || r.GetRemoveVolumes() != nil {
		l.asked[r.Id] = r
	}
	select {
	case l.out <- r:
	default:
		l.conn.Close()
	}
}

func (l *keeperLink) forget(ids []string) {
	if len(ids) > 0 {
		l.send(&keeper.Request{Body: &keeper.Request_Forget{Forget: &keeper.Forget{ContainerIds: ids}}})
	}
}

type keeperEvent struct {
	link     *keeperLink
	response *keeper.Response // nil: came up or, with err, went down
	err      error
}

func (a *Agent) keepKeeper(ctx context.Context) {
	lastWhy := ""
	for ctx.Err() == nil {
		err := a.talkKeeper(ctx)
		if ctx.Err() != nil {
			return
		}
		if why := fmt.Sprint(err); why != lastWhy {
			a.log.Warn("no connection to the container keeper", "socket", a.cfg.KeeperSocket, "why", why)
			lastWhy = why
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (a *Agent) talkKeeper(ctx context.Context) error {
	dial := a.cfg.DialKeeper
	if dial == nil {
		dial = func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", a.cfg.KeeperSocket)
		}
	}
	conn, err := dial(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	link := &keeperLink{conn: conn, out: make(chan *keeper.Request, queueFrames), asked: map[uint64]*keeper.Request{}}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer conn.Close()
	wg.Go(func() {
		<-ctx.Done()
		conn.Close()
	})
	wg.Go(func() { writeFrames(ctx, conn, link.out) })
	a.tellKeeper(ctx, keeperEvent{link: link})
	for {
		m := &keeper.Response{}
		if err := wire.Read(conn, m, wire.MaxFrame); err != nil {
			a.tellKeeper(ctx, keeperEvent{link: link, err: err})
			return err
		}
		a.tellKeeper(ctx, keeperEvent{link: link, response: m})
	}
}

func (a *Agent) tellKeeper(ctx context.Context, e keeperEvent) {
	select {
	case a.loops.keeper <- e:
	case <-ctx.Done():
	}
}

func (a *Agent) onKeeper(e keeperEvent) error {
	switch {
	case e.err != nil:
		if a.keeper == e.link {
			a.keeper = nil
			clear(a.again) // whatever is open is asked for anew when it is back
			a.log.Warn("connection to the container keeper ended; tasks go on", "why", e.err.Error())
		}
		return nil
	case e.response == nil:
		e.link.send(&keeper.Request{Body: &keeper.Request_Hello{Hello: &keeper.Hello{Protocol: 1, Program: "clusterd"}}})
		e.link.send(&keeper.Request{Body: &keeper.Request_Configure{Configure: a.cfg.Keeper}})
		e.link.send(&keeper.Request{Body: &keeper.Request_List{List: &keeper.List{Launches: a.gap != ""}}})
		return nil
	}
	m := e.response
	asked := e.link.asked[m.GetId()]
	delete(e.link.asked, m.GetId())
	volumes := asked.GetRemoveVolumes()
	switch er := m.GetError(); {
	case volumes != nil && er != nil:
		a.made.asked = false // the next tick asks again
		a.log.Error("persistent volumes could not be removed", "why", er.GetMessage())
		return nil
	case er != nil:
		return a.onRefused(asked, er)
	case volumes != nil:
		return a.onRemoved(volumes.GetVolumes())
	}
	if asked != nil {
		delete(a.again, containerOf(asked))
		if asked.GetLaunch() != nil {
			fault.After(fault.AgentLaunched, containerOf(asked))
		}
	}
	switch b := m.GetBody().(type) {
	case *keeper.Response_Hello:
		a.runtime = b.Hello.GetRuntime()
		a.log.Info("container keeper answers", "runtime", a.runtime, "why", b.Hello.GetRuntimeReason())
	case *keeper.Response_List:
		if err := a.adoptContainers(b.List); err != nil {
			return err
		}
		return a.onList(e.link, b.List.GetContainers())
	case *keeper.Response_Event:
		return a.onContainer(b.Event)
	}
	return nil
}

// onRefused sees to it that no launch and no kill ends in a refusal: what can never be
// is the task's end, all else is asked for again.
func (a *Agent) onRefused(asked *keeper.Request, er *keeper.Error) error {
	id := containerOf(asked)
	if !a.again[id] {
		a.log.Error("the container keeper refused a request", "container", id, "code", er.GetCode().String(), "why", er.GetMessage())
	}
	t := a.tasks[id]
	switch {
	case asked == nil:
	case t == nil:
		// A container of a memory that is gone, and a keeper that knows newer leaders.
		k := asked.GetKill()
		switch {
		case er.GetCode() != keeper.Error_STALE:
		case older(k.GetHeight(), k.GetTerm(), a.height, a.term): // so do we by now
			a.keeper.send(&keeper.Request{Body: &keeper.Request_List{List: &keeper.List{}}})
		default:
			a.strays = true
		}
	case asked.GetLaunch() != nil && er.GetCode() == keeper.Error_INVALID:
		return a.happen(t, task.Observed{Stamp: stamp(), Container: &keeper.Container{
			ContainerId: id, Phase: keeper.Container_FAILED, Failure: keeper.Container_INVALID_TASK, Message: er.GetMessage(),
		}})
	default:
		a.again[id] = true
	}
	return nil
}

func containerOf(r *keeper.Request) string {
	if l := r.GetLaunch(); l != nil {
		return l.GetContainerId()
	}
	return r.GetKill().GetContainerId()
}

// askAgain repeats what the keeper could not do before.
func (a *Agent) askAgain() {
	for id := range a.again {
		t := a.tasks[id]
		if t == nil || t.Terminal() {
			delete(a.again, id)
			continue
		}
		for _, act := range task.Resume(*t) {
			if _, send := act.(task.Send); !send {
				a.do(t, act)
			}
		}
	}
}

// onList makes the journal and the keeper's containers agree; from here on the keeper
// is connected.
func (a *Agent) onList(l *keeperLink, list []*keeper.Container) error {
	a.keeper, a.strays, a.made.asked = l, false, false
	for _, x := range a.executions {
		x.cpu, x.bytes = 0, 0 // what it was told last is not known
	}
	a.tellNetwork()
	a.removeVolumes()
	held := map[string]bool{}
	for _, c := range list {
		held[c.GetContainerId()] = true
		if err := a.onContainer(c); err != nil {
			return err
		}
	}
	for _, id := range append([]string(nil), a.order...) {
		t := a.tasks[id]
		if !held[id] {
			if err := a.happen(t, task.Missing{Stamp: stamp()}); err != nil {
				return err
			}
			continue
		}
		for _, act := range task.Resume(*t) {
			a.do(t, act)
		}
	}
	if a.leader != nil && !a.attached {
		a.attach()
	}
	return nil
}

func (a *Agent) onContainer(c *keeper.Container) error {
	if c.GetNested() {
		return nil // an operator's, of which the keeper alone knows
	}
	t := a.tasks[c.GetContainerId()]
	if t == nil {
		// Nothing is launched before it is journalled, so this one belongs to a
		// memory that is gone, or was dropped already.
		if containerGone(c) {
			a.keeper.forget([]string{c.GetContainerId()})
		} else if !c.GetKillRequested() {
			a.log.Warn("container without a journalled launch is ended", "container", c.GetContainerId(), "task", c.GetTaskId())
			a.keeper.send(&keeper.Request{Body: &keeper.Request_Kill{Kill: &keeper.Kill{ContainerId: c.GetContainerId(), Height: a.height, Term: a.term}}})
		}
		return nil
	}
	if t.Executes() && containerGone(c) {
		if err := a.beforeExecutorEnds(t, c); err != nil {
			return err
		}
	}
	if err := a.happen(t, task.Observed{Stamp: stamp(), Container: c}); err != nil {
		return err
	}
	if err := a.afterObserved(t); err != nil {
		return err
	}
	if a.retiring != "" && containerGone(c) {
		return a.retire()
	}
	return nil
}

func containerGone(c *keeper.Container) bool {
	return c.GetPhase() == keeper.Container_ENDED || c.GetPhase() == keeper.Container_FAILED
}

// tellNetwork hands this node's part of the cluster's network to the keeper.
func (a *Agent) tellNetwork() {
	if a.network == nil || a.keeper == nil {
		return
	}
	// A reborn cluster counts its plans from the beginning, at a greater height.
	n := &keeper.SetNetwork{Version: a.height<<32 | a.network.GetVersion(), Pool: a.network.GetPool(), Address: a.cfg.Address, Mtu: a.cfg.MTU, Provisioning: a.cfg.Provisioning}
	for _, s := range a.network.GetSubnets() {
		if s.GetNode() == a.cfg.Name {
			n.Subnet = s.GetSubnet()
			continue
		}
		if s.GetAddress() != "" {
			n.Routes = append(n.Routes, &keeper.Route{Subnet: s.GetSubnet(), Via: s.GetAddress()})
		}
	}
	if n.GetSubnet() == "" {
		return
	}
	a.keeper.send(&keeper.Request{Body: &keeper.Request_SetNetwork{SetNetwork: n}})
}
