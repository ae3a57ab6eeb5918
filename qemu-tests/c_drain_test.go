//go:build vm

package qemutests

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// operate makes an operator's call and gives its answer.
func (w *world) operate(t *testing.T, body string) string {
	t.Helper()
	resp, err := w.Client().Post(w.APIs()[0]+"/api/v1", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s: %s %s %v", body, resp.Status, text, err)
	}
	return string(text)
}

// A drained node ends its tasks within the drain's grace and says why; the other nodes go
// on; used again, it takes tasks as before.
func TestDrainedNode(t *testing.T) {
	w := three(t)
	stopwatch(t)
	f := w.framework(t, false)
	patient := f.task(t, "patient", "stay") // hears TERM and stays
	patient.Hostname = w.Machines()[2].Node.Address.String()
	patient.Grace = graceOf(10 * time.Minute)
	elsewhere := f.task(t, "elsewhere", "live")
	elsewhere.Hostname = w.Machines()[1].Node.Address.String()
	f.start(t, patient, elsewhere)
	running, _ := f.Get("patient")
	agent := running.Status.GetAgentId().GetValue()
	call := func(kind, field, more string) {
		t.Helper()
		w.operate(t, fmt.Sprintf(`{"type":%q,%q:{"agent_id":{"value":%q}%s}}`, kind, field, agent, more))
	}
	call("DRAIN_AGENT", "drain_agent", `,"max_grace_period":{"seconds":1}`)
	ended, err := f.Wait(within(t, toRun), "patient", client.Ended)
	if err != nil {
		t.Fatal(err)
	}
	wantState(t, ended, mesosv1.TaskState_TASK_KILLED)
	if r := ended.Status.GetReason(); r != mesosv1.TaskStatus_REASON_AGENT_DRAINING {
		t.Errorf("its end is told as %s: %s", r, ended.Status.GetMessage())
	}
	eventually(t, within(t, toRun), func() error {
		var answer struct {
			Agents struct {
				Agents []struct {
					Info struct{ Hostname string } `json:"agent_info"`
					Is   struct{ State string }    `json:"drain_info"`
				}
			} `json:"get_agents"`
		}
		if err := json.Unmarshal([]byte(w.operate(t, `{"type":"GET_AGENTS"}`)), &answer); err != nil {
			return err
		}
		for _, a := range answer.Agents.Agents {
			if a.Info.Hostname == patient.Hostname && a.Is.State == "DRAINED" {
				return nil
			}
		}
		return fmt.Errorf("not drained: %+v", answer)
	})
	if other, _ := f.Get("elsewhere"); other.Done() {
		t.Errorf("a task of another node ended: %v", other.Status)
	}
	call("REACTIVATE_AGENT", "reactivate_agent", "")
	again := f.task(t, "again", "say", "here")
	again.Hostname = patient.Hostname
	wantState(t, f.runToEnd(t, again)[0], mesosv1.TaskState_TASK_FINISHED)
}
