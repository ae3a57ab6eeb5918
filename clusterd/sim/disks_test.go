package sim

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/mesolith/mesolith/clusterd/replica"
)

// C4: a step of a disk fails once. The replica ends, opens its directory anew and rejoins.
func TestDisksFail(t *testing.T) {
	steps := []replica.Point{
		replica.TermWrite, replica.VoteWrite, replica.LogCreate, replica.LogWrite, replica.LogFlush, replica.LogSegments, replica.LogDelete,
		replica.SnapshotBegin, replica.SnapshotWrite, replica.SnapshotClose,
	}
	manyLives(t, three(), func(w *world) {
		w.rng.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
		for _, p := range steps {
			n := w.nodes[w.names[w.rng.IntN(len(w.names))]]
			before := w.net.counts.of("EIO")
			n.life.disk.want(plan{moment: moment{p, w.rng.IntN(2) == 0}, left: 1, what: eio})
			for range 30 {
				if w.net.counts.of("EIO") > before {
					break
				}
				if p == replica.TermWrite || p == replica.VoteWrite {
					w.deposeFor(2 * beat)
				}
				time.Sleep(beat)
			}
			time.Sleep(w.between(2*beat, 6*beat))
		}
	}, "EIO", "tasks run once", "operations linearizable")
}

// deposeFor cuts the leader off for a while.
func (w *world) deposeFor(d time.Duration) {
	lead, _ := w.leader()
	if lead == nil {
		return
	}
	for _, o := range w.others(lead.name) {
		w.net.cut(lead.name, o, true)
	}
	time.Sleep(d)
	w.net.heal()
}

// C3: a write of the leader hangs. Another one leads within the stall limit and three
// heartbeat timeouts; when the write ends after all, the master takes part again.
func TestLeadersDiskHangs(t *testing.T) {
	var worst time.Duration
	hung := 0
	manyLives(t, three(), func(w *world) {
		for over := w.until(); !over(); {
			time.Sleep(w.between(3*beat, 8*beat))
			n, _ := w.leader()
			if n == nil {
				continue
			}
			before := w.net.counts.of("writes hung")
			p := []replica.Point{replica.LogWrite, replica.LogFlush}[w.rng.IntN(2)]
			n.life.disk.want(plan{moment: moment{p, w.rng.IntN(2) == 0}, left: 1, what: hang})
			if !w.eventually("a hung write", 20*beat, func() bool { return w.net.counts.of("writes hung") > before }) {
				return
			}
			began := time.Now()
			if !w.eventually("another leader", stallLimit+20*beat, func() bool { o, _ := w.leader(); return o != nil && o != n }) {
				return
			}
			hung++
			worst = max(worst, time.Since(began))
			time.Sleep(w.between(0, 10*beat))
			n.life.disk.thaw()
			w.eventually("the master's return", 30*beat, func() bool {
				s, _ := n.life.masters.Status()
				return s.Leader != ""
			})
		}
	}, "writes hung", "tasks run once")
	t.Logf("%d leaders' writes hung; the next leader came after at most %.1f heartbeat timeouts, of which %.0f are the stall limit",
		hung, float64(worst)/float64(beat), float64(stallLimit)/float64(beat))
	if worst > stallLimit+5*beat {
		t.Errorf("the next leader came after %s", worst)
	}
}

// C7: the power of a single master is cut, again and again.
func TestOneMastersPowerIsCut(t *testing.T) {
	manyLives(t, cast{masters: 1, agents: 2, frameworks: 2}, func(w *world) {
		n := w.nodes[w.names[0]]
		for over := w.until(); !over(); {
			m := moment{[]replica.Point{replica.LogWrite, replica.LogFlush, replica.LogSegments, replica.EntryApply, replica.SnapshotWrite}[w.rng.IntN(5)], w.rng.IntN(2) == 0}
			n.life.disk.want(plan{moment: m, left: 1 + w.rng.IntN(20), what: power})
			select {
			case <-n.life.died:
			case <-time.After(30 * beat):
				n.off(true)
				time.Sleep(beat)
				n.start()
				continue
			}
			n.bury()
			time.Sleep(w.between(0, 10*beat))
			n.start()
		}
	}, "powers cut", "writes in danger", "tasks run once")
}

// C12: a follower misses so much that it gets a snapshot, while the leader changes.
func TestALaggardGetsASnapshotWhileTheLeaderChanges(t *testing.T) {
	installed := 0
	manyLives(t, three(), func(w *world) {
		for over := w.until(); !over(); {
			lead, _ := w.leader()
			if lead == nil {
				time.Sleep(beat)
				continue
			}
			late := w.nodes[w.others(lead.name)[w.rng.IntN(2)]]
			for _, o := range w.others(late.name) {
				w.net.cut(o, late.name, true)
				w.net.cut(late.name, o, true)
			}
			time.Sleep(w.between(20*beat, 40*beat))
			restored := func() int {
				late.life.disk.mu.Lock()
				defer late.life.disk.mu.Unlock()
				return late.life.disk.points[moment{replica.StateRestore, true}]
			}
			before := restored()
			w.net.heal()
			time.Sleep(w.between(0, beat))
			switch w.rng.IntN(3) {
			case 0:
				lead.off(true)
				time.Sleep(w.between(beat, 5*beat))
				lead.start()
			case 1:
				w.deposeFor(w.between(2*beat, 5*beat))
			}
			time.Sleep(w.between(5*beat, 10*beat))
			installed += restored() - before
		}
	}, "directions cut", "powers cut", "tasks run once")
	t.Logf("%d snapshots were installed on followers", installed)
	if installed == 0 {
		t.Error("no follower got a snapshot")
	}
}

// C11 and the rule that no decision that kills compares clocks: nodes are frozen for longer
// than a lease, and every node's time of day jumps by hours meanwhile.
func TestFrozenLeadersAndClocks(t *testing.T) {
	manyLives(t, three(), func(w *world) {
		for over := w.until(); !over(); {
			time.Sleep(w.between(3*beat, 8*beat))
			n, _ := w.leader()
			if n == nil || w.rng.IntN(4) == 0 {
				n = w.nodes[w.names[w.rng.IntN(len(w.names))]]
			}
			for _, name := range w.names {
				w.nodes[name].life.setClock(time.Duration(w.rng.Int64N(int64(10*time.Hour))) - 5*time.Hour)
				w.net.counts.add("clocks set")
			}
			n.life.disk.freeze()
			everybody := append(w.others(n.name), "a1", "a2", "a3", "f1", "f2", "reader0")
			for _, o := range everybody {
				w.net.cut(o, n.name, true)
				w.net.cut(n.name, o, true)
			}
			w.net.counts.add("nodes frozen")
			// Shorter than the stall limit or longer: then the replica has to end.
			time.Sleep(w.between(beat, 8*beat))
			n.life.disk.thaw()
			w.net.heal()
		}
	}, "nodes frozen", "clocks set", "tasks run once", "operations linearizable")
}

// C10: masters that keep nothing over a boot are replaced one after the other, while those
// that are left are cut from one another now and then.
func TestMastersAreReplaced(t *testing.T) {
	c := three()
	c.forgetful = true
	manyLives(t, c, func(w *world) {
		for over := w.until(); !over(); {
			if !w.eventually("a vote for everybody", 120*beat, w.full) {
				return
			}
			n := w.nodes[w.names[w.rng.IntN(len(w.names))]]
			n.off(true)
			if err := os.RemoveAll(n.dir); err != nil {
				w.t.Fatal(err)
			}
			n.boots++
			time.Sleep(w.between(0, 5*beat))
			n.start()
			w.net.counts.add("masters replaced")
			time.Sleep(w.between(0, 5*beat))
			if w.rng.IntN(2) == 0 {
				w.deposeFor(w.between(beat, 4*beat))
				w.net.counts.add("partitions during a replacement")
			}
		}
		w.eventually("a vote for everybody", 120*beat, w.full)
	}, "masters replaced", "partitions during a replacement", "tasks run once")
}

// full: the leader's configuration is the list of masters, each with a vote and alive.
func (w *world) full() bool {
	lead, _ := w.leader()
	if lead == nil {
		return false
	}
	list := lead.life.members()
	for _, m := range list {
		n := w.nodes[m.Name]
		if !m.Votes || m.Placeholder() || n.life == nil || m.Incarnation != n.life.incarnation || !slices.Contains(w.names, m.Name) {
			return false
		}
	}
	return len(list) == len(w.names)
}
