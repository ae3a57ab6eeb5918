package masters

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/mesolith/mesolith/clusterd/discovery/birth"
	"github.com/mesolith/mesolith/clusterd/replica"
)

// The end of the trace that docs/adr/0010-reach.md tells: a birth that came to nothing
// stands higher than the generation that holds what was acknowledged.
func TestABirthThatCameToNothingOutranksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, false, "m1", "m2", "m3")
		s.boot("m1", "m2", "m3")
		was := s.write("kept")
		s.everywhere("kept")
		s.off("m1", "m2", "m3")

		fruitless := birth.Generation{Height: was.Height + 1, ID: newUUID()}
		s.foundedOnly("m2", fruitless, "m1/boot2", "m2/boot2", "m3")
		s.boots["m1"]++ // and forgets again before it leads
		s.boot("m1")
		s.start("m2")
		s.start("m3")
		s.everywhere("kept")
		if now := s.write("more"); now.Height <= fruitless.Height {
			t.Errorf("born at height %d, and %d was heard of", now.Height, fruitless.Height)
		}
		s.everywhere("more")
	})
}

// The trace of docs/adr/0012-unheard.md: m1 is not heard while the other two, who forgot
// everything, are born anew and acknowledge something, and its own log is much longer.
func TestABirthThatHeardNobodyIsTheNewerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, false, "m1", "m2", "m3")
		s.boot("m1", "m2", "m3")
		was := s.write("of an earlier life")
		for i := range 20 {
			s.write(fmt.Sprint("more ", i))
		}
		s.everywhere("more 19")
		s.off("m1", "m2", "m3")
		s.boot("m2", "m3")
		if g := s.write("acknowledged"); g == was || g.Height != was.Height {
			t.Fatalf("born as %v after %v: this proves nothing", g, was)
		}
		s.everywhere("acknowledged")
		s.off("m2")
		s.boot("m2")
		s.start("m1")
		s.write("later")
		s.everywhere("later")
		s.everywhere("acknowledged")
	})
}

// A regression: the founder of the first generation dies when two have accepted and before
// anything was replicated. Neither the one that accepted nor the founder, who has forgotten
// it, could ever be elected; the two of them have to be born anew, without the third.
func TestANewbornsLeaderIsDeadAfterTwoAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, false, "m1", "m2", "m3")
		s.foundedOnly("m2", birth.Generation{Height: 1, ID: newUUID()}, "m1/boot1", "m2/boot1", "m3")
		s.boots["m1"] = 1
		s.boot("m1")
		s.start("m2")
		s.write("first")
		s.everywhere("first")
	})
}

// foundedOnly gives a machine, which is off, what a birth leaves that nothing came of.
func (s *site) foundedOnly(name string, g birth.Generation, voters ...string) {
	s.t.Helper()
	s.boots[name]++
	s.dirs[name] = s.t.TempDir()
	dir := filepath.Join(s.dirs[name], "g-"+g.ID)
	var list []replica.Voter
	var self replica.Voter
	for _, v := range voters {
		name, incarnation, _ := strings.Cut(v, "/")
		list = append(list, replica.Voter{Name: name, Incarnation: incarnation})
	}
	for _, v := range list {
		if v.Name == name {
			self = v
		}
	}
	raw, err := json.Marshal(birth.Reach{})
	err = errors.Join(err, os.MkdirAll(dir, 0o700), originKind.Write(filepath.Join(dir, "origin"), raw),
		replica.Found(dir, self, replica.Generation(g), list, nil))
	if err != nil {
		s.t.Fatal(err)
	}
}

// What a generation was founded with is known again by a program that is started anew, and
// after the generation was left; the first entry of its own ends it.
func TestWhatAGenerationWasFoundedWithIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wires{doors: map[string]*hall{}}
		dir := t.TempDir()
		alone := func() *Masters {
			m := New(Config{
				Dir: dir, Self: "m1", Incarnation: "boot1", ClusterID: "cluster", List: []string{"m1", "m2", "m3"}, ListVersion: 1, Heartbeat: beat, Stall: 50 * beat,
				Machine: &notes{}, Port: &port{w, "m1", "boot1"}, Log: slog.New(slog.NewTextHandler(testLog{t, "m1"}, nil)),
			})
			if err := m.recall(); err != nil {
				t.Fatal(err)
			}
			return m
		}
		origin := birth.Reach{Height: 3, Term: 7, Index: 41, ID: "older", Voters: []birth.Voter{{Name: "m1", Incarnation: "boot0"}, {Name: "m2"}}}
		g := birth.Generation{Height: 5, ID: newUUID()}
		m := alone()
		if err := m.bind(g, []birth.Voter{{Name: "m1", Incarnation: "boot1"}, {Name: "m2", Incarnation: "boot1"}, {Name: "m3"}}, []byte("old"), origin); err != nil {
			t.Fatal(err)
		}
		check := func(what string, m *Masters, bound bool) {
			t.Helper()
			o := answerOf(m.toWire(birth.Answer{Name: "m1", Own: m.own()})) // as others read it
			if o.Bound != bound || o.Legacy == bound || o.Generation != g || !o.Unwritten || !reflect.DeepEqual(o.Own.Reach(), origin) {
				t.Errorf("%s: %+v", what, o.Own)
			}
		}
		check("bound", m, true)
		m.shut(t.Context())
		m = alone()
		check("started anew", m, true)
		if err := m.leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		check("left", m, false)
		m = alone()
		check("left and started anew", m, false)

		m.origin = &origin
		if fresh, _ := m.unwritten(replica.FoundedAt + 1); fresh {
			t.Error("an entry was written, and it counts for nothing")
		}
	})
}

// A damaged origin is not guessed: see TestAMasterThatCannotReadItsFilesTakesNoPart. One
// that is missing is a learner's, whose generation had a leader.
func TestALearnersGenerationCountsAsItsOwn(t *testing.T) {
	m := &Masters{}
	if fresh, _ := m.unwritten(1); fresh {
		t.Error("where it came from is not known, and it ranks as if it were")
	}
	if origin, err := readOrigin(t.TempDir()); origin != nil || err != nil {
		t.Errorf("%v, %v", origin, err)
	}
}
