package faces

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// operated is a cluster that knows an operator, o, and a reader, r; and what anybody may.
func operated(t *testing.T, anybody string) *cluster {
	t.Helper()
	hash, err := nodedoc.HashSecret("secret")
	if err != nil {
		t.Fatal(err)
	}
	return newCluster(t, auth.Policy{Plaintext: true, Anonymous: anybody, Credentials: nodedoc.APICredentials{
		{Principal: "o", SecretHash: hash, Role: nodedoc.RoleOperator},
		{Principal: "r", SecretHash: hash, Role: nodedoc.RoleReader},
	}}, "m1", "a1")
}

func basic(who string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(who+":secret"))
}

// Only operators tear frameworks down, by either face; what is refused changes nothing.
func TestTeardownByOperators(t *testing.T) {
	c := operated(t, nodedoc.AnonymousFramework)
	const json, form = "application/json", "application/x-www-form-urlencoded"
	for _, via := range []string{"m1", "a1"} {
		for _, face := range []struct{ path, media, before, after, none string }{
			{"/api/v1", json, `{"type":"TEARDOWN","teardown":{"framework_id":{"value":"`, `"}}}`, `{"type":"TEARDOWN"}`},
			{"/teardown", form, "frameworkId=", "", ""},
			{"/master/teardown", form, "frameworkId=", "", "other=1"},
		} {
			s := c.subscribe(via, "doomed")
			ask := func(who, body string) (int, string) {
				header := []string{"Content-Type", face.media}
				if who != "" {
					header = append(header, "Authorization", basic(who))
				}
				status, _, text := c.post(via, face.path, body, header...)
				return status, text
			}
			body := face.before + s.id + face.after
			for _, who := range []string{"", "r"} {
				if status, text := ask(who, body); status != 403 {
					t.Errorf("%s via %s by %q: %d %s", face.path, via, who, status, text)
				}
			}
			if status, text := ask("o", face.before+"nobody"+face.after); status != 400 || !strings.Contains(text, "No framework found") {
				t.Errorf("%s via %s, unknown: %d %s", face.path, via, status, text)
			}
			if status, text := ask("o", face.none); status != 400 {
				t.Errorf("%s via %s, none: %d %s", face.path, via, status, text)
			}
			if status, _, _ := c.post(via, "/api/v1/scheduler", `{"framework_id":{"value":"`+s.id+`"},"type":"REVIVE"}`, "Content-Type", json, "Mesos-Stream-Id", s.stream); status != 202 {
				t.Fatalf("after refusals the framework is gone: %d", status)
			}
			if status, text := ask("o", body); status != 200 || text != "" {
				t.Errorf("%s via %s: %d %s", face.path, via, status, text)
			}
			if status, _, text := c.post(via, "/api/v1/scheduler", `{"framework_id":{"value":"`+s.id+`"},"type":"REVIVE"}`, "Content-Type", json, "Mesos-Stream-Id", s.stream); status != 400 {
				t.Errorf("it is still there: %d %s", status, text)
			}
		}
	}
	if status, h, _ := c.request(http.MethodGet, "m1", "/teardown", "", "Authorization", basic("o")); status != 405 || h.Get("Allow") != "POST" {
		t.Errorf("GET: %d", status)
	}
}

// Both faces set and show the weights of roles; a bad one in a list changes none of it.
func TestWeights(t *testing.T) {
	c := operated(t, nodedoc.AnonymousReader)
	o := basic("o")
	const js = "application/json"
	for _, via := range []string{"m1", "a1"} {
		for body, want := range map[string]int{`[{"role":"eng","weight":2.5}]`: 200, `[{"role":"ops","weight":7},{"role":"eng","weight":0}]`: 400, `[{"role":"a//b","weight":1}]`: 400, `{`: 400} {
			if status, _, text := c.request(http.MethodPut, via, "/weights", body, "Authorization", o); status != want {
				t.Errorf("%s: %d %s", body, status, text)
			}
			if status, _, _ := c.request(http.MethodPut, via, "/weights", body); status != 403 {
				t.Errorf("anybody changes weights: %d", status)
			}
		}
		for weight, want := range map[string]int{"0.5": 200, "-1": 400, "0": 400} {
			body := `{"type":"UPDATE_WEIGHTS","update_weights":{"weight_infos":[{"role":"eng/part","weight":` + weight + `}]}}`
			if status, _, text := c.post(via, "/api/v1", body, "Content-Type", js, "Authorization", o); status != want {
				t.Errorf("%s: %d %s", body, status, text)
			}
			if status, _, _ := c.post(via, "/api/v1", body, "Content-Type", js); status != 403 {
				t.Errorf("anybody changes weights: %d", status)
			}
		}
		_, _, text := c.post(via, "/api/v1", `{"type":"GET_WEIGHTS"}`, "Content-Type", js)
		check(t, "GET_WEIGHTS", text, map[string]any{
			"get_weights.weight_infos.0.role": "eng", "get_weights.weight_infos.0.weight": 2.5,
			"get_weights.weight_infos.1.role": "eng/part", "get_weights.weight_infos.1.weight": 0.5, "get_weights.weight_infos.2": nil,
		})
		if _, _, text := c.request(http.MethodGet, via, "/weights", ""); strings.TrimSpace(text) != `[{"role":"eng","weight":2.5},{"role":"eng/part","weight":0.5}]` {
			t.Error(text)
		}
		_, _, text = c.post(via, "/roles", "")
		check(t, "/roles", text, map[string]any{"roles.0.name": "eng", "roles.0.weight": 2.5, "roles.0.frameworks": []any{}})
	}
}

// Both faces set, show and remove quotas.
func TestQuota(t *testing.T) {
	c := operated(t, nodedoc.AnonymousReader)
	c.agent("a1") // 4 processors
	o := basic("o")
	const js = "application/json"
	guarantee := func(cpus string) string { return `[{"name":"cpus","type":"SCALAR","scalar":{"value":` + cpus + `}}]` }
	for _, via := range []string{"m1", "a1"} {
		call := func(want int, body string) {
			t.Helper()
			if status, _, text := c.post(via, "/api/v1", body, "Content-Type", js); status != 403 {
				t.Errorf("anybody: %d %s", status, text)
			}
			if status, _, text := c.post(via, "/api/v1", body, "Content-Type", js, "Authorization", o); status != want {
				t.Errorf("%s: %d %s", body, status, text)
			}
		}
		call(200, `{"type":"UPDATE_QUOTA","update_quota":{"quota_configs":[{"role":"eng","guarantees":{"cpus":{"value":1.5}},"limits":{"cpus":{"value":3},"mem":{"value":512}}}]}}`)
		call(400, `{"type":"UPDATE_QUOTA","update_quota":{"quota_configs":[{"role":"eng","guarantees":{"cpus":{"value":99}}}]}}`)
		call(200, `{"type":"UPDATE_QUOTA","update_quota":{"force":true,"quota_configs":[{"role":"huge","guarantees":{"cpus":{"value":99}}}]}}`)
		call(200, `{"type":"REMOVE_QUOTA","remove_quota":{"role":"huge"}}`)
		call(400, `{"type":"REMOVE_QUOTA","remove_quota":{"role":"huge"}}`)
		call(200, `{"type":"SET_QUOTA","set_quota":{"quota_request":{"role":"ops/part","guarantee":`+guarantee("0.5")+`}}}`)
		call(400, `{"type":"SET_QUOTA","set_quota":{"quota_request":{"role":"ops/part","guarantee":`+guarantee("1")+`}}}`)
		call(409, `{"type":"SET_QUOTA","set_quota":{"quota_request":{"role":"more","guarantee":`+guarantee("50")+`}}}`)
		_, _, text := c.post(via, "/api/v1", `{"type":"GET_QUOTA"}`, "Content-Type", js)
		check(t, "GET_QUOTA", text, map[string]any{
			"get_quota.status.configs.0.role": "eng", "get_quota.status.configs.0.guarantees.cpus.value": 1.5, "get_quota.status.configs.0.limits.mem.value": 512.0,
			"get_quota.status.configs.1.role": "ops/part", "get_quota.status.configs.1.limits.cpus.value": 0.5, "get_quota.status.configs.2": nil,
			"get_quota.status.infos.0.guarantee.0.scalar.value": 1.5,
		})
		_, _, text = c.post(via, "/roles", "")
		check(t, "/roles", text, map[string]any{"roles.0.name": "eng", "roles.0.quota.guarantee.cpus": 1.5, "roles.0.quota.limit.mem": 512.0, "roles.0.quota.consumed.cpus": 0.0})
		for _, old := range []struct {
			method, path, body string
			want               int
		}{
			{"POST", "/quota", `{"role":"old","guarantee":` + guarantee("1") + `}`, 200},
			{"POST", "/quota", `{"role":"old","guarantee":` + guarantee("1") + `}`, 400},
			{"POST", "/quota", `{"role":"older","guarantee":` + guarantee("70") + `}`, 409},
			{"POST", "/quota", `{"role":"older","guarantee":[]}`, 400},
			{"POST", "/quota", `{`, 400},
			{"PUT", "/quota", `{}`, 405},
			{"DELETE", "/weights", "", 405},
			{"POST", "/weights", `[]`, 405},
			{"DELETE", "/quota/old", "", 200},
			{"DELETE", "/master/quota/ops/part", "", 200},
			{"DELETE", "/quota/old", "", 400},
		} {
			if status, _, text := c.request(old.method, via, old.path, old.body); status != 403 && old.want != 405 {
				t.Errorf("anybody: %d %s", status, text)
			}
			if status, _, text := c.request(old.method, via, old.path, old.body, "Authorization", o); status != old.want {
				t.Errorf("%s %s %s: %d %s", old.method, old.path, old.body, status, text)
			}
		}
		_, _, text = c.request("GET", via, "/quota", "")
		check(t, "/quota", text, map[string]any{"infos.0.role": "eng", "infos.0.guarantee.0.name": "cpus", "infos.1": nil})
		call(200, `{"type":"UPDATE_QUOTA","update_quota":{"quota_configs":[{"role":"eng"}]}}`)
	}
}

// Operators take agents out of use, give them back, and say that one is gone for good.
func TestAgentsByOperators(t *testing.T) {
	c := operated(t, nodedoc.AnonymousReader)
	c.agent("a1")
	o := basic("o")
	const js = "application/json"
	id := generation + "-S0"
	call := func(want int, kind, message, agent string) {
		t.Helper()
		body := `{"type":"` + kind + `","` + message + `":{"agent_id":{"value":"` + agent + `"}}}`
		if status, _, text := c.post("a1", "/api/v1", body, "Content-Type", js); status != 403 {
			t.Errorf("%s by anybody: %d %s", kind, status, text)
		}
		if status, _, text := c.post("a1", "/api/v1", body, "Content-Type", js, "Authorization", o); status != want {
			t.Errorf("%s of %s: %d %s", kind, agent, status, text)
		}
	}
	is := func(active, deactivated bool) {
		t.Helper()
		_, _, text := c.post("m1", "/api/v1", `{"type":"GET_AGENTS"}`, "Content-Type", js)
		check(t, "GET_AGENTS", text, map[string]any{"get_agents.agents.0.active": active, "get_agents.agents.0.deactivated": deactivated})
	}
	is(true, false)
	call(200, "DEACTIVATE_AGENT", "deactivate_agent", id)
	is(false, true)
	call(400, "DEACTIVATE_AGENT", "deactivate_agent", "none")
	call(200, "REACTIVATE_AGENT", "reactivate_agent", id)
	is(true, false)
	call(400, "REACTIVATE_AGENT", "reactivate_agent", "none")
	drain := func(want int, more string) {
		t.Helper()
		body := `{"type":"DRAIN_AGENT","drain_agent":{"agent_id":{"value":"` + id + `"}` + more + `}}`
		if status, _, text := c.post("a1", "/api/v1", body, "Content-Type", js); status != 403 {
			t.Errorf("drained by anybody: %d %s", status, text)
		}
		if status, _, text := c.post("a1", "/api/v1", body, "Content-Type", js, "Authorization", o); status != want {
			t.Errorf("%s: %d %s", body, status, text)
		}
	}
	for form, ns := range map[string]any{"": nil, `,"max_grace_period":{"seconds":600}`: 600e9, `,"max_grace_period":"600s"`: 600e9, `,"max_grace_period":"10mins"`: 600e9} {
		drain(200, form)
		is(false, true)
		_, _, text := c.post("m1", "/api/v1", `{"type":"GET_AGENTS"}`, "Content-Type", js)
		check(t, "GET_AGENTS"+form, text, map[string]any{
			"get_agents.agents.0.drain_info.state": "DRAINED", "get_agents.agents.0.drain_info.config.max_grace_period.nanoseconds": ns,
			"get_agents.agents.0.drain_info.config.mark_gone": false,
		})
		_, _, text = c.post("m1", "/slaves", "")
		check(t, "/slaves", text, map[string]any{"slaves.0.drain_info.state": "DRAINED"})
		call(200, "REACTIVATE_AGENT", "reactivate_agent", id)
		is(true, false)
	}
	drain(400, `,"max_grace_period":{"seconds":-1}`)
	drain(400, `,"max_grace_period":{"seconds":99999999999}`)
	call(400, "DRAIN_AGENT", "drain_agent", "none")
	call(404, "MARK_AGENT_GONE", "mark_agent_gone", "none")
	call(200, "MARK_AGENT_GONE", "mark_agent_gone", id)
	call(404, "MARK_AGENT_GONE", "mark_agent_gone", id)
	_, _, text := c.post("m1", "/api/v1", `{"type":"GET_AGENTS"}`, "Content-Type", js)
	check(t, "GET_AGENTS", text, map[string]any{"get_agents.agents.0": nil})
}

// UPDATE_FRAMEWORK is the one call of a framework that is over when it is answered: 200.
func TestUpdateFrameworkIs200(t *testing.T) {
	c := newCluster(t, open, "m1", "a1")
	for _, via := range []string{"m1", "a1"} {
		s := c.subscribe(via, "old")
		update := func(info string) (int, string) {
			status, _, text := c.post(via, "/api/v1/scheduler",
				`{"framework_id":{"value":"`+s.id+`"},"type":"UPDATE_FRAMEWORK","update_framework":{"framework_info":{"id":{"value":"`+s.id+`"},`+info+`}}}`,
				"Content-Type", "application/json", "Mesos-Stream-Id", s.stream)
			return status, text
		}
		if status, text := update(`"user":"nobody","name":"new","failover_timeout":1`); status != 200 || text != "" {
			t.Errorf("%d %s", status, text)
		}
		if status, text := update(`"user":"other","name":"newer"`); status != 400 || text != "Updating 'FrameworkInfo.user' is unsupported" {
			t.Errorf("%d %q", status, text)
		}
		_, _, text := c.post(via, "/frameworks?framework_id="+s.id, "")
		check(t, "after both", text, map[string]any{"frameworks.0.name": "new", "frameworks.0.failover_timeout": 1.0})
	}
}
