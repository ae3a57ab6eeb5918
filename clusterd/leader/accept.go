package leader

import (
	"fmt"
	"math"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/alloc"
	"github.com/mesolith/mesolith/clusterd/offers"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/fault"
	"google.golang.org/protobuf/proto"
)

// acceptance is one ACCEPT while it is worked through.
type acceptance struct {
	f      *framework
	agent  state.AgentID
	role   string
	left   state.Resources // of the offers, after the operations so far
	open   int             // proposals under way
	broken bool            // an operation was refused by the log
	failed error
	answer func(error)
	// refused hears what is not authorized.
	refused func(object, why string)
}

func (l *Leader) accept(f *framework, a *scheduler.Call_Accept, refused func(object, why string), answer func(error)) {
	ids := make([]offers.ID, 0, len(a.GetOfferIds()))
	for _, id := range a.GetOfferIds() {
		ids = append(ids, offers.ID(id.GetValue()))
	}
	taken, err := l.book.Take(f.id, ids)
	if len(taken) > 0 {
		l.allocate = true
	}
	if err != nil {
		l.log.Info("accept with offers that are not valid", "framework", f.id, "why", err.Error())
		l.loseAll(f, a, state.ReasonInvalidOffers, "Task launched with invalid offers: "+err.Error())
		answer(nil)
		return
	}
	acc := &acceptance{f: f, agent: taken[0].Agent, role: taken[0].Role, answer: answer, refused: refused, open: 1}
	for _, o := range taken {
		if acc.left, err = acc.left.Join(o.Resources); err != nil {
			answer(fmt.Errorf("sum of the offers: %w", err))
			return
		}
	}
	if reason, why := l.agentGone(acc.agent); why != "" {
		l.loseAll(f, a, reason, why)
		answer(nil)
		return
	}
	for _, op := range a.GetOperations() {
		l.operate(acc, op)
	}
	if len(acc.left) > 0 {
		l.refuseOffer(f, acc.role, acc.agent, acc.left, a.GetFilters())
	}
	acc.finish(nil)
}

// finish counts proposals down; the call is answered when all are committed.
func (a *acceptance) finish(err error) {
	if err != nil && a.failed == nil {
		a.failed = err
	}
	if a.open--; a.open == 0 {
		a.answer(a.failed)
	}
}

// agentGone says why an agent of an offer cannot be launched on any more.
func (l *Leader) agentGone(id state.AgentID) (reason state.Reason, why string) {
	known, unreachable, deactivated := false, false, false
	l.cfg.Machine.View(func(s *state.State) {
		if a, ok := s.Agent(id); ok {
			known, unreachable, deactivated = true, a.Unreachable, a.Deactivated
		}
	})
	switch {
	case deactivated:
		return state.ReasonInvalidOffers, "Agent " + string(id) + " was deactivated"
	case !known || unreachable:
		return state.ReasonAgentRemoved, "Agent " + string(id) + " was removed or became unreachable"
	case l.agents[id] == nil || l.agents[id].away:
		return state.ReasonAgentDisconnected, "Agent " + string(id) + " is disconnected"
	}
	return 0, ""
}

func (l *Leader) operate(acc *acceptance, op *mesosv1.Offer_Operation) {
	switch op.GetType() {
	case mesosv1.Offer_Operation_LAUNCH:
		for _, t := range op.GetLaunch().GetTaskInfos() {
			if op.GetId() != nil {
				l.invalid(acc, t, state.ReasonTaskInvalid, "'id' must not be set on LAUNCH operations")
				continue
			}
			l.launch(acc, t)
		}
	case mesosv1.Offer_Operation_LAUNCH_GROUP:
		group := op.GetLaunchGroup().GetTaskGroup().GetTasks()
		if op.GetId() != nil {
			for _, t := range group {
				l.invalid(acc, t, state.ReasonTaskGroupInvalid, "'id' must not be set on LAUNCH_GROUP operations")
			}
			return
		}
		if why := l.forbiddenGroup(acc.f, op.GetLaunchGroup()); why != "" {
			for _, t := range group {
				l.invalid(acc, t, state.ReasonTaskGroupUnauthorized, why)
			}
			acc.refused("a group of tasks", why)
			return
		}
		l.launchExecuted(acc, op.GetLaunchGroup().GetExecutor(), group, true)
	default:
		l.convert(acc, op)
	}
}

// invalid answers a task that will never be launched.
func (l *Leader) invalid(acc *acceptance, t *mesosv1.TaskInfo, reason state.Reason, why string) {
	l.tellStatus(acc.f, state.TaskID(t.GetTaskId().GetValue()), acc.agent, state.Status{
		State: state.TaskError, Source: state.SourceMaster, Reason: reason, Message: why, TimeNS: l.wallNS(),
	})
}

func (l *Leader) launch(acc *acceptance, t *mesosv1.TaskInfo) {
	if why := l.forbiddenUser(acc.f.principal, taskUser(t, acc.f.info)); why != "" {
		l.invalid(acc, t, state.ReasonTaskUnauthorized, why)
		acc.refused("task "+t.GetTaskId().GetValue(), why)
		return
	}
	if t.GetExecutor() != nil && t.GetCommand() == nil {
		l.launchExecuted(acc, t.GetExecutor(), []*mesosv1.TaskInfo{t}, false)
		return
	}
	asks, err := checkTask(t, acc.agent, acc.role, false)
	if err != nil {
		l.invalid(acc, t, state.ReasonTaskInvalid, err.Error())
		return
	}
	id := state.TaskID(t.GetTaskId().GetValue())
	if !acc.left.Hold(asks) {
		l.invalid(acc, t, state.ReasonTaskInvalid, fmt.Sprintf("Task uses more resources %s than available %s", asks, acc.left))
		return
	}
	key := taskKey{acc.f.id, id}
	if l.isStarting(key) {
		l.invalid(acc, t, state.ReasonTaskInvalid, l.duplicate(key))
		return
	}
	inject(t.GetResources(), acc.role)
	wire, err := proto.MarshalOptions{AllowPartial: true}.Marshal(t)
	if err != nil {
		l.invalid(acc, t, state.ReasonTaskInvalid, "Task cannot be stored: "+err.Error())
		return
	}
	container := newContainerID()
	fault.Of(string(container), string(id))
	done, err := l.underWay(acc.agent, holder{acc.role, acc.f.id}, asks)
	if err != nil {
		l.invalid(acc, t, state.ReasonTaskInvalid, err.Error())
		return
	}
	acc.left, _ = acc.left.Minus(asks.Private()) // what is shared is there for the next task, too
	acc.open++
	l.starting[key] = nil
	l.nameUser(acc.f.id, t.GetCommand().GetUser())
	l.propose(state.LaunchTask{
		Container: container, Task: id, Framework: acc.f.id, Agent: acc.agent, Role: acc.role, Name: t.GetName(),
		Info: wire, Resources: asks, HostNetwork: l.hostNetwork(acc.role, t.GetContainer()),
	}, func(_ state.Result, err error) {
		waiting := l.starting[key]
		delete(l.starting, key)
		done()
		if err == nil {
			fault.After(fault.LeaderLaunch, string(container))
			l.sendRun(container)
		} else {
			err = l.notLaunched(acc, t, state.ReasonTaskInvalid, err)
		}
		if acc.broken {
			l.keepPromises(acc.agent)
		}
		acc.finish(err)
		for _, f := range waiting {
			f()
		}
	})
}

// afterLaunch puts off what concerns a task whose launch is on its way into the state:
// what is said of it now would be wrong a moment later. False: there is none.
func (l *Leader) afterLaunch(f *framework, id state.TaskID, then func()) bool {
	key := taskKey{f.id, id}
	waiting, ok := l.starting[key]
	if ok {
		l.starting[key] = append(waiting, then)
	}
	return ok
}

// duplicate words that a task id is in use. Whether it is, only the log decides: the
// acknowledgement that frees it may be on its way.
func (l *Leader) duplicate(key taskKey) (why string) {
	why = "Task has duplicate ID: " + string(key.task)
	l.cfg.Machine.View(func(s *state.State) {
		if t, ok := s.TaskOf(key.framework, key.task); ok && away(s, t) {
			why = "Task reuses the ID of an unreachable task: " + string(key.task)
		}
	})
	return why
}

// hostNetwork says whether a task uses its node's network: where there is no other, and
// where its role may, unless it asks for one of its own.
func (l *Leader) hostNetwork(role string, c *mesosv1.ContainerInfo) bool {
	if l.cfg.HostNetworkAlways {
		return true
	}
	may := contains(l.cfg.HostNetworkRoles, "*") || contains(l.cfg.HostNetworkRoles, role)
	bridged := c.GetDocker() != nil && (c.GetDocker().GetNetwork() == mesosv1.ContainerInfo_DockerInfo_BRIDGE || c.GetDocker().GetNetwork() == mesosv1.ContainerInfo_DockerInfo_USER)
	return may && len(c.GetNetworkInfos()) == 0 && !bridged
}

// newContainerID makes a random UUID: container ids are never used twice.
func newContainerID() state.ContainerID {
	b := newUUID()
	return state.ContainerID(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

// loseAll answers every task of an ACCEPT that came to nothing. A task that the state
// holds already, or is about to, was launched by the same call sent before: it is told as
// it is, or will be.
func (l *Leader) loseAll(f *framework, a *scheduler.Call_Accept, reason state.Reason, why string) {
	lost := func(t *mesosv1.TaskInfo) {
		id := state.TaskID(t.GetTaskId().GetValue())
		if _, ok := l.starting[taskKey{f.id, id}]; ok || l.tellPresent(f, id) {
			return
		}
		l.tellStatus(f, id, state.AgentID(t.GetAgentId().GetValue()), state.Status{
			State: state.TaskDropped, Source: state.SourceMaster, Reason: reason, Message: why, TimeNS: l.wallNS(),
		})
	}
	for _, op := range a.GetOperations() {
		if op.GetLaunch() == nil && op.GetLaunchGroup() == nil {
			l.loseOperation(f, op, why)
		}
		for _, t := range op.GetLaunch().GetTaskInfos() {
			lost(t)
		}
		for _, t := range op.GetLaunchGroup().GetTaskGroup().GetTasks() {
			lost(t)
		}
	}
}

func (l *Leader) decline(f *framework, d *scheduler.Call_Decline) {
	for _, id := range d.GetOfferIds() {
		o, ok := l.book.Get(offers.ID(id.GetValue()))
		if !ok || o.Framework != f.id {
			continue // declined before, or rescinded: clients repeat themselves
		}
		l.book.Remove(o.ID)
		l.refuseOffer(f, o.Role, o.Agent, o.Resources, d.GetFilters())
	}
	l.allocate = true
}

// refuseOffer remembers that a framework did not want these resources.
func (l *Leader) refuseOffer(f *framework, role string, agent state.AgentID, rs state.Resources, filters *mesosv1.Filters) {
	pause := refusePause(filters)
	if pause == 0 {
		return
	}
	pause = max(pause, l.cfg.AllocationInterval)
	l.filters.Refuse(f.id, role, agent, rs, l.sinceNS(time.Now().Add(pause)))
}

// refusePause is how long a filter lasts; 0: there is none.
func refusePause(filters *mesosv1.Filters) time.Duration {
	seconds := filters.GetRefuseSeconds() // 5 when not set
	if math.IsNaN(seconds) || seconds < 0 {
		seconds = float64(alloc.DefaultRefuseNS) / 1e9
	}
	return time.Duration(math.Min(seconds*1e9, alloc.MaxRefuseNS))
}
