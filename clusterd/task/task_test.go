package task

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

func launched() Task {
	return Task{
		Facts: Facts{
			ContainerID: "c1", FrameworkID: "f1", AgentID: "a1", AgentAddress: "10.0.0.1", KillingState: true,
			Info: &mesosv1.TaskInfo{Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String("t1")}},
		},
		Latest: mesosv1.TaskState_TASK_STAGING,
	}
}

// stamps gives each event other uuids.
type stamps struct{ n byte }

func (s *stamps) next() Stamp {
	s.n++
	st := Stamp{Now: time.Unix(int64(s.n), 0)}
	st.UUIDs[0][0], st.UUIDs[1][0], st.UUIDs[1][1] = s.n, s.n, 1
	return st
}

func seen(s *stamps, seq uint64, phase keeper.Container_Phase, change func(*keeper.Container)) Observed {
	c := &keeper.Container{ContainerId: "c1", Phase: phase, Sequence: seq}
	if change != nil {
		change(c)
	}
	return Observed{Stamp: s.next(), Container: c}
}

// told words actions as a script would.
func told(actions []Action) string {
	var out []string
	for _, a := range actions {
		switch a := a.(type) {
		case RecordUpdate:
			st := &mesosv1.TaskStatus{}
			if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(a.Update.Status, st); err != nil {
				out = append(out, err.Error())
				continue
			}
			line := "record " + strings.TrimPrefix(st.GetState().String(), "TASK_")
			if st.Reason != nil {
				line += "/" + strings.TrimPrefix(st.GetReason().String(), "REASON_")
			}
			out = append(out, line)
		case RecordKill:
			out = append(out, fmt.Sprintf("record kill %s", a.Grace))
		case RecordAcknowledged:
			out = append(out, "record ack")
		case KillContainer:
			out = append(out, fmt.Sprintf("kill %s", a.Grace))
		default:
			out = append(out, strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", a), "task.")))
		}
	}
	return strings.Join(out, ", ")
}

func TestLives(t *testing.T) {
	exited := func(code int) func(*keeper.Container) {
		return func(c *keeper.Container) { c.WaitStatus = uint32(code << 8) }
	}
	var s stamps
	tests := []struct {
		name   string
		events []Event
		want   []string
	}{
		{"finishes", []Event{
			Run{s.next()},
			seen(&s, 1, keeper.Container_PULLING, nil), seen(&s, 2, keeper.Container_PREPARING, nil),
			seen(&s, 3, keeper.Container_RUNNING, nil), seen(&s, 4, keeper.Container_ENDED, nil),
		}, []string{"launch", "", "record STARTING, send", "record RUNNING", "record FINISHED"}},
		{"fails", []Event{
			Run{s.next()}, seen(&s, 1, keeper.Container_RUNNING, nil), seen(&s, 2, keeper.Container_ENDED, exited(3)),
		}, []string{"launch", "record STARTING, send, record RUNNING", "record FAILED"}},
		{"ends before it was seen to run", []Event{
			Run{s.next()}, seen(&s, 1, keeper.Container_ENDED, nil),
		}, []string{"launch", "record RUNNING, send, record FINISHED"}},
		{"out of memory", []Event{
			Run{s.next()},
			seen(&s, 1, keeper.Container_RUNNING, nil),
			seen(&s, 2, keeper.Container_ENDED, func(c *keeper.Container) {
				c.WaitStatus, c.Limitation = uint32(syscall.SIGKILL), keeper.Container_MEMORY
			}),
		}, []string{"launch", "record STARTING, send, record RUNNING", "record FAILED/CONTAINER_LIMITATION_MEMORY"}},
		{"bad image", []Event{
			Run{s.next()}, seen(&s, 1, keeper.Container_FAILED, func(c *keeper.Container) { c.Failure = keeper.Container_IMAGE }),
		}, []string{"launch", "record FAILED/CONTAINER_LAUNCH_FAILED, send"}},
		{"killed while running", []Event{
			Run{s.next()},
			seen(&s, 1, keeper.Container_RUNNING, nil),
			Kill{Stamp: s.next(), Grace: -1},
			Kill{Stamp: s.next(), Grace: time.Minute},
			Kill{Stamp: s.next(), Grace: time.Second},
			seen(&s, 2, keeper.Container_ENDED, func(c *keeper.Container) { c.WaitStatus = uint32(syscall.SIGTERM) }),
		}, []string{
			"launch", "record STARTING, send, record RUNNING", "record kill 3s, kill 3s, record KILLING",
			"kill 3s", "record kill 1s, kill 1s", "record KILLED",
		}},
		{"killed during launch", []Event{
			Run{s.next()}, Kill{Stamp: s.next(), Grace: -1}, seen(&s, 1, keeper.Container_FAILED, func(c *keeper.Container) { c.Failure = keeper.Container_KILLED_DURING_LAUNCH }),
		}, []string{"launch", "record kill 3s, kill 3s", "record KILLED/TASK_KILLED_DURING_LAUNCH, send"}},
		{"too long", []Event{
			Run{s.next()},
			seen(&s, 1, keeper.Container_RUNNING, nil),
			Overdue{s.next()},
			Overdue{s.next()},
			seen(&s, 2, keeper.Container_ENDED, func(c *keeper.Container) { c.WaitStatus = uint32(syscall.SIGTERM) }),
		}, []string{"launch", "record STARTING, send, record RUNNING", "kill 3s", "", "record FAILED/MAX_COMPLETION_TIME_REACHED"}},
		{"keeper lost its records before it saw the launch", []Event{
			Run{s.next()}, Missing{s.next()},
		}, []string{"launch", "launch"}},
		{"keeper lost its records of a running container", []Event{
			Run{s.next()}, seen(&s, 1, keeper.Container_RUNNING, nil), Missing{s.next()}, seen(&s, 2, keeper.Container_ENDED, nil),
		}, []string{"launch", "record STARTING, send, record RUNNING", "record FAILED/EXECUTOR_TERMINATED", ""}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			task := launched()
			for i, e := range test.events {
				var actions []Action
				task, actions = Next(task, e)
				if got := told(actions); got != test.want[i] {
					t.Errorf("event %d (%T):\n got %s\nwant %s", i, e, got, test.want[i])
				}
			}
		})
	}
}

func TestTombstoneNeverStarts(t *testing.T) {
	var s stamps
	task := launched()
	task.Tombstone, task.KillRequested = true, true
	task, actions := Next(task, Run{s.next()})
	if got, want := told(actions), "record KILLED/TASK_KILLED_DURING_LAUNCH, send"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, actions = Next(task, Run{s.next()}); told(actions) != "send" {
		t.Errorf("asked again: %s", told(actions))
	}
}

func TestUpdatesGoOneByOne(t *testing.T) {
	var s stamps
	task, _ := Next(launched(), Run{s.next()})
	task, _ = Next(task, seen(&s, 1, keeper.Container_RUNNING, nil))
	task, _ = Next(task, seen(&s, 2, keeper.Container_ENDED, nil))
	if len(task.Pending) != 3 {
		t.Fatalf("%d pending", len(task.Pending))
	}
	first, last := task.Pending[0].UUID, task.Pending[2].UUID
	var actions []Action
	task, actions = Next(task, Acknowledged{first})
	if told(actions) != "record ack, send" {
		t.Errorf("first: %s", told(actions))
	}
	if again, a := Next(task, Acknowledged{first}); len(a) != 0 || len(again.Pending) != 2 {
		t.Errorf("a repeated acknowledgement did %s", told(a))
	}
	// The acknowledgement of a later update implies those before it.
	task, actions = Next(task, Acknowledged{last})
	if told(actions) != "record ack, forgetcontainer" || !task.Done || len(task.Pending) != 0 {
		t.Errorf("last: %s, %+v", told(actions), task)
	}
}

// However events come, and come again, a task has at most one terminal update, and it
// is the last.
func TestRandomEventsKeepTheSequence(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	terminals := 0
	for range 2000 {
		var s stamps
		task, all := launched(), []mesosv1.TaskState{}
		task.Info.HealthCheck = &mesosv1.HealthCheck{Tcp: &mesosv1.HealthCheck_TCPCheckInfo{}, ConsecutiveFailures: proto.Uint32(2), GracePeriodSeconds: proto.Float64(0)}
		for step := range 30 {
			var e Event
			switch r.IntN(8) {
			case 0:
				e = Run{s.next()}
			case 1:
				e = Kill{Stamp: s.next(), Grace: time.Duration(r.IntN(5)-1) * time.Second, Drain: Drain(r.IntN(3))}
			case 2:
				e = Missing{s.next()}
			case 3:
				e = Overdue{s.next()}
			case 4:
				if len(task.Pending) > 0 {
					e = Acknowledged{task.Pending[r.IntN(len(task.Pending))].UUID}
				}
			case 5:
				e = Probed{Stamp: s.next(), Found: Found{Why: []string{"", "refused", "refused"}[r.IntN(3)]}}
			default:
				e = seen(&s, uint64(r.IntN(step+2)), keeper.Container_Phase(r.IntN(6)), func(c *keeper.Container) {
					c.Failure = keeper.Container_Failure(r.IntN(7))
					c.WaitStatus = uint32(r.IntN(3))
				})
			}
			if e == nil {
				continue
			}
			var actions []Action
			task, actions = Next(task, e)
			for _, a := range actions {
				if u, ok := a.(RecordUpdate); ok {
					all = append(all, u.Update.State)
				}
			}
		}
		for i, state := range all {
			if IsTerminal(state) {
				terminals++
				if i != len(all)-1 {
					t.Fatalf("updates after the terminal one: %v", all)
				}
			}
		}
	}
	if terminals == 0 {
		t.Fatal("no run ever ended: the test tests nothing")
	}
}

// A kill for max_completion_time keeps its reason when the program that asked for it died
// before the end was seen; a kill that somebody asked for is one all the same.
func TestOverdueBeforeARestart(t *testing.T) {
	for _, c := range []struct {
		limit, asked bool
		want         string
	}{
		{true, false, "record FAILED/MAX_COMPLETION_TIME_REACHED"},
		{true, true, "record KILLED"},
		{false, false, "record KILLED"},
	} {
		s := stamps{}
		task := launched()
		task.Latest, task.Known, task.KillRequested = mesosv1.TaskState_TASK_RUNNING, true, c.asked
		if c.limit {
			task.Info.MaxCompletionTime = &mesosv1.DurationInfo{Nanoseconds: proto.Int64(1)}
		}
		_, actions := Next(task, seen(&s, 2, keeper.Container_ENDED, func(c *keeper.Container) { c.KillRequested, c.WaitStatus = true, 15 }))
		if got := told(actions); !strings.Contains(got, c.want) {
			t.Errorf("limit %t, asked %t: %s", c.limit, c.asked, got)
		}
	}
}
