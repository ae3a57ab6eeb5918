package images

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// removeAt removes a name below a directory, with everything in it, never following a
// symbolic link.
func removeAt(parent int, base string, isDir bool) error {
	if !isDir {
		return unix.Unlinkat(parent, base, 0)
	}
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", parent))
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.RemoveAll(base); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
