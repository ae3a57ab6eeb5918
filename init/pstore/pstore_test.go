package pstore

import (
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
