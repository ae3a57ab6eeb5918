package leader

import (
	"context"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/state"
)

// ChangeKind says what a Change is about.
type ChangeKind int

// The changes that watchers are told of.
const (
	TaskAdded        ChangeKind = iota + 1 // Task
	TaskUpdated                            // Task, Status: its state changed
	AgentAdded                             // Agent, Live.Attached of it
	AgentRemoved                           // AgentID: unreachable, or gone
	FrameworkAdded                         // Framework, Live.Connected of it
	FrameworkUpdated                       // likewise
	FrameworkRemoved                       // Framework
)

// Change is one thing that happened, after it was committed, with copies of what it is
// about.
type Change struct {
	Kind      ChangeKind
	Task      state.Task
	Status    state.Status
	Agent     state.Agent
	AgentID   state.AgentID
	Framework state.Framework
	Live      Live
	// Worded is for watchers: the first one keeps here what all of them send.
	Worded any
}

// watchers are told what happens, in order; states, agents and frameworks are what they
// have been told, so that they hear nothing twice.
type watchers struct {
	next   int
	tell   map[int]func(*Change)
	states map[state.ContainerID]state.TaskState
	agents map[state.AgentID]bool
	// frameworks that were there, or have been told of.
	frameworks map[state.FrameworkID]bool
}

// Watch shows the present state to begin, at one moment, and every Change after it to f,
// until end is called or the term ends. Both are called by the leader between two
// decisions: they must be quick, and must not keep what the state points to.
func (l *Leader) Watch(ctx context.Context, begin func(*state.State, Live), f func(*Change)) (end func(), err error) {
	number, ended := 0, false // of the loop
	err = l.enter(ctx, func(answer func(error)) {
		l.confirm(func(err error) {
			if err == nil && ended {
				err = context.Canceled // who asked has left meanwhile
			}
			if err == nil {
				l.cfg.Machine.View(func(s *state.State) { l.firstWatch(s); begin(s, l.live(s)) })
				l.watch.next++
				number = l.watch.next
				l.watch.tell[number] = f
			}
			answer(err)
		})
	})
	end = func() {
		l.post(context.Background(), func() {
			ended = true
			delete(l.watch.tell, number)
		})
	}
	if err != nil {
		end() // it may have begun in the same moment
	}
	return end, err
}

// Done is closed when the term is over.
func (l *Leader) Done() <-chan struct{} { return l.done }

// firstWatch notes what there is, so that only what changes from then on is told.
func (l *Leader) firstWatch(s *state.State) {
	if len(l.watch.tell) > 0 {
		return
	}
	l.watch = watchers{next: l.watch.next, tell: map[int]func(*Change){}, states: map[state.ContainerID]state.TaskState{}, agents: map[state.AgentID]bool{}, frameworks: map[state.FrameworkID]bool{}}
	for f := range s.Frameworks() {
		l.watch.frameworks[f.ID] = true
	}
	for t := range s.Tasks() {
		l.watch.states[t.ContainerID] = t.State
		if a, ok := s.Agent(t.AgentID); ok && a.Unreachable && !t.State.Terminal() {
			l.watch.states[t.ContainerID] = state.TaskUnreachable // so it is shown
		}
	}
	for id := range l.agents {
		l.watch.agents[id] = true
	}
}

func (l *Leader) tellWatchers(c *Change) {
	for _, f := range l.watch.tell {
		f(c)
	}
}

// happened tells watchers what a committed command did.
func (l *Leader) happened(command state.Command, r state.Result) {
	if len(l.watch.tell) == 0 || r.Err != nil {
		return
	}
	for _, e := range r.Events {
		gone := &state.Task{ContainerID: e.Container, TaskID: e.Task, FrameworkID: e.Framework, AgentID: e.Agent}
		switch e.Change {
		case state.StatusChanged:
			l.taskChanged(e.Container, gone, &e.Status)
		case state.KillWanted:
			if _, removed := command.(state.RemoveFramework); removed { // nobody is told how they end
				l.taskChanged(e.Container, gone, &state.Status{State: state.TaskKilled, Source: state.SourceMaster, Reason: state.ReasonFrameworkRemoved, TimeNS: l.wallNS(), Message: "Framework was removed"})
			}
		case state.AgentEnded:
			l.agentWent(e.Agent)
		}
	}
	switch c := command.(type) {
	case state.LaunchTask:
		l.taskCame(c.Container)
	case state.AdoptTask:
		l.taskCame(c.Container)
	case state.LaunchTasks:
		for _, t := range c.Tasks {
			l.taskCame(t.Container)
		}
	case state.AdoptExecution:
		l.taskCame(c.Container)
	case state.UpdateTask:
		l.taskChanged(c.Container, nil, nil)
	case state.AcknowledgeUpdate:
		l.cfg.Machine.View(func(s *state.State) {
			if _, there := s.Task(c.Container); !there {
				delete(l.watch.states, c.Container)
			}
		})
	case state.RegisterAgent:
		l.agentCame(r.AgentID)
	case state.EndAdoption:
		l.agentCame(c.Agent)
	case state.MarkUnreachable:
		l.agentWent(c.ID)
	case state.SubscribeFramework, state.AdoptFramework, state.UpdateFramework, state.DisconnectFramework:
		l.frameworkChanged(r.FrameworkID)
	case state.RemoveFramework:
		delete(l.watch.frameworks, c.ID)
		l.cfg.Machine.History(func(h state.History) {
			for i := len(h.Frameworks) - 1; i >= 0; i-- {
				if h.Frameworks[i].ID == c.ID {
					l.tellWatchers(&Change{Kind: FrameworkRemoved, Framework: h.Frameworks[i]})
					return
				}
			}
		})
	}
}

func (l *Leader) taskCame(container state.ContainerID) {
	l.cfg.Machine.View(func(s *state.State) {
		if t, ok := s.Task(container); ok && !t.IsExecutor() {
			l.watch.states[container] = t.State
			l.tellWatchers(&Change{Kind: TaskAdded, Task: *t})
		}
	})
}

// taskChanged tells a state that watchers do not know yet: the one that the cluster made, of
// a task that may be out of the state by that; or nil: the newest that the agent reported.
func (l *Leader) taskChanged(container state.ContainerID, gone *state.Task, made *state.Status) {
	l.cfg.Machine.View(func(s *state.State) {
		t, there := s.Task(container)
		if !there {
			defer delete(l.watch.states, container)
			t = gone
		}
		if t == nil || t.IsExecutor() || t.TaskID == "" {
			return // executors are no tasks
		}
		st := t.Newest
		if made != nil {
			st = *made
		}
		if known, ok := l.watch.states[container]; ok && (known == st.State || t.Orphan && known.Terminal()) {
			return
		}
		l.watch.states[container] = st.State
		l.tellWatchers(&Change{Kind: TaskUpdated, Task: *t, Status: st})
	})
}

func (l *Leader) agentCame(id state.AgentID) {
	if l.watch.agents[id] {
		return
	}
	a := l.agents[id]
	if a == nil {
		return
	}
	l.watch.agents[id] = true
	l.cfg.Machine.View(func(s *state.State) {
		if record, ok := s.Agent(id); ok {
			l.tellWatchers(&Change{Kind: AgentAdded, AgentID: id, Agent: *record, Live: Live{Attached: map[state.AgentID]*mesosv1.AgentInfo{id: a.info}}})
		}
	})
}

func (l *Leader) agentWent(id state.AgentID) {
	if l.watch.agents[id] {
		delete(l.watch.agents, id)
		l.tellWatchers(&Change{Kind: AgentRemoved, AgentID: id})
	}
}

func (l *Leader) frameworkChanged(id state.FrameworkID) {
	c := &Change{Kind: FrameworkUpdated, Live: Live{Connected: map[state.FrameworkID]Presence{}}}
	if f := l.frameworks[id]; f != nil {
		c.Live.Connected[id] = Presence{Info: f.info}
	}
	l.cfg.Machine.View(func(s *state.State) {
		f, ok := s.Framework(id)
		if !ok {
			return
		}
		if c.Framework = *f; !l.watch.frameworks[id] {
			c.Kind = FrameworkAdded
		}
		l.watch.frameworks[id] = true
		l.tellWatchers(c)
	})
}
