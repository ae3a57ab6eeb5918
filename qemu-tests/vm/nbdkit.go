package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/mesolith/mesolith/internal/sockpath"
)

// DiskServer is the program behind a disk that can fail, found in PATH.
const DiskServer = "nbdkit"

// BadDiskConfig says what a disk that can fail does by itself; the rest is done to it
// while it runs.
type BadDiskConfig struct {
	Dir   string // of its own: sockets, the cache's file, the log of requests
	Image string // a raw image file: what is on the medium
	// FlushFails makes Fail hit what a flush writes; otherwise it hits each write at once.
	FlushFails bool
	// DelayWrites is how many milliseconds each write to the medium takes more.
	DelayWrites int
}

// BadDisk is a disk whose writes stay in its cache until they are flushed, and which can
// lose that cache, report errors and hang. It outlives the machines that use it, until
// PowerCut or Close.
type BadDisk struct {
	cfg  BadDiskConfig
	cmd  *exec.Cmd
	done chan struct{}
}

// StartBadDisk starts the server of a disk.
func StartBadDisk(ctx context.Context, cfg BadDiskConfig) (*BadDisk, error) {
	d := &BadDisk{cfg: cfg, done: make(chan struct{})}
	if err := d.start(ctx); err != nil {
		return nil, fmt.Errorf("start the disk %s: %w", cfg.Image, err)
	}
	return d, nil
}

func (d *BadDisk) start(ctx context.Context) error {
	if err := os.RemoveAll(d.cfg.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(d.cfg.Dir, 0o700); err != nil {
		return err
	}
	complaints, err := os.Create(d.path("nbdkit.log"))
	if err != nil {
		return err
	}
	// The first filter is nearest to the machine.
	filters := []string{"--filter=log", "--filter=pause", "--filter=error", "--filter=cache"}
	if d.cfg.FlushFails {
		filters = []string{"--filter=log", "--filter=pause", "--filter=cache", "--filter=error"}
	}
	parameters := []string{
		"file", d.cfg.Image, "cache=writeback", "logfile=requests.log", "pause-control=pause.sock",
		"error-pwrite=EIO", "error-pwrite-rate=100%", "error-pwrite-file=" + d.path("fail"),
	}
	if d.cfg.DelayWrites > 0 {
		filters = append(filters, "--filter=delay")
		parameters = append(parameters, "wdelay="+strconv.Itoa(d.cfg.DelayWrites)+"ms")
	}
	args := append([]string{"--foreground", "--unix", "disk.sock", "--threads", "8"}, filters...)
	d.cmd = exec.Command(DiskServer, append(args, parameters...)...)
	d.cmd.Dir = d.cfg.Dir
	d.cmd.Env = append(os.Environ(), "TMPDIR="+d.cfg.Dir)
	d.cmd.Stdout, d.cmd.Stderr = complaints, complaints
	endWithParent(d.cmd)
	started := make(chan error, 1)
	go d.live(started, complaints)
	if err := <-started; err != nil {
		return err
	}
	return d.await(ctx)
}

// live holds the thread that the server's life is tied to.
func (d *BadDisk) live(started chan<- error, complaints io.Closer) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer complaints.Close()
	defer close(d.done)
	err := d.cmd.Start()
	started <- err
	if err == nil {
		_ = d.cmd.Wait() // it is killed, always
	}
}

func (d *BadDisk) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectFor)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := sockpath.Dial(ctx, d.path("disk.sock")); err == nil {
			return conn.Close()
		}
		select {
		case <-d.done:
			said, err := os.ReadFile(d.path("nbdkit.log"))
			return errors.Join(fmt.Errorf("%s ended: %s", DiskServer, said), err)
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", DiskServer, ctx.Err())
		case <-tick.C:
		}
	}
}

func (d *BadDisk) path(name string) string { return filepath.Join(d.cfg.Dir, name) }

// Disk is what a machine's configuration names.
func (d *BadDisk) Disk(serial string) Disk {
	return Disk{File: "nbd+unix:///?socket=" + d.path("disk.sock"), Serial: serial}
}

// Fail makes writes fail with EIO from now on, or ends that.
func (d *BadDisk) Fail(fail bool) error {
	if !fail {
		return os.Remove(d.path("fail"))
	}
	return os.WriteFile(d.path("fail"), nil, 0o600)
}

// Hang holds every request until Resume.
func (d *BadDisk) Hang(ctx context.Context) error { return d.control(ctx, 'p', 'P') }

// Resume lets what was held go on.
func (d *BadDisk) Resume(ctx context.Context) error { return d.control(ctx, 'r', 'R') }

func (d *BadDisk) control(ctx context.Context, ask, want byte) error {
	conn, err := sockpath.Dial(ctx, d.path("pause.sock"))
	if err != nil {
		return fmt.Errorf("the disk's control: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := conn.Write([]byte{ask}); err != nil {
		return fmt.Errorf("the disk's control: %w", err)
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(conn, answer); err != nil || answer[0] != want {
		return fmt.Errorf("the disk's control answered %q: %w", answer, errors.Join(err, net.ErrClosed))
	}
	return nil
}

// PowerCut ends the server together with everything that was written and not flushed,
// and says how many writes that were. It holds the disk first and waits, not for long,
// until there is one.
func (d *BadDisk) PowerCut(ctx context.Context) (lost int, err error) {
	if err := d.Hang(ctx); err != nil {
		return 0, err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); lost == 0 && err == nil && time.Since(began) < 10*time.Second; <-tick.C {
		lost, err = d.unflushed()
	}
	d.Close()
	return lost, err
}

// Close ends the server.
func (d *BadDisk) Close() {
	if d.cmd.Process != nil {
		_ = d.cmd.Process.Kill() // an error says that it has ended already
	}
	<-d.done
}

// unflushed counts the writes since the last flush that was answered.
func (d *BadDisk) unflushed() (int, error) {
	f, err := os.Open(d.path("requests.log"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	flushes := map[string]int{} // id of a flush under way: writes that began before it
	began, safe := 0, 0
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		id := requestID(line)
		switch {
		case strings.Contains(line, "...Flush"):
			if strings.Contains(line, "return=0") {
				safe = max(safe, flushes[id])
			}
		case strings.Contains(line, " Flush "):
			flushes[id] = began
		case strings.Contains(line, " Write "):
			began++
		}
	}
	return began - safe, nil
}

func requestID(line string) string {
	_, rest, _ := strings.Cut(line, " id=")
	id, _, _ := strings.Cut(rest, " ")
	return id
}
