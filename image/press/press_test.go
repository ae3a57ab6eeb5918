package press

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// far is text that repeats itself only from 12 MB away.
func far() []byte {
	raw := make([]byte, 6<<20)
	source := rand.NewChaCha8([32]byte{1})
	source.Read(raw)
	gap := bytes.Repeat([]byte("nothing to see here. "), 12<<20/21)
	return append(append(bytes.Clone(raw), gap...), raw...)
}

func TestAnotherReaderUnpacksIt(t *testing.T) {
	d, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, raw := range [][]byte{{}, []byte("short"), bytes.Repeat([]byte("abc"), 100_000)} {
		packed, err := Zstd(t.Context(), raw, 23)
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.DecodeAll(packed, nil)
		if err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%d bytes came back as %d: %v", len(raw), len(got), err)
		}
	}
}

func TestTheWindowIsTheOneAskedFor(t *testing.T) {
	raw := far()
	size := map[int]int{}
	for _, log := range []int{22, 25} {
		packed, err := Zstd(t.Context(), raw, log)
		if err != nil {
			t.Fatal(err)
		}
		size[log] = len(packed)
		var h zstd.Header
		if err := h.Decode(packed); err != nil {
			t.Fatal(err)
		}
		if h.FrameContentSize != uint64(len(raw)) || !h.HasCheckSum || h.WindowSize > 1<<log {
			t.Errorf("window 2^%d: header %+v of %d bytes", log, h, len(raw))
		}
	}
	if size[22] < 12<<20 || size[25] > 7<<20 {
		t.Errorf("12 MB that lie 12 MB apart packed to %v: only the larger window sees that they are the same", size)
	}
}

func TestTheEnvironmentChangesNoByte(t *testing.T) {
	raw := bytes.Repeat([]byte("All that is gold does not glitter. "), 1000)
	first, err := Zstd(t.Context(), raw, 23)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("ZSTD_CLEVEL", "1")
	t.Setenv("ZSTD_NBTHREADS", "1")
	second, err := Zstd(t.Context(), raw, 23)
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("%d and %d bytes: %v", len(first), len(second), err)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	if _, err := Zstd(t.Context(), nil, 28); err == nil || !strings.Contains(err.Error(), "from 2^10 to 2^27") {
		t.Errorf("a window that the kernel refuses: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Zstd(gone, []byte("x"), 23); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted build: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Zstd(t.Context(), []byte("x"), 23); err == nil || !strings.Contains(err.Error(), "make tools") {
		t.Errorf("without zstd: %v", err)
	}
}
