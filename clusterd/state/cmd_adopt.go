package state

import (
	"fmt"
	"net/netip"
	"strings"
)

// When masters that remember nothing found a cluster, nodes may live that the last one
// registered, with tasks that run. They are adopted: AdoptAgent, then an AdoptFramework
// for each framework and an AdoptTask for each task that they hold, then EndAdoption. An
// adoption that a change of leader cuts short is begun again from the beginning: each of
// these is done once, however often it comes.

// Adoptable says whether nothing is known of the cluster that issued an agent's id, so
// that the agent outlived it. An id that this cluster issued, or one that it came from,
// and that is not here is gone for good; so is one whose node began anew meanwhile.
func (s *State) Adoptable(id AgentID, node string) bool {
	if a, known := s.Agent(id); known {
		return a.Adopting && a.Node == node
	}
	if _, other := s.agentByNode[node]; other {
		return false
	}
	generation, _, ok := strings.Cut(string(id), "-S")
	return ok && generation != "" && s.generation.ID != "" && !s.KnowsGeneration(generation)
}

// KnowsGeneration says whether a generation is this one or one that it came from.
func (s *State) KnowsGeneration(id string) bool {
	if id == s.generation.ID {
		return true
	}
	for _, p := range s.past {
		if p == id {
			return true
		}
	}
	return false
}

// BornEmpty says whether the cluster began with no memory of what may have been before.
func (s *State) BornEmpty() bool { return len(s.past) == 0 }

// RaiseHeight makes the present generation as high as an agent demands that obeyed one
// which nobody else remembers: agents refuse masters of lower generations.
type RaiseHeight struct{ Height uint64 }

func (RaiseHeight) kind() kind { return kindRaiseHeight }

func (c RaiseHeight) encode(w *writer) { w.uint(c.Height) }

func decodeRaiseHeight(r *reader) Command { return RaiseHeight{Height: r.uint()} }

func (c RaiseHeight) apply(s *State) (Result, error) {
	if s.generation.ID == "" || c.Height <= s.generation.Height {
		return Result{}, fmt.Errorf("height %d, present %d: %w", c.Height, s.generation.Height, ErrGenerationOlder)
	}
	s.generation.Height = c.Height
	s.quarter = (c.Height - 1) % quarters
	return Result{}, nil
}

// SpreadSubnets has new nodes' subnets looked for in another quarter of the pool than
// the generation before used first: nodes that outlived it keep theirs, and may come late.
type SpreadSubnets struct{ Quarter uint64 }

const quarters = 4

func (SpreadSubnets) kind() kind { return kindSpreadSubnets }

func (c SpreadSubnets) encode(w *writer) { w.uint(c.Quarter) }

func decodeSpreadSubnets(r *reader) Command { return SpreadSubnets{Quarter: r.uint()} }

func (c SpreadSubnets) apply(s *State) (Result, error) {
	if c.Quarter >= quarters {
		return Result{}, fmt.Errorf("quarter %d of the pool: %w", c.Quarter, ErrCommandInvalid)
	}
	s.quarter = c.Quarter
	return Result{}, nil
}

// AdoptAgent makes an agent known that a forgotten cluster registered, under its old id.
type AdoptAgent struct {
	RegisterAgent
	Subnet string // where its running tasks have their addresses; empty: nowhere yet
}

func (AdoptAgent) kind() kind { return kindAdoptAgent }

func (c AdoptAgent) encode(w *writer) {
	c.RegisterAgent.encode(w)
	w.string(c.Subnet)
}

func decodeAdoptAgent(r *reader) Command {
	register, _ := decodeRegisterAgent(r).(RegisterAgent)
	return AdoptAgent{RegisterAgent: register, Subnet: r.string()}
}

func (c AdoptAgent) apply(s *State) (Result, error) {
	if c.Node == "" || c.AttachKey == "" {
		return Result{}, fmt.Errorf("agent without node name or key: %w", ErrCommandInvalid)
	}
	if err := s.downFor(c.Hostname, c.Address); err != nil {
		return Result{}, err
	}
	if a, begun := s.Agent(c.ID); begun && a.Node == c.Node && a.AttachKey == c.AttachKey {
		return c.again(s, a), nil
	}
	if !s.Adoptable(c.ID, c.Node) {
		return Result{}, fmt.Errorf("agent %s of node %s: %w", c.ID, c.Node, ErrAgentUnknown)
	}
	if len(s.agentSlot) >= maxAgents {
		return Result{}, fmt.Errorf("%d agents: %w", maxAgents, ErrListFull)
	}
	pool := s.pool
	if pool == "" {
		pool = c.Pool
	}
	if c.Subnet != "" {
		if err := s.clearSubnet(pool, c.Subnet); err != nil {
			return Result{}, fmt.Errorf("agent %s of node %s: %w", c.ID, c.Node, err)
		}
	}
	s.pool = pool
	subnet := c.Subnet
	if subnet == "" {
		subnet, _ = s.freeSubnet()
	}
	s.addAgent(c.RegisterAgent, c.ID, subnet).Adopting = true
	return Result{AgentID: c.ID}, nil
}

// clearSubnet leaves a network to a node whose tasks have their addresses in it. A node
// that got it before anybody knew, and has no task yet, takes another one.
func (s *State) clearSubnet(pool, subnet string) error {
	all, err := netip.ParsePrefix(pool)
	if err != nil {
		return fmt.Errorf("pool %q: %w", pool, ErrCommandInvalid)
	}
	one, err := netip.ParsePrefix(subnet)
	if err != nil || one.Bits() != 24 || one != one.Masked() || !all.Contains(one.Addr()) {
		return fmt.Errorf("its tasks' network %q is no /24 of %s: %w", subnet, pool, ErrCommandInvalid)
	}
	slot, taken := s.subnets[subnet]
	if !taken {
		return nil
	}
	holder := s.agents.at(slot)
	other, found := s.freeSubnet()
	if len(holder.tasks) > 0 || len(holder.forgets) > 0 || holder.Adopting || !found {
		return fmt.Errorf("%s is node %s's: %w", subnet, holder.Node, ErrSubnetTaken)
	}
	delete(s.subnets, subnet)
	holder.Subnet = other
	s.subnets[other] = slot
	return nil
}

// AdoptFramework makes a framework known whose tasks an adopted agent holds. It has not
// subscribed yet: Remaining is how long it may stay away.
type AdoptFramework struct {
	SubscribeFramework
	Remaining int64 // ns
}

func (AdoptFramework) kind() kind { return kindAdoptFramework }

func (c AdoptFramework) encode(w *writer) {
	c.SubscribeFramework.encode(w)
	w.int(c.Remaining)
}

func decodeAdoptFramework(r *reader) Command {
	subscribe, _ := decodeSubscribeFramework(r).(SubscribeFramework)
	return AdoptFramework{SubscribeFramework: subscribe, Remaining: r.int()}
}

func (c AdoptFramework) apply(s *State) (Result, error) {
	if c.ID == "" || len(c.Roles) > maxRoles || c.FailoverTimeout < 0 {
		return Result{}, fmt.Errorf("framework %q with %d roles, failover timeout %d: %w", c.ID, len(c.Roles), c.FailoverTimeout, ErrCommandInvalid)
	}
	if s.FrameworkRemoved(c.ID) {
		return Result{}, s.frameworkError(c.ID)
	}
	if _, known := s.frameworkSlot[c.ID]; known {
		return Result{FrameworkID: c.ID}, nil // it came back by itself, or another agent brought it
	}
	if len(s.frameworkSlot) >= maxFrameworks {
		return Result{}, fmt.Errorf("%d frameworks: %w", maxFrameworks, ErrListFull)
	}
	f := c.framework(s)
	f.DisconnectedNS, f.Remaining = s.timeNS, max(0, c.Remaining)
	s.frameworkSlot[c.ID] = s.frameworks.add(f)
	return Result{FrameworkID: c.ID}, nil
}

// AdoptTask makes a task known that runs, or ran, on an agent that is being adopted.
type AdoptTask struct {
	LaunchTask
	State         TaskState // newest on the agent; its updates follow
	KillRequested bool
	KillGrace     int64 // ns; <0: as the task says
}

func (AdoptTask) kind() kind { return kindAdoptTask }

func (c AdoptTask) encode(w *writer) {
	c.LaunchTask.encode(w)
	w.int(int64(c.State))
	w.bool(c.KillRequested)
	w.int(c.KillGrace)
}

func decodeAdoptTask(r *reader) Command {
	launch, _ := decodeLaunchTask(r).(LaunchTask)
	return AdoptTask{LaunchTask: launch, State: TaskState(r.int()), KillRequested: r.bool(), KillGrace: r.int()}
}

func (c AdoptTask) apply(s *State) (Result, error) { return c.adopt(s, Execution{}) }

// adopt takes in what an agent holds: a task, or an executor, which has no task id.
func (c AdoptTask) adopt(s *State, by Execution) (Result, error) {
	executor := by.ID != "" && by.Container == c.Container
	if c.Container == "" || (c.Task == "") != executor {
		return Result{}, fmt.Errorf("adoption of a task without ids: %w", ErrCommandInvalid)
	}
	fslot, ok := s.frameworkSlot[c.Framework]
	if !ok {
		return Result{}, s.frameworkError(c.Framework)
	}
	done := Result{FrameworkID: c.Framework, AgentID: c.Agent}
	if slot, known := s.taskSlot[c.Container]; known {
		if s.tasks.at(slot).AgentID != c.Agent {
			return Result{}, fmt.Errorf("container %s: %w", c.Container, ErrContainerUsed)
		}
		return done, nil
	}
	aslot, ok := s.agentSlot[c.Agent]
	if !ok || !s.agents.at(aslot).Adopting {
		return Result{}, fmt.Errorf("agent %s: %w", c.Agent, ErrAgentUnknown)
	}
	f, a := s.frameworks.at(fslot), s.agents.at(aslot)
	if _, used := f.tasks[c.Task]; used {
		return Result{}, fmt.Errorf("task %s: %w", c.Task, ErrTaskDuplicate)
	}
	if _, used := f.executors[executorKey{c.Agent, by.ID}]; used && executor {
		return Result{}, fmt.Errorf("executor %s: %w", by.ID, ErrTaskDuplicate)
	}
	if len(s.taskSlot) >= maxTasks {
		return Result{}, fmt.Errorf("%d tasks: %w", maxTasks, ErrListFull)
	}
	// It runs already: where the node has less than before, it is over-used for a while.
	if err := take(f, a, c.Role, c.Agent, c.Resources); err != nil {
		return Result{}, fmt.Errorf("task %s: %w", c.Task, err)
	}
	t := c.task(s)
	t.State, t.KillRequested, t.KillGrace, t.Execution = c.State, c.KillRequested, c.KillGrace, by
	s.place(f, a, t)
	return done, nil
}

// EndAdoption: everything that the agent holds is here.
type EndAdoption struct{ Agent AgentID }

func (EndAdoption) kind() kind { return kindEndAdoption }

func (c EndAdoption) encode(w *writer) { w.string(string(c.Agent)) }

func decodeEndAdoption(r *reader) Command { return EndAdoption{Agent: AgentID(r.string())} }

func (c EndAdoption) apply(s *State) (Result, error) {
	slot, ok := s.agentSlot[c.Agent]
	if !ok {
		return Result{}, fmt.Errorf("agent %s: %w", c.Agent, ErrAgentUnknown)
	}
	s.agents.at(slot).Adopting = false
	return Result{AgentID: c.Agent}, nil
}
