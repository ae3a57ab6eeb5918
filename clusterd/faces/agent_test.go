package faces

import (
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
	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/files"
	"github.com/mesolith/mesolith/clusterd/leader"
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
		Auth: a, View: view, Files: files.Config{Latest: Latest(view, "/w"), Log: log}, Version: &mesosv1.VersionInfo{Version: proto.String("1.11.0")},
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

// What a hostile client sends costs it a 4xx, and nobody else anything.
func TestHostileBodies(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	for _, via := range []string{"m1", "a1"} {
		for name, k := range map[string]struct {
			body   string
			status int
		}{
			"too long": {`{"type":"REVIVE","x":"` + strings.Repeat("x", 5<<20) + `"}`, 413},
			"deep":     {strings.Repeat(`{"a":`, 500_000), 400},
			"wide":     {`{"a":[` + strings.Repeat("{},", 1_000_000) + `{}]}`, 400},
		} {
			status, _, text := c.post(via, "/api/v1/scheduler", k.body, "Content-Type", "application/json")
			if status != k.status {
				t.Errorf("%s via %s: %d %.200s", name, via, status, text)
			}
		}
		if status, _, _ := c.post(via, "/health", ""); status != 200 {
			t.Errorf("health via %s: %d", via, status)
		}
	}
}
