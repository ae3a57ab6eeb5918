package task

import (
	"testing"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

// A drained task is given what its policy says and at most what the drain says, and its end
// is told as the drain's; where the agent will be gone, as that to who knows the state.
func TestDrainedTasks(t *testing.T) {
	aware := &mesosv1.FrameworkInfo{Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_PARTITION_AWARE.Enum()}}}
	policy := &mesosv1.TaskInfo{KillPolicy: &mesosv1.KillPolicy{GracePeriod: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(int64(10 * time.Second))}}}
	for _, test := range []struct {
		name      string
		kill      Kill
		info      *mesosv1.TaskInfo
		framework *mesosv1.FrameworkInfo
		grace     time.Duration
		end       string
	}{
		{"no bound", Kill{Grace: -1, Drain: Draining}, policy, aware, 10 * time.Second, "record KILLED/AGENT_DRAINING"},
		{"a longer bound", Kill{Grace: time.Minute, Drain: Draining}, policy, aware, 10 * time.Second, "record KILLED/AGENT_DRAINING"},
		{"a shorter bound", Kill{Grace: time.Second, Drain: Draining}, policy, aware, time.Second, "record KILLED/AGENT_DRAINING"},
		{"gone, and it knows", Kill{Grace: 0, Drain: DrainingGone}, policy, aware, 0, "record GONE_BY_OPERATOR/AGENT_DRAINING"},
		{"gone, and it does not", Kill{Grace: 0, Drain: DrainingGone}, policy, &mesosv1.FrameworkInfo{}, 0, "record KILLED/AGENT_DRAINING"},
		{"no drain", Kill{Grace: time.Minute}, policy, aware, time.Minute, "record KILLED"},
	} {
		s := stamps{}
		task := Task{Facts: Facts{ContainerID: "c", Info: test.info, Framework: test.framework}, Latest: mesosv1.TaskState_TASK_STAGING}
		task, _ = Next(task, Run{s.next()})
		task, _ = Next(task, seen(&s, 1, keeper.Container_RUNNING, nil))
		test.kill.Stamp = s.next()
		task, _ = Next(task, test.kill)
		if task.KillGrace != test.grace {
			t.Errorf("%s: grace %s, want %s", test.name, task.KillGrace, test.grace)
		}
		_, todo := Next(task, seen(&s, 2, keeper.Container_ENDED, nil))
		if got := told(todo); got != test.end {
			t.Errorf("%s: %s, want %s", test.name, got, test.end)
		}
	}
	// A kill that was asked before becomes the drain's, and is not given longer.
	s := stamps{}
	task := Task{Facts: Facts{ContainerID: "c", Info: policy, Framework: aware}, Latest: mesosv1.TaskState_TASK_STAGING, Known: true}
	task, _ = Next(task, Kill{Stamp: s.next(), Grace: time.Second})
	task, todo := Next(task, Kill{Stamp: s.next(), Grace: -1, Drain: Draining})
	if got := told(todo); got != "record kill 1s, kill 1s" || task.KillGrace != time.Second || task.Drain != Draining {
		t.Errorf("%s, grace %s", got, task.KillGrace)
	}
	if again, _ := Next(task, Kill{Stamp: s.next(), Grace: 0, Drain: Draining}); again.KillGrace != 0 {
		t.Errorf("a stricter drain leaves it %s", again.KillGrace)
	}
	gone, _ := Next(task, Kill{Stamp: s.next(), Grace: -1, Drain: DrainingGone})
	if back, todo := Next(gone, Kill{Stamp: s.next(), Grace: -1, Drain: Draining}); gone.Drain != DrainingGone || back.Drain != Draining || told(todo) != "record kill 1s, kill 1s" {
		t.Errorf("gone, and not any more: %d, then %d: %s", gone.Drain, back.Drain, told(todo))
	}
	if _, todo = Next(task, Kill{Stamp: s.next(), Grace: -1, Drain: Draining}); told(todo) != "kill 1s" {
		t.Errorf("the same again: %s", told(todo))
	}
}
