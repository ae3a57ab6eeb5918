package sim

import (
	"os"
	"slices"
	"testing"
	"time"
)

// C10: the list of masters changes by one name at a time, a master added, removed or put in
// another's place, as the machines come to know of it one after the other, in any order,
// while the leader is cut off now and then. Some of those that were removed are never told
// and go on by the old list: they disturb nobody.
func TestMastersAreAddedAndRemoved(t *testing.T) {
	c := three()
	c.spares = 3
	manyLives(t, c, func(w *world) {
		for over := w.until(); !over(); {
			if !w.eventually("a vote for everybody on the list", 120*beat, w.full) {
				return
			}
			served := w.net.counts.of("terms served")
			time.Sleep(15 * beat)
			if now := w.net.counts.of("terms served"); now != served {
				w.t.Errorf("seed %d: %d leaders came while nothing failed and %v were removed and on", w.seed, now-served, w.disturbers())
			}
			w.net.counts.addN("quiet spells with removed masters on", min(1, len(w.disturbers())))
			if !w.changeList() {
				return
			}
		}
		w.eventually("a vote for everybody on the list", 120*beat, w.full)
		for _, name := range w.all {
			if !slices.Contains(w.names, name) {
				w.nodes[name].off(false)
			}
		}
	}, "masters added", "masters removed", "masters exchanged", "quiet spells with removed masters on", "partitions during a change", "tasks run once")
}

// changeList makes one change and tells everybody whom it concerns.
func (w *world) changeList() bool {
	next := slices.Clone(w.names)
	var spare []string
	for _, name := range w.all {
		if !slices.Contains(next, name) {
			spare = append(spare, name)
		}
	}
	pick := func(from []string) string { return from[w.rng.IntN(len(from))] }
	gone, added := "", ""
	switch kind := w.rng.IntN(3); {
	case kind == 0 && len(next) < 5:
		added = pick(spare)
		w.net.counts.add("masters added")
	case kind == 1 && len(next) > 3:
		gone = pick(next)
		w.net.counts.add("masters removed")
	default:
		gone, added = pick(next), pick(spare)
		w.net.counts.add("masters exchanged")
	}
	if added != "" {
		n := w.nodes[added] // one that was a master before comes back empty
		n.off(false)
		if err := os.RemoveAll(n.dir); err != nil {
			w.t.Fatal(err)
		}
		n.boots++
		next = append(next, added)
	}
	next = slices.DeleteFunc(next, func(name string) bool { return name == gone })
	slices.Sort(next)
	told := slices.Clone(next)
	if gone != "" {
		told = append(told, gone)
	}
	w.rng.Shuffle(len(told), func(i, j int) { told[i], told[j] = told[j], told[i] })
	w.version++
	for _, name := range told {
		n := w.nodes[name]
		if name == gone {
			if w.rng.IntN(2) == 0 {
				n.off(false) // it is no master any more
			} else {
				w.net.counts.add("removed masters that go on")
			}
			continue
		}
		n.off(false)
		n.list, n.version = next, w.version
		n.start()
		if w.rng.IntN(2) == 0 {
			w.deposeFor(w.between(beat, 4*beat))
			w.net.counts.add("partitions during a change")
		}
		time.Sleep(w.between(0, 5*beat))
		// The next one is told when somebody leads: two at once may be one too many.
		if !w.eventually("a leader while the list changes", 120*beat, func() bool { lead, _ := w.leader(); return lead != nil }) {
			return false
		}
	}
	w.names = next
	return true
}

// disturbers are machines that are on, and masters by an old list alone.
func (w *world) disturbers() (out []string) {
	for _, name := range w.all {
		if w.nodes[name].life != nil && !slices.Contains(w.names, name) {
			out = append(out, name)
		}
	}
	return out
}
