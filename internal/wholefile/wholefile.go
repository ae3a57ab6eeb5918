// Package wholefile keeps small files that a program must find again as they were: a line
// that names kind, format and checksum, and a body.
//
// Invariants: a file is replaced as a whole, so that a crash leaves the old one or the new
// one; Write returns when the new one is on the medium; what Read gives is what Write was
// given. A file that is empty, cut or damaged gives ErrDamaged, one of a newer format
// ErrNewer, and neither is ever taken for an absent one (os.ErrNotExist).
//
// What follows from damage is for the file's owner to say.
package wholefile

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
)

var (
	// ErrDamaged: the file is not what was written.
	ErrDamaged = errors.New("damaged")
	// ErrNewer: a newer version of the program wrote it.
	ErrNewer = errors.New("written by a newer version, which must be started again to read it")
)

// Kind is one sort of file; its name has no spaces.
type Kind struct {
	Name   string
	Format int
}

// Encode gives a file's bytes.
func (k Kind) Encode(body []byte) []byte {
	return append(fmt.Appendf(nil, "mesolith %s %d %08x\n", k.Name, k.Format, sum(body)), body...)
}

// Decode gives the body of a file's bytes.
func (k Kind) Decode(raw []byte) ([]byte, error) {
	head, body, ok := bytes.Cut(raw, []byte("\n"))
	var format int
	var want uint32
	if n, err := fmt.Sscanf(string(head), "mesolith "+k.Name+" %d %x", &format, &want); !ok || err != nil || n != 2 {
		return nil, fmt.Errorf("%w: %d bytes without the header of a %s", ErrDamaged, len(raw), k.Name)
	}
	if format > k.Format {
		return nil, fmt.Errorf("%w (format %d, this one knows %d)", ErrNewer, format, k.Format)
	}
	if sum(body) != want {
		return nil, fmt.Errorf("%w: wrong checksum", ErrDamaged)
	}
	return body, nil
}

func sum(body []byte) uint32 { return crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) }

// Read gives the body of a file.
func (k Kind) Read(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	body, err := k.Decode(raw)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return body, nil
}

// Write replaces a file.
func (k Kind) Write(path string, body []byte) error {
	next := path + ".next"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(k.Encode(body))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
