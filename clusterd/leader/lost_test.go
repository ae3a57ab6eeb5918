package leader

import (
	"testing"
	"testing/synctest"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
)

// An agent comes back without tasks of which it told before (its journal was damaged and
// the keeper's records are lost, too): it is asked for those, never told to begin them
// again, and what it says ends them. What it holds it is not asked for.
func TestAnAgentComesBackWithoutATask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		a.attach("n1")
		f := c.subscribe("f", "", partitioned)
		f.next(scheduler.Event_SUBSCRIBED)
		lost, held := "", ""
		for i, id := range []string{"lost", "held"} {
			if err := f.accept(f.offer(), id, 1); err != nil {
				t.Fatal(err)
			}
			run := until(a, (*agentwire.FromMaster).GetRun)
			a.report(run.GetContainerId(), byte(1+i), mesosv1.TaskState_TASK_RUNNING)
			f.ack(f.update(mesosv1.TaskState_TASK_RUNNING))
			lost, held = held, run.GetContainerId()
		}
		a.conn.Close()
		synctest.Wait()

		again := c.agent("n1")
		defer again.conn.Close()
		again.id = a.id
		again.attach("n1", &agentwire.Held{ContainerId: held, TaskId: "held", State: int32(mesosv1.TaskState_TASK_RUNNING)})
		told := until(again, func(m *agentwire.FromMaster) *agentwire.Run {
			if m.GetRun() != nil {
				t.Fatalf("it is told to begin %s", m.GetRun().GetContainerId())
			}
			return m.GetTold()
		})
		if told.GetContainerId() != lost || len(told.GetTaskInfo()) == 0 {
			t.Fatalf("it is asked for %v, want %s", told, lost)
		}
		again.report(lost, 9, mesosv1.TaskState_TASK_GONE)
		st := f.update(mesosv1.TaskState_TASK_GONE)
		if st.GetTaskId().GetValue() != "lost" {
			t.Errorf("told %v", st)
		}
		f.ack(st)
		for {
			m := again.next()
			if m.GetTold() != nil || m.GetRun() != nil {
				t.Errorf("it is asked for %v as well", m)
			}
			if m.GetForget() != nil {
				break
			}
		}
		f.offer() // what the task had is offered again
	})
}
