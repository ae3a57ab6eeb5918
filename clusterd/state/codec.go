package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Bounds of one encoded value. They are generous against what the leader proposes and
// small against memory: a decoder never allocates more than its input holds.
const (
	maxString = 1 << 16 // bytes of an id, a name, a role
	maxBytes  = 4 << 20 // bytes of a TaskInfo, FrameworkInfo, AgentInfo, status
	maxList   = 1 << 20 // elements of a list
)

// ErrCorrupt says that bytes are not what this program writes: a checksum that does
// not match, a length beyond the input, a list out of order.
var ErrCorrupt = errors.New("corrupt")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// writer appends values to a buffer. All numbers are varints, all strings and byte
// slices carry their length first.
type writer struct{ buf []byte }

func (w *writer) uint(v uint64) { w.buf = binary.AppendUvarint(w.buf, v) }
func (w *writer) int(v int64)   { w.buf = binary.AppendVarint(w.buf, v) }

func (w *writer) bool(v bool) {
	if v {
		w.buf = append(w.buf, 1)
		return
	}
	w.buf = append(w.buf, 0)
}

func (w *writer) string(v string) {
	w.uint(uint64(len(v)))
	w.buf = append(w.buf, v...)
}

func (w *writer) bytes(v []byte) {
	w.uint(uint64(len(v)))
	w.buf = append(w.buf, v...)
}

func (w *writer) strings(v []string) {
	w.uint(uint64(len(v)))
	for _, s := range v {
		w.string(s)
	}
}

// reader takes values off a buffer. The first error sticks and every later value is
// zero, so that decoders read straight through and ask once.
type reader struct {
	buf []byte
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: %w", what, ErrCorrupt)
	}
	r.buf = nil
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.buf)
	if n <= 0 {
		r.fail("number")
		return 0
	}
	r.buf = r.buf[n:]
	return v
}

func (r *reader) int() int64 {
	v, n := binary.Varint(r.buf)
	if n <= 0 {
		r.fail("number")
		return 0
	}
	r.buf = r.buf[n:]
	return v
}

func (r *reader) bool() bool {
	if len(r.buf) == 0 || r.buf[0] > 1 {
		r.fail("truth value")
		return false
	}
	v := r.buf[0] == 1
	r.buf = r.buf[1:]
	return v
}

// raw takes n bytes without copying them.
func (r *reader) raw(n uint64) []byte {
	if n > uint64(len(r.buf)) {
		r.fail("length")
		return nil
	}
	v := r.buf[:n:n]
	r.buf = r.buf[n:]
	return v
}

func (r *reader) string() string {
	n := r.uint()
	if n > maxString {
		r.fail("string length")
		return ""
	}
	return string(r.raw(n))
}

// bytes copies: what a task keeps for weeks must not hold the whole entry in memory that
// it came with, and the log may use its buffer again.
func (r *reader) bytes() []byte {
	n := r.uint()
	if n > maxBytes {
		r.fail("bytes length")
		return nil
	}
	v := r.raw(n)
	if len(v) == 0 {
		return nil
	}
	return append(make([]byte, 0, len(v)), v...)
}

// count reads the length of a list whose elements take at least one byte each.
func (r *reader) count() int {
	n := r.uint()
	if n > maxList || n > uint64(len(r.buf)) {
		r.fail("list length")
		return 0
	}
	return int(n)
}

func (r *reader) strings() []string {
	n := r.count()
	if n == 0 {
		return nil
	}
	v := make([]string, 0, min(n, 1024))
	for range n {
		v = append(v, r.string())
	}
	if r.err != nil {
		return nil
	}
	return v
}

// done reports the first error, or that bytes are left over.
func (r *reader) done() error {
	if r.err == nil && len(r.buf) > 0 {
		r.fail("bytes left over")
	}
	return r.err
}
