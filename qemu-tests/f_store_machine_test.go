//go:build vm

package qemutests

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mesolith/mesolith/image/cpio"
	"github.com/mesolith/mesolith/image/modules"
	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// The test program of clusterd/replica is the first program of these machines; see
// diskprobe_test.go there.

// diskModules are what a disk of QEMU with ext4 needs; it finds its checksums by a name that
// only a program in user space could resolve.
var diskModules = []string{"virtio_blk", "crc32c_generic", "ext4"}

var probeArchive = sync.OnceValues(makeProbeArchive)

func makeProbeArchive() (string, error) {
	program := filepath.Join(theLab.dir, "replica.test")
	cmd := exec.Command("go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", program, "../clusterd/replica")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program that writes: %w\n%s", err, said)
	}
	body, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	a := cpio.New()
	a.Device("dev/console", 0o600, 5, 1)
	a.File("init", 0o755, body)
	if err := addModules(a); err != nil {
		return "", err
	}
	var raw bytes.Buffer
	if _, err := a.WriteTo(&raw); err != nil {
		return "", err
	}
	file := filepath.Join(theLab.dir, "replica.initramfs")
	return file, os.WriteFile(file, raw.Bytes(), 0o600)
}

// addModules takes them from the image's kernel, in the order to load them in.
func addModules(a *cpio.Archive) error {
	trees, err := filepath.Glob(filepath.Join("..", "build", "cache", "kernel-*", "modules", "*"))
	if err != nil || len(trees) != 1 {
		return fmt.Errorf("%d module trees in build/cache, want one: run make image", len(trees))
	}
	tree, err := modules.Open(os.DirFS(trees[0]), nil)
	if err != nil {
		return err
	}
	chosen, err := tree.Closure(diskModules)
	if err != nil {
		return err
	}
	var order strings.Builder
	done := map[string]bool{}
	var add func(name string)
	add = func(name string) {
		m, ok := chosen[name]
		if !ok || done[name] {
			return
		}
		done[name] = true
		for _, d := range m.Depends {
			add(d)
		}
		a.File("modules/"+name+".ko", 0o644, m.Unpacked)
		fmt.Fprintf(&order, "%s.ko\n", name)
	}
	for _, name := range slices.Sorted(maps.Keys(chosen)) { // soft dependencies too
		add(name)
	}
	a.File("modules/order", 0o644, []byte(order.String()))
	return nil
}

// medium is a disk's content, with a file system, that machines come and go on.
type medium struct {
	t     *testing.T
	image string
	dir   string
	disk  *vm.BadDisk
}

func newMedium(t *testing.T, megabytes int) *medium {
	t.Helper()
	dir, err := os.MkdirTemp(theLab.dir, "disk-")
	if err != nil {
		t.Fatal(err)
	}
	m := &medium{t: t, dir: dir, image: filepath.Join(dir, "medium")}
	t.Cleanup(func() {
		m.remove()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(m.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(m.image, int64(megabytes)<<20); err != nil {
		t.Fatal(err)
	}
	if said, err := exec.Command("mkfs.ext4", "-q", "-F", m.image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, said)
	}
	return m
}

// insert makes a disk of the medium, with the faults that it shall have.
func (m *medium) insert(cfg vm.BadDiskConfig) *vm.BadDisk {
	m.t.Helper()
	cfg.Dir, cfg.Image = filepath.Join(m.dir, "server"), m.image
	disk, err := vm.StartBadDisk(within(m.t, 10), cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	m.disk = disk
	return disk
}

func (m *medium) remove() {
	if m.disk != nil {
		m.disk.Close()
		m.disk = nil
	}
}

// writer is a machine that writes to its disks and says so.
type writer struct {
	*vm.VM
	t    *testing.T
	seen int // lines of the console that were taken
}

// startWriter boots one; verb is what the program shall do.
func startWriter(t *testing.T, disks []*vm.BadDisk, verb ...string) *writer {
	t.Helper()
	archive, err := probeArchive()
	if err != nil {
		t.Fatal(err)
	}
	cfg := vm.Config{
		Name: "writer", Dir: filepath.Join(t.TempDir(), "vm"), Kernel: theLab.image.Kernel, Initramfs: archive,
		Cmdline: "console=ttyS0 quiet panic=-1 cryptomgr.notests rootfstype=ramfs -- " + strings.Join(verb, " "),
		Accel:   theLab.accel, MemoryMB: 384,
	}
	for i, d := range disks {
		cfg.Disks = append(cfg.Disks, d.Disk(strconv.Itoa(i)))
	}
	v, err := vm.Start(within(t, 10), cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &writer{VM: v, t: t}
	t.Cleanup(w.Kill)
	return w
}

// wait gives the next line that begins with a word.
func (w *writer) wait(ctx context.Context, word string) string {
	w.t.Helper()
	line := w.waitAny(ctx, word, "probe: ")
	if !strings.HasPrefix(line, word) {
		w.t.Fatalf("waiting for %q: %s", word, w.Console.Tail(30))
	}
	return line
}

// waitAny gives the next line that begins with one of these.
func (w *writer) waitAny(ctx context.Context, words ...string) string {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, l := range w.Console.Lines(w.seen) {
			w.seen++
			if slices.ContainsFunc(words, func(word string) bool { return strings.HasPrefix(l.Text, word) }) {
				return l.Text
			}
			if strings.HasPrefix(l.Text, "panic: ") || strings.Contains(l.Text, "Kernel panic") {
				w.t.Fatalf("waiting for %q: %s", words, w.Console.Tail(30))
			}
		}
		select {
		case <-ctx.Done():
			w.t.Fatalf("waiting for %q: %v\n%s", words, ctx.Err(), w.Console.Tail(30))
		case <-tick.C:
		}
	}
}

var numberAfter = regexp.MustCompile(`([a-z/]+) (-?[0-9]+)`)

// numbers are the words of a line that a number follows.
func numbers(line string) map[string]int {
	out := map[string]int{}
	for _, m := range numberAfter.FindAllStringSubmatch(line, -1) {
		n, err := strconv.Atoi(m[2])
		if err == nil {
			out[m[1]] = n
		}
	}
	return out
}

// told is the greatest number that a machine has said after a word.
func (w *writer) told(word string) int {
	most := 0
	for _, l := range w.Console.Lines(0) {
		if rest, ok := strings.CutPrefix(l.Text, word+" "); ok {
			if n, err := strconv.Atoi(strings.TrimSpace(rest)); err == nil {
				most = max(most, n)
			}
		}
	}
	return most
}

// acknowledged waits until so many more are.
func (w *writer) acknowledged(ctx context.Context, more int) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for from := w.told("ack"); from == 0 || w.told("ack") < from+more; {
		if from == 0 {
			from = w.told("ack") // the first one counts what was there before
		}
		select {
		case <-w.Done():
			w.t.Fatalf("the machine ended: %s", w.Console.Tail(10))
		case <-ctx.Done():
			w.t.Fatalf("%d entries in all are acknowledged, and no more came:\n%s", w.told("ack"), w.Console.Tail(10))
		case <-tick.C:
		}
	}
}
