package run

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"
)

// diskInterval is how often the disk use of a container with a disk resource is
// measured, as in Mesos.
const diskInterval = 15 * time.Second

// diskWatch measures what a container has on disk: its sandbox and what it changed in
// its root file system.
type diskWatch struct {
	limit  uint64 // bytes; 0: none
	dirs   []string
	ticker *time.Ticker
}

func newDiskWatch(j *Job) *diskWatch {
	w := &diskWatch{limit: j.Launch.GetDiskBytes(), dirs: []string{j.Paths.sandbox, filepath.Join(j.Paths.bundle, "upper")}}
	if w.limit > 0 {
		w.ticker = time.NewTicker(diskInterval)
	}
	return w
}

func (w *diskWatch) ticks() <-chan time.Time {
	if w.ticker == nil {
		return nil
	}
	return w.ticker.C
}

func (w *diskWatch) stop() {
	if w.ticker != nil {
		w.ticker.Stop()
	}
}

// exceeded says why the container has to end; empty: it does not.
func (w *diskWatch) exceeded() string {
	var used uint64
	for _, d := range w.dirs {
		used += diskUse(d)
	}
	if used <= w.limit {
		return ""
	}
	return fmt.Sprintf("Disk limit exceeded: the container may use %d MB and used %d MB (sandbox and changes to its root); ask for more disk", w.limit>>20, used>>20)
}

// diskUse is what the blocks of a tree take, in bytes; what cannot be read counts nothing.
func diskUse(dir string) uint64 {
	var sum uint64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				sum += uint64(st.Blocks) * 512
			}
		}
		return nil
	})
	return sum
}
