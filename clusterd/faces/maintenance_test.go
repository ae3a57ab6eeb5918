package faces

import (
	"strings"
	"testing"

	"github.com/mesolith/mesolith/internal/nodedoc"
)

// Both faces plan maintenance, take machines down, and let them come up again.
func TestMaintenanceByOperators(t *testing.T) {
	c := operated(t, nodedoc.AnonymousReader)
	c.agent("a1") // at 10.0.0.2
	o := basic("o")
	const js = "application/json"
	call := func(via string, want int, body string) {
		t.Helper()
		if status, _, text := c.post(via, "/api/v1", body, "Content-Type", js); status != 403 {
			t.Errorf("anybody: %d %s", status, text)
		}
		if status, _, text := c.post(via, "/api/v1", body, "Content-Type", js, "Authorization", o); status != want {
			t.Errorf("%s: %d %s, want %d", body, status, text, want)
		}
	}
	legacy := func(via string, want int, path, body string) {
		t.Helper()
		if status, _, text := c.post(via, path, body, "Content-Type", js); status != 403 {
			t.Errorf("%s by anybody: %d %s", path, status, text)
		}
		if status, _, text := c.post(via, path, body, "Content-Type", js, "Authorization", o); status != want {
			t.Errorf("%s %s: %d %s, want %d", path, body, status, text, want)
		}
	}
	const windows = `{"windows":[{"machine_ids":[{"hostname":"A1","ip":"10.0.0.2"},{"hostname":"other"}],"unavailability":{"start":{"nanoseconds":5000000000},"duration":{"nanoseconds":60000000000}}}]}`
	shown := func(via string, draining, down any) {
		t.Helper()
		for _, face := range []struct{ text, at, status string }{
			{c.read(via, `{"type":"GET_MAINTENANCE_STATUS"}`), "get_maintenance_status.status.", "GET_MAINTENANCE_STATUS"},
			{c.get(via, "/maintenance/status"), "", "/maintenance/status"},
		} {
			check(t, face.status, face.text, map[string]any{face.at + "draining_machines.0.id.hostname": draining, face.at + "down_machines.0.hostname": down})
		}
	}
	for _, via := range []string{"m1", "a1"} {
		call(via, 200, `{"type":"UPDATE_MAINTENANCE_SCHEDULE","update_maintenance_schedule":{"schedule":`+windows+`}}`)
		for _, bad := range []string{
			`{"windows":[{"machine_ids":[],"unavailability":{"start":{"nanoseconds":5}}}]}`,
			`{"windows":[{"machine_ids":[{}],"unavailability":{"start":{"nanoseconds":5}}}]}`,
			`{"windows":[{"machine_ids":[{"ip":"10.0.0"}],"unavailability":{"start":{"nanoseconds":5}}}]}`,
			`{"windows":[{"machine_ids":[{"hostname":"x"},{"hostname":"X"}],"unavailability":{"start":{"nanoseconds":5}}}]}`,
			`{"windows":[{"machine_ids":[{"hostname":"x"}],"unavailability":{"start":{"nanoseconds":5},"duration":{"nanoseconds":-1}}}]}`,
		} {
			call(via, 400, `{"type":"UPDATE_MAINTENANCE_SCHEDULE","update_maintenance_schedule":{"schedule":`+bad+`}}`)
			legacy(via, 400, "/maintenance/schedule", bad)
		}
		legacy(via, 200, "/maintenance/schedule", windows)
		check(t, "GET_MAINTENANCE_SCHEDULE", c.read(via, `{"type":"GET_MAINTENANCE_SCHEDULE"}`), map[string]any{
			"get_maintenance_schedule.schedule.windows.0.machine_ids.0.hostname": "a1", "get_maintenance_schedule.schedule.windows.0.unavailability.start.nanoseconds": 5e9,
		})
		check(t, "/maintenance/schedule", c.get(via, "/maintenance/schedule"), map[string]any{"windows.0.machine_ids.1.hostname": "other", "windows.0.unavailability.duration.nanoseconds": 60e9})
		shown(via, "a1", nil)
		call(via, 400, `{"type":"START_MAINTENANCE","start_maintenance":{"machines":[{"hostname":"unknown"}]}}`)
		call(via, 400, `{"type":"START_MAINTENANCE","start_maintenance":{"machines":[]}}`)
		call(via, 400, `{"type":"STOP_MAINTENANCE","stop_maintenance":{"machines":[]}}`)
		call(via, 200, `{"type":"START_MAINTENANCE","start_maintenance":{"machines":[{"hostname":"other"}]}}`)
		legacy(via, 400, "/machine/down", `[{"hostname":"other"}]`)
		legacy(via, 400, "/machine/down", `[]`)
		legacy(via, 400, "/machine/down", `{`)
		shown(via, "a1", "other")
		legacy(via, 400, "/maintenance/schedule", `{"windows":[]}`) // one of them is down
		legacy(via, 200, "/machine/up", `[{"hostname":"OTHER"}]`)
		call(via, 400, `{"type":"STOP_MAINTENANCE","stop_maintenance":{"machines":[{"hostname":"other"}]}}`)
		shown(via, "a1", nil)
	}
	legacy("m1", 200, "/machine/down", `[{"hostname":"a1","ip":"10.0.0.2"}]`)
	check(t, "GET_AGENTS", c.read("m1", `{"type":"GET_AGENTS"}`), map[string]any{"get_agents.agents.0": nil})
	call("m1", 200, `{"type":"STOP_MAINTENANCE","stop_maintenance":{"machines":[{"hostname":"a1","ip":"10.0.0.2"}]}}`)
	if text := c.get("m1", "/maintenance/schedule"); strings.Contains(text, "a1") {
		t.Errorf("left of the schedule: %s", text)
	}
	if status, _, _ := c.request("DELETE", "m1", "/maintenance/schedule", "", "Authorization", o); status != 405 {
		t.Errorf("DELETE: %d", status)
	}
}

// read makes a call that only reads; get reads a path.
func (c *cluster) read(via, body string) string {
	c.t.Helper()
	status, _, text := c.post(via, "/api/v1", body, "Content-Type", "application/json")
	if status != 200 {
		c.t.Fatalf("%s: %d %s", body, status, text)
	}
	return text
}

func (c *cluster) get(via, path string) string {
	c.t.Helper()
	status, _, text := c.request("GET", via, path, "")
	if status != 200 {
		c.t.Fatalf("%s: %d %s", path, status, text)
	}
	return text
}
