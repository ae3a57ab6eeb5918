package rootfs

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoProgram says that a root lacks what it takes to start a program.
var ErrNoProgram = errors.New("cannot be started")

// openIn opens a path as a process with this root would, links and all.
func openIn(root int, name string) (*os.File, error) {
	fd, err := unix.Openat2(root, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// CheckProgram looks whether a program is there and its interpreter too, because the
// kernel's word for either is the same bare "no such file or directory".
func CheckProgram(root, name, searchPath, cwd string) error {
	top, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open root: %w", err)
	}
	defer unix.Close(top)
	f, err := findProgram(top, name, searchPath, cwd)
	if err != nil {
		return err
	}
	if f == nil {
		return nil // below a mount of the container's own: it will be seen
	}
	defer f.Close()
	interpreter := interpreterOf(f)
	if interpreter == "" {
		return nil
	}
	i, err := openIn(top, interpreter)
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("program %s %w: its interpreter %s is not in the image; use an image that has it (for tasks without one, tasks.image in the cluster file)", name, ErrNoProgram, interpreter)
	}
	if err == nil {
		i.Close()
	}
	return nil
}

func findProgram(top int, name, searchPath, cwd string) (*os.File, error) {
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join(cwd, name)
		}
		f, err := openIn(top, name)
		if errors.Is(err, unix.ENOENT) && !strings.HasPrefix(name, cwd) {
			return nil, fmt.Errorf("program %s %w: it is not in the image; check command.value (for tasks without an image, tasks.image in the cluster file)", name, ErrNoProgram)
		}
		return f, nil
	}
	for dir := range strings.SplitSeq(searchPath, ":") {
		if f, err := openIn(top, path.Join("/", dir, name)); err == nil {
			return f, nil
		}
	}
	return nil, fmt.Errorf("program %s %w: it is in no directory of PATH (%s) in the image; check command.value (for tasks without an image, tasks.image in the cluster file)", name, ErrNoProgram, searchPath)
}

// interpreterOf reads the first line of a script, or the loader that a program names.
func interpreterOf(f *os.File) string {
	head := make([]byte, 256)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	if line, ok := bytes.CutPrefix(head[:n], []byte("#!")); ok {
		s := bufio.NewScanner(bytes.NewReader(line))
		s.Scan()
		if fields := strings.Fields(s.Text()); len(fields) > 0 {
			return fields[0]
		}
		return ""
	}
	e, err := elf.NewFile(f)
	if err != nil {
		return ""
	}
	for _, p := range e.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		raw, err := io.ReadAll(p.Open())
		if err == nil {
			return strings.TrimRight(string(raw), "\x00")
		}
	}
	return ""
}
