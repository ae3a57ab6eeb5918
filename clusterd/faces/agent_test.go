package faces

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/files"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/operator"
	"github.com/mesolith/mesolith/clusterd/state"
)

func agentServer(t *testing.T, policy auth.Policy) *httptest.Server {
	t.Helper()
	a := auth.New(time.Now)
	if err := a.Set(policy); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	task := func(id string, s mesosv1.TaskState, terminal bool) agent.TaskView {
		return agent.TaskView{
			ContainerID: "c-" + id, FrameworkID: "f-1", Role: "dev", State: s, Terminal: terminal, Sandbox: "/w/slaves/S0/" + id,
			Framework: &mesosv1.FrameworkInfo{Name: proto.String("shown"), User: proto.String("nobody"), FailoverTimeout: proto.Float64(60)},
			Info: &mesosv1.TaskInfo{
				Name: proto.String(id), TaskId: &mesosv1.TaskID{Value: proto.String(id)}, AgentId: &mesosv1.AgentID{Value: proto.String("S0")},
				Resources: leader.ToWire(state.Resources{{Name: state.CPUs, Milli: 500}}, "dev"),
			},
		}
	}
	view := func(context.Context) (agent.View, error) {
		return agent.View{
			ID: "S0", Attached: true, Leader: "m1", Started: time.Unix(1000, 0),
			Info: &mesosv1.AgentInfo{
				Hostname: proto.String("a1"), Port: proto.Int32(5051), Resources: leader.ToWire(state.Resources{{Name: state.CPUs, Milli: 4000}}, ""),
			},
			Tasks: []agent.TaskView{task("t-1", mesosv1.TaskState_TASK_RUNNING, false), task("t-2", mesosv1.TaskState_TASK_FINISHED, true)},
		}, nil
	}
	srv := httptest.NewServer(NewAgentMux(AgentConfig{
		Auth: a, View: view, Files: files.Config{Sandbox: newShelf(t), Latest: Latest(view, "/w"), Owner: Owner(view), Log: log}, Logging: operator.NewLogging(new(slog.LevelVar)), Version: &mesosv1.VersionInfo{Version: proto.String("1.11.0")},
		Address: "10.0.0.2:5051", WorkDir: "/var/lib/mesos", Started: time.Now(), Log: log,
	}))
	t.Cleanup(srv.Close)
	return srv
}

func fetch(t *testing.T, url string) (int, http.Header, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

func TestAgent(t *testing.T) {
	srv := agentServer(t, open)
	for _, path := range []string{"/state", "/slave(1)/state", "/slave%281%29/state", "/state.json"} {
		status, _, text := fetch(t, srv.URL+path)
		if status != 200 {
			t.Fatalf("%s: %d %s", path, status, text)
		}
		check(t, path, text, map[string]any{
			"id": "S0", "pid": "slave(1)@10.0.0.2:5051", "flags.work_dir": "/var/lib/mesos", "version": "1.11.0", "start_time": 1000.0,
			"resources.cpus": 4.0, "frameworks.0.id": "f-1", "frameworks.0.executors.0.id": "t-1", "frameworks.0.executors.0.container": "c-t-1",
			"frameworks.0.executors.0.directory": "/w/slaves/S0/t-1", "frameworks.0.executors.0.tasks.0.state": "TASK_RUNNING",
			"frameworks.0.completed_executors.0.completed_tasks.0.id": "t-2",
		})
	}
	_, _, text := fetch(t, srv.URL+"/metrics/snapshot")
	check(t, "metrics", text, map[string]any{"slave/registered": 1.0, "slave/tasks_running": 1.0, "slave/tasks_finished": 1.0, "slave/cpus_percent": 0.125})
	if status, _, _ := fetch(t, srv.URL+"/redirect"); status != 404 {
		t.Errorf("/redirect on an agent: %d", status)
	}
}

func TestAgentClosed(t *testing.T) {
	srv := agentServer(t, auth.Policy{Plaintext: true})
	for path, want := range map[string]int{"/health": 200, "/version": 200, "/slave(1)/health": 200, "/state": 401, "/metrics/snapshot": 401, "/files/read?path=/x": 401} {
		status, h, _ := fetch(t, srv.URL+path)
		if status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
		if status == 401 && !strings.Contains(h.Get("WWW-Authenticate"), "mesos-agent-readonly") {
			t.Errorf("%s: %v", path, h)
		}
	}
}

// What a hostile or broken client sends costs it a 4xx and changes nothing: no command
// reaches the log, and everybody else is served.
func TestMalformedCallsChangeNothing(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	c.agent("a1")
	s := c.subscribe("m1", "bystander")
	offer := s.until(scheduler.Event_OFFERS).GetOffers().GetOffers()[0]
	c.raft.mu.Lock()
	before := c.raft.index
	c.raft.mu.Unlock()
	accept := func(tasks string) string {
		return `{"type":"ACCEPT","framework_id":{"value":"` + s.id + `"},"accept":{"offer_ids":[{"value":"` + offer.GetId().GetValue() + `"}],
			"operations":[{"type":"LAUNCH","launch":{"task_infos":[` + tasks + `]}}]}}`
	}
	nested := []byte("x")
	for range 20_000 { // unknown groups, one in the other
		nested = append(append([]byte{0xb3, 0x06}, nested...), 0xb4, 0x06)
	}
	wide := bytes.Repeat([]byte{0x2a, 0x04, 0x0a, 0x02, 0x0a, 0x00}, 500_000) // DECLINE with empty offer ids
	for name, k := range map[string]struct {
		body     string
		protobuf bool
		status   int
	}{
		"empty":                          {"", false, 400},
		"no JSON":                        {"SUBSCRIBE", false, 400},
		"half of a call":                 {accept("")[:60], false, 400},
		"a list":                         {"[]", false, 400},
		"two calls in one body":          {`{"type":"REVIVE"}{"type":"REVIVE"}`, false, 400},
		"text for a message":             {`{"type":"KILL","framework_id":"` + s.id + `","kill":{}}`, false, 400},
		"number out of range":            {accept(`{"name":"t","task_id":{"value":"t"},"agent_id":{"value":"a"},"resources":[{"name":"p","type":"RANGES","ranges":{"range":[{"begin":-1,"end":1}]}}]}`), false, 400},
		"no base64":                      {`{"type":"ACKNOWLEDGE","framework_id":{"value":"` + s.id + `"},"acknowledge":{"agent_id":{"value":"a"},"task_id":{"value":"t"},"uuid":"%%%"}}`, false, 400},
		"a task without an id":           {accept(`{"name":"t","agent_id":{"value":"a"}}`), false, 400},
		"a task without a name":          {accept(`{"task_id":{"value":"t"},"agent_id":{"value":"a"}}`), false, 400},
		"a framework without a name":     {`{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"u"}}}`, false, 400},
		"an unknown type":                {`{"type":"EXPLODE","framework_id":{"value":"` + s.id + `"}}`, false, 400},
		"not UTF-8":                      {"{\"type\":\"\xff\"}", false, 400},
		"too long":                       {`{"type":"REVIVE","x":"` + strings.Repeat("x", 5<<20) + `"}`, false, 413},
		"deep":                           {strings.Repeat(`{"a":`, 500_000), false, 400},
		"wide":                           {`{"a":[` + strings.Repeat("{},", 1_000_000) + `{}]}`, false, 400},
		"protobuf, cut off":              {"\x0a\x7f", true, 400},
		"protobuf, a required field out": {"\x10\x03\x0a\x03\x0a\x01f\x2a\x02\x0a\x00", true, 400},
		"protobuf, nested without end":   {string(nested), true, 400},
		"protobuf, wide":                 {string(wide), true, 400},
		"protobuf, too long":             {strings.Repeat("\x00", 5<<20), true, 413},
		"JSON said to be protobuf":       {`{"type":"REVIVE"}`, true, 400},
	} {
		for _, via := range []string{"m1", "a1"} {
			media := "application/json"
			if k.protobuf {
				media = "application/x-protobuf"
			}
			for _, path := range []string{"/api/v1/scheduler", "/api/v1"} {
				if path == "/api/v1" && strings.Contains(k.body, `"SUBSCRIBE"`) {
					continue // there it is a call of its own, which needs nothing
				}
				status, _, text := c.post(via, path, k.body, "Content-Type", media, "Mesos-Stream-Id", s.stream)
				if status != k.status && path == "/api/v1/scheduler" || status < 400 {
					t.Errorf("%s at %s via %s: %d %.200s, want %d", name, path, via, status, text, k.status)
				}
				if text == "" {
					t.Errorf("%s at %s via %s: no word why", name, path, via)
				}
			}
		}
	}
	c.raft.mu.Lock()
	after := c.raft.index
	c.raft.mu.Unlock()
	if after != before {
		t.Errorf("%d commands were committed", after-before)
	}
	good := accept(`{"name":"t","task_id":{"value":"t"},"agent_id":{"value":"` + offer.GetAgentId().GetValue() + `"},"command":{"value":"true"},"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":1}}]}`)
	if status, _, text := c.post("a1", "/api/v1/scheduler", good, "Content-Type", "application/json", "Mesos-Stream-Id", s.stream); status != 202 {
		t.Errorf("the bystander's call after that: %d %s", status, text)
	}
	if _, ok := c.task(s.id, "t"); !ok {
		t.Error("the bystander's offer did not last")
	}
}

func (c *cluster) task(framework, id string) (t state.Task, ok bool) {
	c.machine.View(func(s *state.State) {
		if p, found := s.TaskOf(state.FrameworkID(framework), state.TaskID(id)); found {
			t, ok = *p, true
		}
	})
	return t, ok
}
