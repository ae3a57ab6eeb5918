package replica

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
)

// cutDisk ends the program's life at one step: nothing is written from then on.
type cutDisk struct {
	mu   sync.Mutex
	left int // steps until then
	at   string
}

func (d *cutDisk) Do(s Step, f func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left--; d.left > 0 {
		return f()
	}
	if d.at == "" {
		d.at = string(s.Point)
	}
	return fmt.Errorf("%s: %w", s.Point, syscall.EIO)
}

// A log whose life ends at any step of it is opened again and takes entries, also where
// its last file was full and no list named the next one.
func TestALogThatEndedAtAnyStepTakesEntriesAgain(t *testing.T) {
	const entries = 12
	ended, full := map[string]int{}, 0
	for step := 1; ; step++ {
		over := false
		synctest.Test(t, func(t *testing.T) {
			at, sealed, done := endAtStep(t, step, entries)
			over = done
			if !done {
				ended[at]++
			}
			if sealed {
				full++
			}
		})
		if over || t.Failed() {
			break
		}
	}
	t.Logf("lives ended: %v; in %d of them the last file was full", ended, full)
	if full == 0 {
		t.Error("no last file was full")
	}
}

// endAtStep lets a log die at one step and opens it again; done: it lived through them all.
func endAtStep(t *testing.T, step, entries int) (at string, sealed, done bool) {
	dir := t.TempDir()
	v := Voter{"a", "i1"}
	if err := Found(dir, v, aloneGeneration, []Voter{v}, nil); err != nil {
		t.Fatal(err)
	}
	sizes := Sizes{Segment: 4 << 10, Snapshot: 1 << 40, Trailing: 16}
	d := &cutDisk{left: step}
	acked := 0
	if r, err := openSized(dir, &counter{}, d, sizes); err == nil {
		acked = proposeUntilItFails(t, r, entries)
		r.Close()
	}
	d.mu.Lock()
	done, at = d.at == "", d.at
	d.mu.Unlock()
	meta := &metaFile{disk: atOnce{}}
	if before, err := meta.Load(dir + "/wal"); err == nil && len(before.Segments) > 0 {
		last := before.Segments[len(before.Segments)-1]
		w, err := newSegments(dir+"/wal", atOnce{}, meta).RecoverTail(last)
		if _, sealed = err.(fullTail); err == nil {
			w.Close()
		}
	} else if os.IsNotExist(err) {
		t.Fatal(err)
	}
	m := &counter{}
	r, err := openSized(dir, m, nil, sizes)
	if err != nil {
		t.Fatalf("after the end at step %d (%s): %v", step, at, err)
	}
	defer r.Close()
	lead(t, r)
	if _, err := r.Propose(t.Context(), []byte("and more")); err != nil {
		t.Errorf("after the end at step %d (%s, last file full: %v): %v", step, at, sealed, err)
	}
	for i := range acked {
		if !m.has(entryOf(i)) {
			t.Errorf("after the end at step %d (%s): entry %d of %d acknowledged ones is lost", step, at, i, acked)
		}
	}
	return at, sealed, done
}

func entryOf(i int) string { return fmt.Sprint(i, "-", strings.Repeat("x", 900)) }

func proposeUntilItFails(t *testing.T, r *Replica, entries int) (acked int) {
	for {
		l, changed := r.Leadership()
		if l.Leading {
			break
		}
		select {
		case <-r.Failed():
			return acked
		case <-changed:
		}
	}
	for i := range entries {
		if _, err := r.Propose(t.Context(), []byte(entryOf(i))); err != nil {
			return acked
		}
		acked++
	}
	return acked
}
