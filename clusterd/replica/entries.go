package replica

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// raft-wal reads 64 KiB for each entry, whatever its length; a log is read three times
// when it is opened, and under emulation ten thousand entries took 9 to 23 seconds. Here
// an entry costs what it is long.

// firstRead is as much as most entries take.
const firstRead = 4 << 10

// entries reads single entries of a file of the log.
type entries struct {
	file  *os.File
	reads *sync.Pool // of [firstRead]byte
	// at is where an entry begins; types.ErrNotFound: not in this file.
	at func(index uint64) (uint32, error)
}

func openEntries(dir string, info types.SegmentInfo, at func(uint64) (uint32, error)) (entries, error) {
	f, err := os.Open(filepath.Join(dir, segment.FileName(info)))
	return entries{f, &sync.Pool{New: func() any { return new([firstRead]byte) }}, at}, err
}

// GetLog implements types.SegmentReader.
func (e entries) GetLog(index uint64) (*types.PooledBuffer, error) {
	at, err := e.at(index)
	if err != nil {
		return nil, err
	}
	first := e.reads.Get().(*[firstRead]byte)
	buf, done := first[:], func() { e.reads.Put(first) }
	n, err := e.file.ReadAt(buf, int64(at))
	if n < frameHeader {
		return nil, fmt.Errorf("entry %d at byte %d: %w", index, at, err)
	}
	length := int(binary.LittleEndian.Uint32(buf[4:]))
	if buf[0] != frameEntry || length > segment.MaxEntrySize {
		return nil, fmt.Errorf("%w: no entry %d at byte %d", types.ErrCorrupt, index, at)
	}
	end := frameHeader + length
	if end > n {
		long := make([]byte, end)
		copy(long, buf[:n])
		if _, err := e.file.ReadAt(long[n:], int64(at)+int64(n)); err != nil {
			return nil, fmt.Errorf("entry %d at byte %d: %w", index, at, err)
		}
		buf = long
	}
	return &types.PooledBuffer{Bs: buf[frameHeader:end], CloseFn: done}, nil
}

// sealed is a file that nothing is added to any more.
type sealed struct {
	types.SegmentReader
	entries
}

func newSealed(r types.SegmentReader, dir string, info types.SegmentInfo) (*sealed, error) {
	s := &sealed{SegmentReader: r}
	var err error
	s.entries, err = openEntries(dir, info, func(index uint64) (uint32, error) {
		if index < info.MinIndex || index > info.MaxIndex {
			return 0, types.ErrNotFound
		}
		var at [4]byte
		_, err := s.file.ReadAt(at[:], int64(info.IndexStart+4*(index-info.BaseIndex)))
		return binary.LittleEndian.Uint32(at[:]), err
	})
	return s, err
}

// GetLog implements types.SegmentReader.
func (s *sealed) GetLog(index uint64) (*types.PooledBuffer, error) { return s.entries.GetLog(index) }

// Close implements io.Closer.
func (s *sealed) Close() error { return closeBoth(s.SegmentReader, s.file) }

// tail is the file that is written to.
type tail struct {
	types.SegmentWriter
	entries
	id   uint64
	meta *metaFile
}

func newTail(w types.SegmentWriter, dir string, info types.SegmentInfo, meta *metaFile) (*tail, error) {
	t := &tail{SegmentWriter: w, id: info.ID, meta: meta}
	places, ok := w.(interface {
		OffsetForFrame(index uint64) (uint32, error)
	})
	if !ok {
		return nil, fmt.Errorf("%T does not tell where its entries are", w)
	}
	var err error
	t.entries, err = openEntries(dir, info, places.OffsetForFrame)
	return t, err
}

// Append implements types.SegmentWriter.
func (t *tail) Append(entries []types.LogEntry) error {
	if err := t.SegmentWriter.Append(entries); err != nil {
		return t.meta.cause(err)
	}
	return t.meta.begin(t.id)
}

// GetLog implements types.SegmentReader.
func (t *tail) GetLog(index uint64) (*types.PooledBuffer, error) { return t.entries.GetLog(index) }

// Close implements io.Closer.
func (t *tail) Close() error { return closeBoth(t.SegmentWriter, t.file) }

func closeBoth(a, b io.Closer) error {
	err := a.Close()
	if berr := b.Close(); err == nil {
		err = berr
	}
	return err
}
