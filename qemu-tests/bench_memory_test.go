//go:build vm && bench

package qemutests

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/node"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// systemPrograms are what figure 4 adds up.
var systemPrograms = []string{"init", "noded", "clusterd", "isolated"}

// Figures 4 and 5 are taken on a worker with nothing to do, figure 3 on the same worker
// with ever less memory. A master leads beside it.
func TestBenchMemory(t *testing.T) {
	roomFor(t, 2)
	w := newWorld(t, options{nodes: 2})
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	worker := w.Machines()[1]
	progress("a master and a worker with %d MiB are ready", worker.VM().Config().MemoryMB)
	idle := sampleMemory(t, w, worker)
	figure4(idle)
	figure5(t, w, worker)
	figure3(t, w, worker)
}

// sample is what one look at the worker's memory saw.
type sample struct {
	parts                map[string]node.MemoryGroup
	programs             uint64 // PSS of the four, bytes
	processes, inTasks   int    // of the system's; of containers
	tasksPSS, kernelUsed uint64
}

// samples is how often memory is looked at, once a second.
const samples = 20

// sampleMemory looks at a machine's memory for a while.
func sampleMemory(t *testing.T, w *world, m *cluster.Machine) []sample {
	t.Helper()
	ctx := within(t, toElect)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var out []sample
	for range samples {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
		mem, err := w.nodeAPI(m.Node).Memory(ctx)
		if err != nil {
			t.Fatal(err)
		}
		s := sample{parts: map[string]node.MemoryGroup{}, kernelUsed: mem.TotalBytes - mem.AvailableBytes}
		for _, g := range mem.Groups {
			s.parts[g.Name] = g
			if g.Name == "tasks" {
				s.inTasks, s.tasksPSS = g.Processes, g.PSSBytes
			} else {
				s.processes += g.Processes
			}
		}
		for _, name := range systemPrograms {
			if s.parts[name].Processes == 0 {
				t.Fatalf("%s has no process on %s: %+v", name, m.Node.Name, mem)
			}
			s.programs += s.parts[name].PSSBytes
		}
		out = append(out, s)
	}
	return out
}

func figure4(idle []sample) {
	const goal = 48 << 20
	value := middle(idle, func(s sample) uint64 { return s.programs })
	text := "PSS of an idle agent:"
	for _, name := range systemPrograms {
		text += fmt.Sprintf(" %s %.1f", name, mib(middle(idle, func(s sample) uint64 { return s.parts[name].PSSBytes })))
	}
	figure{
		number: 4, what: text + " MiB", n: len(idle), reached: value <= goal,
		value: fmt.Sprintf("%.1f MiB", mib(value)), goal: fmt.Sprintf("%d MiB", goal>>20),
	}.note()
}

func mib(bytes uint64) float64 { return float64(bytes) / (1 << 20) }

// middle is the median of one thing in all samples.
func middle(all []sample, of func(sample) uint64) uint64 {
	var v []float64
	for _, s := range all {
		v = append(v, float64(of(s)))
	}
	return uint64(quantile(v, 0.5))
}

// figure5 starts many containers that do nothing and says what one of them costs beside
// its own process. The first few run already when it begins to count: they make the
// programs touch what all share.
func figure5(t *testing.T, w *world, m *cluster.Machine) {
	t.Helper()
	const batch = 8
	containers := batch * benchRuns(9)
	const goal = 100 << 10
	program := filepath.Join(theLab.dir, "idle")
	if err := os.WriteFile(program, vm.PrintingProgram("idle"), 0o755); err != nil {
		t.Fatal(err)
	}
	img, err := cluster.ProgramImage(program)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := w.Registry.Push(t.Context(), "idle:latest", img)
	if err != nil {
		t.Fatal(err)
	}
	f := w.framework(t, true)
	var tasks []client.Task
	for i := range batch + containers {
		task := f.task(t, fmt.Sprintf("idle-%d", i), "")
		task.CPUs, task.MemMB, task.Container, task.Hostname = 0.01, 2, dockerImage(ref), m.Node.Address.String()
		tasks = append(tasks, task)
	}
	f.start(t, tasks[:batch]...)
	before := sampleMemory(t, w, m)
	progress("%d idle containers run, starting %d more", batch, containers)
	// Not all at once: while they start they take more than the little that they ask for.
	for some := range slices.Chunk(tasks[batch:], batch) {
		f.start(t, some...)
	}
	after := sampleMemory(t, w, m)
	for _, s := range after {
		if s.inTasks != batch+containers {
			t.Fatalf("%d processes in %d containers", s.inTasks, batch+containers)
		}
	}
	extra := middle(after, func(s sample) uint64 { return uint64(s.processes) })
	had := middle(before, func(s sample) uint64 { return uint64(s.processes) })
	cost := (float64(middle(after, func(s sample) uint64 { return s.programs })) - float64(middle(before, func(s sample) uint64 { return s.programs }))) / float64(containers)
	kernel := (float64(middle(after, func(s sample) uint64 { return s.kernelUsed })) - float64(middle(before, func(s sample) uint64 { return s.kernelUsed }))) / float64(containers)
	own := float64(middle(after, func(s sample) uint64 { return s.tasksPSS })) / float64(batch+containers)
	figure{
		number: 5, n: containers, reached: extra <= had && cost <= goal,
		what:  fmt.Sprintf("an idle container: processes beside its own; PSS of the four programs (its own %.0f KiB; with the kernel's memory %.0f KiB in all)", own/1024, kernel/1024),
		value: fmt.Sprintf("%d processes; %.0f KiB", int(extra)-int(had), cost/1024), goal: fmt.Sprintf("0; %d KiB", goal>>10),
	}.note()
	for _, name := range systemPrograms {
		part := func(s sample) uint64 { return s.parts[name].PSSBytes }
		anon := func(s sample) uint64 { return s.parts[name].AnonymousBytes }
		progress("  %s: %.2f MiB before (%.2f anonymous), %.2f after (%.2f)", name, mib(middle(before, part)), mib(middle(before, anon)), mib(middle(after, part)), mib(middle(after, anon)))
	}
}

// figure3 gives the worker less and less memory until it runs no task any more.
func figure3(t *testing.T, w *world, m *cluster.Machine) {
	t.Helper()
	const goal = 256
	smallest, tried := 0, 0
	patience := time.Duration(toElect) * theLab.boot
	sizes := []int{256, 224, 208, 192, 176, 160}
	for _, mb := range sizes[:benchRuns(len(sizes))] {
		tried++
		began := time.Now()
		if err := workerRunsATask(t, w, m, mb, patience); err != nil {
			progress("a worker with %d MiB: %v", mb, err)
			break
		}
		progress("a worker with %d MiB booted and ran a task in %.1f s", mb, time.Since(began).Seconds())
		smallest = mb
		// Who needs far longer than before does not get there.
		patience = max(30*time.Second, 4*time.Since(began))
	}
	figure{
		number: 3, what: "smallest memory in which a worker boots and runs a task", n: tried, reached: smallest > 0 && smallest <= goal,
		value: fmt.Sprintf("%d MiB", smallest), goal: fmt.Sprintf("%d MiB", goal),
	}.note()
}

func workerRunsATask(t *testing.T, w *world, m *cluster.Machine, mb int, patience time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m.PowerCut()
	m.Node.MemoryMB = mb
	if err := m.PowerOn(ctx); err != nil {
		return err
	}
	id := fmt.Sprintf("in-%d-MiB", mb)
	c, err := client.New(client.Config{Masters: w.APIs(), HTTP: w.Client(), Framework: benchFramework(id)})
	if err != nil {
		return err
	}
	f := &framework{Launcher: client.NewLauncher(c, nil), client: c, world: w}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- f.Run(running) }()
	defer func() { <-ended }()
	defer stop()
	if _, err := m.VM().Console.Wait(ctx, 0, "cluster: n1 leads; 0 tasks run here"); err != nil {
		return fmt.Errorf("its agent was not ready within %.0f s; the console ends so:\n%s", patience.Seconds(), m.VM().Console.Tail(8))
	}
	task := f.task(t, id, "say", "small")
	task.MemMB, task.Hostname = 16, m.Node.Address.String()
	if err := f.Add(ctx, task); err != nil {
		return err
	}
	l, err := f.Wait(ctx, id, client.Ended)
	if err != nil {
		return err
	}
	if got := l.Status.GetState(); got != mesosv1.TaskState_TASK_FINISHED {
		return fmt.Errorf("the task ended as %s: %s", got, l.Status.GetMessage())
	}
	return nil
}
