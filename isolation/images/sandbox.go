package images

import (
	"archive/tar"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// What differs where an archive is unpacked into a sandbox.

// sandboxMeta gives an entry of a sandbox its mode and time. Who owns it is the user that we
// are, and nothing in a sandbox runs with another's rights. A directory's are set last.
func (u *unpacker) sandboxMeta(parent int, base string, h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return nil
	case tar.TypeSymlink:
	default:
		mode := uint32(h.Mode) & 0o777
		if err := unix.Fchmodat(parent, base, mode, 0); err != nil {
			return fmt.Errorf("set mode %o: %w", mode, err)
		}
	}
	return setTime(parent, base, h.ModTime)
}

// checkLink refuses a symbolic link of a sandbox that by its words leads out of it, and
// remembers the others for checkLinks.
func (u *unpacker) checkLink(name, target string) error {
	if !u.sandbox {
		return nil
	}
	if at := path.Join("sandbox", path.Dir(name), target); path.IsAbs(target) || (at != "sandbox" && !strings.HasPrefix(at, "sandbox/")) {
		return fmt.Errorf("%w: the link to %.200q leads out of the sandbox", ErrBadEntry, target)
	}
	u.symlinks = append(u.symlinks, name)
	return nil
}

// checkLinks asks the kernel where the links lead: by way of other links one may lead out
// whose own words do not.
func (u *unpacker) checkLinks() error {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	for _, name := range u.symlinks {
		fd, err := unix.Openat2(u.root, name, how)
		if err == nil {
			unix.Close(fd)
		}
		if errors.Is(err, unix.EXDEV) {
			return fmt.Errorf("entry %q: %w: the link leads out of the sandbox", name, ErrBadEntry)
		}
	}
	return nil
}
