package run

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/mesolith/mesolith/isolation/spec"
	"github.com/mesolith/mesolith/isolation/tree"
)

// diskInterval is how often the disk use of a container with a disk resource is
// measured, as in Mesos.
const diskInterval = 15 * time.Second

// diskWatch measures what a container has on disk, beside whoever waits for its end: a
// tree of a million files takes its time, and a kill must not wait for that.
type diskWatch struct {
	limit   uint64 // bytes
	dirs    []string
	volumes []spec.Volume
	over    chan string // bound 1: why the container has to end; said once
	end     context.CancelFunc
	ended   chan struct{}
}

// watchDisk begins to measure a container's volumes, its sandbox and what it changed in its
// root, every so often, unless there is no limit: then over says nothing.
func watchDisk(ctx context.Context, j *Job, every time.Duration) *diskWatch {
	ctx, cancel := context.WithCancel(ctx)
	w := &diskWatch{
		limit: j.Launch.GetDiskBytes(), dirs: []string{j.Paths.sandbox, filepath.Join(j.Paths.bundle, "upper"), j.Paths.etc},
		volumes: j.Volumes, over: make(chan string, 1), end: cancel, ended: make(chan struct{}),
	}
	if w.limit == 0 && len(w.volumes) == 0 {
		close(w.ended)
		return w
	}
	go func() {
		defer close(w.ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if why := w.exceeded(ctx); why != "" {
				w.over <- why
				return
			}
		}
	}()
	return w
}

// stop ends the measuring and waits for that.
func (w *diskWatch) stop() {
	w.end()
	<-w.ended
}

// exceeded says why the container has to end; empty: it does not.
func (w *diskWatch) exceeded(ctx context.Context) string {
	for _, v := range w.volumes {
		if used := tree.Use(ctx, v.From); v.Bytes > 0 && used > v.Bytes {
			return fmt.Sprintf("Disk limit exceeded: the persistent volume at %s may hold %d MB and holds %d MB; grow it, or put less into it", v.Path, v.Bytes>>20, used>>20)
		}
	}
	if w.limit == 0 {
		return ""
	}
	used := tree.Use(ctx, w.dirs...)
	if used <= w.limit {
		return ""
	}
	return fmt.Sprintf("Disk limit exceeded: the container may use %d MB and used %d MB (sandbox and changes to its root); ask for more disk", w.limit>>20, used>>20)
}
