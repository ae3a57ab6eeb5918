//go:build vm

package qemutests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/node"
	clusterfile "github.com/mesolith/mesolith/provision/cluster"
	"github.com/mesolith/mesolith/provision/pki"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// lab is what all tests of one run share.
type lab struct {
	image cluster.Image
	accel string
	// boot is how long this kernel takes here to start a program that only prints:
	// the unit of every deadline.
	boot time.Duration
	dir  string // programs, consoles

	shared *world // the cluster of three, nil until a test wants it
	report func() // of a run that measures; nil: none

	endShared sync.Once           // before the tests that run apart
	room      *semaphore.Weighted // of machines, for those
}

var theLab = lab{room: semaphore.NewWeighted(mostMachines)}

func TestMain(m *testing.M) {
	code, err := runLab(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "VM tests:", err)
		code = 1
	}
	os.Exit(code)
}

func runLab(m *testing.M) (code int, err error) {
	ctx := context.Background()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	imageDir := filepath.Join("..", "build", "image")
	if dir := os.Getenv("MESOLITH_IMAGE"); dir != "" {
		imageDir = dir
	}
	if theLab.image, err = cluster.FindImage(imageDir); err != nil {
		return 1, err
	}
	cache, err := vm.CacheDir()
	if err != nil {
		return 1, err
	}
	if theLab.accel, err = vm.Accelerator(ctx, theLab.image.Kernel, cache, log); err != nil {
		return 1, err
	}
	if theLab.dir, err = filepath.Abs(filepath.Join("..", "build", "qemu-tests")); err != nil {
		return 1, err
	}
	if err := os.MkdirAll(theLab.dir, 0o755); err != nil {
		return 1, err
	}
	if theLab.boot, err = vm.ProbeBoot(ctx, theLab.image.Kernel, theLab.accel, 2*time.Minute, log); err != nil {
		return 1, err
	}
	if err := buildTask(); err != nil {
		return 1, err
	}
	fmt.Printf("this kernel starts a program that prints in %.1f s (%s)\n", theLab.boot.Seconds(), theLab.accel)
	code = m.Run()
	if theLab.report != nil {
		theLab.report()
	}
	if theLab.shared != nil {
		theLab.shared.close()
		if code == 0 {
			return code, os.RemoveAll(theLab.shared.home)
		}
	}
	return code, nil
}

func taskProgram() string { return filepath.Join(theLab.dir, "testtask") }

func buildTask() error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", taskProgram(), "./testtask")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the tests' task: %w\n%s", err, said)
	}
	return nil
}

// within is a context that ends after so many boots, and never before half a minute.
func within(t *testing.T, boots int) context.Context {
	t.Helper()
	limit := max(time.Duration(boots)*theLab.boot, 30*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// Boots that things may take. A busy host makes a boot of 3 s last 25.
const (
	toElect  = 40 // power-on of all to every agent ready
	toRun    = 25 // ACCEPT to the end of a short task, its pull included
	toNotice = 30 // a leader's death to the next leader and its agents
)

// stopwatch prints a test's seconds at its end.
func stopwatch(t *testing.T) {
	began := time.Now()
	t.Cleanup(func() { fmt.Printf("%s took %.1f s\n", t.Name(), time.Since(began).Seconds()) })
}

// world is a cluster under test.
type world struct {
	*cluster.Cluster
	rendered cluster.Rendered
	home     string // its directory, with the consoles
	secrets  *pki.Secrets
	task     string // reference of the image with the tests' program
	taskOnce sync.Once
	taskErr  error
}

// options change how a world is made.
type options struct {
	nodes    int
	file     string // a cluster file; empty: generated
	noDHCP   bool
	memoryMB int
	image    *cluster.Image // nil: the lab's
	spoil    func(*cluster.Rendered)
	prepare  bool // machines stay off
}

// newWorld makes a cluster that ends with the test; its consoles are kept if it fails.
func newWorld(t *testing.T, o options) *world {
	t.Helper()
	w, err := makeWorld(within(t, toElect), t.Name(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.close()
		w.keepConsoles(t)
	})
	return w
}

func makeWorld(ctx context.Context, name string, o options) (*world, error) {
	text := o.file
	if text == "" {
		var err error
		if text, err = cluster.GeneratedFile("test", o.nodes); err != nil {
			return nil, err
		}
	}
	p, err := clusterfile.Parse(name+".yaml", []byte(text))
	if err != nil {
		return nil, err
	}
	w := &world{}
	if w.secrets, err = pki.NewCluster(p.File.Cluster, p.Names(), time.Now()); err != nil {
		return nil, err
	}
	if w.rendered, err = cluster.Render(p, w.secrets, theLab.accel, time.Now()); err != nil {
		return nil, err
	}
	if o.spoil != nil {
		o.spoil(&w.rendered)
	}
	transport, err := operator(w.rendered)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(theLab.dir, strings.ReplaceAll(name, "/", "_")+"-")
	if err != nil {
		return nil, err
	}
	w.home = dir
	img := theLab.image
	if o.image != nil {
		img = *o.image
	}
	cfg := cluster.Config{
		Name: w.rendered.Name, Dir: dir, Image: img, Nodes: w.rendered.Nodes, Subnet: w.rendered.Subnet,
		MemoryMB: o.memoryMB, Accel: theLab.accel, NoDHCP: o.noDHCP, Client: transport,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if o.prepare {
		w.Cluster, err = cluster.Prepare(cfg)
	} else {
		w.Cluster, err = cluster.Start(ctx, cfg)
	}
	return w, err
}

func operator(r cluster.Rendered) (func(cluster.DialFunc) http.RoundTripper, error) {
	return cluster.OperatorTransport([]byte(r.OperatorCert), []byte(r.OperatorKey), r.AnchorJSON)
}

func (w *world) close() { w.Cluster.Close() }

// keepConsoles says where the consoles of a failed test are, and removes a good one's.
func (w *world) keepConsoles(t *testing.T) {
	if t.Failed() {
		t.Logf("consoles are in %s", w.home)
		return
	}
	if err := os.RemoveAll(w.home); err != nil {
		t.Errorf("remove consoles: %v", err)
	}
}

// hostRole is the role that the shared cluster lets use the nodes' network.
const hostRole = "host-network"

// three is the shared cluster, ready: no faults, three machines on, three agents.
func three(t *testing.T) *world {
	t.Helper()
	stopwatch(t)
	if theLab.shared == nil {
		text, err := cluster.GeneratedFile("test", 3)
		if err != nil {
			t.Fatal(err)
		}
		// One role may use the nodes' network: what its tasks may do is tested too.
		w, err := makeWorld(t.Context(), "shared", options{file: text + "tasks: { hostNetworkRoles: [" + hostRole + "] }\n"})
		if err != nil {
			t.Fatal(err)
		}
		theLab.shared = w
	}
	w := theLab.shared
	if err := w.Restore(within(t, toElect)); err != nil {
		t.Fatalf("the shared cluster: %v", err)
	}
	marks := map[string]int{}
	for _, m := range w.Machines() {
		marks[m.Node.Name] = m.VM().Console.Len()
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, m := range w.Machines() {
			var b strings.Builder
			for _, l := range m.VM().Console.Lines(marks[m.Node.Name]) {
				b.WriteString(l.Text + "\n")
			}
			name := filepath.Join(theLab.dir, strings.ReplaceAll(t.Name(), "/", "_")+"."+m.Node.Name+".console.log")
			if err := os.WriteFile(name, []byte(b.String()), 0o644); err != nil {
				t.Errorf("keep console: %v", err)
			}
		}
	})
	return w
}

// mostMachines is how many run at once at most.
const mostMachines = 4

// roomFor makes room for other machines than the shared cluster's.
func roomFor(t *testing.T, machines int) {
	t.Helper()
	if theLab.shared == nil || machines <= 1 {
		return
	}
	for _, m := range theLab.shared.Machines() {
		m.PowerCut()
	}
}

// apart makes room for a test that needs nothing of the others: it runs when those on the
// shared cluster are over, beside others of its kind as far as there is room.
func apart(t *testing.T, machines int) {
	t.Helper()
	t.Parallel()
	theLab.endShared.Do(func() { roomFor(t, mostMachines) })
	if err := theLab.room.Acquire(t.Context(), int64(machines)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theLab.room.Release(int64(machines)) })
}

// nodeAPI speaks to a machine's own side as the operator.
func (w *world) nodeAPI(n cluster.Node) *node.Client {
	return &node.Client{
		Base: "https://" + net.JoinHostPort(n.Address.String(), strconv.Itoa(cluster.NodePort)),
		HTTP: w.Client(),
	}
}

// image is the reference of the tests' program in the cluster's registry.
func (w *world) image(t *testing.T) string {
	t.Helper()
	w.taskOnce.Do(func() {
		img, err := cluster.ProgramImage(taskProgram())
		if err != nil {
			w.taskErr = err
			return
		}
		w.task, w.taskErr = w.Registry.Push(context.Background(), "testtask:latest", img)
	})
	if w.taskErr != nil {
		t.Fatal(w.taskErr)
	}
	return w.task
}

// framework is one that runs for as long as the test.
type framework struct {
	*client.Launcher
	client *client.Client
	world  *world

	mu      sync.Mutex
	history map[string][]*mesosv1.TaskStatus
}

func (w *world) framework(t *testing.T, protobuf bool) *framework {
	t.Helper()
	return w.frameworkVia(t, protobuf, w.APIs()...)
}

// frameworkAs is one whose tasks have a role.
func (w *world) frameworkAs(t *testing.T, role string) *framework {
	t.Helper()
	return w.newFramework(t, false, role, w.APIs())
}

// frameworkVia speaks to the first of these as long as that answers.
func (w *world) frameworkVia(t *testing.T, protobuf bool, apis ...string) *framework {
	t.Helper()
	return w.newFramework(t, protobuf, "*", apis)
}

func (w *world) newFramework(t *testing.T, protobuf bool, role string, apis []string) *framework {
	t.Helper()
	c, err := client.New(client.Config{
		Masters: apis, HTTP: w.Client(), Protobuf: protobuf,
		Framework: &mesosv1.FrameworkInfo{
			User: proto.String("root"), Name: proto.String(t.Name()), Roles: []string{role}, FailoverTimeout: proto.Float64(600),
			Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	f := &framework{client: c, world: w, history: map[string][]*mesosv1.TaskStatus{}}
	f.Launcher = client.NewLauncher(c, f.note)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		end, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		if err := c.Teardown(end); err != nil && !t.Failed() {
			t.Errorf("teardown: %v", err)
		}
		cancel()
		<-ended
	})
	return f
}

func (f *framework) note(l client.Launched) {
	if l.Status == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.history[l.Task.ID] = append(f.history[l.Task.ID], l.Status)
}

// task is one of the tests' program with a verb.
func (f *framework) task(t *testing.T, id string, verb ...string) client.Task {
	t.Helper()
	return client.Task{
		ID: id, CPUs: 0.05, MemMB: 32, Container: dockerImage(f.world.image(t)),
		Command: &mesosv1.CommandInfo{
			Shell: proto.Bool(false), Value: proto.String("/program"), Arguments: append([]string{"program"}, verb...),
		},
	}
}

func dockerImage(ref string) *mesosv1.ContainerInfo {
	return &mesosv1.ContainerInfo{
		Type: mesosv1.ContainerInfo_MESOS.Enum(),
		Mesos: &mesosv1.ContainerInfo_MesosInfo{Image: &mesosv1.Image{
			Type: mesosv1.Image_DOCKER.Enum(), Docker: &mesosv1.Image_Docker{Name: &ref},
		}},
	}
}

// runToEnd launches tasks and waits until each has ended.
func (f *framework) runToEnd(t *testing.T, tasks ...client.Task) []client.Launched {
	t.Helper()
	ctx := within(t, toRun+2*len(tasks))
	if err := f.Add(ctx, tasks...); err != nil {
		t.Fatal(err)
	}
	var out []client.Launched
	for _, task := range tasks {
		l, err := f.Wait(ctx, task.ID, client.Ended)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
	return out
}

// start launches tasks and waits until each runs.
func (f *framework) start(t *testing.T, tasks ...client.Task) []client.Launched {
	t.Helper()
	ctx := within(t, toRun+2*len(tasks))
	if err := f.Add(ctx, tasks...); err != nil {
		t.Fatal(err)
	}
	var out []client.Launched
	for _, task := range tasks {
		l, err := f.Wait(ctx, task.ID, client.Running)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
	return out
}

// wantState fails the test unless a task ended in a state.
func wantState(t *testing.T, l client.Launched, want mesosv1.TaskState) {
	t.Helper()
	if got := l.Status.GetState(); got != want {
		t.Fatalf("task %s ended as %s (%s: %s), want %s", l.Task.ID, got, l.Status.GetReason(), l.Status.GetMessage(), want)
	}
}

// eventually asks until there is no error.
func eventually(t *testing.T, ctx context.Context, ask func() error) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}
