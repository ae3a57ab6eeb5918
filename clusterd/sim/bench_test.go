//go:build bench

package sim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mesolith/mesolith/clusterd/masters"
	"github.com/mesolith/mesolith/clusterd/state"
)

const (
	benchAgents = 1000
	benchTasks  = 100_000
	benchBeat   = 5 * time.Second // a host that does other things elects nobody anew for it
	taskInfo    = 700             // bytes of a TaskInfo with an image, a command and some environment
)

// filling is the entries that make a state of benchTasks running tasks.
func filling(generation string) [][]byte {
	var entries [][]byte
	put := func(list ...state.Command) {
		for len(list) > 0 {
			entry, n := state.EncodeEntry(int64(len(entries)), list, 256<<10)
			entries, list = append(entries, entry), list[n:]
		}
	}
	if generation == "" {
		generation = "11111111-2222-3333-4444-555555555555"
		put(state.BeginGeneration{Generation: state.Generation{Height: 1, ID: generation}})
	}
	put(state.SubscribeFramework{Info: make([]byte, 200), Name: "bench", Roles: []string{"*"}})
	bag := func(cpus, mem int64) state.Resources {
		return state.Resources{{Name: state.CPUs, Milli: cpus}, {Name: state.Mem, Milli: mem}}
	}
	var agents, launches, reports []state.Command
	for a := range benchAgents {
		node := fmt.Sprint("n", a)
		agents = append(agents, state.RegisterAgent{Node: node, AttachKey: node, Hostname: node, Info: make([]byte, 400), Total: bag(1<<30, 1<<30), Pool: "10.0.0.0/8", Address: "10.0.0.1"})
		for n := range benchTasks / benchAgents {
			id := fmt.Sprintf("%08d-0000-4000-8000-%012d", a, n)
			agent := state.AgentID(fmt.Sprintf("%s-S%d", generation, a))
			launches = append(launches, state.LaunchTask{
				Container: state.ContainerID(id), Task: state.TaskID("web." + id), Framework: state.FrameworkID(generation + "-0000"), Agent: agent,
				Role: "*", Name: "web", Info: bytes.Repeat([]byte{byte(n)}, taskInfo), Resources: bag(100, 64_000),
			})
			reports = append(reports, state.UpdateTask{
				Container: state.ContainerID(id), Agent: agent, UUID: []byte(id[:16]), Latest: state.TaskRunning,
				Status: state.Status{State: state.TaskRunning, Source: state.SourceExecutor, Reason: state.NoReason, Wire: make([]byte, 180)},
			})
		}
	}
	put(agents...)
	put(launches...)
	put(reports...)
	return entries
}

// peak runs f and says what the heap grew to beyond what it was, sampled every 5 ms.
func peak(f func()) (above uint64, took time.Duration) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before := m.HeapAlloc
	var stop atomic.Bool
	var most uint64
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
			time.Sleep(5 * time.Millisecond)
		}
	})
	began := time.Now()
	f()
	took = time.Since(began)
	stop.Store(true)
	wg.Wait()
	return most - min(most, before), took
}

func load() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	return string(bytes.Fields(raw)[0])
}

// How long the log stands still for a snapshot of 100,000 tasks, and what it costs to write
// one and to read it.
func TestBenchSnapshotOfAHundredThousandTasks(t *testing.T) {
	m := state.NewMachine()
	for i, e := range filling("") {
		m.Apply(uint64(i+1), 1, e)
	}
	m.View(func(s *state.State) {
		if _, agents, tasks := s.Counts(); agents != benchAgents || tasks != benchTasks {
			t.Fatalf("%d agents, %d tasks", agents, tasks)
		}
	})
	var stills, writes, reads []time.Duration
	var size int64
	var writing, reading uint64
	for range 20 {
		began := time.Now()
		snap, err := m.Snapshot()
		stills = append(stills, time.Since(began))
		if err != nil {
			t.Fatal(err)
		}
		var raw bytes.Buffer
		raw.Grow(int(size))
		above, took := peak(func() {
			if size, err = snap.WriteTo(io.Discard); err != nil {
				t.Fatal(err)
			}
		})
		writing, writes = max(writing, above), append(writes, took)
		if _, err := snap.WriteTo(&raw); err != nil {
			t.Fatal(err)
		}
		restored := state.NewMachine()
		above, took = peak(func() {
			if err := restored.Restore(&raw); err != nil {
				t.Fatal(err)
			}
		})
		reading, reads = max(reading, above), append(reads, took)
		if restored.Hash() != m.Hash() {
			t.Fatal("another state")
		}
	}
	median := func(d []time.Duration) (p50, worst time.Duration) {
		slices.Sort(d)
		return d[len(d)/2].Round(10 * time.Microsecond), d[len(d)-1].Round(10 * time.Microsecond)
	}
	for _, x := range []struct {
		what  string
		times []time.Duration
		heap  uint64
	}{{"the log stands still for a snapshot", stills, 0}, {"writing it", writes, writing}, {"reading it", reads, reading}} {
		p50, worst := median(x.times)
		t.Logf("%d tasks, %d MB: %s p50 %s, worst %s, at most %d MB of heap above what was (N=%d, load %s)",
			benchTasks, size>>20, x.what, p50, worst, x.heap>>20, len(x.times), load())
	}
	if p50, _ := median(stills); p50 > 20*time.Millisecond {
		t.Errorf("goal not reached: 20 ms")
	}
}

// How long a master that forgot everything takes to have 100,000 tasks again, on the wire
// of the simulation but in real time.
func TestBenchCatchUp(t *testing.T) {
	root, err := os.MkdirTemp(memory(), "mesolith-bench-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	n := newNetwork(1)
	names := []string{"m1", "m2", "m3"}
	type running struct {
		machine *state.Machine
		stop    func()
	}
	var mu sync.Mutex
	var term *masters.Term
	start := func(name string, boot int) running {
		ctx, cancel := context.WithCancel(context.Background())
		m := state.NewMachine()
		incarnation := fmt.Sprint("boot", boot)
		p := masters.New(masters.Config{
			Dir: filepath.Join(root, name+incarnation), Self: name, Incarnation: incarnation, ClusterID: "cluster", List: names, ListVersion: 1,
			Wait: 3 * beat, Heartbeat: benchBeat, Stall: 60 * beat, Machine: m, Port: port{n, name, incarnation},
			Lead: func(ctx context.Context, t masters.Term) error {
				mu.Lock()
				term = &t
				mu.Unlock()
				<-ctx.Done()
				return nil
			},
			Log: slog.New(slog.DiscardHandler),
		})
		done := make(chan error, 1)
		n.rise(name)
		go func() { done <- p.Run(ctx) }()
		return running{m, func() { cancel(); <-done }}
	}
	on := map[string]running{}
	for _, name := range names {
		on[name] = start(name, 0)
	}
	defer func() {
		for _, r := range on {
			r.stop()
		}
	}()
	leader := func() *masters.Term {
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			mu.Lock()
			t := term
			mu.Unlock()
			if t != nil {
				if l, _ := t.Log.Leadership(); l.Leading {
					return t
				}
			}
		}
		t.Fatal("no leader")
		return nil
	}
	for _, e := range filling("") {
		for { // twice does no harm
			_, err := leader().Log.Propose(t.Context(), e)
			if err == nil {
				break
			}
			t.Logf("the busy host elects anew: %v", err)
		}
	}
	var times []time.Duration
	var most uint64
	for boot := 1; boot <= 3; boot++ {
		lead, _ := leader().Log.Leader()
		late := names[0]
		if lead.Name == late {
			late = names[1]
		}
		on[late].stop()
		above, took := peak(func() {
			r := start(late, boot)
			on[late] = r
			for {
				tasks, want := 0, 0
				r.machine.View(func(s *state.State) { _, _, tasks = s.Counts() })
				on[lead.Name].machine.View(func(s *state.State) { _, _, want = s.Counts() })
				if tasks == want && tasks == benchTasks {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
		most, times = max(most, above), append(times, took)
		time.Sleep(2 * benchBeat) // it becomes a voter
	}
	slices.Sort(times)
	t.Logf("%d tasks: a master that forgot everything has them again after p50 %.1f, worst %.1f s from its start; at most %d MB of heap above what all three had (N=%d, load %s)",
		benchTasks, beats(times[len(times)/2]), beats(times[len(times)-1]), most>>20, len(times), load())
}
