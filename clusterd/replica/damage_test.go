package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesolith/mesolith/internal/wholefile"
)

// What a replica does with each of its files when that is not what was written. "opens"
// means with everything but at most the last batch; what is refused says why.

var aloneGeneration = Generation{Height: 1, ID: "alone"}

func openAlone(dir string, m Machine, d Disk) (*Replica, error) {
	return openSized(dir, m, d, Sizes{})
}

func openSized(dir string, m Machine, d Disk, sizes Sizes) (*Replica, error) {
	self := Voter{"a", "i1"}
	rm := &room{doors: map[string]chan incoming{}, closed: map[string]bool{}}
	return Open(Config{
		Dir: dir, Self: self, Generation: aloneGeneration, Machine: m, Links: rm.open(self), Disk: d, Sizes: sizes,
		Heartbeat: heartbeat, Stall: 5 * time.Second, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
}

// lead waits until a lone replica can commit.
func lead(t *testing.T, r *Replica) {
	t.Helper()
	for range 1000 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := r.Barrier(ctx)
		cancel()
		if err == nil {
			return
		}
		time.Sleep(heartbeat)
	}
	t.Fatal("it does not lead")
}

// fill makes a lone replica with so many entries and takes snapshots after some of them.
func fill(t *testing.T, dir string, entries, size int, snapshots ...int) {
	t.Helper()
	v := Voter{"a", "i1"}
	if err := Found(dir, v, aloneGeneration, []Voter{v}, nil); err != nil {
		t.Fatal(err)
	}
	r, err := openAlone(dir, &counter{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	lead(t, r)
	for i := range entries {
		if _, err := r.Propose(t.Context(), fmt.Appendf(nil, "%d-%s", i, strings.Repeat("x", size))); err != nil {
			t.Fatal(err)
		}
		if slices.Contains(snapshots, i+1) {
			if err := r.raft.Snapshot().Error(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second) // their names have the time in them
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// spoil are the ways in which a file is not what was written.
var spoil = map[string]func([]byte) []byte{
	"cut": func(raw []byte) []byte { return raw[:len(raw)/2] },
	"one bit": func(raw []byte) []byte {
		raw[len(raw)/3] ^= 4
		return raw
	},
	"page of zeros": func(raw []byte) []byte {
		clear(raw[len(raw)/3 : len(raw)/3+min(4096, len(raw)/3)])
		return raw
	},
	"empty": func([]byte) []byte { return nil },
	"zeros": func(raw []byte) []byte { return make([]byte, len(raw)) },
	// Of a file of the log: its last batch is not all there.
	"torn": func(raw []byte) []byte {
		end := len(bytes.TrimRight(raw, "\x00"))
		clear(raw[end-100 : end])
		return raw
	},
	"remains": func(raw []byte) []byte {
		end := len(bytes.TrimRight(raw, "\x00"))
		copy(raw[end+4096:], "what a crash left there, and no batch")
		return raw
	},
	"newer": func(raw []byte) []byte { return bytes.Replace(raw, []byte(" 1 "), []byte(" 2 "), 1) },
}

type damage struct {
	file, how string
	refused   string // what it says; empty: it opens
}

func tryDamage(t *testing.T, whole string, d damage, entries int) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "r")
	if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
		t.Fatal(err)
	}
	pattern, first := strings.CutPrefix(d.file, "first ")
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) == 0 || first && len(found) < 2 {
		t.Fatalf("%s: %q, %v", d.file, found, err)
	}
	path := found[len(found)-1]
	if first {
		path = found[0]
	}
	if d.how == "missing" {
		err = os.Remove(path)
	} else {
		var raw []byte
		if raw, err = os.ReadFile(path); err == nil {
			before := bytes.Clone(raw)
			if raw = spoil[d.how](raw); bytes.Equal(raw, before) {
				t.Fatalf("%s is not changed", path)
			}
			err = os.WriteFile(path, raw, 0o600)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	m := &counter{}
	r, err := openAlone(dir, m, nil)
	if d.refused != "" {
		if err == nil {
			r.Close()
			t.Fatal("it opens")
		}
		if !strings.Contains(err.Error(), d.refused) {
			t.Errorf("it says %v, want %q in it", err, d.refused)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	lead(t, r)
	m.mu.Lock()
	held := len(m.entries)
	m.mu.Unlock()
	if held < entries-1 {
		t.Errorf("%d entries of %d are there", held, entries)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func tryDamages(t *testing.T, entries, size int, snapshots []int, list []damage) {
	whole := filepath.Join(t.TempDir(), "whole")
	synctest.Test(t, func(t *testing.T) { fill(t, whole, entries, size, snapshots...) })
	for _, d := range list {
		t.Run(strings.ReplaceAll(d.file, "/", " ")+" "+d.how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { tryDamage(t, whole, d, entries) })
		})
	}
	t.Logf("%d damages", len(list))
}

func TestDamagedFilesOfTheLog(t *testing.T) {
	const tail, sealed = "wal/*.wal", "first wal/*.wal"
	var list []damage
	for _, how := range []string{"torn", "remains"} {
		list = append(list, damage{tail, how, ""})
	}
	for _, how := range []string{"cut", "one bit", "page of zeros", "empty", "zeros", "missing"} {
		list = append(list, damage{tail, how, "come back as a new node"}, damage{sealed, how, "come back as a new node"})
	}
	for _, how := range []string{"cut", "one bit", "page of zeros", "empty", "zeros", "missing"} {
		list = append(list, damage{"wal/meta", how, "term and vote are lost"})
	}
	for _, how := range []string{"cut", "one bit", "page of zeros", "empty", "zeros"} {
		list = append(list, damage{"generation", how, "which generation this master belongs to is lost"})
	}
	list = append(list, damage{"wal/meta", "newer", "newer version"}, damage{"generation", "newer", "newer version"})
	// Entries of 200 KB: two files are full, and the third holds many batches.
	tryDamages(t, 52, 200<<10, nil, list)
}

func TestDamagedSnapshotsWithTheLogThatMadeThem(t *testing.T) {
	var list []damage
	for _, how := range []string{"cut", "one bit", "page of zeros", "empty", "zeros"} {
		list = append(list, damage{"snapshots/*/state.bin", how, ""}, damage{"snapshots/*/meta.json", how, ""})
	}
	tryDamages(t, 100, 500, []int{60}, list)
}

func TestDamagedSnapshotsWithoutTheLogThatMadeThem(t *testing.T) {
	var list []damage
	for _, how := range []string{"cut", "one bit", "page of zeros", "empty", "zeros"} {
		list = append(list, damage{"snapshots/*/state.bin", how, "does not replace it"}, damage{"snapshots/*/meta.json", how, "does not replace it"})
	}
	tryDamages(t, 700, 10, []int{320, 680}, list)
}

// unable cannot take a snapshot in, as a program that is older than it.
type unable struct{ counter }

func (u *unable) Restore(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if len(raw) > 0 && err == nil {
		err = wholefile.ErrNewer
	}
	return err
}

func TestASnapshotOfANewerVersionIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "r")
		fill(t, dir, 100, 10, 60)
		if r, err := openAlone(dir, &unable{}, nil); !errors.Is(err, wholefile.ErrNewer) {
			t.Errorf("%v, %v", r, err)
		}
		r, err := openAlone(dir, &counter{}, nil) // nothing was spoiled by trying
		if err != nil {
			t.Fatal(err)
		}
		lead(t, r)
		r.Close()
	})
}

// fullDisk has no space left for steps of one kind.
type fullDisk struct {
	point Point
	fired int
}

func (f *fullDisk) Do(s Step, do func() error) error {
	if s.Point == f.point {
		f.fired++
		return &os.PathError{Op: "write", Path: s.Path, Err: syscall.ENOSPC}
	}
	return do()
}

// On a full disk nothing is acknowledged that is lost, the sentence says what is to be
// done, and with space there again the same directory opens.
func TestAFullDisk(t *testing.T) {
	for _, point := range []Point{LogWrite, LogFlush, LogSegments, TermWrite, LogCreate, SnapshotWrite, SnapshotBegin, SnapshotClose} {
		t.Run(string(point), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { fillDisk(t, point) })
		})
	}
}

func fillDisk(t *testing.T, point Point) {
	dir, full := filepath.Join(t.TempDir(), "r"), &fullDisk{point: point}
	fill(t, dir, 100, 10, 60)
	r, err := openAlone(dir, &counter{}, full)
	acked := 100
	if err == nil {
		big := strings.Repeat("y", 200<<10)
		var told error
		for told == nil && acked < 200 {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if _, perr := r.Propose(ctx, []byte(big)); perr == nil {
				acked++
			} else if !errors.Is(perr, ErrNotLeader) {
				told = perr
			} else {
				time.Sleep(heartbeat)
			}
			cancel()
			if told = errors.Join(told, r.Failure()); acked == 150 && told == nil {
				told = r.raft.Snapshot().Error()
			}
		}
		err = told
		r.Close()
	}
	if full.fired == 0 {
		t.Fatalf("it never wrote: %v", err)
	}
	if err == nil || !strings.Contains(err.Error(), "no space left on device") || !strings.Contains(err.Error(), "make room on the file system of "+dir) {
		t.Errorf("it says %v", err)
	}
	said := err
	m := &counter{}
	if r, err = openAlone(dir, m, nil); err != nil {
		t.Fatal(err)
	}
	lead(t, r)
	if n := len(m.entries); n < acked {
		t.Errorf("%d were acknowledged, %d are there", acked, n)
	}
	r.Close()
	t.Logf("no space for %q %d times: 0 of %d acknowledged entries lost; it said: %v", point, full.fired, acked, said)
}
