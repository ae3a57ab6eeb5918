package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/mesolith/mesolith/internal/imagestore"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/cgroup"
	"github.com/mesolith/mesolith/isolation/spec"
)

// parallelPulls is how many pulls run at once; others wait.
const parallelPulls = 2

// pulls runs the puller: one process a reference, whoever else wants it waits for it. What
// is kept of tasks' files (uris.go) comes the same way.
type pulls struct {
	k     *Keeper
	slots chan struct{} // of images
	files chan struct{} // of tasks' files
	// pause is held for reading from looking for an image until its layers are noted in
	// a container's record, and for as long as a puller runs; the collector of images
	// takes it whole.
	pause sync.RWMutex
	mu    sync.Mutex
	runs  map[string]*pullRun
}

type pullRun struct {
	done chan struct{}
	err  error
}

func newPulls(k *Keeper) *pulls {
	return &pulls{k: k, slots: make(chan struct{}, parallelPulls), files: make(chan struct{}, parallelFiles), runs: map[string]*pullRun{}}
}

// pull finds the task's image, or fetches it, and fills in the job.
func (k *Keeper) pull(ctx context.Context, c *container, j *Job) error {
	ref, cached, auth, err := spec.ImageReference(j.Task)
	if err != nil {
		return err
	}
	j.HasImage = ref != ""
	if ref == "" {
		if !k.runtime.IDs() {
			return nil // plain processes see the machine's own files
		}
		if ref = k.settings().GetTaskImage(); ref == "" {
			ref = imagestore.BaseReference
		}
	}
	if cached {
		if j.Image, err = k.images.Find(ref); err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			k.log.Warn("image is pulled again", "image", ref, "error", err)
		}
	}
	if err := k.change(c, false, func(c *container) { c.rec.Container.Phase = keeper.Container_PULLING }); err != nil {
		return err
	}
	if err := k.pulls.get(ctx, ref, auth); err != nil {
		return err
	}
	if j.Image, err = k.images.Find(ref); err != nil {
		return fmt.Errorf("image %s was pulled and is not there: %w", ref, err)
	}
	return nil
}

func (p *pulls) get(ctx context.Context, ref string, auth []byte) error {
	return p.once(ctx, ref+"\x00"+string(auth), func(ctx context.Context) error { return p.run(ctx, ref, auth) })
}

// once does what a key stands for, unless that is being done: then it waits for its end.
func (p *pulls) once(ctx context.Context, key string, do func(context.Context) error) error {
	p.mu.Lock()
	r, ok := p.runs[key]
	if !ok {
		r = &pullRun{done: make(chan struct{})}
		p.runs[key] = r
		p.k.lives.Go(func() {
			r.err = do(p.k.ctx)
			p.mu.Lock()
			delete(p.runs, key)
			p.mu.Unlock()
			close(r.done)
		})
	}
	p.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run starts the puller as a user of its own, in a user and mount namespace of its own
// and the store's control group, where the machine has such things.
func (p *pulls) run(ctx context.Context, ref string, auth []byte) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	// Whoever wanted the image may be gone before the puller is.
	p.pause.RLock()
	defer p.pause.RUnlock()
	k := p.k
	if len(k.cfg.Pull) == 0 {
		return fmt.Errorf("image %s: isolated was started without --pull, so that it can fetch nothing", ref)
	}
	args := append(append([]string(nil), k.cfg.Pull[1:]...), "--store", k.cfg.StoreDir, "--image", ref)
	if k.cfg.Base != "" {
		args = append(args, "--base", k.cfg.Base)
	}
	set := k.settings()
	if set.GetRegistriesOffline() {
		args = append(args, "--offline")
	}
	for _, m := range set.GetMirrors() {
		for _, e := range m.GetEndpoints() {
			args = append(args, "--mirror", m.GetHost()+"="+e)
		}
	}
	if len(auth) > 0 {
		args = append(args, "--auth-stdin")
	}
	k.log.Info("pull", "image", ref)
	h := helper{args: args, stdin: auth}
	if k.runtime.IDs() {
		h.confine = p.confine
	}
	last, err := k.help(ctx, h)
	switch {
	case err == nil:
		return nil
	case killed(err) && ctx.Err() == nil:
		return fmt.Errorf("image %s: the kernel ended its puller: images have no more memory on this node; use a smaller image, or raise ramStore in the cluster file", ref)
	case last != "":
		return errors.New(last)
	}
	return fmt.Errorf("image %s: the puller ended: %w", ref, err)
}

// helper is one run of the program that reads strangers' bytes.
type helper struct {
	args  []string // after the program
	stdin []byte
	files []*os.File // descriptors from 3 on
	// confine gives it ids and a control group; started hears of it then. Either may be nil.
	confine func(*exec.Cmd) (done func(), err error)
	started func(pid int)
}

// help runs the program to its end, which comes at once when ctx ends or we do, and gives
// the last line of what it said.
func (k *Keeper) help(ctx context.Context, h helper) (last string, err error) {
	cmd := exec.CommandContext(ctx, k.cfg.Pull[0], h.args...)
	cmd.Stdin = bytes.NewReader(h.stdin)
	cmd.ExtraFiles = h.files
	said := &tail{max: 8 << 10}
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if h.confine != nil {
		done, err := h.confine(cmd)
		if err != nil {
			return "", err
		}
		defer done()
	}
	// It dies with us, which for the kernel means: with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return "", err
	}
	if h.started != nil {
		h.started(cmd.Process.Pid)
	}
	err = cmd.Wait()
	return said.lastLine(), err
}

// killed says whether a program was ended by SIGKILL.
func killed(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// confine gives the puller ids that own the store's files and nothing else.
func (p *pulls) confine(cmd *exec.Cmd) (done func(), err error) {
	s := imagestore.Store{Dir: p.k.cfg.StoreDir}
	for _, dir := range []string{s.Layers(), s.Images(), s.Staging()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make image store: %w", err)
		}
		if err := os.Chown(dir, StoreIDs, StoreIDs); err != nil {
			return nil, fmt.Errorf("give image store to the puller: %w", err)
		}
	}
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: StoreIDs, Size: spec.RangeSize}}
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
	cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = ids, ids
	cmd.SysProcAttr.GidMappingsEnableSetgroups = true
	cmd.SysProcAttr.Credential = &syscall.Credential{}
	cmd.Dir = "/"
	group, err := cgroup.Open("/store")
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	return func() { group.Close() }, nil
}

// tail keeps the end of what a program says.
type tail struct {
	max int
	mu  sync.Mutex
	buf []byte
}

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.max; over > 0 {
		t.buf = append([]byte(nil), t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) lastLine() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.buf)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
