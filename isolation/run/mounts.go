package run

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/isolation/rootfs"
	"github.com/mesolith/mesolith/isolation/spec"
)

// Volumes that a task brings along (container.volumes) are paths of the node's or of its own
// sandbox, and secrets. Others may write where the first two lie, and could put a link there
// between our look at a path and the mount of it: so each is opened once, below what allows
// it, and that is mounted at a place of ours, of which the container's mount is made. Secrets
// are files of a memory file system that goes with the container. None of these places
// outlives the start of the first process, which has mounts of its own then.

// mountsDir is where they are. Nothing in it is ever removed with what it holds.
func (k *Keeper) mountsDir(id string) string { return filepath.Join(k.cfg.StateDir, "mounts", id) }

// secretsDir is where the secrets of a plain process lie, which has no mounts of its own.
func secretsDir(id string) string { return filepath.Join(sharedMemory, "mesolith-"+id) }

const sharedMemory = "/dev/shm"

// wantVolumes says what is to be mounted.
func (k *Keeper) wantVolumes(j *Job) (err error) {
	allowed := k.settings().GetHostPaths()
	if !k.runtime.IDs() {
		allowed = []string{"/"} // a plain process sees them anyway
	}
	j.Asked, err = spec.AskedVolumes(j.Task.GetContainer(), allowed, j.Volumes)
	for _, a := range j.Asked {
		switch {
		case k.runtime.IDs():
		case path.IsAbs(a.Path):
			return fmt.Errorf("%w: container_path %q of a volume: without isolation only paths below the sandbox can be had", spec.ErrInvalidTask, a.Path)
		case a.ReadOnly && a.Secret == nil:
			return fmt.Errorf("%w: the volume at %q is to be read only, and without isolation it cannot be", spec.ErrInvalidTask, a.Path)
		}
	}
	return err
}

// mountVolumes makes the volumes that a task brought along ready for its first process. Its
// files have been fetched: they may be what it means by a path in the sandbox.
func (k *Keeper) mountVolumes(j *Job) error {
	if len(j.Asked) == 0 {
		return nil
	}
	if err := k.unmountVolumes(j.ID); err != nil {
		return err
	}
	if err := os.MkdirAll(k.mountsDir(j.ID), 0o711); err != nil {
		return fmt.Errorf("make place of volumes: %w", err)
	}
	if err := k.writeSecrets(j); err != nil {
		return fmt.Errorf("container.volumes: %w", err)
	}
	for i, a := range j.Asked {
		v := spec.Volume{Path: a.Path, ReadOnly: a.ReadOnly, Own: a.Host == ""}
		err := k.mountVolume(j, i, a, &v)
		if err != nil {
			return fmt.Errorf("container.volumes[%d] at %s: %w", i, a.Path, err)
		}
		j.Mounts = append(j.Mounts, v)
	}
	return nil
}

func (k *Keeper) mountVolume(j *Job, i int, a spec.Asked, v *spec.Volume) error {
	f, err := k.openAsked(j, i, a)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return fmt.Errorf("it is neither a directory nor a regular file")
	}
	if v.From, err = k.fromOf(j, i, a, f, info.IsDir()); err != nil {
		return err
	}
	if path.IsAbs(v.Path) {
		return nil // the runtime makes its place in the root
	}
	if info.IsDir() {
		return k.placeInSandbox(j, *v)
	}
	return k.placeFileInSandbox(j, *v)
}

// openAsked opens what a volume is made of, never beyond what allows it.
func (k *Keeper) openAsked(j *Job, i int, a spec.Asked) (*os.File, error) {
	top, below := a.Allowed, strings.TrimPrefix(strings.TrimPrefix(a.Host, a.Allowed), "/")
	switch {
	case a.Secret != nil:
		top, below = k.secretsAt(j.ID), strconv.Itoa(i)
	case a.InSandbox != "":
		top, below = j.Paths.sandbox, a.InSandbox
		if err := k.makeInSandbox(j, a.InSandbox); err != nil {
			return nil, err
		}
	case !k.runtime.IDs():
		return os.OpenFile(a.Host, unix.O_PATH, 0)
	}
	dir, err := unix.Open(top, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: top, Err: err}
	}
	if below == "" {
		return os.NewFile(uintptr(dir), top), nil
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, below, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
	switch {
	case errors.Is(err, unix.EXDEV):
		return nil, fmt.Errorf("%s leads out of %s by a link", filepath.Join(top, below), top)
	case errors.Is(err, unix.ENOENT):
		return nil, fmt.Errorf("%s is not there on this node; make it, or start the task where it is", filepath.Join(top, below))
	case err != nil:
		return nil, &os.PathError{Op: "open", Path: filepath.Join(top, below), Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(top, below)), nil
}

// makeInSandbox makes a directory of the sandbox, unless something is there.
func (k *Keeper) makeInSandbox(j *Job, dir string) error {
	root, err := os.OpenRoot(j.Paths.sandbox)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Stat(dir); err == nil {
		return nil
	}
	return k.mkdirInSandbox(j, dir)
}

// fromOf gives the path that the container's mount is made of.
func (k *Keeper) fromOf(j *Job, i int, a spec.Asked, f *os.File, isDir bool) (string, error) {
	switch {
	case a.Secret != nil:
		return f.Name(), nil
	case !k.runtime.IDs() && a.Host != "":
		return a.Host, nil
	case !k.runtime.IDs():
		return filepath.Join(j.Paths.sandbox, a.InSandbox), nil
	}
	at := filepath.Join(k.mountsDir(j.ID), strconv.Itoa(i))
	var err error
	if isDir {
		err = os.Mkdir(at, 0o700)
	} else {
		err = os.WriteFile(at, nil, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("make place of volume: %w", err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), at, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("mount: %w", err)
	}
	if err := unix.Mount("", at, "", unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("mount: %w", err)
	}
	if a.Host == "" {
		return at, nil
	}
	err = rootfs.CheckIDMaps(at, rootfs.IDs{Disk: 0, Host: j.FirstID, Count: spec.RangeSize})
	if errors.Is(err, rootfs.ErrNoIDMaps) {
		return "", fmt.Errorf("%s cannot be given to a task: %w; take a directory on tmpfs, ext4, xfs or btrfs", a.Host, err)
	}
	return at, err
}

// placeFileInSandbox makes the empty file that a volume covers, or where nothing is mounted
// the link to it.
func (k *Keeper) placeFileInSandbox(j *Job, v spec.Volume) error {
	if dir := path.Dir(v.Path); dir != "." {
		if err := k.mkdirInSandbox(j, dir); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(j.Paths.sandbox)
	if err != nil {
		return err
	}
	defer root.Close()
	if !k.runtime.IDs() && j.Rootfs == "" {
		err := root.Symlink(v.From, v.Path)
		if old, rerr := root.Readlink(v.Path); errors.Is(err, os.ErrExist) && rerr == nil && old == v.From {
			return nil // an earlier try's
		}
		return err
	}
	f, err := root.OpenFile(v.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		if info, serr := root.Lstat(v.Path); serr == nil && info.Mode().IsRegular() {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("make file that the volume covers: %w", err)
	}
	if os.Geteuid() == 0 {
		uid, gid := k.owner(j)
		err = f.Chown(uid, gid)
	}
	return errors.Join(err, f.Close())
}

func (k *Keeper) secretsAt(id string) string {
	if !k.runtime.IDs() {
		return secretsDir(id)
	}
	return filepath.Join(k.mountsDir(id), "secrets")
}

// writeSecrets writes the secrets of a task into memory, each readable by its user only.
func (k *Keeper) writeSecrets(j *Job) error {
	size := 0
	for _, a := range j.Asked {
		if a.Secret != nil {
			size += len(a.Secret)/os.Getpagesize() + 4 // pages, with what the file system takes itself
		}
	}
	if size == 0 {
		return nil
	}
	at := k.secretsAt(j.ID)
	if err := os.Mkdir(at, 0o711); err != nil {
		return fmt.Errorf("make place of secrets: %w", err)
	}
	if k.runtime.IDs() {
		options := fmt.Sprintf("mode=711,size=%d", size*os.Getpagesize())
		if err := unix.Mount("secrets", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
			return fmt.Errorf("mount memory for secrets: %w", err)
		}
	} else {
		var st unix.Statfs_t
		if err := unix.Statfs(at, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
			return fmt.Errorf("%s is not memory on this machine, and secrets are written to no disk: mount a tmpfs there", sharedMemory)
		}
	}
	uid, gid := k.owner(j)
	for i, a := range j.Asked {
		if a.Secret == nil {
			continue
		}
		file := filepath.Join(at, strconv.Itoa(i))
		if err := os.WriteFile(file, a.Secret, 0o400); err != nil {
			return fmt.Errorf("write secret: %w", err)
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(file, uid, gid); err != nil {
				return fmt.Errorf("give secret to the task: %w", err)
			}
		}
	}
	return nil
}

// leaveVolumes takes the places away when the container has mounts of its own.
func (k *Keeper) leaveVolumes(j *Job) {
	if !k.runtime.IDs() {
		return // links lead there as long as it runs
	}
	if err := k.unmountVolumes(j.ID); err != nil {
		k.log.Error("places of volumes are left until the container ends", "container", j.ID, "error", err)
	}
}

// unmountVolumes takes away the places that mountVolumes made. What is mounted there is not
// touched: names are removed one by one, and only when nothing is mounted at them.
func (k *Keeper) unmountVolumes(id string) error {
	if !k.runtime.IDs() {
		if err := os.RemoveAll(secretsDir(id)); err != nil {
			return fmt.Errorf("remove secrets: %w", err)
		}
	}
	dir := k.mountsDir(id)
	names, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove places of volumes: %w", err)
	}
	for _, n := range names {
		at := filepath.Join(dir, n.Name())
		if err := rootfs.Unbind(at); err != nil {
			return err
		}
		if err := os.Remove(at); err != nil {
			return fmt.Errorf("remove place of volume: %w", err)
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove places of volumes: %w", err)
	}
	return nil
}
