//go:build vm && bench

package qemutests

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// figure is one line of the table that a run ends with. docs/figures.md says how each is
// measured.
type figure struct {
	number      int
	what, value string
	n           int
	goal        string
	reached     bool
	load        string // of the host, while it was measured
}

// figures are those measured so far.
var figures []figure

// note takes a figure for the table and shows it at once.
func (f figure) note() {
	f.load = hostLoad()
	figures = append(figures, f)
	theLab.report = table
	fmt.Printf("figure %d: %s: %s (N=%d); goal %s: %s; load of the host %s\n", f.number, f.what, f.value, f.n, f.goal, f.verdict(), f.load)
}

func (f figure) verdict() string {
	if f.reached {
		return "reached"
	}
	return "MISSED"
}

// hostLoad is the mean number of processes that wanted a processor in the last minute,
// those of the bench included.
func hostLoad() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(raw), " ")
	return one
}

// progress tells a person who waits what goes on.
func progress(format string, args ...any) {
	fmt.Printf("%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

func median(d []time.Duration) time.Duration { return quantile(d, 0.5) }

func quantile[T int64 | time.Duration | float64](d []T, q float64) T {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// heartbeat is the heartbeat timeout that the machines run by.
func heartbeat() time.Duration {
	if theLab.accel == vm.AccelTCG {
		return time.Second
	}
	return 250 * time.Millisecond
}

func benchFramework(name string) *mesosv1.FrameworkInfo {
	return &mesosv1.FrameworkInfo{
		User: proto.String("root"), Name: &name, Roles: []string{"*"}, FailoverTimeout: proto.Float64(60),
		Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()}},
	}
}

// benchRuns is how often a figure is taken: less often where somebody is in a hurry.
func benchRuns(n int) int {
	if asked, err := strconv.Atoi(os.Getenv("MESOLITH_BENCH_RUNS")); err == nil && asked > 0 {
		return min(n, asked)
	}
	return n
}

// Figure 1: from power-on to the first offer, against the same kernel booting a program
// that only prints. The machines that are compared with boot three at a time too.
func TestBenchPowerOnToFirstOffer(t *testing.T) {
	roomFor(t, 3)
	runs := benchRuns(5)
	var alone, together, offers []time.Duration
	for i := range runs {
		alone = append(alone, bareBoots(t, 1))
		together = append(together, bareBoots(t, 3))
		offers = append(offers, firstOffer(t))
		progress("run %d of %d: a bare boot %.2f s, three at once %.2f s, first offer after %.2f s",
			i+1, runs, alone[i].Seconds(), together[i].Seconds(), offers[i].Seconds())
	}
	limit := func(boot time.Duration) time.Duration { return boot*3/2 + 3*heartbeat() }
	one, three, took := median(alone), median(together), median(offers)
	figure{
		number: 1, n: runs, reached: took <= limit(three),
		what:  fmt.Sprintf("power-on of three to first offer; a bare boot takes %.2f s alone, %.2f s three at once", one.Seconds(), three.Seconds()),
		value: fmt.Sprintf("p50 %.2f s, worst %.2f s", took.Seconds(), slices.Max(offers).Seconds()),
		goal:  fmt.Sprintf("1.5 bare boots of three + 3 heartbeats = %.2f s (of one: %.2f s)", limit(three).Seconds(), limit(one).Seconds()),
	}.note()
}

// bareBoots is how long it takes until the last of several machines, started together,
// has printed.
func bareBoots(t *testing.T, machines int) time.Duration {
	t.Helper()
	type boot struct {
		took time.Duration
		err  error
	}
	booted := make(chan boot, machines)
	ctx := within(t, toElect)
	for range machines {
		go func() {
			took, err := vm.ProbeBoot(ctx, theLab.image.Kernel, theLab.accel, 2*time.Minute, nil)
			booted <- boot{took, err}
		}()
	}
	var last time.Duration
	for range machines {
		b := <-booted
		if b.err != nil {
			t.Fatal(b.err)
		}
		last = max(last, b.took)
	}
	return last
}

func firstOffer(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	w, err := makeWorld(within(t, toElect), "offer", options{nodes: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer w.keepConsoles(t)
	defer w.close()
	ctx, cancel := context.WithCancel(within(t, toElect))
	defer cancel()
	c, err := client.New(client.Config{Masters: w.APIs(), HTTP: w.Client(), Framework: benchFramework("first-offer")})
	if err != nil {
		t.Fatal(err)
	}
	var took time.Duration
	err = c.Run(ctx, func(_ context.Context, e *scheduler.Event) error {
		if e.GetType() == scheduler.Event_OFFERS {
			took = time.Since(began)
			cancel()
		}
		return nil
	})
	if took == 0 {
		t.Fatalf("no offer: %v", err)
	}
	progress("  on the consoles: %s", milestones(w, began))
	return took
}

// milestones says when the first and the last machine came past each point of the boot.
func milestones(w *world, began time.Time) string {
	var out []string
	for _, text := range []string{"phase mounts", "noded started", "from 10.", "clusterd started", "isolated started", "certificate: issued", "founding", " leads"} {
		var times []time.Duration
		for _, m := range w.Machines() {
			for _, l := range m.VM().Console.Lines(0) {
				if strings.Contains(l.Text, text) {
					times = append(times, l.At.Sub(began))
					break
				}
			}
		}
		if len(times) > 0 {
			out = append(out, fmt.Sprintf("%s %.1f-%.1f s", strings.Trim(text, " ."), slices.Min(times).Seconds(), slices.Max(times).Seconds()))
		}
	}
	return strings.Join(out, ", ")
}

// Figure 2: what a machine loads to boot.
func TestBenchImageSize(t *testing.T) {
	const goal = 32_000_000
	dir := filepath.Dir(theLab.image.Initramfs)
	var total int64
	for _, name := range []string{"vmlinuz", "initramfs.zst"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	figure{
		number: 2, what: "kernel + initramfs, compressed", n: 1, reached: total <= goal,
		value: fmt.Sprintf("%.2f MB", float64(total)/1e6), goal: fmt.Sprintf("%d MB", goal/1_000_000),
	}.note()
}

// table shows all figures of the run.
func table() {
	slices.SortStableFunc(figures, func(a, b figure) int { return a.number - b.number })
	fmt.Printf("\nFigures of speed and size (%s):\n", theLab.accel)
	w := tabwriter.NewWriter(os.Stdout, 2, 8, 2, ' ', 0)
	fmt.Fprintln(w, "#\tfigure\tvalue\tN\tgoal\t\tload")
	for _, f := range figures {
		fmt.Fprintf(w, "%d\t%s\t%s\t%d\t<= %s\t%s\t%s\n", f.number, f.what, f.value, f.n, f.goal, f.verdict(), f.load)
	}
	if err := w.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, "print the table:", err)
	}
}
