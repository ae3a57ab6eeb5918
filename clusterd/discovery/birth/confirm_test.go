package birth

import "testing"

// Found by the walks of the small world (five masters): b and e answered a's challenge and
// lost power. As new incarnations they belong, with c and d, to a generation that lives;
// c and d did not hear its leader just then and promised. What b and e once answered may
// not make it dead: c would be asked for its state, and what b, d and e acknowledged after
// c had answered would be lost.
func TestWhatADeadIncarnationAnsweredProvesNothing(t *testing.T) {
	g := Generation{1, "g"}
	voters := []Voter{{"a", ""}, {"b", "2"}, {"c", "1"}, {"d", "1"}, {"e", "2"}}
	f := Found{Source: "c", Participants: []Answer{
		answer("a", unbound("1")), answer("b", unbound("1")), answer("c", known("1", g, 5, voters...)), answer("d", known("1", g, 5, voters...)), answer("e", unbound("1")),
	}}
	if !Dead(g, f.Participants, 5, true) {
		t.Fatal("the attempt takes it for dead: otherwise this tests nothing")
	}
	left := func(names string) func(string) bool {
		return func(name string) bool {
			for _, n := range names {
				if string(n) == name {
					return true
				}
			}
			return false
		}
	}
	for names, want := range map[string]bool{
		"acd":   false, // b and e have no promise to keep
		"abcde": true,
		"abe":   true,
		"abce":  true,
		"ab":    false,
	} {
		if got := f.Confirmed(left(names), 5); got != want {
			t.Errorf("with %s: confirmed %v", names, got)
		}
	}
}
