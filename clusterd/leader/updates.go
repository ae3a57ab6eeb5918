package leader

import (
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
	"google.golang.org/protobuf/proto"
)

const (
	retryFirst = 10 * time.Second
	retryMost  = 10 * time.Minute
)

// tellStatus sends one status that nobody need acknowledge.
func (l *Leader) tellStatus(f *framework, task state.TaskID, agent state.AgentID, st state.Status) {
	if f == nil {
		return
	}
	l.send(f, updateEvent(statusTo(f.caps, task, agent, st)))
}

// tellPresent tells the present state of a task, as far as the state holds it.
func (l *Leader) tellPresent(f *framework, id state.TaskID) bool {
	var st *mesosv1.TaskStatus
	l.cfg.Machine.View(func(s *state.State) {
		if t, ok := s.TaskOf(f.id, id); ok {
			st = reconciled(s, f, t)
		}
	})
	if st == nil {
		return false
	}
	l.send(f, updateEvent(st))
	return true
}

// reconciled is the answer about a task that is known: its newest update's state,
// without what only the update itself may carry.
func reconciled(s *state.State, f *framework, t *state.Task) *mesosv1.TaskStatus {
	newest := t.Newest
	if away(s, t) {
		newest = t.Statuses[len(t.Statuses)-1]
	}
	if !t.Answered() && newest.TimeNS == 0 {
		newest = state.Status{State: t.State, TimeNS: t.LaunchedNS}
	}
	st := statusTo(f.caps, t.TaskID, t.AgentID, newest)
	st.Uuid, st.Data, st.Message = nil, nil, nil
	st.AgentId = &mesosv1.AgentID{Value: proto.String(string(t.AgentID))}
	st.Source = mesosv1.TaskStatus_SOURCE_MASTER.Enum()
	st.Reason = mesosv1.TaskStatus_REASON_RECONCILIATION.Enum()
	return st
}

// away: the task's agent is unreachable, and the task was told so.
func away(s *state.State, t *state.Task) bool {
	a, ok := s.Agent(t.AgentID)
	n := len(t.Statuses)
	return ok && a.Unreachable && n > 0 && t.Statuses[n-1].State == state.TaskUnreachable
}

// explain answers a question about a task that the state does not hold.
func (l *Leader) explain(f *framework, id state.TaskID, agent state.AgentID) {
	if l.afterLaunch(f, id, func() { l.explain(f, id, agent) }) || l.tellPresent(f, id) {
		return
	}
	st := state.Status{State: state.TaskUnknown, Source: state.SourceMaster, Reason: state.ReasonReconciliation, TimeNS: l.wallNS()}
	waiting := false
	l.cfg.Machine.View(func(s *state.State) {
		if agent == "" {
			waiting = l.mayBeBrought(s, "")
			for a := range s.Agents() {
				waiting = waiting || l.recovered(a)
			}
			return
		}
		a, ok := s.Agent(agent)
		switch {
		case !ok:
			waiting = l.mayBeBrought(s, agent)
		case l.recovered(a):
			waiting = true
		case a.Unreachable:
			st.State, st.Unreached = state.TaskUnreachable, a.UnreachableNS
		default:
			st.State = state.TaskGone
		}
	})
	if waiting {
		return // the agent may still bring it: no answer is better than a wrong one
	}
	st.Message = "Reconciliation: Task is unknown"
	l.tellStatus(f, id, agent, st)
}

// recovered is an agent that the log knows and that has not attached in this term yet.
func (l *Leader) recovered(a *state.Agent) bool {
	return !a.Unreachable && l.agents[a.ID] == nil
}

func (l *Leader) reconcile(f *framework, asked []*scheduler.Call_Reconcile_Task) {
	if len(asked) > 0 {
		for _, t := range asked {
			l.explain(f, state.TaskID(t.GetTaskId().GetValue()), state.AgentID(t.GetAgentId().GetValue()))
		}
		return
	}
	var all []*mesosv1.TaskStatus
	l.cfg.Machine.View(func(s *state.State) {
		for t := range s.TasksOfFramework(f.id) {
			if !away(s, t) {
				all = append(all, reconciled(s, f, t))
			}
		}
	})
	for _, st := range all {
		l.send(f, updateEvent(st))
	}
}

// sendUpdate sends a task's newest update, if an agent made it and the framework has
// not acknowledged it, and remembers to send it again. What was told of a task last must
// not be older than that its agent is unreachable: the agent repeats itself when it is back.
func (l *Leader) sendUpdate(container state.ContainerID, pause time.Duration) {
	var f *framework
	var st *mesosv1.TaskStatus
	l.cfg.Machine.View(func(s *state.State) {
		t, ok := s.Task(container)
		if !ok || t.Acknowledged || len(t.UUID) == 0 || away(s, t) {
			return
		}
		if f = l.frameworks[t.FrameworkID]; f != nil {
			st = statusTo(f.caps, t.TaskID, t.AgentID, t.Newest)
			st.Uuid, st.Data = t.UUID, t.Data
		}
	})
	if st == nil {
		delete(l.retries, container)
		return
	}
	l.retries[container] = &retry{at: time.Now().Add(pause), pause: pause}
	l.count("master/messages_status_update")
	l.send(f, updateEvent(st))
}

func (l *Leader) retryUpdates(now time.Time) {
	var due []state.ContainerID
	for id, r := range l.retries {
		if now.After(r.at) {
			due = append(due, id)
		}
	}
	for _, id := range due {
		l.sendUpdate(id, min(2*l.retries[id].pause, retryMost))
	}
}

// resendUpdates gives a framework that came back everything it has not acknowledged.
func (l *Leader) resendUpdates(f *framework) {
	var open []state.ContainerID
	l.cfg.Machine.View(func(s *state.State) {
		for t := range s.TasksOfFramework(f.id) {
			if !t.Acknowledged && len(t.UUID) > 0 {
				open = append(open, t.ContainerID)
			}
		}
	})
	for _, id := range open {
		l.sendUpdate(id, retryFirst)
	}
}
