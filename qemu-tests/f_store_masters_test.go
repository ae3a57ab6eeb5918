//go:build vm

package qemutests

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// A master that is alone loses its power under load again and again, and nothing that it
// has acknowledged (promise C7).
func TestTheOnlyMasterLosesItsPower(t *testing.T) {
	apart(t, 1)
	stopwatch(t)
	const cuts = 2
	m := newMedium(t, 256)
	acked, lost, dropped := 0, 0, 0
	for cut := 0; ; cut++ {
		w := startWriter(t, []*vm.BadDisk{m.insert(vm.BadDiskConfig{})}, "single")
		w.wait(within(t, 30), "open a")
		opened := w.wait(within(t, 30), "leader a")
		if cut == cuts {
			// The first one that it acknowledges now says how many it holds.
			w.acknowledged(within(t, 30), 1)
			w.Kill()
			lost += missing(t, w, acked)
			break
		}
		w.acknowledged(within(t, 30), 1+rand.IntN(1500))
		n, err := m.disk.PowerCut(within(t, 10))
		if err != nil {
			t.Fatal(err)
		}
		w.Kill()
		lost += missing(t, w, acked)
		dropped += n
		acked = max(acked, w.told("ack"))
		t.Logf("%s: %d acknowledged, %d unflushed writes dropped", opened, acked, n)
	}
	t.Logf("%d power cuts of the only master, %d unflushed writes dropped: %d of %d acknowledged entries lost", cuts, dropped, lost, acked)
	if dropped == 0 || lost > 0 {
		t.Fail()
	}
}

// missing compares the first acknowledgement of a machine, which counts all entries, with
// what was acknowledged before.
func missing(t *testing.T, w *writer, acked int) int {
	t.Helper()
	for _, l := range w.Console.Lines(0) {
		if n, ok := numbers(l.Text)["ack"]; ok && strings.HasPrefix(l.Text, "ack ") {
			if n <= acked {
				t.Errorf("%d entries were acknowledged, the next one is number %d", acked, n)
			}
			return max(0, acked+1-n)
		}
	}
	t.Error("nothing was acknowledged")
	return 0
}

// Three masters with a disk each: the leader's disk hangs, then the next leader's fails.
// The others go on; who hung comes back by itself, who failed says why it stays down
// (promises C3, C4).
func TestTheLeadersDiskHangsAndFails(t *testing.T) {
	apart(t, 1)
	stopwatch(t)
	var disks []*vm.BadDisk
	for range 3 {
		disks = append(disks, newMedium(t, 64).insert(vm.BadDiskConfig{}))
	}
	w := startWriter(t, disks, "trio")
	leader := strings.TrimPrefix(w.wait(within(t, 40), "leader "), "leader ")
	w.acknowledged(within(t, 40), 100)

	if err := disks[leader[0]-'a'].Hang(within(t, 10)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	said := w.wait(within(t, 40), "failed "+leader)
	noticed := time.Since(began)
	next := strings.TrimPrefix(w.wait(within(t, 40), "leader "), "leader ")
	t.Logf("disk of %s hangs: noticed after %.1f s (%s), %s leads after %.1f s", leader, noticed.Seconds(), said, next, time.Since(began).Seconds())
	w.acknowledged(within(t, 40), 100)
	if err := disks[leader[0]-'a'].Resume(within(t, 10)); err != nil {
		t.Fatal(err)
	}
	w.wait(within(t, 40), "open "+leader)
	w.caughtUp(leader)

	failing := w.seen
	if err := disks[next[0]-'a'].Fail(true); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	said = w.wait(within(t, 40), "failed "+next)
	third := strings.TrimPrefix(w.wait(within(t, 40), "leader "), "leader ")
	t.Logf("disk of %s fails: %s; %s leads after %.1f s", next, said, third, time.Since(began).Seconds())
	w.acknowledged(within(t, 40), 100)
	w.seen = failing // it may have tried again before those were acknowledged, and says so once
	t.Log(w.waitAny(within(t, 40), "refused "+next, "open "+next))
	others := slices.DeleteFunc([]string{"a", "b", "c"}, func(n string) bool { return n == next })
	w.caughtUp(others...)
	t.Logf("1 hang and 1 disk error fired: 0 of %d acknowledged entries lost", w.told("ack"))
}

// caughtUp waits until these have everything that was acknowledged before; the program
// itself compares what they hold.
func (w *writer) caughtUp(names ...string) {
	w.t.Helper()
	want, ctx := w.told("ack"), within(w.t, 40)
	for {
		at := numbers(w.wait(ctx, "at "))
		if !slices.ContainsFunc(names, func(n string) bool { return at[n] < want }) {
			return
		}
	}
}
