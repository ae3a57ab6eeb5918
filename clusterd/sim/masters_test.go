package sim

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// life runs one seed in a bubble of virtual time and gives what happened.
func oneLife(t *testing.T, seed uint64, c cast, total *counts, f func(w *world)) {
	t.Helper()
	t.Logf("seed %d begins", seed) // a panic would not say which
	began := time.Now()
	var virtual time.Duration
	var did *counts
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		w := worldOf(t, seed, c)
		f(w)
		w.settle()
		w.end()
		virtual = time.Since(begin)
		did = &w.net.counts
	})
	if did == nil {
		t.Fatalf("seed %d: the life did not end", seed)
	}
	t.Logf("seed %d: %s in %s: %s", seed, virtual.Round(time.Second), time.Since(began).Round(time.Millisecond), did)
	total.merge(did)
}

// three masters are the usual cast.
func three() cast { return cast{masters: 3, agents: 3, frameworks: 2} }

func manyLives(t *testing.T, c cast, f func(w *world), must ...string) {
	t.Helper()
	livesUntil(t, c, f, func() bool { return true }, must...)
}

// livesUntil goes on for some lives more until complete says that all was met.
func livesUntil(t *testing.T, c cast, f func(w *world), complete func() bool, must ...string) {
	t.Helper()
	var total counts
	n := *lives
	if *seedFlag != 0 {
		n = 1
	}
	// What a few lives did not bring, some more do.
	happened := func() bool { return !slices.ContainsFunc(must, func(what string) bool { return total.of(what) == 0 }) }
	for i := 0; i < n || *seedFlag == 0 && i < n+5 && !(happened() && complete()); i++ {
		seed := *seedFlag
		if seed == 0 {
			seed = rand.Uint64()
		}
		oneLife(t, seed, c, &total, f)
		if t.Failed() {
			t.Fatalf("replay: go test ./clusterd/sim -run '^%s$' -sim.seed %d -sim.time %s", t.Name(), seed, *virtual)
		}
	}
	t.Logf("%d lives: %s", n, &total)
	for _, what := range must {
		if total.of(what) == 0 {
			t.Errorf("it never happened: %s", what)
		}
	}
}

// Nothing fails: what the simulation itself makes of a quiet cluster.
func TestQuietCluster(t *testing.T) {
	manyLives(t, three(), func(w *world) { time.Sleep(*virtual) }, "tasks run once", "operations linearizable")
}
