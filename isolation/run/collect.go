package run

import (
	"context"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/isolation/records"
	"github.com/mesolith/mesolith/isolation/tree"
)

// sandboxShare is the part of the disk that sandboxes of finished tasks may take.
const sandboxShare = 4

// fullShare: with less than one part in so many left, images that nobody uses go.
const fullShare = 4

// collect removes the oldest sandboxes of finished tasks once all of them take more
// than their share; it looks when a task has ended, at most once in collectEvery.
const collectEvery = 10 * time.Second

func (k *Keeper) collect(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.sweep:
		}
		k.collectOnce(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(collectEvery):
		}
	}
}

type oldSandbox struct {
	path  string
	ended time.Time
	bytes uint64
}

func (k *Keeper) collectOnce(ctx context.Context) {
	most, err := k.sandboxesMay()
	if err != nil {
		k.log.Warn("sandboxes cannot be counted", "error", err)
		return
	}
	k.collectBeyond(ctx, most)
	full := k.cfg.Full
	if full == nil {
		full = k.nearlyFull
	}
	if full(k.cfg.StoreDir) {
		if err := k.collectImages(func() bool { return full(k.cfg.StoreDir) }); err != nil {
			k.log.Warn("old images are left", "error", err)
		}
	}
}

func (k *Keeper) nearlyFull(storeDir string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(storeDir, &st); err != nil {
		k.log.Warn("image store cannot be measured", "error", err)
		return false
	}
	return st.Bavail*fullShare < st.Blocks
}

// askCollect makes the collector look soon.
func (k *Keeper) askCollect() {
	select {
	case k.sweep <- struct{}{}:
	default:
	}
}

func (k *Keeper) collectBeyond(ctx context.Context, most uint64) {
	k.left.mu.Lock() // one at a time
	defer k.left.mu.Unlock()
	// A pattern of fixed depth never walks into a sandbox. Who lives is asked afterwards:
	// a container is known before it has a sandbox.
	dirs, err := filepath.Glob(filepath.Join(k.cfg.WorkDir, "slaves/*/frameworks/*/executors/*/runs/*"))
	if err != nil {
		return
	}
	live := map[string]bool{}
	k.mu.Lock()
	for id, c := range k.containers {
		c.mu.Lock()
		live[id] = c.rec.Step != records.Done
		c.mu.Unlock()
	}
	k.mu.Unlock()
	var old []oldSandbox
	var sum uint64
	known := k.left.bytes
	k.left.bytes = map[string]uint64{}
	for _, d := range dirs {
		info, err := os.Lstat(d)
		if err != nil || !info.IsDir() {
			continue
		}
		bytes, measured := known[d]
		if live[strings.TrimSuffix(filepath.Base(d), nestedSuffix)] {
			if measured { // its end is about to be told
				k.left.bytes[d] = bytes
				sum += bytes
			}
			continue
		}
		if !measured {
			bytes = tree.Use(ctx, d)
		}
		k.left.bytes[d] = bytes
		s := oldSandbox{path: d, ended: info.ModTime(), bytes: bytes}
		if out, err := os.Lstat(filepath.Join(d, "stdout")); err == nil && out.ModTime().After(s.ended) {
			s.ended = out.ModTime()
		}
		old = append(old, s)
		sum += s.bytes
	}
	sort.Slice(old, func(i, j int) bool { return old[i].ended.Before(old[j].ended) })
	for _, s := range old {
		if sum <= most || ctx.Err() != nil {
			return
		}
		if err := tree.Remove(s.path); err != nil {
			k.log.Warn("old sandbox is left", "path", s.path, "error", err)
			continue
		}
		k.log.Info("old sandbox is removed", "path", s.path, "bytes", s.bytes)
		sum -= s.bytes
		delete(k.left.bytes, s.path)
		k.removeEmpty(filepath.Dir(s.path))
	}
}

// removeEmpty removes a directory of runs and those above it that hold no run any more.
func (k *Keeper) removeEmpty(runs string) {
	latest := filepath.Join(runs, "latest")
	if _, err := os.Stat(latest); err != nil {
		os.Remove(latest)
	}
	for dir := runs; dir != k.cfg.WorkDir && len(dir) > len(k.cfg.WorkDir); dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil {
			return
		}
	}
}
