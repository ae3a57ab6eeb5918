package leader

import (
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/state"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

// When all masters lose their memory at once, the cluster is born empty, and agents that
// live come with ids, frameworks and tasks that nobody knows. They are taken in.

// beginGeneration has the state belong to the generation that this term serves.
func (l *Leader) beginGeneration() {
	present := l.cfg.Machine.Generation()
	if present.ID == l.cfg.Generation {
		l.begun = true
		l.height.Store(max(l.cfg.Height, present.Height))
		return
	}
	// Agents may have raised the former one above what the birth knew of.
	height := max(l.cfg.Height, present.Height+1)
	l.height.Store(height)
	l.propose(state.BeginGeneration{Generation: state.Generation{Height: height, ID: l.cfg.Generation}}, func(_ state.Result, err error) {
		l.begun = true
		if err != nil {
			l.log.Error("the generation could not be begun", "error", err)
		}
	})
	if present.ID == "" && height > 1 {
		l.propose(state.SpreadSubnets{Quarter: (height - 1) % 4}, func(state.Result, error) {})
	}
}

// refused follows an agent's word that it obeyed a newer leader. One of a generation that
// this cluster does not remember is dead (a generation that lives has the quorum that this
// one has), so this one becomes higher; the entry that says so needs a quorum, too.
func (l *Leader) refused(c *agentConn, h *agentwire.Hello) {
	height := h.GetHeight() + 1
	known := h.GetGeneration() == ""
	l.cfg.Machine.View(func(s *state.State) { known = known || s.KnowsGeneration(h.GetGeneration()) })
	if known || height <= l.Height() || l.raising[height] {
		return
	}
	l.raising[height] = true
	l.log.Warn("an agent obeyed a generation that nobody remembers; this one becomes higher", "node", c.node, "its_generation", h.GetGeneration(), "height", height)
	l.propose(state.RaiseHeight{Height: height}, func(_ state.Result, err error) {
		delete(l.raising, height)
		if err == nil {
			l.height.Store(max(l.Height(), height))
			c.desk.raised(l)
		}
	})
}

// askWhole has an agent attach again with all that it holds.
func (l *Leader) askWhole(c *agentConn) {
	c.send(l.Height(), l.cfg.Term, &agentwire.FromMaster{Body: &agentwire.FromMaster_Refused{Refused: &agentwire.Refused{
		Reason: "nothing is known of the cluster that registered it", Report: true,
	}}})
}

// adopt takes an agent in with all that it holds. What cannot be taken in is ended when
// it attaches, like everything that the state does not know.
func (l *Leader) adopt(c *agentConn, at *agentwire.Attach, register state.RegisterAgent, info *mesosv1.AgentInfo, refuse func(string, bool)) {
	made, err := madeOf(at)
	if err != nil { // taken in without it, it would be told that nothing is made, and remove its volumes
		refuse("what was made of its resources cannot be read: "+err.Error(), false)
		return
	}
	l.attaching[c] = at
	id := register.ID
	tasks, lost := 0, 0
	l.propose(state.AdoptAgent{RegisterAgent: register, Subnet: at.GetSubnet()}, func(_ state.Result, err error) {
		if err != nil && isRefusal(err) {
			refuse("it cannot be adopted: "+err.Error(), true)
		}
	})
	if len(made) > 0 {
		l.propose(state.RestoreResources{Agent: id, Made: made}, func(_ state.Result, err error) {
			if err != nil {
				l.log.Error("what was made of an adopted agent's resources is lost", "agent", id, "resources", made.String(), "why", err.Error())
			}
		})
	}
	frameworks := map[string]bool{}
	for _, h := range at.GetHeld() {
		if h.GetTombstone() || (h.GetTerminal() && len(h.GetPendingUpdate()) == 0) {
			continue // nobody waits for it
		}
		command, framework, ok := adopted(id, h)
		what := h.GetTaskId()
		if !ok {
			l.log.Error("a task of an adopted agent cannot be read and is ended", "container", h.GetContainerId(), "agent", id)
			lost++
			continue
		}
		if !frameworks[h.GetFrameworkId()] {
			frameworks[h.GetFrameworkId()] = true
			l.adoptFramework(framework)
		}
		l.propose(command, func(_ state.Result, err error) {
			if err == nil {
				tasks++
				return
			}
			lost++
			l.log.Error("a task of an adopted agent is ended", "task", what, "framework", h.GetFrameworkId(), "agent", id, "why", err.Error())
		})
	}
	l.propose(state.EndAdoption{Agent: id}, func(_ state.Result, err error) {
		newest := l.attaching[c]
		delete(l.attaching, c)
		if err != nil {
			return
		}
		l.log.Warn("agent adopted", "agent", id, "node", c.node, "tasks", tasks, "lost", lost)
		l.attached(c, newest, id, info)
	})
}

// madeOf reads what was made of an agent's resources, as it tells.
func madeOf(at *agentwire.Attach) (state.Resources, error) {
	var list []state.Resource
	for _, m := range at.GetMade() {
		w := &mesosv1.Resource{}
		if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(m.GetResource(), w); err != nil {
			return nil, err
		}
		r, err := resourceFromWire(w)
		if err != nil {
			return nil, err
		}
		if r.Mounting != nil {
			r.Mounting.Serial = m.GetSerial()
		}
		list = append(list, r)
	}
	return state.NewResources(list...)
}

// adoptFramework gives a framework that has not subscribed yet as long as it would have
// after a change of leader.
func (l *Leader) adoptFramework(c state.AdoptFramework) {
	left := max(time.Duration(c.FailoverTimeout), afterElection)
	c.Remaining = int64(left)
	l.propose(c, func(_ state.Result, err error) {
		if err != nil {
			l.log.Error("a framework of an adopted agent is not taken in", "framework", c.ID, "why", err.Error())
			return
		}
		if _, timed := l.deadlines[c.ID]; !timed && l.frameworks[c.ID] == nil {
			l.deadlines[c.ID] = time.Now().Add(left)
		}
	})
}

// adopted makes commands of what an agent holds.
func adopted(agent state.AgentID, h *agentwire.Held) (command state.Command, framework state.AdoptFramework, ok bool) {
	lenient := proto.UnmarshalOptions{AllowPartial: true}
	task, f := state.AdoptTask{
		LaunchTask: state.LaunchTask{
			Container: state.ContainerID(h.GetContainerId()), Task: state.TaskID(h.GetTaskId()), Framework: state.FrameworkID(h.GetFrameworkId()),
			Agent: agent, Role: h.GetRole(), Info: h.GetTaskInfo(), HostNetwork: h.GetHostNetwork(),
		},
		State: state.TaskState(h.GetState()), KillRequested: h.GetKillRequested(), KillGrace: h.GetKillGraceNs(),
	}, &mesosv1.FrameworkInfo{}
	by := state.Execution{ID: state.ExecutorID(h.GetExecutorId()), Container: state.ContainerID(h.GetExecutorContainer())}
	for _, id := range h.GetGroup() {
		by.Group = append(by.Group, state.ContainerID(id))
	}
	if lenient.Unmarshal(h.GetFrameworkInfo(), f) != nil || h.GetFrameworkId() == "" {
		return nil, framework, false
	}
	var resources []*mesosv1.Resource
	if by.ID != "" && by.Container == task.Container {
		x := &mesosv1.ExecutorInfo{}
		if lenient.Unmarshal(h.GetTaskInfo(), x) != nil || x.GetExecutorId().GetValue() != h.GetExecutorId() {
			return nil, framework, false
		}
		task.Task, resources = "", x.GetResources()
	} else {
		t := &mesosv1.TaskInfo{}
		if lenient.Unmarshal(h.GetTaskInfo(), t) != nil || t.GetTaskId().GetValue() != h.GetTaskId() {
			return nil, framework, false
		}
		task.Name, resources = t.GetName(), t.GetResources()
	}
	var err error
	if task.Resources, err = fromWire(resources); err != nil {
		return nil, framework, false
	}
	framework = state.AdoptFramework{SubscribeFramework: subscription(state.FrameworkID(h.GetFrameworkId()), h.GetFrameworkInfo(), f)}
	if by.ID != "" {
		return state.AdoptExecution{AdoptTask: task, Execution: by}, framework, true
	}
	return task, framework, true
}

// mayBeBrought says whether an agent that nothing is known of may still come and bring
// tasks: then nothing is said of them.
func (l *Leader) mayBeBrought(s *state.State, agent state.AgentID) bool {
	if !time.Now().Before(l.elected.Add(l.cfg.AdoptWait)) {
		return false
	}
	if agent == "" {
		return s.BornEmpty() && l.Height() > 1
	}
	return s.Adoptable(agent, "")
}
