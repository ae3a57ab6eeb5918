package run

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/isolation/stdio"
	"github.com/mesolith/mesolith/isolation/tree"
)

// leftovers is what the sandboxes of ended tasks take, by path. Nobody writes to them any
// more, so that each is measured once.
type leftovers struct {
	mu    sync.Mutex
	bytes map[string]uint64
}

func (l *leftovers) note(path string, bytes uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes == nil {
		l.bytes = map[string]uint64{}
	}
	l.bytes[path] = bytes
}

func (l *leftovers) sum() (sum uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.bytes {
		sum += n
	}
	return sum
}

// filesAreMemory says whether tasks' files lie on a tmpfs.
func (k *Keeper) filesAreMemory() bool {
	var st unix.Statfs_t
	return unix.Statfs(k.cfg.WorkDir, &st) == nil && st.Type == unix.TMPFS_MAGIC
}

// sandboxesMay is what sandboxes of ended tasks may take in all: a share of the disk, and
// where files are memory, of the memory that images and they have together.
func (k *Keeper) sandboxesMay() (uint64, error) {
	dir := k.cfg.WorkDir
	if k.filesAreMemory() {
		dir = k.cfg.StoreDir
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Blocks * uint64(st.Bsize) / sandboxShare, nil
}

// settle makes room for what a container has left, before its end is told and its memory
// is offered again: its files are memory of all tasks from now on, and what they do not
// leave to the others, the kernel would take from one of those. A sandbox that is more
// than half of what all may take keeps the task's output only.
func (k *Keeper) settle(ctx context.Context, sandbox string) {
	if !k.filesAreMemory() {
		return
	}
	most, err := k.sandboxesMay()
	if err != nil {
		k.log.Warn("sandboxes cannot be counted", "error", err)
		return
	}
	own := tree.Use(ctx, sandbox)
	if own > most/2 {
		k.log.Info("what an ended task left is too much: only its output stays", "path", sandbox, "bytes", own, "most", most/2)
		k.keepOutput(sandbox)
		own = tree.Use(ctx, sandbox)
	}
	k.left.note(sandbox, own)
	if k.left.sum() > most {
		k.collectBeyond(ctx, most)
	}
}

// keepOutput removes everything else of a sandbox.
func (k *Keeper) keepOutput(sandbox string) {
	names, err := os.ReadDir(sandbox)
	if err != nil {
		return
	}
	for _, n := range names {
		ours := slices.ContainsFunc(stdio.Streams, func(s string) bool { return n.Name() == s || n.Name() == s+stdio.Before })
		if ours && n.Type().IsRegular() {
			continue
		}
		if err := tree.Remove(filepath.Join(sandbox, n.Name())); err != nil {
			k.log.Warn("something of an ended task is left", "path", sandbox, "name", n.Name(), "error", err)
		}
	}
}

// Bounds of what is kept of one stream of a task where files are memory: the newest file
// and the one before. What isolated writes for a task is isolated's memory and nobody's
// limit but this one.
const (
	outputShare = 32 // of the task's memory
	leastOutput = 256 << 10
	mostOutput  = 10 << 20
)

// outputLimit is how large a file of a task's output may become before the next is begun;
// 0: as large as the disk.
func (k *Keeper) outputLimit(j *Job) int64 {
	if !k.filesAreMemory() {
		return 0
	}
	return int64(min(max(j.Launch.GetMemoryBytes()/outputShare, leastOutput), mostOutput))
}
