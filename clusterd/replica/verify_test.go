package replica

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/hashicorp/raft-wal/types"

	"github.com/mesolith/mesolith/internal/wholefile"
)

// batchFrames is one batch of a file of the log.
func batchFrames(raw []byte, entries ...string) []byte {
	begin := len(raw)
	if begin == 0 {
		raw = append(raw, make([]byte, fileHeader)...)
	}
	frame := func(kind byte, n uint32) {
		raw = append(raw, kind, 0, 0, 0)
		raw = binary.LittleEndian.AppendUint32(raw, n)
	}
	for _, e := range entries {
		frame(frameEntry, uint32(len(e)))
		raw = append(raw, e...)
		for len(raw)%frameHeader != 0 {
			raw = append(raw, 0)
		}
	}
	frame(frameCommit, crc32.Checksum(raw[begin:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

func FuzzCheckFile(f *testing.F) {
	three := batchFrames(batchFrames(batchFrames(nil, "one"), "two", "and more of it"), "three")
	f.Add(three)
	f.Add(append(three, make([]byte, 100)...))
	f.Add(three[:len(three)-3])
	f.Add(append([]byte{1}, three[1:]...))
	f.Add([]byte{})
	f.Add(make([]byte, 64))
	f.Add(append(three[:len(three)-8:len(three)-8], 1, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0)) // torn, and a 3 in its data
	f.Fuzz(func(t *testing.T, raw []byte) {
		end, err := checkFile(raw)
		if end < 0 || end > len(raw) {
			t.Fatalf("end %d of %d", end, len(raw))
		}
		if err != nil {
			return
		}
		// What is kept is kept again, and a batch after it is taken.
		if again, err := checkFile(raw[:end]); again != end || err != nil {
			t.Fatalf("%d, then %d, %v", end, again, err)
		}
		longer := batchFrames(raw[:end:end], "next")
		if again, err := checkFile(longer); again != len(longer) || err != nil {
			t.Fatalf("%d of %d, %v", again, len(longer), err)
		}
	})
}

// One bit anywhere in a log of many batches is noticed or costs the last batch.
func TestEachFlippedBitIsNoticed(t *testing.T) {
	var raw []byte
	before := 0
	for range 6 {
		before = len(raw)
		raw = batchFrames(raw, "some entry", "another")
	}
	for bit := range 8 * len(raw) {
		raw[bit/8] ^= 1 << (bit % 8)
		if end, err := checkFile(raw); !errors.Is(err, errDamaged) && end != before {
			t.Fatalf("bit %d of %d: kept up to %d, %v", bit, 8*len(raw), end, err)
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
	t.Logf("%d bits flipped", 8*len(raw))
}

// BenchmarkCheckFile is what opening a log costs for each of its files.
func BenchmarkCheckFile(b *testing.B) {
	var raw []byte
	for len(raw) < 3<<20 {
		raw = batchFrames(raw, strings.Repeat("x", 300), strings.Repeat("y", 300))
	}
	raw = append(raw, make([]byte, 1<<20)...)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := checkFile(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzDecodeMeta(f *testing.F) {
	f.Add([]byte(`{"Log":{"NextSegmentID":1,"Segments":[{"ID":0,"BaseIndex":1}]},"Stable":{"CurrentTerm":"AAAAAAAAAAI="},"Begun":1}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		b, err := decodeMeta(metaKind.Encode(body))
		if err != nil {
			if !errors.Is(err, wholefile.ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		m := &metaFile{disk: atOnce{}, body: b}
		if _, err := m.GetStable([]byte("CurrentTerm")); err != nil || b.Stable == nil {
			t.Fatal(err)
		}
		var _ types.MetaStore = m
	})
}
