package replica

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashicorp/raft-wal/types"

	"github.com/mesolith/mesolith/internal/wholefile"
)

// metaFile keeps what must never be forgotten beside the log: term, vote and the list of
// the log's files. It is one small file, replaced as a whole, with a checksum: a voter
// whose vote cannot be read must not vote, so that a missing, empty or damaged file is
// an error and never a new beginning.
type metaFile struct {
	disk Disk

	mu      sync.Mutex
	path    string
	body    metaBody
	trouble error // why the log's next file could not be begun, which the library keeps to itself
}

type metaBody struct {
	Log    types.PersistentState
	Stable map[string][]byte // the library's keys
	Begun  uint64            // of the log's files, those with lower ids hold entries
}

const metaName = "meta"

var metaKind = wholefile.Kind{Name: "raft-meta", Format: 1}

// errForgotten is why a log without its metaFile is not opened.
var errForgotten = errors.New("this master's term and vote are lost, so that it may not vote any more: " + newNode)

// newNode is the way back from a log that cannot be read: the others give the new
// incarnation everything. Only removing the files would make a voter that has forgotten.
const newNode = "it must come back as a new node (in ram mode by a reboot, in disk mode with its state partition formatted)"

// Load implements types.MetaStore.
func (m *metaFile) Load(dir string) (types.PersistentState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.path = filepath.Join(dir, metaName)
	raw, err := os.ReadFile(m.path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := mustBeNew(dir); err != nil {
			return types.PersistentState{}, err
		}
		m.body = metaBody{Stable: map[string][]byte{}}
	case err != nil:
		return types.PersistentState{}, err
	default:
		if m.body, err = decodeMeta(raw); errors.Is(err, wholefile.ErrNewer) {
			return types.PersistentState{}, fmt.Errorf("%s: %w", m.path, err)
		} else if err != nil {
			return types.PersistentState{}, fmt.Errorf("%s: %w: %w", m.path, err, errForgotten)
		}
	}
	// Whoever wrote it may have ended before it was on the medium.
	err = m.write(LogSegments, m.body)
	return m.body.Log, err
}

// mustBeNew refuses a directory that a log has lived in.
func mustBeNew(dir string) error {
	for _, pattern := range []string{"*.wal", "wal-meta.db"} {
		if found, err := filepath.Glob(filepath.Join(dir, pattern)); err != nil || len(found) > 0 {
			return fmt.Errorf("%s is missing and %s is there: %w", filepath.Join(dir, metaName), filepath.Base(found[0]), errForgotten)
		}
	}
	return nil
}

func decodeMeta(raw []byte) (metaBody, error) {
	rest, err := metaKind.Decode(raw)
	if err != nil {
		return metaBody{}, err
	}
	var b metaBody
	if err := json.Unmarshal(rest, &b); err != nil {
		return metaBody{}, fmt.Errorf("%w: %w", wholefile.ErrDamaged, err)
	}
	if b.Stable == nil {
		b.Stable = map[string][]byte{}
	}
	return b, nil
}

// write replaces the file; what is in memory follows only when that is on the medium.
func (m *metaFile) write(point Point, b metaBody) error {
	raw, err := json.Marshal(b)
	if err != nil {
		return err
	}
	err = m.disk.Do(Step{Point: point, Path: filepath.Dir(m.path)}, func() error { return metaKind.Write(m.path, raw) })
	if err == nil {
		m.body = b
	} else if point == LogSegments {
		m.trouble = err
	}
	return err
}

func (m *metaFile) note(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trouble = err
}

// cause adds to an error of the library what led to it.
func (m *metaFile) cause(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if errors.Is(err, types.ErrSealed) && m.trouble != nil {
		return fmt.Errorf("%w, and the next one cannot be begun: %w", err, m.trouble)
	}
	return err
}

// CommitState implements types.MetaStore.
func (m *metaFile) CommitState(s types.PersistentState) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.write(LogSegments, metaBody{s, m.body.Stable, m.body.Begun})
}

// next ends the list's last file, which is full, and names the one after it.
func (m *metaFile) next(full types.SegmentInfo, segmentBytes int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	log := m.body.Log
	list := slices.Clone(log.Segments)
	list[len(list)-1] = full
	log.Segments = append(list, types.SegmentInfo{
		ID: log.NextSegmentID, BaseIndex: full.MaxIndex + 1, MinIndex: full.MaxIndex + 1, SizeLimit: uint32(segmentBytes),
		Codec: full.Codec, CreateTime: full.SealTime,
	})
	log.NextSegmentID++
	return m.write(LogSegments, metaBody{log, m.body.Stable, m.body.Begun})
}

// begin remembers that a file of the log holds entries, so that it cannot be lost or
// emptied unnoticed.
func (m *metaFile) begin(id uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.body.Begun > id {
		return nil
	}
	return m.write(LogSegments, metaBody{m.body.Log, m.body.Stable, id + 1})
}

func (m *metaFile) begun(id uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.body.Begun > id
}

// GetStable implements types.MetaStore.
func (m *metaFile) GetStable(key []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.body.Stable[string(key)], nil
}

// SetStable implements types.MetaStore.
func (m *metaFile) SetStable(key, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := metaBody{m.body.Log, map[string][]byte{}, m.body.Begun}
	for k, v := range m.body.Stable {
		next.Stable[k] = v
	}
	next.Stable[string(key)] = bytes.Clone(value)
	point := VoteWrite
	if string(key) == "CurrentTerm" {
		point = TermWrite
	}
	return m.write(point, next)
}

// Close implements types.MetaStore; no file stays open.
func (m *metaFile) Close() error { return nil }
