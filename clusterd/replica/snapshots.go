package replica

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/mesolith/mesolith/internal/wholefile"
)

// snapshots are snapshots, written through a Disk.
type snapshots struct {
	raft.SnapshotStore
	dir  string
	disk Disk
	last atomic.Uint64 // index of the one that was begun last
}

func openSnapshots(dir string, d Disk) (*snapshots, error) {
	s, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotRetain, quiet())
	if err != nil {
		return nil, fmt.Errorf("open snapshots in %s: %w", dir, err)
	}
	return &snapshots{SnapshotStore: s, dir: filepath.Join(dir, "snapshots"), disk: d}, nil
}

// Create implements raft.SnapshotStore.
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, at uint64, t raft.Transport) (raft.SnapshotSink, error) {
	var sink raft.SnapshotSink
	err := s.disk.Do(Step{Point: SnapshotBegin, Path: s.dir}, func() (err error) {
		sink, err = s.SnapshotStore.Create(version, index, term, c, at, t)
		return err
	})
	if err != nil {
		return nil, advise(s.dir, err)
	}
	s.last.Store(index)
	return &snapshotSink{sink, s}, nil
}

type snapshotSink struct {
	raft.SnapshotSink
	store *snapshots
}

func (s *snapshotSink) path() string { return filepath.Join(s.store.dir, s.ID()) }

// Write implements io.Writer.
func (s *snapshotSink) Write(p []byte) (n int, err error) {
	err = s.store.disk.Do(Step{Point: SnapshotWrite, Path: s.path(), Data: p}, func() (err error) {
		n, err = s.SnapshotSink.Write(p)
		return err
	})
	return n, advise(s.store.dir, err)
}

// Close implements io.Closer. The library's description of a snapshot has no checksum,
// though the cluster's members are in it: that is added.
func (s *snapshotSink) Close() error {
	return advise(s.store.dir, s.store.disk.Do(Step{Point: SnapshotClose, Path: s.path()}, func() error {
		if err := s.SnapshotSink.Close(); err != nil {
			return err
		}
		sum, err := describe(s.path())
		if err != nil {
			return err
		}
		return describedKind.Write(filepath.Join(s.path(), described), sum)
	}))
}

const described = "meta.sum"

var describedKind = wholefile.Kind{Name: "snapshot-meta", Format: 1}

// describe gives the checksum of a snapshot's description.
func describe(snapshot string) ([]byte, error) {
	raw, err := os.ReadFile(filepath.Join(snapshot, "meta.json"))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	return sum[:], nil
}

// checkDescribed compares it. A power cut may have come before it was written.
func checkDescribed(snapshot string) error {
	want, err := describedKind.Read(filepath.Join(snapshot, described))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	got, err := describe(snapshot)
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("its description has a wrong checksum")
	}
	return err
}

// checkSnapshots finds out what the library would panic about, or pass over in silence:
// that a snapshot cannot be read, and the one before it with the log is not as much.
func (r *Replica) checkSnapshots() error {
	unreadable, newest, err := readableSnapshot(r.cfg.Dir, r.snaps)
	if err != nil {
		return err
	}
	first, last, err := r.log.bounds()
	if err != nil {
		return err
	}
	for _, u := range unreadable {
		if u.index > newest && (newest == 0 || last < u.index || first > newest+1) {
			return fmt.Errorf("%w; what is left (a snapshot up to entry %d, the log from %d to %d) does not replace it: %s", u.why, newest, first, last, newNode)
		}
		aside := filepath.Join(r.cfg.Dir, "damaged-"+filepath.Base(u.path)) // where nothing looks for it
		if err := os.Rename(u.path, aside); err != nil {
			return errors.Join(u.why, err)
		}
		r.cfg.Log.Error("a snapshot cannot be read; the one before it and the log replace it", "error", u.why, "aside", aside)
	}
	return nil
}

// badSnapshot is one that cannot be read.
type badSnapshot struct {
	path  string
	index uint64
	why   error
}

// readableSnapshot gives the index of the newest snapshot that can be read (0: none), and
// all that cannot.
func readableSnapshot(dir string, snaps raft.SnapshotStore) (bad []badSnapshot, newest uint64, err error) {
	entries, err := os.ReadDir(filepath.Join(dir, "snapshots"))
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		var term, index, when uint64
		if _, err := fmt.Sscanf(e.Name(), "%d-%d-%d", &term, &index, &when); err != nil {
			continue // not the library's
		}
		path := filepath.Join(dir, "snapshots", e.Name())
		_, body, err := snaps.Open(e.Name())
		if err == nil {
			err = errors.Join(body.Close(), checkDescribed(path))
		}
		if err != nil {
			bad = append(bad, badSnapshot{path, index, fmt.Errorf("snapshot %s is damaged: %w", path, err)})
			continue
		}
		newest = max(newest, index)
	}
	return bad, newest, nil
}
