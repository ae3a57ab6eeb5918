package operator

import (
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/clusterd/streams"
)

// maxSubscribers is how many streams of events there are at a time; one more ends the
// oldest, as in Mesos.
const maxSubscribers = 1000

// subscribers are the streams of events that are open.
type subscribers struct {
	mu   sync.Mutex
	open []*streams.Stream // oldest first
}

func (x *subscribers) add(s *streams.Stream) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.open = append(x.open, s)
	for len(x.open) > maxSubscribers {
		x.open[0].Close(nil)
		x.open = slices.Delete(x.open, 0, 1)
	}
}

func (x *subscribers) remove(s *streams.Stream) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if i := slices.Index(x.open, s); i >= 0 {
		x.open = slices.Delete(x.open, i, i+1)
	}
}

// subscribe answers with what there is, and then with everything that changes. Who reads
// too slowly loses the stream; nothing is ever left out in the middle of it.
func (h *handler) subscribe(w http.ResponseWriter, c *call, media string) {
	encoding := streams.JSON
	if media == httpio.Protobuf {
		encoding = streams.Protobuf
	}
	var r rows
	early := &queue{see: &watcher{eyes: eyes{Judge: auth.JudgeOf(c.Context())}}}
	end, err := c.leader.Watch(c.Context(), func(st *state.State, live leader.Live) {
		r.gone = map[state.AgentID]bool{}
		r.copy(st, live, Everything)
		early.see.users = maps.Clone(r.users) // before the first change
	}, early.change)
	defer end()
	if err != nil {
		h.send(w, c, media, nil, err)
		return
	}
	p, err := picture(&r, h.Machine, Everything)
	if err != nil {
		h.send(w, c, media, nil, err)
		return
	}
	p.For(early.see.Judge)
	first := &master.Event{Type: master.Event_SUBSCRIBED.Enum(), Subscribed: &master.Event_Subscribed{
		GetState: p.getState(), HeartbeatIntervalSeconds: proto.Float64(streams.AnnouncedHeartbeat.Seconds()),
	}}
	// What there is may be larger than what may wait: it has room of its own.
	s := streams.NewEvents(uuid.NewString(), encoding, proto.Size(first)+streams.DefaultMaxBytes, streams.NewEvent(&master.Event{Type: master.Event_HEARTBEAT.Enum()}))
	early.begin(s, streams.NewEvent(first))
	h.subscribers.add(s)
	defer h.subscribers.remove(s)
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-c.leader.Done(): // whoever leads then is another one
			s.Close(nil)
		case <-over:
		}
	}()
	if err := s.Serve(c.Context(), w); err != nil {
		h.Log.Info("stream of events ended", "stream", s.ID(), "principal", c.from.String(), "reason", err)
	}
}

// queue keeps what happens while the first event is being worded.
type queue struct {
	see    *watcher // asked by the leader only
	mu     sync.Mutex
	stream *streams.Stream // nil before the first event
	early  []*streams.Event
}

// change is called by the leader: it is worded once for all subscribers, and encoded by
// those who write it.
func (q *queue) change(c *leader.Change) {
	if c.Worded == nil {
		c.Worded = streams.NewEvent(wordChange(c))
	}
	e, ok := c.Worded.(*streams.Event)
	if !ok {
		return
	}
	if e = q.see.see(c, e); e == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stream == nil {
		q.early = append(q.early, e)
		return
	}
	q.stream.Send(e)
}

func (q *queue) begin(s *streams.Stream, first *streams.Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s.Send(first)
	for _, e := range q.early {
		s.Send(e)
	}
	q.stream, q.early = s, nil
}

// wordChange words a change. Records that cannot be read are told by their ids alone.
func wordChange(c *leader.Change) *master.Event {
	e := &master.Event{}
	switch c.Kind {
	case leader.TaskAdded:
		t, err := wordTask(&c.Task)
		if err != nil {
			t = &mesosv1.Task{TaskId: &mesosv1.TaskID{Value: proto.String(string(c.Task.TaskID))}}
		}
		e.Type, e.TaskAdded = master.Event_TASK_ADDED.Enum(), &master.Event_TaskAdded{Task: t}
	case leader.TaskUpdated:
		e.Type, e.TaskUpdated = master.Event_TASK_UPDATED.Enum(), &master.Event_TaskUpdated{
			FrameworkId: &mesosv1.FrameworkID{Value: proto.String(string(c.Task.FrameworkID))},
			Status:      wordStatus(&c.Task, c.Status), State: mesosv1.TaskState(c.Status.State).Enum(),
		}
	case leader.AgentAdded:
		p := &Picture{}
		if err := p.addAgent(&agentRow{Agent: c.Agent}, c.Live); err != nil || len(p.Agents) == 0 {
			p.Agents = []*master.Response_GetAgents_Agent{{AgentInfo: &mesosv1.AgentInfo{Id: agentID(c.AgentID)}}}
		}
		e.Type, e.AgentAdded = master.Event_AGENT_ADDED.Enum(), &master.Event_AgentAdded{Agent: p.Agents[0]}
	case leader.AgentRemoved:
		e.Type, e.AgentRemoved = master.Event_AGENT_REMOVED.Enum(), &master.Event_AgentRemoved{AgentId: agentID(c.AgentID)}
	case leader.FrameworkAdded, leader.FrameworkUpdated, leader.FrameworkRemoved:
		f, err := wordFramework(&frameworkRow{Framework: c.Framework}, c.Live)
		if err != nil {
			f = &master.Response_GetFrameworks_Framework{FrameworkInfo: &mesosv1.FrameworkInfo{Id: &mesosv1.FrameworkID{Value: proto.String(string(c.Framework.ID))}}}
		}
		switch c.Kind {
		case leader.FrameworkAdded:
			e.Type, e.FrameworkAdded = master.Event_FRAMEWORK_ADDED.Enum(), &master.Event_FrameworkAdded{Framework: f}
		case leader.FrameworkUpdated:
			e.Type, e.FrameworkUpdated = master.Event_FRAMEWORK_UPDATED.Enum(), &master.Event_FrameworkUpdated{Framework: f}
		default:
			e.Type, e.FrameworkRemoved = master.Event_FRAMEWORK_REMOVED.Enum(), &master.Event_FrameworkRemoved{FrameworkInfo: f.GetFrameworkInfo()}
		}
	}
	return e
}

func agentID(id state.AgentID) *mesosv1.AgentID {
	return &mesosv1.AgentID{Value: proto.String(string(id))}
}
