package faces

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/state"
)

// watched is a stream of the operator's events.
type watched struct {
	t    *testing.T
	next chan *master.Event // closed when the stream ends
	seen []string
}

func (c *cluster) watch(via, media string) *watched {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	c.t.Cleanup(cancel)
	body := `{"type":"SUBSCRIBE"}`
	if media != "application/json" {
		raw, err := proto.Marshal(&master.Call{Type: master.Call_SUBSCRIBE.Enum()})
		if err != nil {
			c.t.Fatal(err)
		}
		body = string(raw)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.nodes[via].api.URL+"/api/v1", strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", media)
	req.Header.Set("Accept", media)
	resp, err := client.RoundTrip(req)
	if err != nil {
		c.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != media {
		c.t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	w := &watched{t: c.t, next: make(chan *master.Event, 100)}
	go func() {
		defer close(w.next)
		defer resp.Body.Close()
		records := recordio.NewReader(resp.Body, 16<<20)
		for {
			raw, err := records.Next()
			if err != nil {
				return
			}
			e := &master.Event{}
			if media == "application/json" {
				err = mesosjson.Unmarshal(raw, e)
			} else {
				err = proto.Unmarshal(raw, e)
			}
			if err != nil {
				return
			}
			w.next <- e
		}
	}()
	return w
}

// until waits for an event, and fails if one of another kind comes that is not passed over.
func (w *watched) until(want master.Event_Type) *master.Event {
	w.t.Helper()
	for {
		select {
		case e, ok := <-w.next:
			switch {
			case !ok:
				w.t.Fatalf("the stream ended before %s; seen %v", want, w.seen)
			case e.GetType() == want:
				w.seen = append(w.seen, want.String())
				return e
			case e.GetType() == master.Event_HEARTBEAT:
			default:
				w.t.Fatalf("%s came, want %s", protojson.Format(e), want)
			}
		case <-time.After(30 * time.Second):
			w.t.Fatalf("no %s came; seen %v", want, w.seen)
		}
	}
}

// A subscriber sees what there is, and then what changes, in order and in either encoding,
// at the leader and at a node that forwards; the stream ends with the term.
func TestEvents(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	c.runs = true
	c.agent("a1")
	old := c.subscribe("m1", "there before")
	old.until(scheduler.Event_OFFERS)
	streams := []*watched{c.watch("m1", "application/json"), c.watch("a1", "application/x-protobuf")}
	each := func(want master.Event_Type, check func(*master.Event) bool) {
		t.Helper()
		for i, w := range streams {
			if e := w.until(want); !check(e) {
				t.Errorf("stream %d: %s", i, protojson.Format(e))
			}
		}
	}
	each(master.Event_SUBSCRIBED, func(e *master.Event) bool {
		s := e.GetSubscribed()
		return s.GetHeartbeatIntervalSeconds() == 15 && len(s.GetGetState().GetGetAgents().GetAgents()) == 1 &&
			s.GetGetState().GetGetFrameworks().GetFrameworks()[0].GetFrameworkInfo().GetName() == "there before"
	})
	for _, w := range streams {
		if e := <-w.next; e.GetType() != master.Event_HEARTBEAT {
			t.Errorf("after SUBSCRIBED comes %s", e.GetType())
		}
	}
	if status, _, _ := c.post("m1", "/api/v1/scheduler", `{"framework_id":{"value":"`+old.id+`"},"type":"TEARDOWN"}`, "Content-Type", "application/json", "Mesos-Stream-Id", old.stream); status != 202 {
		t.Fatal(status)
	}
	each(master.Event_FRAMEWORK_REMOVED, func(e *master.Event) bool {
		return e.GetFrameworkRemoved().GetFrameworkInfo().GetId().GetValue() == old.id
	})
	s := c.subscribe("m1", "new")
	each(master.Event_FRAMEWORK_ADDED, func(e *master.Event) bool {
		f := e.GetFrameworkAdded().GetFramework()
		return f.GetFrameworkInfo().GetName() == "new" && f.GetConnected()
	})
	if status, _, text := c.post("a1", "/api/v1/scheduler", `{"framework_id":{"value":"`+s.id+`"},"type":"UPDATE_FRAMEWORK","update_framework":{"framework_info":{"id":{"value":"`+s.id+`"},"user":"nobody","name":"renamed","failover_timeout":60}}}`,
		"Content-Type", "application/json", "Mesos-Stream-Id", s.stream); status != 200 {
		t.Fatal(text)
	}
	each(master.Event_FRAMEWORK_UPDATED, func(e *master.Event) bool {
		return e.GetFrameworkUpdated().GetFramework().GetFrameworkInfo().GetName() == "renamed"
	})
	offer := s.until(scheduler.Event_OFFERS).GetOffers().GetOffers()[0]
	launch := `{"type":"ACCEPT","framework_id":{"value":"` + s.id + `"},"accept":{"offer_ids":[{"value":"` + offer.GetId().GetValue() + `"}],
		"operations":[{"type":"LAUNCH","launch":{"task_infos":[{"name":"t","task_id":{"value":"t-1"},"agent_id":{"value":"` + offer.GetAgentId().GetValue() + `"},
		"command":{"value":"true"},"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1}},{"name":"mem","type":"SCALAR","scalar":{"value":32}}]}]}}]}}`
	if status, _, text := c.post("m1", "/api/v1/scheduler", launch, "Content-Type", "application/json", "Mesos-Stream-Id", s.stream); status != 202 {
		t.Fatal(text)
	}
	each(master.Event_TASK_ADDED, func(e *master.Event) bool {
		task := e.GetTaskAdded().GetTask()
		return task.GetTaskId().GetValue() == "t-1" && task.GetState().String() == "TASK_STAGING" && task.GetFrameworkId().GetValue() == s.id
	})
	each(master.Event_TASK_UPDATED, func(e *master.Event) bool {
		u := e.GetTaskUpdated()
		return u.GetState().String() == "TASK_RUNNING" && u.GetStatus().GetTaskId().GetValue() == "t-1" && u.GetFrameworkId().GetValue() == s.id
	})
	id := offer.GetAgentId().GetValue()
	if err := c.leader().MarkAgentGone(t.Context(), state.AgentID(id)); err != nil {
		t.Fatal(err)
	}
	each(master.Event_TASK_UPDATED, func(e *master.Event) bool {
		return e.GetTaskUpdated().GetState().String() == "TASK_GONE_BY_OPERATOR" && e.GetTaskUpdated().GetStatus().GetTaskId().GetValue() == "t-1"
	})
	each(master.Event_AGENT_REMOVED, func(e *master.Event) bool { return e.GetAgentRemoved().GetAgentId().GetValue() == id })
	c.agent("n7")
	each(master.Event_AGENT_ADDED, func(e *master.Event) bool {
		return e.GetAgentAdded().GetAgent().GetAgentInfo().GetHostname() == "n7" && e.GetAgentAdded().GetAgent().GetActive()
	})
	s.cancel() // its stream is lost
	each(master.Event_FRAMEWORK_UPDATED, func(e *master.Event) bool {
		return !e.GetFrameworkUpdated().GetFramework().GetConnected()
	})
	c.end()
	for i, w := range streams {
		for e := range w.next {
			if k := e.GetType(); k != master.Event_HEARTBEAT {
				t.Errorf("stream %d: after the end: %s", i, k)
			}
		}
	}
	c.lead()
}
