//go:build vm

package qemutests

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

func graceOf(d time.Duration) *mesosv1.KillPolicy {
	return &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(int64(d))}}
}

// KILL is TERM, then the grace, then KILL: who listens ends by itself within a grace of
// hours, who does not is ended after a short one, and who cannot even hear TERM at once.
func TestKillWithGrace(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	polite := f.task(t, "polite", "live")
	polite.Grace = graceOf(time.Hour)
	stubborn := f.task(t, "stubborn", "stay")
	stubborn.Grace = graceOf(time.Second)
	deaf := f.task(t, "deaf")
	deaf.Container, deaf.Grace = nil, graceOf(time.Hour) // base's sleep has no handler, and nobody beside it
	deaf.Command = &mesosv1.CommandInfo{Shell: proto.Bool(false), Value: proto.String("/bin/sleep"), Arguments: []string{"sleep", "100000"}}
	running := f.start(t, polite, stubborn, deaf)
	for i, sign := range []string{"born", "born"} {
		eventually(t, within(t, toRun), func() error {
			if !strings.Contains(f.output(t, running[i], "stdout"), sign) {
				return fmt.Errorf("%s is not up", running[i].Task.ID)
			}
			return nil
		})
	}
	ctx := within(t, toRun)
	for _, l := range running {
		if err := f.Kill(ctx, l.Task.ID); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []struct{ says, out string }{
		{"exited with status 0", "asked to end"},
		{"terminated with signal Killed", "asked, and stays"},
		{"terminated with signal Terminated", ""},
	} {
		l, err := f.Wait(ctx, running[i].Task.ID, client.Ended)
		if err != nil {
			t.Fatal(err)
		}
		wantState(t, l, mesosv1.TaskState_TASK_KILLED)
		wantWhy(t, l, mesosv1.TaskStatus_SOURCE_EXECUTOR, none)
		if !strings.Contains(l.Status.GetMessage(), want.says) {
			t.Errorf("%s: %q, want %q", l.Task.ID, l.Status.GetMessage(), want.says)
		}
		if got := f.output(t, l, "stdout"); !strings.Contains(got, want.out) {
			t.Errorf("%s said %q", l.Task.ID, got)
		}
	}
}

// Each way to end is told with its state, source, reason and a sentence.
func TestHowTasksEnd(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	missing := f.task(t, "missing")
	missing.Command = &mesosv1.CommandInfo{Shell: proto.Bool(false), Value: proto.String("/no/such/program")}
	door := f.task(t, "door", "say", "never") // a port of the node that it was not offered
	door.Container.NetworkInfos = []*mesosv1.NetworkInfo{{PortMappings: []*mesosv1.NetworkInfo_PortMapping{{HostPort: proto.Uint32(22), ContainerPort: proto.Uint32(22)}}}}
	other := f.task(t, "other", "say", "never")
	other.Container.NetworkInfos = []*mesosv1.NetworkInfo{{Name: proto.String("elsewhere")}}
	well := f.task(t, "well", "say", "fine")
	well.Container.NetworkInfos = []*mesosv1.NetworkInfo{{Name: proto.String("mesolith")}}
	ended := f.runToEnd(t, well, f.task(t, "code", "exit", "3"), missing, door, other)
	if nets := ended[0].Status.GetContainerStatus().GetNetworkInfos(); len(nets) != 1 || nets[0].GetName() != "mesolith" {
		t.Errorf("asked for by its name, the network is told as %v", nets)
	}
	for i, want := range []struct {
		state  mesosv1.TaskState
		source mesosv1.TaskStatus_Source
		reason mesosv1.TaskStatus_Reason
		says   string
	}{
		{mesosv1.TaskState_TASK_FINISHED, mesosv1.TaskStatus_SOURCE_EXECUTOR, none, "exited with status 0"},
		{mesosv1.TaskState_TASK_FAILED, mesosv1.TaskStatus_SOURCE_EXECUTOR, none, "exited with status 3"},
		{mesosv1.TaskState_TASK_FAILED, mesosv1.TaskStatus_SOURCE_AGENT, mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED, "/no/such/program"},
		{mesosv1.TaskState_TASK_ERROR, mesosv1.TaskStatus_SOURCE_AGENT, mesosv1.TaskStatus_REASON_TASK_INVALID, "host_port 22"},
		{mesosv1.TaskState_TASK_ERROR, mesosv1.TaskStatus_SOURCE_AGENT, mesosv1.TaskStatus_REASON_TASK_INVALID, `network "elsewhere"`},
	} {
		if got := ended[i].Status.GetState(); got != want.state {
			t.Errorf("task %s ended as %s, want %s", ended[i].Task.ID, got, want.state)
		}
		wantWhy(t, ended[i], want.source, want.reason)
		if !strings.Contains(ended[i].Status.GetMessage(), want.says) {
			t.Errorf("task %s: %q does not say %q", ended[i].Task.ID, ended[i].Status.GetMessage(), want.says)
		}
	}
}
