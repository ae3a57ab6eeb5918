package run

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// checkedOf is a launch of a task whose health check runs a command.
func checkedOf(t *testing.T, id, line string) *keeper.Launch {
	t.Helper()
	l := launchOf(id, line)
	info := &mesosv1.TaskInfo{}
	if err := proto.Unmarshal(l.GetTaskInfo(), info); err != nil {
		t.Fatal(err)
	}
	info.HealthCheck = &mesosv1.HealthCheck{Command: &mesosv1.CommandInfo{Value: proto.String("true")}}
	info.Command.Environment = &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{
		{Name: proto.String("MINE"), Value: proto.String("the task's")}, {Name: proto.String("BOTH"), Value: proto.String("the task's")},
	}}
	raw, err := proto.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	l.TaskInfo = raw
	return l
}

func commandProbe(t *testing.T, id string, timeout time.Duration, c *mesosv1.CommandInfo) *keeper.Probe {
	t.Helper()
	raw, err := proto.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return &keeper.Probe{ContainerId: id, TimeoutNs: int64(timeout), What: &keeper.Probe_Command{Command: raw}}
}

func line(s string) *mesosv1.CommandInfo { return &mesosv1.CommandInfo{Value: &s} }

// A command is run as the task is, tells its exit, and leaves nothing: neither output nor
// processes.
func TestProbeByCommand(t *testing.T) {
	h := newHouse(t)
	h.launch(checkedOf(t, "c", "exec sleep 100000"))
	c := h.until("c", running)
	ask := func(timeout time.Duration, command *mesosv1.CommandInfo) *keeper.Probed {
		t.Helper()
		out, f, err := h.k.Probe(t.Context(), commandProbe(t, "c", timeout, command))
		if err != nil || f != nil {
			t.Fatalf("%s: %v, %v", command.GetValue(), f, err)
		}
		return out
	}
	if got := ask(time.Minute, line("exit 7")); got.GetWhy() != "" || got.GetExitCode() != 7 {
		t.Errorf("exit 7: %v", got)
	}
	seen := line(`echo noise; echo noise >&2; printf '%s|%s|%s|%s' "$PWD" "$MINE" "$BOTH" "$OWN" > seen`)
	seen.Environment = &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{
		{Name: proto.String("BOTH"), Value: proto.String("the check's")}, {Name: proto.String("OWN"), Value: proto.String("yes")},
	}}
	if got := ask(time.Minute, seen); got.GetWhy() != "" || got.GetExitCode() != 0 {
		t.Errorf("what it sees: %v", got)
	}
	if got, want := h.output(c, "seen"), c.GetSandbox()+"|the task's|the check's|yes"; got != want {
		t.Errorf("it saw %q, want %q", got, want)
	}
	if out := h.output(c, "stdout") + h.output(c, "stderr"); out != "" {
		t.Errorf("its output is the task's: %q", out)
	}
	argv := &mesosv1.CommandInfo{Shell: proto.Bool(false), Value: proto.String("sh"), Arguments: []string{"sh", "-c", "exit 5"}}
	if got := ask(time.Minute, argv); got.GetExitCode() != 5 {
		t.Errorf("without a shell: %v", got)
	}
	missing := &mesosv1.CommandInfo{Shell: proto.Bool(false), Value: proto.String("no-such-program")}
	if got := ask(time.Minute, missing); !strings.Contains(got.GetWhy(), "no-such-program") {
		t.Errorf("no program: %v", got)
	}
	if got := ask(time.Minute, line("kill -9 $$")); !strings.Contains(got.GetWhy(), "signal killed") {
		t.Errorf("ended by a signal: %v", got)
	}
	if got := ask(time.Second, line("sleep 100000 & echo $! > left; wait")); !strings.Contains(got.GetWhy(), "not ended in time") {
		t.Errorf("too long: %v", got)
	}
	h.wantEnded(c)
	if got := ask(time.Minute, line("sleep 100000 & echo $! > left")); got.GetWhy() != "" || got.GetExitCode() != 0 {
		t.Errorf("one that leaves a process: %v", got)
	}
	h.wantEnded(c)

	h.close()
	h.open()
	h.until("c", running)
	if got := ask(time.Minute, line(`test "$MINE" = "the task's"`)); got.GetWhy() != "" || got.GetExitCode() != 0 {
		t.Errorf("by the keeper's successor: %v", got)
	}
}

// wantEnded fails the test unless the process whose number is in the sandbox's file left
// has ended.
func (h *house) wantEnded(c *keeper.Container) {
	h.t.Helper()
	pid := strings.TrimSpace(h.output(c, "left"))
	deadline := time.Now().Add(30 * time.Second)
	for {
		raw, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		if f := statFields(raw); err != nil || len(f) == 0 || f[0] == "Z" || f[0] == "X" {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("process %s of a probe goes on: %s", pid, raw)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// One probe at a time; a kill does not wait for it, and none begins after that.
func TestProbesOfOneContainer(t *testing.T) {
	h := newHouse(t)
	pipe := h.pipe("c")
	h.launch(checkedOf(t, "c", "exec sleep 100000"))
	h.until("c", running)
	ended := make(chan error, 1)
	go func() {
		out, _, err := h.k.Probe(t.Context(), commandProbe(t, "c", time.Minute, line("echo begun > pipe; sleep 100000")))
		if err == nil {
			err = errors.New(out.GetWhy())
		}
		ended <- err
	}()
	if raw, err := os.ReadFile(pipe); err != nil || string(raw) != "begun\n" {
		t.Fatalf("%q, %v", raw, err)
	}
	if _, _, err := h.k.Probe(t.Context(), commandProbe(t, "c", time.Minute, line("true"))); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second one: %v", err)
	}
	if err := h.k.Kill(&keeper.Kill{ContainerId: "c", GraceNs: int64(time.Hour), Term: 1}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the one under way ended with %v", err)
	}
	if c := h.until("c", gone); syscall.WaitStatus(c.GetWaitStatus()).Signal() != syscall.SIGTERM {
		t.Errorf("ended as %v", c)
	}
	if _, _, err := h.k.Probe(t.Context(), commandProbe(t, "c", time.Minute, line("true"))); !errors.Is(err, ErrNotFound) {
		t.Errorf("after the end: %v", err)
	}
}

func TestProbeByConnection(t *testing.T) {
	h := newHouse(t)
	h.launch(launchOf("c", "exec sleep 100000"))
	h.until("c", running)
	for _, network := range []string{"tcp4", "tcp6"} {
		address := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network]
		l, err := net.Listen(network, address)
		if err != nil {
			t.Logf("no %s on this machine: %v", network, err)
			continue
		}
		port := uint32(l.Addr().(*net.TCPAddr).Port)
		m := &keeper.Probe{ContainerId: "c", TimeoutNs: int64(time.Minute), What: &keeper.Probe_Connect{Connect: &keeper.Connect{Port: port, Ipv6: network == "tcp6"}}}
		out, f, err := h.k.Probe(t.Context(), m)
		if err != nil || f == nil || out.GetWhy() != "" {
			t.Fatalf("%s: %v, %v", network, out, err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := server.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		server.Close()
		conn, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := io.ReadAll(conn); err != nil || string(raw) != "hello" {
			t.Errorf("%s: read %q, %v", network, raw, err)
		}
		conn.Close()
		f.Close()
		l.Close()
		if out, f, err = h.k.Probe(t.Context(), m); err != nil || f != nil || !strings.Contains(out.GetWhy(), "connection refused") || !strings.Contains(out.GetWhy(), strconv.Itoa(int(port))) {
			t.Errorf("%s, nobody listens: %v, %v", network, out, err)
		}
	}
}

// A port that takes no more connections fails a probe at its time, not at the kernel's.
func TestConnectionThatIsNotTaken(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	at, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := at.(*syscall.SockaddrInet4).Port
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	for range 8 { // its backlog is full after the first ones
		f, err := connectIn(ctx, "", os.Geteuid(), port, false)
		if err != nil {
			if !strings.Contains(err.Error(), "no answer in time") {
				t.Error(err)
			}
			return
		}
		defer f.Close()
	}
	t.Error("all were taken")
}

// The socket belongs to the task's user, whoever keeps the task.
func TestSocketIsTheTasks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make what belongs to another")
	}
	fd, err := socketIn("", 12345, false)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 12345 {
		t.Errorf("it belongs to user %d", st.Uid)
	}
}

func TestProbesThatCannotBe(t *testing.T) {
	h := newHouse(t)
	h.launch(launchOf("c", "exec sleep 100000"))
	h.until("c", running)
	connect := func(port uint32) *keeper.Probe {
		return &keeper.Probe{ContainerId: "c", TimeoutNs: int64(time.Second), What: &keeper.Probe_Connect{Connect: &keeper.Connect{Port: port}}}
	}
	for name, m := range map[string]*keeper.Probe{
		"nothing":    {ContainerId: "c", TimeoutNs: int64(time.Second)},
		"no time":    {ContainerId: "c", What: connect(1).What},
		"port 0":     connect(0),
		"port 65536": connect(65536),
		"no command": commandProbe(t, "c", time.Second, &mesosv1.CommandInfo{}),
		"garbage":    {ContainerId: "c", TimeoutNs: int64(time.Second), What: &keeper.Probe_Command{Command: []byte{0xff}}},
	} {
		if _, _, err := h.k.Probe(t.Context(), m); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := h.k.Probe(t.Context(), &keeper.Probe{ContainerId: "other", TimeoutNs: 1}); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown container: %v", err)
	}
	for range maxProbes {
		h.k.probing <- struct{}{}
	}
	if _, _, err := h.k.Probe(t.Context(), connect(1)); err == nil || !strings.Contains(err.Error(), "under way on this node") {
		t.Errorf("one too many: %v", err)
	}
}
