//go:build vm

package qemutests

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// looks says what a process is and may do, in one line of shell that a task and its check
// run alike.
const looks = `(grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/self/status; ` +
	`for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done; cat /proc/self/limits /proc/self/oom_score_adj; ` +
	`echo $PWD $HOME $MESOS_TASK_ID $MINE) > .$FILE && mv .$FILE $FILE`

// tries opens for writing what every process that appears beside it is made from, and
// says what it could.
const tries = `while :; do for p in /proc/[0-9]*; do (: >> $p/exe) 2>/dev/null && echo opened $p; done; sleep 0.1; done`

func everySecond() *mesosv1.HealthCheck {
	return &mesosv1.HealthCheck{
		DelaySeconds: proto.Float64(0), IntervalSeconds: proto.Float64(1), GracePeriodSeconds: proto.Float64(0), ConsecutiveFailures: proto.Uint32(2),
	}
}

// onBase is a shell line without an image, with these variables.
func (f *framework) onBase(t *testing.T, id, line, user string, env ...string) client.Task {
	t.Helper()
	task := f.task(t, id)
	task.Container, task.Command = nil, &mesosv1.CommandInfo{Value: &line, Environment: &mesosv1.Environment{}}
	if user != "" {
		task.Command.User = &user
	}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		task.Command.Environment.Variables = append(task.Command.Environment.Variables, &mesosv1.Environment_Variable{Name: &name, Value: &value})
	}
	return task
}

// Checks look into a task's own network, and run commands as the task runs, with no more
// rights; a task that is not well any more is ended.
func TestChecks(t *testing.T) {
	w := three(t)
	stopwatch(t)
	f := w.framework(t, false)

	web := f.task(t, "web", "serve")
	web.Command.Environment = &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{{Name: proto.String("PORT0"), Value: proto.String("8080")}}}
	web.HealthCheck = everySecond()
	web.HealthCheck.Http = &mesosv1.HealthCheck_HTTPCheckInfo{Port: proto.Uint32(8080), Path: proto.String("/")}
	web.HealthCheck.GracePeriodSeconds = proto.Float64(60)
	web.Check = &mesosv1.CheckInfo{Tcp: &mesosv1.CheckInfo_Tcp{Port: proto.Uint32(8080)}, DelaySeconds: proto.Float64(0), IntervalSeconds: proto.Float64(1)}

	sick := f.onBase(t, "sick", "exec sleep 100000", "")
	sick.HealthCheck = everySecond()
	sick.HealthCheck.Command = &mesosv1.CommandInfo{Value: proto.String("test ! -e sick && touch sick")}

	tasks := []client.Task{web, sick}
	for _, user := range []string{"", "1234"} {
		same := f.onBase(t, "same"+user, "FILE=own; "+looks+"; "+tries, user, "MINE=mine")
		same.Check = &mesosv1.CheckInfo{DelaySeconds: proto.Float64(0), IntervalSeconds: proto.Float64(1), Command: &mesosv1.CheckInfo_Command{
			Command: &mesosv1.CommandInfo{Value: proto.String("FILE=check; " + looks), User: proto.String("root")}, // the task's counts
		}}
		tasks = append(tasks, same)
	}
	running := f.start(t, tasks...)

	_, err := f.Wait(within(t, toRun), "web", func(l client.Launched) bool {
		return l.Status.GetHealthy() && l.Status.GetCheckStatus().GetTcp().GetSucceeded()
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range running[2:] {
		f.wantSame(t, l)
	}
	ended, err := f.Wait(within(t, toRun), "sick", client.Ended)
	if err != nil {
		t.Fatal(err)
	}
	wantState(t, ended, mesosv1.TaskState_TASK_KILLED)
	if ended.Status.Healthy == nil || ended.Status.GetHealthy() {
		t.Errorf("the sick one ended as %v", ended.Status)
	}
	f.wantHealth(t, "sick", true, false, false)
	for _, l := range running[2:] {
		if out := f.output(t, l, "stdout"); out != "" {
			t.Errorf("%s could write what runs beside it: %s", l.Task.ID, out)
		}
		if now, _ := f.Get(l.Task.ID); now.Done() {
			t.Errorf("%s ended: %v", l.Task.ID, now.Status)
		}
	}
}

// wantSame fails the test unless a task's check sees and may do what the task does.
func (f *framework) wantSame(t *testing.T, l client.Launched) {
	t.Helper()
	seen := map[string]string{}
	for _, file := range []string{"own", "check"} {
		eventually(t, within(t, toRun), func() error {
			var err error
			if seen[file], err = f.tryOutput(t, l, file); err == nil && seen[file] == "" {
				err = errors.New("nothing is in it")
			}
			if err != nil {
				return fmt.Errorf("%s of %s: %w", file, l.Task.ID, err)
			}
			return nil
		})
	}
	if seen["own"] != seen["check"] {
		t.Errorf("%s is\n%s\nand its check\n%s", l.Task.ID, seen["own"], seen["check"])
	}
	if !strings.Contains(seen["own"], "Seccomp:\t2") || !strings.Contains(seen["own"], l.Task.ID+" mine") {
		t.Errorf("%s says %s", l.Task.ID, seen["own"])
	}
}

// wantHealth fails the test unless a task's health was told in this order.
func (f *framework) wantHealth(t *testing.T, id string, want ...bool) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var got []bool
	told := map[string]bool{}
	for _, s := range f.history[id] {
		if s.GetReason() == mesosv1.TaskStatus_REASON_TASK_HEALTH_CHECK_STATUS_UPDATED && !told[string(s.GetUuid())] {
			told[string(s.GetUuid())] = true
			got = append(got, s.GetHealthy())
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the health of %s was told as %v, want %v", id, got, want)
	}
}
