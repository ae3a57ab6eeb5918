package leader

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	node "github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/agent/journal"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/wire"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

var (
	chainSeeds = flag.Int("chains", 40, "how many chains of updates are cut, each by a seed of its own")
	chainSeed  = flag.Uint64("chain", 0, "the one chain to cut; 0: all")
)

const (
	chainTasks   = 6
	chainTrouble = 8 * time.Minute  // of virtual time, in which links are cut
	chainCalm    = 40 * time.Minute // in which everything must have arrived
)

// The whole way of an update is cut at each link: agent to leader and back, leader to
// framework and back, by delays, breaks, silences in one direction, repetitions, new lives
// of the agent and new leaders. Each update arrives, in order, and none is acknowledged
// to the agent that the framework has not acknowledged; each container ran once.
func TestChainOfUpdatesIsCutAtEachLink(t *testing.T) {
	total := map[string]int{}
	first, last := uint64(1), uint64(*chainSeeds)
	if *chainSeed != 0 {
		first, last = *chainSeed, *chainSeed
	}
	for seed := first; seed <= last; seed++ {
		synctest.Test(t, func(t *testing.T) { maps.Copy(total, added(total, cutChain(t, seed))) })
		if t.Failed() {
			t.Fatalf("replay: go test ./clusterd/leader -run ChainOfUpdates -chain %d", seed)
		}
	}
	t.Logf("%d chains of %d tasks; faults: %v", last-first+1, chainTasks, total)
	for _, kind := range chainFaults {
		if total[kind] == 0 && *chainSeed == 0 {
			t.Errorf("no fault of kind %q was fired", kind)
		}
	}
}

func added(a, b map[string]int) map[string]int {
	out := maps.Clone(a)
	for k, n := range b {
		out[k] += n
	}
	return out
}

var chainFaults = []string{
	"agent to leader silent", "leader to agent silent", "both silent", "connection broken", "frames late", "frame repeated",
	"agent begins again", "keeper's connection broken", "leader changes", "stream broken", "stream unread", "acknowledgement lost",
	"acknowledgement late", "acknowledgement repeated", "acknowledgement of nothing", "for minutes",
}

// chain is all of one run.
type chain struct {
	t     *testing.T
	rng   *rand.Rand
	c     *cell
	dir   string
	begin time.Time

	mu     sync.Mutex
	fired  map[string]int
	up     line // agent to leader
	down   line
	conn   []io.Closer // the newest connection's ends
	acked  map[string]bool
	heard  map[string][]string // uuids by container, first arrivals in order
	states map[string]mesosv1.TaskState
	keeper *chainKeeper
	stream context.CancelFunc
	unread time.Time // until then the framework reads nothing
	calm   bool
	trace  []string
	all    sync.WaitGroup // of every goroutine but the agent's own
}

// line is one direction of the agent's connection.
type line struct {
	silent bool          // swallows until the connection is a new one
	late   time.Duration // each frame
}

func (x *chain) fire(kind string) {
	x.fired[kind]++
	x.note("fault: %s", kind)
}

// note keeps what happened for whoever reads a failure.
func (x *chain) note(format string, args ...any) {
	x.trace = append(x.trace, fmt.Sprintf("%9.3f ", time.Since(x.begin).Seconds())+fmt.Sprintf(format, args...))
}

func (x *chain) chance(p float64) bool { return !x.calm && x.rng.Float64() < p }

func cutChain(t *testing.T, seed uint64) map[string]int {
	dir, err := os.MkdirTemp(shm(), "chain")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	x := &chain{
		t: t, rng: rand.New(rand.NewPCG(seed, 7)), c: newCell(t), dir: dir, begin: time.Now(), fired: map[string]int{},
		acked: map[string]bool{}, heard: map[string][]string{}, states: map[string]mesosv1.TaskState{},
	}
	x.keeper = &chainKeeper{x: x, containers: map[string]*keeper.Container{}, forgotten: map[string]bool{}}
	ctx, end := context.WithCancel(t.Context())
	stop := x.startAgent(ctx)
	x.all.Go(func() { x.framework(ctx) })
	for time.Since(x.begin) < chainTrouble {
		time.Sleep(time.Duration(x.draw(12_000)) * time.Millisecond)
		stop = x.trouble(ctx, stop)
	}
	x.mu.Lock()
	x.calm, x.up, x.down = true, line{}, line{}
	x.mu.Unlock()
	x.breakConn()
	for deadline := time.Now().Add(chainCalm); time.Now().Before(deadline) && x.open() != ""; {
		time.Sleep(time.Second)
	}
	if open := x.open(); open != "" {
		t.Errorf("seed %d: after %s without faults: %s", seed, chainCalm, open)
	}
	end()
	stop()
	x.c.end()
	x.breakConn()
	x.keeper.drop()
	x.all.Wait()
	x.judge(seed)
	if t.Failed() {
		name := filepath.Join(os.TempDir(), fmt.Sprintf("chain-%d.txt", seed))
		if err := os.WriteFile(name, []byte(strings.Join(x.trace, "\n")), 0o600); err != nil {
			t.Error(err)
		}
		t.Logf("what happened is in %s", name)
	}
	return x.fired
}

// shm is a file system without a disk, where there is one: a journal is flushed often.
func shm() string {
	if _, err := os.Stat("/dev/shm"); err == nil {
		return "/dev/shm"
	}
	return ""
}

func (x *chain) draw(n int) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.rng.IntN(n)
}

// trouble is one fault of the links or the programs, and its end where it has one.
func (x *chain) trouble(ctx context.Context, stop func()) func() {
	kind := chainFaults[x.draw(11)]
	x.mu.Lock()
	x.fire(kind)
	pause := time.Duration(x.rng.IntN(70_000)) * time.Millisecond // shorter and longer than the grace
	if x.rng.IntN(8) == 0 {
		pause *= 5 // a cable that is missed late
		x.fire("for minutes")
	}
	switch kind {
	case "agent to leader silent":
		x.up.silent = true
	case "leader to agent silent":
		x.down.silent = true
	case "both silent":
		x.up.silent, x.down.silent = true, true
	case "frames late":
		x.up.late, x.down.late = pause/20, pause/30
	case "stream unread":
		x.unread = time.Now().Add(pause)
	case "stream broken":
		if x.stream != nil {
			x.stream()
		}
	}
	x.mu.Unlock()
	switch kind {
	case "agent to leader silent", "leader to agent silent", "both silent", "frames late":
		time.Sleep(pause)
		x.mu.Lock()
		x.up.late, x.down.late = 0, 0
		swallowed := x.up.silent || x.down.silent
		x.mu.Unlock()
		if swallowed {
			x.breakConn()
		}
	case "connection broken":
		x.breakConn()
	case "keeper's connection broken":
		x.keeper.drop()
	case "agent begins again":
		stop()
		return x.startAgent(ctx)
	case "leader changes":
		x.c.end()
		x.mu.Lock()
		x.note("no leader")
		x.mu.Unlock()
		time.Sleep(pause / 10)
		x.mu.Lock()
		x.c.lead()
		x.mu.Unlock()
	}
	return stop
}

func (x *chain) breakConn() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.conn {
		c.Close()
	}
	x.conn, x.up.silent, x.down.silent = nil, false, false
}

// startAgent is a real agent on the chain's journal.
func (x *chain) startAgent(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	a := node.New(node.Config{
		JournalPath: filepath.Join(x.dir, "journal"), Keeper: &keeper.Configure{}, Name: "n1", Incarnation: "i1", Address: "10.0.0.2",
		Info: &mesosv1.AgentInfo{Hostname: proto.String("n1"), Port: proto.Int32(5051), Resources: ToWire(state.Resources{
			{Name: state.CPUs, Milli: 64_000}, {Name: state.Mem, Milli: 64_000_000},
		}, "")},
		Masters: []string{"m1"}, Dial: func(ctx context.Context, _ string) (net.Conn, error) { return x.dial(ctx), nil },
		DialKeeper: x.keeper.dial, Log: slog.New(slog.DiscardHandler),
	})
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			x.t.Errorf("the agent ended: %v", err)
		}
	})
}

// dial connects the agent to the leader, frame by frame.
func (x *chain) dial(ctx context.Context) net.Conn {
	ours, near := net.Pipe()
	far, theirs := net.Pipe()
	x.all.Go(func() { _ = x.c.desk.ServeAgent(ctx, "n1", theirs) })
	x.mu.Lock()
	x.conn = []io.Closer{near, far}
	x.mu.Unlock()
	over := func() { near.Close(); far.Close() }
	x.all.Go(func() {
		defer over()
		carry(x, near, far, &x.up, func() *agentwire.FromAgent { return &agentwire.FromAgent{} }, func(*agentwire.FromAgent) {})
	})
	x.all.Go(func() {
		defer over()
		carry(x, far, near, &x.down, func() *agentwire.FromMaster { return &agentwire.FromMaster{} }, x.watchAcknowledgement)
	})
	return ours
}

func carry[M proto.Message](x *chain, from, to net.Conn, l *line, make func() M, watch func(M)) {
	for {
		m := make()
		if wire.Read(from, m, wire.MaxFrame) != nil {
			return
		}
		x.mu.Lock()
		silent, late, again := l.silent, l.late, 1
		x.note("%s silent=%t %.300v", m.ProtoReflect().Descriptor().Name(), silent, m)
		if x.chance(0.05) && repeatable(m) {
			x.fire("frame repeated")
			again = 2
		}
		watch(m)
		x.mu.Unlock()
		if silent {
			continue
		}
		time.Sleep(late)
		for range again {
			if wire.Write(to, m) != nil {
				return
			}
		}
	}
}

// repeatable are what the protocol sends again by itself.
func repeatable(m proto.Message) bool {
	switch m := m.(type) {
	case *agentwire.FromAgent:
		return m.GetUpdate() != nil || m.GetForgotten() != nil
	case *agentwire.FromMaster:
		return m.GetRun() != nil || m.GetAcknowledge() != nil || m.GetForget() != nil
	}
	return false
}

func (x *chain) watchAcknowledgement(m *agentwire.FromMaster) {
	if a := m.GetAcknowledge(); a != nil && !x.acked[string(a.GetUuid())] {
		x.t.Errorf("the agent is told that %x was acknowledged; the framework has not", a.GetUuid())
	}
}

// open says what has not come to its end; empty: nothing.
func (x *chain) open() string {
	why := ""
	x.c.m.View(func(s *state.State) {
		_, _, tasks := s.Counts()
		if tasks > 0 {
			why = fmt.Sprintf("the state holds %d tasks", tasks)
		}
	})
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := len(x.keeper.containers); why == "" && n > 0 {
		why = fmt.Sprintf("the keeper holds %d containers", n)
	}
	return why
}

// judge compares what the framework heard with what the agent wrote down.
func (x *chain) judge(seed uint64) {
	opened, err := journal.Open(filepath.Join(x.dir, "journal"))
	if err != nil {
		x.t.Fatal(err)
	}
	defer opened.Journal.Close()
	written := map[string][]string{}
	ends := map[string]int{}
	for _, r := range opened.Records {
		u := r.GetUpdated()
		if u == nil {
			continue
		}
		st := &mesosv1.TaskStatus{}
		if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(u.GetStatus(), st); err != nil {
			x.t.Fatal(err)
		}
		written[u.GetContainerId()] = append(written[u.GetContainerId()], string(st.GetUuid()))
		if st.GetState() == mesosv1.TaskState_TASK_FINISHED {
			ends[u.GetContainerId()]++
		}
	}
	for container, uuids := range written {
		if !slices.Equal(uuids, x.heard[container]) {
			x.t.Errorf("seed %d: of container %s the agent wrote down %x, the framework heard %x", seed, container, uuids, x.heard[container])
		}
		if ends[container] != 1 {
			x.t.Errorf("seed %d: container %s has %d ends", seed, container, ends[container])
		}
	}
	for container := range x.heard {
		if written[container] == nil {
			x.t.Errorf("seed %d: an update of %s came out of nowhere", seed, container)
		}
	}
	x.fired["updates"] += len(slices.Concat(slices.Collect(maps.Values(written))...))
}
