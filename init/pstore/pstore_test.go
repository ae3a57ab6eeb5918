package pstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestThirdBootInFiveMinutesWaits(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	var boots []time.Time
	var wait time.Duration
	for _, step := range []struct {
		after time.Duration
		want  time.Duration
	}{{0, 0}, {time.Minute, 0}, {time.Minute, Pause}, {4 * time.Minute, 0}, {10 * time.Second, Pause}, {time.Hour, 0}} {
		at = at.Add(step.after)
		if boots, wait = next(boots, at); wait != step.want {
			t.Errorf("boot at %s waits %s, want %s", at, wait, step.want)
		}
	}
	if _, wait := next([]time.Time{at.Add(time.Hour), at.Add(time.Hour)}, at); wait != 0 {
		t.Error("boots in the future count")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte{7, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(parse(raw)) > Many {
			t.Error("more boots than are kept")
		}
	})
}

// What the kernel kept becomes a log, oldest first; the store is kept from filling up.
func TestCollect(t *testing.T) {
	dir, log := t.TempDir(), filepath.Join(t.TempDir(), "crash")
	for _, empty := range []string{dir, filepath.Join(dir, "none")} {
		if ends, err := collect(empty, log); len(ends) != 0 || err != nil {
			t.Errorf("%d ends in %s, %v", len(ends), empty, err)
		}
	}
	began := time.Unix(1_700_000_000, 0)
	for i := range keep + 2 {
		path := filepath.Join(dir, fmt.Sprintf("dmesg-erst-%d", 1000-i)) // names say nothing of the order
		if err := os.WriteFile(path, []byte(fmt.Sprintf("panic %02d", i)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, began, began.Add(time.Duration(i)*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	for round, want := range []int{keep + 2, keep} {
		if ends, err := collect(dir, log); len(ends) != want || err != nil {
			t.Fatalf("round %d: %d ends, %v; want %d", round, len(ends), err, want)
		}
		raw, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		first := strings.Index(string(raw), fmt.Sprintf("panic %02d", keep+2-want))
		last := strings.Index(string(raw), fmt.Sprintf("panic %02d", keep+1))
		if first < 0 || last < first || strings.Count(string(raw), "record dmesg-erst-") != want {
			t.Errorf("round %d: %s", round, raw)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "dmesg-erst-1000")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the oldest record: %v", err)
	}
}
