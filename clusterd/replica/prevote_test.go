package replica

import (
	"testing"
	"testing/synctest"
	"time"
)

// A follower that was cut off for long comes back without deposing the leader: it asks
// first whether it would be voted for (pre-vote), and its term stays what it was.
func TestWhoWasCutOffDeposesNobody(t *testing.T) { synctest.Test(t, whoWasCutOffDeposesNobody) }

func whoWasCutOffDeposesNobody(t *testing.T) {
	tr := newTrio(t, "zero\n")
	name, r := tr.leader()
	before, changed := r.Leadership()
	var cut string
	for n := range tr.open {
		if n != name {
			cut = n
		}
	}
	tr.room.cut(cut, true)
	time.Sleep(200 * heartbeat)
	if l, _ := tr.open[cut].Leader(); l.Name != "" {
		t.Fatalf("it hears %s: it is not cut off", l.Name)
	}
	if got := tr.open[cut].Position().Term; got != before.Term {
		t.Errorf("alone it went from term %d to %d", before.Term, got)
	}
	if _, err := r.Propose(t.Context(), []byte("meanwhile")); err != nil {
		t.Fatal(err)
	}
	tr.room.cut(cut, false)
	tr.eventually("catching up", func() bool { return tr.machines[cut].has("meanwhile") })
	time.Sleep(20 * heartbeat)
	select {
	case <-changed:
		now, _ := r.Leadership()
		t.Errorf("the leader was disturbed: %+v, before %+v", now, before)
	default:
	}
}
