package replica

import (
	"path/filepath"

	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// Disk does what a replica writes. The one that is used when Config names none does each
// step at once; one that models a disk decides whether, when and how far a step happens.
type Disk interface {
	// Do does a step by calling f, and answers what the replica shall take for its outcome.
	Do(s Step, f func() error) error
}

// Step is one thing that happens between a log entry's arrival and its being forgotten.
type Step struct {
	Point  Point
	Path   string // of the file or directory that is written
	Offset int64  // LogWrite: where Data goes
	Data   []byte // LogWrite, SnapshotWrite: only to be read
}

// Point names a kind of step; a power cut before and one after it are different things.
type Point string

// The points, in the order of an entry's life.
const (
	TermWrite     Point = "term written"
	VoteWrite     Point = "vote written"
	LogCreate     Point = "log file created"
	LogWrite      Point = "log written"
	LogFlush      Point = "log flushed"
	LogSegments   Point = "list of log files written"
	LogDelete     Point = "log file deleted"
	EntryApply    Point = "entry applied"
	SnapshotBegin Point = "snapshot begun"
	SnapshotWrite Point = "snapshot written"
	SnapshotClose Point = "snapshot flushed and named"
	StateRestore  Point = "state restored"
)

// Points are all of them.
func Points() []Point {
	return []Point{
		TermWrite, VoteWrite, LogCreate, LogWrite, LogFlush, LogSegments, LogDelete,
		EntryApply, SnapshotBegin, SnapshotWrite, SnapshotClose, StateRestore,
	}
}

// atOnce is the Disk that Config need not name.
type atOnce struct{}

// Do implements Disk.
func (atOnce) Do(_ Step, f func() error) error { return f() }

// logFiles are the log's files, written through a Disk.
type logFiles struct {
	types.VFS
	disk Disk
}

func newLogFiles(d Disk) logFiles { return logFiles{fs.New(), d} }

// Create implements types.VFS.
func (l logFiles) Create(dir, name string, size uint64) (types.WritableFile, error) {
	path := filepath.Join(dir, name)
	var f types.WritableFile
	err := l.disk.Do(Step{Point: LogCreate, Path: path}, func() (err error) {
		f, err = l.VFS.Create(dir, name, size)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &logFile{f, path, l.disk}, nil
}

// OpenWriter implements types.VFS.
func (l logFiles) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := l.VFS.OpenWriter(dir, name)
	if err != nil {
		return nil, err
	}
	return &logFile{f, filepath.Join(dir, name), l.disk}, nil
}

// Delete implements types.VFS.
func (l logFiles) Delete(dir, name string) error {
	return l.disk.Do(Step{Point: LogDelete, Path: filepath.Join(dir, name)}, func() error { return l.VFS.Delete(dir, name) })
}

type logFile struct {
	types.WritableFile
	path string
	disk Disk
}

// WriteAt implements io.WriterAt.
func (f *logFile) WriteAt(p []byte, at int64) (n int, err error) {
	err = f.disk.Do(Step{Point: LogWrite, Path: f.path, Offset: at, Data: p}, func() (err error) {
		n, err = f.WritableFile.WriteAt(p, at)
		return err
	})
	return n, err
}

// Sync implements types.WritableFile.
func (f *logFile) Sync() error {
	return f.disk.Do(Step{Point: LogFlush, Path: f.path}, f.WritableFile.Sync)
}
