//go:build vm && bench

package qemutests

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// idleTask waits for ever on one machine.
func idleTask(id string, on cluster.Node) client.Task {
	return client.Task{
		ID: id, CPUs: 0.005, MemMB: 16, Hostname: on.Address.String(),
		Command: &mesosv1.CommandInfo{Value: proto.String("exec sleep 1000000")},
	}
}

// Figure 17: isolated and clusterd are killed at once on the only machine, under a hundred
// containers, to the last container adopted and to the agent attached again.
func TestBenchReadoption(t *testing.T) {
	const containers = 100
	w := newWorld(t, options{nodes: 1, memoryMB: 1024 + 24*containers})
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	only := w.Machines()[0].Node
	f := w.framework(t, false)
	var tasks []client.Task
	for i := range containers {
		tasks = append(tasks, idleTask(fmt.Sprint("idle-", i), only))
	}
	f.start(t, tasks...)
	progress("%d containers run", containers)
	var adopted, attached []time.Duration
	for i := range benchRuns(5) {
		before := w.timesAdopted(t, only)
		began := time.Now()
		for _, program := range []string{"isolated", "clusterd"} {
			if err := w.nodeAPI(only).Kill(t.Context(), program, "KILL"); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, within(t, toNotice+containers), func() error {
			if n := w.timesAdopted(t, only) - before; n < containers {
				return fmt.Errorf("%d of %d containers are adopted", n, containers)
			}
			return nil
		})
		adopted = append(adopted, time.Since(began))
		if err := w.WaitReady(within(t, toNotice+containers)); err != nil {
			t.Fatal(err)
		}
		attached = append(attached, time.Since(began))
		progress("round %d: adopted after %.2f s, attached after %.2f s", i+1, adopted[i].Seconds(), attached[i].Seconds())
	}
	for _, task := range tasks {
		if l, _ := f.Get(task.ID); l.Status.GetState() != mesosv1.TaskState_TASK_RUNNING {
			t.Errorf("%s is %s", task.ID, l.Status.GetState())
		}
	}
	figure{
		number: 17, n: len(adopted), what: fmt.Sprintf("%d containers adopted after isolated and clusterd were killed", containers),
		value: fmt.Sprintf("all adopted p50 %.2f, worst %.2f s; agent attached p50 %.2f, worst %.2f s",
			median(adopted).Seconds(), slices.Max(adopted).Seconds(), median(attached).Seconds(), slices.Max(attached).Seconds()),
		goal: "none; looked at in steps of 0.2 s", reached: true,
	}.note()
}

// timesAdopted is how many containers isolated has said that it adopted.
func (w *world) timesAdopted(t *testing.T, n cluster.Node) int {
	t.Helper()
	log := whole(t, func() (io.ReadCloser, error) { return w.nodeAPI(n).Logs(t.Context(), "isolated", false) })
	return strings.Count(log, `"msg":"container is adopted"`)
}

// Figure 18: a machine that does not lead loses power, to the terminal update of each of
// its tasks at a framework that is not partition-aware.
func TestBenchPowerLoss(t *testing.T) {
	const tasks = 10
	w := newWorld(t, options{nodes: 3})
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	var first, last []time.Duration
	for i := range benchRuns(5) {
		leader, err := w.WaitLeader(within(t, toNotice))
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(w.Machines(), func(m *cluster.Machine) bool { return m.Node.Name != leader.Name })
		dark := w.Machines()[at]
		f := w.frameworkVia(t, false, w.URL(leader, ""))
		var lost []client.Task
		for k := range tasks {
			lost = append(lost, idleTask(fmt.Sprintf("dark-%d-%d", i, k), dark.Node))
		}
		f.start(t, lost...)
		dark.PowerCut()
		began := time.Now()
		var after []time.Duration
		for _, task := range lost {
			if _, err := f.Wait(within(t, toElect), task.ID, client.Ended); err != nil {
				t.Fatal(err)
			}
			after = append(after, time.Since(began))
		}
		first, last = append(first, after[0]), append(last, after[len(after)-1])
		progress("power cut %d: TASK_LOST after %.2f s, the last one after %.2f s", i+1, after[0].Seconds(), last[i].Seconds())
		if err := dark.PowerOn(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.WaitReady(within(t, toElect)); err != nil {
			t.Fatal(err)
		}
	}
	const grace = 25 * time.Second // of silence, after which an agent is given up
	limit := grace + 6*heartbeat()
	figure{
		number: 18, n: len(last), what: fmt.Sprintf("an agent's power cut, to the terminal updates of its %d tasks", tasks), reached: slices.Max(last) <= limit,
		value: fmt.Sprintf("first p50 %.1f, last p50 %.1f, worst %.1f s", median(first).Seconds(), median(last).Seconds(), slices.Max(last).Seconds()),
		goal:  fmt.Sprintf("the grace of %.0f s and 6 heartbeat timeouts = %.0f s", grace.Seconds(), limit.Seconds()),
	}.note()
}
