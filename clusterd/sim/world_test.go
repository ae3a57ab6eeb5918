package sim

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/replica"
	"github.com/mesolith/mesolith/clusterd/state"
)

var (
	seedFlag = flag.Uint64("sim.seed", 0, "replay one life with this seed; 0: fresh seeds")
	lives    = flag.Int("sim.lives", 1, "lives of each kind of fault")
	virtual  = flag.Duration("sim.time", 3*time.Minute, "virtual time of each life")
	verbose  = flag.Bool("sim.log", false, "print what the programs log")
)

// world is one life of a cluster.
type world struct {
	t        *testing.T
	seed     uint64
	rng      *rand.Rand
	net      *network
	names    []string // of the masters that are to be
	all      []string // and of those that may become some, or were
	nodes    map[string]*node
	workers  []*worker
	players  []*player
	history  *history
	ops      *ops
	offers   *offerBook
	log      *slog.Logger
	ended    sync.WaitGroup
	cancel   context.CancelFunc
	points   map[moment]int // passed by
	killedAt map[moment]int
	sizes    replica.Sizes
	version  uint64 // of the list of masters
	disks    bool   // masters remember what they had on disk
}

// cast says who lives in a world.
type cast struct {
	masters, agents, frameworks int
	spares                      int  // machines that are no masters yet
	forgetful                   bool // masters keep nothing over a boot
	silent                      bool // nobody reads all tasks again and again
}

// worldOf begins a cluster of so many masters, agents and frameworks.
func worldOf(t *testing.T, seed uint64, c cast) *world {
	out := io.Discard
	if *verbose {
		out = os.Stderr
	}
	w := &world{
		version: 1,
		t:       t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), net: newNetwork(seed), nodes: map[string]*node{}, history: newHistory(), ops: newOps(), offers: newOfferBook(),
		disks: !c.forgetful, points: map[moment]int{}, killedAt: map[moment]int{}, sizes: replica.Sizes{Segment: 16 << 10, Snapshot: 24 << 10, Trailing: 16}, log: slog.New(slog.NewTextHandler(out, nil)),
	}
	root, err := os.MkdirTemp(memory(), "mesolith-sim-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	for i := range c.masters + c.spares {
		w.all = append(w.all, fmt.Sprint("m", i+1))
	}
	w.names = w.all[:c.masters:c.masters]
	for i, name := range w.all {
		n := &node{w: w, name: name, dir: filepath.Join(root, name), rng: rand.New(rand.NewPCG(w.rng.Uint64(), 3)), list: w.names, version: 1}
		w.nodes[name] = n
		if i < c.masters {
			n.start()
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	for i := range c.agents {
		a := newWorker(w, fmt.Sprint("a", i+1))
		w.workers = append(w.workers, a)
		a.live(ctx)
	}
	for i := range c.frameworks {
		p := newPlayer(w, fmt.Sprint("f", i+1))
		w.players = append(w.players, p)
		p.live(ctx)
	}
	if !c.silent {
		w.reader(ctx, 0)
	}
	return w
}

// memory is a directory where a flush costs nothing: what it keeps is the disk model's.
func memory() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

func (w *world) passed(d *disk) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for m, n := range d.points {
		w.points[m] += n
	}
}

// leader is who serves a term now.
func (w *world) leader() (*node, *leader.Leader) {
	for _, name := range w.all {
		if n := w.nodes[name]; n.life != nil {
			if l := n.life.leads(); l != nil {
				return n, l
			}
		}
	}
	return nil, nil
}

func (w *world) eventually(what string, limit time.Duration, ok func() bool) bool {
	w.t.Helper()
	for end := time.Now().Add(limit); !ok(); {
		if time.Now().After(end) {
			w.t.Errorf("seed %d: %s did not happen in %s", w.seed, what, limit)
			return false
		}
		time.Sleep(beat / 10)
	}
	return true
}

// settle heals everything and waits until nothing is owed to anybody.
func (w *world) settle() {
	w.t.Helper()
	for _, p := range w.players {
		p.rest()
	}
	w.net.heal()
	for _, name := range w.names {
		n := w.nodes[name]
		if n.life != nil {
			n.life.disk.want(plan{})
			n.life.disk.thaw()
			select {
			case <-n.life.died:
				n.bury()
			default:
			}
		}
		if n.life == nil {
			n.start()
		}
	}
	w.eventually("the end of all tasks", 30*time.Minute, func() bool {
		_, l := w.leader()
		if l == nil {
			return false
		}
		left := 1
		ctx, cancel := context.WithTimeout(context.Background(), 10*beat)
		defer cancel()
		err := l.Read(ctx, func(s *state.State, _ leader.Live) { _, _, left = s.Counts() })
		return err == nil && left == 0
	})
	w.eventually("one state everywhere", 5*time.Minute, func() bool { return w.agreed() })
}

// agreed: all replicas have applied the same and are in one state.
func (w *world) agreed() bool {
	var index uint64
	var hash [32]byte
	for i, name := range w.names {
		n := w.nodes[name]
		if n.life == nil {
			return false
		}
		k, h := n.life.index(), n.life.machine.Hash()
		if i > 0 && (k != index || h != hash) {
			return false
		}
		index, hash = k, h
	}
	return true
}

// end stops everything and says what was wrong in this life.
func (w *world) end() {
	w.t.Helper()
	w.cancel()
	w.ended.Wait()
	for _, name := range w.all {
		if n := w.nodes[name]; n.life != nil {
			n.life.stop()
			n.life.ended.Wait()
			w.passed(n.life.disk)
		}
	}
	synctest.Wait()
	acked, _, wrong := w.history.check()
	for _, s := range wrong {
		w.t.Errorf("seed %d: %s", w.seed, s)
	}
	w.net.counts.addN("entries acknowledged", acked)
	w.net.counts.addN("entries without an answer", w.history.unknown)
	checked, wrong := w.ops.check(w.history.fateOf)
	for _, s := range wrong[:min(len(wrong), 5)] {
		w.t.Errorf("seed %d: not linearizable (%d tasks): %s", w.seed, len(wrong), s)
	}
	w.net.counts.addN("operations linearizable", checked)
	w.net.counts.addN("reads", w.ops.reads)
	w.everyTaskOnce()
	for _, a := range w.workers {
		if a.removed > 0 {
			w.t.Errorf("seed %d: agent %s was called removed %d times", w.seed, a.name, a.removed)
		}
	}
}

// everyTaskOnce: a launch that was answered became one container and ended, or was said
// to have come to nothing; whatever else it was, it never ran twice.
func (w *world) everyTaskOnce() {
	started := map[string]int{}
	for _, a := range w.workers {
		for id, n := range a.started {
			started[id] += n
		}
	}
	for id, t := range w.ops.tasks {
		fate := w.history.fateOf(id)
		switch {
		case started[id] > 1:
			w.t.Errorf("seed %d: task %s ran %d times", w.seed, id, started[id])
		case fate == launchDone && started[id] != 1:
			w.t.Errorf("seed %d: task %s was launched and ran %d times; heard %v", w.seed, id, started[id], t.heard)
		case fate == launchDone && t.end < 0:
			w.t.Errorf("seed %d: task %s ended and its framework did not hear it; heard %v", w.seed, id, t.heard)
		case fate != launchDone && fate != launchUnknown && started[id] > 0:
			w.t.Errorf("seed %d: task %s ran and was not launched", w.seed, id)
		}
		if fate == launchDone {
			w.net.counts.add("tasks run once")
		}
	}
	for _, p := range w.players {
		if len(p.ids) > 1 {
			w.t.Errorf("seed %d: framework %s had the ids %v", w.seed, p.name, p.ids)
		}
		w.net.counts.addN("launches accepted", p.accepted)
		w.net.counts.addN("launches unclear", p.unclear)
	}
}
