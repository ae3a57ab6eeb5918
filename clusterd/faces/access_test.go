package faces

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/internal/acl"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

const (
	jsonType = "application/json"
	formType = "application/x-www-form-urlencoded"
)

// ruled is a policy with two frameworks (f, g), two operators (o, p) and ACLs.
func ruled(t *testing.T, anybody, acls string) auth.Policy {
	t.Helper()
	hash, err := nodedoc.HashSecret("secret")
	if err != nil {
		t.Fatal(err)
	}
	policy := auth.Policy{Plaintext: true, Anonymous: anybody, Credentials: nodedoc.APICredentials{
		{Principal: "f", SecretHash: hash, Role: nodedoc.RoleFramework},
		{Principal: "g", SecretHash: hash, Role: nodedoc.RoleFramework},
		{Principal: "o", SecretHash: hash, Role: nodedoc.RoleOperator},
		{Principal: "p", SecretHash: hash, Role: nodedoc.RoleOperator},
	}}
	if acls != "" {
		if policy.ACLs, err = acl.Parse([]byte(acls)); err != nil {
			t.Fatal(err)
		}
	}
	return policy
}

// ask posts JSON as somebody; "" is nobody known.
func (c *cluster) ask(who, path, body string, header ...string) (int, string) {
	c.t.Helper()
	header = append(header, "Content-Type", jsonType)
	if who != "" {
		header = append(header, "Authorization", basic(who))
	}
	status, _, text := c.post("m1", path, body, header...)
	return status, text
}

// call posts a call of a subscribed framework.
func (s *subscription) call(c *cluster, who, body string) (int, string) {
	return c.ask(who, "/api/v1/scheduler", `{"framework_id":{"value":"`+s.id+`"},`+body+`}`, "Mesos-Stream-Id", s.stream)
}

func multi(user, role string) string {
	return `{"user":"` + user + `","name":"n-` + user + `","failover_timeout":60,"roles":["` + role + `"],"capabilities":[{"type":"MULTI_ROLE"},{"type":"RESERVATION_REFINEMENT"}]}`
}

// refusedLines are the lines of the audit log about what was refused.
func refusedLines(lines []map[string]any) (out []map[string]any) {
	for _, l := range lines {
		if l["outcome"] == "refused" {
			out = append(out, l)
		}
	}
	return out
}

// A framework may use the roles that the rules give it: an ERROR event for others, which
// subscribes nobody, and 403 for an update. A name that nobody proved is nobody's.
func TestFrameworksUseTheirRolesOnly(t *testing.T) {
	c := newCluster(t, ruled(t, nodedoc.AnonymousFramework, `{"permissive":false,
		"register_frameworks":[{"principals":{"values":["f"]},"roles":{"values":["eng/%","ops"]}}],
		"view_frameworks":[{"principals":{"type":"ANY"},"users":{"type":"ANY"}}]}`), "m1", "a1")
	for _, k := range []struct{ who, info, why string }{
		{"f", multi("u", "eng"), "Principal 'f' is not authorized for REGISTER_FRAMEWORK of role 'eng'"},
		{"f", `{"user":"u","name":"n"}`, "of role '*'"},
		{"f", `{"user":"u","name":"n","roles":["ops","engine"],"capabilities":[{"type":"MULTI_ROLE"}]}`, "of role 'engine'"},
		{"f", `{"user":"u","name":"n","capabilities":[{"type":"MULTI_ROLE"}]}`, "of no role"},
		{"g", multi("u", "ops"), "Principal 'g' is not authorized"},
		{"", multi("u", "ops"), "A caller without credentials is not authorized"},
		{"", strings.Replace(multi("u", "ops"), `"user"`, `"principal":"f","user"`, 1), "A caller without credentials is not authorized"},
	} {
		c.audit.take()
		status, text := c.ask(k.who, "/api/v1/scheduler", `{"type":"SUBSCRIBE","subscribe":{"framework_info":`+k.info+`}}`)
		if status != 200 || !strings.Contains(text, `"type":"ERROR"`) || !strings.Contains(text, k.why) || !strings.Contains(text, "register_frameworks") {
			t.Errorf("%s %s: %d %s", k.who, k.info, status, text)
		}
		if lines := refusedLines(c.audit.take()); len(lines) != 1 || lines[0]["call"] != "SUBSCRIBE" || lines[0]["from"] != "127.0.0.1" || !strings.Contains(lines[0]["why"].(string), k.why) {
			t.Errorf("audit: %v", lines)
		}
	}
	if _, text := c.ask("o", "/api/v1", `{"type":"GET_FRAMEWORKS"}`); strings.Contains(text, "framework_info") {
		t.Errorf("somebody is subscribed: %s", text)
	}
	s := c.subscribeAs("a1", multi("u", "eng/web"), "Authorization", basic("f"))
	update := func(role string) (int, string) {
		return s.call(c, "f", `"type":"UPDATE_FRAMEWORK","update_framework":{"framework_info":`+strings.Replace(multi("u", role), `"user"`, `"id":{"value":"`+s.id+`"},"user"`, 1)+`}`)
	}
	if status, text := update("secret"); status != 403 || !strings.Contains(text, "of role 'secret'") {
		t.Errorf("%d %s", status, text)
	}
	if _, text := c.ask("o", "/api/v1", `{"type":"GET_FRAMEWORKS"}`); !strings.Contains(text, "eng/web") || strings.Contains(text, "secret") {
		t.Errorf("a refused update changed it: %s", text)
	}
	if status, text := update("ops"); status != 200 {
		t.Errorf("%d %s", status, text)
	}
}

func task(id, agent, user string) string {
	command := `{"value":"true"}`
	if user != "" {
		command = `{"value":"true","user":"` + user + `"}`
	}
	return `{"name":"t","task_id":{"value":"` + id + `"},"agent_id":{"value":"` + agent + `"},"command":` + command +
		`,"resources":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1}},{"name":"mem","type":"SCALAR","scalar":{"value":32}}]}`
}

// Tasks run as who the rules allow. One that is refused does not keep the others of its call
// from running; of a group none runs. A user is the same by his number.
func TestTasksRunAsWhomTheyMay(t *testing.T) {
	c := newCluster(t, ruled(t, nodedoc.AnonymousFramework, `{"run_tasks":[{"principals":{"type":"NONE"},"users":{"values":["root"]}},{"principals":{"values":["f"]},"users":{"type":"ANY"}},{"principals":{"type":"ANY"},"users":{"type":"NONE"}}]}`), "m1")
	c.agent("a1")
	agent := generation + "-S0"
	s := c.subscribeAs("m1", multi("nobody", "eng"), "Authorization", basic("f"))
	accept := func(operation string) {
		t.Helper()
		offer := s.until(scheduler.Event_OFFERS).GetOffers().GetOffers()[0].GetId().GetValue()
		if status, text := s.call(c, "f", `"type":"ACCEPT","accept":{"offer_ids":[{"value":"`+offer+`"}],"operations":[`+operation+`],"filters":{"refuse_seconds":0}}`); status != 202 {
			t.Fatalf("%d %s", status, text)
		}
	}
	refused := func(id string, reason mesosv1.TaskStatus_Reason) {
		t.Helper()
		st := s.until(scheduler.Event_UPDATE).GetUpdate().GetStatus()
		if st.GetTaskId().GetValue() != id || st.GetState() != mesosv1.TaskState_TASK_ERROR || st.GetReason() != reason ||
			st.GetSource() != mesosv1.TaskStatus_SOURCE_MASTER || !strings.Contains(st.GetMessage(), "is not authorized for RUN_TASK of user 'root'") {
			t.Errorf("%s: %v", id, st)
		}
		if _, there := c.task(s.id, id); there {
			t.Errorf("%s was launched", id)
		}
	}
	c.audit.take()
	accept(`{"type":"LAUNCH","launch":{"task_infos":[` + strings.Join([]string{task("root", agent, "root"), task("zero", agent, "0"), task("grouped", agent, "root:wheel"), task("ours", agent, "")}, ",") + `]}}`)
	for _, id := range []string{"root", "zero", "grouped"} {
		refused(id, mesosv1.TaskStatus_REASON_TASK_UNAUTHORIZED)
	}
	if _, there := c.task(s.id, "ours"); !there {
		t.Error("the task that may run was not launched")
	}
	lines := c.audit.take()
	if r := refusedLines(lines); len(r) != 3 || r[0]["object"] != "framework "+s.id+": task root" || r[0]["principal"] != "f" {
		t.Errorf("audit: %v", r)
	}
	if last := lines[len(lines)-1]; last["call"] != "ACCEPT" || last["outcome"] != "done" || last["object"] != "framework "+s.id+": LAUNCH root zero grouped ours" {
		t.Errorf("audit: %v", last)
	}
	accept(`{"type":"LAUNCH_GROUP","launch_group":{"executor":{"type":"DEFAULT","executor_id":{"value":"e"}},"task_group":{"tasks":[` + task("g1", agent, "nobody") + `,` + task("g2", agent, "root") + `]}}}`)
	refused("g1", mesosv1.TaskStatus_REASON_TASK_GROUP_UNAUTHORIZED)
	refused("g2", mesosv1.TaskStatus_REASON_TASK_GROUP_UNAUTHORIZED)
	accept(`{"type":"LAUNCH_GROUP","launch_group":{"executor":{"type":"DEFAULT","executor_id":{"value":"e"},"command":{"user":"root"}},"task_group":{"tasks":[` + task("g3", agent, "nobody") + `]}}}`)
	refused("g3", mesosv1.TaskStatus_REASON_TASK_GROUP_UNAUTHORIZED)
}

// What an ACCEPT makes of resources is authorized operation by operation: one that is
// refused changes nothing and is told by its id; who created a volume is known, whatever
// the call says.
func TestOperationsAreAuthorized(t *testing.T) {
	c := newCluster(t, ruled(t, nodedoc.AnonymousFramework, `{"permissive":false,
		"register_frameworks":[{"principals":{"type":"ANY"},"roles":{"type":"ANY"}}],
		"view_roles":[{"principals":{"type":"ANY"},"roles":{"type":"ANY"}}],
		"reserve_resources":[{"principals":{"values":["f","o"]},"roles":{"values":["eng"]}}],
		"unreserve_resources":[{"principals":{"values":["f"]},"reserver_principals":{"values":["f"]}}],
		"create_volumes":[{"principals":{"values":["o"]},"roles":{"values":["eng"]}}],
		"destroy_volumes":[{"principals":{"values":["f"]},"creator_principals":{"values":["f"]}},{"principals":{"values":["p"]},"creator_principals":{"type":"ANY"}}],
		"resize_volumes":[{"principals":{"values":["p"]},"roles":{"values":["eng"]}}]}`), "m1")
	c.agent("a1")
	s := c.subscribeAs("m1", strings.Replace(multi("u", "eng"), `"user"`, `"principal":"f","user"`, 1), "Authorization", basic("f"))
	scalar := func(name, value, role, principal, more string) string {
		stack := ""
		if role != "" {
			stack = `,"reservations":[{"type":"DYNAMIC","role":"` + role + `","principal":"` + principal + `"}]`
		}
		return `{"name":"` + name + `","type":"SCALAR","scalar":{"value":` + value + `}` + stack + more + `}`
	}
	volume := func(by, says string) string {
		return scalar("disk", "100", "eng", by, `,"disk":{"persistence":{"id":"v1","principal":"`+says+`"},"volume":{"container_path":"d","mode":"RW"}}`)
	}
	var offered []*mesosv1.Offer
	note := func(e *scheduler.Event) { offered = append(offered, e.GetOffers().GetOffers()...) }
	// take gives an offer with something that an operation needs; others are declined, because
	// a volume alone is no offer: it comes with what else there is.
	take := func(need func(*mesosv1.Resource) bool) string {
		t.Helper()
		for {
			for len(offered) > 0 {
				o := offered[0]
				offered = offered[1:]
				if slices.ContainsFunc(o.GetResources(), need) {
					return o.GetId().GetValue()
				}
				s.call(c, "f", `"type":"DECLINE","decline":{"offer_ids":[{"value":"`+o.GetId().GetValue()+`"}],"filters":{"refuse_seconds":0}}`)
			}
			note(s.until(scheduler.Event_OFFERS))
		}
	}
	n := 0
	operate := func(want mesosv1.OperationState, why, kind, body string) {
		t.Helper()
		n++
		id := fmt.Sprint("op", n)
		offer := take(func(r *mesosv1.Resource) bool {
			switch kind {
			case "DESTROY":
				return r.GetDisk().GetPersistence() != nil
			case "UNRESERVE":
				return r.GetName() == "cpus" && len(r.GetReservations()) > 0
			}
			return r.GetName() == "cpus" && len(r.GetReservations()) == 0
		})
		s.call(c, "f", `"type":"ACCEPT","accept":{"offer_ids":[{"value":"`+offer+`"}],"filters":{"refuse_seconds":0},"operations":[{"type":"`+kind+`","id":{"value":"`+id+`"},`+body+`}]}`)
		st := s.untilNoting(scheduler.Event_UPDATE_OPERATION_STATUS, note).GetUpdateOperationStatus().GetStatus()
		if st.GetState() != want || st.GetOperationId().GetValue() != id || !strings.Contains(st.GetMessage(), why) {
			t.Errorf("%s: %v, want %s", body, st, want)
		}
	}
	const failed, done = mesosv1.OperationState_OPERATION_ERROR, mesosv1.OperationState_OPERATION_FINISHED
	operate(failed, "not authorized for RESERVE_RESOURCES of role 'eng/x'", "RESERVE", `"reserve":{"resources":[`+scalar("cpus", "1", "eng/x", "f", "")+`]}`)
	operate(done, "", "RESERVE", `"reserve":{"resources":[`+scalar("cpus", "1", "eng", "f", "")+`]}`)
	operate(failed, "not authorized for CREATE_VOLUME of role 'eng'", "CREATE", `"create":{"volumes":[`+volume("f", "f")+`]}`)
	operate(failed, "not authorized for UNRESERVE_RESOURCES of reservations of principal 'o'", "UNRESERVE", `"unreserve":{"resources":[`+scalar("cpus", "1", "eng", "o", "")+`]}`)
	operate(done, "", "UNRESERVE", `"unreserve":{"resources":[`+scalar("cpus", "1", "eng", "f", "")+`]}`)
	operate(failed, "not authorized for CREATE_BLOCK_DISK of role 'eng'", "CREATE_DISK", `"create_disk":{"source":`+scalar("disk", "10", "eng", "f", "")+`,"target_type":"BLOCK"}`)
	operate(failed, "not authorized for DESTROY_RAW_DISK of role 'eng'", "DESTROY_DISK", `"destroy_disk":{"source":`+scalar("disk", "10", "eng", "f", "")+`}`)

	operator := func(want int, who, kind, field, rest string) {
		t.Helper()
		status, text := c.ask(who, "/api/v1", `{"type":"`+kind+`","`+field+`":{"agent_id":{"value":"`+generation+`-S0"},`+rest+`}}`)
		if status != want || want == 403 && !strings.Contains(text, "'"+who+"' is not authorized for ") {
			t.Errorf("%s by %s: %d %s", kind, who, status, text)
		}
	}
	disk := `"resources":[` + scalar("disk", "100", "eng", "o", "") + `]`
	operator(403, "p", "RESERVE_RESOURCES", "reserve_resources", strings.ReplaceAll(disk, `"o"`, `"p"`))
	operator(202, "o", "RESERVE_RESOURCES", "reserve_resources", disk)
	operator(403, "o", "UNRESERVE_RESOURCES", "unreserve_resources", disk)
	operator(403, "p", "CREATE_VOLUMES", "create_volumes", `"volumes":[`+volume("o", "p")+`]`)
	operator(202, "o", "CREATE_VOLUMES", "create_volumes", `"volumes":[`+volume("o", "o")+`]`)
	operator(403, "o", "GROW_VOLUME", "grow_volume", `"volume":`+volume("o", "o")+`,"addition":`+scalar("disk", "1", "eng", "o", ""))
	operator(403, "o", "SHRINK_VOLUME", "shrink_volume", `"volume":`+volume("o", "o")+`,"subtract":{"value":1}`)
	// f may destroy what f created, and says that it did.
	operate(failed, "not authorized for DESTROY_VOLUME of volumes of principal 'o'", "DESTROY", `"destroy":{"volumes":[`+volume("o", "f")+`]}`)
	operator(403, "o", "DESTROY_VOLUMES", "destroy_volumes", `"volumes":[`+volume("o", "p")+`]`)
	for path, field := range map[string]string{"/reserve": "resources", "/unreserve": "resources", "/create-volumes": "volumes", "/destroy-volumes": "volumes"} {
		list := scalar("disk", "1", "ops", "o", "")
		if field == "volumes" {
			list = strings.ReplaceAll(volume("o", "o"), "eng", "ops")
		}
		if status, _, text := c.post("m1", path, "slaveId="+generation+"-S0&"+field+"=["+list+"]", "Content-Type", formType, "Authorization", basic("o")); status != 403 && !strings.HasPrefix(path, "/destroy") {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	operator(202, "p", "DESTROY_VOLUMES", "destroy_volumes", `"volumes":[`+volume("o", "o")+`]`)
}

// masterCalls are calls of the operator API that ACLs refuse: the key, and a call.
var masterCalls = map[string][]string{
	"view_flags":                   {`"type":"GET_FLAGS"`},
	"get_endpoints":                {`"type":"GET_METRICS","get_metrics":{}`, `"type":"GET_LOGGING_LEVEL"`},
	"set_log_level":                {`"type":"SET_LOGGING_LEVEL","set_logging_level":{"level":0,"duration":{"nanoseconds":1}}`},
	"access_sandboxes":             {`"type":"LIST_FILES","list_files":{"path":"/s"}`, `"type":"READ_FILE","read_file":{"path":"/s/stdout","offset":0}`},
	"access_mesos_logs":            {`"type":"LIST_FILES","list_files":{"path":"/master/log"}`, `"type":"READ_FILE","read_file":{"path":"master/log","offset":0}`, `"type":"READ_FILE","read_file":{"path":"/slave/log","offset":0}`},
	"update_weights":               {`"type":"UPDATE_WEIGHTS","update_weights":{"weight_infos":[{"role":"r","weight":2}]}`},
	"update_quotas":                {`"type":"UPDATE_QUOTA","update_quota":{"quota_configs":[{"role":"r","limits":{"cpus":{"value":1}}}]}`, `"type":"SET_QUOTA","set_quota":{"quota_request":{"role":"r2","guarantee":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1}}]}}`, `"type":"REMOVE_QUOTA","remove_quota":{"role":"r2"}`},
	"deactivate_agents":            {`"type":"DEACTIVATE_AGENT","deactivate_agent":{"agent_id":{"value":"x"}}`},
	"reactivate_agents":            {`"type":"REACTIVATE_AGENT","reactivate_agent":{"agent_id":{"value":"x"}}`},
	"drain_agents":                 {`"type":"DRAIN_AGENT","drain_agent":{"agent_id":{"value":"x"}}`},
	"mark_agents_gone":             {`"type":"MARK_AGENT_GONE","mark_agent_gone":{"agent_id":{"value":"x"}}`},
	"update_maintenance_schedules": {`"type":"UPDATE_MAINTENANCE_SCHEDULE","update_maintenance_schedule":{"schedule":{"windows":[]}}`},
	"start_maintenances":           {`"type":"START_MAINTENANCE","start_maintenance":{"machines":[{"hostname":"h"}]}`},
	"stop_maintenances":            {`"type":"STOP_MAINTENANCE","stop_maintenance":{"machines":[{"hostname":"h"}]}`},
	"teardown_frameworks":          {`"type":"TEARDOWN","teardown":{"framework_id":{"value":"FRAMEWORK"}}`},
}

// legacyCalls are the same of the older endpoints: method, path, body.
var legacyCalls = map[string][][3]string{
	"view_flags":                   {{"GET", "/flags"}},
	"get_endpoints":                {{"GET", "/metrics/snapshot"}, {"GET", "/logging/toggle"}, {"POST", "/master/metrics/snapshot.json"}},
	"set_log_level":                {{"POST", "/logging/toggle?level=0&duration=1secs"}},
	"access_sandboxes":             {{"GET", "/files/browse?path=/s"}, {"GET", "/files/read?path=/s/stdout&offset=0"}, {"GET", "/files/download?path=/s/stdout"}},
	"access_mesos_logs":            {{"GET", "/files/read?path=/master/log&offset=0"}, {"GET", "/files/download?path=/slave/log"}, {"GET", "/files/browse?path=//master//log/"}},
	"update_weights":               {{"PUT", "/weights", `[{"role":"r","weight":2}]`}},
	"update_quotas":                {{"POST", "/quota", `{"role":"r","guarantee":[{"name":"cpus","type":"SCALAR","scalar":{"value":0.1}}]}`}, {"DELETE", "/quota/r"}},
	"update_maintenance_schedules": {{"POST", "/maintenance/schedule", `{"windows":[]}`}},
	"start_maintenances":           {{"POST", "/machine/down", `[{"hostname":"h"}]`}},
	"stop_maintenances":            {{"POST", "/machine/up", `[{"hostname":"h"}]`}},
	"teardown_frameworks":          {{"POST", "/teardown", `frameworkId=FRAMEWORK`}},
}

// objectOf is the other side of a rule.
var objectOf = map[string]string{
	"view_flags": "flags", "get_endpoints": "paths", "set_log_level": "level", "access_sandboxes": "users", "access_mesos_logs": "logs",
	"update_weights": "roles", "update_quotas": "roles", "deactivate_agents": "agents", "reactivate_agents": "agents", "drain_agents": "agents",
	"mark_agents_gone": "agents", "update_maintenance_schedules": "machines", "start_maintenances": "machines", "stop_maintenances": "machines",
	"teardown_frameworks": "framework_principals",
}

// Each rule refuses its calls, on both faces, to whom it names and to nobody else, and by a
// line of the audit log; it refuses nothing besides.
func TestEachRuleRefusesItsCalls(t *testing.T) {
	for _, key := range slices.Sorted(maps.Keys(masterCalls)) {
		t.Run(key, func(t *testing.T) {
			c := newCluster(t, ruled(t, nodedoc.AnonymousReader, `{"`+key+`":[{"principals":{"values":["o"]},"`+objectOf[key]+`":{"type":"NONE"}}]}`), "m1")
			s := c.subscribeAs("m1", multi("u", "eng"), "Authorization", basic("f"))
			judge := func(of, who, what string, status int, text string) {
				t.Helper()
				refused := who == "o" && (of == key || key == "get_endpoints" && strings.Contains(what, "/logging/toggle"))
				lines := refusedLines(c.audit.take())
				if refused != (status == 403) || refused && !strings.Contains(text, key) || status == 401 || status == 404 && !strings.Contains(what, "log") && !strings.Contains(what, "GONE") {
					t.Errorf("%s by %s: %d %s", what, who, status, text)
				}
				if refused != (len(lines) == 1) || refused && (lines[0]["principal"] != "o" || lines[0]["role"] != "operator" || !strings.Contains(lines[0]["why"].(string), key)) {
					t.Errorf("%s by %s: audit: %v", what, who, lines)
				}
			}
			for of, list := range masterCalls {
				for _, body := range list {
					for _, who := range []string{"o", "p"} {
						id := s.id
						if who == "p" {
							id = "nobody"
						}
						if of == "teardown_frameworks" && who == "o" && of != key {
							continue // it would end it
						}
						c.audit.take()
						status, text := c.ask(who, "/api/v1", `{`+strings.Replace(body, "FRAMEWORK", id, 1)+`}`)
						judge(of, who, body, status, text)
					}
				}
			}
			for of, list := range legacyCalls {
				for _, k := range list {
					for _, who := range []string{"o", "p"} {
						id := s.id
						if who == "p" {
							id = "nobody"
						}
						if of == "teardown_frameworks" && who == "o" && of != key {
							continue
						}
						c.audit.take()
						status, _, text := c.request(k[0], "m1", k[1], strings.Replace(k[2], "FRAMEWORK", id, 1), "Authorization", basic(who))
						judge(of, who, strings.Join(k[:], " "), status, text)
					}
				}
			}
			if status, text := s.call(c, "f", `"type":"REVIVE"`); status != 202 {
				t.Errorf("the framework is gone: %d %s", status, text)
			}
		})
	}
}
