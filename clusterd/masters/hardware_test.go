package masters

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesolith/mesolith/clusterd/discovery/birth"
)

// words guards what the tests change while masters read it.
var words sync.Mutex

// hardwareOf is a machine whose state notes hardware as lines "hardware NAME HASH".
func (s *site) hardwareOf(n string, o *one) Hardware {
	if s.hardware == nil {
		return Hardware{}
	}
	return Hardware{
		Own:   s.hardware[n],
		Known: o.notes.hardware,
		Learn: func(ctx context.Context, name, hardware string) error {
			o.mu.Lock()
			if len(o.terms) == 0 {
				o.mu.Unlock()
				return ErrNotYet
			}
			t := o.terms[len(o.terms)-1]
			o.mu.Unlock()
			_, err := t.Log.Propose(ctx, fmt.Appendf(nil, "hardware %s %s", name, hardware))
			return err
		},
		Admitted: func() map[string]birth.Word {
			words.Lock()
			defer words.Unlock()
			return maps.Clone(s.admitted[n])
		},
	}
}

func (n *notes) hardware() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := map[string]string{}
	for _, line := range n.all {
		var name, hash string
		if k, _ := fmt.Sscanf(line, "hardware %s %s", &name, &hash); k == 2 {
			out[name] = hash
		}
	}
	return out
}

func (s *site) say(to, name, hardware, instead string) {
	words.Lock()
	defer words.Unlock()
	s.admitted = map[string]map[string]birth.Word{to: {name: {Hardware: hardware, Instead: instead}}}
}

func (s *site) leader() string {
	for n, o := range s.on {
		if st, _ := o.m.Status(); st.Leading {
			return n
		}
	}
	return ""
}

func (s *site) known(hardware map[string]string) {
	s.t.Helper()
	s.eventually(fmt.Sprint("knowing ", hardware), func() bool {
		for _, o := range s.on {
			if !maps.Equal(o.notes.hardware(), hardware) {
				return false
			}
		}
		return true
	})
}

// A master that comes back on its own hardware votes again by itself; another machine
// under its name does not, and everybody says why, until an operator admits it.
func TestAnotherMachineUnderAMastersName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, false, "m1", "m2", "m3")
		s.hardware = map[string]string{"m1": "h1", "m2": "h2", "m3": "h3"}
		s.boot("m1", "m2", "m3")
		s.write("first")
		s.full()
		s.known(map[string]string{"m1": "h1", "m2": "h2", "m3": "h3"})
		s.off("m3")
		s.boot("m3")
		s.full() // the same machine

		s.off("m3")
		s.hardware["m3"] = "other"
		s.boot("m3")
		s.eventually("being held", func() bool {
			l := s.leader()
			if l == "" {
				return false
			}
			st, _ := s.on[l].m.Status()
			self, _ := s.on["m3"].m.Status()
			return len(st.Held) == 1 && st.Held[0].Name == "m3" && st.Held[0].Hardware == "other" && st.Held[0].Known == "h3" &&
				strings.Contains(self.Why, "lith nodes admit m3")
		})
		time.Sleep(time.Minute)
		o := s.on[s.leader()]
		o.mu.Lock()
		members, _, err := o.terms[len(o.terms)-1].Log.Members()
		o.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range members {
			if m.Name == "m3" && m.Incarnation == fmt.Sprint("boot", s.boots["m3"]) {
				t.Fatalf("another machine is a member: %+v", members)
			}
		}
		s.write("without it")

		s.say("m1", "m3", "other", "h3")
		if s.leader() == "m1" {
			s.say("m2", "m3", "other", "h3") // to somebody who does not lead: it travels
		}
		s.full()
		s.known(map[string]string{"m1": "h1", "m2": "h2", "m3": "other"})
		s.eventually("nothing held", func() bool { st, _ := s.on[s.leader()].m.Status(); return len(st.Held) == 0 })
	})
}

// Without a leader another machine helps no generation to a quorum, also after the
// programs that know the hardware were started anew.
func TestAnotherMachineMakesNoQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, false, "m1", "m2", "m3")
		s.hardware = map[string]string{"m1": "h1", "m2": "h2", "m3": "h3"}
		s.boot("m1", "m3") // m2 is a placeholder
		s.write("first")
		s.known(map[string]string{"m1": "h1", "m3": "h3"})
		s.eventually("noting it", func() bool {
			raw, _ := hardwareKind.Read(filepath.Join(s.dirs["m1"], "hardware"))
			return string(raw) == `{"m1":"h1","m3":"h3"}`
		})
		s.off("m1", "m3")
		s.start("m1")
		s.hardware["m3"] = "other"
		s.boot("m3")
		time.Sleep(2 * time.Minute)
		for _, n := range slices.Sorted(maps.Keys(s.on)) {
			if st, _ := s.on[n].m.Status(); st.Leader != "" || !strings.Contains(st.Why, "lith nodes admit m3") {
				t.Errorf("%s: %+v", n, st)
			}
		}
		s.say("m1", "m3", "other", "h3")
		s.write("second")
		if !s.on["m1"].notes.has("first") {
			t.Error("what was acknowledged is lost")
		}
		s.known(map[string]string{"m1": "h1", "m3": "other"})
	})
}
