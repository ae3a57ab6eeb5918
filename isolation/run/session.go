package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/stdio"
)

// A session's standard streams are pipes, or one terminal, whose outer ends wait here for
// whoever launched it. Nothing of them is written to files. It ends with the connection
// that launched it, and with this program.

// stdioEnds are both ends of a container's standard streams. Inner ones are the
// container's; nil is /dev/null, and all of them with a terminal.
type stdioEnds struct {
	stdin, stdout, stderr *os.File
	terminal              *keeper.Terminal
	outer                 outerEnds
}

// outerEnds are what is handed over, by stream; a terminal is in STDOUT's place.
type outerEnds [3]*os.File

// openStdio makes the streams of what is entered into its parent.
func openStdio(j *Job, uid, gid int) (s *stdioEnds, err error) {
	s = &stdioEnds{}
	if s.terminal = j.Launch.GetTerminal(); s.terminal != nil && j.Launch.GetSession() {
		return s, os.MkdirAll(j.Paths.pipes, 0o700)
	}
	if err := stdio.Make(j.Paths.pipes, uid, gid); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.closeInner()
			s.closeOuter()
		}
	}()
	if s.stdout, err = stdio.OpenWriter(j.Paths.pipes, "stdout"); err != nil {
		return nil, err
	}
	if s.stderr, err = stdio.OpenWriter(j.Paths.pipes, "stderr"); err != nil {
		return nil, err
	}
	if !j.Launch.GetSession() {
		return s, nil
	}
	for stream, name := range map[keeper.Attach_Stream]string{keeper.Attach_STDOUT: "stdout", keeper.Attach_STDERR: "stderr"} {
		if s.outer[stream], err = openPipe(filepath.Join(j.Paths.pipes, name), unix.O_RDONLY|unix.O_NONBLOCK); err != nil {
			return nil, err
		}
	}
	s.stdin, s.outer[keeper.Attach_STDIN], err = pipeIn(filepath.Join(j.Paths.pipes, "stdin"), uid, gid)
	return s, err
}

// pipeIn makes a standard input: an end to read that is the container's, and one to write.
func pipeIn(path string, uid, gid int) (in, out *os.File, err error) {
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, nil, fmt.Errorf("make pipe %s: %w", path, err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, uid, gid); err != nil {
			return nil, nil, fmt.Errorf("make pipe: %w", err)
		}
	}
	// Neither end can be opened alone without waiting for the other.
	both, err := openPipe(path, unix.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return nil, nil, err
	}
	defer both.Close()
	if in, err = openPipe(path, unix.O_RDONLY); err != nil {
		return nil, nil, err
	}
	if out, err = openPipe(path, unix.O_WRONLY|unix.O_NONBLOCK); err != nil {
		in.Close()
		return nil, nil, err
	}
	return in, out, nil
}

func openPipe(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open pipe %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (s *stdioEnds) closeInner() {
	for _, f := range []*os.File{s.stdin, s.stdout, s.stderr} {
		if f != nil {
			f.Close()
		}
	}
	s.stdin, s.stdout, s.stderr = nil, nil, nil
}

func (s *stdioEnds) closeOuter() { s.outer.close() }

func (o *outerEnds) close() {
	for i, f := range o {
		if f != nil {
			f.Close()
		}
		o[i] = nil
	}
}

// Attach hands over one end of a session's streams; the caller closes it.
func (k *Keeper) Attach(m *keeper.Attach) (*os.File, error) {
	c := k.nested(m.GetContainerId())
	if c == nil {
		return nil, fmt.Errorf("%w: nested container %q", ErrNotFound, m.GetContainerId())
	}
	if m.GetStream() < 0 || int(m.GetStream()) >= len(c.outer) {
		return nil, fmt.Errorf("%w: a stream of a kind that is not known here", ErrInvalid)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.outer[m.GetStream()]
	if f == nil {
		return nil, fmt.Errorf("%w: container %q has no %s to be had, or it was handed over", ErrInvalid, m.GetContainerId(), m.GetStream())
	}
	c.outer[m.GetStream()] = nil
	return f, nil
}

// EndSession ends a session whose launcher is gone.
func (k *Keeper) EndSession(id string) {
	c := k.nested(id)
	if c == nil {
		return
	}
	c.mu.Lock()
	c.outer.close()
	c.mu.Unlock()
	if err := k.kill(c, 0); err != nil {
		k.log.Error("a session cannot be ended", "container", id, "error", err)
	}
}

// openTerminal makes a terminal of this machine's; the inner end is the container's.
func openTerminal(t *keeper.Terminal) (inner, outer *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	outer = os.NewFile(uintptr(fd), "terminal")
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
		var n uint32
		if n, err = unix.IoctlGetUint32(fd, unix.TIOCGPTN); err == nil {
			inner, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
		}
	}
	if err == nil && t.GetRows() > 0 && t.GetColumns() > 0 {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(t.GetRows()), Col: uint16(t.GetColumns())})
	}
	if err != nil {
		if inner != nil {
			inner.Close()
		}
		outer.Close()
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	return inner, outer, nil
}
