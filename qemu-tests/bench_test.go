//go:build vm && bench

package qemutests

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// figure prints one line of the table of figures.
func figure(n int, text string, value, goal string) {
	fmt.Printf("figure %2d  %-58s %-34s goal %s\n", n, text, value, goal)
}

// heartbeatOf is the heartbeat timeout that the machines run by.
func heartbeatOf(accel string) time.Duration {
	if accel == vm.AccelTCG {
		return time.Second
	}
	return 250 * time.Millisecond
}

// Figure 1: from power-on to the first offer, against the same kernel booting a program
// that only prints.
func TestBenchPowerOnToFirstOffer(t *testing.T) {
	roomFor(t, 3)
	const runs = 3
	var bare, offers []time.Duration
	for range runs {
		took, err := vm.ProbeBoot(within(t, toElect), theLab.image.Kernel, theLab.accel, 2*time.Minute, nil)
		if err != nil {
			t.Fatal(err)
		}
		bare = append(bare, took)
		offers = append(offers, firstOffer(t))
	}
	b, o := median(bare), median(offers)
	limit := time.Duration(1.5*float64(b)) + 3*heartbeatOf(theLab.accel)
	figure(1, fmt.Sprintf("power-on of 3 to first offer; bare boot %.2f s (N=%d)", b.Seconds(), runs),
		fmt.Sprintf("%.2f s", o.Seconds()), fmt.Sprintf("<= %.2f s (1.5 boots + 3 heartbeats)", limit.Seconds()))
}

func firstOffer(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	w, err := makeWorld(within(t, toElect), "offer", options{nodes: 3})
	if err != nil {
		t.Fatal(err)
	}
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
	return took
}

func benchFramework(name string) *mesosv1.FrameworkInfo {
	return &mesosv1.FrameworkInfo{
		User: proto.String("root"), Name: &name, Roles: []string{"*"},
		Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()}},
	}
}

func median(d []time.Duration) time.Duration { return quantile(d, 0.5) }

func quantile(d []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// Figure 3: the smallest memory in which a worker boots and runs a task.
func TestBenchSmallestWorker(t *testing.T) {
	roomFor(t, 2)
	smallest := 0
	for _, mb := range []int{320, 256, 224, 208, 192, 176} {
		if err := workerRunsATask(t, mb); err != nil {
			fmt.Printf("a worker with %d MB: %v\n", mb, err)
			break
		}
		smallest = mb
	}
	figure(3, "smallest memory of a worker that runs a task", fmt.Sprintf("%d MiB", smallest), "<= 256 MiB")
}

func workerRunsATask(t *testing.T, mb int) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*toElect*theLab.boot)
	defer cancel()
	w, err := makeWorld(ctx, fmt.Sprintf("worker-%d", mb), options{nodes: 2, spoil: func(r *cluster.Rendered) {
		r.Nodes[1].MemoryMB = mb // the first one is the master
	}})
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.WaitReady(ctx); err != nil {
		return fmt.Errorf("not ready: %w", context.Cause(ctx))
	}
	c, err := client.New(client.Config{Masters: w.APIs(), HTTP: w.Client(), Framework: benchFramework("smallest")})
	if err != nil {
		return err
	}
	f := &framework{Launcher: client.NewLauncher(c, nil), client: c, world: w}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- f.Run(running) }()
	defer func() { <-ended }()
	defer stop()
	task := f.task(t, "task", "say", "small")
	task.MemMB, task.Hostname = 16, w.rendered.Nodes[1].Address.String()
	if err := f.Add(ctx, task); err != nil {
		return err
	}
	l, err := f.Wait(ctx, "task", client.Ended)
	if err != nil {
		return err
	}
	if got := l.Status.GetState(); got != mesosv1.TaskState_TASK_FINISHED {
		return fmt.Errorf("the task ended as %s: %s", got, l.Status.GetMessage())
	}
	return nil
}

// Figure 9: ACCEPT to TASK_RUNNING of a container whose image is cached.
func TestBenchAcceptToRunning(t *testing.T) {
	w := three(t)
	const runs = 60
	first := w.framework(t, true)
	var warm []client.Task
	for _, m := range w.Machines() {
		task := first.task(t, "warm-"+m.Node.Name, "say", "cached")
		task.Hostname = m.Node.Address.String()
		warm = append(warm, task)
	}
	first.runToEnd(t, warm...)

	sent := map[string]time.Time{}
	took := make(chan time.Duration, runs)
	c, err := client.New(client.Config{Masters: w.APIs(), HTTP: w.Client(), Protobuf: true, Framework: benchFramework("start-time")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(within(t, runs*4))
	defer cancel()
	image, next := w.image(t), 0
	waiting := false
	err = c.Run(ctx, func(ctx context.Context, e *scheduler.Event) error {
		switch e.GetType() {
		case scheduler.Event_OFFERS:
			for _, o := range e.GetOffers().GetOffers() {
				if waiting || next == runs {
					if err := c.Decline(ctx, []*mesosv1.OfferID{o.GetId()}, 0.1); err != nil {
						return err
					}
					continue
				}
				id := fmt.Sprintf("run-%d", next)
				next++
				waiting = true
				sent[id] = time.Now()
				if err := c.Accept(ctx, []*mesosv1.OfferID{o.GetId()}, []*mesosv1.Offer_Operation{client.Launch(benchTask(id, image, o))}, 0.1); err != nil {
					return err
				}
			}
		case scheduler.Event_UPDATE:
			s := e.GetUpdate().GetStatus()
			if s.GetState() == mesosv1.TaskState_TASK_RUNNING {
				took <- time.Since(sent[s.GetTaskId().GetValue()])
			}
			if client.Terminal(s.GetState()) {
				waiting = false
				if s.GetState() != mesosv1.TaskState_TASK_FINISHED {
					return fmt.Errorf("%s ended as %s: %s", s.GetTaskId().GetValue(), s.GetState(), s.GetMessage())
				}
				if next == runs {
					cancel()
				}
			}
		}
		return nil
	})
	close(took)
	var all []time.Duration
	for d := range took {
		all = append(all, d)
	}
	if len(all) < runs {
		t.Fatalf("%d of %d tasks ran: %v", len(all), runs, err)
	}
	figure(9, fmt.Sprintf("ACCEPT to TASK_RUNNING, image cached (%s, N=%d)", theLab.accel, runs),
		fmt.Sprintf("p50 %d ms, p99 %d ms", quantile(all, 0.5).Milliseconds(), quantile(all, 0.99).Milliseconds()),
		"50 / 150 ms on a quiet machine without emulation")
}

func benchTask(id, image string, o *mesosv1.Offer) *mesosv1.TaskInfo {
	scalar := func(name string, v float64) *mesosv1.Resource {
		return &mesosv1.Resource{
			Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v},
			AllocationInfo: o.GetAllocationInfo(),
		}
	}
	return &mesosv1.TaskInfo{
		Name: &id, TaskId: &mesosv1.TaskID{Value: &id}, AgentId: o.GetAgentId(), Container: dockerImage(image),
		Resources: []*mesosv1.Resource{scalar("cpus", 0.05), scalar("mem", 32)},
		Command: &mesosv1.CommandInfo{
			Shell: proto.Bool(false), Value: proto.String("/program"), Arguments: []string{"program", "say", "fast"},
		},
	}
}
