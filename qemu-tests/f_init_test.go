//go:build vm

package qemutests

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/node"
	"github.com/mesolith/mesolith/image/cpio"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// faulty is the image whose init can be made to fail (init/fault). All else in it are the
// shipped image's bytes: the kernel unpacks a second archive over the first.
var faulty = sync.OnceValues(func() (*cluster.Image, error) {
	program := filepath.Join(theLab.dir, "init-faults")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "osusergo,netgo,pid1faults", "-ldflags=-s -w", "-o", program, "../init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build init with faults: %w\n%s", err, said)
	}
	body, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	shipped, err := os.ReadFile(theLab.image.Initramfs)
	if err != nil {
		return nil, err
	}
	over := cpio.New()
	over.File("init", 0o755, body)
	var archive bytes.Buffer
	archive.Write(shipped)
	archive.Write(make([]byte, (4-len(shipped)%4)%4))
	if _, err := over.WriteTo(&archive); err != nil {
		return nil, err
	}
	img := theLab.image
	img.Initramfs = filepath.Join(theLab.dir, "initramfs-faults")
	return &img, os.WriteFile(img.Initramfs, archive.Bytes(), 0o644)
})

// faultyMachine is a cluster of one whose init obeys the test.
type faultyMachine struct {
	*world
	t    *testing.T
	m    *cluster.Machine
	port io.WriteCloser
	mark int // on the console, behind what was found last
}

// faultyFile has a watchdog that a test can wait for.
const faultyFile = `apiVersion: v1
cluster: %s
version: 0.1.0
masters: 1
api: { plaintext: true, anonymous: framework }
defaults:
  watchdog: 15s
  time: { servers: [dhcp], wait: 1s }
nodes:
  - { name: n1, mac: "52:54:00:00:07:01" }
`

func newFaultyMachine(t *testing.T, name, argument string) *faultyMachine {
	t.Helper()
	roomFor(t, 1)
	stopwatch(t)
	img, err := faulty()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, options{file: fmt.Sprintf(faultyFile, name), image: img, spoil: func(r *cluster.Rendered) {
		r.Nodes[0].Cmdline = "mesolith.fault=" + argument
	}})
	return faultyMachineOf(t, w, "n1")
}

// faultyMachineOf takes hold of one machine of a world that has the faulty image.
func faultyMachineOf(t *testing.T, w *world, name string) *faultyMachine {
	t.Helper()
	f := &faultyMachine{world: w, t: t, m: w.Machine(name)}
	conn, err := f.m.VM().Control(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f.port = conn
	return f
}

func (f *faultyMachine) console() *vm.Console { return f.m.VM().Console }

// tell gives init's fault build a command.
func (f *faultyMachine) tell(command string) {
	f.t.Helper()
	if _, err := io.WriteString(f.port, command+"\n"); err != nil {
		f.t.Fatal(err)
	}
}

// sees waits for lines on the console, in their order, and gives the last one.
func (f *faultyMachine) sees(texts ...string) vm.Line {
	f.t.Helper()
	var line vm.Line
	for _, text := range texts {
		var err error
		if line, err = f.console().Wait(within(f.t, toElect), f.mark, text); err != nil {
			f.t.Fatalf("the console does not say %q: %v", text, err)
		}
		for i, l := range f.console().Lines(f.mark) {
			if l == line {
				f.mark += i + 1
				break
			}
		}
	}
	return line
}

func (f *faultyMachine) health() node.Health {
	f.t.Helper()
	var health node.Health
	eventually(f.t, within(f.t, toElect), func() (err error) {
		health, err = f.nodeAPI(f.m.Node).Health(f.t.Context())
		return err
	})
	return health
}

// PID 1 panics, is not fed, is asked to reboot: each time the machine comes back by
// itself and says how its last boot ended, on the console and to its operator.
func TestEachEndOfABootIsTold(t *testing.T) {
	f := newFaultyMachine(t, "ends", "listen")
	f.sees("how the last boot ended: nothing is known: power was off", "n1 leads")
	fired := 0

	f.tell("panic")
	f.sees("fault injected: a goroutine of PID 1 panics", "Kernel panic - not syncing: Attempted to kill init")
	f.sees("how the last boot ended: PID 1 died: panic: fault injected: a goroutine of PID 1 panics", "n1 leads")
	fired++
	log := whole(t, func() (io.ReadCloser, error) { return f.nodeAPI(f.m.Node).Logs(t.Context(), "crash", false) })
	for _, part := range []string{"panic: fault injected: a goroutine of PID 1 panics\n", "init/fault.obey.func1()\n", "Kernel panic - not syncing"} {
		if !bytes.Contains([]byte(log), []byte(part)) {
			t.Errorf("the log crash has no %q:\n%.4000s", part, log)
		}
	}
	if end := f.health().LastEnd; !strings.HasPrefix(end, "PID 1 died: panic: fault injected") {
		t.Errorf("the operator is told %q", end)
	}

	bites := f.m.VM().Events("WATCHDOG") // a panic on a busy host waits long enough for one
	f.tell("prepare:hang")
	f.tell("kill clusterd")
	f.sees("fault: prepare hangs", "supervisor does not answer, watchdog not fed", "how the last boot ended: the watchdog reset the machine: PID 1 had stopped feeding it")
	fired++
	if n := f.m.VM().Events("WATCHDOG"); n != bites+1 {
		t.Errorf("the watchdog bit %d times, %d before", n, bites)
	}
	if mainToo {
		f.sees("fault: listening")
		f.tell("tick:hang")
		f.sees("fault: tick hangs", "how the last boot ended: the watchdog reset the machine")
		if n := f.m.VM().Events("WATCHDOG"); n != bites+2 {
			t.Errorf("the watchdog bit %d times, %d before", n, bites)
		}
	}
	f.sees("n1 leads")

	if err := f.nodeAPI(f.m.Node).Reboot(t.Context(), "the test wants it"); err != nil {
		t.Fatal(err)
	}
	f.sees("going down: the test wants it", "how the last boot ended: the test wants it (at ")
	fired++
	t.Logf("%d of 3 kinds of ends fired and were told; the watchdog bit %d times", fired, f.m.VM().Events("WATCHDOG"))
}

// A phase that hangs is ended at its deadline, with its name and the deadline; where the
// boot cannot go on without it the machine reboots, and the third time in five minutes it
// waits before it does.
func TestAPhaseThatHangs(t *testing.T) {
	f := newFaultyMachine(t, "hangs", "phase-sockets:hang")
	for range 2 {
		f.sees("phase sockets 5.0", "going down: boot failed: phase sockets: deadline passed (5s)")
	}
	f.sees("phase sockets 5.0", "how the last boot ended: boot failed: phase sockets: deadline passed (5s) (at ", "third boot within 5m0s, waiting 1m0s")
	t.Logf("the phase hung in 3 of 3 boots")
}

// An image that was not unpacked whole is not run: init names a file that is missing or
// short, and what the kernel said, and reboots.
func TestACutImage(t *testing.T) {
	roomFor(t, 1)
	stopwatch(t)
	whole, err := os.ReadFile(theLab.image.Initramfs)
	if err != nil {
		t.Fatal(err)
	}
	cut := theLab.image
	cut.Initramfs = filepath.Join(t.TempDir(), "cut")
	if err := os.WriteFile(cut.Initramfs, whole[:len(whole)*2/3], 0o644); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, options{file: fmt.Sprintf(faultyFile, "cut"), image: &cut})
	console := w.Machine("n1").VM().Console
	line, err := console.Wait(within(t, toElect), 0, "the image was not unpacked whole: ")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(line.Text, "Initramfs unpacking failed: ") || !regexp.MustCompile(`whole: (usr|lib|init)[^ ]* \((missing|\d+ of \d+ bytes)\)`).MatchString(line.Text) {
		t.Errorf("it says %q", line.Text)
	}
	t.Log(line.Text)
	if _, err := console.Wait(within(t, toElect), 0, "going down: boot failed: phase image: "); err != nil {
		t.Fatal(err)
	}
	for _, l := range console.Lines(0) {
		if strings.Contains(l.Text, "noded started") {
			t.Error("programs were started from it")
		}
	}
}

// While init has no descriptor left, what dies waits for its successor and its status is
// kept; when there are some again, everything goes on, and each of it was said. Then as
// many die at PID 1 as can, and no status is taken from anybody either.
func TestDescriptorsRunOutAndAStormOfOrphans(t *testing.T) {
	f := newFaultyMachine(t, "descriptors", "listen")
	if err := f.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	fw := f.framework(t, false)
	task := func(id, script string) client.Task {
		return client.Task{ID: id, CPUs: 0.05, MemMB: 32, Command: &mesosv1.CommandInfo{Value: proto.String(script)}}
	}
	fw.start(t, task("ends", "sleep 4; exit 7"), task("stays", "sleep 100000"))

	f.tell("descriptors 8s isolated clusterd")
	f.sees("descriptors held, none is left")
	said := f.mark
	f.sees("too many open files), starts again", "descriptors given back", "isolated started")
	if _, err := f.console().Wait(t.Context(), said, "reap: "); err != nil {
		t.Errorf("nothing is said of the dead that wait: %v", err)
	}
	l, err := fw.Wait(within(t, toRun), "ends", client.Ended)
	if err != nil {
		t.Fatal(err)
	}
	if l.Status.GetState() != mesosv1.TaskState_TASK_FAILED || !strings.Contains(l.Status.GetMessage(), "exited with status 7") {
		t.Errorf("it ended as %s: %s", l.Status.GetState(), l.Status.GetMessage())
	}
	wantState(t, fw.runToEnd(t, task("after", "exit 0"))[0], mesosv1.TaskState_TASK_FINISHED)
	if l, err := fw.Wait(within(t, toRun), "stays", client.Running); err != nil || l.Status.GetState() != mesosv1.TaskState_TASK_RUNNING {
		t.Errorf("the task beside it: %v, %v", l.Status, err)
	}
	services, err := f.nodeAPI(f.m.Node).Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("descriptors ran out once; programs now: %+v", services)
	f.storm(fw, task)
}

// storm has count orphans die at PID 1 while isolated and noded are killed and a task
// ends: no status is taken from anybody.
func (f *faultyMachine) storm(fw *framework, task func(id, script string) client.Task) {
	t := f.t
	t.Helper()
	fw.start(t, task("in-the-storm", "sleep 3; exit 9"))
	f.tell(fmt.Sprintf("orphans %d isolated noded", orphansOfAStorm))
	line := f.sees("fault: storm of ", "fault: killed isolated", "isolated ended (signal: killed), starts again", "fault: storm ended with status 0, ")
	var reaped, of, left int
	var took float64
	_, facts, _ := strings.Cut(line.Text, "status 0, ")
	if _, err := fmt.Sscanf(facts, "%d reaped of %d, zombies left %d, in %f s", &reaped, &of, &left, &took); err != nil {
		t.Fatalf("%q: %v", line.Text, err)
	}
	if reaped < of || of != orphansOfAStorm || left != 0 {
		t.Errorf("%d of %d orphans were reaped, %d zombies are left", reaped, of, left)
	}
	l, err := fw.Wait(within(t, toRun), "in-the-storm", client.Ended)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(l.Status.GetMessage(), "exited with status 9") {
		t.Errorf("a task that ended meanwhile: %s: %s", l.Status.GetState(), l.Status.GetMessage())
	}
	t.Logf("%d orphans, %d reaped in %.1f s, %.0f µs each", of, reaped, took, took*1e6/float64(of))
}
