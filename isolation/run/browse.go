package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// maxListed bounds one directory's list.
const maxListed = 10_000

// open resolves a path below the sandboxes; the kernel sees to it that no link of a
// task's leads out of its sandbox.
func (k *Keeper) open(path string, flags uint64) (*os.File, error) {
	rel, ok := strings.CutPrefix(filepath.Clean(path), filepath.Clean(k.cfg.WorkDir)+"/slaves/")
	if !ok || !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%w: %s is not below %s/slaves", ErrNotFound, path, k.cfg.WorkDir)
	}
	// AGENT/frameworks/FRAMEWORK/executors/EXECUTOR/runs/RUN/…
	parts := strings.Split(rel, "/")
	if len(parts) < 7 || parts[1] != "frameworks" || parts[3] != "executors" || parts[5] != "runs" {
		return nil, fmt.Errorf("%w: %s is not in a sandbox", ErrNotFound, path)
	}
	runs := filepath.Join(k.cfg.WorkDir, "slaves", filepath.Join(parts[:6]...))
	run := parts[6]
	if run == "latest" {
		to, err := os.Readlink(filepath.Join(runs, "latest"))
		if err != nil || strings.Contains(to, "/") {
			return nil, fmt.Errorf("%w: %s", ErrNotFound, path)
		}
		run = to
	}
	rest := parts[7:]
	if to, left, ok := nestedSandbox(runs, run, rest); ok {
		run, rest = to, left
	}
	sandbox, err := unix.Open(filepath.Join(runs, run), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", openError(err), path)
	}
	defer unix.Close(sandbox)
	inside := "."
	if len(rest) > 0 {
		inside = filepath.Join(rest...)
	}
	fd, err := unix.Openat2(sandbox, inside, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY | flags,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %s", openError(err), path)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// nestedSandbox finds the place of what Mesos' layout shows inside of a parent's sandbox, or
// of the sandbox of a task of a pod, while it lies beside.
func nestedSandbox(runs, run string, rest []string) (to string, left []string, ok bool) {
	if len(rest) >= 4 && rest[0] == "containers" && rest[2] == "containers" {
		run, rest = rest[1], rest[2:]
	}
	if len(rest) < 2 || rest[0] != "containers" {
		return "", nil, false
	}
	to = filepath.Join(run+nestedSuffix, rest[1])
	info, err := os.Lstat(filepath.Join(runs, to))
	return to, rest[2:], err == nil && info.IsDir()
}

func openError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return ErrNotFound
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ELOOP), errors.Is(err, fs.ErrPermission):
		return ErrDenied
	}
	return err
}

// OpenFile opens a regular file of a sandbox for reading.
func (k *Keeper) OpenFile(path string) (*os.File, *keeper.FileInfo, error) {
	f, err := k.open(path, 0)
	if err != nil {
		return nil, nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("look at %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		f.Close()
		return nil, nil, fmt.Errorf("%w: %s is not a regular file", ErrInvalid, path)
	}
	return f, k.fileInfo(path, &st), nil
}

// ReadDir lists a directory of a sandbox.
func (k *Keeper) ReadDir(path string) ([]*keeper.FileInfo, error) {
	d, err := k.open(path, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxListed)
	if err != nil && len(names) == 0 {
		names = nil
	}
	sort.Strings(names)
	out := make([]*keeper.FileInfo, 0, len(names))
	for _, n := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(int(d.Fd()), n, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			continue // gone meanwhile
		}
		out = append(out, k.fileInfo(filepath.Join(path, n), &st))
	}
	return out, nil
}

// fileInfo shows ids as the container sees them.
func (k *Keeper) fileInfo(path string, st *unix.Stat_t) *keeper.FileInfo {
	uid, gid := st.Uid, st.Gid
	if k.runtime.IDs() {
		uid, gid = uid%slotSize, gid%slotSize
	}
	return &keeper.FileInfo{
		Path: path, Size: st.Size, Mode: st.Mode, MtimeUnixNs: st.Mtim.Nano(), Nlink: uint32(st.Nlink), User: idName(uid), Group: idName(gid),
	}
}

func idName(id uint32) string {
	if id == 0 {
		return "root"
	}
	return strconv.FormatUint(uint64(id), 10)
}
