package images

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"github.com/mesolith/mesolith/internal/fetchplan"
)

// Bounds of what a reader of archives takes of memory, in bytes.
const (
	xzDictionary = 128 << 20 // twice what xz -9 makes
	zipDirectory = 32 << 20
	maxLink      = 4096
)

// afterEnd is how much may follow the end of a tar archive and still be read, for the sum
// behind it, in bytes.
const afterEnd = 1 << 20

// archive unpacks a file of a kind below the unpacker's directory; rest names what comes out
// of a file that is no archive.
func (u *unpacker) archive(f *os.File, kind fetchplan.Kind, rest string) (err error) {
	defer func() {
		// The readers are others' code, fed with strangers' bytes.
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: its reader failed: %v", ErrBadEntry, r)
		}
	}()
	if kind == fetchplan.Zip {
		err = u.zip(f)
	} else {
		err = u.stream(f, kind, rest)
	}
	if err != nil {
		return err
	}
	return u.checkLinks()
}

// stream unpacks what is read from its beginning to its end.
func (u *unpacker) stream(f *os.File, kind fetchplan.Kind, rest string) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	in := &counter{r: bufio.NewReaderSize(f, 64<<10)}
	plain, err := decode(in, kind)
	if err != nil {
		return err
	}
	bounded := &ratioReader{r: plain, in: in, ratio: u.limits.Ratio}
	u.in = &counter{r: bounded}
	if kind == fetchplan.Gzip {
		return u.entry(&tar.Header{Name: rest, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Now()}, u.in)
	}
	if err := u.tar(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(bounded, afterEnd))
	return err
}

// decode gives the bytes of a file as they were before they were packed.
func decode(in io.Reader, kind fetchplan.Kind) (io.Reader, error) {
	switch kind {
	case fetchplan.TarGzip, fetchplan.Gzip:
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("read gzip: %w", err)
		}
		return z, nil
	case fetchplan.TarBzip2:
		return bzip2.NewReader(in), nil
	case fetchplan.TarXZ:
		br := bufio.NewReaderSize(in, 4096)
		if err := checkXZ(br); err != nil {
			return nil, err
		}
		z, err := xz.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("read xz: %w", err)
		}
		return z, nil
	}
	return in, nil
}

// checkXZ looks into the head of an xz file for how large its dictionary is: the reader
// makes one of any size that it is told.
func checkXZ(br *bufio.Reader) error {
	const streamHeader = 12
	head, err := br.Peek(streamHeader + 1)
	if err != nil {
		return fmt.Errorf("read xz: %w", noEOF(err))
	}
	head, err = br.Peek(streamHeader + 4*(int(head[streamHeader])+1))
	if err != nil {
		return fmt.Errorf("read xz: %w", noEOF(err))
	}
	block := head[streamHeader:]
	if block[0] == 0 {
		return nil // an index: there are no blocks
	}
	at := 2
	skip := func() { // a number of several bytes
		for at < len(block) && block[at]&0x80 != 0 {
			at++
		}
		at++
	}
	if block[1]&0x40 != 0 {
		skip()
	}
	if block[1]&0x80 != 0 {
		skip()
	}
	if at+3 > len(block) || block[at] != 0x21 || block[at+1] != 1 {
		return nil // not what the reader reads either
	}
	if size, err := lzma.DecodeDictCap(block[at+2]); err == nil && size > xzDictionary {
		return fmt.Errorf("%w: the xz file asks for a dictionary of %d MB, at most %d are given", ErrBadEntry, size>>20, xzDictionary>>20)
	}
	return nil
}

// noEOF words the end of a file where there should be more.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// metered bounds how much is read of a zip file for its directory, which is kept in memory.
type metered struct {
	io.ReaderAt
	left int64 // -1: no bound
}

func (m *metered) ReadAt(p []byte, off int64) (int, error) {
	if m.left >= 0 {
		if int64(len(p)) > m.left {
			return 0, fmt.Errorf("%w: the directory of the zip file has more than %d MB", ErrBadEntry, zipDirectory>>20)
		}
		m.left -= int64(len(p))
	}
	return m.ReaderAt.ReadAt(p, off)
}

func (u *unpacker) zip(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	m := &metered{ReaderAt: f, left: zipDirectory}
	z, err := zip.NewReader(m, info.Size())
	if err != nil {
		return fmt.Errorf("read zip: %w", err)
	}
	m.left = -1
	u.in = &counter{n: info.Size()}
	defer u.dropParent()
	for _, e := range z.File {
		if err := u.zipEntry(e); err != nil {
			return fmt.Errorf("entry %q: %w", e.Name, err)
		}
	}
	return u.setDirTimes()
}

// zipEntry words an entry as tar's, and makes it.
func (u *unpacker) zipEntry(e *zip.File) error {
	h := &tar.Header{Name: e.Name, Mode: int64(e.Mode().Perm()), ModTime: e.Modified, Typeflag: tar.TypeReg}
	if e.Flags&1 != 0 {
		return fmt.Errorf("%w: it is encrypted", ErrBadEntry)
	}
	switch mode := e.Mode(); mode.Type() {
	case fs.ModeDir:
		h.Typeflag = tar.TypeDir
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		return u.entry(h, nil)
	case 0, fs.ModeSymlink:
		if h.Mode == 0 {
			h.Mode = 0o644
		}
	default:
		return fmt.Errorf("%w: %s is no file, directory or link", ErrBadEntry, mode.Type())
	}
	body, err := e.Open()
	if err != nil {
		return err
	}
	defer body.Close()
	if e.Mode().Type() == fs.ModeSymlink {
		target, err := io.ReadAll(io.LimitReader(body, maxLink))
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(target)
		return u.entry(h, nil)
	}
	if e.UncompressedSize64 > uint64(u.limits.Bytes-u.bytes) {
		return fmt.Errorf("%w (%d)", errTooMuch, u.limits.Bytes)
	}
	h.Size = int64(e.UncompressedSize64)
	return u.entry(h, body)
}
