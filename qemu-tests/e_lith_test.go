//go:build vm

package qemutests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// lith runs the operator's tool as an ordinary user, also where the test is root.
type lith struct {
	program, dir, home string
}

func buildLith(t *testing.T) *lith {
	t.Helper()
	home, err := os.MkdirTemp("", "lith-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	l := &lith{program: filepath.Join(home, "lith"), dir: filepath.Join(home, "cluster"), home: home}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", l.program, "../cmd/lith")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build lith: %v\n%s", err, said)
	}
	// The image may lie where only root can read.
	for _, dir := range []string{"image", "qemu"} {
		if err := os.CopyFS(filepath.Join(home, "build", dir), os.DirFS(filepath.Join("..", "build", dir))); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getuid() == 0 {
		err := filepath.WalkDir(home, func(path string, _ os.DirEntry, err error) error {
			return errors.Join(err, os.Chown(path, nobody, nobody))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// usualDoor is this host's port 5050, which the first cluster takes that a test makes with lith.
var usualDoor sync.Mutex

// nobody is a user without privileges on every Linux.
const nobody = 65534

func (l *lith) run(t *testing.T, boots int, args ...string) (string, error) {
	t.Helper()
	return l.runIn(within(t, boots), args...)
}

// end is down at a test's end, when the test's own context has ended.
func (l *lith) end(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if out, err := l.runIn(ctx, "down"); err != nil {
		t.Errorf("down: %v\n%s", err, out)
	}
}

func (l *lith) runIn(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, l.program, args...)
	cmd.Dir = l.home
	cmd.Env = append(os.Environ(), "HOME="+l.home, "XDG_CACHE_HOME="+l.home, "LITH_CLUSTER="+l.dir)
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// processes are the cluster's as `lith up` has noted them.
func (l *lith) processes(t *testing.T) (supervisor vm.Process, machines map[string]vm.Process) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(l.dir, "supervisor.json"))
	if err != nil {
		t.Fatal(err)
	}
	var note struct {
		Supervisor vm.Process
		Machines   map[string]vm.Process
	}
	if err := json.Unmarshal(raw, &note); err != nil {
		t.Fatal(err)
	}
	return note.Supervisor, note.Machines
}

// An ordinary user starts a cluster, looks at it and ends it; nothing is left behind, also
// when the supervisor is killed in between.
func TestUpAndDownAsAnOrdinaryUser(t *testing.T) {
	apart(t, 1)
	usualDoor.Lock()
	defer usualDoor.Unlock()
	stopwatch(t)
	l := buildLith(t)
	up := func() {
		t.Helper()
		out, err := l.run(t, 2*toElect, "up", "--nodes", "1", "--offline")
		t.Log(out)
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { l.end(t) })
	up()
	if out, err := l.run(t, toRun, "up"); err == nil || !strings.Contains(out, "runs in") {
		t.Errorf("a second up in the same directory: %v\n%s", err, out)
	}
	raw, err := l.run(t, toRun, "status", "--json")
	if err != nil {
		t.Fatalf("status: %v\n%s", err, raw)
	}
	var status struct {
		Leader string
		Nodes  []struct{ Name, State string }
	}
	if err := json.Unmarshal([]byte(raw), &status); err != nil {
		t.Fatalf("status: %v\n%s", err, raw)
	}
	if status.Leader != "n1" || len(status.Nodes) != 1 || status.Nodes[0].State != "ready" {
		t.Errorf("status %+v", status)
	}
	out, err := l.run(t, toRun, "doctor")
	if fmt.Println(out); err != nil || !strings.Contains(out, "nothing is wrong") || !strings.Contains(out, "n1 leads") {
		t.Errorf("doctor: %v", err)
	}

	supervisor, machines := l.processes(t)
	if err := supervisor.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for name, p := range machines {
		eventually(t, within(t, toRun), func() error {
			if p.Alive() {
				return errors.New(name + " outlived its supervisor")
			}
			return nil
		})
	}
	if out, err := l.run(t, toRun, "status"); err == nil || !strings.Contains(out, "does not run any more") {
		t.Errorf("status of a cluster that has died: %v\n%s", err, out)
	}
	up()
	supervisor, machines = l.processes(t)
	if out, err := l.run(t, toElect, "down"); err != nil {
		t.Fatalf("down: %v\n%s", err, out)
	}
	machines["supervisor"] = supervisor
	for name, p := range machines {
		if p.Alive() {
			t.Errorf("%s outlived down", name)
		}
	}
	if _, err := os.Stat(l.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is left behind: %v", err)
	}
}

// Two clusters run side by side, each in a directory of its own: the first one has the
// usual address, commands reach the one that is meant, and the end of one is not the
// other's. The second one is from a file that `lith init` has made, closed by default:
// the operator's certificate opens it to every command.
func TestTwoClustersSideBySide(t *testing.T) {
	apart(t, 2)
	usualDoor.Lock()
	defer usualDoor.Unlock()
	stopwatch(t)
	first := buildLith(t)
	second := *first
	second.dir = filepath.Join(first.home, "second")
	usual := free("127.0.0.1:5050")
	file := closedByInit(t, first)
	for _, c := range []struct {
		l    *lith
		args []string
	}{{first, []string{"up", "--nodes", "1"}}, {&second, []string{"up", "--offline", "-f", file}}} {
		if out, err := c.l.run(t, 2*toElect, c.args...); err != nil {
			t.Fatalf("up: %v\n%s", err, out)
		}
		t.Cleanup(func() { c.l.end(t) })
	}
	if at, other := first.api(t), second.api(t); usual && at != "127.0.0.1:5050" || at == other {
		t.Errorf("the first cluster answers at %s, the second one at %s", at, other)
	}
	for _, l := range []*lith{first, &second} {
		out, err := l.run(t, toRun, "run", "base", "--name", filepath.Base(l.dir), "--shell", "--", "echo $((6*7)); exit 9")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 9 || !strings.Contains(out, "42\n") {
			t.Errorf("run: %v\n%s", err, out)
		}
	}
	if out, err := first.run(t, toElect, "down"); err != nil {
		t.Fatalf("down: %v\n%s", err, out)
	}
	out, err := second.run(t, toRun, "tasks", "--json")
	if err != nil || strings.Count(out, `"id"`) != 1 || !strings.Contains(out, `"second-`) {
		t.Errorf("tasks of the second cluster, after the end of the first one: %v\n%s", err, out)
	}
}

// closedByInit is a cluster file that `lith init` has made.
func closedByInit(t *testing.T, l *lith) string {
	t.Helper()
	file := filepath.Join(l.home, "second.yaml")
	if out, err := l.run(t, toRun, "init", "second", "--mac", "52:54:00:00:00:01", "-f", file); err != nil {
		t.Fatalf("init: %v\n%s", err, out)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("defaults: { time: { servers: [dhcp], wait: 1s } } # there is no Internet here\n")
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return file
}

// free reports whether an address can be listened on.
func free(at string) bool {
	ln, err := net.Listen("tcp", at)
	if err != nil {
		return false
	}
	ln.Close()
	return true
}

// api is where `lith up` has opened the cluster's API.
func (l *lith) api(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(l.dir, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state struct {
		Doors struct{ API string }
	}
	if err := json.Unmarshal(raw, &state); err != nil {
		t.Fatal(err)
	}
	return state.Doors.API
}
