package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/imagestore"
	"github.com/mesolith/mesolith/isolation/rootfs"
	"github.com/mesolith/mesolith/isolation/spec"
	"github.com/mesolith/mesolith/isolation/stdio"
	"github.com/mesolith/mesolith/isolation/tree"
)

// Processes is the runtime for machines that cannot isolate: each task is a process in
// a session of its own, in its sandbox, seeing the machine's files. There are no limits.
type Processes struct {
	Self  string // this program; started as "hold" it waits before the program
	Store imagestore.Store
}

var _ Runtime = Processes{}

func (Processes) Name() string { return "processes" }

func (Processes) IDs() bool { return false }

func (Processes) LimitAll(uint64) error { return nil }

// Limit does nothing: a plain process has no limits.
func (Processes) Limit(*Job, uint64, uint64) error { return nil }

func (Processes) OpenGroup(*Job) (*os.File, error) { return nil, nil }

func (Processes) PinNetNS(*Job, *Process) error { return nil }

func (Processes) NetNS(*Job) string { return "" }

func (Processes) Usage(*Job) (uint64, bool) { return 0, false }

// Prepare copies an image's layers into one root, for chroot.
func (r Processes) Prepare(_ context.Context, j *Job) error {
	if !j.HasImage {
		return nil
	}
	if os.Geteuid() != 0 {
		return errors.New("a task with an image needs chroot, which only root may do on a machine without cgroup2: start clusterd --dev as root, or run the task without an image")
	}
	j.Rootfs = filepath.Join(j.Paths.bundle, "rootfs")
	var layers []string
	for _, l := range j.Image.Layers {
		layers = append(layers, r.Store.Layer(l))
	}
	if err := rootfs.Flatten(layers, j.Rootfs); err != nil {
		return fmt.Errorf("copy image: %w", err)
	}
	for _, dir := range []string{spec.ImageSandbox, "dev"} {
		if err := rootfs.MkdirIn(j.Rootfs, dir); err != nil {
			return err
		}
	}
	return nil
}

// held is what the holder is told: what to become.
type held struct {
	Chroot  string
	Sandbox string // bound into the chroot
	Inside  string
	Volumes [][2]string // bound into the chroot's sandbox: from, to
	Cwd     string
	Argv0   string
	Argv    []string
	Env     []string
	UID     int
	GID     int
	Groups  []int
	Switch  bool
}

// gate is the holder's two pipes.
type gate struct {
	open *os.File // a byte lets it go on; closed, it ends
	said *os.File // why it could not
}

// Start starts a holder: our own program, which becomes the task's once it is let.
func (r Processes) Start(_ context.Context, j *Job) (*Process, error) {
	h, err := r.held(j)
	if err != nil {
		return nil, err
	}
	if err := saveProgram(j, h); err != nil {
		return nil, err
	}
	var out [2]*os.File // stdout, stderr
	for i, name := range stdio.Streams {
		w, err := stdio.OpenWriter(j.Paths.pipes, name)
		if err != nil {
			return nil, err
		}
		defer w.Close()
		out[i] = w
	}
	cmd, g, err := r.holder(j, streamsOf{stdout: out[0], stderr: out[1]})
	if err != nil {
		return nil, err
	}
	return r.told(cmd, g, h)
}

// told tells a holder what to become and gives its process.
func (Processes) told(cmd *exec.Cmd, g *gate, h held) (*Process, error) {
	var err error
	p := &Process{PID: cmd.Process.Pid, Go: g, Wait: sync.OnceValues(func() (uint32, error) { return waitStatus(cmd.Process) })}
	if p.StartTime, err = startTime(p.PID); err != nil {
		return p, errors.Join(err, g.close())
	}
	if err := g.tell(h); err != nil {
		return p, errors.Join(err, g.close())
	}
	return p, nil
}

// streamsOf are a holder's; a nil one is /dev/null, and a terminal is given as stdin.
type streamsOf struct {
	stdin, stdout, stderr *os.File
	terminal              bool
}

// holder starts one; what it is to become is told it by its gate.
func (r Processes) holder(j *Job, s streamsOf) (*exec.Cmd, *gate, error) {
	openR, openW, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer openR.Close()
	saidR, saidW, err := os.Pipe()
	if err != nil {
		openW.Close()
		return nil, nil, err
	}
	defer saidW.Close()
	g := &gate{open: openW, said: saidR}
	cmd := exec.Command(r.Self, "hold")
	cmd.Args[0] = "isolated-hold"
	cmd.Dir = "/"
	cmd.Env = []string{"MESOS_CONTAINER_ID=" + j.ID, "MESOLITH_SANDBOX=" + j.Paths.sandbox}
	cmd.ExtraFiles = []*os.File{openR, saidW}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if s.terminal {
		s.stdout, s.stderr = s.stdin, s.stdin
		cmd.SysProcAttr.Setctty = true // of the holder's descriptor 0
	}
	if s.stdin != nil {
		cmd.Stdin = s.stdin
	}
	if s.stdout != nil {
		cmd.Stdout = s.stdout
	}
	if s.stderr != nil {
		cmd.Stderr = s.stderr
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start holder: %w", err), g.close())
	}
	return cmd, g, nil
}

// tell says what to become. The pipe takes 64 KiB at once; a longer plan is read while it
// is written.
func (g *gate) tell(h held) error {
	plan, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(g.open, "%d\n%s", len(plan), plan); err != nil {
		return fmt.Errorf("tell holder: %w", err)
	}
	return nil
}

func (g *gate) close() error { return errors.Join(g.open.Close(), g.said.Close()) }

func waitStatus(p *os.Process) (uint32, error) {
	state, err := p.Wait()
	if err != nil {
		return 0, fmt.Errorf("wait for process %d: %w", p.Pid, err)
	}
	ws, ok := state.Sys().(syscall.WaitStatus)
	if !ok {
		return 0, fmt.Errorf("wait for process %d: no wait status", p.Pid)
	}
	return uint32(ws), nil
}

func (r Processes) held(j *Job) (held, error) {
	argv, err := spec.Program(j.Task, j.Image.Config)
	if err != nil {
		return held{}, err
	}
	inside := j.sandboxInside()
	given := append([]spec.Variable(nil), j.Env...)
	given = append(given, spec.Variable{Name: "MESOS_SANDBOX", Value: inside}, spec.Variable{Name: "MESOS_DIRECTORY", Value: j.Paths.sandbox})
	image := j.Image.Config
	if !j.HasImage {
		image.Env = []string{"PATH=" + os.Getenv("PATH")}
		if image.Env[0] == "PATH=" {
			image.Env = nil
		}
	}
	env, err := spec.Env(j.Task.GetCommand(), image, given)
	if err != nil {
		return held{}, err
	}
	if !strings.Contains("\n"+strings.Join(env, "\n"), "\nHOME=") {
		env = append(env, "HOME="+inside)
	}
	h := held{Argv: argv, Argv0: spec.Argv0(j.Task.GetCommand()), Env: env, Cwd: inside}
	if j.HasImage {
		h.Chroot, h.Sandbox, h.Inside = j.Rootfs, j.Paths.sandbox, spec.ImageSandbox
		for _, v := range slices.Concat(j.Volumes, j.Mounts) {
			h.Volumes = append(h.Volumes, [2]string{v.From, v.Inside(spec.ImageSandbox)})
		}
		if image.WorkingDir != "" {
			h.Cwd = filepath.Join("/", image.WorkingDir)
		}
	}
	if os.Geteuid() == 0 {
		h.Switch = true
		h.UID, h.GID = processUser(j)
		for _, g := range j.User.Groups {
			h.Groups = append(h.Groups, int(g))
		}
	}
	return h, nil
}

// processUser is who a plain process runs as: a user that the machine (or the image)
// knows, or a number; a name nobody knows runs as the keeper itself does.
func processUser(j *Job) (uid, gid int) {
	if j.User.Line != "" {
		return os.Geteuid(), os.Getegid()
	}
	return int(j.User.UID), int(j.User.GID)
}

// Exec lets the holder become the program, and hears whether it could.
func (Processes) Exec(_ *Job, p *Process) error {
	g, ok := p.Go.(*gate)
	if !ok {
		return errors.New("the process waits for a keeper that is gone")
	}
	defer g.close()
	return g.let()
}

// let lets the holder become what it was told, and hears whether it could.
func (g *gate) let() error {
	if _, err := g.open.Write([]byte{1}); err != nil {
		return fmt.Errorf("let the process begin: %w", err)
	}
	why, err := io.ReadAll(io.LimitReader(g.said, 4096))
	if err != nil {
		return fmt.Errorf("let the process begin: %w", err)
	}
	if len(why) > 0 {
		return errors.New(string(why))
	}
	return nil
}

// Waiting is never so: a holder ends with the keeper that started it.
func (Processes) Waiting(*Job, *Process) bool { return false }

// members are the processes of a task: its session, and whoever inherited its
// container id.
func members(j *Job, p *Process) []int {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	mark := []byte("\x00MESOS_CONTAINER_ID=" + j.ID + "\x00")
	var out []int
	for _, n := range names {
		pid, err := strconv.Atoi(n.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if p != nil && p.PID == pid && alive(p) {
			out = append(out, pid)
			continue
		}
		raw, err := os.ReadFile(filepath.Join("/proc", n.Name(), "stat"))
		if err != nil {
			continue
		}
		f := statFields(raw)
		if len(f) > 3 && f[0] != "Z" && f[0] != "X" && p != nil && f[3] == strconv.Itoa(p.PID) {
			out = append(out, pid)
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", n.Name(), "environ"))
		if err == nil && bytes.Contains(append([]byte{0}, env...), mark) {
			out = append(out, pid)
		}
	}
	return out
}

func (Processes) Terminate(j *Job, p *Process) (bool, error) {
	var errs []error
	for _, pid := range members(j, p) {
		if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
		}
	}
	return false, errors.Join(errs...)
}

const killRounds = 50

// Kill repeats until nobody is left, because members may fork meanwhile.
func (Processes) Kill(j *Job, p *Process) error {
	if p != nil {
		if g, ok := p.Go.(*gate); ok {
			g.close()
		}
	}
	for round := range killRounds {
		left := members(j, p)
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		if p != nil && p.Wait != nil {
			if _, err := p.Wait(); err != nil {
				return err
			}
		}
		if round > 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	return fmt.Errorf("processes of %s do not end: %v", j.ID, members(j, p))
}

func (Processes) Remove(j *Job) error {
	if err := rootfs.Unbind(filepath.Join(j.Paths.bundle, "rootfs")); err != nil {
		return err
	}
	if err := tree.Remove(j.Paths.bundle); err != nil {
		return fmt.Errorf("remove root: %w", err)
	}
	return nil
}

// Strangers are roots of which no record speaks; unrecorded processes cannot be told
// from those of another keeper on the same machine, and holders end by themselves.
func (r Processes) Strangers(known map[string]bool) ([]string, error) {
	return unknownIn(filepath.Join(r.Store.Dir, "containers"), known)
}

func unknownIn(dir string, known map[string]bool) ([]string, error) {
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, n := range names {
		if !known[n.Name()] {
			out = append(out, n.Name())
		}
	}
	return out, nil
}
