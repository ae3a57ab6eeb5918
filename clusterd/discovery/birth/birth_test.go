package birth

import (
	"fmt"
	"testing"
	"time"
)

var start = time.Unix(1_000_000, 0)

func config(self string, disks bool) Config {
	return Config{Self: self, List: []string{"a", "b", "c"}, ListVersion: 1, Disks: disks, Wait: 30 * time.Second, Quiet: 2 * time.Second, Promise: 40 * time.Second}
}

func unbound(inc string) Own { return Own{Incarnation: inc} }

func bound(inc string, g Generation, term, index uint64, voters ...Voter) Own {
	return Own{Incarnation: inc, Bound: true, Generation: g, Highest: g.Height, Term: term, LastIndex: index, Voters: voters}
}

func three(a, b, c string) []Voter { return []Voter{{"a", a}, {"b", b}, {"c", c}} }

func answer(name string, own Own) Answer {
	return Answer{Name: name, ListVersion: 1, Own: own, Promised: true}
}

func TestDead(t *testing.T) {
	g := Generation{1, "g"}
	tests := []struct {
		name    string
		answers []Answer
		all     bool
		want    bool
	}{
		{"one of three left, two rebooted", []Answer{answer("a", bound("1", g, 1, 1, three("1", "1", "1")...)), answer("b", unbound("2")), answer("c", unbound("2"))}, true, true},
		{"two of three left, one rebooted", []Answer{answer("a", bound("1", g, 1, 1, three("1", "1", "1")...)), answer("b", bound("1", g, 1, 1, three("1", "1", "1")...)), answer("c", unbound("2"))}, true, false},
		{"one answers, one rebooted, one unheard", []Answer{answer("a", bound("1", g, 1, 1, three("1", "1", "1")...)), answer("b", unbound("2"))}, false, false},
		{"born with a placeholder, one rebooted", []Answer{answer("a", bound("1", g, 1, 1, three("1", "1", "")...)), answer("b", unbound("2"))}, false, true},
		{"born with a placeholder, both there", []Answer{answer("a", bound("1", g, 1, 1, three("1", "1", "")...)), answer("b", bound("1", g, 1, 1, three("1", "1", "")...))}, false, false},
		{"n-1 in the middle of a replacement, both there", []Answer{
			answer("a", bound("1", g, 1, 5, Voter{"a", "1"}, Voter{"b", "1"})), answer("b", bound("1", g, 1, 5, Voter{"a", "1"}, Voter{"b", "1"})), answer("c", unbound("2")),
		}, true, false},
		{"n-1 in the middle of a replacement, one of two rebooted, all answer", []Answer{
			answer("a", bound("1", g, 1, 5, Voter{"a", "1"}, Voter{"b", "1"})), answer("b", unbound("3")), answer("c", unbound("2")),
		}, true, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := Dead(g, test.answers, 3, test.all); got != test.want {
				t.Errorf("dead = %v", got)
			}
		})
	}
}

// known is bound with the place of the configuration in the log.
func known(inc string, g Generation, config uint64, voters ...Voter) Own {
	o := bound(inc, g, 1, config, voters...)
	o.ConfigIndex = config
	return o
}

func TestDeadInNarrowPlaces(t *testing.T) {
	g := Generation{1, "g"}
	promoted := []Voter{{"a", "1"}, {"b", "1"}, {"c", "2"}}
	five := func(d, e string) []Voter { return []Voter{{"a", "1"}, {"b", "1"}, {"c", "1"}, {"d", d}, {"e", e}} }
	tests := []struct {
		name    string
		n       int
		answers []Answer
		all     bool
		want    bool
	}{
		// c was promoted by a and b and has not heard of it; a is cut off and lives.
		{"a learner's old configuration proves nothing", 3, []Answer{answer("b", unbound("2")), answer("c", known("2", g, 1, three("1", "1", "")...))}, false, false},
		{"a placeholder's master counts once", 5, []Answer{answer("a", known("1", g, 1, five("", "")...)), answer("d", unbound("1"))}, false, false},
		{"and is counted unheard", 5, []Answer{answer("a", known("1", g, 1, five("", "")...)), answer("b", unbound("2")), answer("d", unbound("1"))}, false, true},
		// Terms that a server voted in say nothing of its configuration.
		{"the newest configuration is the one that stands last", 3, []Answer{
			answer("a", func() Own { o := known("1", g, 1, three("1", "1", "")...); o.Term = 9; return o }()),
			answer("b", known("1", g, 8, promoted...)), answer("c", known("2", g, 8, promoted...)),
		}, true, false},
		// b and c rebooted; a has not heard of anything for long, d and e have acknowledged
		// with b and c what is lost if a's configuration, of which one is left, counts.
		{"a majority of a stale configuration is missing, 2 of 5 gone", 5, []Answer{answer("a", known("1", g, 1, five("1", "1")...)), answer("b", unbound("2")), answer("c", unbound("2"))}, false, false},
		{"and d answers too", 5, []Answer{
			answer("a", known("1", g, 1, five("1", "1")...)), answer("b", unbound("2")), answer("c", unbound("2")), answer("d", known("1", g, 9, five("1", "1")...)),
		}, false, false},
		{"all answer, and nobody who votes lives", 3, []Answer{
			answer("a", unbound("2")), answer("b", known("2", g, 1, three("1", "1", "")...)), answer("c", known("2", g, 1, three("1", "1", "")...)),
		}, true, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := Dead(g, test.answers, test.n, test.all); got != test.want {
				t.Errorf("dead = %v", got)
			}
		})
	}
}

// A promise survives the program and ends with the challenger's incarnation, but only
// when that is proven.
func TestPromiseOfARestartedProgram(t *testing.T) {
	s := New(config("c", false), start, Promise{})
	s, _ = Next(s, Challenged{Now: start, Own: unbound("1"), From: "b", Incarnation: "1", ListVersion: 1, Attempt: "x"})
	s = New(config("c", false), start, s.Promise())
	if s.MayJoin(start) {
		t.Error("joining under a promise")
	}
	again := Challenged{Now: start, Own: unbound("1"), From: "b", Incarnation: "2", ListVersion: 1, Attempt: "y"}
	s, actions := Next(s, again)
	if actions[0].(Reply).Answer.Promised {
		t.Error("the promise was given away on somebody's word")
	}
	s, _ = Next(s, Proven{Name: "b", Incarnation: "1"})
	if s.MayJoin(start) {
		t.Error("the challenger lives, and its promise was dropped")
	}
	s, _ = Next(s, Proven{Name: "b", Incarnation: "2"})
	if !s.MayJoin(start) {
		t.Error("the challenger is dead, and its promise holds")
	}
	if _, actions = Next(s, again); !actions[0].(Reply).Answer.Promised {
		t.Error("its successor is refused")
	}
	if !s.MayJoin(start.Add(time.Hour)) {
		t.Error("an ended promise holds")
	}
}

// attempt drives one master until it has challenged.
func attempt(t *testing.T, cfg Config, own Own) (State, time.Time) {
	t.Helper()
	s, now := New(cfg, start, Promise{}), start
	for range 100 {
		now = now.Add(time.Second)
		var actions []Action
		s, actions = Next(s, Tick{Now: now, Own: own, Attempt: "try"})
		if len(actions) > 0 {
			return s, now
		}
	}
	t.Fatal("it never tried")
	return s, now
}

func TestEmptyBirthOfAll(t *testing.T) {
	s, now := attempt(t, config("a", false), unbound("1"))
	s, actions := Next(s, Answered{now, unbound("1"), "try", answer("b", unbound("1"))})
	if len(actions) != 0 {
		t.Fatalf("q is there and all are not, yet: %v", actions)
	}
	_, actions = Next(s, Answered{now, unbound("1"), "try", answer("c", unbound("1"))})
	f, ok := actions[0].(Found)
	if !ok || len(f.Participants) != 3 || f.Source != "" || f.Height != 1 {
		t.Errorf("%+v", actions)
	}
}

func TestQuorumAloneWaits(t *testing.T) {
	for _, disks := range []bool{false, true} {
		s, now := attempt(t, config("a", disks), unbound("1"))
		s, _ = Next(s, Answered{now, unbound("1"), "try", answer("b", unbound("1"))})
		s, actions := Next(s, Tick{Now: now.Add(29 * time.Second), Own: unbound("1")})
		if _, founds := firstFound(actions); founds {
			t.Fatalf("too early: %+v", actions)
		}
		_, actions = Next(s, Tick{Now: now.Add(31 * time.Second), Own: unbound("1")})
		if _, founds := firstFound(actions); founds == disks {
			t.Errorf("disks %v: %+v", disks, actions)
		}
	}
}

func firstFound(actions []Action) (Found, bool) {
	for _, a := range actions {
		if f, ok := a.(Found); ok {
			return f, true
		}
	}
	return Found{}, false
}

func TestRebirthFromTheSurvivor(t *testing.T) {
	g := Generation{4, "g"}
	s, now := attempt(t, config("a", false), unbound("2"))
	s, _ = Next(s, Answered{now, unbound("2"), "try", answer("b", bound("1", g, 3, 99, three("1", "1", "1")...))})
	_, actions := Next(s, Answered{now, unbound("2"), "try", answer("c", unbound("2"))})
	f, ok := firstFound(actions)
	if !ok || f.Source != "b" || f.Height != 5 {
		t.Errorf("%+v", actions)
	}
}

// Found by the search of three reboots (docs/adr/0010-reach.md): a has forgotten everything,
// b alone is left of a birth from generation 1 that came to nothing, and c holds what was
// acknowledged in generation 2.
func TestABirthThatCameToNothingOutranksNothing(t *testing.T) {
	b := bound("1.2", Generation{3, "third"}, 1, 1, three("3", "1.2", "")...)
	b.Unwritten, b.Origin = true, Reach{Height: 1, Term: 1, Index: 1, ID: "first"}
	c := bound("1", Generation{2, "second"}, 2, 3, three("2", "", "1")...)
	for _, order := range [][]Answer{{answer("b", b), answer("c", c)}, {answer("c", c), answer("b", b)}} {
		s, now := attempt(t, config("a", false), unbound("4"))
		s, _ = Next(s, Answered{now, unbound("4"), "try", order[0]})
		_, actions := Next(s, Answered{now, unbound("4"), "try", order[1]})
		if f, ok := firstFound(actions); !ok || f.Source != "c" || f.Height != 4 {
			t.Errorf("%+v", actions)
		}
	}
	// The first entry of its own makes it what it says: it had a leader, and a majority.
	b.Unwritten, b.LastIndex, b.Term = false, 2, 2
	if best := Newest([]Answer{answer("b", b), answer("c", c)}); best.Name != "b" {
		t.Error("a generation that had a leader ranks below the one before it")
	}
}

// Found by walks in the small world (docs/adr/0012-unheard.md): b and c forgot everything and
// were born anew without hearing a, so that heights tell nothing. b forgot once more.
func TestABirthThatHeardNobodyIsTheNewerOne(t *testing.T) {
	first := three("1", "1", "1")
	for _, height := range []uint64{1, 2, 7} {
		stale := bound("1", Generation{height, "unheard"}, 9, 99, first...)
		left := stale
		left.Bound, left.Legacy, left.Incarnation = false, true, "1.1"
		newer := bound("2", Generation{1, "heard nobody"}, 2, 3, three("", "2", "2")...)
		left2 := newer // c is another incarnation since, and has forgotten nothing
		left2.Bound, left2.Legacy, left2.Incarnation = false, true, "2.1"
		for _, a := range []Own{stale, left} {
			for _, c := range []Own{newer, left2} {
				for _, order := range [][]Answer{{answer("a", a), answer("c", c)}, {answer("c", c), answer("a", a)}} {
					s, now := attempt(t, config("b", false), unbound("3"))
					s, _ = Next(s, Answered{now, unbound("3"), "try", order[0]})
					_, actions := Next(s, Answered{now, unbound("3"), "try", order[1]})
					if f, ok := firstFound(actions); !ok || f.Source != "c" || f.Height != height+1 {
						t.Errorf("unheard at height %d: %+v", height, actions)
					}
				}
			}
		}
	}
	// What was born of nothing in it goes no further than where it came from.
	of := Reach{Height: 1, Term: 2, Index: 3, ID: "heard nobody", Voters: three("", "2", "2")}
	fruitless := bound("2.1", Generation{2, "fruitless"}, 1, 1, three("", "3", "2.1")...)
	fruitless.Unwritten, fruitless.Origin = true, of
	stale := bound("1", Generation{5, "unheard"}, 9, 99, first...)
	if best := Newest([]Answer{answer("a", stale), answer("b", unbound("4")), answer("c", fruitless)}); best.Name != "c" {
		t.Error("c holds what was acknowledged, and was born with it once more")
	}
	// Within a generation the log decides, whoever votes in it.
	behind := bound("2", Generation{5, "unheard"}, 8, 100, three("1", "2", "2")...)
	if best := Newest([]Answer{answer("a", stale), answer("b", behind)}); best.Name != "a" {
		t.Error("an older log of the same generation is the newer state")
	}
}

func TestALivingGenerationStopsTheAttempt(t *testing.T) {
	g := Generation{4, "g"}
	own := bound("1", g, 3, 99, three("1", "1", "1")...)
	s, now := attempt(t, config("a", false), own)
	s, _ = Next(s, Answered{now, own, "try", answer("b", own)})
	_, actions := Next(s, Answered{now, own, "try", answer("c", unbound("2"))})
	if _, ends := actions[0].(End); !ends {
		t.Errorf("%+v", actions)
	}
}

func TestPromiseIsForOne(t *testing.T) {
	s := New(config("c", false), start, Promise{})
	s, actions := Next(s, Challenged{Now: start, Own: unbound("1"), From: "b", ListVersion: 1, Attempt: "x"})
	if !actions[0].(Reply).Answer.Promised {
		t.Fatalf("%+v", actions)
	}
	s, actions = Next(s, Challenged{Now: start, Own: unbound("1"), From: "a", ListVersion: 1, Attempt: "y"})
	if actions[0].(Reply).Answer.Promised {
		t.Error("promised twice")
	}
	if _, actions = Next(s, Asked{start, "y"}); fmt.Sprintf("%T", actions[0]) != "birth.Refuse" {
		t.Errorf("bound without a promise: %+v", actions)
	}
	if _, actions = Next(s, Asked{start.Add(41 * time.Second), "x"}); fmt.Sprintf("%T", actions[0]) != "birth.Refuse" {
		t.Errorf("bound by an ended promise: %+v", actions)
	}
	s, _ = Next(s, Ended{"x"})
	_, actions = Next(s, Challenged{Now: start, Own: unbound("1"), From: "a", ListVersion: 1, Attempt: "y"})
	if !actions[0].(Reply).Answer.Promised {
		t.Error("an ended attempt still holds the promise")
	}
	_, actions = Next(s, Challenged{Now: start, Own: unbound("1"), From: "a", ListVersion: 2, Attempt: "z"})
	if actions[0].(Reply).Answer.Promised {
		t.Error("promised to another list of masters")
	}
}

func TestLowerNameGoesOn(t *testing.T) {
	s, now := attempt(t, config("b", false), unbound("1"))
	_, actions := Next(s, Challenged{Now: now, Own: unbound("1"), From: "a", ListVersion: 1, Attempt: "lower"})
	if len(actions) != 2 || !actions[1].(Reply).Answer.Promised {
		t.Errorf("%+v", actions)
	}
	_, actions = Next(s, Challenged{Now: now, Own: unbound("1"), From: "c", ListVersion: 1, Attempt: "higher"})
	if len(actions) != 1 || actions[0].(Reply).Answer.Promised {
		t.Errorf("%+v", actions)
	}
}

// Two masters that challenge in step: the one that gave way may not wait for its whole
// turn, or it meets the other's next attempt again (found by the explorer: a learner was
// hindered for ever from being filled).
func TestWhoGaveWayTriesAgainAtOnce(t *testing.T) {
	s, now := attempt(t, config("b", false), unbound("1"))
	s, _ = Next(s, Challenged{Now: now, Own: unbound("1"), From: "a", Incarnation: "1", ListVersion: 1, Attempt: "lower"})
	if _, actions := Next(s, Tick{Now: now, Own: unbound("1"), Attempt: "again"}); len(actions) != 0 {
		t.Fatalf("under a promise to another: %+v", actions)
	}
	s, _ = Next(s, Ended{"lower"})
	s, actions := Next(s, Tick{Now: now, Own: unbound("1"), Attempt: "again"})
	if len(actions) != 1 {
		t.Fatalf("it waits for its turn: %+v", actions)
	}
	// Once: who ended of itself waits.
	s, _ = Next(s, LeaderHeard{now})
	s, _ = Next(s, Ended{"lower"})
	if _, actions = Next(s, Tick{Now: now, Own: unbound("1"), Attempt: "third"}); len(actions) != 0 {
		t.Errorf("%+v", actions)
	}
}

func TestLeaderHeardElsewhereEndsTheAttempt(t *testing.T) {
	s, now := attempt(t, config("a", false), unbound("1"))
	a := answer("b", unbound("1"))
	a.Leader, a.Promised = "c", false
	if _, actions := Next(s, Answered{now, unbound("1"), "try", a}); fmt.Sprintf("%T", actions[0]) != "birth.End" {
		t.Errorf("%+v", actions)
	}
}

func TestOneMasterFoundsAtOnce(t *testing.T) {
	cfg := Config{Self: "a", List: []string{"a"}, ListVersion: 1, Disks: true, Quiet: time.Second, Promise: time.Minute, Wait: time.Minute}
	s := New(cfg, start, Promise{})
	if _, actions := Next(s, Tick{Now: start.Add(time.Second), Own: unbound("1"), Attempt: "x"}); len(actions) != 1 {
		t.Errorf("%+v", actions)
	}
}

func TestReplacement(t *testing.T) {
	list := []string{"a", "b", "c"}
	v := func(name, inc string) Member { return Member{Voter{name, inc}, true, false} }
	l := func(name, inc string, caught bool) Member { return Member{Voter{name, inc}, false, caught} }
	tests := []struct {
		name    string
		members []Member
		living  map[string]string
		want    Step
	}{
		{"all well", []Member{v("a", "1"), v("b", "1"), v("c", "1")}, map[string]string{"a": "1", "b": "1", "c": "1"}, Step{}},
		{"one unheard stays", []Member{v("a", "1"), v("b", "1"), v("c", "1")}, map[string]string{"a": "1", "b": "1"}, Step{}},
		{"one rebooted", []Member{v("a", "1"), v("b", "1"), v("c", "1")}, map[string]string{"a": "1", "b": "1", "c": "2"}, Step{AddLearner, Voter{"c", "2"}}},
		{"placeholder seen", []Member{v("a", "1"), v("b", "1"), v("c", "")}, map[string]string{"c": "1"}, Step{AddLearner, Voter{"c", "1"}}},
		{"learner behind", []Member{v("a", "1"), v("b", "1"), v("c", "1"), l("c", "2", false)}, map[string]string{"c": "2"}, Step{}},
		{"learner there", []Member{v("a", "1"), v("b", "1"), v("c", "1"), l("c", "2", true)}, map[string]string{"c": "2"}, Step{Remove, Voter{"c", "1"}}},
		{"old one removed", []Member{v("a", "1"), v("b", "1"), l("c", "2", true)}, map[string]string{"c": "2"}, Step{AddVoter, Voter{"c", "2"}}},
		{"newcomer vanished, successor there", []Member{v("a", "1"), v("b", "1"), l("c", "2", true)}, map[string]string{"c": "3"}, Step{Remove, Voter{"c", "2"}}},
		{"newcomer vanished before anything was begun", []Member{v("a", "1"), v("b", "1"), v("c", "1"), l("c", "2", false)}, map[string]string{"b": "2"}, Step{Remove, Voter{"c", "2"}}},
		{"newcomer vanished", []Member{v("a", "1"), v("b", "1"), l("c", "2", true)}, nil, Step{Remove, Voter{"c", "2"}}},
		{"full again before anything else", []Member{v("a", "1"), v("b", "1")}, map[string]string{"c": "3", "b": "2"}, Step{AddVoter, Voter{"c", ""}}},
		{"a name is new and lives", []Member{v("a", "1"), v("b", "1"), v("x", "1")}, map[string]string{"a": "1", "b": "1", "c": "1"}, Step{AddLearner, Voter{"c", "1"}}},
		{"a name is new and nobody is there", []Member{v("a", "1"), v("b", "1"), v("x", "1")}, map[string]string{"a": "1", "b": "1"}, Step{}},
		{"a new name has caught up", []Member{v("a", "1"), v("b", "1"), v("x", "1"), l("c", "1", true)}, map[string]string{"a": "1", "b": "1", "c": "1"}, Step{AddVoter, Voter{"c", "1"}}},
		{"who is not on the list goes", []Member{v("a", "1"), v("b", "1"), v("c", "1"), v("x", "1")}, map[string]string{"a": "1", "b": "1"}, Step{Remove, Voter{"x", "1"}}},
		{"unless too few would be left", []Member{v("a", "1"), v("b", "1"), v("c", "1"), v("x", "1")}, map[string]string{"a": "1"}, Step{}},
		{"two are not on the list", []Member{v("a", "1"), v("b", "1"), v("c", "1"), v("x", "1"), v("y", "1")}, map[string]string{"a": "1", "b": "1", "c": "1"}, Step{Remove, Voter{"x", "1"}}},
		{"two dead: the half-done one first", []Member{v("a", "1"), v("b", "1"), v("c", "1"), l("c", "2", true)}, map[string]string{"b": "2", "c": "2"}, Step{Remove, Voter{"c", "1"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := Replacement(list, test.members, test.living); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// A leader gives a newcomer its vote and dies before the third master hears of it: the two
// are a majority of the newest configuration, and the third lets nobody be elected who has
// no vote as far as it knows. Once all have answered that generation is dead.
func TestOnlyTheNewcomerKnowsOfItsVote(t *testing.T) {
	g := Generation{1, "g"}
	before := []Voter{{"a", "1"}, {"b", "1"}}
	after := append(before[:2:2], Voter{"c", "1"})
	rebooted := answer("a", unbound("2"))
	newcomer := answer("c", known("1", g, 4, after...))
	for name, test := range map[string]struct {
		third Answer
		all   bool
		dead  bool
	}{
		"it has not heard":                {answer("b", known("1", g, 3, before...)), true, true},
		"it has not heard, and one waits": {answer("b", known("1", g, 3, before...)), false, false},
		"it has heard":                    {answer("b", known("1", g, 4, after...)), true, false},
		"it has heard, and of more":       {answer("b", known("1", g, 5, after...)), true, false},
	} {
		answers := []Answer{rebooted, test.third, newcomer}
		if !test.all {
			answers = answers[1:]
		}
		if got := Dead(g, answers, 3, test.all); got != test.dead {
			t.Errorf("%s: dead = %v", name, got)
		}
	}
}
