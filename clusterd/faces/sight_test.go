package faces

import (
	"encoding/base64"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/ratelimit"
)

// sightACLs show p what runs as u, and the role eng; nobody else is restricted.
const sightACLs = `{
	"view_frameworks":[{"principals":{"values":["p"]},"users":{"values":["u"]}},{"principals":{"values":["p"]},"users":{"type":"NONE"}}],
	"view_tasks":[{"principals":{"values":["p"]},"users":{"values":["u"]}},{"principals":{"values":["p"]},"users":{"type":"NONE"}}],
	"view_executors":[{"principals":{"values":["p"]},"users":{"values":["u"]}},{"principals":{"values":["p"]},"users":{"type":"NONE"}}],
	"view_containers":[{"principals":{"values":["p"]},"users":{"values":["u"]}},{"principals":{"values":["p"]},"users":{"type":"NONE"}}],
	"view_roles":[{"principals":{"values":["p"]},"roles":{"values":["eng"]}},{"principals":{"values":["p"]},"roles":{"type":"NONE"}}],
	"get_quotas":[{"principals":{"values":["p"]},"roles":{"values":["eng"]}},{"principals":{"values":["p"]},"roles":{"type":"NONE"}}],
	"get_maintenance_schedules":[{"principals":{"values":["p"]},"machines":{"type":"NONE"}}],
	"get_maintenance_statuses":[{"principals":{"values":["p"]},"machines":{"type":"NONE"}}],
	"access_sandboxes":[{"principals":{"values":["p"]},"users":{"values":["nobody"]}},{"principals":{"values":["p"]},"users":{"type":"NONE"}}],
	"view_flags":[{"principals":{"values":["p"]},"flags":{"type":"NONE"}}]}`

// execute runs one task by an executor of the framework's that runs as a user.
func (s *subscription) execute(c *cluster, who, id, user string) {
	s.t.Helper()
	offer := s.until(scheduler.Event_OFFERS).GetOffers().GetOffers()[0]
	const little = `"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1}},{"name":"mem","type":"SCALAR","scalar":{"value":32}}]`
	body := `"type":"ACCEPT","accept":{"offer_ids":[{"value":"` + offer.GetId().GetValue() + `"}],"filters":{"refuse_seconds":0},"operations":[{"type":"LAUNCH","launch":{"task_infos":[
		{"name":"t","task_id":{"value":"` + id + `"},"agent_id":{"value":"` + offer.GetAgentId().GetValue() + `"},` + little + `,
		"executor":{"type":"CUSTOM","executor_id":{"value":"` + id + `-executor"},"command":{"value":"x","user":"` + user + `"},` + little + `}}]}}]}`
	if status, text := s.call(c, who, body); status != 202 {
		s.t.Fatalf("%d %s", status, text)
	}
	eventually(s.t, id+" is launched", func() bool { _, ok := c.task(s.id, id); return ok })
}

// launch runs one task as a user; the rest of the offer is refused for a time.
func (s *subscription) launch(c *cluster, who, id, user, seconds string) {
	s.t.Helper()
	offer := s.until(scheduler.Event_OFFERS).GetOffers().GetOffers()[0]
	body := `"type":"ACCEPT","accept":{"offer_ids":[{"value":"` + offer.GetId().GetValue() + `"}],"filters":{"refuse_seconds":` + seconds + `},"operations":[{"type":"LAUNCH","launch":{"task_infos":[` +
		task(id, offer.GetAgentId().GetValue(), user) + `]}}]}`
	if status, text := s.call(c, who, body); status != 202 {
		s.t.Fatalf("%d %s", status, text)
	}
	eventually(s.t, id+" is launched", func() bool { _, ok := c.task(s.id, id); return ok })
}

// Lists leave out what somebody may not see, on both faces; who may see it, sees it.
func TestListsLeaveOutWhatMayNotBeSeen(t *testing.T) {
	c := newCluster(t, ruled(t, nodedoc.AnonymousNone, sightACLs), "m1", "a1")
	c.runs = true
	c.agent("a1")
	const scalar = `{"name":"disk","type":"SCALAR","scalar":{"value":10},"reservations":[{"type":"DYNAMIC","role":"hidden-role","principal":"o"}]}`
	for body, want := range map[string]int{
		`{"type":"RESERVE_RESOURCES","reserve_resources":{"agent_id":{"value":"` + generation + `-S0"},"resources":[` + scalar + `]}}`:                                                                 202,
		`{"type":"UPDATE_WEIGHTS","update_weights":{"weight_infos":[{"role":"eng","weight":2},{"role":"hidden-role","weight":3}]}}`:                                                                    200,
		`{"type":"UPDATE_QUOTA","update_quota":{"quota_configs":[{"role":"eng","limits":{"cpus":{"value":3}}},{"role":"hidden-role","limits":{"cpus":{"value":1}}}]}}`:                                 200,
		`{"type":"UPDATE_MAINTENANCE_SCHEDULE","update_maintenance_schedule":{"schedule":{"windows":[{"machine_ids":[{"hostname":"hidden-machine"}],"unavailability":{"start":{"nanoseconds":1}}}]}}}`: 200,
	} {
		if status, text := c.ask("o", "/api/v1", body); status != want {
			t.Fatalf("%s: %d %s", body, status, text)
		}
	}
	shown := c.subscribeAs("m1", multi("u", "eng"), "Authorization", basic("f"))
	shown.execute(c, "f", "shown", "u")
	shown.execute(c, "f", "hidden-executed", "root")
	shown.launch(c, "f", "shown-task", "", "0")
	shown.launch(c, "f", "hidden-task", "root", "3600") // another user's, of a framework that is seen
	hidden := c.subscribeAs("m1", strings.Replace(multi("w", "eng"), "n-w", "hidden-framework", 1), "Authorization", basic("g"))
	hidden.launch(c, "g", "hidden-other", "u", "3600") // of a framework that is not

	call := func(via, who, body string) string {
		status, _, text := c.post(via, "/api/v1", body, "Content-Type", jsonType, "Authorization", basic(who))
		if status != 200 {
			t.Errorf("%s by %s: %d %s", body, who, status, text)
		}
		return text
	}
	for _, via := range []string{"m1", "a1"} {
		for body, k := range map[string]struct{ shown, hidden string }{
			`{"type":"GET_TASKS"}`:                {"shown-task", "hidden-task"},
			`{"type":"GET_EXECUTORS"}`:            {"shown-executor", "hidden-executed-executor"},
			`{"type":"GET_FRAMEWORKS"}`:           {"n-u", "hidden-framework"},
			`{"type":"GET_STATE"}`:                {"shown-task", "hidden-other"},
			`{"type":"GET_AGENTS"}`:               {`"cpus"`, "hidden-role"},
			`{"type":"GET_ROLES"}`:                {`"eng"`, "hidden-role"},
			`{"type":"GET_WEIGHTS"}`:              {`"eng"`, "hidden-role"},
			`{"type":"GET_QUOTA"}`:                {`"eng"`, "hidden-role"},
			`{"type":"GET_MAINTENANCE_SCHEDULE"}`: {"GET_MAINTENANCE_SCHEDULE", "hidden-machine"},
			`{"type":"GET_MAINTENANCE_STATUS"}`:   {"GET_MAINTENANCE_STATUS", "hidden-machine"},
		} {
			if all := call(via, "o", body); !strings.Contains(all, k.hidden) {
				t.Errorf("%s: o does not see %s: %s", body, k.hidden, all)
			}
			if part := call(via, "p", body); !strings.Contains(part, k.shown) || strings.Contains(part, "hidden-") {
				t.Errorf("%s: p sees: %s", body, part)
			}
		}
		for path, k := range map[string]struct{ shown, hidden string }{
			"/state": {"shown-task", "hidden-other"}, "/state.json": {"shown-task", "hidden-task"}, "/state-summary": {"n-u", "hidden-framework"},
			"/tasks": {"shown-task", "hidden-other"}, "/frameworks": {"shown-executor", "hidden-executed-executor"}, "/frameworks/x": {"shown-task", "hidden-framework"}, "/slaves": {`"cpus"`, "hidden-role"}, "/roles": {`"eng"`, "hidden-role"},
			"/weights": {`"eng"`, "hidden-role"}, "/quota": {`"infos"`, "hidden-role"}, "/maintenance/schedule": {"{", "hidden-machine"}, "/maintenance/status": {"{", "hidden-machine"},
		} {
			_, _, all := c.request("GET", via, path, "", "Authorization", basic("o"))
			if !strings.Contains(all, k.hidden) && path != "/quota" {
				t.Errorf("%s: o does not see %s: %s", path, k.hidden, all)
			}
			status, _, part := c.request("GET", via, path, "", "Authorization", basic("p"))
			if status != 200 || !strings.Contains(part, k.shown) || strings.Contains(part, "hidden-") {
				t.Errorf("%s: p sees: %d %s", path, status, part)
			}
		}
		_, _, text := c.request("GET", via, "/roles", "", "Authorization", basic("p"))
		check(t, "roles", text, map[string]any{"roles.0.name": "eng", "roles.0.frameworks": []any{shown.id}, "roles.1": nil})
		_, _, text = c.request("GET", via, "/state", "", "Authorization", basic("p"))
		check(t, "flags in the state", text, map[string]any{"flags": map[string]any{}})
	}
}

// A stream of events tells what its subscriber may see, and nothing else.
func TestEventsLeaveOutWhatMayNotBeSeen(t *testing.T) {
	c := newCluster(t, ruled(t, nodedoc.AnonymousReader, strings.ReplaceAll(sightACLs, `{"values":["p"]}`, `{"type":"ANY"}`)), "m1")
	c.runs = true
	w := c.watch("m1", jsonType) // by nobody known
	w.until(master.Event_SUBSCRIBED)
	c.agent("a1")
	if e := w.until(master.Event_AGENT_ADDED).GetAgentAdded().GetAgent(); len(e.GetTotalResources()) == 0 {
		t.Errorf("an agent without what is free for all: %v", e)
	}
	hidden := c.subscribeAs("m1", multi("w", "eng"), "Authorization", basic("g"))
	hidden.launch(c, "g", "hidden-other", "u", "3600")
	hidden.until(scheduler.Event_UPDATE)
	shown := c.subscribeAs("m1", multi("u", "eng"), "Authorization", basic("f"))
	if e := w.until(master.Event_FRAMEWORK_ADDED).GetFrameworkAdded().GetFramework().GetFrameworkInfo(); e.GetUser() != "u" {
		t.Errorf("told of %v", e)
	}
	shown.launch(c, "f", "hidden-task", "root", "0")
	shown.launch(c, "f", "shown-task", "", "0")
	if e := w.until(master.Event_TASK_ADDED).GetTaskAdded().GetTask(); e.GetTaskId().GetValue() != "shown-task" {
		t.Errorf("told of %v", e)
	}
	if e := w.until(master.Event_TASK_UPDATED).GetTaskUpdated().GetStatus(); e.GetTaskId().GetValue() != "shown-task" {
		t.Errorf("told of %v", e)
	}
	for _, s := range []*subscription{hidden, shown} {
		who := map[*subscription]string{hidden: "g", shown: "f"}[s]
		if status, text := s.call(c, who, `"type":"TEARDOWN"`); status != 202 {
			t.Fatalf("%d %s", status, text)
		}
	}
	if e := w.until(master.Event_TASK_UPDATED).GetTaskUpdated().GetStatus(); e.GetTaskId().GetValue() != "shown-task" {
		t.Errorf("told of %v", e)
	}
	if e := w.until(master.Event_FRAMEWORK_REMOVED).GetFrameworkRemoved().GetFrameworkInfo(); e.GetUser() != "u" {
		t.Errorf("told of %v", e)
	}
}

// An agent leaves out what may not be seen, and refuses what is not allowed.
func TestAgentLeavesOutWhatMayNotBeSeen(t *testing.T) {
	srv := agentServer(t, ruled(t, nodedoc.AnonymousNone, sightACLs)) // its tasks are nobody's
	ask := func(who, body string) (int, string) {
		status, _, text := call(t, srv.URL+"/api/v1", body, "Content-Type", jsonType, "Authorization", basic(who))
		return status, text
	}
	for _, kind := range []string{"GET_STATE", "GET_FRAMEWORKS", "GET_TASKS", "GET_EXECUTORS", "GET_CONTAINERS", "GET_AGENT", "GET_OPERATIONS", "GET_RESOURCE_PROVIDERS"} {
		status, text := ask("p", `{"type":"`+kind+`"}`)
		if status != 200 || strings.Contains(text, "t-1") || strings.Contains(text, "f-1") {
			t.Errorf("%s: p sees: %d %s", kind, status, text)
		}
		if status, text := ask("o", `{"type":"`+kind+`"}`); status != 200 || !strings.Contains(text, "-1") && !strings.Contains("GET_AGENT GET_OPERATIONS GET_RESOURCE_PROVIDERS", kind) {
			t.Errorf("%s: o sees: %d %s", kind, status, text)
		}
	}
	for body, want := range map[string]int{
		`{"type":"GET_FLAGS"}`: 403, `{"type":"GET_VERSION"}`: 200, `{"type":"GET_METRICS","get_metrics":{}}`: 200,
		`{"type":"LIST_FILES","list_files":{"path":"/s"}}`:                                                               403, // nobody remembers whose it is
		`{"type":"LIST_FILES","list_files":{"path":"/w/slaves/S0/t-1"}}`:                                                 404, // nobody's, which p may see; there is none
		`{"type":"READ_FILE","read_file":{"path":"/frameworks/f-1/executors/t-2/runs/latest/stdout","offset":0}}`:        404,
		`{"type":"READ_FILE","read_file":{"path":"/frameworks/f-2/executors/t-2/runs/latest/stdout","offset":0}}`:        403,
		`{"type":"READ_FILE","read_file":{"path":"/w/slaves/S0/frameworks/f-1/executors/t-1/runs/r/stdout","offset":0}}`: 404,
	} {
		if status, text := ask("p", body); status != want {
			t.Errorf("%s by p: %d %s", body, status, text)
		}
		if status, text := ask("o", body); status == 403 {
			t.Errorf("%s by o: %d %s", body, status, text)
		}
	}
	get := func(who, path string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", basic(who))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	if status, text := get("p", "/state"); status != 200 || strings.Contains(text, "-1") || strings.Contains(text, "work_dir") {
		t.Errorf("%d %s", status, text)
	}
	if status, text := get("o", "/state"); status != 200 || !strings.Contains(text, "t-1") || !strings.Contains(text, "work_dir") {
		t.Errorf("%d %s", status, text)
	}
	if status, text := get("p", "/flags"); status != 403 {
		t.Errorf("%d %s", status, text)
	}
}

// A call over the limit of its principal is 429 and says when to come again; others are not
// kept waiting by it, at the leader and through another node.
func TestRateLimits(t *testing.T) {
	policy := ruled(t, nodedoc.AnonymousReader, "")
	var err error
	if policy.RateLimits, err = ratelimit.Parse([]byte(`{"limits":[{"principal":"f","qps":0.01,"capacity":3},{"principal":"o"}],"aggregate_default_qps":0.02,"aggregate_default_capacity":2}`)); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, policy, "m1", "a1")
	ask := func(via, who string) (int, http.Header, string) {
		header := []string{"Content-Type", jsonType}
		if who != "" {
			header = append(header, "Authorization", basic(who))
		}
		return c.post(via, "/api/v1", `{"type":"GET_HEALTH"}`, header...)
	}
	for i, via := range []string{"m1", "a1", "m1"} {
		if status, _, text := ask(via, "f"); status != 200 {
			t.Fatalf("call %d: %d %s", i, status, text)
		}
	}
	for _, via := range []string{"m1", "a1"} {
		status, h, text := ask(via, "f")
		after, err := strconv.Atoi(h.Get("Retry-After"))
		if status != 429 || err != nil || after < 90 || after > 101 || !strings.Contains(text, "Principal 'f' may make 0.01 calls a second, 3 at once") || !strings.Contains(text, "api.rateLimits") {
			t.Errorf("%d %q %s", status, h.Get("Retry-After"), text)
		}
	}
	if lines := refusedLines(c.audit.take()); len(lines) != 2 || lines[0]["principal"] != "f" || !strings.Contains(lines[0]["why"].(string), "0.01 calls") {
		t.Errorf("audit: %v", lines)
	}
	for range 20 { // a limit of none, and an operator whom none is for
		for _, who := range []string{"o", "p"} {
			if status, _, text := ask("m1", who); status != 200 {
				t.Fatalf("%s: %d %s", who, status, text)
			}
		}
	}
	for i, who := range []string{"", "g"} { // they share what is left for all others
		if status, _, text := ask("m1", who); status != 200 {
			t.Fatalf("other %d: %d %s", i, status, text)
		}
	}
	for _, who := range []string{"", "g"} {
		if status, _, text := ask("m1", who); status != 429 || !strings.Contains(text, "All callers without a rate limit of their own together") {
			t.Errorf("%q: %d %s", who, status, text)
		}
	}
	if status, _, _ := c.request("GET", "m1", "/health", ""); status != 200 {
		t.Error("what is open to all is limited")
	}
}

// A flood of refusals writes a bounded number of lines and hides no change; how many were
// left out is said. No line has a secret in it.
func TestAuditIsBounded(t *testing.T) {
	c := newCluster(t, ruled(t, nodedoc.AnonymousNone, ""), "m1")
	began := time.Now()
	for i := range 100 {
		header := "Basic c2VjcmV0LXR5cGVkLWFzLW5hbWU6eA==" // a secret where the name belongs
		if i%2 == 0 {
			header = "Basic " + base64.StdEncoding.EncodeToString([]byte("o:wrong"))
		}
		if status, _, _ := c.post("m1", "/api/v1", `{}`, "Content-Type", jsonType, "Authorization", header); status != 401 {
			t.Fatalf("%d", status)
		}
	}
	if status, text := c.ask("o", "/api/v1", `{"type":"UPDATE_WEIGHTS","update_weights":{"weight_infos":[{"role":"r","weight":2}]}}`); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	seconds := int(time.Since(began).Seconds()) + 1
	lines := c.audit.take()
	refused := refusedLines(lines)
	if len(refused) < 10 || len(refused) > 10*seconds {
		t.Errorf("%d lines in %d seconds", len(refused), seconds)
	}
	for _, l := range refused {
		if who := l["principal"]; who != "unknown" && who != "o (not proven)" {
			t.Errorf("%v", l)
		}
	}
	if last := lines[len(lines)-1]; last["call"] != "UPDATE_WEIGHTS" || last["object"] != "r=2" || last["outcome"] != "done" || last["principal"] != "o" || last["from"] != "127.0.0.1" {
		t.Errorf("the change: %v", last)
	}
	eventually(t, "it is said how many lines are missing", func() bool {
		for _, l := range c.audit.take() {
			if n, ok := l["lines"].(float64); ok && l["of"] == "refusals" {
				return int(n) == 100-len(refused)
			}
		}
		return false
	})
}
