package birth

import (
	"strings"
	"testing"
	"time"
)

func heardTwin(now time.Time) TwinHeard {
	return TwinHeard{Now: now, Incarnation: "other", Address: "10.7.0.9:5052"}
}

func livingTwin(now time.Time) TwinLives {
	return TwinLives{Now: now, Own: "1", Incarnation: "other", Address: "10.7.0.9:5052"}
}

// What is only heard stops nobody, however often: it is asked, and not at every beacon.
func TestAHeardTwinIsAskedAndStopsNobody(t *testing.T) {
	cfg := config("a", false)
	s := New(cfg, start, Promise{})
	asked := 0
	for i := range 100 {
		var actions []Action
		s, actions = Next(s, heardTwin(start.Add(time.Duration(i)*cfg.Quiet/10)))
		for _, a := range actions {
			if p, ok := a.(ProveTwin); !ok || p.Address != "10.7.0.9:5052" {
				t.Fatalf("%+v", a)
			}
			asked++
		}
	}
	if asked != 10 {
		t.Errorf("asked %d times in 10 spans", asked)
	}
	if s.Stopped() {
		t.Fatal("a beacon stopped it")
	}
	_, actions := Next(s, Challenged{Now: start, Own: unbound("1"), From: "b", ListVersion: 1, Attempt: "x"})
	if !actions[0].(Reply).Answer.Promised {
		t.Error("a beacon kept it from promising")
	}
}

func TestAnAnswerOfItsOwnIsNoTwin(t *testing.T) {
	s := New(config("a", false), start, Promise{})
	e := livingTwin(start)
	e.Incarnation = e.Own
	if s, actions := Next(s, e); s.Stopped() || len(actions) > 0 {
		t.Errorf("it met itself and did %+v", actions)
	}
	e.Incarnation = ""
	if s, _ := Next(s, e); s.Stopped() {
		t.Error("nobody stopped it")
	}
}

// One that proved that it lives ends this master's part, whatever it was at.
func TestALivingTwinStopsVoting(t *testing.T) {
	g := Generation{4, "g"}
	own := bound("1", g, 3, 99, three("1", "1", "1")...)
	s, now := attempt(t, config("a", false), own)
	s, actions := Next(s, livingTwin(now))
	if len(actions) != 2 || actions[0] != (End{"try"}) {
		t.Fatalf("its attempt did not end, or it did not stop: %+v", actions)
	}
	stop, ok := actions[1].(Stop)
	for _, want := range []string{"a has stopped voting", "incarnation other at 10.7.0.9:5052", "switch one of the two off, then restart the other"} {
		if !ok || !strings.Contains(stop.Why, want) || s.Why() != stop.Why {
			t.Errorf("it says %q, want %q", stop.Why, want)
		}
	}
	if !s.Stopped() || s.MayJoin(now.Add(time.Hour)) {
		t.Error("it may still join")
	}
	for _, e := range []Event{
		Challenged{Now: now, Own: own, From: "b", Incarnation: "1", ListVersion: 1, Attempt: "x"},
		Asked{now, "x"},
		Answered{now, own, "try", answer("b", unbound("1"))},
		Answered{now, own, "try", answer("c", unbound("1"))},
		Tick{Now: now.Add(time.Hour), Own: own, Attempt: "again"},
		LeaderHeard{now},
		livingTwin(now),
	} {
		var actions []Action
		s, actions = Next(s, e)
		for _, a := range actions {
			switch a := a.(type) {
			case Reply:
				if a.Answer.Promised || a.Answer.Bound || a.Answer.Refused != stop.Why {
					t.Errorf("%T: it answers %+v", e, a.Answer)
				}
			case Refuse:
				if a.Why != stop.Why {
					t.Errorf("%T: it refuses with %q", e, a.Why)
				}
			default:
				t.Errorf("%T: it does %+v", e, a)
			}
		}
	}
	if s.Why() != stop.Why {
		t.Errorf("it says %q in the end", s.Why())
	}
}

// Both of a pair stop, so that neither helps a generation of its own to a quorum: b hears
// one of them, c the other.
func TestTwinsFoundNothing(t *testing.T) {
	for _, met := range []bool{true, false} {
		founded := 0
		for _, third := range []string{"b", "c"} {
			s, now := attempt(t, config("a", false), unbound("1"))
			if met {
				s, _ = Next(s, livingTwin(now))
			}
			s, _ = Next(s, Answered{now, unbound("1"), "try", answer(third, unbound("1"))})
			_, actions := Next(s, Tick{Now: now.Add(31 * time.Second), Own: unbound("1")})
			if _, ok := firstFound(actions); ok {
				founded++
			}
		}
		if want := map[bool]int{true: 0, false: 2}[met]; founded != want {
			t.Errorf("met %v: %d generations founded, want %d", met, founded, want)
		}
	}
}
