package leader

import (
	"context"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/offers"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/fault"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

// fromAgent takes one frame of an agent into the loop.
func (l *Leader) fromAgent(ctx context.Context, c *agentConn, m *agentwire.FromAgent) {
	l.post(ctx, func() {
		if a := l.agentOf(c); a != nil {
			a.lastHeard = time.Now()
		}
		switch b := m.GetBody().(type) {
		case *agentwire.FromAgent_Hello:
			l.refused(c, b.Hello)
		case *agentwire.FromAgent_Attach:
			l.attach(c, b.Attach)
		case *agentwire.FromAgent_Update:
			l.update(c, b.Update)
		case *agentwire.FromAgent_Message:
			if a := l.agentOf(c); a != nil {
				l.fromExecutor(a, b.Message)
			}
		case *agentwire.FromAgent_Forgotten:
			l.forgotten(c, b.Forgotten.GetContainerIds())
		}
	})
}

// agentOf is the agent that attached by this connection last, unless by another since.
func (l *Leader) agentOf(c *agentConn) *agent {
	if a := l.agents[c.attached]; a != nil && a.conn == c {
		return a
	}
	return nil
}

// agentLeft: the connection ended. The agent stays attached until its grace is over, or
// until it attaches by another connection.
func (l *Leader) agentLeft(c *agentConn) {
	l.post(context.Background(), func() {
		if a := l.agentOf(c); a != nil {
			l.log.Info("connection of agent ended", "agent", a.id, "node", a.node)
			a.away = true // nothing of it is offered until it attaches again
			l.rescindAgent(a.id)
		}
	})
}

func (l *Leader) attach(c *agentConn, at *agentwire.Attach) {
	l.count("master/messages_register_slave")
	refuse := func(reason string, removed bool) {
		l.log.Warn("agent refused", "node", c.node, "agent", at.GetAgentId(), "why", reason)
		c.send(l.Height(), l.cfg.Term, &agentwire.FromMaster{Body: &agentwire.FromMaster_Refused{Refused: &agentwire.Refused{Reason: reason, Removed: removed}}})
	}
	info := &mesosv1.AgentInfo{}
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(at.GetAgentInfo(), info); err != nil {
		refuse("its AgentInfo cannot be read: "+err.Error(), false)
		return
	}
	total, err := fromWire(info.GetResources())
	if err != nil {
		refuse("its resources are not valid: "+err.Error(), false)
		return
	}
	if at.GetNode() != c.node {
		refuse("it attaches as node "+at.GetNode()+", its certificate says "+c.node, false)
		return
	}
	id := state.AgentID(at.GetAgentId())
	known, adoptable := id == "", false
	if id != "" {
		l.cfg.Machine.View(func(s *state.State) {
			_, known = s.Agent(id)
			adoptable = s.Adoptable(id, c.node)
		})
	}
	if l.attaching[c] != nil {
		l.attaching[c] = at // it was greeted anew meanwhile: the answer is for the newest
		return
	}
	if !known && !l.begun {
		// Whose id this is can be told once the state belongs to this generation: an agent
		// that outlived the last one must not hear that it is unknown.
		l.attaching[c] = at
		l.confirm(func(err error) {
			newest := l.attaching[c]
			if delete(l.attaching, c); err == nil && newest != nil {
				l.attach(c, newest)
			}
		})
		return
	}
	command := state.RegisterAgent{
		ID: id, Node: at.GetNode(), AttachKey: at.GetAttachKey(), BootID: at.GetBootId(), Incarnation: at.GetIncarnation(),
		Hostname: info.GetHostname(), Port: info.GetPort(), Address: at.GetAddress(), Info: at.GetAgentInfo(), Total: total, Pool: l.cfg.Pool,
	}
	switch {
	case adoptable && !at.GetWhole():
		l.log.Info("agent outlived a cluster that nobody remembers; it is asked for all that it holds", "agent", id, "node", c.node)
		l.askWhole(c)
		return
	case adoptable:
		l.adopt(c, at, command, info, refuse)
		return
	case !known:
		refuse("the cluster no longer knows agent "+string(id), true)
		return
	}
	l.attaching[c] = at
	l.propose(command, func(r state.Result, err error) {
		newest := l.attaching[c]
		delete(l.attaching, c)
		if err != nil {
			if isRefusal(err) {
				refuse(err.Error(), id != "")
			}
			return
		}
		l.attached(c, newest, r.AgentID, info)
	})
}

func (l *Leader) attached(c *agentConn, at *agentwire.Attach, id state.AgentID, info *mesosv1.AgentInfo) {
	info.Id = &mesosv1.AgentID{Value: proto.String(string(id))}
	l.rescindAgent(id)
	if was := l.agents[id]; was != nil && !sameSight(was.info, info) {
		l.filters.ClearAgent(id) // what was refused is not what it is now
	}
	c.attached = id
	l.agents[id] = &agent{id: id, node: c.node, conn: c, info: info, lastHeard: time.Now()}
	l.toAgent(id, &agentwire.FromMaster{Body: &agentwire.FromMaster_Attached{Attached: &agentwire.Attached{
		AgentId: string(id), Sequence: at.GetSequence(), Generation: l.cfg.Generation, PingIntervalNs: int64(pingInterval),
	}}})
	l.log.Info("agent attached", "agent", id, "node", c.node, "holds", len(at.GetHeld()))
	l.tellNetwork(l.agents[id])
	l.sendMade(id)
	l.settle(id, at.GetHeld())
	l.sendDrain(id)
	l.allocate = true
}

// sameSight says whether an agent is still what frameworks knew when they refused it.
func sameSight(a, b *mesosv1.AgentInfo) bool {
	if !proto.Equal(a.GetDomain(), b.GetDomain()) || len(a.GetAttributes()) != len(b.GetAttributes()) {
		return false
	}
	for i, one := range a.GetAttributes() {
		if !proto.Equal(one, b.GetAttributes()[i]) {
			return false
		}
	}
	return true
}

// remote says whether an agent stands in another region than the masters. Who does not say
// where it stands is near.
func (l *Leader) remote(info *mesosv1.AgentInfo) bool {
	here, there := l.cfg.Address.Domain.GetFaultDomain(), info.GetDomain().GetFaultDomain()
	return here != nil && there != nil && here.GetRegion().GetName() != there.GetRegion().GetName()
}

// settle makes the agent's journal and the state agree: what the state wants and the
// agent lacks is sent, what the agent holds and the state does not is ended.
func (l *Leader) settle(id state.AgentID, held []*agentwire.Held) {
	holds := map[state.ContainerID]*agentwire.Held{}
	for _, h := range held {
		holds[state.ContainerID(h.GetContainerId())] = h
	}
	var runs, lost, kills []state.ContainerID
	var forget []string
	var forgotten []state.ContainerID // by the agent already
	type ack struct {
		container state.ContainerID
		uuid      []byte
	}
	var acks []ack
	l.cfg.Machine.View(func(s *state.State) {
		for t := range s.ContainersOfAgent(id) {
			if h := holds[t.ContainerID]; h == nil || h.GetTombstone() {
				switch {
				case !t.Answered():
					runs = append(runs, t.ContainerID)
				case !t.State.Terminal():
					lost = append(lost, t.ContainerID)
				}
			}
			if t.KillRequested && !t.State.Terminal() {
				kills = append(kills, t.ContainerID)
			}
			if t.Acknowledged {
				acks = append(acks, ack{t.ContainerID, t.UUID})
			}
		}
		for _, h := range held {
			if _, ok := s.Task(state.ContainerID(h.GetContainerId())); !ok {
				forget = append(forget, h.GetContainerId()) // ends it first where it still runs
			}
		}
		if a, ok := s.Agent(id); ok {
			for _, c := range a.Forgets() {
				if holds[c] == nil {
					forgotten = append(forgotten, c)
				}
			}
		}
	})
	if len(forgotten) > 0 {
		l.propose(state.ContainersForgotten{Agent: id, Containers: forgotten}, func(state.Result, error) {})
	}
	for _, c := range runs {
		l.sendRun(c)
	}
	for _, c := range lost {
		l.log.Warn("an agent does not hold a task that it told of; it is asked", "agent", id, "container", string(c))
		l.sendTold(c)
	}
	for _, c := range kills {
		l.sendKill(c)
	}
	for _, a := range acks {
		l.toAgent(id, &agentwire.FromMaster{Body: &agentwire.FromMaster_Acknowledge{Acknowledge: &agentwire.Acknowledge{ContainerId: string(a.container), Uuid: a.uuid}}})
	}
	if len(forget) > 0 {
		l.toAgent(id, &agentwire.FromMaster{Body: &agentwire.FromMaster_Forget{Forget: &agentwire.Forget{ContainerIds: forget}}})
	}
}

func (l *Leader) sendRun(container state.ContainerID) {
	if run, on := l.runOf(container); run != nil {
		l.toAgent(on, &agentwire.FromMaster{Body: &agentwire.FromMaster_Run{Run: run}})
	}
}

// sendTold asks for a task of which the agent has told: where it is lost with the agent's
// memory the agent says so, in the order of all its updates.
func (l *Leader) sendTold(container state.ContainerID) {
	if run, on := l.runOf(container); run != nil {
		l.toAgent(on, &agentwire.FromMaster{Body: &agentwire.FromMaster_Told{Told: run}})
	}
}

func (l *Leader) runOf(container state.ContainerID) (run *agentwire.Run, on state.AgentID) {
	l.cfg.Machine.View(func(s *state.State) {
		t, ok := s.Task(container)
		if !ok || t.State.Terminal() {
			return
		}
		f, ok := s.Framework(t.FrameworkID)
		if !ok {
			return
		}
		on = t.AgentID
		run = &agentwire.Run{
			ContainerId: string(container), FrameworkId: string(t.FrameworkID), Role: t.Role,
			FrameworkInfo: f.Info, TaskInfo: t.Info, HostNetwork: t.HostNetwork,
			ExecutorId: string(t.Execution.ID), ExecutorContainer: string(t.Execution.Container),
		}
		for _, id := range t.Execution.Group {
			run.Group = append(run.Group, string(id))
		}
		if name := userName(userIn(t.Info), f.User); name != "" {
			run.UserId, _ = s.UserID(name)
		}
	})
	return run, on
}

func (l *Leader) sendKill(container state.ContainerID) {
	var kill *agentwire.Kill
	var on state.AgentID
	l.cfg.Machine.View(func(s *state.State) {
		if t, ok := s.Task(container); ok && t.KillRequested {
			on = t.AgentID
			kill = &agentwire.Kill{ContainerId: string(container), TaskId: string(t.TaskID), FrameworkId: string(t.FrameworkID), GraceNs: t.KillGrace}
		}
	})
	if kill != nil {
		l.toAgent(on, &agentwire.FromMaster{Body: &agentwire.FromMaster_Kill{Kill: kill}})
	}
}

// update commits what an agent reports before anybody hears of it.
func (l *Leader) update(c *agentConn, u *agentwire.Update) {
	a := l.agentOf(c)
	if a == nil {
		return // it attaches first, and sends it again
	}
	st := &mesosv1.TaskStatus{}
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(u.GetStatus(), st); err != nil || len(st.GetUuid()) != 16 {
		l.count("master/invalid_status_updates")
		return
	}
	container := state.ContainerID(u.GetContainerId())
	uuid, data := st.GetUuid(), st.GetData()
	if l.settled(a, container, uuid) {
		return
	}
	st.Uuid, st.Data = nil, nil
	wire, err := proto.MarshalOptions{AllowPartial: true}.Marshal(st)
	if err != nil {
		l.count("master/invalid_status_updates")
		return
	}
	reason := state.NoReason
	if st.Reason != nil {
		reason = state.Reason(st.GetReason())
	}
	l.propose(state.UpdateTask{
		Container: container, Agent: a.id, UUID: uuid, Data: data, Latest: state.TaskState(u.GetLatestState()),
		Status: state.Status{
			State: state.TaskState(st.GetState()), Source: state.Source(st.GetSource()), Reason: reason,
			Message: st.GetMessage(), TimeNS: int64(st.GetTimestamp() * 1e9), Wire: wire,
		},
	}, func(_ state.Result, err error) {
		if err != nil {
			l.count("master/invalid_status_updates")
			return
		}
		l.count("master/valid_status_updates")
		fault.After(fault.LeaderUpdate, u.GetContainerId())
		l.sendUpdate(container, retryFirst)
		fault.After(fault.LeaderAnswered, u.GetContainerId())
		l.allocate = true
	})
}

// settled answers an update from the state alone where it can: one that was
// acknowledged before, or one of a task that the state does not hold any more.
func (l *Leader) settled(a *agent, container state.ContainerID, uuid []byte) bool {
	unknown, acknowledged, same := false, false, false
	l.cfg.Machine.View(func(s *state.State) {
		t, ok := s.Task(container)
		unknown = !ok
		same = ok && string(t.UUID) == string(uuid)
		acknowledged = same && t.Acknowledged
	})
	switch {
	case unknown, acknowledged:
		l.toAgent(a.id, &agentwire.FromMaster{Body: &agentwire.FromMaster_Acknowledge{Acknowledge: &agentwire.Acknowledge{ContainerId: string(container), Uuid: uuid}}})
		if unknown {
			l.toAgent(a.id, &agentwire.FromMaster{Body: &agentwire.FromMaster_Forget{Forget: &agentwire.Forget{ContainerIds: []string{string(container)}}}})
		}
		return true
	case same:
		// Committed. The framework is being told, unless the agent was unreachable meanwhile.
		if l.retries[container] == nil {
			l.sendUpdate(container, retryFirst)
		}
		return true
	}
	return false
}

func (l *Leader) forgotten(c *agentConn, ids []string) {
	a := l.agentOf(c)
	if a == nil || len(ids) == 0 {
		return
	}
	containers := make([]state.ContainerID, 0, len(ids))
	for _, id := range ids {
		containers = append(containers, state.ContainerID(id))
	}
	l.propose(state.ContainersForgotten{Agent: a.id, Containers: containers}, func(state.Result, error) {})
}

// agentLost ends the agent's offers and tells connected frameworks, after the updates
// of its tasks, which the committed command's events brought.
func (l *Leader) agentLost(id state.AgentID) {
	gone := l.book.OfAgent(id)
	for _, o := range gone {
		l.rescind(o)
	}
	for _, f := range l.frameworks {
		l.send(f, failureEvent(id))
	}
	l.filters.ClearAgent(id)
	l.rescindInverse(func(o inverseOffer) bool { return o.agent == id })
}

// rescindAgent takes back what was offered of an agent.
func (l *Leader) rescindAgent(id state.AgentID) {
	for _, o := range l.book.OfAgent(id) {
		l.rescind(o)
	}
}

func (l *Leader) rescind(o offers.Offer) {
	if _, ok := l.book.Remove(o.ID); ok {
		l.send(l.frameworks[o.Framework], rescindEvent(o.ID))
		l.allocate = true
	}
}
