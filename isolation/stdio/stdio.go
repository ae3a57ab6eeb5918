// Package stdio moves a container's output from its pipes to the files of its sandbox.
//
// Each stream is a named pipe outside the sandbox that the container's processes hold
// open for reading and writing, so that they neither get SIGPIPE nor lose a byte while
// the keeper is away. Bytes go by splice(2) to the end of the file: what has left the
// pipe is in the file, whatever kills the keeper.
//
// A file that reaches its limit becomes NAME.1 and a new one is begun, so that a task's
// output takes no more than two files of that size for each stream.
//
// Invariants: nothing that a task puts in place of its files is followed or written to;
// a full disk drops bytes, counted, and never stops the task; after the end the pipe is
// emptied until it has nothing more, never until all writers are gone. Who may read the
// files, and what becomes of them, is not known here.
package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	pipeBytes = 1 << 20
	chunk     = 1 << 20
)

// Streams are the names of the pipes and of the sandbox's files.
var Streams = []string{"stdout", "stderr"}

// Make makes the pipes of a container, owned by its user; it may be done again.
func Make(dir string, uid, gid int) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory of pipes: %w", err)
	}
	for _, name := range Streams {
		path := filepath.Join(dir, name)
		if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make pipe %s: %w", path, err)
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(path, uid, gid); err != nil {
				return fmt.Errorf("make pipe: %w", err)
			}
		}
	}
	return nil
}

// OpenWriter opens a pipe as the container's processes hold it.
func OpenWriter(dir, name string) (*os.File, error) {
	fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open pipe %s: %w", name, err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, pipeBytes); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EBUSY) {
		unix.Close(fd)
		return nil, fmt.Errorf("size pipe %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Pump is one stream on its way.
type Pump struct {
	pipe    *os.File
	file    *os.File // nil: what is in its place is not ours
	before  *os.File // the file that was full before this one, whatever its name is now
	limit   int64    // bytes of one file; 0: none
	reopen  func() (*os.File, error)
	sandbox string
	name    string
	dropped atomic.Int64
}

// Before is what is added to the name of the file that was full before the present one.
const Before = ".1"

// Open opens a stream's pipe for reading and its file in the sandbox, making the file
// if it is not there. A file is no larger than limit, unless that is 0.
func Open(dir, sandbox, name string, uid, gid int, limit int64) (*Pump, error) {
	fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open pipe %s: %w", name, err)
	}
	p := &Pump{pipe: os.NewFile(uintptr(fd), name), limit: limit, sandbox: sandbox, name: name}
	p.reopen = func() (*os.File, error) { return openFile(sandbox, name, uid, gid) }
	if p.file, err = p.reopen(); err != nil {
		p.pipe.Close()
		return nil, err
	}
	return p, nil
}

// openFile opens a regular file of the sandbox for writing. A task can put anything in
// its place: then the answer is nil, and its output is dropped.
func openFile(sandbox, name string, uid, gid int) (*os.File, error) {
	root, err := os.OpenRoot(sandbox)
	if err != nil {
		return nil, fmt.Errorf("open sandbox: %w", err)
	}
	defer root.Close()
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 {
		f.Close()
		return nil, nil
	}
	if st.Size == 0 && os.Geteuid() == 0 {
		if err := f.Chown(uid, gid); err != nil {
			f.Close()
			return nil, fmt.Errorf("give %s to the task: %w", name, err)
		}
	}
	return f, nil
}

// Dropped is how many bytes did not fit on the disk.
func (p *Pump) Dropped() int64 { return p.dropped.Load() }

// Run moves bytes until all writers are gone or ctx ends; then it empties the pipe and
// closes both ends.
func (p *Pump) Run(ctx context.Context) error {
	defer p.close()
	stop := context.AfterFunc(ctx, func() { p.pipe.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := p.pipe.SyscallConn()
	if err != nil {
		return fmt.Errorf("pump output: %w", err)
	}
	for {
		var n int64
		var moveErr error
		err := raw.Read(func(fd uintptr) bool {
			n, moveErr = p.move(int(fd))
			return !errors.Is(moveErr, unix.EAGAIN)
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return p.drain()
		case err != nil:
			return fmt.Errorf("pump output: %w", err)
		case moveErr != nil:
			return fmt.Errorf("pump output: %w", moveErr)
		case n == 0:
			return nil
		}
	}
}

func (p *Pump) drain() error {
	raw, err := p.pipe.SyscallConn()
	if err != nil {
		return fmt.Errorf("empty output pipe: %w", err)
	}
	var moveErr error
	err = raw.Control(func(fd uintptr) {
		for n := int64(1); n > 0 && moveErr == nil; {
			n, moveErr = p.move(int(fd))
		}
	})
	if errors.Is(moveErr, unix.EAGAIN) {
		moveErr = nil
	}
	if err = errors.Join(err, moveErr); err != nil {
		return fmt.Errorf("empty output pipe: %w", err)
	}
	return nil
}

// move takes one chunk out of the pipe and puts it at the file's present end, so that a
// task may cut its file short.
func (p *Pump) move(fd int) (int64, error) {
	for {
		if p.file == nil {
			return p.drop(fd)
		}
		end, err := p.file.Seek(0, io.SeekEnd)
		if err != nil {
			return p.drop(fd)
		}
		most := chunk
		if p.limit > 0 {
			if end >= p.limit {
				if err := p.turn(); err != nil {
					return p.drop(fd)
				}
				continue
			}
			most = int(min(chunk, p.limit-end))
		}
		n, err := unix.Splice(fd, nil, int(p.file.Fd()), &end, most, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil && !errors.Is(err, unix.EAGAIN):
			// Whatever the file's trouble is (a full disk, an end that its task set
			// beyond all files), a pipe that nobody empties would stop the task.
			return p.drop(fd)
		}
		return int64(n), err
	}
}

func (p *Pump) drop(fd int) (int64, error) {
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, err
		}
		p.dropped.Add(int64(n))
		return int64(n), nil
	}
}

// turn puts a full file aside and begins the next. Whatever a task has done with names,
// what was written for it is let go of by the descriptor; a file that is no longer under
// its name is emptied in place.
func (p *Pump) turn() error {
	if p.before != nil {
		if err := p.before.Truncate(0); err != nil {
			return err
		}
		p.before.Close()
		p.before = nil
	}
	if !p.aside() {
		return p.file.Truncate(0)
	}
	p.before = p.file
	var err error
	p.file, err = p.reopen()
	return err
}

// aside gives the present file the older name, if it still has its own.
func (p *Pump) aside() bool {
	root, err := os.OpenRoot(p.sandbox)
	if err != nil {
		return false
	}
	defer root.Close()
	ours, err := p.file.Stat()
	if err != nil {
		return false
	}
	there, err := root.Lstat(p.name)
	return err == nil && os.SameFile(ours, there) && root.Rename(p.name, p.name+Before) == nil
}

func (p *Pump) close() {
	p.pipe.Close()
	if p.before != nil {
		p.before.Close()
	}
	if p.file != nil {
		p.file.Close()
	}
}
