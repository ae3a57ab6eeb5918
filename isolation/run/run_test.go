package run

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/imagestore"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/images"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "hold":
			Hold()
		case "pull":
			os.Exit(images.Main(os.Args[2:], os.Stdin, os.Stderr))
		}
	}
	os.Exit(m.Run())
}

// house is a keeper with plain processes in a directory of its own.
type house struct {
	t       *testing.T
	dir     string
	k       *Keeper
	stop    context.CancelFunc
	network Network // nil: tasks use the machine's
}

func newHouse(t *testing.T) *house {
	t.Helper()
	return newHouseIn(t, t.TempDir())
}

func newHouseIn(t *testing.T, dir string) *house {
	t.Helper()
	h := &house{t: t, dir: dir}
	h.open()
	t.Cleanup(func() {
		for _, c := range h.k.List() {
			_ = h.k.Kill(&keeper.Kill{ContainerId: c.GetContainerId(), Term: 1 << 40})
		}
		for _, c := range h.k.List() {
			h.until(c.GetContainerId(), gone)
		}
		h.close()
	})
	return h
}

func (h *house) open() {
	h.t.Helper()
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	store := filepath.Join(h.dir, "store")
	h.k, err = New(Config{
		Full:     func(string) bool { return false }, // however full this machine's disk is
		StateDir: filepath.Join(h.dir, "state"), WorkDir: filepath.Join(h.dir, "work"), StoreDir: store, Self: self, Pull: []string{self, "pull"},
		Runtime: Processes{Self: self, Store: imagestore.Store{Dir: store}}, Network: h.network, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	if err := h.k.Start(ctx); err != nil {
		h.t.Fatal(err)
	}
}

// close ends the keeper as a restart does: its processes go on.
func (h *house) close() {
	h.stop()
	h.k.Wait()
}

func launchOf(id, line string) *keeper.Launch {
	info, err := proto.Marshal(&mesosv1.TaskInfo{
		Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String("t")}, AgentId: &mesosv1.AgentID{Value: proto.String("S0")},
		Command: &mesosv1.CommandInfo{Value: proto.String(line)},
	})
	if err != nil {
		panic(err)
	}
	return &keeper.Launch{ContainerId: id, AgentId: "S0", FrameworkId: "F0", ExecutorId: "t", TaskId: "t", TaskInfo: info, Term: 1}
}

func gone(c *keeper.Container) bool {
	return c.GetPhase() == keeper.Container_ENDED || c.GetPhase() == keeper.Container_FAILED
}

func running(c *keeper.Container) bool { return c.GetPhase() == keeper.Container_RUNNING }

// until waits for a container to be as wanted.
func (h *house) until(id string, want func(*keeper.Container) bool) *keeper.Container {
	h.t.Helper()
	w := h.k.Watch()
	defer h.k.Unwatch(w)
	for _, c := range h.k.List() {
		if c.GetContainerId() == id && want(c) {
			return c
		}
	}
	deadline := time.After(60 * time.Second)
	for {
		select {
		case c := <-w.Events:
			if c.GetContainerId() == id && want(c) {
				return c
			}
		case <-deadline:
			h.t.Fatalf("container %s did not come to be as wanted: %v", id, h.k.List())
		}
	}
}

func (h *house) launch(l *keeper.Launch) {
	h.t.Helper()
	if err := h.k.Launch(l); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) output(c *keeper.Container, name string) string {
	h.t.Helper()
	f, _, err := h.k.OpenFile(filepath.Join(c.GetSandbox(), name))
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	raw, err := io.ReadAll(f)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(raw)
}

func TestTaskRunsAndEnds(t *testing.T) {
	h := newHouse(t)
	l := launchOf("c1", `echo out $MESOS_SANDBOX $A; echo err >&2; exit 7`)
	l.Env = []*keeper.Variable{{Name: "A", Value: "b"}}
	h.launch(l)
	c := h.until("c1", gone)
	if c.GetPhase() != keeper.Container_ENDED || syscall.WaitStatus(c.GetWaitStatus()).ExitStatus() != 7 {
		t.Fatalf("ended as %v", c)
	}
	if got, want := h.output(c, "stdout"), "out "+c.GetSandbox()+" b\n"; got != want {
		t.Errorf("stdout %q, want %q", got, want)
	}
	if got := h.output(c, "stderr"); got != "err\n" {
		t.Errorf("stderr %q", got)
	}
	h.launch(l) // again: nothing happens
	if got := h.output(c, "stdout"); strings.Count(got, "out") != 1 {
		t.Errorf("it ran again: %q", got)
	}
	files, err := h.k.ReadDir(filepath.Join(filepath.Dir(c.GetSandbox()), "latest"))
	if err != nil || len(files) != 2 {
		t.Errorf("files of latest: %v, %v", files, err)
	}
	if err := h.k.Forget([]string{"c1", "unknown"}); err != nil || len(h.k.List()) != 0 {
		t.Errorf("after forget: %v, %v", h.k.List(), err)
	}
}

func TestShortTasksLoseNoOutput(t *testing.T) {
	h := newHouse(t)
	for i := range 50 {
		h.launch(launchOf("c"+strconv.Itoa(i), "echo x; echo y >&2"))
	}
	for i := range 50 {
		c := h.until("c"+strconv.Itoa(i), gone)
		if out, errs := h.output(c, "stdout"), h.output(c, "stderr"); out != "x\n" || errs != "y\n" {
			t.Errorf("task %d said %q and %q", i, out, errs)
		}
	}
}

func TestKillWithGraceAndEscalation(t *testing.T) {
	h := newHouse(t)
	ready := map[string]string{"soft": h.pipe("soft"), "hard": h.pipe("hard")}
	h.launch(launchOf("soft", `trap 'echo bye; exit 0' TERM; echo ready > pipe; while :; do sleep 0.05; done`))
	h.launch(launchOf("hard", `trap '' TERM; echo ready > pipe; sleep 1000 & wait; wait; while :; do sleep 1; done`))
	for id, pipe := range ready {
		if raw, err := os.ReadFile(pipe); err != nil || string(raw) != "ready\n" {
			t.Fatalf("%s said %q, %v", id, raw, err)
		}
		h.until(id, running)
	}
	if err := h.k.Kill(&keeper.Kill{ContainerId: "soft", GraceNs: int64(time.Minute), Term: 1}); err != nil {
		t.Fatal(err)
	}
	if c := h.until("soft", gone); c.GetWaitStatus() != 0 || !c.GetKillRequested() || h.output(c, "stdout") != "bye\n" {
		t.Errorf("soft ended as %v", c)
	}
	for _, grace := range []time.Duration{time.Hour, 10 * time.Millisecond, time.Minute} {
		if err := h.k.Kill(&keeper.Kill{ContainerId: "hard", GraceNs: int64(grace), Term: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if c := h.until("hard", gone); syscall.WaitStatus(c.GetWaitStatus()).Signal() != syscall.SIGKILL {
		t.Errorf("hard ended as %v", c)
	}
}

func TestTombstoneAndOlderLeader(t *testing.T) {
	h := newHouse(t)
	if err := h.k.Kill(&keeper.Kill{ContainerId: "early", Term: 5}); err != nil {
		t.Fatal(err)
	}
	if err := h.k.Launch(launchOf("x", "true")); !errors.Is(err, ErrStale) {
		t.Errorf("launch of an older leader: %v", err)
	}
	h.close()
	h.open()
	l := launchOf("early", "true")
	l.Term = 5
	h.launch(l)
	if c := h.until("early", gone); c.GetFailure() != keeper.Container_KILLED_DURING_LAUNCH || c.GetTaskId() != "t" {
		t.Errorf("got %v", c)
	}
}

func TestBadTasks(t *testing.T) {
	h := newHouse(t)
	l := launchOf("nothing", "")
	info, err := proto.Marshal(&mesosv1.TaskInfo{Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String("t")}, AgentId: &mesosv1.AgentID{Value: proto.String("S0")}, Command: &mesosv1.CommandInfo{}})
	if err != nil {
		t.Fatal(err)
	}
	l.TaskInfo = info
	h.launch(l)
	if c := h.until("nothing", gone); c.GetFailure() != keeper.Container_INVALID_TASK || !strings.Contains(c.GetMessage(), "command.value") {
		t.Errorf("no command: %v", c)
	}
	l = launchOf("missing", "")
	l.TaskInfo, err = proto.Marshal(&mesosv1.TaskInfo{Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String("t")}, AgentId: &mesosv1.AgentID{Value: proto.String("S0")}, Command: &mesosv1.CommandInfo{Shell: proto.Bool(false), Value: proto.String("no-such-program")}})
	if err != nil {
		t.Fatal(err)
	}
	h.launch(l)
	if c := h.until("missing", gone); c.GetFailure() != keeper.Container_LAUNCH || !strings.Contains(c.GetMessage(), "no-such-program") {
		t.Errorf("no program: %v", c)
	}
	for _, id := range []string{"", "../x", "a/b", strings.Repeat("x", 200)} {
		if err := h.k.Launch(launchOf(id, "true")); !errors.Is(err, ErrInvalid) {
			t.Errorf("container id %q: %v", id, err)
		}
	}
	l = launchOf("ok", "true")
	l.FrameworkId = ".."
	if err := h.k.Launch(l); !errors.Is(err, ErrInvalid) {
		t.Errorf("framework id ..: %v", err)
	}
}

func TestKeeperReturns(t *testing.T) {
	h := newHouse(t)
	pipe := h.pipe("long")
	h.launch(launchOf("long", `echo a; until read x < pipe; do ls -l >&2; sleep 0.1; done; echo b $x; exit 3`))
	pid := h.until("long", running).GetPid()
	h.close()
	h.open()
	if c := h.until("long", running); c.GetPid() != pid {
		t.Fatalf("adopted as %v, was pid %d", c, pid)
	}
	f, err := os.OpenFile(pipe, os.O_WRONLY, 0) // opens when the task reads
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("x\n")
	f.Close()
	c := h.until("long", gone)
	if got := h.output(c, "stdout"); got != "a\nb x\n" {
		t.Errorf("output %q", got)
	}
}

// pipe makes a named pipe in the sandbox of a task to come.
func (h *house) pipe(id string) string {
	h.t.Helper()
	sandbox := sandboxPath(h.k.cfg.WorkDir, launchOf(id, ""))
	if err := os.MkdirAll(sandbox, 0o755); err != nil {
		h.t.Fatal(err)
	}
	path := filepath.Join(sandbox, "pipe")
	if err := syscall.Mkfifo(path, 0o666); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func TestPathsStayInTheSandbox(t *testing.T) {
	h := newHouse(t)
	h.launch(launchOf("c", `ln -s /etc/passwd out; ln -s ../../../../../../.. up; mkdir d; echo x > d/f; ln -s d/f in; mkfifo p`))
	c := h.until("c", gone)
	for path, want := range map[string]error{
		c.GetSandbox() + "/out": ErrDenied, c.GetSandbox() + "/up/etc/passwd": ErrDenied, c.GetSandbox() + "/none": ErrNotFound,
		c.GetSandbox() + "/d": ErrInvalid, c.GetSandbox() + "/p": ErrInvalid, "/etc/passwd": ErrNotFound, c.GetSandbox() + "/../../../../../../../../../etc/passwd": ErrNotFound,
		filepath.Join(h.dir, "work", "slaves", "S0"): ErrNotFound, "relative": ErrNotFound,
	} {
		if _, _, err := h.k.OpenFile(path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	if got := h.output(c, "in"); got != "x\n" {
		t.Errorf("link inside: %q", got)
	}
}

func TestOldSandboxesGo(t *testing.T) {
	h := newHouse(t)
	for _, id := range []string{"old", "new"} {
		h.launch(launchOf(id, `head -c 1000000 /dev/zero > big`))
		h.until(id, gone)
	}
	c := h.until("new", gone)
	past := time.Now().Add(-time.Hour)
	oldPath := filepath.Join(filepath.Dir(c.GetSandbox()), "old")
	for _, p := range []string{oldPath, oldPath + "/stdout"} {
		if err := os.Chtimes(p, past, past); err != nil {
			t.Fatal(err)
		}
	}
	h.k.collectBeyond(t.Context(), 1_500_000)
	if _, err := os.Stat(oldPath); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the older sandbox is still there: %v", err)
	}
	if _, err := os.Stat(c.GetSandbox()); err != nil {
		t.Error(err)
	}
}

// image puts an image into the store, with empty layers.
func (h *house) image(ref string, pulled int64, layers ...string) {
	h.t.Helper()
	s := h.k.images
	for _, dir := range append([]string{s.Images()}, layers...) {
		if dir != s.Images() {
			dir = s.Layer(dir)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	raw, err := json.Marshal(imagestore.Image{Format: imagestore.Format, Reference: ref, Layers: layers, PulledAt: pulled})
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(s.ImageFile(ref), raw, 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func TestUnusedImagesGo(t *testing.T) {
	h := newHouse(t)
	s := h.k.images
	layer := func(c string) string { return "sha256-" + strings.Repeat(c, 64) }
	for i, ref := range []string{"old", "shared", "used"} {
		layers := []string{layer("a"), layer(string(rune('b' + i)))}
		if ref == "old" {
			layers = layers[1:]
		}
		h.image(ref, int64(i), layers...)
	}
	h.launch(launchOf("c", "sleep 1000"))
	h.until("c", running)
	c := h.k.containers["c"]
	c.mu.Lock()
	c.rec.Layers = []string{layer("d")}
	c.mu.Unlock()
	if err := h.k.collectImages(func() bool { return true }); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]bool{"old": false, "shared": false, "used": true} {
		if _, err := s.Find(ref); (err == nil) != want {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if left, err := os.ReadDir(s.Layers()); err != nil || len(left) != 2 {
		t.Errorf("layers left: %v, %v", left, err)
	}
}
