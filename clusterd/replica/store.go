package replica

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// store is log and stable store under the library, with a watch on every write: one
// that fails or hangs ends the replica, because afterwards nobody knows what is on disk.
//
// The library panics when term or vote cannot be saved, which would take the whole
// program with it. After a failure its goroutine is therefore held here until the replica
// is closed, and ended then.
type store struct {
	inner *wal.WAL
	stall time.Duration
	fail  func(error)
	dead  atomic.Bool
	bytes atomic.Int64

	closing chan struct{} // closed when the replica is being closed

	// snapshot is the index of the snapshot that was written last; nil: none are.
	snapshot func() uint64

	mu   sync.Mutex   // one write at a time: a hung one must not be followed by another
	hung <-chan error // of a write that was given up; it answers when it has ended after all

	// The library does not say which index its newest configuration has; changes of
	// membership must name it.
	configMu sync.Mutex
	configs  []uint64 // indexes of the log's configuration entries, rising
}

func openStore(dir string, d Disk, segment int, stall time.Duration, fail func(error)) (*store, error) {
	inner, err := openLog(dir, d, segment)
	if err != nil {
		return nil, err
	}
	s := &store{inner: inner, stall: stall, fail: fail, closing: make(chan struct{})}
	if err := s.findConfigs(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// findConfigs reads the log once, at the start.
func (s *store) findConfigs() error {
	first, last, err := s.bounds()
	if err != nil || last == 0 {
		return err
	}
	for i := first; i <= last; i++ {
		var l raft.Log
		if err := s.inner.GetLog(i, &l); err != nil {
			return fmt.Errorf("read entry %d: %w", i, err)
		}
		if l.Type == raft.LogConfiguration {
			s.configs = append(s.configs, i)
		}
	}
	return nil
}

func (s *store) bounds() (first, last uint64, err error) {
	if first, err = s.inner.FirstIndex(); err == nil {
		last, err = s.inner.LastIndex()
	}
	return first, last, err
}

// lastConfig is the index of the log's newest configuration; 0: only the snapshot has one.
func (s *store) lastConfig() uint64 {
	s.configMu.Lock()
	defer s.configMu.Unlock()
	if len(s.configs) == 0 {
		return 0
	}
	return s.configs[len(s.configs)-1]
}

func (s *store) keepConfigs(keep func(uint64) bool) {
	s.configMu.Lock()
	defer s.configMu.Unlock()
	s.configs = slices.DeleteFunc(s.configs, func(i uint64) bool { return !keep(i) })
}

// guard runs a write and gives up on it after the stall limit.
func (s *store) guard(what string, write func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead.Load() {
		return fmt.Errorf("%s: this replica has ended", what)
	}
	done := make(chan error, 1)
	go func() { done <- write() }()
	limit := time.NewTimer(s.stall)
	defer limit.Stop()
	select {
	case err := <-done:
		if err == nil {
			return nil
		}
		err = fmt.Errorf("%s: %w", what, err)
		s.dead.Store(true)
		s.fail(err)
		return err
	case <-limit.C:
		err := fmt.Errorf("%s: %w (%s)", what, ErrStalled, s.stall)
		s.hung = done
		s.dead.Store(true)
		s.fail(err)
		return err
	}
}

// FirstIndex implements raft.LogStore.
func (s *store) FirstIndex() (uint64, error) { return s.inner.FirstIndex() }

// LastIndex implements raft.LogStore.
func (s *store) LastIndex() (uint64, error) { return s.inner.LastIndex() }

// GetLog implements raft.LogStore. An entry that is there and cannot be read ends the
// replica; the library would panic where it applies entries.
func (s *store) GetLog(i uint64, l *raft.Log) error {
	err := s.inner.GetLog(i, l)
	if errors.Is(err, raft.ErrLogNotFound) && s.dead.Load() {
		// The library goes on after a failed write as if what it had cut off were there.
		return s.hold(err)
	}
	if err == nil || errors.Is(err, raft.ErrLogNotFound) || s.shutting() {
		return err
	}
	err = fmt.Errorf("read entry %d: %w", i, err)
	s.dead.Store(true)
	s.fail(err)
	return s.hold(err)
}

func (s *store) shutting() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// IsMonotonic implements raft.MonotonicLogStore, as the log below does: the library then
// empties it before it goes on after a snapshot.
func (s *store) IsMonotonic() bool { return true }

// StoreLog implements raft.LogStore.
func (s *store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (s *store) StoreLogs(logs []*raft.Log) error {
	n := 0
	for _, l := range logs {
		n += len(l.Data) + len(l.Extensions) + 64
	}
	if err := s.guard("write log", func() error { return s.inner.StoreLogs(logs) }); err != nil {
		return err
	}
	s.bytes.Add(int64(n))
	s.configMu.Lock()
	defer s.configMu.Unlock()
	for _, l := range logs {
		if l.Type == raft.LogConfiguration {
			s.configs = append(s.configs, l.Index)
		}
	}
	return nil
}

// errBegunAnew ends a replica that goes on as soon as it is opened again. After a snapshot
// of the leader the library empties the log, and still takes what was its end for its last
// entry. Where that lies behind the snapshot, it refuses all that the leader sends, for
// ever, or takes entries after others that are gone, and panics when it applies those.
var errBegunAnew = errors.New("the log reached further than the leader's snapshot and is begun anew behind it")

// DeleteRange implements raft.LogStore.
func (s *store) DeleteRange(lo, hi uint64) error {
	first, last, err := s.bounds()
	if err != nil {
		return err
	}
	if err := s.guard("cut log", func() error { return s.inner.DeleteRange(lo, hi) }); err != nil {
		return err
	}
	s.keepConfigs(func(i uint64) bool { return i < lo || i > hi })
	if emptied := lo <= first && hi >= last; emptied && s.snapshot != nil && last > s.snapshot() {
		s.dead.Store(true)
		s.fail(errBegunAnew)
	}
	return nil
}

// Set implements raft.StableStore.
func (s *store) Set(k, v []byte) error {
	return s.hold(s.guard("write vote", func() error { return s.inner.Set(k, v) }))
}

// SetUint64 implements raft.StableStore.
func (s *store) SetUint64(k []byte, v uint64) error {
	return s.hold(s.guard("write term", func() error { return s.inner.SetUint64(k, v) }))
}

// hold does not return after a failure: the caller would panic. What the caller has
// deferred answers that nothing was granted, to nobody: by then no connection is left.
func (s *store) hold(err error) error {
	if err != nil {
		<-s.closing
		runtime.Goexit()
	}
	return nil
}

// Get implements raft.StableStore.
func (s *store) Get(k []byte) ([]byte, error) { return s.inner.Get(k) }

// GetUint64 implements raft.StableStore.
func (s *store) GetUint64(k []byte) (uint64, error) { return s.inner.GetUint64(k) }

func (s *store) bytesSinceReset() int64 { return s.bytes.Load() }
func (s *store) resetBytes()            { s.bytes.Store(0) }

// close lets the directory go. It waits for a write that hangs: until that has ended it
// may still change what is there, and nobody may open it.
func (s *store) close() error {
	s.mu.Lock()
	hung := s.hung
	s.mu.Unlock()
	if hung != nil {
		<-hung
	}
	return s.inner.Close()
}
