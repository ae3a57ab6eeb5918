package replica

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// logOf makes a log of so many entries of a size, in batches of 64.
func logOf(tb testing.TB, dir string, entries, size int, configs ...uint64) {
	tb.Helper()
	s, err := openStore(dir, atOnce{}, ofCluster().Segment, time.Minute, func(err error) { tb.Error(err) })
	if err != nil {
		tb.Fatal(err)
	}
	var batch []*raft.Log
	for i := range entries {
		l := &raft.Log{Index: uint64(i + 1), Term: 1, Type: raft.LogCommand, Data: []byte(fmt.Sprint(i, strings.Repeat("x", size)))}
		for _, c := range configs {
			if c == l.Index {
				l.Type = raft.LogConfiguration
			}
		}
		if batch = append(batch, l); len(batch) == 64 || i == entries-1 {
			if err := s.StoreLogs(batch); err != nil {
				tb.Fatal(err)
			}
			batch = nil
		}
	}
	if err := s.close(); err != nil {
		tb.Fatal(err)
	}
}

// Entries of every length are read as they were written, from the file that is written to
// and from the others, before and after the log is opened anew and cut at both ends.
func TestEntriesOfEveryLength(t *testing.T) {
	dir := t.TempDir()
	data := func(i uint64) []byte {
		lengths := []int{0, 1, 100, firstRead - 64, firstRead - 40, firstRead - frameHeader, firstRead, firstRead + 1, 64<<10 - 40, 64 << 10, 64<<10 + 1, 256 << 10}
		return bytes.Repeat([]byte{byte(i)}, lengths[i%uint64(len(lengths))]+int(i/uint64(len(lengths)))%7)
	}
	open := func() *store {
		s, err := openStore(dir, atOnce{}, 1<<20, time.Minute, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	check := func(s *store, first, last uint64) {
		t.Helper()
		for i := first - 1; i <= last+1; i++ {
			var l raft.Log
			err := s.GetLog(i, &l)
			if inside := i >= first && i <= last; !inside && !errors.Is(err, raft.ErrLogNotFound) || inside && (err != nil || l.Index != i || !bytes.Equal(l.Data, data(i))) {
				t.Errorf("entry %d of %d to %d: %v, %d bytes", i, first, last, err, len(l.Data))
			}
		}
	}
	s := open()
	const last = 120
	for i := uint64(1); i <= last; i++ {
		if err := s.StoreLogs([]*raft.Log{{Index: i, Term: 1, Data: data(i)}}); err != nil {
			t.Fatal(err)
		}
		check(s, 1, i)
	}
	check(s, 1, last)
	s.close()
	files, _ := filepath.Glob(filepath.Join(dir, "*.wal"))
	t.Logf("%d entries in %d files", last, len(files))
	if len(files) < 4 {
		t.Error("too few files")
	}
	s = open()
	check(s, 1, last)
	if err := s.DeleteRange(1, 40); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRange(101, last); err != nil {
		t.Fatal(err)
	}
	check(s, 41, 100)
	if err := s.StoreLogs([]*raft.Log{{Index: 101, Term: 2, Data: data(101)}}); err != nil {
		t.Fatal(err)
	}
	check(s, 41, 101)
	s.close()
	s = open()
	check(s, 41, 101)
	s.close()
}

// A log is read a few times when it is opened, not 64 KiB for each of its entries.
func TestOpeningALogReadsNoMoreThanItMust(t *testing.T) {
	dir := t.TempDir()
	const entries, size = 4000, 1000
	logOf(t, dir, entries, size, 17, 3999)
	read := func() (n int64) {
		raw, err := os.ReadFile("/proc/self/io")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscanf(string(raw), "rchar: %d", &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := read()
	s, err := openStore(dir, atOnce{}, ofCluster().Segment, time.Minute, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	each := (read() - before) / entries
	t.Logf("%d entries of %d bytes: %d bytes read for each", entries, size, each)
	if each > 16*size {
		t.Errorf("%d bytes are read for an entry of %d", each, size)
	}
	if !slices.Equal(s.configs, []uint64{17, 3999}) {
		t.Errorf("configurations: %d", s.configs)
	}
}

// BenchmarkOpenLog opens a log of 10,000 entries, and reads it through as the library does
// when it starts.
func BenchmarkOpenLog(b *testing.B) {
	for _, size := range []int{100, 700} {
		b.Run(fmt.Sprint(size, " bytes an entry"), func(b *testing.B) {
			dir := b.TempDir()
			const entries = 10_000
			logOf(b, dir, entries, size)
			var opened, read time.Duration
			for b.Loop() {
				began := time.Now()
				s, err := openStore(dir, atOnce{}, ofCluster().Segment, time.Minute, func(error) {})
				if err != nil {
					b.Fatal(err)
				}
				opened += time.Since(began)
				began = time.Now()
				for i := range uint64(entries) {
					var l raft.Log
					if err := s.GetLog(i+1, &l); err != nil {
						b.Fatal(err)
					}
				}
				read += time.Since(began)
				s.close()
			}
			files, _ := filepath.Glob(filepath.Join(dir, "*.wal"))
			var bytes int64
			for _, f := range files {
				if info, err := os.Stat(f); err == nil {
					bytes += info.Size()
				}
			}
			b.ReportMetric(opened.Seconds()*1e3/float64(b.N), "ms-open")
			b.ReportMetric(read.Seconds()*1e3/float64(b.N), "ms-read")
			b.ReportMetric(float64(bytes)/1e6, "MB")
		})
	}
}
