package agent

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/task"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// A task's max_completion_time is counted from its first sight on: a clock that is set
// afterwards neither ends it early nor lets it go on.
func TestTimeOfATaskIsCounted(t *testing.T) {
	const limit = time.Minute
	now := time.Now()
	for name, test := range map[string]struct {
		started time.Time // as its container's record says
		left    time.Duration
	}{
		"seen as it starts":                       {now, limit},
		"seen by a program that was started anew": {now.Add(-20 * time.Second), 40 * time.Second},
		"the clock was set back since":            {now.Add(5 * time.Hour), limit},
		"over before it was seen":                 {now.Add(-time.Hour), 0},
	} {
		a := &Agent{due: map[string]time.Time{}}
		one := &task.Task{
			Facts: task.Facts{
				ContainerID: "c", Info: &mesosv1.TaskInfo{MaxCompletionTime: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(int64(limit))}},
			},
			Container: &keeper.Container{StartedUnixNs: test.started.UnixNano()},
		}
		for _, after := range []time.Duration{0, test.left, test.left + 1} {
			if got := a.overdue(one, now.Add(after)); got != (after > test.left) {
				t.Errorf("%s: overdue after %s: %v", name, after, got)
			}
		}
		if due := a.due["c"].String(); !strings.Contains(due, " m=") {
			t.Errorf("%s: %s is a time of the clock's", name, due)
		}
	}
	a := &Agent{due: map[string]time.Time{}}
	if a.overdue(&task.Task{Facts: task.Facts{ContainerID: "c", Info: &mesosv1.TaskInfo{}}, Container: &keeper.Container{StartedUnixNs: 1}}, now) || len(a.due) > 0 {
		t.Error("a task without a limit is counted")
	}
}
