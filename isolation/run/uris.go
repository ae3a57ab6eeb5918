package run

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/fetchplan"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/spec"
	"github.com/mesolith/mesolith/isolation/tree"
)

// The files that a task wants (command.uris) are fetched between the making of its sandbox
// and its first process, by `clusterd pull --fetch`: as the task's user, in its control group
// and with a map of its ids, so that what comes of it is the task's by owner and by memory.
// Files with cache set are fetched for the store first, as an image is, and copied from there.

const (
	// parallelFiles is how many files are fetched for the store at once; others wait.
	parallelFiles = 4
	// maxFetched is how many files may come of all URIs of a task.
	maxFetched = 1_000_000
	// urisShare is the part of the store that kept files may take.
	urisShare = 8
)

// wantURIs says what is to be fetched. Where an earlier keeper was about to, the sandbox is
// emptied: no program has been in it yet.
func (k *Keeper) wantURIs(j *Job, again bool) (err error) {
	if j.URIs, err = spec.URIs(j.Task.GetCommand(), !k.runtime.IDs()); err != nil {
		return failed(keeper.Container_INVALID_TASK, err)
	}
	if !again || len(j.URIs) == 0 {
		return nil
	}
	if err := tree.Remove(j.Paths.sandbox); err != nil {
		return failed(keeper.Container_LAUNCH, fmt.Errorf("empty the sandbox: %w", err))
	}
	return nil
}

// fetch puts the files of a task into its sandbox.
func (k *Keeper) fetch(ctx context.Context, j *Job) error {
	if len(j.URIs) == 0 {
		return nil
	}
	defer j.lap("fetch")
	if len(k.cfg.Pull) == 0 {
		return errors.New("command.uris: isolated was started without --pull, so that it can fetch nothing")
	}
	most, err := k.sandboxMayHold(j)
	if err != nil {
		return err
	}
	into, err := openDir(j.Paths.sandbox)
	if err != nil {
		return fmt.Errorf("open sandbox: %w", err)
	}
	defer into.Close()
	plan := fetchplan.Plan{Items: append([]fetchplan.Item(nil), j.URIs...), Bytes: most, Entries: maxFetched, Local: !k.runtime.IDs()}
	files := []*os.File{into}
	for i, item := range plan.Items {
		if !item.Cache {
			continue
		}
		kept, err := k.keptURI(ctx, j.Launch.GetUser(), item)
		if err != nil {
			return err
		}
		if kept != nil {
			defer kept.Close()
			files = append(files, kept)
			plan.Items[i].Have = true
		}
	}
	h := helper{files: files}
	if k.runtime.IDs() {
		h.confine = func(cmd *exec.Cmd) (func(), error) { return k.confineToTask(cmd, j) }
		h.started = mayEnd
	} else if os.Geteuid() == 0 {
		uid, gid := k.owner(j)
		plan.Become = &fetchplan.User{UID: uid, GID: gid}
	}
	err = k.carryOut(ctx, plan, h)
	if err != nil && killed(err) && ctx.Err() == nil {
		return errors.New("command.uris: the kernel ended the fetcher for want of memory: on this node files are memory of the task's; ask for more mem, or fetch less")
	}
	return err
}

// carryOut runs the fetcher. An error that it did not word is wrapped.
func (k *Keeper) carryOut(ctx context.Context, plan fetchplan.Plan, h helper) error {
	stdin, err := plan.Encode()
	if err != nil {
		return err
	}
	h.stdin = stdin
	h.args = append(append([]string(nil), k.cfg.Pull[1:]...), "--fetch")
	last, err := k.help(ctx, h)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == fetchplan.TooMuch && last != "":
		return tooMuch(last)
	case errors.As(err, &exit) && exit.ExitCode() == 1 && last != "":
		return errors.New(last)
	}
	return fmt.Errorf("command.uris: the fetcher ended: %w", err)
}

// tooMuch is the fetcher's word that files do not fit.
type tooMuch string

func (t tooMuch) Error() string { return string(t) }

// sandboxMayHold is how much may be fetched, in bytes: as much as the task's disk has room
// for, or its memory where files are memory, and there is.
func (k *Keeper) sandboxMayHold(j *Job) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(j.Paths.sandbox, &st); err != nil {
		return 0, fmt.Errorf("look how full the disk of sandboxes is: %w", err)
	}
	most := st.Bavail * uint64(st.Bsize)
	if disk := j.Launch.GetDiskBytes(); disk > 0 {
		most = min(most, disk)
	}
	if k.runtime.IDs() && k.filesAreMemory() {
		most = min(most, spec.MemoryMax(j.Launch.GetMemoryBytes(), j.Launch.GetMemoryLimitBytes()))
	}
	return int64(min(most, 1<<62)), nil
}

func openDir(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// confineToTask gives a program the ids, the user and the control group of a task.
func (k *Keeper) confineToTask(cmd *exec.Cmd, j *Job) (done func(), err error) {
	ids := func(own uint32) []syscall.SysProcIDMap {
		m := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(j.FirstID), Size: spec.RangeSize}}
		if own >= spec.RangeSize {
			m = append(m, syscall.SysProcIDMap{ContainerID: int(own), HostID: int(spec.HostID(j.FirstID, own)), Size: 1})
		}
		return m
	}
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
	cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = ids(j.User.UID), ids(j.User.GID)
	cmd.SysProcAttr.GidMappingsEnableSetgroups = true
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: j.User.UID, Gid: j.User.GID}
	cmd.Dir = "/"
	group, err := k.runtime.OpenGroup(j)
	if err != nil {
		return nil, err
	}
	if group == nil {
		return func() {}, nil
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	return func() { group.Close() }, nil
}

// mayEnd has the kernel end a program before those of the node, when memory is short: it is
// started with our own word that we are needed.
func mayEnd(pid int) {
	// Where that fails the task's own limit still ends it.
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("500"), 0)
}

// keptURI opens the file of a URI in the store, where it is fetched to if it is not there.
// Nil without an error: it cannot be kept, being too large.
func (k *Keeper) keptURI(ctx context.Context, user string, item fetchplan.Item) (*os.File, error) {
	sum := sha256.Sum256([]byte(user + "\x00" + item.URI))
	key := hex.EncodeToString(sum[:])
	at := filepath.Join(k.images.URIs(), key)
	if f, err := openKept(at); err == nil {
		return f, nil
	}
	k.pulls.pause.RLock() // the collector of images clears what is unfinished
	defer k.pulls.pause.RUnlock()
	err := k.pulls.once(ctx, "uri\x00"+key, func(ctx context.Context) error { return k.keepURI(ctx, item, key) })
	var much tooMuch
	if errors.As(err, &much) || (err != nil && killed(err) && ctx.Err() == nil) {
		k.log.Info("file is too large to be kept for others", "file", item.Output, "why", err.Error())
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := openKept(at)
	if err != nil {
		return nil, fmt.Errorf("command.uris[%d] was fetched and is not there: %w", item.Index, err)
	}
	return f, nil
}

// openKept opens a file of the store, and notes that it was of use.
func openKept(at string) (*os.File, error) {
	fd, err := unix.Open(at, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: at, Err: err}
	}
	f := os.NewFile(uintptr(fd), at)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err == nil {
		now := time.Now()
		err = os.Chtimes(fmt.Sprintf("/proc/self/fd/%d", fd), now, now)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// keepURI fetches a file into the store.
func (k *Keeper) keepURI(ctx context.Context, item fetchplan.Item, key string) error {
	select {
	case k.pulls.files <- struct{}{}:
		defer func() { <-k.pulls.files }()
	case <-ctx.Done():
		return ctx.Err()
	}
	k.pulls.pause.RLock() // whoever wanted the file may be gone before it is there
	defer k.pulls.pause.RUnlock()
	if err := os.MkdirAll(k.images.Staging(), 0o755); err != nil {
		return fmt.Errorf("make store of files: %w", err)
	}
	if err := os.MkdirAll(k.images.URIs(), 0o700); err != nil {
		return fmt.Errorf("make store of files: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(k.images.URIs(), &st); err != nil {
		return fmt.Errorf("look how full the store is: %w", err)
	}
	most := int64(st.Blocks * uint64(st.Bsize) / urisShare)
	into, err := openDir(k.images.Staging())
	if err != nil {
		return err
	}
	defer into.Close()
	h := helper{files: []*os.File{into}}
	if k.runtime.IDs() {
		h.confine, h.started = k.pulls.confine, mayEnd
	}
	name := "uri-" + key
	one := fetchplan.Item{Index: item.Index, URI: item.URI, Output: name}
	k.log.Info("fetch", "file", item.Output)
	if err := k.carryOut(ctx, fetchplan.Plan{Items: []fetchplan.Item{one}, Bytes: most, Entries: 1}, h); err != nil {
		return errors.Join(err, removeFile(filepath.Join(k.images.Staging(), name)))
	}
	if err := os.Rename(filepath.Join(k.images.Staging(), name), filepath.Join(k.images.URIs(), key)); err != nil {
		return fmt.Errorf("put file into the store: %w", err)
	}
	return k.collectURIs(func(sum uint64) bool { return sum > uint64(most) })
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// collectURIs removes kept files, the longest not used first, for as long as more says so of
// what all of them have together. Tasks that have one open keep it.
func (k *Keeper) collectURIs(more func(sum uint64) bool) error {
	names, err := os.ReadDir(k.images.URIs())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look for kept files: %w", err)
	}
	var all []os.FileInfo
	var sum uint64
	for _, n := range names {
		if info, err := n.Info(); err == nil {
			all = append(all, info)
			sum += uint64(info.Size())
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i].ModTime().Before(all[j].ModTime()) })
	for _, info := range all {
		if !more(sum) {
			return nil
		}
		if err := removeFile(filepath.Join(k.images.URIs(), info.Name())); err != nil {
			return fmt.Errorf("remove kept file: %w", err)
		}
		k.log.Info("kept file is removed, the store is nearly full", "file", info.Name())
		sum -= uint64(info.Size())
	}
	return nil
}
