package run

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/rootfs"
	"github.com/mesolith/mesolith/isolation/spec"
	"github.com/mesolith/mesolith/isolation/tree"
)

// Persistent volumes are directories that outlive containers, in Mesos' layout below the
// work directory but for the last component, which is the volume's serial: one that was
// destroyed and one of its name that came after it are never the same. On disk they hold the
// ids that tasks see, so that the next task, which has other ids on the host, finds its files
// its own.

// volumesDir is where volumes lie; what is being removed lies beside them.
func volumesDir(workDir string) string { return filepath.Join(workDir, "volumes") }

// volumePath is where a volume lies. A role's slashes become spaces, which no role has.
func volumePath(workDir string, v *keeper.Volume) (string, error) {
	role := strings.ReplaceAll(v.GetRole(), "/", " ")
	for _, name := range []string{role, v.GetId()} {
		if name == "" || len(name) > 255 || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return "", fmt.Errorf("%w: volume %q of role %q cannot be the name of a directory", ErrInvalid, v.GetId(), v.GetRole())
		}
	}
	if v.GetRoot() != "" {
		return "", fmt.Errorf("%w: volume %q is on the disk %s, and this node gives no disks of their own to tasks", ErrInvalid, v.GetId(), v.GetRoot())
	}
	return filepath.Join(volumesDir(workDir), "roles", role, v.GetId(), strconv.FormatUint(v.GetSerial(), 10)), nil
}

// volumesOf are a task's volumes.
func volumesOf(workDir string, l *keeper.Launch) (out []spec.Volume, err error) {
	for _, v := range l.GetVolumes() {
		at, err := volumePath(workDir, v)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", spec.ErrInvalidTask, err)
		}
		p, err := spec.VolumePlace(v.GetContainerPath())
		if err != nil {
			return nil, fmt.Errorf("%w: persistent volume %q: %w", spec.ErrInvalidTask, v.GetId(), err)
		}
		for _, o := range out {
			if o.Path == p || strings.HasPrefix(p, o.Path+"/") || strings.HasPrefix(o.Path, p+"/") {
				return nil, fmt.Errorf("%w: volumes at %q and %q would cover each other; give them places of their own", spec.ErrInvalidTask, o.Path, p)
			}
		}
		out = append(out, spec.Volume{From: at, Path: p, ReadOnly: v.GetReadOnly(), Bytes: v.GetBytes()})
	}
	return out, nil
}

// makeVolumes makes the volumes of a task that are not there yet, gives them to its user,
// and a place in the sandbox to those that are seen there. The sandbox is new: nobody has
// put anything into it.
func (k *Keeper) makeVolumes(j *Job) error {
	uid, gid := int(j.User.UID), int(j.User.GID) // as the task sees them
	if !k.runtime.IDs() {
		uid, gid = k.owner(j)
	}
	for _, v := range j.Volumes {
		if path.IsAbs(v.Path) && !k.runtime.IDs() {
			return fmt.Errorf("%w: container_path %q of a volume: without isolation only paths below the sandbox can be had", spec.ErrInvalidTask, v.Path)
		}
		if v.ReadOnly && !k.runtime.IDs() {
			return fmt.Errorf("%w: the volume at %q is to be read only, and without isolation it cannot be", spec.ErrInvalidTask, v.Path)
		}
		if err := k.makeVolume(v.From); err != nil {
			return fmt.Errorf("make volume: %w", err)
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(v.From, uid, gid); err != nil {
				return fmt.Errorf("give volume to the task: %w", err)
			}
		}
		if path.IsAbs(v.Path) {
			continue // the runtime makes its place in the root
		}
		if err := k.placeInSandbox(j, v); err != nil {
			return err
		}
	}
	return nil
}

// makeVolume makes a volume's directory where there is none, below the place of all. Only
// root walks there: a file that a task marks as running with its owner's rights is owned, on
// the node, by whom the task thinks.
func (k *Keeper) makeVolume(at string) error {
	k.volumes.Lock()
	defer k.volumes.Unlock()
	mode := os.FileMode(0o700)
	if !k.runtime.IDs() {
		mode = 0o711 // plain processes come by a link
	}
	if err := os.MkdirAll(volumesDir(k.cfg.WorkDir), mode); err != nil {
		return err
	}
	if err := os.Chmod(volumesDir(k.cfg.WorkDir), mode); err != nil {
		return err
	}
	return os.MkdirAll(at, 0o755)
}

// placeInSandbox makes the directory that a volume covers, or where nothing is mounted the
// link to it.
func (k *Keeper) placeInSandbox(j *Job, v spec.Volume) error {
	linked := !k.runtime.IDs() && j.Rootfs == ""
	top := v.Path
	if linked {
		top = path.Dir(top)
	}
	if top != "." {
		if err := k.mkdirInSandbox(j, top); err != nil {
			return err
		}
	}
	if linked {
		if err := os.Symlink(v.From, filepath.Join(j.Paths.sandbox, v.Path)); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("link volume into the sandbox: %w", err)
		}
	}
	return nil
}

// mkdirInSandbox makes a directory, and those above it, the task's.
func (k *Keeper) mkdirInSandbox(j *Job, dir string) error {
	if err := rootfs.MkdirIn(j.Paths.sandbox, dir); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	root, err := os.OpenRoot(j.Paths.sandbox)
	if err != nil {
		return err
	}
	defer root.Close()
	uid, gid := k.owner(j)
	for ; dir != "."; dir = path.Dir(dir) {
		if err := root.Lchown(dir, uid, gid); err != nil {
			return fmt.Errorf("give directory of a volume to the task: %w", err)
		}
	}
	return nil
}

// removedDir holds what nobody can see any more and is not yet deleted.
func removedDir(workDir string) string { return filepath.Join(volumesDir(workDir), "removed") }

// RemoveVolumes takes volumes away with all that they hold. When it returns none of them
// can be met any more; deleting goes on beside. What is not there was removed before.
func (k *Keeper) RemoveVolumes(list []*keeper.Volume) error {
	var all error
	for _, v := range list {
		at, err := volumePath(k.cfg.WorkDir, v)
		if err != nil {
			k.log.Error("volume not removed", "why", err.Error())
			continue // there is no directory that it could be
		}
		if err := k.removeVolume(at); err != nil {
			all = errors.Join(all, fmt.Errorf("remove volume %s of role %s: %w", v.GetId(), v.GetRole(), err))
		}
	}
	k.deleteRemoved()
	return all
}

func (k *Keeper) removeVolume(at string) error {
	k.volumes.Lock()
	defer k.volumes.Unlock()
	if err := os.MkdirAll(removedDir(k.cfg.WorkDir), 0o700); err != nil {
		return err
	}
	var random [8]byte
	rand.Read(random[:])
	if err := os.Rename(at, filepath.Join(removedDir(k.cfg.WorkDir), hex.EncodeToString(random[:]))); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := syncDir(filepath.Dir(at)); err != nil {
		return err
	}
	// Of its name, and of its role, nothing need be left where nothing is.
	if os.Remove(filepath.Dir(at)) == nil {
		os.Remove(filepath.Dir(filepath.Dir(at)))
	}
	return nil
}

// syncDir has the names in a directory survive a loss of power; one that is not there has
// none.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// deleteRemoved deletes what was removed, beside everything else.
func (k *Keeper) deleteRemoved() {
	k.lives.Go(func() {
		defer func() { // what was deleted is nobody's memory now
			if err := k.limitTasks(); err != nil {
				k.log.Error("the memory of all tasks together keeps its old bound", "error", err)
			}
		}()
		names, err := os.ReadDir(removedDir(k.cfg.WorkDir))
		if err != nil {
			return // there is none
		}
		for _, n := range names {
			if err := tree.Remove(filepath.Join(removedDir(k.cfg.WorkDir), n.Name())); err != nil {
				k.log.Error("what a removed volume held could not be deleted", "error", err)
			}
		}
	})
}
