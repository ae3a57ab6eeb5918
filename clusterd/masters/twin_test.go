package masters

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// twins are machines under others' names: whether each proves that it lives.
type twins struct {
	mu     sync.Mutex
	proves map[string]bool
}

func (t *twins) set(proves map[string]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proves = proves
}

func (t *twins) of(name string) (heard, proves bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	proves, heard = t.proves[name]
	return heard, proves
}

// A leader's twin that is only heard changes nothing; one that proves that it lives ends
// its part, and the others go on without it until it is started again.
func TestALeaderWithALivingTwinStops(t *testing.T) { synctest.Test(t, aLeaderWithALivingTwinStops) }

func aLeaderWithALivingTwinStops(t *testing.T) {
	s := newSite(t, false, "m1", "m2", "m3")
	s.boot("m1", "m2", "m3")
	g := s.write("first")
	s.full()
	var leader string
	for n, o := range s.on {
		if st, _ := o.m.Status(); st.Leading {
			leader = n
		}
	}
	before, _ := s.on[leader].m.Status()
	s.twins.set(map[string]bool{leader: false})
	time.Sleep(time.Minute)
	if st, _ := s.on[leader].m.Status(); st.Stopped || !st.Leading || st.Term != before.Term {
		t.Fatalf("hearsay changed the leader: %+v after %+v", st, before)
	}
	s.twins.set(map[string]bool{leader: true})
	s.eventually("the stop", func() bool {
		st, _ := s.on[leader].m.Status()
		return st.Stopped && !st.Leading && strings.Contains(st.Why, leader+" has stopped voting: another machine")
	})
	if again := s.write("without it"); again != g {
		t.Errorf("generation %+v after %+v", again, g)
	}
	s.twins.set(nil)
	time.Sleep(time.Minute)
	if st, _ := s.on[leader].m.Status(); !st.Stopped {
		t.Errorf("it began again by itself: %+v", st)
	}
	s.off(leader)
	s.start(leader)
	s.full()
	s.everywhere("without it")
	if again := s.write("with it"); again != g {
		t.Errorf("generation %+v after %+v", again, g)
	}
}
