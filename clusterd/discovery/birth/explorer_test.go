package birth

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	walks    = flag.Int("walks", 2_000, "seeded walks of five masters")
	walkSeed = flag.Uint64("walk-seed", 0, "replay one run of walks; 0: a fresh seed")
	walkOnly = flag.Int("walk", -1, "replay this walk alone, with its trace")
)

// TestWalksOfFiveMasters lets five masters live through random faults, checks after every
// step, and then connects everything: a leader must come, with every master voting.
func TestWalksOfFiveMasters(t *testing.T) { walk(t, 5, *walks) }

// TestWalksOfThreeMasters is the same with three, where fewer faults suffice for the worst.
func TestWalksOfThreeMasters(t *testing.T) { walk(t, 3, *walks) }

func walk(t *testing.T, n, count int) {
	seed := *walkSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	if *walkOnly >= 0 {
		w := newWalk(n, seed, *walkOnly)
		w.tracing = true
		if why := w.live(); why != "" {
			t.Fatalf("%s\n%s\n%s", strings.Join(w.trace, "\n"), w.describe(), why)
		}
		return
	}
	var mu sync.Mutex
	var all counts
	var failures []string
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for k := range workers {
		wg.Go(func() {
			var mine counts
			for i := k; i < count; i += workers {
				w := newWalk(n, seed, i)
				why := w.live()
				mine.add(w.did)
				if why == "" {
					continue
				}
				mu.Lock()
				failures = append(failures, fmt.Sprintf("walk %d: %s", i, why))
				mu.Unlock()
				break
			}
			mu.Lock()
			all.add(mine)
			mu.Unlock()
		})
	}
	wg.Wait()
	fmt.Printf("%d masters, %d walks, seed %d: %v\n", n, count, seed, all)
	for _, f := range failures {
		t.Errorf("%s; replay: -run '^%s$' -walk-seed %d -walk N", f, t.Name(), seed)
	}
	all.mustHaveHappened(t)
}

func (c *counts) add(d counts) {
	c.steps += d.steps
	c.births += d.births
	c.empty += d.empty
	c.rebirths += d.rebirths
	c.aborted += d.aborted
	c.learners += d.learners
	c.replaced += d.replaced
	c.refused += d.refused
	c.elections += d.elections
	c.acknowledged += d.acknowledged
	c.powerCuts += d.powerCuts
	c.restarts += d.restarts
	c.lost += d.lost
	c.cuts += d.cuts
	c.clones += d.clones
	c.twins += d.twins
	c.forgiven += d.forgiven
	c.undecided += d.undecided
	c.stepsDown += d.stepsDown
	c.joined += d.joined
	c.promises += d.promises
}

func (c counts) String() string {
	return fmt.Sprintf("%d steps; %d births (%d empty, %d from a survivor, %d given up), %d elections, %d acknowledged (%d forgiven by rule 6, %d states of a birth that nothing tells apart), "+
		"%d learners, %d votes given, %d joined; faults: %d power cuts, %d restarts, %d messages lost, %d cuts, %d clones (%d starts refused while their twin was on); %d promises, %d refusals, %d leaders stepped down",
		c.steps, c.births, c.empty, c.rebirths, c.aborted, c.elections, c.acknowledged, c.forgiven, c.undecided, c.learners, c.replaced, c.joined,
		c.powerCuts, c.restarts, c.lost, c.cuts, c.clones, c.twins, c.promises, c.refused, c.stepsDown)
}

// mustHaveHappened fails a run in which a fault never fired.
func (c counts) mustHaveHappened(t *testing.T) {
	t.Helper()
	for what, n := range map[string]int{
		"births": c.births, "rebirths": c.rebirths, "births given up": c.aborted, "votes given": c.replaced, "refusals": c.refused,
		"acknowledged": c.acknowledged, "power cuts": c.powerCuts, "restarts": c.restarts, "lost messages": c.lost, "cuts": c.cuts,
		"clones": c.clones, "twins refused": c.twins, "joined": c.joined,
	} {
		if n == 0 {
			t.Errorf("no %s: this run proves nothing", what)
		}
	}
}

// describe says how every machine stands.
func (w *world) describe() string {
	var b strings.Builder
	for i := range w.machines {
		m := &w.machines[i]
		ms, index := members(m.log)
		fmt.Fprintf(&b, "%s/%s up=%v member=%v %v term %d leads=%v log %d commit %d config@%d %v; left=%v highest %d; %s; promise %v\n",
			m.name, m.incarnation(), m.up, m.member, m.gen, m.term, m.leading, len(m.log), m.commit, index, ms, m.left != nil, m.highest, m.st.Why(), m.st.promise)
	}
	return b.String()
}

// walker is a world that goes where chance leads.
type walker struct {
	*world
	r    *rand.Rand
	mood mood
}

func newWalk(n int, seed uint64, i int) walker {
	r := rand.New(rand.NewPCG(seed, uint64(i)))
	m := mood{deliver: 4 + r.IntN(12), tick: 1 + r.IntN(3), raft: 1 + r.IntN(8), inOrder: 1 + r.IntN(6)}
	return walker{newWorld(n, r.IntN(4) == 0), r, m}
}

// live is one walk: a calm beginning or none, faults, and the end of all faults.
func (w walker) live() string {
	if w.r.IntN(4) > 0 {
		if why := w.heal(); why != "" {
			return why
		}
		w.write()
	}
	faults := w.r.IntN(12)
	steps := 20 + w.r.IntN(150)
	if w.r.IntN(8) == 0 && !w.disks {
		w.clone()
	}
	for range steps {
		w.did.steps++
		w.any(&faults)
		if why := w.wrong(); why != "" {
			return why
		}
	}
	for k := w.n; k < len(w.machines); k++ { // the clone goes, the faults end
		if w.machines[k].up {
			w.powerOff(k)
		}
	}
	return w.heal()
}

// write has a command acknowledged, as far as everything is calm.
func (w walker) write() {
	if l := w.leads(); l >= 0 && w.command(l) {
		for j := range w.machines {
			if w.r.IntN(3) > 0 {
				w.replicate(l, j)
			}
		}
	}
}

// clone starts a second machine with a master's medium.
func (w walker) clone() {
	name := w.names[w.r.IntN(w.n)]
	w.machines = append(w.machines, machine{name: name, now: start, boots: 1000})
	w.did.clones++
}

// any is one thing that may happen.
func (w walker) any(faults *int) {
	i := w.r.IntN(len(w.machines))
	m := &w.machines[i]
	if *faults > 0 && w.r.IntN(8) == 0 {
		*faults--
		w.fault(i)
		return
	}
	if !m.up {
		if w.r.IntN(3) == 0 {
			w.powerOn(i)
		}
		return
	}
	switch k := w.r.IntN(w.mood.all()); {
	case k < w.mood.deliver:
		if len(w.wire) == 0 {
			return
		}
		at := 0
		if w.r.IntN(w.mood.inOrder) == 0 {
			at = w.r.IntN(len(w.wire))
		}
		w.deliver(at)
	case k < w.mood.deliver+w.mood.tick:
		w.tick(i)
	case w.r.IntN(6) == 0:
		w.elect(i)
	default:
		if w.leads() < 0 {
			return
		}
		switch l := w.leads(); w.r.IntN(8) {
		case 0:
			w.command(l)
		case 1:
			w.look(l)
		case 2, 3:
			w.step(l)
		default:
			w.replicate(l, i)
		}
	}
}

// leads is a machine that leads, -1 without one.
func (w walker) leads() int {
	from := w.r.IntN(len(w.machines))
	for k := range w.machines {
		if i := (from + k) % len(w.machines); w.machines[i].leading {
			return i
		}
	}
	return -1
}

// mood is what a walk has most of: births want messages, replacements want Raft.
type mood struct{ deliver, tick, raft, inOrder int }

func (m mood) all() int { return m.deliver + m.tick + m.raft }

func (w walker) fault(i int) {
	m := &w.machines[i]
	switch k := w.r.IntN(6); {
	case k < 2 && m.up:
		w.powerOff(i)
		if w.r.IntN(2) == 0 {
			w.powerOn(i)
		}
	case k == 2 && m.up:
		w.restart(i)
	case k == 3 && len(w.wire) > 0:
		w.lose(w.r.IntN(len(w.wire)))
	case k == 4:
		j := w.r.IntN(len(w.machines))
		w.cut = maps.Clone(w.cut)
		w.cut[[2]int{i, j}] = true
		if w.r.IntN(2) == 0 {
			w.cut[[2]int{j, i}] = true
		}
		w.did.cuts++
		w.say("cut %s → %s", m.name, w.machines[j].name)
	default:
		w.cut = map[[2]int]bool{}
		w.say("all cuts end")
	}
}

func (w *world) lose(k int) {
	m := w.wire[k]
	w.wire = slices.Delete(slices.Clone(w.wire), k, k+1)
	w.did.lost++
	w.say("lost: %c from %s to %s", m.kind, w.machines[m.from].name, w.machines[m.to].name)
	w.failed(m)
}

// heal ends all faults and lets time pass: a leader must come whose configuration names
// every master's living incarnation.
func (w *world) heal() string {
	w.say("all faults end")
	w.cut = map[[2]int]bool{}
	for i := range w.n {
		if !w.machines[i].up {
			w.powerOn(i)
		}
	}
	const beat = 5 * time.Second
	for range 8 * w.n * int(wQuiet/beat) { // eight times the turn of the last name
		for len(w.wire) > 0 {
			w.deliver(0)
			if why := w.wrong(); why != "" {
				return why
			}
		}
		for i := range w.machines {
			m := &w.machines[i]
			if !m.up {
				continue
			}
			m.now = m.now.Add(beat)
			w.onTick(i)
			if w.leaderOf(i) == "" {
				w.elect(i)
			}
			if m.leading {
				for j := range w.machines {
					w.replicate(i, j)
				}
				w.look(i)
				w.step(i)
			}
			if why := w.wrong(); why != "" {
				return why
			}
		}
		if w.well() {
			return ""
		}
	}
	return "everything is on and connected, and the masters do not become one again"
}

// well says whether a leader leads, and every living master votes.
func (w *world) well() bool {
	for i := range w.machines {
		m := &w.machines[i]
		if !m.leading {
			continue
		}
		ms, index := members(m.log)
		if index > m.commit || len(ms) != w.n {
			continue
		}
		all := true
		for j := range w.n {
			v := w.machines[j].voter()
			all = all && slices.ContainsFunc(ms, func(x Member) bool { return x.Votes && x.Voter == v })
		}
		if all {
			return true
		}
	}
	return false
}

// members is the newest configuration in a log, and where it stands.
func members(log []entry) ([]Member, int) {
	for i := len(log) - 1; i >= 0; i-- {
		if log[i].members != nil {
			return log[i].members, i + 1
		}
	}
	return nil, 0
}

func voters(ms []Member) []Voter {
	var out []Voter
	for _, m := range ms {
		if m.Votes {
			out = append(out, m.Voter)
		}
	}
	return out
}

func commands(log []entry) []int {
	var out []int
	for _, e := range log {
		out = append(out, e.base...)
		if e.cmd != 0 {
			out = append(out, e.cmd)
		}
	}
	return out
}
