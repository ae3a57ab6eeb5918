package task

import (
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

// What the keeper says of a running container is told with TASK_RUNNING, and only then.
func TestRunningSaysWhatIsIgnored(t *testing.T) {
	var s stamps
	says := func(c *keeper.Container) { c.Message = "ignored" }
	for phase, want := range map[keeper.Container_Phase]map[mesosv1.TaskState]string{
		keeper.Container_RUNNING: {mesosv1.TaskState_TASK_STARTING: "", mesosv1.TaskState_TASK_RUNNING: "ignored"},
		keeper.Container_ENDED:   {mesosv1.TaskState_TASK_RUNNING: "", mesosv1.TaskState_TASK_FINISHED: "Command exited with status 0"},
	} {
		_, actions := Next(launched(), seen(&s, 1, phase, says))
		for _, a := range actions {
			u, ok := a.(RecordUpdate)
			if !ok {
				continue
			}
			st := &mesosv1.TaskStatus{}
			if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(u.Update.Status, st); err != nil {
				t.Fatal(err)
			}
			message, due := want[st.GetState()]
			if !due || st.GetMessage() != message {
				t.Errorf("%s: %s with %q, want %q", phase, st.GetState(), st.GetMessage(), message)
			}
			delete(want, st.GetState())
		}
		if len(want) > 0 {
			t.Errorf("%s: not told: %v", phase, want)
		}
	}
}
