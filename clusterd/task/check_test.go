package task

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// checked is a running task with these checks.
func checked(s *stamps, h *mesosv1.HealthCheck, c *mesosv1.CheckInfo) Task {
	t := launched()
	t.KillingState = false
	t.Info.HealthCheck, t.Info.Check = h, c
	t, _ = Next(t, Run{s.next()})
	t, _ = Next(t, seen(s, 1, keeper.Container_RUNNING, nil))
	return t
}

// saidOfChecks words the updates among actions with what they say of checks, and kills.
func saidOfChecks(t *testing.T, actions []Action) string {
	t.Helper()
	var out []string
	for _, a := range actions {
		switch a := a.(type) {
		case RecordUpdate:
			st := &mesosv1.TaskStatus{}
			if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(a.Update.Status, st); err != nil {
				t.Fatal(err)
			}
			line := strings.TrimPrefix(st.GetState().String(), "TASK_")
			switch st.GetReason() {
			case healthReason:
				line += " health"
			case mesosv1.TaskStatus_REASON_TASK_CHECK_STATUS_UPDATED:
				line += " check"
			}
			if st.Healthy != nil {
				line += fmt.Sprintf(" healthy=%v", st.GetHealthy())
			}
			if c := st.GetCheckStatus(); c != nil {
				line += " " + wordCheckStatus(c)
			}
			out = append(out, line)
		case RecordKill:
			out = append(out, fmt.Sprintf("kill %s", a.Grace))
		}
	}
	return strings.Join(out, ", ")
}

func wordCheckStatus(c *mesosv1.CheckStatusInfo) string {
	value := ""
	switch {
	case c.GetCommand() != nil && c.Command.ExitCode != nil:
		value = fmt.Sprint(c.GetCommand().GetExitCode())
	case c.GetHttp() != nil && c.Http.StatusCode != nil:
		value = fmt.Sprint(c.GetHttp().GetStatusCode())
	case c.GetTcp() != nil && c.Tcp.Succeeded != nil:
		value = fmt.Sprint(c.GetTcp().GetSucceeded())
	}
	return fmt.Sprintf("%s(%s)", c.GetType(), value)
}

func TestHealthChecks(t *testing.T) {
	command := func() *mesosv1.HealthCheck {
		return &mesosv1.HealthCheck{Command: &mesosv1.CommandInfo{Value: proto.String("true")}}
	}
	with := func(change func(*mesosv1.HealthCheck)) *mesosv1.HealthCheck {
		h := command()
		change(h)
		return h
	}
	ok, bad := Found{}, Found{ExitCode: 1}
	type at struct {
		running time.Duration
		found   Found
	}
	const late = time.Hour
	for _, test := range []struct {
		name  string
		check *mesosv1.HealthCheck
		seen  []at
		want  []string
	}{
		{"the first success is told, the others are not", command(), []at{{late, ok}, {late, ok}}, []string{"RUNNING health healthy=true", ""}},
		{
			"every failure is told, and the third in a row ends the task", command(),
			[]at{{late, bad}, {late, bad}, {late, bad}},
			[]string{"RUNNING health healthy=false", "RUNNING health healthy=false", "RUNNING health healthy=false, kill 3s"},
		},
		{
			"a success is told after failures, and their count begins again", command(),
			[]at{{late, bad}, {late, bad}, {late, ok}, {late, bad}, {late, bad}},
			[]string{"RUNNING health healthy=false", "RUNNING health healthy=false", "RUNNING health healthy=true", "RUNNING health healthy=false", "RUNNING health healthy=false"},
		},
		{
			"failures within the grace period do not count", command(),
			[]at{{9 * time.Second, bad}, {10 * time.Second, bad}, {10*time.Second + 1, bad}},
			[]string{"", "", "RUNNING health healthy=false"},
		},
		{
			"but for those after the first success", command(),
			[]at{{time.Second, ok}, {2 * time.Second, bad}},
			[]string{"RUNNING health healthy=true", "RUNNING health healthy=false"},
		},
		{
			"without a grace period all count", with(func(h *mesosv1.HealthCheck) { h.GracePeriodSeconds = proto.Float64(0) }),
			[]at{{0, bad}},
			[]string{"RUNNING health healthy=false"},
		},
		{
			"the first failure ends it where one is allowed", with(func(h *mesosv1.HealthCheck) { h.ConsecutiveFailures = proto.Uint32(1) }),
			[]at{{late, bad}},
			[]string{"RUNNING health healthy=false, kill 3s"},
		},
		{
			"and where none is", with(func(h *mesosv1.HealthCheck) { h.ConsecutiveFailures = proto.Uint32(0) }),
			[]at{{late, bad}},
			[]string{"RUNNING health healthy=false, kill 3s"},
		},
		{
			"once it is being ended nothing is looked at", with(func(h *mesosv1.HealthCheck) { h.ConsecutiveFailures = proto.Uint32(1) }),
			[]at{{late, bad}, {late, ok}, {late, bad}},
			[]string{"RUNNING health healthy=false, kill 3s", "", ""},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s stamps
			task := checked(&s, test.check, nil)
			for i, e := range test.seen {
				var todo []Action
				task, todo = Next(task, Probed{Stamp: s.next(), Kind: Health, Found: e.found, Running: e.running})
				if got := saidOfChecks(t, todo); got != test.want[i] {
					t.Errorf("probe %d: %q, want %q", i, got, test.want[i])
				}
			}
		})
	}
}

func TestWhatIsHealthy(t *testing.T) {
	for _, test := range []struct {
		of    mesosv1.CheckInfo_Type
		found Found
		want  string // part of what is wrong
	}{
		{mesosv1.CheckInfo_COMMAND, Found{}, ""},
		{mesosv1.CheckInfo_COMMAND, Found{ExitCode: 3}, "status 3"},
		{mesosv1.CheckInfo_COMMAND, Found{Why: "no shell"}, "no shell"},
		{mesosv1.CheckInfo_HTTP, Found{StatusCode: 199}, "199"},
		{mesosv1.CheckInfo_HTTP, Found{StatusCode: 200}, ""},
		{mesosv1.CheckInfo_HTTP, Found{StatusCode: 399}, ""},
		{mesosv1.CheckInfo_HTTP, Found{StatusCode: 400}, "400"},
		{mesosv1.CheckInfo_TCP, Found{}, ""},
		{mesosv1.CheckInfo_TCP, Found{Why: "refused"}, "refused"},
	} {
		if got := (Check{Type: test.of}).failed(test.found); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s, %+v: %q, want %q", test.of, test.found, got, test.want)
		}
	}
}

func TestStatusChecks(t *testing.T) {
	command := &mesosv1.CheckInfo{Command: &mesosv1.CheckInfo_Command{Command: &mesosv1.CommandInfo{Value: proto.String("true")}}}
	http := &mesosv1.CheckInfo{Http: &mesosv1.CheckInfo_Http{Port: proto.Uint32(80)}}
	tcp := &mesosv1.CheckInfo{Tcp: &mesosv1.CheckInfo_Tcp{Port: proto.Uint32(80)}}
	none := Found{Why: "no answer"}
	for _, test := range []struct {
		name  string
		check *mesosv1.CheckInfo
		seen  []Found
		want  []string
	}{
		{
			"each change is told, no failure ends the task", command,
			[]Found{{ExitCode: 1}, {ExitCode: 1}, {ExitCode: 1}, {ExitCode: 1}, {}, {}},
			[]string{"RUNNING check COMMAND(1)", "", "", "", "RUNNING check COMMAND(0)", ""},
		},
		{"no answer from the first on is nothing new", http, []Found{none, none}, []string{"", ""}},
		{
			"no answer any more is told as nothing", http,
			[]Found{{StatusCode: 503}, none, none, {StatusCode: 503}},
			[]string{"RUNNING check HTTP(503)", "RUNNING check HTTP()", "", "RUNNING check HTTP(503)"},
		},
		{"a port without an answer is a result", tcp, []Found{none, none, {}}, []string{"RUNNING check TCP(false)", "", "RUNNING check TCP(true)"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s stamps
			task := checked(&s, nil, test.check)
			for i, f := range test.seen {
				var todo []Action
				task, todo = Next(task, Probed{Stamp: s.next(), Kind: Status, Found: f})
				if got := saidOfChecks(t, todo); got != test.want[i] {
					t.Errorf("probe %d: %q, want %q", i, got, test.want[i])
				}
			}
		})
	}
}

// Every update of a task says what its checks have found: the first ones that there is a
// check, the last one what it found last.
func TestEveryUpdateSaysWhatChecksFound(t *testing.T) {
	var s stamps
	task := launched()
	task.Info.HealthCheck = &mesosv1.HealthCheck{Tcp: &mesosv1.HealthCheck_TCPCheckInfo{Port: proto.Uint32(80)}, ConsecutiveFailures: proto.Uint32(1)}
	task.Info.Check = &mesosv1.CheckInfo{Http: &mesosv1.CheckInfo_Http{Port: proto.Uint32(80)}}
	for _, step := range []struct {
		event Event
		want  string
	}{
		{Run{s.next()}, ""},
		{seen(&s, 1, keeper.Container_RUNNING, nil), "STARTING HTTP(), RUNNING HTTP()"},
		{Probed{Stamp: s.next(), Kind: Health, Running: time.Hour}, "RUNNING health healthy=true HTTP()"},
		{Probed{Stamp: s.next(), Kind: Status, Found: Found{StatusCode: 204}}, "RUNNING check healthy=true HTTP(204)"},
		{Probed{Stamp: s.next(), Kind: Health, Found: Found{Why: "refused"}, Running: time.Hour}, "RUNNING health healthy=false HTTP(204), kill 3s, KILLING healthy=false HTTP(204)"},
		{seen(&s, 2, keeper.Container_ENDED, nil), "KILLED healthy=false HTTP(204)"},
	} {
		var todo []Action
		task, todo = Next(task, step.event)
		if got := saidOfChecks(t, todo); got != step.want {
			t.Errorf("%T: %q, want %q", step.event, got, step.want)
		}
	}
	seenUUIDs := map[[16]byte]bool{}
	for _, u := range task.Pending {
		if seenUUIDs[u.UUID] {
			t.Errorf("two updates have the uuid %x", u.UUID)
		}
		seenUUIDs[u.UUID] = true
	}
}

// A task is looked at from the moment that it runs until its end is asked for, by anybody.
func TestWhenATaskIsChecked(t *testing.T) {
	var s stamps
	begun, _ := Next(launched(), Run{s.next()})
	prepared, _ := Next(begun, seen(&s, 1, keeper.Container_PREPARING, nil))
	runs, _ := Next(prepared, seen(&s, 2, keeper.Container_RUNNING, nil))
	killed, _ := Next(runs, Kill{Stamp: s.next(), Grace: -1})
	overdue, _ := Next(runs, Overdue{s.next()})
	ended, _ := Next(runs, seen(&s, 3, keeper.Container_ENDED, nil))
	lost, _ := Next(runs, Missing{s.next()})
	given := runs
	given.Execution = Execution{ID: "e", Container: "c2"}
	inside := runs
	inside.Execution = Execution{ID: "e", Container: "c2", Inside: true}
	for name, test := range map[string]struct {
		task Task
		want bool
	}{
		"launched": {begun, false}, "in preparation": {prepared, false}, "running": {runs, true},
		"killed": {killed, false}, "out of time": {overdue, false}, "ended": {ended, false}, "lost": {lost, false}, "given to an executor": {given, false}, "inside of a pod": {inside, true},
	} {
		if got := test.task.MayBeChecked(); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A program that starts anew knows what was told, and begins to count again: nobody is
// ended for failures that one before it saw.
func TestCountsBeginAgain(t *testing.T) {
	var s stamps
	fails := Found{Why: "refused"}
	before := checked(&s, &mesosv1.HealthCheck{Tcp: &mesosv1.HealthCheck_TCPCheckInfo{Port: proto.Uint32(80)}}, nil)
	for range 2 {
		before, _ = Next(before, Probed{Stamp: s.next(), Kind: Health, Found: fails, Running: time.Hour})
	}
	after := launched()
	after.Info = before.Info
	for _, u := range before.Pending {
		after = Recorded(after, u)
	}
	after, _ = Next(after, seen(&s, 1, keeper.Container_RUNNING, nil))
	if after.Checked.Healthy == nil || *after.Checked.Healthy {
		t.Fatalf("what was told is forgotten: %+v", after.Checked)
	}
	after, todo := Next(after, Probed{Stamp: s.next(), Kind: Health, Found: fails, Running: time.Second})
	if got := saidOfChecks(t, todo); got != "" {
		t.Errorf("the grace period does not begin again: %q", got)
	}
	after, todo = Next(after, Probed{Stamp: s.next(), Kind: Health, Found: fails, Running: time.Hour})
	if got := saidOfChecks(t, todo); got != "RUNNING health healthy=false" {
		t.Errorf("first failure: %q", got)
	}
	if after.KillRequested {
		t.Error("it was ended")
	}
}

// Nobody acknowledges: reports stop at a bound, the newest is told when there is room
// again, and what ends the task still does.
func TestReportsAreBounded(t *testing.T) {
	var s stamps
	h := &mesosv1.HealthCheck{Tcp: &mesosv1.HealthCheck_TCPCheckInfo{Port: proto.Uint32(80)}, ConsecutiveFailures: proto.Uint32(3 * maxReports)}
	task := checked(&s, h, nil)
	probe := func(why string) (todo []Action) {
		e := Probed{Stamp: s.next(), Kind: Health, Found: Found{Why: why}, Running: time.Hour}
		e.UUIDs[0][2] = byte(task.Checked.failures >> 8)
		task, todo = Next(task, e)
		return todo
	}
	for range 2 * maxReports {
		probe("refused")
	}
	if len(task.Pending) != maxReports {
		t.Fatalf("%d updates wait", len(task.Pending))
	}
	probe("")
	if *task.Checked.Healthy {
		t.Error("a success is remembered as told")
	}
	task.Pending = task.Pending[1:]
	if got := saidOfChecks(t, probe("")); got != "RUNNING health healthy=true" {
		t.Errorf("with room again: %q", got)
	}
	for range 3 * maxReports {
		probe("refused")
	}
	if !task.KillRequested || *task.Checked.Healthy {
		t.Error("it was not ended")
	}
}

func TestChecksOf(t *testing.T) {
	command := &mesosv1.CommandInfo{Value: proto.String("true")}
	for _, test := range []struct {
		name   string
		health *mesosv1.HealthCheck
		check  *mesosv1.CheckInfo
		want   []Check
	}{
		{"none", nil, nil, nil},
		{
			"Mesos' defaults, the type inferred",
			&mesosv1.HealthCheck{Command: command}, &mesosv1.CheckInfo{Command: &mesosv1.CheckInfo_Command{Command: command}},
			[]Check{
				{Kind: Health, Type: mesosv1.CheckInfo_COMMAND, Delay: 15 * time.Second, Interval: 10 * time.Second, Timeout: 20 * time.Second, Command: command, Scheme: "http"},
				{Kind: Status, Type: mesosv1.CheckInfo_COMMAND, Delay: 15 * time.Second, Interval: 10 * time.Second, Timeout: 20 * time.Second, Command: command, Scheme: "http"},
			},
		},
		{
			"bounds",
			&mesosv1.HealthCheck{
				Type: mesosv1.HealthCheck_HTTP.Enum(), DelaySeconds: proto.Float64(0), IntervalSeconds: proto.Float64(0), TimeoutSeconds: proto.Float64(0),
				Http: &mesosv1.HealthCheck_HTTPCheckInfo{Scheme: proto.String("https"), Port: proto.Uint32(443), Path: proto.String("/x"), Protocol: mesosv1.NetworkInfo_IPv6.Enum()},
			},
			&mesosv1.CheckInfo{
				Tcp: &mesosv1.CheckInfo_Tcp{Port: proto.Uint32(7)}, DelaySeconds: proto.Float64(0.25), IntervalSeconds: proto.Float64(1.5), TimeoutSeconds: proto.Float64(math.Inf(1)),
			},
			[]Check{
				{Kind: Health, Type: mesosv1.CheckInfo_HTTP, Interval: LeastInterval, Timeout: MostTimeout, Scheme: "https", Path: "/x", Port: 443, IPv6: true},
				{Kind: Status, Type: mesosv1.CheckInfo_TCP, Delay: 250 * time.Millisecond, Interval: 1500 * time.Millisecond, Timeout: MostTimeout, Scheme: "http", Port: 7},
			},
		},
		{
			"TCP by either protocol",
			&mesosv1.HealthCheck{Tcp: &mesosv1.HealthCheck_TCPCheckInfo{Port: proto.Uint32(7), Protocol: mesosv1.NetworkInfo_IPv6.Enum()}}, nil,
			[]Check{{Kind: Health, Type: mesosv1.CheckInfo_TCP, Delay: 15 * time.Second, Interval: 10 * time.Second, Timeout: 20 * time.Second, Scheme: "http", Port: 7, IPv6: true}},
		},
		{"two things and no type", &mesosv1.HealthCheck{Command: command, Tcp: &mesosv1.HealthCheck_TCPCheckInfo{Port: proto.Uint32(7)}}, &mesosv1.CheckInfo{}, nil},
	} {
		got := ChecksOf(&mesosv1.TaskInfo{HealthCheck: test.health, Check: test.check})
		if len(got) == 0 {
			got = nil
		}
		if d := cmp.Diff(test.want, got, protocmp.Transform()); d != "" {
			t.Errorf("%s: %s", test.name, d)
		}
	}
}
