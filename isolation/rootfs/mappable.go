package rootfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrNoIDMaps says that a file system cannot show its files as other ids'.
var ErrNoIDMaps = errors.New("its file system has no id maps")

// CheckIDMaps tries whether what lies at a path can be shown with the ids of a container.
func CheckIDMaps(at string, ids IDs) error {
	userns, err := userNamespace(ids)
	if err != nil {
		return fmt.Errorf("make map of ids: %w", err)
	}
	defer userns.Close()
	clone, err := unix.OpenTree(unix.AT_FDCWD, at, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clone mount: %w", err)
	}
	defer unix.Close(clone)
	err = unix.MountSetattr(clone, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())})
	if errors.Is(err, unix.EINVAL) {
		return ErrNoIDMaps
	}
	if err != nil {
		return fmt.Errorf("map ids: %w", err)
	}
	return nil
}
