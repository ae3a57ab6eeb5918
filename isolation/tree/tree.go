// Package tree measures and removes directories that tasks have filled, and trusts
// nothing in them: not that a directory is still one when it is opened, not that a tree
// is no deeper than there are descriptors, not that a file has one name only.
//
// Invariants: no symbolic link is followed, no other file system entered, no pipe or
// device opened; a handful of descriptors is open at once whatever the depth. Which
// trees may go, and how large one may be, is isolation/run's business.
package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"
)

// batch is how many names are read at once.
const batch = 1024

// perName is what a file takes beside its blocks: on a tmpfs an inode and its name are
// about a kilobyte of the kernel's memory.
const perName = 1024

// Use is what some trees take, in bytes: their blocks and their names. The blocks of a
// file with several names count once; what is gone or cannot be read counts nothing. When ctx ends, the sum is what was
// counted until then.
func Use(ctx context.Context, dirs ...string) uint64 {
	var sum uint64
	seen := map[inode]bool{}
	for _, dir := range dirs {
		sum += use(ctx, dir, seen)
	}
	return sum
}

type inode struct{ device, number uint64 }

func use(ctx context.Context, dir string, seen map[inode]bool) uint64 {
	top, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(top)
	var sum uint64
	left := []string{"."}
	for len(left) > 0 && ctx.Err() == nil {
		at := left[len(left)-1]
		left = left[:len(left)-1]
		d, err := openAt(top, at)
		if err != nil {
			continue
		}
		bytes, below := useOf(d, at, seen)
		d.Close()
		sum += bytes
		left = append(left, below...)
	}
	return sum
}

// openAt opens a directory below another by its path there; the kernel refuses links.
func openAt(top int, at string) (*os.File, error) {
	fd, err := unix.Openat2(top, at, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), at), nil
}

// useOf counts a directory and its files, and names the directories in it.
func useOf(d *os.File, at string, seen map[inode]bool) (sum uint64, below []string) {
	var st unix.Stat_t
	if unix.Fstat(int(d.Fd()), &st) == nil {
		sum += uint64(st.Blocks)*512 + perName
	}
	for {
		names, err := d.Readdirnames(batch)
		for _, name := range names {
			if unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
				continue
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				below = append(below, path.Join(at, name))
				continue
			}
			sum += perName
			if st.Nlink > 1 {
				key := inode{st.Dev, st.Ino}
				if seen[key] {
					continue
				}
				seen[key] = true
			}
			sum += uint64(st.Blocks) * 512
		}
		if err != nil || len(names) == 0 {
			return sum, below
		}
	}
}

// Remove removes a directory with all that is in it; it is no error if there is none.
// Directories within are brought up to the top one by one, so that depth costs nothing.
func Remove(dir string) error {
	err := unix.Unlinkat(unix.AT_FDCWD, dir, 0)
	switch {
	case err == nil || errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM):
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	r := remover{top: os.NewFile(uintptr(fd), dir)}
	defer r.top.Close()
	if err := r.empty(); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

type remover struct {
	top   *os.File
	moved int // names given to directories that were brought up
}

// empty goes over the top until nothing is left in it; whatever it cannot remove is an
// error, so each round has fewer entries in the whole tree.
func (r *remover) empty() error {
	for {
		if _, err := r.top.Seek(0, io.SeekStart); err != nil {
			return err
		}
		names, err := r.top.Readdirnames(batch)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(names) == 0 {
			return nil
		}
		for _, name := range names {
			if err := r.remove(name); err != nil {
				return err
			}
		}
	}
}

func (r *remover) remove(name string) error {
	top := int(r.top.Fd())
	if gone, err := unlink(top, name); gone || err != nil {
		return err
	}
	d, err := openAt(top, name)
	if err != nil {
		return fmt.Errorf("open %q: %w", name, err)
	}
	defer d.Close()
	for {
		if _, err := d.Seek(0, io.SeekStart); err != nil {
			return err
		}
		names, err := d.Readdirnames(batch)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(names) == 0 {
			_, err := unlink(top, name)
			return err
		}
		for _, n := range names {
			if gone, err := unlink(int(d.Fd()), n); err != nil {
				return err
			} else if !gone {
				if err := r.bringUp(int(d.Fd()), n); err != nil {
					return err
				}
			}
		}
	}
}

// bringUp moves a directory that is not empty to the top, under a name of its own.
func (r *remover) bringUp(from int, name string) error {
	for {
		r.moved++
		err := unix.Renameat2(from, name, int(r.top.Fd()), ".going-"+strconv.Itoa(r.moved), unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			return fmt.Errorf("move %q: %w", name, err)
		}
		return nil
	}
}

// unlink removes a file or an empty directory; gone is false for one that is not empty.
func unlink(dir int, name string) (gone bool, err error) {
	err = unix.Unlinkat(dir, name, 0)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}
	switch {
	case err == nil || errors.Is(err, unix.ENOENT):
		return true, nil
	case errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST):
		return false, nil
	}
	return false, fmt.Errorf("remove %q: %w", name, err)
}
