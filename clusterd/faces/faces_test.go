package faces

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/calls"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// The order of checks, asked of the leader and of a node that forwards: a client cannot
// tell them apart.
func TestCheckOrder(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	sub := c.subscribe("m1", "one")
	const js = "application/json"
	call := func(kind string) string {
		return `{"type":"` + kind + `","framework_id":{"value":"` + sub.id + `"}}`
	}
	for _, k := range []struct {
		name, method, body string
		header             []string
		status             int
		text               string
	}{
		{"method", "GET", "", nil, 405, "Expecting one of { 'POST' }"},
		{"method before media type", "PUT", "x", nil, 405, ""},
		{"no media type", "POST", "x", nil, 400, "Expecting 'Content-Type' to be present"},
		{"media type", "POST", "x", []string{"Content-Type", "text/plain"}, 415, "Expecting 'Content-Type' of"},
		{"media type is exact", "POST", call("REVIVE"), []string{"Content-Type", js + "; charset=utf-8"}, 415, ""},
		{"unparsable", "POST", "{", []string{"Content-Type", js}, 400, "Failed to parse body into scheduler::Call"},
		{"unparsable protobuf", "POST", "\xff\xff", []string{"Content-Type", "application/x-protobuf"}, 400, "Failed to parse body"},
		{"no type", "POST", "{}", []string{"Content-Type", js}, 400, "Failed to validate scheduler::Call: Expecting 'type' to be present"},
		{"no sub-message", "POST", call("ACCEPT"), []string{"Content-Type", js}, 400, "Expecting 'accept' to be present"},
		{"no framework id", "POST", `{"type":"REVIVE"}`, []string{"Content-Type", js}, 400, "Expecting 'framework_id' to be present"},
		{
			"bad uuid", "POST", `{"type":"ACKNOWLEDGE","framework_id":{"value":"x"},"acknowledge":{"agent_id":{"value":"a"},"task_id":{"value":"t"},"uuid":"AAAA"}}`,
			[]string{"Content-Type", js},
			400, "16 bytes",
		},
		{
			"ids differ", "POST", `{"type":"SUBSCRIBE","framework_id":{"value":"x"},"subscribe":{"framework_info":{"user":"u","name":"n","id":{"value":"y"}}}}`,
			[]string{"Content-Type", js},
			400, "'framework_id' differs",
		},
		{
			"accept", "POST", `{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"u","name":"n"}}}`,
			[]string{"Content-Type", js, "Accept", "text/html"},
			406, "",
		},
		{
			"subscribe with a stream id", "POST", `{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"u","name":"n"}}}`,
			[]string{"Content-Type", js, "Mesos-Stream-Id", "x"},
			400, "Subscribe calls should not include the 'Mesos-Stream-Id' header",
		},
		{"unknown framework", "POST", `{"type":"REVIVE","framework_id":{"value":"nobody"}}`, []string{"Content-Type", js}, 400, "Framework cannot be found"},
		{"no stream id", "POST", call("REVIVE"), []string{"Content-Type", js}, 400, "All non-subscribe calls should include the 'Mesos-Stream-Id' header"},
		{
			"wrong stream id", "POST", call("REVIVE"),
			[]string{"Content-Type", js, "Mesos-Stream-Id", "x"},
			400,
			"The stream ID 'x' included in this request didn't match the stream ID currently associated with framework ID '" + sub.id + "'",
		},
		{
			"not known", "POST", call("UNKNOWN"),
			[]string{"Content-Type", js},
			501, "not known",
		},
		{"fine", "POST", call("REVIVE"), []string{"Content-Type", js, "Mesos-Stream-Id", sub.stream}, 202, ""},
		{
			"unknown offers are fine", "POST", `{"type":"DECLINE","Filters":{},"framework_id":{"value":"` + sub.id + `"},"decline":{"offer_ids":[{"value":"o"},{"value":"o"}]}}`,
			[]string{"Content-Type", js, "Mesos-Stream-Id", sub.stream},
			202, "",
		},
	} {
		for _, via := range []string{"m1", "a1"} {
			t.Run(k.name+"/"+via, func(t *testing.T) {
				status, h, text := c.request(k.method, via, "/api/v1/scheduler", k.body, k.header...)
				if status != k.status || !strings.Contains(text, k.text) {
					t.Errorf("%d %q, want %d %q", status, text, k.status, k.text)
				}
				if status == 202 && (text != "" || h.Get("Content-Type") != "") {
					t.Errorf("202 with body %q, type %q", text, h.Get("Content-Type"))
				}
				if status == 405 && h.Get("Allow") != "POST" {
					t.Errorf("Allow: %q", h.Get("Allow"))
				}
			})
		}
	}
}

func TestSubscribe(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	c.agent("a1")
	for _, via := range []string{"m1", "a1"} {
		s := c.subscribe(via, "framework-"+via)
		if s.stream == "" || len(s.stream) > 128 || s.resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("headers %v", s.resp.Header)
		}
		if len(s.resp.TransferEncoding) != 1 || s.resp.TransferEncoding[0] != "chunked" || s.resp.ContentLength != -1 {
			t.Errorf("%v, length %d", s.resp.TransferEncoding, s.resp.ContentLength)
		}
		s.until(scheduler.Event_HEARTBEAT)
		o := s.until(scheduler.Event_OFFERS).GetOffers().GetOffers()[0]
		if o.GetHostname() != "a1" || o.GetUrl().GetPath() != "/slave(1)" {
			t.Errorf("offer %v", o)
		}
		status, _, text := c.post(via, "/api/v1/scheduler", `{"type":"TEARDOWN","framework_id":{"value":"`+s.id+`"}}`,
			"Content-Type", "application/json", "Mesos-Stream-Id", s.stream)
		if status != 202 {
			t.Fatalf("teardown: %d %s", status, text)
		}
		for { // the stream ends with its last chunk, not with an abort
			if _, err := s.r.Next(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What is wrong with a subscription itself is 200 with one ERROR.
func TestSubscribeRefused(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	for _, via := range []string{"m1", "a1"} {
		status, _, text := c.post(via, "/api/v1/scheduler",
			`{"type":"SUBSCRIBE","subscribe":{"framework_info":{"user":"u","name":"n","roles":["a"]}}}`, "Content-Type", "application/json")
		if status != 200 || !strings.Contains(text, `{"type":"ERROR","error":{"message":"`) {
			t.Errorf("%d %q", status, text)
		}
	}
}

// When a framework closes its connection to the node that forwards, the leader learns
// that it was the framework, and starts its own failover timeout (60 s) at once.
func TestCallerLeft(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	for _, via := range []string{"m1", "a1"} {
		s := c.subscribe(via, "leaves-"+via)
		s.cancel()
		var f state.Framework
		eventually(t, "the framework is disconnected", func() bool {
			c.machine.View(func(st *state.State) {
				if p, ok := st.Framework(state.FrameworkID(s.id)); ok {
					f = *p
				}
			})
			return f.ID != "" && !f.Connected
		})
		if f.Remaining != int64(60*time.Second) {
			t.Errorf("via %s: remaining %v", via, time.Duration(f.Remaining))
		}
	}
}

// eventually waits for a state that other goroutines bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.After(10 * time.Second)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-limit:
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// A forwarded stream ends with the leader's term, by its last chunk.
func TestTermOver(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	s := c.subscribe("a1", "x")
	c.nodes["a1"].board.Post(calls.Standing{Leader: "m2", Term: 99})
	for {
		if _, err := s.r.Next(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestNoLeader(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	board := c.nodes["a1"].board
	board.Post(calls.Standing{})
	status, _, text := c.post("a1", "/state", "")
	if status != 503 || text != "No leader elected" {
		t.Errorf("%d %s", status, text)
	}
	if status, _, _ := c.post("a1", "/redirect", ""); status != 503 {
		t.Errorf("redirect: %d", status)
	}
	// A subscription waits for the election.
	got := make(chan *subscription, 1)
	go func() { got <- c.subscribe("a1", "patient") }()
	select {
	case <-got:
		t.Fatal("answered without a leader")
	case <-time.After(50 * time.Millisecond):
	}
	board.Post(calls.Standing{Leader: "m1", Address: "10.0.0.1:5050", Height: 1, Term: c.term, Ready: true})
	if s := <-got; s.id == "" {
		t.Error("no framework id")
	}
	// One hop only: m1 no longer leads, a1 does not know yet.
	c.nodes["m1"].board.Post(calls.Standing{Leader: "a1", Term: 50})
	if status, _, text := c.post("a1", "/state", ""); status != 503 || text != "No leader elected" {
		t.Errorf("second hop: %d %s", status, text)
	}
	board.Post(calls.Standing{Leader: "nowhere", Term: 51})
	if status, _, text := c.post("a1", "/state", ""); status != 503 || !strings.Contains(text, "Leader nowhere did not answer") {
		t.Errorf("leader away: %d %s", status, text)
	}
	// A subscription that reached nobody waits for the next leader, too.
	go func() { got <- c.subscribe("a1", "patient still") }()
	select {
	case <-got:
		t.Fatal("answered without a leader")
	case <-time.After(50 * time.Millisecond):
	}
	c.nodes["m1"].board.Post(calls.Standing{Leader: "m1", Here: true, Ready: true})
	board.Post(calls.Standing{Leader: "m1", Address: "10.0.0.1:5050", Height: 1, Term: c.term, Ready: true})
	if s := <-got; s.id == "" {
		t.Error("no framework id")
	}
	c.nodes["m1"].board.Post(calls.Standing{Leader: "m1", Here: true})
	if status, _, text := c.post("m1", "/state", ""); status != 503 || text != "Master has not finished recovery" {
		t.Errorf("recovering: %d %s", status, text)
	}
}

// The node that led is back, as a follower, before others know who leads now: it does not
// hold what they bring.
func TestSubscriptionIsNotHeldByWhoLedBefore(t *testing.T) {
	c := newCluster(t, open, "m1", "m0", "a1")
	c.nodes["m0"].board.Post(calls.Standing{Term: 1})
	c.nodes["a1"].board.Post(calls.Standing{Leader: "m0", Height: 1, Term: 1})
	got := make(chan *subscription, 1)
	go func() { got <- c.subscribe("a1", "x") }()
	select {
	case <-got:
		t.Fatal("answered without a leader")
	case <-time.After(50 * time.Millisecond):
	}
	c.nodes["a1"].board.Post(calls.Standing{Leader: "m1", Address: "10.0.0.1:5050", Height: 1, Term: c.term, Ready: true})
	if s := <-got; s.id == "" {
		t.Error("no framework id")
	}
}

func TestRedirect(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	for _, k := range []struct{ path, want string }{{"/redirect", "//10.0.0.1:5050"}, {"/master/redirect", "//10.0.0.1:5050"}} {
		status, h, _ := c.request("GET", "a1", k.path, "")
		if status != 307 || h.Get("Location") != k.want {
			t.Errorf("%s: %d %s", k.path, status, h.Get("Location"))
		}
	}
	if status, _, _ := c.request("GET", "a1", "/redirect/x", ""); status != 404 {
		t.Errorf("/redirect/x: %d", status)
	}
	status, h, _ := c.request("GET", "a1", "/master/state?a=b", "", "Mesolith-Redirect", "1")
	if status != 307 || h.Get("Location") != "//10.0.0.1:5050/master/state?a=b" {
		t.Errorf("asked for: %d %s", status, h.Get("Location"))
	}
}

// Every endpoint but the open ones is closed by default, on the leader and elsewhere.
func TestClosed(t *testing.T) {
	hash, err := nodedoc.HashSecret("secret")
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, auth.Policy{Plaintext: true, Anonymous: nodedoc.AnonymousNone, Credentials: nodedoc.APICredentials{
		{Principal: "f", SecretHash: hash, Role: nodedoc.RoleFramework},
		{Principal: "r", SecretHash: hash, Role: nodedoc.RoleReader},
	}}, "m1", "a1")
	for _, via := range []string{"m1", "a1"} {
		for _, path := range []string{"/health", "/version", "/redirect", "/master/health", "/master/version"} {
			if status, _, _ := c.request("GET", via, path, ""); status >= 400 {
				t.Errorf("%s on %s is not open: %d", path, via, status)
			}
		}
		for path, realm := range map[string]string{
			"/state": "mesos-master-readonly", "/master/state.json": "mesos-master-readonly", "/slaves": "mesos-master-readonly",
			"/frameworks": "mesos-master-readonly", "/tasks": "mesos-master-readonly", "/metrics/snapshot": "mesos-master-readonly",
			"/files/read": "mesos-master-readonly", "/files/browse": "mesos-master-readonly", "/files/download": "mesos-master-readonly",
			"/roles": "mesos-master-readonly", "/flags": "mesos-master-readonly", "/weights": "mesos-master-readonly", "/quota": "mesos-master-readonly", "/state-summary": "mesos-master-readonly", "/teardown": "mesos-master-readwrite",
			"/api/v1": "mesos-master-readonly", "/api/v1/operator": "mesos-master-readonly", "/api/v1/scheduler": "mesos-master-scheduler",
		} {
			status, h, _ := c.post(via, path, "")
			if status != 401 || h.Get("WWW-Authenticate") != `Basic realm="`+realm+`"` {
				t.Errorf("%s on %s: %d %q", path, via, status, h.Get("WWW-Authenticate"))
			}
		}
		req := `{"type":"GET_AGENTS"}`
		basic := func(user, secret string) int {
			r, err := http.NewRequest(http.MethodPost, c.nodes[via].api.URL+"/api/v1", strings.NewReader(req))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			r.SetBasicAuth(user, secret)
			resp, err := client.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			return resp.StatusCode
		}
		if a, b, d := basic("r", "secret"), basic("f", "secret"), basic("r", "wrong"); a != 200 || b != 200 || d != 401 {
			t.Errorf("via %s: reader %d, framework %d, wrong %d", via, a, b, d)
		}
	}
}

func TestShapes(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	c.agent("a1")
	s := c.subscribe("m1", "shown")
	offer := s.until(scheduler.Event_OFFERS).GetOffers().GetOffers()[0]
	launch := `{"type":"ACCEPT","framework_id":{"value":"` + s.id + `"},"accept":{"offer_ids":[{"value":"` + offer.GetId().GetValue() + `"}],
		"operations":[{"type":"LAUNCH","launch":{"task_infos":[{"name":"t","task_id":{"value":"t-1"},"agent_id":{"value":"` + offer.GetAgentId().GetValue() + `"},
		"command":{"value":"true"},"labels":{"labels":[{"key":"k","value":"v"}]},
		"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1}},{"name":"mem","type":"SCALAR","scalar":{"value":32}},
		{"name":"ports","type":"RANGES","ranges":{"range":[{"begin":31000,"end":31001}]}}]}]}}]}}`
	if status, _, text := c.post("m1", "/api/v1/scheduler", launch, "Content-Type", "application/json", "Mesos-Stream-Id", s.stream); status != 202 {
		t.Fatalf("accept: %d %s", status, text)
	}
	for _, k := range []struct {
		path string
		want map[string]any // path of a value → the value
	}{
		{"/state", map[string]any{
			"version": "1.11.0", "pid": "master@10.0.0.1:5050", "leader": "master@10.0.0.1:5050", "activated_slaves": 1.0, "cluster": "test",
			"slaves.0.pid": "slave(1)@10.0.0.2:5051", "slaves.0.attributes.rack": "r1", "slaves.0.resources.ports": "[31000-32000]",
			"slaves.0.used_resources.cpus": 0.1, "slaves.0.used_resources.ports": "[31000-31001]", "slaves.0.resources.gpus": 0.0,
			"frameworks.0.name": "shown", "frameworks.0.connected": true, "frameworks.0.role": "*", "frameworks.0.failover_timeout": 60.0,
			"frameworks.0.tasks.0.id": "t-1", "frameworks.0.tasks.0.state": "TASK_STAGING", "frameworks.0.tasks.0.executor_id": "",
			"frameworks.0.tasks.0.role": "*", "frameworks.0.tasks.0.labels.0.key": "k", "frameworks.0.tasks.0.resources.mem": 32.0,
		}},
		{"/master/state.json", map[string]any{"frameworks.0.name": "shown"}},
		{"/slaves", map[string]any{"slaves.0.hostname": "a1", "slaves.0.unreserved_resources_full.0.name": "cpus", "slaves.0.active": true}},
		{"/slaves/" + offer.GetAgentId().GetValue(), map[string]any{"slaves.0.hostname": "a1"}},
		{"/frameworks", map[string]any{"frameworks.0.id": s.id}},
		{"/roles", map[string]any{"roles.0.name": "*", "roles.0.weight": 1.0, "roles.0.allocated.cpus": 0.1, "roles.0.quota.consumed.cpus": 0.1, "roles.0.frameworks.0": s.id}},
		{"/flags", map[string]any{"flags.cluster": "test"}},
		{"/state-summary", map[string]any{
			"cluster": "test", "hostname": "10.0.0.1", "slaves.0.hostname": "a1", "slaves.0.TASK_STAGING": 1.0, "slaves.0.TASK_RUNNING": 0.0,
			"slaves.0.framework_ids.0": s.id, "frameworks.0.name": "shown", "frameworks.0.TASK_STAGING": 1.0,
			"frameworks.0.slave_ids.0": offer.GetAgentId().GetValue(), "frameworks.0.used_resources.cpus": 0.1,
		}},
		{"/tasks?limit=-1", map[string]any{"tasks.0.id": "t-1", "tasks.0.framework_id": s.id}},
		{"/tasks/?limit=0", map[string]any{"tasks": []any{}}},
		{"/version", map[string]any{"version": "1.11.0", "git_tag": "test"}},
		{"/metrics/snapshot", map[string]any{"master/elected": 1.0, "master/tasks_staging": 1.0, "master/cpus_used": 0.1, "master/slaves_active": 1.0}},
	} {
		for _, via := range []string{"m1", "a1"} {
			if k.path == "/metrics/snapshot" && via == "a1" {
				continue // each node's own
			}
			status, h, text := c.post(via, k.path, "")
			if status != 200 || h.Get("Content-Type") != "application/json" || h.Get("Content-Length") == "" {
				t.Fatalf("%s via %s: %d %v %s", k.path, via, status, h, text)
			}
			check(t, k.path+" via "+via, text, k.want)
		}
	}
	for kind, want := range map[string]map[string]any{
		"GET_HEALTH":     {"type": "GET_HEALTH", "get_health.healthy": true},
		"GET_VERSION":    {"get_version.version_info.version": "1.11.0"},
		"GET_AGENTS":     {"get_agents.agents.0.agent_info.hostname": "a1", "get_agents.agents.0.active": true},
		"GET_FRAMEWORKS": {"get_frameworks.frameworks.0.framework_info.name": "shown"},
		"GET_TASKS":      {"get_tasks.tasks.0.task_id.value": "t-1"},
		"GET_MASTER":     {"get_master.master_info.hostname": "10.0.0.1"},
		"GET_EXECUTORS":  {"get_executors.executors": nil},
		"GET_OPERATIONS": {"get_operations.operations": nil},
		"GET_WEIGHTS":    {"get_weights.weight_infos": nil},
		"GET_FLAGS":      {"get_flags.flags.0.name": "cluster", "get_flags.flags.0.value": "test"},
		"GET_ROLES":      {"get_roles.roles.0.name": "*", "get_roles.roles.0.weight": 1.0, "get_roles.roles.0.resources.0.name": "cpus"},
		"GET_STATE":      {"get_state.get_tasks.tasks.0.state": "TASK_STAGING", "get_state.get_agents.agents.0.version": "1.11.0"},
	} {
		for _, path := range []string{"/api/v1", "/api/v1/operator", "/master/api/v1"} {
			status, h, text := c.post("a1", path, `{"type":"`+kind+`"}`, "Content-Type", "application/json")
			if status != 200 || h.Get("Content-Length") == "" {
				t.Fatalf("%s: %d %s", kind, status, text)
			}
			check(t, kind, text, want)
		}
	}
	if status, _, text := c.post("m1", "/api/v1", `{"type":"UNKNOWN"}`, "Content-Type", "application/json"); status != 501 || !strings.Contains(text, "UNKNOWN") {
		t.Errorf("UNKNOWN: %d %s", status, text)
	}
	if _, h, text := c.post("m1", "/state?jsonp=cb.f", ""); !strings.HasPrefix(text, "cb.f({") || h.Get("Content-Type") != "text/javascript" {
		t.Errorf("jsonp: %.40s", text)
	}
	if status, _, _ := c.post("m1", "/state?jsonp=alert(1)//", ""); status != 400 {
		t.Errorf("jsonp program: %d", status)
	}
	if _, h, _ := c.post("m1", "/state", "", "Accept-Encoding", "gzip"); h.Get("Content-Encoding") != "gzip" {
		t.Errorf("gzip: %v", h)
	}
}

func TestPaths(t *testing.T) {
	c := newCluster(t, open, "m1")
	for path, want := range map[string]int{
		"/": 404, "/nothing": 404, "/state/..": 404, "/master": 404, "/masterstate": 404, "/master/nothing": 404,
		"/health": 200, "/master/health": 200, "/state/": 200, "/master/state": 200, "/%6daster/state": 200, "/tasks.json": 200,
	} {
		if status, _, _ := c.request("GET", "m1", path, ""); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
}

// Every call of a subscribed framework is 202 with nothing in it, in either encoding, on
// the leader and elsewhere.
func TestEveryCallIs202(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	for _, via := range []string{"m1", "a1"} {
		for _, media := range []string{"application/json", "application/x-protobuf"} {
			s := c.subscribe(via, "caller")
			for _, body := range []string{
				`"type":"ACCEPT","accept":{"offer_ids":[{"value":"o"}],"operations":[{"type":"LAUNCH","launch":{"task_infos":[{"name":"t","task_id":{"value":"t"},"agent_id":{"value":"a"}}]}}]}`,
				`"type":"DECLINE","decline":{"offer_ids":[{"value":"o"}],"filters":{"refuse_seconds":3}}`,
				`"type":"REVIVE"`, `"type":"REVIVE","revive":{"roles":["*"]}`, `"type":"SUPPRESS"`, `"type":"SUPPRESS","suppress":{"roles":["*"]}`,
				`"type":"KILL","kill":{"task_id":{"value":"t"},"kill_policy":{"grace_period":{"nanoseconds":1}}}`,
				`"type":"ACKNOWLEDGE","acknowledge":{"agent_id":{"value":"a"},"task_id":{"value":"t"},"uuid":"MDEyMzQ1Njc4OWFiY2RlZg=="}`,
				`"type":"RECONCILE","reconcile":{"tasks":[]}`, `"type":"RECONCILE","reconcile":{"tasks":[{"task_id":{"value":"t"},"agent_id":{"value":"a"}}]}`,
				`"type":"MESSAGE","message":{"agent_id":{"value":"a"},"executor_id":{"value":"e"},"data":"aGVsbG8="}`,
				`"type":"REQUEST","request":{"requests":[]}`, `"type":"SHUTDOWN","shutdown":{"executor_id":{"value":"e"},"agent_id":{"value":"a"}}`,
				`"type":"RECONCILE_OPERATIONS","reconcile_operations":{"operations":[{"operation_id":{"value":"o"}}]}`,
				`"type":"ACKNOWLEDGE_OPERATION_STATUS","acknowledge_operation_status":{"agent_id":{"value":"a"},"operation_id":{"value":"o"},"uuid":"MDEyMzQ1Njc4OWFiY2RlZg=="}`,
				`"type":"ACCEPT_INVERSE_OFFERS","accept_inverse_offers":{"inverse_offer_ids":[{"value":"o"}]}`,
				`"type":"DECLINE_INVERSE_OFFERS","decline_inverse_offers":{"inverse_offer_ids":[{"value":"o"}]}`,
				`"type":"TEARDOWN"`,
			} {
				body = `{"framework_id":{"value":"` + s.id + `"},` + body + `}`
				if media != "application/json" {
					var call scheduler.Call
					if err := mesosjson.Unmarshal([]byte(body), &call); err != nil {
						t.Fatal(err)
					}
					raw, err := proto.Marshal(&call)
					if err != nil {
						t.Fatal(err)
					}
					body = string(raw)
				}
				status, h, text := c.post(via, "/api/v1/scheduler", body, "Content-Type", media, "Mesos-Stream-Id", s.stream)
				if _, typed := h["Content-Type"]; status != 202 || text != "" || typed {
					t.Errorf("%.60q via %s: %d %q, header %v", body, via, status, text, h)
				}
			}
		}
	}
}
