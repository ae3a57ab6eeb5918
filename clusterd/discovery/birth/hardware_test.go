package birth

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// onHardware puts a master's truth onto a machine.
func onHardware(o Own, hardware string, known map[string]string) Own {
	o.Hardware, o.Known = hardware, known
	return o
}

// attemptOf begins an attempt of a, which remembers a generation of a, b and c.
func attemptOf(t *testing.T, own Own) (State, time.Time) {
	t.Helper()
	now := start.Add(time.Hour)
	s, actions := Next(New(config("a", false), start, Promise{}), Tick{Now: now, Own: own, Attempt: "x"})
	if len(actions) != 1 {
		t.Fatalf("a begins no attempt: %v", actions)
	}
	return s, now
}

// founding gives what was founded when all the waiting is over.
func founding(s State, own Own, now time.Time) (State, *Found) {
	var found *Found
	for range 60 {
		now = now.Add(time.Second)
		var actions []Action
		s, actions = Next(s, Tick{Now: now, Own: own, Attempt: "y"})
		for _, a := range actions {
			if f, ok := a.(Found); ok && found == nil {
				found = &f
			}
		}
	}
	return s, found
}

// c's mainboard was replaced, and b was never seen. The c that a knows may live on where a
// does not hear it, and answer others: nothing may be founded without a word of the operator.
func TestAnotherMachineWaitsForTheOperator(t *testing.T) {
	known := map[string]string{"a": "ha", "c": "hc"}
	own := onHardware(bound("1", Generation{1, "g"}, 1, 7, three("1", "", "1")...), "ha", known)
	for name, test := range map[string]struct {
		hardware string
		admitted map[string]Word
		founds   bool
	}{
		"the hardware that is known, rebooted":          {"hc", nil, true},
		"another machine":                               {"hx", nil, false},
		"another machine that says nothing of it":       {"", nil, false},
		"another machine, admitted":                     {"hx", map[string]Word{"c": {"hx", "hc"}}, true},
		"another machine, and a third was admitted":     {"hx", map[string]Word{"c": {"hy", "hc"}}, false},
		"another machine, admitted for another name":    {"hx", map[string]Word{"b": {"hx", "hc"}}, false},
		"another machine, admitted instead of a former": {"hx", map[string]Word{"c": {"hx", "ho"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			own := own
			own.Admitted = test.admitted
			s, now := attemptOf(t, own)
			s, _ = Next(s, Answered{Now: now, Own: own, Attempt: "x", Answer: answer("c", onHardware(unbound("2"), test.hardware, nil))})
			if !test.founds && (len(s.Held()) != 1 || s.Held()[0].Name != "c" || !strings.Contains(s.Why(), "lith nodes admit c")) {
				t.Errorf("held %v, why %q", s.Held(), s.Why())
			}
			_, found := founding(s, own, now)
			if (found != nil) != test.founds {
				t.Errorf("founded %v, want %v", found, test.founds)
			}
		})
	}
}

// The word may be said to another master than the one that tries; what the machine says
// of itself is no word.
func TestWordOfTheOperatorTravelsInAnswers(t *testing.T) {
	for from, founds := range map[string]bool{"b": true, "c": false} {
		own := onHardware(bound("1", Generation{1, "g"}, 1, 7, three("1", "", "1")...), "ha", map[string]string{"a": "ha", "c": "hc"})
		s, now := attemptOf(t, own)
		for name, hardware := range map[string]string{"b": "hb", "c": "hx"} {
			empty := onHardware(unbound("2"), hardware, nil)
			if name == from {
				empty.Admitted = map[string]Word{"c": {"hx", "hc"}}
			}
			s, _ = Next(s, Answered{Now: now, Own: own, Attempt: "x", Answer: answer(name, empty)})
		}
		if s.founding != founds {
			t.Errorf("the word said to %s: founds %v, want %v", from, s.founding, founds)
		}
	}
}

// Who remembers nothing takes the hardware that it sees.
func TestMastersWithoutMemoryTakeAnyHardware(t *testing.T) {
	own := onHardware(unbound("2"), "h1", nil)
	s, now := attemptOf(t, own)
	s, _ = Next(s, Answered{Now: now, Own: own, Attempt: "x", Answer: answer("b", onHardware(unbound("2"), "h2", nil))})
	if _, found := founding(s, own, now); found == nil {
		t.Error("two of three empty masters found nothing")
	}
}

// The newest state's knowledge counts: an older one may not have heard the operator.
func TestTheNewestKnowledgeCounts(t *testing.T) {
	g := Generation{1, "g"}
	own := onHardware(unbound("2"), "ha", nil)
	s, now := attemptOf(t, own)
	left := func(index uint64) Own {
		return Own{Incarnation: "2", Legacy: true, Generation: g, Highest: 1, Term: 1, LastIndex: index}
	}
	old := onHardware(left(5), "hb", map[string]string{"a": "h-old"})
	recent := onHardware(left(9), "hc", map[string]string{"a": "ha"})
	s, _ = Next(s, Answered{Now: now, Own: own, Attempt: "x", Answer: answer("c", recent)})
	_, actions := Next(s, Answered{Now: now, Own: own, Attempt: "x", Answer: answer("b", old)})
	if slices.Contains(actions, Action(End{"x"})) {
		t.Error("gave up for what an older state knew")
	}
}

// The other machine itself gives up and keeps quiet, or its attempts would keep the
// others from theirs.
func TestAnotherMachineDoesNotTryByItself(t *testing.T) {
	own := onHardware(unbound("2"), "hx", nil)
	s, now := attemptOf(t, own)
	member := onHardware(bound("1", Generation{1, "g"}, 1, 9, three("1", "1", "1")...), "hb", map[string]string{"a": "ha"})
	s, actions := Next(s, Answered{Now: now, Own: own, Attempt: "x", Answer: answer("b", member)})
	if !slices.Contains(actions, Action(End{"x"})) || !strings.Contains(s.Why(), "another machine") {
		t.Fatalf("did %v, why %q", actions, s.Why())
	}
	if s, actions = Next(s, Tick{Now: now.Add(29 * time.Second), Own: own, Attempt: "y"}); len(actions) != 0 {
		t.Errorf("before masters.wait is over: %v", actions)
	}
	if _, actions = Next(s, Tick{Now: now.Add(31 * time.Second), Own: own, Attempt: "y"}); len(actions) != 1 {
		t.Errorf("after it: %v", actions)
	}
}

// A promise binds until it ends when another machine answers in its holder's place.
func TestAnotherMachineProvesNoDeath(t *testing.T) {
	for hardware, held := range map[string]bool{"hb": false, "hx": true} {
		own := onHardware(unbound("1"), "ha", nil)
		s, _ := Next(New(config("a", false), start, Promise{}), Challenged{Now: start, Own: own, From: "b", Incarnation: "1", Hardware: "hb", ListVersion: 1, Attempt: "x"})
		s, _ = Next(s, Proven{"b", "2", hardware})
		if got := s.Promise().Attempt != ""; got != held {
			t.Errorf("a new incarnation on %s: the promise stands: %v, want %v", hardware, got, held)
		}
	}
}

func TestJudge(t *testing.T) {
	told := Told{Known: map[string]string{"a": "ha", "b": "hb", "e": "he"}, Admitted: map[string]Word{"b": {"hb2", "hb"}}}
	got := Judge(map[string]Living{
		"a": {Incarnation: "1", Hardware: "hx"}, "b": {Incarnation: "2", Hardware: "hb2"}, "c": {Incarnation: "3", Hardware: "hc"}, "d": {Incarnation: "4"},
		"e": {Incarnation: "5", Hardware: "hy", Admitted: map[string]Word{"e": {"hy", "he"}, "f": {"hf", ""}}},
	}, told)
	want := Verdict{
		Living: map[string]string{"b": "2", "c": "3", "d": "4"},
		Held:   []Held{{"a", "hx", "ha"}, {"e", "hy", "he"}},
		Learn:  []Held{{"b", "hb2", "hb"}, {"c", "hc", ""}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
