// Package rootfs makes the root file system of a container out of the layers of an image:
// an overlay of id-mapped clones where the kernel isolates, a plain copy where it does
// not. Layers are never written to; what a container changes goes to an upper directory
// that is removed with it. Where layers come from is isolation/images' business.
package rootfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/imagestore"
)

// Flatten copies layers, lowest first, into one directory, for machines that cannot
// mount. The layers are in the store's form: whiteouts are 0/0 devices.
func Flatten(layers []string, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, l := range layers {
		if err := copyLayer(l, root); err != nil {
			return err
		}
	}
	return nil
}

func copyLayer(layer string, to *os.Root) error {
	links := map[uint64]string{}
	return filepath.WalkDir(layer, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(layer, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		return copyEntry(path, name, &st, to, links)
	})
}

func copyEntry(path, name string, st *unix.Stat_t, to *os.Root, links map[uint64]string) error {
	kind := st.Mode & unix.S_IFMT
	old, err := to.Lstat(name)
	if err == nil && name != "." {
		opaque := make([]byte, 1)
		n, _ := unix.Lgetxattr(path, imagestore.OpaqueXattr, opaque)
		if kind != unix.S_IFDIR || !old.IsDir() || n == 1 {
			if err := to.RemoveAll(name); err != nil {
				return fmt.Errorf("replace %s: %w", name, err)
			}
		}
	}
	if first, ok := links[st.Ino]; ok && kind == unix.S_IFREG {
		return to.Link(first, name)
	}
	switch kind {
	case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
		return nil // a whiteout, or nothing that a plain process needs of an image
	case unix.S_IFDIR:
		if err := to.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		if err := to.Symlink(target, name); err != nil {
			return err
		}
		return to.Lchown(name, int(st.Uid), int(st.Gid))
	case unix.S_IFREG:
		if err := copyFile(path, name, to); err != nil {
			return err
		}
		if st.Nlink > 1 {
			links[st.Ino] = name
		}
	}
	if err := to.Lchown(name, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return to.Chmod(name, fileMode(st.Mode))
}

// fileMode words a mode of the kernel's for package os.
func fileMode(m uint32) os.FileMode {
	out := os.FileMode(m & 0o777)
	for bit, word := range map[uint32]os.FileMode{syscall.S_ISUID: os.ModeSetuid, syscall.S_ISGID: os.ModeSetgid, syscall.S_ISVTX: os.ModeSticky} {
		if m&bit != 0 {
			out |= word
		}
	}
	return out
}

func copyFile(from, name string, to *os.Root) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := to.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}

// MkdirIn makes a directory below a root that a stranger made.
func MkdirIn(root, dir string) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	rel, err := filepath.Rel("/", filepath.Join("/", dir))
	if err != nil {
		return err
	}
	if err := r.MkdirAll(rel, 0o755); err != nil {
		return fmt.Errorf("make %s in the root: %w", dir, err)
	}
	return nil
}

// Unbind takes away whatever is mounted at a path; it is no error if nothing is.
func Unbind(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EPERM):
			return nil
		}
		return fmt.Errorf("unmount %s: %w", path, err)
	}
}
