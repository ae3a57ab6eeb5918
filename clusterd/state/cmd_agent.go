package state

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// RegisterAgent makes an agent known, or connects a known one again. Without ID a new
// one is issued, unless the same journal (AttachKey) registered before. A new agent of a
// node ends the node's former one, with its tasks: a node that forgot its journal has
// forgotten its containers.
type RegisterAgent struct {
	ID          AgentID
	Node        string
	AttachKey   string
	BootID      string
	Incarnation string
	Hostname    string
	Port        int32
	Address     string
	Info        []byte
	Total       Resources
	Pool        string // task networks are taken out of it
}

func (RegisterAgent) kind() kind { return kindRegisterAgent }

func (c RegisterAgent) encode(w *writer) {
	w.string(string(c.ID))
	w.string(c.Node)
	w.string(c.AttachKey)
	w.string(c.BootID)
	w.string(c.Incarnation)
	w.string(c.Hostname)
	w.int(int64(c.Port))
	w.string(c.Address)
	w.bytes(c.Info)
	w.resources(c.Total)
	w.string(c.Pool)
}

func decodeRegisterAgent(r *reader) Command {
	return RegisterAgent{
		ID: AgentID(r.string()), Node: r.string(), AttachKey: r.string(), BootID: r.string(), Incarnation: r.string(),
		Hostname: r.string(), Port: int32(r.int()), Address: r.string(), Info: r.bytes(), Total: r.resources(), Pool: r.string(),
	}
}

func (c RegisterAgent) apply(s *State) (Result, error) {
	if c.Node == "" || c.AttachKey == "" {
		return Result{}, fmt.Errorf("agent without node name or key: %w", ErrCommandInvalid)
	}
	if err := s.downFor(c.Hostname, c.Address); err != nil {
		return Result{}, err
	}
	former, known := s.AgentOfNode(c.Node)
	if c.ID != "" {
		if !known || former.ID != c.ID {
			return Result{}, fmt.Errorf("agent %s of node %s: %w", c.ID, c.Node, ErrAgentUnknown)
		}
		return c.again(s, former), nil
	}
	if known && former.AttachKey == c.AttachKey {
		return c.again(s, former), nil
	}
	if !known && len(s.agentSlot) >= maxAgents {
		return Result{}, fmt.Errorf("%d agents: %w", maxAgents, ErrListFull)
	}
	if s.generation.ID == "" {
		return Result{}, fmt.Errorf("no generation has begun: %w", ErrCommandInvalid)
	}
	r := Result{}
	if known {
		r.Events = s.endAgent(former, Status{
			State: TaskGone, Source: SourceMaster, Reason: ReasonAgentRemoved, TimeNS: s.timeNS, Message: "Agent " + string(former.ID) + " was removed: its node began anew",
		})
	}
	id := AgentID(fmt.Sprintf("%s-S%d", s.generation.ID, s.nextAgent))
	s.nextAgent++
	if s.pool == "" {
		s.pool = c.Pool
	}
	subnet, _ := s.freeSubnet()
	s.addAgent(c, id, subnet)
	r.AgentID = id
	return r, nil
}

// addAgent makes a new record; without subnet the pool is used up.
func (s *State) addAgent(c RegisterAgent, id AgentID, subnet string) *Agent {
	slot := s.agents.add(Agent{
		ID: id, Node: c.Node, AttachKey: c.AttachKey, BootID: c.BootID, Incarnation: c.Incarnation, Hostname: c.Hostname,
		Port: c.Port, Address: c.Address, Info: c.Info, Total: c.Total, RegisteredNS: s.timeNS, Subnet: subnet,
		tasks: map[ContainerID]int32{}, forgets: map[ContainerID]struct{}{},
	})
	s.agentSlot[id], s.agentByNode[c.Node] = slot, slot
	if subnet != "" {
		s.subnets[subnet] = slot
	}
	s.networkVersion++
	return s.agents.at(slot)
}

// again is a known agent that comes back. Tasks that were called unreachable are known
// again; their frameworks are told.
func (c RegisterAgent) again(s *State, a *Agent) Result {
	if a.Address != c.Address {
		s.networkVersion++
	}
	a.BootID, a.Incarnation, a.Hostname, a.Port, a.Address = c.BootID, c.Incarnation, c.Hostname, c.Port, c.Address
	a.Info, a.ReattachedNS = c.Info, s.timeNS
	if total, err := Remade(c.Total, a.Total.Made()); err == nil { // beyond all bounds it stays what it was
		a.Total = total
	}
	r := Result{AgentID: a.ID}
	if !a.Unreachable {
		return r
	}
	a.Unreachable, a.UnreachableNS = false, 0
	for t := range s.containersOfAgent(a.ID, s.tasks.edit) {
		if t.Released || t.State.Terminal() || t.Orphan || t.IsExecutor() {
			continue
		}
		st := Status{State: t.State, Source: SourceMaster, Reason: ReasonAgentReregistered, TimeNS: s.timeNS, Message: "Agent has reregistered"}
		if !t.Answered() {
			st.State = TaskStaging
		}
		t.noteStatus(st)
		r.Events = append(r.Events, statusEvent(t, st))
	}
	return r
}

func statusEvent(t *Task, st Status) Event {
	return Event{Change: StatusChanged, Framework: t.FrameworkID, Task: t.TaskID, Container: t.ContainerID, Agent: t.AgentID, Status: st}
}

// endAgent removes an agent for good: its tasks get their terminal status.
func (s *State) endAgent(a *Agent, st Status) []Event {
	id, node, subnet := a.ID, a.Node, a.Subnet
	var events []Event
	for t := range s.containersOfAgent(id, s.tasks.edit) {
		if t.Newest.State.Terminal() && t.Answered() && !t.Orphan {
			continue // its end is known; it stays until the framework has acknowledged it
		}
		if !t.Orphan && !t.IsExecutor() {
			t.State = st.State
			t.noteNewest(st)
			events = append(events, statusEvent(t, st))
		}
		s.dropTask(t)
	}
	delete(s.answers, id)
	slot := s.agentSlot[id]
	delete(s.agentSlot, id)
	delete(s.agentByNode, node)
	if subnet != "" {
		delete(s.subnets, subnet)
	}
	s.agents.remove(slot)
	return append(events, Event{Change: AgentEnded, Agent: id})
}

// freeSubnet takes a free /24 of the pool (the first is left out: it is the pool's own
// network address, and people expect it to be special), from the quarter on that
// SpreadSubnets named.
func (s *State) freeSubnet() (string, bool) {
	pool, err := netip.ParsePrefix(s.pool)
	if err != nil || !pool.Addr().Is4() || pool.Bits() > 23 || pool.Bits() < 8 {
		return "", false
	}
	base := pool.Masked().Addr().As4()
	first, count := binary.BigEndian.Uint32(base[:]), uint32(1)<<(24-pool.Bits())
	begin := uint32(s.quarter) * (count / 4)
	for k := range count - 1 {
		n := 1 + (begin+k)%(count-1)
		var raw [4]byte
		binary.BigEndian.PutUint32(raw[:], first+n<<8)
		subnet := netip.PrefixFrom(netip.AddrFrom4(raw), 24).String()
		if _, taken := s.subnets[subnet]; !taken {
			return subnet, true
		}
	}
	return "", false
}

// MarkUnreachable writes down that an agent was not heard for its grace. Its tasks stay,
// with their resources: it may come back with them.
type MarkUnreachable struct{ ID AgentID }

func (MarkUnreachable) kind() kind { return kindMarkUnreachable }

func (c MarkUnreachable) encode(w *writer) { w.string(string(c.ID)) }

func decodeMarkUnreachable(r *reader) Command { return MarkUnreachable{ID: AgentID(r.string())} }

func (c MarkUnreachable) apply(s *State) (Result, error) {
	slot, ok := s.agentSlot[c.ID]
	if !ok {
		return Result{}, fmt.Errorf("agent %s: %w", c.ID, ErrAgentUnknown)
	}
	a := s.agents.at(slot)
	if a.Unreachable {
		return Result{}, fmt.Errorf("agent %s: %w", c.ID, ErrAgentUnreachable)
	}
	a.Unreachable, a.UnreachableNS = true, s.timeNS
	r := Result{AgentID: c.ID}
	for t := range s.containersOfAgent(c.ID, s.tasks.edit) {
		if t.Released || t.State.Terminal() || t.Orphan || t.IsExecutor() {
			continue
		}
		st := Status{State: TaskUnreachable, Source: SourceMaster, Reason: ReasonAgentRemoved, TimeNS: s.timeNS, Unreached: s.timeNS, Message: "Agent " + string(c.ID) + " is unreachable"}
		t.noteStatus(st)
		r.Events = append(r.Events, statusEvent(t, st))
	}
	return r, nil
}

// ContainersForgotten: the agent's journal holds these no more.
type ContainersForgotten struct {
	Agent      AgentID
	Containers []ContainerID
}

func (ContainersForgotten) kind() kind { return kindContainersForgotten }

func (c ContainersForgotten) encode(w *writer) {
	w.string(string(c.Agent))
	w.uint(uint64(len(c.Containers)))
	for _, id := range c.Containers {
		w.string(string(id))
	}
}

func decodeContainersForgotten(r *reader) Command {
	c := ContainersForgotten{Agent: AgentID(r.string())}
	for range r.count() {
		c.Containers = append(c.Containers, ContainerID(r.string()))
	}
	return c
}

func (c ContainersForgotten) apply(s *State) (Result, error) {
	slot, ok := s.agentSlot[c.Agent]
	if !ok {
		return Result{}, fmt.Errorf("agent %s: %w", c.Agent, ErrAgentUnknown)
	}
	a := s.agents.at(slot)
	for _, id := range c.Containers {
		delete(a.forgets, id)
	}
	return Result{AgentID: c.Agent}, nil
}
