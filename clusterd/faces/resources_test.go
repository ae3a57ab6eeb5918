package faces

import (
	"net/url"
	"strings"
	"testing"

	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// Both faces make resources of an agent something else: 202 once it is in the log, 409
// where as much is not free. What is refused changes nothing.
func TestResourcesByOperators(t *testing.T) {
	c := operated(t, nodedoc.AnonymousReader)
	c.agent("a1") // 4 cpus, 1000 MB of disk
	o := basic("o")
	const js, form = "application/json", "application/x-www-form-urlencoded"
	id := generation + "-S0"
	scalar := func(name, value, more string) string {
		return `{"name":"` + name + `","type":"SCALAR","scalar":{"value":` + value + `}` + more + `}`
	}
	const stack = `,"reservations":[{"type":"DYNAMIC","role":"eng","principal":"o","labels":{"labels":[{"key":"k","value":"v"}]}}]`
	const old = `,"role":"eng","reservation":{"principal":"o","labels":{"labels":[{"key":"k","value":"v"}]}}`
	volume := func(mb, reserved string) string {
		return scalar("disk", mb, reserved+`,"disk":{"persistence":{"id":"v1","principal":"o"},"volume":{"container_path":"data","mode":"RW"}}`)
	}
	total := func(want map[string]any) {
		t.Helper()
		_, _, text := c.post("m1", "/api/v1", `{"type":"GET_AGENTS"}`, "Content-Type", js)
		check(t, "GET_AGENTS", text, want)
	}
	const at = "get_agents.agents.0.total_resources."
	for _, via := range []string{"m1", "a1"} {
		call := func(want int, kind, field, agent, rest string) {
			t.Helper()
			body := `{"type":"` + kind + `","` + field + `":{"agent_id":{"value":"` + agent + `"},` + rest + `}}`
			if status, _, text := c.post(via, "/api/v1", body, "Content-Type", js); status != 403 {
				t.Errorf("%s by anybody: %d %s", kind, status, text)
			}
			if status, _, text := c.post(via, "/api/v1", body, "Content-Type", js, "Authorization", o); status != want {
				t.Errorf("%s: %d %s, want %d\n%s", kind, status, text, want, body)
			}
		}
		call(202, "RESERVE_RESOURCES", "reserve_resources", id, `"resources":[`+scalar("cpus", "1", stack)+`,`+scalar("disk", "300", stack)+`]`)
		call(409, "RESERVE_RESOURCES", "reserve_resources", id, `"resources":[`+scalar("cpus", "4", stack)+`]`)
		call(400, "RESERVE_RESOURCES", "reserve_resources", id, `"resources":[`+scalar("cpus", "1", "")+`]`)
		call(400, "RESERVE_RESOURCES", "reserve_resources", "none", `"resources":[`+scalar("cpus", "1", stack)+`]`)
		call(400, "RESERVE_RESOURCES", "reserve_resources", id, `"resources":[`+scalar("cpus", "1", strings.ReplaceAll(stack, `"o"`, `"x"`))+`]`)
		call(202, "CREATE_VOLUMES", "create_volumes", id, `"volumes":[`+volume("100", stack)+`]`)
		call(400, "CREATE_VOLUMES", "create_volumes", id, `"volumes":[`+scalar("disk", "10", stack)+`]`)
		call(202, "GROW_VOLUME", "grow_volume", id, `"volume":`+volume("100", stack)+`,"addition":`+scalar("disk", "50", stack))
		call(202, "SHRINK_VOLUME", "shrink_volume", id, `"volume":`+volume("150", stack)+`,"subtract":{"value":30}`)
		call(409, "UNRESERVE_RESOURCES", "unreserve_resources", id, `"resources":[`+scalar("disk", "300", stack)+`]`)
		total(map[string]any{
			at + "1.name": "cpus", at + "1.role": "eng", at + "1.reservations.0.principal": "o", at + "1.reservation.labels.labels.0.key": "k",
			at + "4.disk.persistence.id": "v1", at + "4.scalar.value": 120.0, at + "4.disk.volume.container_path": "data",
		})
		_, _, text := c.post(via, "/slaves", "")
		check(t, "/slaves", text, map[string]any{"slaves.0.reserved_resources.eng.cpus": 1.0, "slaves.0.reserved_resources.eng.disk": 300.0, "slaves.0.unreserved_resources.disk": 700.0})
		_, _, text = c.post(via, "/roles", "")
		check(t, "/roles", text, map[string]any{"roles.0.name": "eng", "roles.0.reserved.cpus": 1.0})
		call(202, "DESTROY_VOLUMES", "destroy_volumes", id, `"volumes":[`+volume("120", stack)+`]`)
		call(202, "UNRESERVE_RESOURCES", "unreserve_resources", id, `"resources":[`+scalar("cpus", "1", stack)+`,`+scalar("disk", "300", stack)+`]`)
		total(map[string]any{at + "0.scalar.value": 4.0, at + "1.scalar.value": 1000.0, at + "1.role": "*", at + "4": nil})

		legacy := func(want int, path, field, agent, list string) {
			t.Helper()
			body := url.Values{}
			if agent != "" {
				body.Set("slaveId", agent)
			}
			if list != "" {
				body.Set(field, list)
			}
			if status, _, text := c.post(via, path, body.Encode(), "Content-Type", form); status != 403 {
				t.Errorf("%s by anybody: %d %s", path, status, text)
			}
			if status, _, text := c.post(via, path, body.Encode(), "Content-Type", form, "Authorization", o); status != want {
				t.Errorf("%s: %d %s, want %d\n%s", path, status, text, want, list)
			}
		}
		legacy(202, "/reserve", "resources", id, `[`+scalar("disk", "300", old)+`]`)
		legacy(400, "/reserve", "resources", id, `[`+scalar("disk", "300", "")+`]`)
		legacy(400, "/reserve", "resources", id, `{`)
		legacy(400, "/reserve", "resources", id, `[{"name":"cpus"}]`)
		legacy(400, "/reserve", "resources", "", `[`+scalar("disk", "300", old)+`]`)
		legacy(400, "/reserve", "resources", id, "")
		legacy(400, "/reserve", "resources", "none", `[`+scalar("disk", "300", old)+`]`)
		legacy(409, "/reserve", "resources", id, `[`+scalar("disk", "800", old)+`]`)
		legacy(202, "/create-volumes", "volumes", id, `[`+volume("100", old)+`]`)
		legacy(409, "/master/unreserve", "resources", id, `[`+scalar("disk", "300", stack)+`]`)
		legacy(202, "/master/destroy-volumes", "volumes", id, `[`+volume("100", old)+`]`)
		legacy(202, "/unreserve", "resources", id, `[`+scalar("disk", "300", stack)+`]`)
		total(map[string]any{at + "1.scalar.value": 1000.0, at + "1.role": "*", at + "4": nil})
	}
	if status, _, text := c.request("GET", "m1", "/reserve", "", "Authorization", o); status != 405 {
		t.Errorf("GET: %d %s", status, text)
	}
}

// An operation that its framework has not acknowledged is among GET_OPERATIONS.
func TestOperationsAreListed(t *testing.T) {
	c := newCluster(t, auth.Policy{Plaintext: true, Anonymous: nodedoc.AnonymousFramework}, "m1")
	c.agent("m1")
	s := c.subscribeAs("m1", `{"user":"nobody","name":"f","roles":["eng"],"capabilities":[{"type":"MULTI_ROLE"},{"type":"RESERVATION_REFINEMENT"}]}`)
	offer := s.until(scheduler.Event_OFFERS).GetOffers().GetOffers()[0].GetId().GetValue()
	body := `{"framework_id":{"value":"` + s.id + `"},"type":"ACCEPT","accept":{"offer_ids":[{"value":"` + offer + `"}],"operations":[{"type":"RESERVE","id":{"value":"mine"},"reserve":{"resources":[
		{"name":"cpus","type":"SCALAR","scalar":{"value":1},"allocation_info":{"role":"eng"},"reservations":[{"type":"DYNAMIC","role":"eng"}]}]}}]}}`
	if status, _, text := c.post("m1", "/api/v1/scheduler", body, "Content-Type", "application/json", "Mesos-Stream-Id", s.stream); status != 202 {
		t.Fatalf("%d %s", status, text)
	}
	_, _, text := c.post("m1", "/api/v1", `{"type":"GET_OPERATIONS"}`, "Content-Type", "application/json")
	check(t, "GET_OPERATIONS", text, map[string]any{
		"get_operations.operations.0.framework_id.value": s.id, "get_operations.operations.0.info.type": "RESERVE",
		"get_operations.operations.0.latest_status.state": "OPERATION_FINISHED", "get_operations.operations.0.latest_status.operation_id.value": "mine",
		"get_operations.operations.1": nil,
	})
}
