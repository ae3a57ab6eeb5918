package replica

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A follower's first write fails, and what it wrote is there when it is opened anew: its
// log reaches further than the snapshot that the leader then sends. It catches up.
func TestALogThatReachesBehindTheLeadersSnapshot(t *testing.T) {
	for _, point := range []Point{LogFlush, LogSegments} {
		t.Run(string(point), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { reachesBehind(t, point) })
		})
	}
}

func reachesBehind(t *testing.T, point Point) {
	tr := newTrio(t, "")
	const late = "c"
	tr.close(late) // nobody leads yet, and its log is empty
	_, r := tr.leader()
	for _, entry := range []string{"first", "second"} {
		if _, err := r.Propose(t.Context(), []byte(entry)); err != nil {
			t.Fatal(err)
		}
	}
	bad := &badDisk{}
	bad.bite(point, map[Point]int{LogFlush: 2, LogSegments: 3}[point], nil)
	begunAnew := 0
	tr.startOn(Voter{late, "i1"}, bad)
	for range 4 {
		select {
		case <-tr.open[late].Failed():
		case <-time.After(10 * time.Second):
			continue
		}
		if errors.Is(tr.open[late].Failure(), errBegunAnew) {
			begunAnew++
		}
		tr.close(late)
		tr.startOn(Voter{late, "i1"}, bad)
	}
	if !bad.hit {
		t.Fatalf("no step %q failed", point)
	}
	if begunAnew != 1 {
		t.Errorf("its log was begun anew %d times", begunAnew)
	}
	if _, err := r.Propose(t.Context(), []byte("third")); err != nil {
		t.Fatal(err)
	}
	tr.eventually("catching up", func() bool { return tr.machines[late].has("first") && tr.machines[late].has("third") })
}
