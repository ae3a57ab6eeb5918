package faces

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
)

// The fields of each object of the un-versioned endpoints; clients and user interfaces
// read them unguarded.
var shapes = map[string]string{
	"master":          "version build_date build_time build_user git_tag start_time elected_time id pid hostname capabilities activated_slaves deactivated_slaves unreachable_slaves domain leader leader_info cluster flags slaves recovered_slaves frameworks completed_frameworks orphan_tasks unregistered_frameworks",
	"leader_info":     "id pid port hostname domain",
	"agent":           "id hostname port attributes domain pid registered_time resources used_resources offered_resources reserved_resources unreserved_resources active deactivated version capabilities",
	"slave":           "reserved_resources_full unreserved_resources_full used_resources_full offered_resources_full",
	"resources":       "cpus mem disk gpus",
	"framework":       "id name used_resources offered_resources capabilities hostname webui_url active connected recovered user failover_timeout checkpoint registered_time unregistered_time resources tasks unreachable_tasks completed_tasks offers executors labels",
	"task":            "id name framework_id executor_id slave_id state resources role statuses labels limits discovery container",
	"status":          "state timestamp labels container_status healthy",
	"offer":           "id framework_id allocation_info slave_id resources",
	"agent state":     "version build_date build_time build_user start_time id pid hostname capabilities resources reserved_resources unreserved_resources reserved_resources_full unreserved_resources_full reserved_resources_allocated unreserved_resources_allocated resource_providers attributes master_hostname flags frameworks completed_frameworks",
	"agent framework": "id name user failover_timeout checkpoint hostname executors completed_executors",
	"agent executor":  "id name source container directory resources role type tasks queued_tasks completed_tasks",
}

// has checks the fields of an object.
func has(t *testing.T, shape string, object any, more ...string) map[string]any {
	t.Helper()
	m, ok := object.(map[string]any)
	if !ok {
		t.Fatalf("%s is %T", shape, object)
	}
	for _, key := range append(strings.Fields(shapes[shape]), more...) {
		if _, ok := m[key]; !ok {
			t.Errorf("%s has no %q: it has %v", shape, key, keysOf(m))
		}
	}
	return m
}

func keysOf(m map[string]any) (out []string) {
	for key := range m {
		out = append(out, key)
	}
	slices.Sort(out)
	return out
}

func first(t *testing.T, m map[string]any, key string) any {
	t.Helper()
	list, ok := m[key].([]any)
	if !ok || len(list) == 0 {
		t.Fatalf("%q is empty: %v", key, m[key])
	}
	return list[0]
}

func decoded(t *testing.T, text string) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("%v in %.300s", err, text)
	}
	return out
}

func TestEveryFieldIsThere(t *testing.T) {
	c := newCluster(t, open, "m1")
	c.runs = true
	c.agent("a1")
	framework := `{"user":"nobody","name":"whole","roles":["eng","ops"],"capabilities":[{"type":"MULTI_ROLE"}],"labels":{"labels":[{"key":"k","value":"v"}]},"hostname":"h","webui_url":"http://h/"}`
	s := c.subscribeAs("m1", framework)
	offer := s.until(scheduler.Event_OFFERS).GetOffers().GetOffers()[0]
	launch := fmt.Sprintf(`{"type":"ACCEPT","framework_id":{"value":%q},"accept":{"offer_ids":[{"value":%q}],"filters":{"refuse_seconds":0},
		"operations":[{"type":"LAUNCH","launch":{"task_infos":[{"name":"t","task_id":{"value":"t-1"},"agent_id":{"value":%q},
		"command":{"value":"true"},"labels":{"labels":[{"key":"k","value":"v"}]},"limits":{"cpus":{"value":"Infinity"}},
		"discovery":{"visibility":"CLUSTER","name":"d"},"container":{"type":"MESOS"},
		"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1}},{"name":"mem","type":"SCALAR","scalar":{"value":32}}]}]}}]}}`,
		s.id, offer.GetId().GetValue(), offer.GetAgentId().GetValue())
	if status, _, text := c.post("m1", "/api/v1/scheduler", launch, "Content-Type", "application/json", "Mesos-Stream-Id", s.stream); status != 202 {
		t.Fatalf("accept: %d %s", status, text)
	}
	st := s.until(scheduler.Event_UPDATE).GetUpdate().GetStatus()
	if st.GetContainerStatus().GetNetworkInfos()[0].GetIpAddresses()[0].GetIpAddress() != "10.88.1.2" {
		t.Errorf("status %v", st)
	}
	text := ""
	eventually(t, "the rest of the agent is offered", func() bool {
		_, _, text = c.post("m1", "/state", "")
		return strings.Contains(text, `"allocation_info":`)
	})
	m := has(t, "master", decoded(t, text))
	has(t, "leader_info", m["leader_info"])
	if !strings.Contains(text, `"domain":{"fault_domain":{"region":{"name":"fra"},"zone":{"name":"a"}}}`) {
		t.Errorf("domain %v", m["domain"])
	}
	a := has(t, "agent", first(t, m, "slaves"))
	has(t, "resources", a["resources"], "ports")
	has(t, "resources", a["unreserved_resources"])
	f := has(t, "framework", first(t, m, "frameworks"), "roles")
	if _, old := f["role"]; old {
		t.Error("a framework with several roles has one, too")
	}
	task := has(t, "task", first(t, f, "tasks"))
	if task["executor_id"] != "" || task["role"] == "" || task["limits"].(map[string]any)["cpus"] != "Infinity" {
		t.Errorf("task %v", task)
	}
	status := has(t, "status", first(t, task, "statuses"))
	cs := status["container_status"].(map[string]any)
	ni := first(t, cs, "network_infos").(map[string]any)
	if ip := first(t, ni, "ip_addresses").(map[string]any); ip["ip_address"] != "10.88.1.2" || ip["protocol"] != "IPv4" {
		t.Errorf("ip_addresses %v", ip)
	}
	has(t, "resources", has(t, "offer", first(t, f, "offers"))["resources"])
	_, _, text = c.post("m1", "/slaves", "")
	slaves := decoded(t, text)
	has(t, "slave", has(t, "agent", first(t, slaves, "slaves")))
	if _, ok := slaves["recovered_slaves"]; !ok {
		t.Error("no recovered_slaves")
	}
	_, _, text = c.post("m1", "/frameworks", "")
	list := decoded(t, text)
	has(t, "framework", first(t, list, "frameworks"))
	if got := keysOf(list); fmt.Sprint(got) != "[completed_frameworks frameworks unregistered_frameworks]" {
		t.Errorf("/frameworks has %v", got)
	}
	_, _, text = c.post("m1", "/tasks", "")
	has(t, "task", first(t, decoded(t, text), "tasks"))

	// An old framework has one role.
	c.subscribe("m1", "old")
	_, _, text = c.post("m1", "/frameworks", "")
	for _, one := range decoded(t, text)["frameworks"].([]any) {
		f, ok := one.(map[string]any)
		if _, several := f["roles"]; !ok || f["name"] == "old" && (several || f["role"] != "*") {
			t.Errorf("role %v, roles %v", f["role"], f["roles"])
		}
	}

	// What has ended stays for a while.
	if status, _, text := c.post("m1", "/api/v1/scheduler", `{"type":"TEARDOWN","framework_id":{"value":"`+s.id+`"}}`, "Content-Type", "application/json", "Mesos-Stream-Id", s.stream); status != 202 {
		t.Fatalf("teardown: %d %s", status, text)
	}
	_, _, text = c.post("m1", "/state", "")
	if done := has(t, "framework", first(t, decoded(t, text), "completed_frameworks")); done["id"] != s.id || done["active"] != false {
		t.Errorf("completed: %v", done)
	}
}

func TestEveryFieldOfAnAgent(t *testing.T) {
	srv := agentServer(t, open)
	_, _, text := fetch(t, srv.URL+"/state")
	m := has(t, "agent state", decoded(t, text))
	has(t, "resources", m["resources"])
	has(t, "resources", m["unreserved_resources_allocated"])
	f := has(t, "agent framework", first(t, m, "frameworks"), "role")
	if f["name"] != "shown" || f["user"] != "nobody" || f["failover_timeout"] != 60.0 {
		t.Errorf("framework %v", f)
	}
	e := has(t, "agent executor", first(t, f, "executors"))
	task := has(t, "resources", first(t, e, "tasks").(map[string]any)["resources"])
	if task["cpus"] != 0.5 || m["unreserved_resources_allocated"].(map[string]any)["cpus"] != 0.5 {
		t.Errorf("task %v, allocated %v", task, m["unreserved_resources_allocated"])
	}
}

// check looks values up by their path in a JSON text.
func check(t *testing.T, what, text string, want map[string]any) {
	t.Helper()
	var doc any
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatalf("%s: %v in %s", what, err, text)
	}
	for path, value := range want {
		have := doc
		keys := strings.Split(path, ".")
		if strings.Contains(path, "/") {
			keys = []string{path}
		}
		for _, key := range keys {
			switch d := have.(type) {
			case map[string]any:
				have = d[key]
			case []any:
				have = nil
				if i := int(key[0] - '0'); i < len(d) {
					have = d[i]
				}
			}
		}
		a, _ := json.Marshal(have)
		b, _ := json.Marshal(value)
		if string(a) != string(b) {
			t.Errorf("%s: %s is %s, want %s", what, path, a, b)
		}
	}
}

// What may be taken back stands apart from what is there, in each of the old forms.
func TestRevocableResourcesStandApart(t *testing.T) {
	c := newCluster(t, open, "m1")
	c.revocable = 2
	c.agent("a1")
	_, _, text := c.post("m1", "/slaves", "")
	check(t, "/slaves", text, map[string]any{
		"slaves.0.resources.cpus": 4.0, "slaves.0.resources.cpus_revocable": 2.0, "slaves.0.unreserved_resources.cpus_revocable": 2.0, "slaves.0.used_resources.cpus": 0.0,
	})
	_, _, text = c.post("m1", "/metrics/snapshot", "")
	m := decoded(t, text)
	for name, want := range map[string]float64{"cpus_total": 4, "cpus_revocable_total": 2, "cpus_revocable_used": 0, "mem_revocable_total": 0} {
		if m["master/"+name] != want {
			t.Errorf("master/%s is %v, want %v", name, m["master/"+name], want)
		}
	}
}
