package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/isolation/tree"
)

// IDs is one row of the map from ids on disk to the ids of a container on the host.
type IDs struct{ Disk, Host, Count uint32 }

// maxClassic is what mount(2) takes as options, in bytes; longer lists of layers go
// layer by layer.
const maxClassic = 4000

// Mount mounts layers, lowest first, at bundle/rootfs: an overlay of id-mapped clones
// whose upper directory belongs to the container's root. It may be done again.
func Mount(layers []string, bundle string, ids IDs) (root string, err error) {
	if err := Unmount(bundle); err != nil {
		return "", err
	}
	root = filepath.Join(bundle, "rootfs")
	upper, work := filepath.Join(bundle, "upper"), filepath.Join(bundle, "work")
	// The container's root walks to its file system through the bundle.
	if err := os.MkdirAll(bundle, 0o711); err != nil {
		return "", fmt.Errorf("make bundle: %w", err)
	}
	for _, dir := range []string{root, upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", fmt.Errorf("make bundle: %w", err)
		}
	}
	if err := os.Chown(upper, int(ids.Host), int(ids.Host)); err != nil {
		return "", fmt.Errorf("give upper directory to the container: %w", err)
	}
	clones, err := clone(layers, bundle, ids)
	defer func() {
		// The overlay keeps its own hold on what lies below it.
		for _, c := range clones {
			err = errors.Join(err, Unbind(c), os.Remove(c))
		}
	}()
	if err != nil {
		return "", err
	}
	return root, overlay(clones, upper, work, root)
}

// clone attaches an id-mapped clone of each layer below the bundle.
func clone(layers []string, bundle string, ids IDs) ([]string, error) {
	userns, err := userNamespace(ids)
	if err != nil {
		return nil, fmt.Errorf("make map of ids: %w", err)
	}
	defer userns.Close()
	var out []string
	for i, l := range layers {
		at := filepath.Join(bundle, "l"+strconv.Itoa(i))
		if err := os.Mkdir(at, 0o700); err != nil {
			return out, fmt.Errorf("make bundle: %w", err)
		}
		out = append(out, at)
		if err := cloneOne(l, at, int(userns.Fd())); err != nil {
			return out, fmt.Errorf("mount layer %s: %w", filepath.Base(l), err)
		}
	}
	return out, nil
}

func cloneOne(layer, at string, userns int) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, layer, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clone mount: %w", err)
	}
	defer unix.Close(tree)
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV, Userns_fd: uint64(userns), Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, attr); err != nil {
		if errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("map ids: %w: the file system of %s has no id maps; put the store on tmpfs, ext4, xfs or btrfs", err, layer)
		}
		return fmt.Errorf("map ids: %w", err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return nil
}

// overlay mounts; the highest layer comes first in its words.
func overlay(lower []string, upper, work, root string) error {
	top := make([]string, 0, len(lower))
	for i := len(lower) - 1; i >= 0; i-- {
		top = append(top, lower[i])
	}
	options := "lowerdir=" + strings.Join(top, ":") + ",upperdir=" + upper + ",workdir=" + work + ",userxattr"
	if len(options) <= maxClassic {
		if err := unix.Mount("overlay", root, "overlay", unix.MS_NODEV, options); err != nil {
			return fmt.Errorf("mount overlay: %w", err)
		}
		return nil
	}
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	defer unix.Close(fs)
	for _, l := range top {
		if err := unix.FsconfigSetString(fs, "lowerdir+", l); err != nil {
			return fmt.Errorf("mount overlay of %d layers: %w", len(lower), err)
		}
	}
	for _, o := range [][2]string{{"upperdir", upper}, {"workdir", work}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return fmt.Errorf("mount overlay, %s: %w", o[0], err)
		}
	}
	if err := unix.FsconfigSetFlag(fs, "userxattr"); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	defer unix.Close(m)
	if err := unix.MoveMount(m, "", unix.AT_FDCWD, root, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return nil
}

// Unmount takes down a bundle's mounts and removes it; it is no error if it is not there.
func Unmount(bundle string) error {
	names, err := os.ReadDir(bundle)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove bundle: %w", err)
	}
	for _, n := range names {
		if n.IsDir() && (n.Name() == "rootfs" || strings.HasPrefix(n.Name(), "l")) {
			if err := Unbind(filepath.Join(bundle, n.Name())); err != nil {
				return err
			}
		}
	}
	return tree.Remove(bundle)
}

// userNamespace makes a namespace whose map is the wanted one. Namespaces need a process
// to be born with: ours stops at its exec, before it is a program, and ends there.
func userNamespace(ids IDs) (*os.File, error) {
	runtime.LockOSThread() // ptrace is a thread's
	defer runtime.UnlockOSThread()
	rows := []syscall.SysProcIDMap{{ContainerID: int(ids.Disk), HostID: int(ids.Host), Size: int(ids.Count)}}
	p, err := os.StartProcess("/proc/self/exe", []string{"isolated-ids"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: rows, GidMappings: rows, Ptrace: true, Pdeathsig: syscall.SIGKILL,
	}})
	if err != nil {
		return nil, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", p.Pid))
	if kerr := p.Kill(); err == nil && kerr != nil {
		err = kerr
	}
	if _, werr := p.Wait(); werr != nil && err == nil {
		err = werr
	}
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, err
	}
	return f, nil
}
