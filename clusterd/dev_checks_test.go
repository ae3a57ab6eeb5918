package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// quick is a health check that looks each second and ends the task at the second failure.
func quick() *mesosv1.HealthCheck {
	return &mesosv1.HealthCheck{
		DelaySeconds: proto.Float64(0), IntervalSeconds: proto.Float64(1), TimeoutSeconds: proto.Float64(20), GracePeriodSeconds: proto.Float64(0),
		ConsecutiveFailures: proto.Uint32(2),
	}
}

func healthyIs(want bool) func(client.Launched) bool {
	return func(l client.Launched) bool { return l.Status.GetHealthy() == want && l.Status.Healthy != nil }
}

// Tasks are looked at by each kind of check: pages and ports on this machine's own
// network, commands beside the task. What is found reaches the framework, and a task that
// is not well is ended, also after clusterd has been killed and started again.
func TestDevChecks(t *testing.T) {
	p := newTaskProcesses(t, 1)
	p.start(0)
	l, _ := p.launcher(false)
	var status atomic.Int32
	status.Store(http.StatusOK)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" {
			w.WriteHeader(int(status.Load()))
		}
	}))
	defer page.Close()
	port, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	mark := filepath.Join(t.TempDir(), "mark")
	setMark := func(to string) {
		t.Helper()
		if err := os.WriteFile(mark, []byte(to), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	setMark("0")

	byPage, byPort, byCommand := shell("page", "exec sleep 100000"), shell("port", "exec sleep 100000"), shell("command", "exec sleep 100000")
	byPage.HealthCheck, byPort.HealthCheck, byCommand.HealthCheck = quick(), quick(), quick()
	byPage.HealthCheck.Http = &mesosv1.HealthCheck_HTTPCheckInfo{Port: proto.Uint32(portNumber(page.Listener)), Path: proto.String("/health")}
	byPage.Check = &mesosv1.CheckInfo{DelaySeconds: proto.Float64(0), IntervalSeconds: proto.Float64(1), Http: &mesosv1.CheckInfo_Http{Port: proto.Uint32(portNumber(page.Listener)), Path: proto.String("/health")}}
	byPort.HealthCheck.Tcp = &mesosv1.HealthCheck_TCPCheckInfo{Port: proto.Uint32(portNumber(port))}
	byPort.HealthCheck.ConsecutiveFailures = proto.Uint32(1000)
	byPort.Check = &mesosv1.CheckInfo{DelaySeconds: proto.Float64(0), IntervalSeconds: proto.Float64(1), Tcp: &mesosv1.CheckInfo_Tcp{Port: proto.Uint32(portNumber(port))}}
	byCommand.Command.Environment = &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{{Name: proto.String("MARK"), Value: &mark}}}
	byCommand.HealthCheck.Command = &mesosv1.CommandInfo{Value: proto.String(`exit $(cat "$MARK")`)}
	byCommand.Check = &mesosv1.CheckInfo{DelaySeconds: proto.Float64(0), IntervalSeconds: proto.Float64(1), Command: &mesosv1.CheckInfo_Command{
		Command: &mesosv1.CommandInfo{Value: proto.String(`test "$MESOS_TASK_ID" = command && exit $((7 + $(cat "$MARK")))`)},
	}}
	if err := l.Add(t.Context(), byPage, byPort, byCommand); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"page", "port", "command"} {
		p.wait(l, id, healthyIs(true))
	}
	p.wait(l, "page", func(l client.Launched) bool { return l.Status.GetCheckStatus().GetHttp().GetStatusCode() == 200 })
	p.wait(l, "port", func(l client.Launched) bool { return l.Status.GetCheckStatus().GetTcp().GetSucceeded() })
	p.wait(l, "command", func(l client.Launched) bool { return l.Status.GetCheckStatus().GetCommand().GetExitCode() == 7 })
	if _, text := p.get("http://" + p.api(0) + "/state"); strings.Count(text, `"healthy":true`) < 3 {
		t.Errorf("/state does not say that they are well: %s", text)
	}

	status.Store(http.StatusServiceUnavailable)
	ended := p.wait(l, "page", client.Ended).Status
	if ended.GetState() != mesosv1.TaskState_TASK_KILLED || ended.Healthy == nil || ended.GetHealthy() {
		t.Errorf("the one that was not well ended as %v", ended)
	}

	port.Close()
	unwell := p.wait(l, "port", func(l client.Launched) bool {
		return healthyIs(false)(l) && !l.Status.GetCheckStatus().GetTcp().GetSucceeded()
	}).Status
	if unwell.GetState() != mesosv1.TaskState_TASK_RUNNING || unwell.GetCheckStatus().GetTcp().Succeeded == nil {
		t.Errorf("the one that may fail a thousand times: %v", unwell)
	}

	p.kill(0)
	p.start(0)
	setMark("1")
	p.wait(l, "command", healthyIs(false))
	ended = p.wait(l, "command", client.Ended).Status
	if ended.GetState() != mesosv1.TaskState_TASK_KILLED || ended.Healthy == nil || ended.GetHealthy() || ended.GetCheckStatus().GetCommand() == nil {
		t.Errorf("after a restart: %v", ended)
	}
}

func portNumber(l net.Listener) uint32 {
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

// What a task's checks get wrong is its framework's to hear, as of any task.
func TestDevBadCheck(t *testing.T) {
	p := newTaskProcesses(t, 1)
	p.start(0)
	l, _ := p.launcher(true)
	bad := shell("bad", "true")
	bad.HealthCheck = &mesosv1.HealthCheck{Type: mesosv1.HealthCheck_HTTP.Enum()}
	if err := l.Add(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	s := p.wait(l, "bad", client.Ended).Status
	if s.GetState() != mesosv1.TaskState_TASK_ERROR || s.GetReason() != mesosv1.TaskStatus_REASON_TASK_INVALID || !strings.Contains(s.GetMessage(), "expecting 'http' to be set") {
		t.Error(fmt.Sprint(s))
	}
}
