package faces

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/mesolith/mesolith/api/mesos/v1/agent"
	"github.com/mesolith/mesolith/clusterd/auth"
)

func call(t *testing.T, url, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// The agent's operator API, in JSON and once in protobuf, under all of its paths.
func TestAgentAPI(t *testing.T) {
	srv := agentServer(t, open)
	const js = "application/json"
	for body, want := range map[string]map[string]any{
		`{"type":"GET_HEALTH"}`:  {"type": "GET_HEALTH", "get_health.healthy": true},
		`{"type":"GET_VERSION"}`: {"get_version.version_info.version": "1.11.0"},
		`{"type":"GET_FLAGS"}`:   {"get_flags.flags.0.name": "work_dir", "get_flags.flags.0.value": "/var/lib/mesos"},
		`{"type":"GET_AGENT"}`:   {"get_agent.agent_info.id.value": "S0", "get_agent.agent_info.hostname": "a1"},
		`{"type":"GET_TASKS"}`: {
			"get_tasks.launched_tasks.0.task_id.value": "t-1", "get_tasks.launched_tasks.0.state": "TASK_RUNNING", "get_tasks.launched_tasks.1": nil,
			"get_tasks.completed_tasks.0.task_id.value": "t-2", "get_tasks.completed_tasks.0.agent_id.value": "S0",
		},
		`{"type":"GET_FRAMEWORKS"}`: {"get_frameworks.frameworks.0.framework_info.id.value": "f-1", "get_frameworks.frameworks.1": nil},
		`{"type":"GET_EXECUTORS"}`: {
			"get_executors.executors.0.executor_info.executor_id.value": "t-1", "get_executors.completed_executors.0.executor_info.executor_id.value": "t-2",
		},
		`{"type":"GET_CONTAINERS","get_containers":{}}`: {
			"get_containers.containers.0.container_id.value": "c-t-1", "get_containers.containers.0.executor_id.value": "t-1",
			"get_containers.containers.0.framework_id.value": "f-1", "get_containers.containers.1": nil,
		},
		`{"type":"GET_OPERATIONS"}`:         {"get_operations.operations": nil},
		`{"type":"GET_RESOURCE_PROVIDERS"}`: {"get_resource_providers.resource_providers": nil},
		`{"type":"GET_STATE"}`:              {"get_state.get_tasks.launched_tasks.0.task_id.value": "t-1", "get_state.get_frameworks.frameworks.0.framework_info.name": "shown"},
	} {
		for _, path := range []string{"/api/v1", "/slave(1)/api/v1", "/api/v1/operator"} {
			status, h, text := call(t, srv.URL+path, body, "Content-Type", js)
			if status != 200 || h.Get("Content-Type") != js {
				t.Fatalf("%s: %d %s", body, status, text)
			}
			check(t, body, text, want)
		}
	}
	_, _, text := call(t, srv.URL+"/api/v1", `{"type":"GET_METRICS","get_metrics":{"timeout":{"nanoseconds":5000000000}}}`, "Content-Type", js)
	if !strings.Contains(text, `{"name":"slave/tasks_running","value":1.0}`) {
		t.Error(text)
	}
	raw, err := proto.Marshal(&agentv1.Call{Type: agentv1.Call_GET_TASKS.Enum()})
	if err != nil {
		t.Fatal(err)
	}
	const pb = "application/x-protobuf"
	_, h, text := call(t, srv.URL+"/api/v1", string(raw), "Content-Type", pb, "Accept", pb)
	resp := &agentv1.Response{}
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal([]byte(text), resp); err != nil || h.Get("Content-Type") != pb || len(resp.GetGetTasks().GetLaunchedTasks()) != 1 {
		t.Errorf("%v %v %v", err, h, resp)
	}
	for _, bad := range []struct {
		body   string
		header []string
		want   int
	}{
		{`{}`, []string{"Content-Type", js}, 400},
		{`{`, []string{"Content-Type", js}, 400},
		{`{"type":"GET_TASKS"}`, nil, 400},
		{`{"type":"GET_TASKS"}`, []string{"Content-Type", "text/plain"}, 415},
		{`{"type":"GET_TASKS"}`, []string{"Content-Type", js, "Accept", "text/html"}, 406},
		{`{"type":"GET_METRICS"}`, []string{"Content-Type", js}, 400},
		{`{"type":"PRUNE_IMAGES"}`, []string{"Content-Type", js}, 501},
	} {
		if status, _, text := call(t, srv.URL+"/api/v1", bad.body, bad.header...); status != bad.want {
			t.Errorf("%s %v: %d %s, want %d", bad.body, bad.header, status, text, bad.want)
		}
	}
	closed := agentServer(t, auth.Policy{Plaintext: true})
	if status, h, _ := call(t, closed.URL+"/api/v1", `{"type":"GET_TASKS"}`, "Content-Type", js); status != 401 || !strings.Contains(h.Get("WWW-Authenticate"), "mesos-agent-readonly") {
		t.Errorf("closed: %d %v", status, h)
	}
}
