package birth

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unsafe"
)

// smallWalks runs count seeded walks of n machines in small worlds, a world a worker, and
// gives the first failure with its way.
func smallWalks(n int, disks bool, seed uint64, count int, done func(w *smallWorld, happened *[moveKinds]int)) string {
	var mu sync.Mutex
	var failure string
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for k := range workers {
		wg.Go(func() {
			v := newStroll(n, disks)
			for i := k; i < count; i += workers {
				why := v.walk(seed, i, nil)
				mu.Lock()
				if why != "" && failure == "" {
					var b strings.Builder
					newStroll(n, disks).walk(seed, i, &b)
					failure = fmt.Sprintf("%swalk %d of seed %d with %d masters, disks %v: %s", b.String(), i, seed, n, disks, why)
				}
				over := failure != ""
				mu.Unlock()
				if over {
					break
				}
				if len(v.x.w.answered) > 1<<20 { // what Next answered is remembered no longer
					fresh := newStrollWorld(n, disks)
					fresh.did, v.x.w, v.x.healed = v.x.w.did, fresh, hashes{}
				}
			}
			mu.Lock()
			done(v.x.w, &v.x.happened)
			mu.Unlock()
		})
	}
	wg.Wait()
	return failure
}

// stroll is a search that goes where chance leads.
type stroll struct{ x *search }

func newStroll(n int, disks bool) *stroll {
	return &stroll{&search{w: newStrollWorld(n, disks), seed: maphash.MakeSeed()}}
}

// newStrollWorld merges nothing: numbers that other walks gave may not change a walk.
func newStrollWorld(n int, disks bool) *smallWorld {
	w := newSmallWorld(n, disks, 200)
	w.plain = true
	return w
}

func (v *stroll) walk(seed uint64, i int, trace *strings.Builder) string {
	w := v.x.w
	r := rand.New(rand.NewPCG(seed, uint64(i)))
	few := func(n int) uint8 { return uint8(r.IntN(n)) }
	s := w.first(budgets{reboots: few(6), restarts: few(3), lost: few(4), late: few(3), replays: few(3), deaf: few(4), commands: 2, hasty: few(9)})
	w.trace = func(string, ...any) {}
	if trace != nil {
		w.trace = func(format string, args ...any) { fmt.Fprintf(trace, "    "+format+"\n", args...) }
	}
	calm := r.IntN(3)
	if calm > 0 { // begin with a cluster that was born
		left := s.left
		s.left = budgets{hasty: endless}
		for k := 0; k < 400 && !w.well(&s); k++ {
			w.healStep(&s)
			w.wrong(&s)
		}
		s.left = left
	}
	inOrder := r.IntN(4)
	eager := 1 + r.IntN(8)
	for range 40 + r.IntN(300) {
		m, happened := move{}, false
		for tries := 0; tries < 12 && !happened; tries++ {
			m = v.any(r, &s, inOrder, eager)
			happened = w.try(&s, m)
		}
		if !happened {
			continue
		}
		v.x.happened[m.kind]++
		w.did.steps++
		if trace != nil {
			fmt.Fprintln(trace, m)
		}
		if why := w.wrong(&s); why != "" {
			if trace != nil {
				trace.WriteString(w.describe(&s))
			}
			return why
		}
	}
	why := v.x.heal(&s)
	if why != "" && trace != nil {
		fmt.Fprintf(trace, "then everything is on and connected\n%s", w.describe(&v.x.ill))
	}
	return why
}

// any is one thing that may happen, or not.
func (v *stroll) any(r *rand.Rand, s *scene, inOrder, eager int) move {
	n := v.x.w.n
	i, j := uint8(r.IntN(n)), uint8(r.IntN(n))
	waiting := 0
	for at := len(s.wire) - 1; at >= 0 && s.wire[at] != 0; at-- {
		waiting++
	}
	letters := [...]moveKind{mvLose, mvLate, mvReplay, mvDeafDeliver}
	if waiting > 0 && r.IntN(eager+1) > 0 {
		at := 0
		if inOrder > 0 {
			at = r.IntN(waiting)
		}
		k := v.x.w.inContents(s, waiting)[at]
		if r.IntN(30) == 0 {
			return move{kind: letters[r.IntN(len(letters))], j: k}
		}
		return move{kind: mvDeliver, j: k, stale: r.IntN(20) == 0}
	}
	switch r.IntN(12) {
	case 0:
		if r.IntN(4) > 0 {
			return move{kind: mvOn, i: i}
		}
		return move{kind: mvOff + moveKind(r.IntN(2)), i: i, stale: r.IntN(4) == 0}
	case 1, 2:
		return move{kind: mvOn, i: i, stale: r.IntN(8) == 0}
	case 3, 4, 5:
		return move{kind: mvReplicate, i: i, j: j}
	case 6:
		kind := mvElect
		could := v.x.w.reachable(s, int(i))
		if r.IntN(6) == 0 {
			kind, could = mvDeafElect, could&uint8(r.IntN(1<<n))
		}
		return move{kind: kind, i: i, j: could}
	case 7:
		return move{kind: mvDeafStart, i: i}
	}
	return move{kind: mvStart + moveKind(r.IntN(int(mvOn-mvStart))), i: i, j: j}
}

// inContents gives the places of the letters on the wire in an order that does not depend
// on their numbers, which other walks gave: a seed gives the same walk alone.
func (w *smallWorld) inContents(s *scene, waiting int) []uint8 {
	places := make([]uint8, waiting)
	for k := range places {
		places[k] = uint8(len(s.wire) - 1 - k)
	}
	slices.SortFunc(places, func(a, b uint8) int {
		return bytes.Compare(w.letters[s.wire[a]].raw(), w.letters[s.wire[b]].raw())
	})
	return places
}

func (l *letter) raw() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(l)), unsafe.Sizeof(*l))
}
