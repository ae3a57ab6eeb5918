package replica

import (
	"fmt"

	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// segments opens the log's files, also those that the library itself cannot read again:
// when it cuts the end of the log off (entries of a leader that died before they were
// committed) it seals the file without the index that it wants to find there after a
// restart. Such a file is read through once, as the unsealed one is.
type segments struct{ types.SegmentFiler }

// Open implements types.SegmentFiler.
func (s segments) Open(info types.SegmentInfo) (types.SegmentReader, error) {
	if info.IndexStart > 0 {
		return s.SegmentFiler.Open(info)
	}
	r, err := s.RecoverTail(info)
	if err != nil {
		return nil, fmt.Errorf("segment of the log from entry %d: %w", info.BaseIndex, err)
	}
	return r, nil
}

// openLog opens the log of a directory. The tables beside it must be closed after it.
func openLog(dir string, d Disk, segmentBytes int) (*wal.WAL, *metadb.BoltMetaDB, error) {
	meta := &metadb.BoltMetaDB{}
	log, err := wal.Open(dir, wal.WithSegmentSize(segmentBytes), wal.WithLogger(quiet()), wal.WithMetaStore(&tables{meta, dir, d}),
		wal.WithSegmentFiler(segments{segment.NewFiler(dir, newLogFiles(d))}))
	if err != nil {
		meta.Close()
		return nil, nil, err
	}
	return log, meta, nil
}
