package birth

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"
)

var (
	longOrders = flag.Bool("long-orders", false, "search the small worlds that take long, too")
	orders     = flag.String("orders", "", "search this alone: its name in the table")
	maxStates  = flag.Int("max-states", 150_000_000, "end a search that reached so many states")
	smallCount = flag.Int("small-walks", 4_000, "seeded walks in each small world")
)

// smallSearch is a world with the faults that may happen in it.
type smallSearch struct {
	disks  bool
	faults budgets
	long   bool
}

func (c smallSearch) String() string {
	where := "ram"
	if c.disks {
		where = "disks"
	}
	f := c.faults
	return fmt.Sprintf("%s/reboots-%d/untimely-%d/restarts-%d/lost-%d/late-%d/replays-%d/deaf-%d", where, f.reboots, f.hasty, f.restarts, f.lost, f.late, f.replays, f.deaf)
}

var smallSearches = []smallSearch{
	{false, budgets{}, false},
	{false, budgets{hasty: 1}, false},
	{false, budgets{lost: 1}, false},
	{false, budgets{late: 1}, false},
	{false, budgets{restarts: 1}, false},
	{false, budgets{replays: 1}, false},
	{false, budgets{deaf: 1}, false},
	{false, budgets{reboots: 1}, false},
	{true, budgets{reboots: 1}, false},
	{true, budgets{hasty: 1}, false},
	{true, budgets{lost: 1, reboots: 1}, false},
	{false, budgets{hasty: 2}, true},
	{false, budgets{reboots: 2}, true},
	{false, budgets{reboots: 3}, true},
}

// TestEveryOrderOfThreeMasters visits every state that three masters can come to, from a
// rack that was never on, with so many faults. It fails when a search does not end.
func TestEveryOrderOfThreeMasters(t *testing.T) {
	for _, c := range smallSearches {
		if *orders != "" && c.String() != *orders || *orders == "" && c.long && !*longOrders {
			continue
		}
		t.Run(c.String(), func(t *testing.T) {
			if *longOrders {
				t.Parallel()
			}
			w := newSmallWorld(3, c.disks, 6)
			x := &search{w: w, limit: *maxStates}
			c.faults.commands = 1
			first := w.first(c.faults)
			x.run(first)
			t.Logf("%d states, %d transitions, depth %d; not followed beyond height %d: %d\n%v\n%s",
				len(x.links), x.edges, x.depth, w.highest, w.beyond, w.did, list(&x.happened))
			switch {
			case x.why != "":
				t.Fatalf("%s\n%s", x.way(first, x.badAt), x.why)
			case !x.ended:
				t.Fatalf("nothing wrong in %d states, and this is not all", len(x.links))
			}
			f := c.faults
			for kind, n := range map[moveKind]uint8{mvOff: f.reboots, mvRestart: f.restarts, mvLose: f.lost, mvLate: f.late, mvReplay: f.replays} {
				if n > 0 && x.happened[kind] == 0 {
					t.Errorf("no %s: this proves nothing", moveNames[kind])
				}
			}
			if w.did.births == 0 || w.did.joined == 0 || w.did.acknowledged == 0 {
				t.Errorf("this proves nothing: %v", w.did)
			}
		})
	}
}

func list(happened *[moveKinds]int) string {
	var parts []string
	for k, n := range happened {
		parts = append(parts, fmt.Sprintf("%s %d", moveNames[k], n))
	}
	return strings.Join(parts, ", ")
}

// TestWalksInSmallWorlds goes where chance leads, with more faults than can be searched,
// and five masters too.
func TestWalksInSmallWorlds(t *testing.T) {
	seed := *walkSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	for _, n := range []int{3, 5} {
		for _, disks := range []bool{false, true} {
			var all counts
			var happened [moveKinds]int
			failure := smallWalks(n, disks, seed, *smallCount, func(w *smallWorld, h *[moveKinds]int) {
				all.add(w.did)
				for k, c := range h {
					happened[k] += c
				}
			})
			fmt.Printf("%d masters, disks %v, %d walks, -walk-seed %d: %v\n%s\n", n, disks, *smallCount, seed, all, list(&happened))
			if failure != "" {
				t.Fatal(failure)
			}
			for kind, count := range happened {
				if count == 0 {
					t.Errorf("%d masters, disks %v: no %s: this proves nothing", n, disks, moveNames[kind])
				}
			}
			for what, count := range map[string]int{"births": all.births, "empty births": all.empty, "acknowledged": all.acknowledged, "joined": all.joined, "votes given": all.replaced} {
				if count == 0 {
					t.Errorf("%d masters, disks %v: no %s: this proves nothing", n, disks, what)
				}
			}
		}
	}
}

// A scene's bytes are its identity: there may be none that nobody sets.
func TestASceneIsItsBytes(t *testing.T) {
	var s scene
	sum := unsafe.Sizeof(s.st) + unsafe.Sizeof(s.wire) + unsafe.Sizeof(s.p) + unsafe.Sizeof(s.acked) + unsafe.Sizeof(s.forgot) + unsafe.Sizeof(s.gens) + unsafe.Sizeof(s.born) + unsafe.Sizeof(s.left) + unsafe.Sizeof(s.pad)
	if sum != unsafe.Sizeof(s) {
		t.Errorf("a scene has %d bytes, its fields %d", unsafe.Sizeof(s), sum)
	}
	raw := s.raw()
	for i := range raw {
		raw[i] = byte(i * 7)
	}
	var back scene
	unpack(s.pack(nil), &back)
	if s != back {
		t.Error("packed and unpacked it is another one")
	}
}
