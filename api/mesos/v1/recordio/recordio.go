// Package recordio frames messages on a stream the way the Mesos v1 API does: the length
// of a record in decimal, a newline, then exactly that many bytes, and nothing after it.
//
// Append and Writer hand a whole frame to one Write, because some clients expect that one
// read gives one record. Reader never holds more than one record and refuses a record
// longer than its limit before it reads it, so that a length cannot make it allocate what
// never comes.
//
// What is inside a record is not this package's business: mesosjson and the protobuf
// runtime decode it.
package recordio

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// ErrTooLong is returned for a record longer than the reader's limit; the stream cannot be
// read any further.
var ErrTooLong = errors.New("record is longer than allowed")

// ErrFraming is returned when what should be a record's length is not one; the stream
// cannot be read any further.
var ErrFraming = errors.New("no record length where one is due")

// maxDigits is what the longest 64-bit length takes.
const maxDigits = 20

// Append adds one framed record to dst.
func Append(dst, record []byte) []byte {
	dst = strconv.AppendUint(dst, uint64(len(record)), 10)
	dst = append(dst, '\n')
	return append(dst, record...)
}

// Writer frames records onto w, each by a single Write.
type Writer struct {
	w   io.Writer
	buf []byte
}

// NewWriter returns a Writer onto w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write writes one record.
func (w *Writer) Write(record []byte) error {
	w.buf = Append(w.buf[:0], record)
	if _, err := w.w.Write(w.buf); err != nil {
		return fmt.Errorf("write record of %d bytes: %w", len(record), err)
	}
	return nil
}

// Reader takes records off a stream.
type Reader struct {
	r        *bufio.Reader
	maxBytes int
	err      error
}

// NewReader returns a Reader that refuses records of more than maxBytes.
func NewReader(r io.Reader, maxBytes int) *Reader {
	return &Reader{r: bufio.NewReader(r), maxBytes: maxBytes}
}

// Next returns the next record, which is the caller's to keep. At the end of the stream
// the error is io.EOF between records and io.ErrUnexpectedEOF inside one. After an error
// every further call returns it again.
func (r *Reader) Next() ([]byte, error) {
	if r.err != nil {
		return nil, r.err
	}
	record, err := r.next()
	if err != nil {
		r.err = err
	}
	return record, err
}

func (r *Reader) next() ([]byte, error) {
	length, err := r.length()
	if err != nil {
		return nil, err
	}
	if length > uint64(r.maxBytes) {
		return nil, fmt.Errorf("record of %d bytes, limit %d: %w", length, r.maxBytes, ErrTooLong)
	}
	var buf bytes.Buffer
	if length <= bytes.MinRead {
		buf.Grow(int(length))
	}
	// CopyN grows with what arrives, not with what was announced.
	if _, err := io.CopyN(&buf, r.r, int64(length)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read record of %d bytes: %w", length, err)
	}
	return buf.Bytes(), nil
}

func (r *Reader) length() (uint64, error) {
	var digits [maxDigits]byte
	for n := 0; ; n++ {
		c, err := r.r.ReadByte()
		switch {
		case err == io.EOF && n == 0:
			return 0, io.EOF
		case err == io.EOF:
			return 0, fmt.Errorf("read record length: %w", io.ErrUnexpectedEOF)
		case err != nil:
			return 0, fmt.Errorf("read record length: %w", err)
		case c == '\n' && n > 0:
			length, err := strconv.ParseUint(string(digits[:n]), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("length %q: %w", digits[:n], ErrFraming)
			}
			return length, nil
		case c < '0' || c > '9' || n == maxDigits:
			return 0, fmt.Errorf("byte %q after %q: %w", c, digits[:n], ErrFraming)
		}
		digits[n] = c
	}
}
