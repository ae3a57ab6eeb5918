package state

import (
	"bytes"
	"io"
	"testing"
)

// A snapshot shows what was when it was made, whatever becomes of the records it shares.
func TestASnapshotNeverChanges(t *testing.T) {
	c := newCluster(t)
	f, a := c.framework(), c.agent("n1")
	c.do(RegisterAgent{ID: a, Node: "n1", AttachKey: "key of n1", Total: bag(t, 4*chunkRows, 1<<20)})
	for n := range 2*chunkRows + 7 {
		if r := c.do(launch(f, a, n, bag(t, 1, 1))); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	written := func(w io.WriterTo) string {
		var buf bytes.Buffer
		if _, err := w.WriteTo(&buf); err != nil {
			t.Fatal(err)
		}
		return buf.String()
	}
	snap, err := c.m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	before := written(snap)
	change := []func(n int){
		func(n int) { c.do(report(a, n, 1, TaskRunning)) },
		func(n int) { c.do(KillTask{Container: launch(f, a, n, nil).Container, Grace: 1}) },
		func(n int) { // ended, acknowledged, and another one in its slot
			c.do(report(a, n, 2, TaskKilled))
			c.do(AcknowledgeUpdate{Container: launch(f, a, n, nil).Container, UUID: bytes.Repeat([]byte{2}, 16)})
			c.do(launch(f, a, n+10_000, bag(t, 1, 1)))
		},
	}
	for n := range 2*chunkRows + 7 {
		change[n%3](n)
	}
	c.do(MarkUnreachable{a})
	c.do(RemoveFramework{f})
	if written(snap) != before {
		t.Error("the snapshot shows what came after it")
	}
	again, err := c.m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if written(again) == before {
		t.Error("nothing was changed")
	}
	c.m.View(func(s *State) { s.check(t) })
}
