package images

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/imagestore"
)

// Limits bound what one layer may make of the disk.
type Limits struct {
	Bytes   int64 // of regular files
	Entries int
	Path    int // bytes of one name
	Ratio   int64
}

// DefaultLimits suit images of any sane size.
func DefaultLimits() Limits {
	return Limits{Bytes: 16 << 30, Entries: 1_000_000, Path: 4096, Ratio: 1000}
}

// ErrBadEntry says that an archive has an entry that no sound one has.
var ErrBadEntry = errors.New("bad entry")

// errTooMuch says that files are larger than what there is room for.
var errTooMuch = fmt.Errorf("%w: more bytes of files than are allowed", ErrBadEntry)

// idRange is how many ids a container's files can have.
const idRange = 65536

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// unpacker writes one archive below a directory. Every name is resolved by the kernel
// with that directory as its root (openat2, RESOLVE_IN_ROOT), so that neither "..",
// nor a symbolic link, nor an absolute one can lead out of it.
//
// In a sandbox, which is no root of a file system, the kernel refuses what would lead out
// (RESOLVE_BENEATH), and so are links that would; whiteouts are files as others, and no
// device, owner or attribute comes from the archive.
type unpacker struct {
	root    int // descriptor of the directory
	sandbox bool
	limits  Limits
	chown   bool
	in      *counter // the archive, as it is read
	entries int
	bytes   int64

	parentName string
	parent     int // cached descriptor of parentName; -1: none
	dirTimes   []dirTime
	symlinks   []string // of a sandbox
}

type dirTime struct {
	name string
	at   time.Time
	mode uint32 // of a sandbox's: one that may not be written to is filled first
}

// unpack reads a tar stream into the directory dir and returns the bytes of its files.
// It stops at the archive's end; the caller reads the rest of the stream (padding) so
// that the digest covers all of it.
func unpack(dir string, r io.Reader, limits Limits, chown bool) (int64, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", dir, err)
	}
	u := &unpacker{root: root, limits: limits, chown: chown, parent: -1, in: &counter{r: r}}
	defer unix.Close(root)
	err = u.tar()
	return u.bytes, err
}

// tar unpacks a tar stream.
func (u *unpacker) tar() error {
	defer u.dropParent()
	archive := tar.NewReader(u.in)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return u.setDirTimes()
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		if err := u.entry(h, archive); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

// cleanName gives the entry's path without a leading slash; "." is the root itself.
func (u *unpacker) cleanName(name string) (string, error) {
	if len(name) > u.limits.Path {
		return "", fmt.Errorf("%w: name of %d bytes, at most %d", ErrBadEntry, len(name), u.limits.Path)
	}
	if strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("%w: name has a NUL byte", ErrBadEntry)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%w: name leaves %s", ErrBadEntry, u.place())
		}
	}
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return ".", nil
	}
	return name, nil
}

// place is what nothing leaves, in a message.
func (u *unpacker) place() string {
	if u.sandbox {
		return "the sandbox"
	}
	return "the image's root"
}

func (u *unpacker) entry(h *tar.Header, body io.Reader) error {
	u.entries++
	if u.entries > u.limits.Entries {
		return fmt.Errorf("%w: more than %d entries", ErrBadEntry, u.limits.Entries)
	}
	name, err := u.cleanName(h.Name)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // words about what follows, not a file
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return fmt.Errorf("%w: the root is not a directory", ErrBadEntry)
		}
		if u.sandbox {
			return nil
		}
		return u.meta(u.root, ".", h)
	}
	dir, base := path.Split(name)
	parent, err := u.openParent(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) && !u.sandbox {
		return u.whiteout(parent, base)
	}
	hidden, err := u.clear(parent, base, h.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	if err := u.create(parent, name, base, h, body); err != nil {
		return err
	}
	if hidden && h.Typeflag == tar.TypeDir && !u.sandbox {
		return opaque(parent, base)
	}
	return nil
}

func (u *unpacker) create(parent int, name, base string, h *tar.Header, body io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		if err := unix.Mkdirat(parent, base, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make directory: %w", err)
		}
		u.dirTimes = append(u.dirTimes, dirTime{name, h.ModTime, uint32(h.Mode) & 0o777})
	case tar.TypeReg:
		if err := u.file(parent, base, h, body); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := u.checkLink(name, h.Linkname); err != nil {
			return err
		}
		if err := unix.Symlinkat(h.Linkname, parent, base); err != nil {
			return fmt.Errorf("make symbolic link: %w", err)
		}
	case tar.TypeLink:
		return u.link(parent, base, h.Linkname)
	case tar.TypeFifo:
		if err := unix.Mknodat(parent, base, unix.S_IFIFO|0o600, 0); err != nil {
			return fmt.Errorf("make pipe: %w", err)
		}
	case tar.TypeChar, tar.TypeBlock:
		if u.sandbox {
			return fmt.Errorf("%w: it is a device", ErrBadEntry)
		}
		return nil // containers get their devices from the keeper, never from an image
	default:
		return fmt.Errorf("%w: type %q is not one of a file system's", ErrBadEntry, h.Typeflag)
	}
	return u.meta(parent, base, h)
}

func (u *unpacker) file(parent int, base string, h *tar.Header, body io.Reader) error {
	if h.Size < 0 || h.Size > u.limits.Bytes-u.bytes {
		return fmt.Errorf("%w (%d)", errTooMuch, u.limits.Bytes)
	}
	fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("make file: %w", err)
	}
	n, err := io.Copy(fdWriter(fd), io.LimitReader(u.dense(body), u.limits.Bytes-u.bytes+1))
	if err == nil && n > u.limits.Bytes-u.bytes {
		err = fmt.Errorf("%w (%d)", errTooMuch, u.limits.Bytes)
	}
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	u.bytes += n
	if err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	return nil
}

// dense stops a file of holes, which an archive says in a few bytes, as the bomb that it
// is: the disk would hold every byte of it.
func (u *unpacker) dense(body io.Reader) io.Reader {
	return &ratioReader{r: body, in: u.in, out: u.bytes, ratio: u.limits.Ratio}
}

// fdWriter writes to a plain descriptor.
type fdWriter int

func (fd fdWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Write(int(fd), p[done:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

func (u *unpacker) link(parent int, base, target string) error {
	target, err := u.cleanName(target)
	if err != nil {
		return fmt.Errorf("link target: %w", err)
	}
	dir, name := path.Split(target)
	from, err := u.openDir(strings.TrimSuffix(dir, "/"), false)
	if err != nil {
		return fmt.Errorf("link target %q: %w", target, err)
	}
	defer unix.Close(from)
	if err := unix.Linkat(from, name, parent, base, 0); err != nil {
		return fmt.Errorf("link to %q: %w", target, err)
	}
	return nil
}

func (u *unpacker) whiteout(parent int, base string) error {
	if base == opaqueMarker {
		return opaque(parent, ".")
	}
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if hidden == "" || hidden == "." || hidden == ".." || strings.HasPrefix(hidden, whiteoutPrefix) {
		return fmt.Errorf("%w: whiteout of %q", ErrBadEntry, hidden)
	}
	// It is about lower layers only: what this one has under the name stays, and hides
	// them by itself unless it is a directory.
	switch kind, err := kindOf(parent, hidden); {
	case err != nil:
		return err
	case kind == unix.S_IFDIR:
		return opaque(parent, hidden)
	case kind != 0:
		return nil
	}
	if err := unix.Mknodat(parent, hidden, unix.S_IFCHR, 0); err != nil {
		return fmt.Errorf("make whiteout: %w", err)
	}
	return nil
}

// opaque makes a directory hide what lower layers have in it.
func opaque(parent int, base string) error {
	at := fmt.Sprintf("/proc/self/fd/%d/%s", parent, base)
	if err := unix.Lsetxattr(at, imagestore.OpaqueXattr, []byte("y"), 0); err != nil {
		return fmt.Errorf("mark opaque: %w", err)
	}
	return nil
}

// kindOf is the file type of a name; 0: there is nothing.
func kindOf(parent int, base string) (uint32, error) {
	var st unix.Stat_t
	err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at: %w", err)
	}
	return st.Mode & unix.S_IFMT, nil
}

// meta gives an entry its owner, mode, extended attributes and time.
func (u *unpacker) meta(parent int, base string, h *tar.Header) error {
	if u.sandbox {
		return u.sandboxMeta(parent, base, h)
	}
	if u.chown {
		if h.Uid < 0 || h.Uid >= idRange || h.Gid < 0 || h.Gid >= idRange {
			return fmt.Errorf("%w: owner %d:%d; a container has the ids 0 to %d", ErrBadEntry, h.Uid, h.Gid, idRange-1)
		}
		if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("set owner %d:%d: %w", h.Uid, h.Gid, err)
		}
	}
	where := fmt.Sprintf("/proc/self/fd/%d/%s", parent, base)
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || !strings.HasPrefix(attr, "user.") || strings.HasPrefix(attr, "user.overlay.") {
			continue // capabilities are worth nothing under no_new_privs; overlay's are not the image's to set
		}
		if err := unix.Lsetxattr(where, attr, []byte(value), 0); err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("set attribute %s: %w", attr, err)
		}
	}
	if h.Typeflag != tar.TypeSymlink {
		mode := uint32(h.Mode) & 0o7777
		if err := unix.Fchmodat(parent, base, mode, 0); err != nil {
			return fmt.Errorf("set mode %o: %w", mode, err)
		}
	}
	if h.Typeflag == tar.TypeDir {
		return nil // its time is set last
	}
	return setTime(parent, base, h.ModTime)
}

func setTime(parent int, base string, at time.Time) error {
	ts := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano())}
	if err := unix.UtimesNanoAt(parent, base, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

func (u *unpacker) setDirTimes() error {
	for i := len(u.dirTimes) - 1; i >= 0; i-- {
		d := u.dirTimes[i]
		dir, base := path.Split(d.name)
		parent, err := u.openDir(strings.TrimSuffix(dir, "/"), false)
		if err != nil {
			continue // a later entry replaced it
		}
		err = setTime(parent, base, d.at)
		if err == nil && u.sandbox {
			err = unix.Fchmodat(parent, base, d.mode, 0)
		}
		unix.Close(parent)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("entry %q: %w", d.name, err)
		}
	}
	return nil
}

// clear removes what an earlier entry of the same layer left under a name, except a
// directory where a directory comes. It says whether that was a whiteout.
func (u *unpacker) clear(parent int, base string, keepDir bool) (hidden bool, err error) {
	kind, err := kindOf(parent, base)
	if err != nil || kind == 0 {
		return false, err
	}
	isDir := kind == unix.S_IFDIR
	if isDir && keepDir {
		return false, nil
	}
	u.dropParentUnless(parent)
	if err := removeAt(parent, base, isDir); err != nil {
		return false, fmt.Errorf("replace: %w", err)
	}
	return kind == unix.S_IFCHR, nil // an image makes no devices
}

// openParent opens the directory of an entry, making what is missing; the descriptor
// stays cached, because entries of one directory follow each other.
func (u *unpacker) openParent(dir string) (int, error) {
	if u.parent >= 0 && u.parentName == dir {
		return u.parent, nil
	}
	u.dropParent()
	fd, err := u.openDir(dir, true)
	if err != nil {
		return -1, err
	}
	u.parent, u.parentName = fd, dir
	return fd, nil
}

func (u *unpacker) dropParent() {
	if u.parent >= 0 {
		unix.Close(u.parent)
	}
	u.parent = -1
}

// dropParentUnless forgets the cached name but keeps the descriptor in use.
func (u *unpacker) dropParentUnless(fd int) {
	if u.parent != fd {
		u.dropParent()
	}
}

func (u *unpacker) openDir(dir string, create bool) (int, error) {
	if dir == "" {
		dir = "."
	}
	how := &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	if u.sandbox {
		how.Resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS
	}
	fd, err := unix.Openat2(u.root, dir, how)
	if err == nil {
		return fd, nil
	}
	if u.sandbox && errors.Is(err, unix.EXDEV) {
		return -1, fmt.Errorf("%w: %q leads out of the sandbox", ErrBadEntry, dir)
	}
	if !create || !errors.Is(err, unix.ENOENT) {
		return -1, fmt.Errorf("open directory %q: %w", dir, err)
	}
	above, base := path.Split(dir)
	parent, err := u.openDir(strings.TrimSuffix(above, "/"), true)
	if err != nil {
		return -1, err
	}
	err = unix.Mkdirat(parent, base, 0o755)
	unix.Close(parent)
	if err != nil {
		return -1, fmt.Errorf("make directory %q: %w", dir, err)
	}
	fd, err = unix.Openat2(u.root, dir, how)
	if err != nil {
		return -1, fmt.Errorf("open directory %q: %w", dir, err)
	}
	return fd, nil
}
