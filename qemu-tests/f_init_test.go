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

// roomForRecords is memory, in MiB, of a machine whose boots tell of each other. The next
// kernel is placed anywhere, and the less there is the sooner on what the last one left.
const roomForRecords = 1024

func newFaultyMachine(t *testing.T, name, argument string) *faultyMachine {
	t.Helper()
	apart(t, 1)
	stopwatch(t)
	img, err := faulty()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, options{file: fmt.Sprintf(faultyFile, name), image: img, memoryMB: roomForRecords, spoil: func(r *cluster.Rendered) {
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
	return f.seesIn(toElect, texts...)
}

// seesIn waits for so many boots for each.
func (f *faultyMachine) seesIn(boots int, texts ...string) vm.Line {
	f.t.Helper()
	var line vm.Line
	for _, text := range texts {
		var err error
		if line, err = f.console().Wait(within(f.t, boots), f.mark, text); err != nil {
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
	apart(t, 1)
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
