//go:build vm

package qemutests

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// wear is what a store had to bear and what became of what it had acknowledged.
type wear struct {
	cuts, errors, hangs int
	dropped             int // writes that the disk had not flushed when its power went
	acked, lost, bad    int // entries: acknowledged, of those missing, read and wrong
	read                int
	refused             int // openings refused with a reason
	openMS              int // the longest opening, in the machine's own time
}

func (w wear) String() string {
	return fmt.Sprintf("%d power cuts (%d unflushed writes dropped), %d disk errors, %d hangs: %d of %d acknowledged entries lost, %d of %d read are damaged; %d openings refused, the longest took %d ms",
		w.cuts, w.dropped, w.errors, w.hangs, w.lost, w.acked, w.bad, w.read, w.refused, w.openMS)
}

// bench of one store: a medium that outlives its machines, and what must be on it.
type storeBench struct {
	t           *testing.T
	kind, batch string
	m           *medium
	w           *writer
	acked, term int
	wear        wear
	over        bool // a store that is not the product's can no longer be opened
}

func newStoreBench(t *testing.T, kind, batch string) *storeBench {
	return &storeBench{t: t, kind: kind, batch: batch, m: newMedium(t, 256)}
}

// complain fails the test if the store is the product's; of others it is only told.
func (b *storeBench) complain(format string, args ...any) {
	b.t.Helper()
	if b.kind == "ours" {
		b.t.Errorf(format, args...)
		return
	}
	b.t.Logf(b.kind+": "+format, args...)
}

// boot starts a machine on the medium, compares what is there with what must be, and
// waits until it writes again.
func (b *storeBench) boot(cfg vm.BadDiskConfig, more int) {
	b.t.Helper()
	b.w = startWriter(b.t, []*vm.BadDisk{b.m.insert(cfg)}, "append", b.kind, b.batch)
	b.compare()
	if more > 0 && !b.over {
		b.w.acknowledged(within(b.t, 30), more)
	}
}

// compare takes the next opening of the store.
func (b *storeBench) compare() {
	b.t.Helper()
	line := b.w.waitAny(within(b.t, 30), "opened", "probe: ", "panic: ")
	if !strings.HasPrefix(line, "opened") {
		b.complain("the store cannot be opened any more, %d entries were acknowledged: %s", b.acked, b.w.Console.Tail(5))
		b.wear.lost, b.over = b.acked, true
		return
	}
	found := numbers(line)
	if last := found["last"]; last < b.acked {
		b.wear.lost += b.acked - last
		b.complain("%d entries were acknowledged, the newest that is there is %d", b.acked, last)
	}
	if found["term"] < b.term {
		b.complain("term %d was saved, %d is there", b.term, found["term"])
	}
	if found["bad"] > 0 {
		b.wear.bad += found["bad"]
		b.complain("%d entries are damaged", found["bad"])
	}
	b.wear.read += found["last"] - found["first"] + 1
	b.wear.openMS = max(b.wear.openMS, found["ms"])
	b.acked, b.term = found["last"], found["term"]
}

// cut takes the power away from disk and machine.
func (b *storeBench) cut() {
	b.t.Helper()
	if b.over {
		return
	}
	n, err := b.m.disk.PowerCut(within(b.t, 10))
	if err != nil {
		b.t.Fatal(err)
	}
	b.w.Kill()
	b.wear.cuts++
	b.wear.dropped += n
	b.hear()
}

// hear takes what the machine has been promised so far.
func (b *storeBench) hear() {
	b.acked, b.term = max(b.acked, b.w.told("ack")), max(b.term, b.w.told("term"))
	b.wear.acked = b.acked
}

func (b *storeBench) powerCuts(n int) {
	b.t.Helper()
	for range n {
		b.boot(vm.BadDiskConfig{}, 1+rand.IntN(2000))
		if b.over {
			return
		}
		time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
		b.cut()
	}
}

// diskError lets the disk fail once, the program open its store anew and go on, and cuts
// the power then: what was on no medium must not have been believed.
func (b *storeBench) diskError(inFlush bool) {
	b.t.Helper()
	if b.over {
		return
	}
	b.boot(vm.BadDiskConfig{FlushFails: inFlush}, 1+rand.IntN(1000))
	if b.over {
		return
	}
	if err := b.m.disk.Fail(true); err != nil {
		b.t.Fatal(err)
	}
	b.t.Log(b.w.wait(within(b.t, 30), "failed"))
	b.wear.errors++
	b.hear()
	if err := b.m.disk.Fail(false); err != nil {
		b.t.Fatal(err)
	}
	// It opens at once, and the disk may not have come back yet.
	if line := b.w.waitAny(within(b.t, 60), "opened", "down", "probe: "); strings.HasPrefix(line, "opened") {
		b.w.seen--
		b.compare()
		b.w.acknowledged(within(b.t, 30), 200)
	} else {
		b.wear.refused++
		b.t.Log(line)
	}
	b.cut()
}

// hang holds the disk for longer than any write may take, and lets it go on.
func (b *storeBench) hang() {
	b.t.Helper()
	if b.over {
		return
	}
	b.boot(vm.BadDiskConfig{}, 1+rand.IntN(1000))
	if b.over {
		return
	}
	if err := b.m.disk.Hang(within(b.t, 10)); err != nil {
		b.t.Fatal(err)
	}
	began := time.Now()
	line := b.w.waitAny(within(b.t, 60), "failed", "silent")
	b.t.Logf("%.1f s after the disk hangs: %s", time.Since(began).Seconds(), line)
	b.wear.hangs++
	b.hear()
	if err := b.m.disk.Resume(within(b.t, 10)); err != nil {
		b.t.Fatal(err)
	}
	if strings.HasPrefix(line, "failed") {
		b.compare()
	}
	b.w.acknowledged(within(b.t, 30), 200)
	b.cut()
}

// finish looks a last time.
func (b *storeBench) finish() {
	b.t.Helper()
	if !b.over {
		b.boot(vm.BadDiskConfig{}, 0)
		b.w.Kill()
	}
	b.t.Logf("%s, %s entries a batch: %s", b.kind, b.batch, b.wear)
	if b.wear.cuts > 0 && b.wear.dropped == 0 {
		b.t.Error("no power cut dropped anything: they were none")
	}
}

// The log survives power cuts of its disk with everything that it acknowledged (promises
// C5, C7).
func TestTheLogUnderPowerCuts(t *testing.T) {
	apart(t, 1)
	stopwatch(t)
	b := newStoreBench(t, "ours", "8")
	b.powerCuts(2)
	b.finish()
}

// After a disk error the log is opened anew and goes on, and what the failed write has left
// in the page cache is not taken for written (promise C4).
func TestTheLogAfterADiskError(t *testing.T) {
	apart(t, 1)
	stopwatch(t)
	b := newStoreBench(t, "ours", "64")
	b.diskError(false)
	b.finish()
	if b.wear.refused > 0 {
		t.Error("the log was not opened anew")
	}
}
