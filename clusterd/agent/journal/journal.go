// Package journal keeps an agent's memory in one file: records appended and flushed
// before the deed they announce, read back in order after a crash.
//
// The file is a header line with the format's number, then records: u32 length, u32
// CRC-32C of the body, the body (a protobuf Record). A record that the end of the file
// cuts short was never acted upon and is cut off. Damage anywhere else sets the file
// aside under another name, and Open says so: the new file begins with the records before
// the damage and one that says that more is lost, so that nobody takes them for all. An
// empty file is damaged too. A file of a newer format is refused and left as it is.
//
// What the records mean is the agent's business; this package neither interprets nor
// forgets any of them except when Rewrite replaces them all.
package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"
)

const (
	header    = "mesolith agent journal 1\n"
	anyHeader = "mesolith agent journal "
	// maxRecord bounds one record in bytes: a TaskInfo is at most a request body.
	maxRecord = 16 << 20
)

// ErrNewer says that the file was written by a newer program.
var ErrNewer = errors.New("written by a newer version")

// errDamaged is internal: Open turns it into a file set aside.
var errDamaged = errors.New("damaged")

// Journal is an open file, positioned at its end. It has one owner; it does no locking.
type Journal struct {
	path string
	file *os.File
	size int64
	// failed is the first write error: after it the file's end is unknown, so that
	// nothing more is written and no sync is tried again.
	failed error
}

// Opened is what Open found.
type Opened struct {
	Journal *Journal
	Records []*Record
	CutAt   int64  // offset of a torn last record that was cut off; 0: none
	Aside   string // where a damaged file was moved; empty: none
	Why     string // what was wrong with it; Records then end with a Damaged
}

// Open reads the journal at path, creating it when absent.
func Open(path string) (Opened, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return Opened{}, fmt.Errorf("open journal: %w", err)
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		j, err := create(path, nil)
		return Opened{Journal: j}, err
	}
	if err != nil {
		return Opened{}, fmt.Errorf("open journal: %w", err)
	}
	records, good, err := Decode(raw)
	switch {
	case errors.Is(err, ErrNewer):
		return Opened{}, fmt.Errorf("open journal %s: %w: start the newer version again, or remove the file to give this agent a new identity", path, err)
	case err != nil:
		aside := fmt.Sprintf("%s.damaged-%d", path, time.Now().UnixNano())
		if err := os.Rename(path, aside); err != nil {
			return Opened{}, fmt.Errorf("set damaged journal aside: %w", err)
		}
		records = append(records, &Record{Body: &Record_Damaged{Damaged: &Damaged{Why: err.Error()}}})
		j, cerr := create(path, records)
		return Opened{Journal: j, Records: records, Aside: aside, Why: err.Error()}, cerr
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return Opened{}, fmt.Errorf("open journal: %w", err)
	}
	o := Opened{Journal: &Journal{path: path, file: f, size: good}, Records: records}
	if good < int64(len(raw)) {
		o.CutAt = good
		if err := f.Truncate(good); err != nil {
			f.Close()
			return Opened{}, fmt.Errorf("cut torn record off journal: %w", err)
		}
	}
	if _, err := f.Seek(good, io.SeekStart); err != nil {
		f.Close()
		return Opened{}, fmt.Errorf("open journal: %w", err)
	}
	return o, nil
}

// Decode reads a journal's bytes. good is the length up to the last whole record; a
// torn last record is no error. With damage it gives the records before that.
func Decode(raw []byte) (records []*Record, good int64, err error) {
	if !bytes.HasPrefix(raw, []byte(header)) {
		if len(raw) < len(header) && bytes.HasPrefix([]byte(header), raw) {
			return nil, 0, fmt.Errorf("%w: the header is cut short", errDamaged)
		}
		if bytes.HasPrefix(raw, []byte(anyHeader)) {
			line, _, _ := bytes.Cut(raw[:min(len(raw), 64)], []byte("\n"))
			return nil, 0, fmt.Errorf("%w: %q", ErrNewer, line)
		}
		return nil, 0, fmt.Errorf("%w: no header", errDamaged)
	}
	at := int64(len(header))
	for rest := raw[at:]; len(rest) > 0; rest = raw[at:] {
		if len(rest) < 8 {
			return records, at, nil
		}
		n := binary.BigEndian.Uint32(rest)
		if n == 0 && len(bytes.Trim(rest, "\x00")) == 0 {
			return records, at, nil // blocks that were allocated and never written
		}
		if n == 0 || n > maxRecord {
			return records, at, fmt.Errorf("%w: record of %d bytes at offset %d", errDamaged, n, at)
		}
		if uint64(len(rest)-8) < uint64(n) {
			if followed(rest) {
				return records, at, fmt.Errorf("%w: length of the record at offset %d", errDamaged, at)
			}
			return records, at, nil
		}
		body := rest[8 : 8+n]
		rec := &Record{}
		if crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(rest[4:]) || proto.Unmarshal(body, rec) != nil {
			if int64(len(rest)) == int64(8+n) {
				return records, at, nil // the last one: its blocks were not all written
			}
			return records, at, fmt.Errorf("%w: checksum of the record at offset %d", errDamaged, at)
		}
		records = append(records, rec)
		at += int64(8 + n)
	}
	return records, at, nil
}

// followed reports whether a whole record comes after what looks like a torn one: then it
// is not the last.
func followed(rest []byte) bool {
	for at := 8; at+8 < len(rest); at++ {
		n := uint64(binary.BigEndian.Uint32(rest[at:]))
		if n == 0 || n > uint64(len(rest)-at-8) {
			continue
		}
		body := rest[at+8 : at+8+int(n)]
		if crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) == binary.BigEndian.Uint32(rest[at+4:]) {
			return true
		}
	}
	return false
}

func create(path string, records []*Record) (*Journal, error) {
	buf := []byte(header)
	for _, r := range records {
		var err error
		if buf, err = appendRecord(buf, r); err != nil {
			return nil, err
		}
	}
	next := path + ".next"
	f, err := os.OpenFile(next, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create journal: %w", err)
	}
	err = func() error {
		if _, err := f.Write(buf); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		if err := os.Rename(next, path); err != nil {
			return err
		}
		return syncDir(filepath.Dir(path))
	}()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("create journal: %w", err)
	}
	return &Journal{path: path, file: f, size: int64(len(buf))}, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func appendRecord(buf []byte, r *Record) ([]byte, error) {
	start := len(buf)
	buf = append(buf, 0, 0, 0, 0, 0, 0, 0, 0)
	buf, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(buf, r)
	if err != nil {
		return nil, fmt.Errorf("encode journal record: %w", err)
	}
	body := buf[start+8:]
	if len(body) > maxRecord {
		return nil, fmt.Errorf("journal record of %d bytes is longer than %d", len(body), maxRecord)
	}
	binary.BigEndian.PutUint32(buf[start:], uint32(len(body)))
	binary.BigEndian.PutUint32(buf[start+4:], crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	return buf, nil
}

// Append writes the records and flushes them to the device. After an error nothing of
// this journal may be acted upon any more: the program ends and opens it anew.
func (j *Journal) Append(records ...*Record) error {
	if j.failed != nil {
		return j.failed
	}
	var buf []byte
	for _, r := range records {
		var err error
		if buf, err = appendRecord(buf, r); err != nil {
			return err
		}
	}
	if len(buf) == 0 {
		return nil
	}
	if _, err := j.file.Write(buf); err != nil {
		return j.fail("write", err)
	}
	if err := j.file.Sync(); err != nil {
		return j.fail("flush", err)
	}
	j.size += int64(len(buf))
	return nil
}

func (j *Journal) fail(what string, err error) error {
	j.failed = fmt.Errorf("%s journal %s: %w", what, j.path, err)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		j.failed = fmt.Errorf("%w: make room on the file system of %s", j.failed, filepath.Dir(j.path))
	}
	return j.failed
}

// Size is the file's length in bytes.
func (j *Journal) Size() int64 { return j.size }

// Rewrite replaces all records by these, atomically.
func (j *Journal) Rewrite(records []*Record) error {
	if j.failed != nil {
		return j.failed
	}
	next, err := create(j.path, records)
	if err != nil {
		return j.fail("rewrite", err)
	}
	j.file.Close()
	j.file, j.size = next.file, next.size
	return nil
}

// Close closes the file; everything is on the device already.
func (j *Journal) Close() error { return j.file.Close() }
