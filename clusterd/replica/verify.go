package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/hashicorp/raft-wal/types"
)

// raft-wal checks, when it opens a log, no more than the last batch of the last file, and
// takes everything before for right. A zeroed page in the middle then shortens the log
// without a word: a voter that has forgotten. So each file is read through here first.
//
// A file is a header and batches; a batch is frames (type, three zero bytes, u32 length;
// padded to eight bytes) that end with a frame of type 3, whose u32 is the CRC-32C of the
// batch, for the first one with the header. Each batch is flushed before the next is
// begun, so that a crash can spoil the last one only.

const (
	fileHeader  = 32
	frameHeader = 8
	frameEntry  = 1
	frameIndex  = 2
	frameCommit = 3
)

// errDamaged is more than a last batch that is torn.
var errDamaged = errors.New("damaged")

// wholeBatches gives the offset behind the last whole batch of those that begin at one.
func wholeBatches(raw []byte, from int) int {
	begin, at := from, from
	if from == 0 {
		at = fileHeader
	}
	end, entries := from, 0
	for at+frameHeader <= len(raw) {
		kind, n := raw[at], int(binary.LittleEndian.Uint32(raw[at+4:]))
		if raw[at+1]|raw[at+2]|raw[at+3] != 0 {
			return end
		}
		switch kind {
		case frameEntry, frameIndex:
			at += frameHeader + (n+frameHeader-1)/frameHeader*frameHeader
			entries++
		case frameCommit:
			if entries == 0 || crc32.Checksum(raw[begin:at], crc32.MakeTable(crc32.Castagnoli)) != uint32(n) {
				return end
			}
			at += frameHeader
			begin, end, entries = at, at, 0
		default:
			return end
		}
	}
	return end
}

// checkFile gives the offset behind the last whole batch of a file of the log. That
// another whole batch comes later is damage, and no crash.
func checkFile(raw []byte) (end int, err error) {
	end = wholeBatches(raw, 0)
	for at := max(end, fileHeader) + frameHeader; at+frameHeader <= len(raw); at += frameHeader {
		if kind := raw[at]; kind == frameEntry && wholeBatches(raw, at) > at {
			return end, fmt.Errorf("%w between the bytes %d and %d, and whole after them", errDamaged, end, at)
		}
	}
	return end, nil
}

// checkSealed reads through a file that nothing is added to any more.
func checkSealed(f io.ReaderAt, info types.SegmentInfo) error {
	raw, err := readAll(f, info)
	if err != nil {
		return err
	}
	end, err := checkFile(raw)
	if err == nil && uint64(end) < info.IndexStart {
		err = fmt.Errorf("%w from byte %d on; %d were written", errDamaged, end, info.IndexStart)
	}
	return err
}

// cutTorn reads through the file that is written to and wipes what a crash has left behind
// its last whole batch: remains of two crashes can look like one batch. A file that holds
// entries has at least a batch and, because it is made in full length, so many bytes.
func cutTorn(f types.WritableFile, info types.SegmentInfo, least int) error {
	raw, err := readAll(f, info)
	if err != nil {
		return err
	}
	end, err := checkFile(raw)
	if err != nil {
		return err
	}
	if len(raw) < least || end == 0 && least > 0 {
		return fmt.Errorf("%w: %d bytes, of which %d can be read; it was made with %d and entries were written", errDamaged, len(raw), end, least)
	}
	torn := bytes.TrimRight(raw[end:], "\x00")
	if len(torn) == 0 {
		return nil
	}
	if _, err := f.WriteAt(make([]byte, len(torn)), int64(end)); err != nil {
		return err
	}
	return f.Sync()
}

// readAll reads a file that is about as long as it was made.
func readAll(f io.ReaderAt, info types.SegmentInfo) ([]byte, error) {
	raw := make([]byte, 0, int(info.SizeLimit)+chunkBytes)
	for {
		if cap(raw)-len(raw) < chunkBytes {
			raw = slices.Grow(raw, len(raw)+chunkBytes)
		}
		n, err := f.ReadAt(raw[len(raw):len(raw)+chunkBytes], int64(len(raw)))
		raw = raw[:len(raw)+n]
		if err == io.EOF {
			return raw, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

const chunkBytes = 256 << 10
