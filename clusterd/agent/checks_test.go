package agent

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/task"
	"github.com/mesolith/mesolith/internal/wire"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// probed answers a probe as the test plays it; without an answer the connection ends.
func (k *playedKeeper) probed(c net.Conn, r *keeper.Request) {
	k.mu.Lock()
	play := k.probe
	k.mu.Unlock()
	out, f := play(r.GetProbe())
	if out == nil {
		c.Close()
		return
	}
	frame, err := wire.Append(nil, &keeper.Response{Id: r.GetId(), Body: &keeper.Response_Probed{Probed: out}})
	if err != nil {
		k.t.Error(err)
		return
	}
	if f != nil {
		defer f.Close()
		if _, _, err := c.(*net.UnixConn).WriteMsgUnix(frame[:1], unix.UnixRights(int(f.Fd())), nil); err != nil {
			return
		}
		frame = frame[1:]
	}
	if _, err := c.Write(frame); err != nil && k.t.Context().Err() == nil {
		k.t.Logf("answer of a probe: %v", err)
	}
}

// play sets what probes find from now on.
func (k *playedKeeper) play(f func(*keeper.Probe) (*keeper.Probed, *os.File)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.probe = f
}

// runChecked launches a task with these checks and takes it to RUNNING.
func (m *playedMaster) runChecked(k *playedKeeper, id string, h *mesosv1.HealthCheck, c *mesosv1.CheckInfo) {
	m.t.Helper()
	l := m.launch(id)
	info := &mesosv1.TaskInfo{}
	if err := proto.Unmarshal(l.GetTaskInfo(), info); err != nil {
		m.t.Fatal(err)
	}
	info.HealthCheck, info.Check = h, c
	raw, err := proto.Marshal(info)
	if err != nil {
		m.t.Fatal(err)
	}
	l.TaskInfo = raw
	m.write(&agentwire.FromMaster{Body: &agentwire.FromMaster_Run{Run: l}})
	k.request()
	k.event(id, keeper.Container_RUNNING, 1)
	m.ack(id, m.update(mesosv1.TaskState_TASK_STARTING))
	m.ack(id, m.update(mesosv1.TaskState_TASK_RUNNING))
}

func commandCheck(failures uint32) *mesosv1.HealthCheck {
	return &mesosv1.HealthCheck{
		Command: &mesosv1.CommandInfo{Value: proto.String("look")}, DelaySeconds: proto.Float64(0), IntervalSeconds: proto.Float64(0),
		GracePeriodSeconds: proto.Float64(0), ConsecutiveFailures: proto.Uint32(failures),
	}
}

func (m *playedMaster) healthy(id string, want bool) *mesosv1.TaskStatus {
	m.t.Helper()
	st := m.update(mesosv1.TaskState_TASK_RUNNING)
	if st.GetReason() != mesosv1.TaskStatus_REASON_TASK_HEALTH_CHECK_STATUS_UPDATED || st.Healthy == nil || st.GetHealthy() != want {
		m.t.Fatalf("update %v, want healthy=%v", st, want)
	}
	m.ack(id, st)
	return st
}

// A task that was well and is not any more is told so each time, and ended.
func TestUnhealthyTaskIsEnded(t *testing.T) {
	k := startKeeper(t)
	n := startNode(t, t.TempDir(), k)
	m := n.master(1, 1)
	m.attach("S1")
	times := 0
	k.play(func(p *keeper.Probe) (*keeper.Probed, *os.File) {
		command := &mesosv1.CommandInfo{}
		if err := proto.Unmarshal(p.GetCommand(), command); err != nil || command.GetValue() != "look" || p.GetContainerId() != "c1" {
			t.Errorf("asked %v (%v)", p, err)
		}
		if left := time.Duration(p.GetTimeoutNs()); left <= 0 || left > 20*time.Second {
			t.Errorf("within %s", left)
		}
		times++
		return &keeper.Probed{ExitCode: int32(min(times-1, 1))}, nil
	})
	m.runChecked(k, "c1", commandCheck(2), nil)
	m.healthy("c1", true)
	if st := m.healthy("c1", false); !strings.Contains(st.GetMessage(), "status 1") {
		t.Errorf("it does not say why: %q", st.GetMessage())
	}
	m.healthy("c1", false)
	if kill := k.request().GetKill(); kill.GetContainerId() != "c1" || time.Duration(kill.GetGraceNs()) != task.DefaultGrace {
		t.Fatalf("asked %v", kill)
	}
	k.play(func(p *keeper.Probe) (*keeper.Probed, *os.File) {
		t.Errorf("probed while it is ended: %v", p)
		return nil, nil
	})
	k.event("c1", keeper.Container_ENDED, 2)
	if st := m.update(mesosv1.TaskState_TASK_KILLED); st.Healthy == nil || st.GetHealthy() {
		t.Errorf("its end says %v", st)
	}
}

// A keeper that cannot be asked, or a program that starts anew, is no failure of a task's.
func TestWhoCannotLookCountsNothing(t *testing.T) {
	k := startKeeper(t)
	dir := t.TempDir()
	n := startNode(t, dir, k)
	m := n.master(1, 1)
	m.attach("S1")
	asked := make(chan struct{}, 100)
	k.play(func(*keeper.Probe) (*keeper.Probed, *os.File) {
		asked <- struct{}{}
		return nil, nil // the connection ends
	})
	m.runChecked(k, "c1", commandCheck(1), nil)
	for range 2 {
		<-asked
	}
	bad := func(*keeper.Probe) (*keeper.Probed, *os.File) { return &keeper.Probed{ExitCode: 1}, nil }
	good := func(*keeper.Probe) (*keeper.Probed, *os.File) { return &keeper.Probed{}, nil }
	k.play(good)
	told := m.healthy("c1", true)
	n.stop()

	n = startNode(t, dir, k)
	m = n.master(1, 1)
	m.attach("S1")
	k.play(bad) // told well before: the first thing that is new is that it is not
	st := m.update(mesosv1.TaskState_TASK_RUNNING)
	if string(st.GetUuid()) == string(told.GetUuid()) { // it ended before it heard
		m.ack("c1", st)
		st = m.update(mesosv1.TaskState_TASK_RUNNING)
	}
	if st.Healthy == nil || st.GetHealthy() {
		t.Fatalf("after a restart: %v", st)
	}
	m.ack("c1", st)
	if kill := k.request().GetKill(); kill.GetContainerId() != "c1" {
		t.Errorf("asked %v", kill)
	}
}

// Of two checks of a task one is made at a time.
func TestOneProbeOfATaskAtATime(t *testing.T) {
	k := startKeeper(t)
	n := startNode(t, t.TempDir(), k)
	m := n.master(1, 1)
	m.attach("S1")
	under, go1 := make(chan string, 100), make(chan struct{})
	k.play(func(p *keeper.Probe) (*keeper.Probed, *os.File) {
		command := &mesosv1.CommandInfo{}
		if err := proto.Unmarshal(p.GetCommand(), command); err != nil {
			t.Error(err)
		}
		under <- command.GetValue()
		<-go1
		return &keeper.Probed{}, nil
	})
	m.runChecked(k, "c1", commandCheck(1), &mesosv1.CheckInfo{
		Command: &mesosv1.CheckInfo_Command{Command: &mesosv1.CommandInfo{Value: proto.String("count")}}, DelaySeconds: proto.Float64(0),
	})
	first := <-under
	select {
	case other := <-under:
		t.Errorf("%s beside %s", other, first)
	case <-time.After(200 * time.Millisecond):
	}
	close(go1)
	if second := <-under; second == first {
		t.Errorf("%s twice, the other one waits", first)
	}
	for range 2 {
		m.ack("c1", m.update(mesosv1.TaskState_TASK_RUNNING))
	}
}

// At most so many are under way on a node; the others wait and come.
func TestProbesOfANodeAreBounded(t *testing.T) {
	k := startKeeper(t)
	n := startNode(t, t.TempDir(), k)
	m := n.master(1, 1)
	m.attach("S1")
	under, goOn := make(chan string, 1000), make(chan struct{})
	k.play(func(p *keeper.Probe) (*keeper.Probed, *os.File) {
		under <- p.GetContainerId()
		<-goOn
		return &keeper.Probed{}, nil
	})
	const tasks = maxProbing + 3
	for i := range tasks {
		h := commandCheck(1)
		h.IntervalSeconds = proto.Float64(1000)
		m.runChecked(k, fmt.Sprintf("c%d", i), h, nil)
	}
	seen := map[string]bool{}
	for range maxProbing {
		seen[<-under] = true
	}
	select {
	case id := <-under:
		t.Errorf("one too many: %s", id)
	case <-time.After(200 * time.Millisecond):
	}
	close(goOn)
	for range tasks - maxProbing {
		seen[<-under] = true
	}
	if len(seen) != tasks {
		t.Errorf("%d tasks of %d were looked at", len(seen), tasks)
	}
}

// connectHere plays isolated, which connects to a port of this machine.
func connectHere(p *keeper.Probe) (*keeper.Probed, *os.File) {
	c, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", fmt.Sprint(p.GetConnect().GetPort())))
	if err != nil {
		return &keeper.Probed{Why: err.Error()}, nil
	}
	defer c.Close()
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		return &keeper.Probed{Why: err.Error()}, nil
	}
	return &keeper.Probed{}, f
}

func TestHTTPProbes(t *testing.T) {
	k := startKeeper(t)
	k.play(connectHere)
	mux := http.NewServeMux()
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code := 0
		fmt.Sscan(r.PathValue("code"), &code)
		w.WriteHeader(code)
	})
	mux.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.Query().Get("there"))
		w.WriteHeader(http.StatusFound)
	})
	mux.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", 2*maxHeaderBytes))
	})
	stop := make(chan struct{})
	mux.HandleFunc("/hangs", func(http.ResponseWriter, *http.Request) { <-stop })
	port := serveHere(t, mux)
	raw := serveRaw(t, "\xff\x00 this is no HTTP\r\n\r\n")
	t.Cleanup(func() { close(stop) })
	p := prober{keeper: Sandbox{Socket: k.path}}
	for _, test := range []struct {
		path string
		port uint32
		code uint32
		why  string // part of it; empty: there is a code
	}{
		{"/status/200", port, 200, ""},
		{"/status/503", port, 503, ""},
		{"/to?there=/status/404", port, 404, ""},
		{"/to?there=" + fmt.Sprintf("http://localhost:%d/status/201", port), port, 201, ""},
		// Elsewhere nobody is asked: the redirect is the answer.
		{"/to?there=http://127.0.0.1:1/", port, 302, ""},
		{"/to?there=http://example.org/", port, 302, ""},
		{"/to?there=/to?there=/to", port, 302, ""}, // the last one leads nowhere
		{"/hangs", port, 0, "no answer within"},
		{"/long", port, 0, "exceeded"},
		{"/", raw, 0, "malformed"},
		{"/", 1, 0, "refused"},
	} {
		c := task.Check{Type: mesosv1.CheckInfo_HTTP, Scheme: "http", Port: test.port, Path: test.path, Timeout: time.Minute}
		if test.path == "/hangs" {
			c.Timeout = 300 * time.Millisecond
		}
		got, err := p.probe(t.Context(), "c1", c)
		if err != nil || got.StatusCode != test.code || (got.Why == "") != (test.why == "") || !strings.Contains(got.Why, test.why) {
			t.Errorf("%s: %+v, %v; want %d %q", test.path, got, err, test.code, test.why)
		}
	}
	loop := task.Check{Type: mesosv1.CheckInfo_HTTP, Scheme: "http", Port: port, Path: "/to?there=" + "/loop", Timeout: time.Minute}
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	if got, err := p.probe(t.Context(), "c1", loop); err != nil || !strings.Contains(got.Why, "redirects") {
		t.Errorf("a loop: %+v, %v", got, err)
	}
}

func TestHTTPSAndTCPProbes(t *testing.T) {
	k := startKeeper(t)
	k.play(connectHere)
	server := newTLSServer(t)
	p := prober{keeper: Sandbox{Socket: k.path}}
	c := task.Check{Type: mesosv1.CheckInfo_HTTP, Scheme: "https", Port: server, Timeout: time.Minute}
	if got, err := p.probe(t.Context(), "c1", c); err != nil || got.StatusCode != 200 {
		t.Errorf("a certificate that nobody vouches for: %+v, %v", got, err)
	}
	c.Type = mesosv1.CheckInfo_TCP
	if got, err := p.probe(t.Context(), "c1", c); err != nil || got.Why != "" {
		t.Errorf("TCP: %+v, %v", got, err)
	}
	c.Port = 1
	if got, err := p.probe(t.Context(), "c1", c); err != nil || !strings.Contains(got.Why, "refused") {
		t.Errorf("TCP, nobody listens: %+v, %v", got, err)
	}
	k.play(func(*keeper.Probe) (*keeper.Probed, *os.File) { return &keeper.Probed{}, nil })
	if _, err := p.probe(t.Context(), "c1", c); err == nil {
		t.Error("an answer without its connection is taken for one")
	}
}
