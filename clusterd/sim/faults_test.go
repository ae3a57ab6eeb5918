package sim

import (
	"slices"
	"testing"
	"time"

	"github.com/mesolith/mesolith/clusterd/replica"
)

// until ends the virtual time of a life.
func (w *world) until() func() bool {
	end := time.Now().Add(*virtual)
	return func() bool { return time.Now().After(end) }
}

func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.rng.Int64N(int64(b-a)))
}

func (w *world) others(name string) (out []string) {
	for _, n := range w.all {
		if n != name {
			out = append(out, n)
		}
	}
	return out
}

// C1: the leader is cut from one or both of the others, in one direction or both, while
// what is on its way overtakes itself.
func TestLeadersAreCutOff(t *testing.T) {
	manyLives(t, three(), func(w *world) {
		for over := w.until(); !over(); {
			time.Sleep(w.between(5*beat, 15*beat))
			n, _ := w.leader()
			if n == nil {
				continue
			}
			w.net.jitter([]float64{0, 0.02, 0.2}[w.rng.IntN(3)])
			cut := w.others(n.name)
			if w.rng.IntN(3) == 0 {
				cut = cut[:1]
			}
			way := w.rng.IntN(3)
			for _, o := range cut {
				if way != 1 {
					w.net.cut(n.name, o, true)
				}
				if way != 2 {
					w.net.cut(o, n.name, true)
				}
			}
			if w.rng.IntN(4) == 0 { // and those who ask are cut off as well
				for _, who := range []string{"a1", "f1"} {
					w.net.cut(who, n.name, true)
				}
			}
			w.net.counts.add("leaders cut off")
			time.Sleep(w.between(3*beat, 12*beat))
			w.net.heal()
		}
	}, "leaders cut off", "directions cut", "chunks late", "tasks run once", "operations linearizable", "entries without an answer")
}

// C5, C9: masters die at every named point, by the program's end or by the machine's, under
// load, and come back by themselves.
func TestMastersDieAtEveryPoint(t *testing.T) {
	points := map[moment]int{}
	var all []moment
	for _, p := range replica.Points() {
		all = append(all, moment{p, false}, moment{p, true})
	}
	covered := func() bool {
		return !slices.ContainsFunc(all, func(m moment) bool { return points[m] == 0 })
	}
	lived := 0
	livesUntil(t, three(), func(w *world) {
		left := slices.Clone(all)
		if lived++; lived > *lives { // only what none before has met
			left = slices.DeleteFunc(left, func(m moment) bool { return points[m] > 0 })
		}
		if len(left) == 0 { // each has been met, and no cut fell on a write
			left = slices.Clone(all)
		}
		w.rng.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
		for _, m := range left {
			for try := 0; try < 5 && !w.dieAt(m, fault(w.rng.IntN(2))); try++ {
				w.net.counts.add("moments waited for in vain")
			}
			time.Sleep(w.between(beat, 4*beat))
			for m, n := range w.killedAt {
				points[m] += n
			}
			clear(w.killedAt)
		}
	}, covered, "powers cut", "programs killed", "tasks run once", "writes in danger")
	met := 0
	for _, p := range replica.Points() {
		for _, m := range []moment{{p, false}, {p, true}} {
			if points[m] > 0 {
				met++
				continue
			}
			t.Errorf("nobody died %s", m)
		}
	}
	t.Logf("points covered %d of %d", met, 2*len(replica.Points()))
}

// dieAt has a master die at a moment, and starts it again.
func (w *world) dieAt(m moment, what fault) bool {
	n := w.nodes[w.names[w.rng.IntN(len(w.names))]]
	if lead, _ := w.leader(); lead != nil && w.rng.IntN(2) == 0 {
		n = lead
	}
	if n.life == nil {
		return false
	}
	d := n.life
	d.disk.want(plan{moment: m, left: 1 + w.rng.IntN(3), what: what})
	switch m.point {
	case replica.TermWrite, replica.VoteWrite: // somebody must stand for election
		if lead, _ := w.leader(); lead != nil {
			for _, o := range w.others(lead.name) {
				w.net.cut(lead.name, o, true)
			}
		}
	case replica.StateRestore, replica.LogCreate:
		if m.point == replica.StateRestore { // it comes with the next start
			n.off(what == power)
			n.start()
			n.life.disk.want(plan{moment: m, left: 1, what: what})
			d = n.life
		}
	}
	select {
	case <-d.died:
	case <-time.After(30 * beat):
		d.disk.want(plan{})
		w.net.heal()
		return false
	}
	w.net.heal()
	n.bury()
	w.killedAt[m]++
	time.Sleep(w.between(0, 6*beat))
	n.start()
	return true
}
