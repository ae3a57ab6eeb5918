//go:build vm

package qemutests

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// counter is a task that counts, and ends at a number or when it is asked to, with a
// status of its own.
func counter(i, until int) client.Task {
	line := fmt.Sprintf("trap 'echo asked; exit %d' TERM; echo born $(cat /proc/sys/kernel/random/uuid); "+
		"i=0; while [ $i -lt %d ]; do i=$((i+1)); echo beat $i; sleep %d; done; exit %d", status(i), until, 1+killTasks/40, status(i))
	return client.Task{
		ID: fmt.Sprintf("counter-%d", i), CPUs: 0.005, MemMB: 20, Grace: graceOf(time.Hour), Command: &mesosv1.CommandInfo{Value: proto.String(line)},
	}
}

func status(i int) int { return 10 + i%100 }

// endless is a number that no counter comes to.
const endless = 1 << 30

// dieManyTimes kills clusterd, isolated or both at any moment while tasks run and end.
// They run on as the same processes, their output has no gap, and each status is told.
func (w *world) dieManyTimes(t *testing.T) {
	stopwatch(t)
	only := w.Machines()[0].Node
	f := w.framework(t, false)
	before := agentsOf(t, w)
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 1))
	var tasks []client.Task
	until := map[string]int{}
	for i := range killTasks {
		n := endless
		if i%2 == 0 {
			n = 10 + rng.IntN(2*kills) // some way into the kills
		}
		tasks = append(tasks, counter(i, n))
		until[tasks[i].ID] = n
	}
	running := f.start(t, tasks...)
	names := map[string]string{}
	for _, l := range running {
		names[l.Task.ID] = f.birth(t, l)
	}
	died := w.killAtRandom(t, rng)
	if err := w.WaitReady(within(t, toNotice)); err != nil {
		t.Fatal(err)
	}
	for _, l := range running {
		if until[l.Task.ID] == endless {
			if err := f.Kill(within(t, toRun), l.Task.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, l := range running {
		want := mesosv1.TaskState_TASK_FAILED
		if until[l.Task.ID] == endless {
			want = mesosv1.TaskState_TASK_KILLED
		}
		ended, err := f.Wait(within(t, toRun+2*killTasks), l.Task.ID, client.Ended)
		if err != nil {
			t.Fatal(err)
		}
		wantState(t, ended, want)
		if said := fmt.Sprintf("Command exited with status %d", status(i)); ended.Status.GetMessage() != said {
			t.Errorf("%s: %q, want %q", l.Task.ID, ended.Status.GetMessage(), said)
		}
		wantWhole(t, l.Task.ID, f.output(t, ended, "stdout"), names[l.Task.ID], until[l.Task.ID])
	}
	if after := agentsOf(t, w); after != before {
		t.Errorf("the agents were %s and are %s", before, after)
	}
	w.wantNothingLeft(t, only)
	fmt.Printf("seed %d: clusterd was killed %d times and isolated %d times under %d tasks, of which %d ended meanwhile: all whole\n",
		seed, died["clusterd"], died["isolated"], len(tasks), killTasks/2)
}

// killAtRandom waits, kills and awaits the programs, over and over.
func (w *world) killAtRandom(t *testing.T, rng *rand.Rand) map[string]int {
	t.Helper()
	only := w.Machines()[0].Node
	api := w.nodeAPI(only)
	died := map[string]int{}
	for i := range kills {
		victims := [][]string{{"isolated"}, {"clusterd"}, {"isolated", "clusterd"}}[i%3]
		moment := time.NewTimer(time.Duration(rng.IntN(2000)) * time.Millisecond)
		select {
		case <-moment.C:
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
		before := map[string]int{}
		for _, program := range victims {
			before[program] = restarts(t, w, only, program)
		}
		for _, program := range victims {
			if err := api.Kill(within(t, toRun), program, "KILL"); err != nil {
				t.Fatal(err)
			}
		}
		for _, program := range victims {
			eventually(t, within(t, toRun), func() error {
				if restarts(t, w, only, program) <= before[program] {
					return fmt.Errorf("%s was not started again", program)
				}
				return nil
			})
			died[program]++
		}
	}
	return died
}

func agentsOf(t *testing.T, w *world) string {
	t.Helper()
	list, err := w.Agents(within(t, toNotice))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, a := range list {
		ids = append(ids, a.ID)
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}

// wantWhole fails the test unless a counter was born once, under its name, and no line of
// it is missing.
func wantWhole(t *testing.T, id, out, name string, until int) {
	t.Helper()
	if got := births(out); len(got) != 1 || got[0] != name {
		t.Errorf("%s was born as %v, before as %s", id, got, name)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")[1:]
	if until == endless {
		if last := lines[len(lines)-1]; last != "asked" {
			t.Errorf("%s: its last line is %q", id, last)
		}
		lines = lines[:len(lines)-1]
	} else if len(lines) != until {
		t.Errorf("%s printed %d lines, want %d", id, len(lines), until)
	}
	for i, line := range lines {
		if line != fmt.Sprintf("beat %d", i+1) {
			t.Errorf("%s: line %d is %q", id, i+1, line)
			return
		}
	}
}
