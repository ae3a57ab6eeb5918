package replica

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPulse(t *testing.T) {
	var none *Pulse
	none.hear("a", 1, time.Now(), time.Second) // nobody counts
	p := &Pulse{}
	at := time.Unix(1000, 0)
	for _, b := range []struct {
		leader string
		term   uint64
		after  time.Duration
	}{
		{"a", 1, 0}, {"a", 1, 900 * time.Millisecond}, {"a", 1, time.Second}, // one missed
		{"b", 2, time.Minute}, {"b", 3, time.Minute}, // elections: nothing is missed
		{"b", 3, 1500 * time.Millisecond}, {"b", 3, 100 * time.Millisecond},
	} {
		at = at.Add(b.after)
		p.hear(b.leader, b.term, at, time.Second)
	}
	if diff := cmp.Diff(Beats{Heard: 7, Missed: 2, Longest: 1500 * time.Millisecond}, p.Read()); diff != "" {
		t.Error(diff)
	}
}

// Followers hear their leader all the time and miss nothing; the leader hears nobody.
func TestFollowersCountHeartbeats(t *testing.T) { synctest.Test(t, followersCountHeartbeats) }

func followersCountHeartbeats(t *testing.T) {
	tr := newTrio(t, "")
	leader, _ := tr.leader()
	time.Sleep(100 * heartbeat)
	for name, r := range tr.open {
		b := r.cfg.Pulse.Read()
		if name == leader != (b.Heard == 0) || (name != leader && b.Heard < 100) || b.Missed != 0 {
			t.Errorf("%s, while %s leads, counts %+v", name, leader, b)
		}
	}
}
