package replica

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// segments opens the log's files, each read through before it is believed; also those
// that the library itself cannot read again: when it cuts the end of the log off (entries
// of a leader that died before they were committed) it seals the file without the index
// that it wants to find there after a restart. Such a file is read as the unsealed one is.
type segments struct {
	types.SegmentFiler
	files logFiles
	dir   string
	meta  *metaFile
}

func newSegments(dir string, d Disk, meta *metaFile) segments {
	files := newLogFiles(d)
	return segments{segment.NewFiler(dir, files), files, dir, meta}
}

// Create implements types.SegmentFiler.
func (s segments) Create(info types.SegmentInfo) (types.SegmentWriter, error) {
	if s.meta.begun(info.ID) {
		return nil, s.complain(info, fmt.Errorf("%w: it is missing", errDamaged))
	}
	w, err := s.SegmentFiler.Create(info)
	if err != nil {
		s.meta.note(err)
		return nil, err
	}
	return s.tail(w, info)
}

// Open implements types.SegmentFiler.
func (s segments) Open(info types.SegmentInfo) (types.SegmentReader, error) {
	if info.IndexStart == 0 {
		w, err := s.RecoverTail(info)
		if err == nil && w.LastIndex() < info.MaxIndex {
			w.Close()
			err = s.complain(info, fmt.Errorf("%w: it ends with entry %d, %d was written", errDamaged, w.LastIndex(), info.MaxIndex))
		}
		return w, err
	}
	f, err := s.files.OpenReader(s.dir, segment.FileName(info))
	if err != nil {
		return nil, s.complain(info, err)
	}
	err = checkSealed(f, info)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, s.complain(info, err)
	}
	r, err := s.SegmentFiler.Open(info)
	if err != nil {
		return nil, err
	}
	read, err := newSealed(r, s.dir, info)
	if err != nil {
		r.Close()
		return nil, err
	}
	return read, nil
}

// RecoverTail implements types.SegmentFiler.
func (s segments) RecoverTail(info types.SegmentInfo) (types.SegmentWriter, error) {
	f, err := s.files.OpenWriter(s.dir, segment.FileName(info))
	if err != nil {
		return nil, err // that there is none yet has a meaning
	}
	least := 0
	if s.meta.begun(info.ID) {
		least = int(info.SizeLimit)
	}
	err = cutTorn(f, info, least)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, s.complain(info, err)
	}
	w, err := s.SegmentFiler.RecoverTail(info)
	if err != nil {
		return nil, s.complain(info, err)
	}
	full, indexStart, err := w.Sealed()
	if err == nil && full && info.SealTime.IsZero() {
		info.MaxIndex, info.IndexStart, info.SealTime = w.LastIndex(), indexStart, time.Now()
		err = fullTail{info}
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return s.tail(w, info)
}

func (s segments) tail(w types.SegmentWriter, info types.SegmentInfo) (types.SegmentWriter, error) {
	t, err := newTail(w, s.dir, info, s.meta)
	if err != nil {
		w.Close()
		return nil, err
	}
	return t, nil
}

// fullTail is a last file that takes no more entries: its end was written, and the program
// ended before the list named the next one. The library would refuse every write from then
// on; the list is therefore brought up to date, and the log opened again.
type fullTail struct{ info types.SegmentInfo }

// Error implements error.
func (f fullTail) Error() string {
	return "the last file of the log is full: " + segment.FileName(f.info)
}

func (s segments) complain(info types.SegmentInfo, err error) error {
	err = fmt.Errorf("%s (entries from %d on): %w", filepath.Join(s.dir, segment.FileName(info)), info.BaseIndex, err)
	if errors.Is(err, errDamaged) || errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %s", err, newNode)
	}
	return err
}

// openLog opens the log of a directory.
func openLog(dir string, d Disk, segmentBytes int) (*wal.WAL, error) {
	if err := settle(dir, d); err != nil {
		return nil, fmt.Errorf("flush what is there: %w", err)
	}
	meta := &metaFile{disk: d}
	open := func() (*wal.WAL, error) {
		return wal.Open(dir, wal.WithSegmentSize(segmentBytes), wal.WithLogger(quiet()), wal.WithMetaStore(meta),
			wal.WithSegmentFiler(newSegments(dir, d, meta)))
	}
	log, err := open()
	var full fullTail
	if errors.As(err, &full) {
		if err = meta.next(full.info, segmentBytes); err == nil {
			log, err = open()
		}
	}
	return log, err
}

// settle makes memory and medium agree before anything is read: what a program wrote that
// died before it had flushed is flushed, and what a flush could not write is forgotten.
// The kernel keeps such pages and calls them clean; a log that is opened anew after an
// error would count entries that are on no medium.
func settle(dir string, d Disk) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		return err
	}
	files := newLogFiles(d)
	for _, path := range names {
		f, err := files.OpenWriter(dir, filepath.Base(path))
		if err != nil {
			return err
		}
		err = f.Sync()
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = dropCached(path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
