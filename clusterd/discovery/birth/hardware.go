package birth

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A master that comes back empty on the hardware that it had has forgotten, and its
// former incarnation is dead. Another machine that answers under the name proves no such
// thing: the one that the cluster knows may be alive where nobody hears it, with its
// vote. A copied medium looks like that, and so does a mainboard that was replaced: only
// the operator can tell the two apart. Until then such an answer counts for nothing: it
// is no promise, no proof of death, and its sender gets no vote.
//
// What the cluster knows of its masters' hardware is part of its state. A cluster that
// has no state knows none, and takes what it sees first.

// Held is a machine that waits for the operator's word.
type Held struct {
	Name, Hardware string
	Known          string // the hardware that carries the name as far as is known
}

// String is the sentence for people.
func (h Held) String() string {
	return fmt.Sprintf("another machine (hardware %.12s) answers as %s than the %s this cluster knows (hardware %.12s): it gets no vote until an operator says so: `lith nodes admit %s`", orNone(h.Hardware), h.Name, h.Name, h.Known, h.Name)
}

func orNone(hardware string) string {
	if hardware == "" {
		return "unknown"
	}
	return hardware
}

// Living is who answered a fresh question under a master's name.
type Living struct {
	Incarnation, Hardware string
	Admitted              map[string]Word // what an operator said to it
}

// Told is what is known of the hardware of masters, by name, and what the operator said.
type Told struct {
	Known    map[string]string
	Admitted map[string]Word
}

// Word is an operator's: Hardware may carry a name instead of what carried it until now.
// Once something else carries it the word means nothing any more, wherever it is kept.
type Word struct{ Hardware, Instead string }

// holds says whether hardware under a name waits for the operator.
func (t Told) holds(name, hardware string) (Held, bool) {
	known := t.Known[name]
	if known == "" || known == hardware || hardware != "" && t.Admitted[name] == (Word{hardware, known}) {
		return Held{}, false
	}
	return Held{name, hardware, known}, true
}

// Verdict is what a leader makes of the answers.
type Verdict struct {
	Living map[string]string // name → incarnation, without those that are held
	Held   []Held
	Learn  []Held // hardware that the state has to know before anything else is done
}

// Judge tells answers that count from those that wait for the operator.
func Judge(answers map[string]Living, told Told) Verdict {
	for name, a := range answers {
		told.Admitted = withWord(told.Admitted, name, a.Admitted)
	}
	v := Verdict{Living: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		a := answers[name]
		if h, held := told.holds(name, a.Hardware); held {
			v.Held = append(v.Held, h)
			continue
		}
		v.Living[name] = a.Incarnation
		if a.Hardware != "" && told.Known[name] != a.Hardware {
			v.Learn = append(v.Learn, Held{name, a.Hardware, told.Known[name]})
		}
	}
	return v
}

// withWord adds what an operator said to a master. What it says of itself counts for
// nothing: so it would admit itself.
func withWord(all map[string]Word, from string, said map[string]Word) map[string]Word {
	out := maps.Clone(all)
	for name, word := range said {
		if name == from {
			continue
		}
		if out == nil {
			out = map[string]Word{}
		}
		out[name] = word
	}
	return out
}

// told gathers what the answers to an attempt know: the newest state's knowledge counts.
func (s State) told() Told {
	var t Told
	var answers []Answer
	for _, name := range s.cfg.List {
		a, ok := s.answers[name]
		if !ok || a.ListVersion != s.cfg.ListVersion {
			continue
		}
		answers = append(answers, a)
		t.Admitted = withWord(t.Admitted, name, a.Admitted)
	}
	if best := Newest(answers); best != nil {
		t.Known = best.Known
	}
	return t
}

// hold sorts out of an attempt's answers what waits for the operator.
func (s State) hold() []Held {
	told := s.told()
	var held []Held
	for _, name := range s.cfg.List {
		if a, ok := s.answers[name]; ok && a.ListVersion == s.cfg.ListVersion {
			if h, ok := told.holds(name, a.Hardware); ok {
				held = append(held, h)
			}
		}
	}
	return held
}

// Held are the machines that the running attempt does not count.
func (s State) Held() []Held { return s.held }

func (s State) heldName(name string) bool {
	return slices.ContainsFunc(s.held, func(h Held) bool { return h.Name == name })
}

// Sentence puts what is held into words; empty: nothing.
func Sentence(held []Held) string {
	lines := make([]string, 0, len(held))
	for _, h := range held {
		lines = append(lines, h.String())
	}
	return strings.Join(lines, "; ")
}
