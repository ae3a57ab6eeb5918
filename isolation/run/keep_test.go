package run

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/spec"
)

// A status is known before the process is reaped, in wait4's own words: a keeper that dies
// in between leaves a zombie for PID 1, and no status is lost.
func TestEndIsSeenBeforeItIsReaped(t *testing.T) {
	for _, line := range []string{"exit 0", "exit 7", "exit 255", "kill -TERM $$", "kill -KILL $$", "kill -SEGV $$"} {
		cmd := exec.Command("/bin/sh", "-c", line)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		got, err := peekEnd(t.Context(), cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if !alive(&Process{PID: cmd.Process.Pid, StartTime: mustStart(t, cmd.Process.Pid)}) {
			t.Errorf("%s: it is reaped already", line)
		}
		state, err := cmd.Process.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if want := state.Sys().(syscall.WaitStatus); syscall.WaitStatus(got) != want {
			t.Errorf("%s: %#x, want %#x", line, got, want)
		}
	}
	if _, err := peekEnd(t.Context(), os.Getpid()); err == nil {
		t.Error("a process that is no child has a status")
	}
}

// Nobody waits for ever for a process that goes on.
func TestWatchingEndsWithItsContext(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		cmd.Wait()
	}()
	pid := cmd.Process.Pid
	for name, watch := range map[string]func(context.Context) error{
		"child":    func(ctx context.Context) error { _, err := peekEnd(ctx, pid); return err },
		"stranger": func(ctx context.Context) error { return waitGone(ctx, pid, mustStart(t, pid)) },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- watch(ctx) }()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// One who is not our child is noticed too, and what had the number before is gone.
func TestStrangersEndIsSeen(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "read line")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid, start := cmd.Process.Pid, mustStart(t, cmd.Process.Pid)
	if err := waitGone(t.Context(), pid, start+1); err != nil {
		t.Error(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- waitGone(t.Context(), pid, start) }()
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	cmd.Wait()
	if err := waitGone(t.Context(), pid, start); err != nil {
		t.Error(err)
	}
}

func mustStart(t *testing.T, pid int) uint64 {
	t.Helper()
	at, err := startTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// A kill's grace is the one that was asked for, also when another keeper counts it.
func TestGraceSurvivesTheKeeper(t *testing.T) {
	h := newHouse(t)
	pipe := h.pipe("slow")
	h.launch(launchOf("slow", `trap 'echo asked' TERM; echo ready > pipe; while :; do sleep 0.05; done`))
	if raw, err := os.ReadFile(pipe); err != nil || string(raw) != "ready\n" {
		t.Fatalf("%q, %v", raw, err)
	}
	h.until("slow", running)
	if err := h.k.Kill(&keeper.Kill{ContainerId: "slow", GraceNs: int64(time.Hour), Term: 1}); err != nil {
		t.Fatal(err)
	}
	before := h.until("slow", func(c *keeper.Container) bool { return c.GetKillRequested() }).GetSequence()
	h.close()
	h.open()
	h.until("slow", func(c *keeper.Container) bool { return running(c) && c.GetSequence() >= before+1<<16 }) // it is adopted
	c := h.k.containers["slow"]
	c.mu.Lock()
	left, killed := time.Until(c.deadline), c.killed
	c.mu.Unlock()
	if !killed || left < 30*time.Minute {
		t.Errorf("%s are left of an hour (killed: %t)", left, killed)
	}
}

func TestPortMappings(t *testing.T) {
	container := func(maps ...*mesosv1.NetworkInfo_PortMapping) *mesosv1.ContainerInfo {
		return &mesosv1.ContainerInfo{NetworkInfos: []*mesosv1.NetworkInfo{{PortMappings: maps}}}
	}
	m := func(host, inside uint32, protocol string) *mesosv1.NetworkInfo_PortMapping {
		out := &mesosv1.NetworkInfo_PortMapping{HostPort: proto.Uint32(host), ContainerPort: proto.Uint32(inside)}
		if protocol != "" {
			out.Protocol = proto.String(protocol)
		}
		return out
	}
	launch := &keeper.Launch{Ports: []*keeper.PortRange{{Begin: 31000, End: 31001}, {Begin: 65535, End: 65540}}}
	for name, c := range map[string]struct {
		container *mesosv1.ContainerInfo
		want      int // mappings; -1: refused
		says      string
	}{
		"one to one":              {nil, 6, ""},
		"both protocols":          {container(m(31000, 80, "")), 2, ""},
		"one protocol":            {container(m(31000, 80, "TCP"), m(31001, 53, "udp")), 2, ""},
		"another task's port":     {container(m(31002, 80, "tcp")), -1, "host_port 31002"},
		"the node's port":         {container(m(22, 22, "tcp")), -1, "host_port 22"},
		"a number that wraps":     {container(m(65536+31000, 80, "tcp")), -1, "host_port 96536"},
		"beyond all ports":        {container(m(65537, 80, "tcp")), -1, "host_port 65537"},
		"no container port":       {container(m(31000, 0, "tcp")), -1, "container_port 0"},
		"container port too high": {container(m(31000, 65536+80, "tcp")), -1, "container_port 65616"},
		"an unknown protocol":     {container(m(31000, 80, "sctp")), -1, "sctp"},
	} {
		j := &Job{Launch: launch, Task: &mesosv1.TaskInfo{Container: c.container}}
		got, err := portMappings(j)
		switch {
		case c.want < 0 && (!errors.Is(err, spec.ErrInvalidTask) || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v", name, err)
		case c.want >= 0 && (err != nil || len(got) != c.want):
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	docker := &mesosv1.ContainerInfo{Type: mesosv1.ContainerInfo_DOCKER.Enum(), Docker: &mesosv1.ContainerInfo_DockerInfo{
		Image: proto.String("x"), PortMappings: []*mesosv1.ContainerInfo_DockerInfo_PortMapping{{HostPort: proto.Uint32(80), ContainerPort: proto.Uint32(80)}},
	}}
	if _, err := portMappings(&Job{Launch: launch, Task: &mesosv1.TaskInfo{Container: docker}}); !errors.Is(err, spec.ErrInvalidTask) {
		t.Errorf("docker's mapping of port 80: %v", err)
	}
}

func TestDiskLimit(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, 3<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"1", "2", "3"} { // the same bytes under other names
		if err := os.Link(big, big+n); err != nil {
			t.Fatal(err)
		}
	}
	j := &Job{Launch: &keeper.Launch{DiskBytes: 4 << 20}, Paths: paths{sandbox: dir, bundle: filepath.Join(dir, "none")}}
	w := watchDisk(t.Context(), j, time.Hour)
	if why := w.exceeded(t.Context()); why != "" {
		t.Error(why)
	}
	w.stop()
	if err := os.WriteFile(filepath.Join(dir, "more"), make([]byte, 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	w = watchDisk(t.Context(), j, time.Millisecond)
	if why := <-w.over; !strings.Contains(why, "may use 4 MB") {
		t.Error(why)
	}
	w.stop()
	none := watchDisk(t.Context(), &Job{Launch: &keeper.Launch{}}, time.Millisecond)
	none.stop()
}

// What pullers left that were killed is gone when the keeper begins, and images that are
// kept lose none of their layers.
func TestStoreIsCleaned(t *testing.T) {
	h := newHouse(t)
	s := h.k.images
	left := filepath.Join(s.Staging(), "layer-1", "root")
	if err := os.MkdirAll(left, 0o755); err != nil {
		t.Fatal(err)
	}
	h.close()
	h.open()
	if names, err := os.ReadDir(s.Staging()); err != nil || len(names) > 0 {
		t.Errorf("staging has %v, %v", names, err)
	}
	layer := func(c string) string { return "sha256-" + strings.Repeat(c, 64) }
	h.image("running", 1, layer("a"), layer("b"))
	h.image("unused", 2, layer("b"), layer("c"))
	h.launch(launchOf("c", "sleep 1000"))
	h.until("c", running)
	c := h.k.containers["c"]
	c.mu.Lock()
	c.rec.Layers = []string{layer("a")} // b is not in use by itself, but the kept image names it
	c.mu.Unlock()
	if err := h.k.collectImages(func() bool { return true }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find("running"); err != nil {
		t.Errorf("a kept image has lost a layer: %v", err)
	}
	if _, err := os.Stat(s.Layer(layer("c"))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("layer c is still there: %v", err)
	}
	h.k.pulls.pause.RLock() // a puller at work
	defer h.k.pulls.pause.RUnlock()
	if err := os.MkdirAll(left, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := h.k.collectImages(func() bool { return true }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err != nil {
		t.Errorf("what a pull is unpacking was removed: %v", err)
	}
}

type limited struct {
	Processes
	memory *uint64
}

func (l limited) LimitAll(memory uint64) error {
	*l.memory = memory
	return nil
}

// What ended tasks may leave on a tmpfs does not take memory from those that run.
func TestAllTasksTogether(t *testing.T) {
	shm, err := os.MkdirTemp("/dev/shm", "mesolith-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(shm) })
	for _, dir := range []string{shm, t.TempDir()} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		const offered = 100 << 20
		want := uint64(offered)
		if st.Type == unix.TMPFS_MAGIC {
			want += st.Blocks * uint64(st.Bsize) / 4
		}
		var got uint64
		k, err := New(Config{
			StateDir: filepath.Join(dir, "state"), WorkDir: filepath.Join(dir, "work"), StoreDir: filepath.Join(dir, "store"),
			Runtime: limited{memory: &got}, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Configure(&keeper.Configure{TasksMemoryBytes: offered}); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("in %s all tasks together may have %d bytes, want %d", dir, got, want)
		}
	}
}
