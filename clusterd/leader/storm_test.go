package leader

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/streams"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
)

// A framework that asks for all its tasks over and over and reads no answer loses its
// stream at the bound of its queue. The leader's memory stays within that, another
// framework is answered meanwhile, and when the first comes back it is told every update
// that it has not acknowledged, in order.
func TestStormOfReconciliationIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tasks = 30
		c := newCell(t)
		defer c.end()
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("storm", "")
		f.next(scheduler.Event_SUBSCRIBED)
		uuids := map[string]string{}
		for i := range tasks {
			id := fmt.Sprintf("t%d", i)
			if err := f.accept(f.offer(), id, 0.1); err != nil {
				t.Fatal(err)
			}
			run := until(a, (*agentwire.FromMaster).GetRun)
			a.report(run.GetContainerId(), byte(i+1), mesosv1.TaskState_TASK_RUNNING)
			st := f.update(mesosv1.TaskState_TASK_RUNNING) // never acknowledged
			uuids[id] = string(st.GetUuid())
		}
		g := c.subscribe("calm", "")
		g.next(scheduler.Event_SUBSCRIBED)
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before, most := heap(), uint64(0)
		all := &scheduler.Call{Type: scheduler.Call_RECONCILE.Enum(), Reconcile: &scheduler.Call_Reconcile{}}
		asked := 0
		for err := error(nil); err == nil; asked++ {
			if err = f.do(all); err != nil && !errors.Is(err, ErrNotSubscribed) {
				t.Fatal(err)
			}
			if asked%500 == 0 {
				most = max(most, heap())
				if err := g.do(all); err != nil {
					t.Fatalf("the other framework, after %d calls of the storm: %v", asked, err)
				}
			}
			if asked > 100_000 {
				t.Fatal("the stream of who reads nothing did not end")
			}
		}
		grown := int64(most) - int64(before)
		// An event that waits is held once decoded and once encoded, beside its place in the queue.
		if limit := int64(8 * streams.DefaultMaxBytes); grown > limit {
			t.Errorf("the leader's memory grew by %d MiB, at most %d MiB are right", grown>>20, limit>>20)
		}
		for range f.events { // reads again, too late
		}
		if err := <-f.over; !errors.Is(err, streams.ErrOverflow) {
			t.Errorf("the stream ended with %v", err)
		}
		back := c.subscribe("storm", f.id)
		back.next(scheduler.Event_SUBSCRIBED)
		for range tasks {
			st := back.update(mesosv1.TaskState_TASK_RUNNING)
			if id := st.GetTaskId().GetValue(); uuids[id] != string(st.GetUuid()) {
				t.Errorf("%s came back with another uuid, or twice", id)
			} else {
				delete(uuids, id)
			}
			back.ack(st)
		}
		t.Logf("%d reconciliations of %d tasks before the stream was ended; memory grew by %d MiB", asked, tasks, grown>>20)
	})
}
