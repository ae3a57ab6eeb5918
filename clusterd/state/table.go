package state

import (
	"iter"
	"sync/atomic"
)

// chunkRows is how many records are copied together when one of them changes that a
// snapshot shares.
const chunkRows = 256

// table is a flat array with holes, in chunks. Slots are reused, newest hole first. Who
// changes a record takes it by edit, and keeps no pointer that at gave before.
type table[T any] struct {
	chunks []*chunk[T]
	size   int32 // slots given out so far
	free   []int32
}

type chunk[T any] struct {
	rows [chunkRows]T
	used [chunkRows]bool
	// shared: a snapshot reads it; it never changes again.
	shared atomic.Bool
}

func (t *table[T]) add(row T) int32 {
	slot := t.size
	if n := len(t.free); n > 0 {
		slot = t.free[n-1]
		t.free = t.free[:n-1]
	} else {
		if t.size++; int(slot) == len(t.chunks)*chunkRows {
			t.chunks = append(t.chunks, &chunk[T]{})
		}
	}
	c := t.own(slot)
	c.rows[slot%chunkRows], c.used[slot%chunkRows] = row, true
	return slot
}

func (t *table[T]) remove(slot int32) {
	var zero T
	c := t.own(slot)
	c.rows[slot%chunkRows], c.used[slot%chunkRows] = zero, false
	t.free = append(t.free, slot)
}

// own gives the chunk of a slot, for changing it.
func (t *table[T]) own(slot int32) *chunk[T] {
	c := t.chunks[slot/chunkRows]
	if c.shared.Load() {
		c = &chunk[T]{rows: c.rows, used: c.used}
		t.chunks[slot/chunkRows] = c
	}
	return c
}

// at gives a record to be read.
func (t *table[T]) at(slot int32) *T { return &t.chunks[slot/chunkRows].rows[slot%chunkRows] }

// edit gives a record to be changed.
func (t *table[T]) edit(slot int32) *T { return &t.own(slot).rows[slot%chunkRows] }

func (t *table[T]) all() iter.Seq[*T] { return rows(t.chunks) }

func rows[T any](chunks []*chunk[T]) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for _, c := range chunks {
			for i := range c.rows {
				if c.used[i] && !yield(&c.rows[i]) {
					return
				}
			}
		}
	}
}

// copied returns the rows in use, in a new array.
func (t *table[T]) copied() []T {
	out := make([]T, 0, int(t.size)-len(t.free))
	for row := range t.all() {
		out = append(out, *row)
	}
	return out
}

// share gives the chunks as they are now, for ever.
func (t *table[T]) share() []*chunk[T] {
	for _, c := range t.chunks {
		c.shared.Store(true)
	}
	return append([]*chunk[T](nil), t.chunks...)
}
