package run

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/records"
)

// nestedIn words a launch inside of a parent, as clusterd asks for it.
func nestedIn(parent, name string, command *mesosv1.CommandInfo) *keeper.Launch {
	raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.TaskInfo{Command: command})
	if err != nil {
		panic(err)
	}
	return &keeper.Launch{ContainerId: parent + "." + name, Parent: parent, Nested: true, TaskInfo: raw}
}

// runs says whether a process has not ended; a child that nobody waited for has.
func runs(pid int32) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	f := statFields(raw)
	return err == nil && len(f) > 0 && f[0] != "Z"
}

func (h *house) knows(id string) bool {
	for _, c := range h.k.List() {
		if c.GetContainerId() == id {
			return true
		}
	}
	return false
}

func (h *house) eventually(what string, is func() bool) {
	h.t.Helper()
	for range 500 {
		if is() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	h.t.Fatalf("not within 10 s: %s", what)
}

// A nested container has its parent's environment and its own, writes where Mesos' layout
// shows it, is told with its wait status, and is remembered until it is removed.
func TestNestedContainer(t *testing.T) {
	h := newHouse(t)
	parent := launchOf("p1", "sleep 100")
	parent.Env = []*keeper.Variable{{Name: "OF_PARENT", Value: "there"}}
	h.launch(parent)
	h.until("p1", running)
	command := line("echo $OF_PARENT $OWN; pwd; exit 7")
	command.Environment = &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{{Name: proto.String("OWN"), Value: proto.String("too")}}}
	h.launch(nestedIn("p1", "n1", command))
	c := h.until("p1.n1", gone)
	if !c.GetNested() || c.GetParent() != "p1" || syscall.WaitStatus(c.GetWaitStatus()).ExitStatus() != 7 || c.GetPhase() != keeper.Container_ENDED {
		t.Errorf("told as %v", c)
	}
	sandbox := filepath.Join(h.dir, "work/slaves/S0/frameworks/F0/executors/t/runs/p1")
	f, _, err := h.k.OpenFile(filepath.Join(sandbox, "containers/n1/stdout"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, err := io.ReadAll(f)
	if err != nil || string(out) != "there too\n"+sandbox+"\n" {
		t.Errorf("its output: %q %v", out, err)
	}
	if err := h.k.Launch(nestedIn("p1", "n1", line("true"))); !errors.Is(err, ErrExists) {
		t.Errorf("the same name again: %v", err)
	}
	if err := h.k.Remove("p1.n1"); err != nil || h.knows("p1.n1") {
		t.Errorf("removed: %v, known: %v", err, h.knows("p1.n1"))
	}
	if _, _, err := h.k.OpenFile(filepath.Join(sandbox, "containers/n1/stdout")); !errors.Is(err, ErrNotFound) {
		t.Errorf("its output after that: %v", err)
	}
	if err := h.k.Remove("p1.n1"); err != nil {
		t.Errorf("removed again: %v", err)
	}
}

// What cannot be nested is refused by what is wrong with it, and nothing is remembered.
func TestNestedContainerIsRefused(t *testing.T) {
	h := newHouse(t)
	h.launch(launchOf("p1", "sleep 100"))
	h.until("p1", running)
	h.launch(nestedIn("p1", "n1", line("sleep 100")))
	h.until("p1.n1", running)
	other := line("true")
	other.User = proto.String("somebody")
	fetching := line("true")
	fetching.Uris = []*mesosv1.CommandInfo_URI{{Value: proto.String("http://x/y")}}
	session := nestedIn("p1", "n2", line("true"))
	session.Session = true
	stray := nestedIn("p1", "n2", line("true"))
	stray.ContainerId = "n2"
	before := len(h.k.List())
	for want, l := range map[string]*keeper.Launch{
		"is not known here":       nestedIn("p2", "n2", line("true")),
		"is nested itself":        nestedIn("p1.n1", "n2", line("true")),
		"letters, digits":         nestedIn("p1", "n.2", line("true")),
		"the id of a nested":      stray,
		"command.user":            nestedIn("p1", "n2", other),
		"command.uris":            nestedIn("p1", "n2", fetching),
		"set command.value":       nestedIn("p1", "n2", nil),
		"one that debugs":         session,
		"at most 127 characters ": nestedIn("p1", strings.Repeat("n", 126), line("true")),
	} {
		if err := h.k.Launch(l); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := h.k.Remove("p1.n1"); err == nil {
		t.Error("one that runs is removed")
	}
	if err := h.k.Signal(&keeper.Signal{ContainerId: "p1", Signal: 9}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a task is signalled: %v", err)
	}
	if err := h.k.Signal(&keeper.Signal{ContainerId: "p1.n1", Signal: 65}); !errors.Is(err, ErrInvalid) {
		t.Errorf("signal 65: %v", err)
	}
	if now := len(h.k.List()); now != before {
		t.Errorf("%d containers became %d", before, now)
	}
}

// A signal reaches the program, SIGKILL ends all of it.
func TestNestedContainerIsSignalled(t *testing.T) {
	h := newHouse(t)
	h.launch(launchOf("p1", "sleep 100"))
	h.until("p1", running)
	mark := filepath.Join(h.dir, "mark")
	h.launch(nestedIn("p1", "n1", line("trap 'exit 3' USR1; touch "+mark+"; while :; do sleep 0.05; done")))
	h.until("p1.n1", running)
	h.eventually("the trap", func() bool { _, err := os.Stat(mark); return err == nil })
	if err := h.k.Signal(&keeper.Signal{ContainerId: "p1.n1", Signal: int32(syscall.SIGUSR1)}); err != nil {
		t.Fatal(err)
	}
	if c := h.until("p1.n1", gone); syscall.WaitStatus(c.GetWaitStatus()).ExitStatus() != 3 {
		t.Errorf("after SIGUSR1 %v", c)
	}
	h.launch(nestedIn("p1", "n2", line("trap '' TERM; while :; do sleep 0.05; done")))
	h.until("p1.n2", running)
	if err := h.k.Signal(&keeper.Signal{ContainerId: "p1.n2", Signal: int32(syscall.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	if c := h.until("p1.n2", gone); c.GetWaitStatus() != uint32(syscall.SIGKILL) {
		t.Errorf("after SIGKILL %v", c)
	}
}

// A nested container goes on while isolated is away, ends with its parent, and is forgotten
// with it.
func TestNestedContainerEndsWithItsParent(t *testing.T) {
	h := newHouse(t)
	h.launch(launchOf("p1", "sleep 100"))
	h.until("p1", running)
	h.launch(nestedIn("p1", "n1", line("sleep 100")))
	pid := h.until("p1.n1", running).GetPid()
	h.close()
	h.open()
	if c := h.until("p1.n1", running); c.GetPid() != pid || !c.GetNested() {
		t.Fatalf("after a restart %v, it was process %d", c, pid)
	}
	if err := h.k.Kill(&keeper.Kill{ContainerId: "p1", Term: 2}); err != nil {
		t.Fatal(err)
	}
	h.until("p1", gone)
	h.until("p1.n1", gone)
	if runs(pid) {
		t.Errorf("process %d is still there", pid)
	}
	if err := h.k.Forget([]string{"p1"}); err != nil || h.knows("p1.n1") {
		t.Errorf("forgotten with its parent: %v, known: %v", err, h.knows("p1.n1"))
	}
}

// Of a parent's many nested containers the oldest that ended is forgotten, none that runs.
func TestNestedContainersAreBounded(t *testing.T) {
	h := newHouse(t)
	h.launch(launchOf("p1", "sleep 100"))
	h.until("p1", running)
	h.k.mu.Lock()
	defer h.k.mu.Unlock()
	for i := range maxNested {
		id := "p1.n" + string(rune('a'+i/26)) + string(rune('a'+i%26))
		step := records.Done
		if i%2 == 0 {
			step = records.Exec
		}
		h.k.containers[id] = &container{wake: make(chan struct{}, 1), rec: records.Record{Step: step, Container: &keeper.Container{
			ContainerId: id, Nested: true, Parent: "p1", EndedUnixNs: int64(1000 - i),
		}}}
	}
	for range maxNested / 2 {
		if err := h.k.makeRoom("p1"); err != nil {
			t.Fatal(err)
		}
		h.k.containers["p1.x"+string(rune(len(h.k.containers)))] = nil
		for id, c := range h.k.containers {
			if c == nil {
				delete(h.k.containers, id)
			}
		}
		h.k.containers["p1.y"+time.Now().Format("150405.000000000")] = &container{rec: records.Record{Step: records.Exec, Container: &keeper.Container{Nested: true, Parent: "p1"}}}
	}
	if err := h.k.makeRoom("p1"); !errors.Is(err, ErrInvalid) {
		t.Errorf("with %d that run: %v", maxNested, err)
	}
	for id, c := range h.k.containers {
		if id != "p1" && c.rec.Container.GetNested() {
			delete(h.k.containers, id)
		}
	}
}

func debugIn(parent, name, text string) *keeper.Launch {
	l := nestedIn(parent, name, line(text))
	l.Debug, l.Session = true, true
	return l
}

func (h *house) end(id string, s keeper.Attach_Stream) *os.File {
	h.t.Helper()
	f, err := h.k.Attach(&keeper.Attach{ContainerId: id, Stream: s})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { f.Close() })
	return f
}

// A session's streams are handed over once, also after its end; the end of its input is
// seen inside.
func TestSession(t *testing.T) {
	h := newHouse(t)
	h.launch(launchOf("p1", "sleep 100"))
	h.until("p1", running)
	h.launch(debugIn("p1", "s1", "cat; echo over >&2; exit 4"))
	h.until("p1.s1", running)
	in := h.end("p1.s1", keeper.Attach_STDIN)
	if _, err := h.k.Attach(&keeper.Attach{ContainerId: "p1.s1", Stream: keeper.Attach_STDIN}); !errors.Is(err, ErrInvalid) {
		t.Errorf("its input is had twice: %v", err)
	}
	if _, err := io.WriteString(in, "said\n"); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if c := h.until("p1.s1", gone); syscall.WaitStatus(c.GetWaitStatus()).ExitStatus() != 4 {
		t.Errorf("ended as %v", c)
	}
	for s, want := range map[keeper.Attach_Stream]string{keeper.Attach_STDOUT: "said\n", keeper.Attach_STDERR: "over\n"} {
		if out, err := io.ReadAll(h.end("p1.s1", s)); err != nil || string(out) != want {
			t.Errorf("%s: %q %v", s, out, err)
		}
	}
	for id, want := range map[string]error{"p1": ErrNotFound, "p1.none": ErrNotFound} {
		if _, err := h.k.Attach(&keeper.Attach{ContainerId: id}); !errors.Is(err, want) {
			t.Errorf("streams of %s: %v", id, err)
		}
	}
}

// A session ends when whoever launched it is gone, and when isolated is.
func TestSessionEndsWithItsLauncher(t *testing.T) {
	h := newHouse(t)
	h.launch(launchOf("p1", "sleep 100"))
	h.until("p1", running)
	h.launch(debugIn("p1", "s1", "trap '' TERM HUP; while :; do sleep 0.05; done"))
	h.until("p1.s1", running)
	h.k.EndSession("p1.s1")
	if c := h.until("p1.s1", gone); c.GetWaitStatus() != uint32(syscall.SIGKILL) {
		t.Errorf("ended as %v", c)
	}
	h.launch(debugIn("p1", "s2", "sleep 100"))
	pid := h.until("p1.s2", running).GetPid()
	h.close()
	h.open()
	h.until("p1.s2", gone)
	if runs(pid) {
		t.Errorf("process %d is still there", pid)
	}
	h.until("p1", running)
}

// A session with a terminal has it as its controlling one, of the size that was asked for.
func TestSessionWithTerminal(t *testing.T) {
	h := newHouse(t)
	h.launch(launchOf("p1", "sleep 100"))
	h.until("p1", running)
	l := debugIn("p1", "s1", "tty >/dev/null && stty size; read x </dev/tty; echo got $x")
	l.Terminal = &keeper.Terminal{Rows: 11, Columns: 47}
	h.launch(l)
	h.until("p1.s1", running)
	f := h.end("p1.s1", keeper.Attach_STDOUT)
	r := bufio.NewReader(f)
	if got, err := r.ReadString('\n'); err != nil || got != "11 47\r\n" {
		t.Errorf("its size: %q %v", got, err)
	}
	if _, err := io.WriteString(f, "this\n"); err != nil {
		t.Fatal(err)
	}
	var said string
	for !strings.Contains(said, "got this") {
		got, err := r.ReadString('\n')
		if said += got; err != nil {
			t.Fatalf("%q: %v", said, err)
		}
	}
	h.until("p1.s1", gone)
}
