// Package deb reads Debian binary packages: an ar archive that holds a
// control and a data tar archive, each packed with xz, zstd or gzip.
//
// It gives the fields of the control file and, one by one, the entries of
// the data archive. Sizes and counts are bounded, so that a damaged file
// cannot fill memory or disk; paths are handed out cleaned, relative and
// without a way out of their root. Nothing is installed and no maintainer
// script is ever read, let alone run. Who vouches for the file (checksum,
// signed index) is package packages' business.
package deb

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const (
	magic          = "!<arch>\n"
	headerBytes    = 60
	maxMembers     = 16
	maxControl     = 1 << 20
	maxEntries     = 200_000
	maxEntryBytes  = 1 << 30
	maxUnpackBytes = 8 << 30
)

// ErrFormat is wrapped by every error that says the file is not a sound package.
var ErrFormat = errors.New("not a sound Debian package")

// Control is the part of a package's control file that the build records.
type Control struct {
	Package      string
	Source       string // name of the source package, without a version in brackets
	Version      string
	Architecture string
}

// ReadControl returns the control fields of the package in file.
func ReadControl(file string) (Control, error) {
	var text []byte
	err := member(file, "control.tar", func(r io.Reader) error {
		return eachEntry(r, func(h *tar.Header, body io.Reader) error {
			if h.Name != "control" {
				return nil
			}
			var err error
			text, err = io.ReadAll(io.LimitReader(body, maxControl))
			return err
		})
	})
	if err != nil {
		return Control{}, fmt.Errorf("read control of %s: %w", file, err)
	}
	c := parseControl(string(text))
	if c.Package == "" || c.Version == "" {
		return Control{}, fmt.Errorf("read control of %s: %w: no package name or version", file, ErrFormat)
	}
	return c, nil
}

func parseControl(text string) Control {
	var c Control
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimRight(line, "\n"), ":")
		if !ok || strings.HasPrefix(line, " ") {
			continue
		}
		value = strings.TrimSpace(value)
		switch key {
		case "Package":
			c.Package = value
		case "Source":
			c.Source, _, _ = strings.Cut(value, " ")
		case "Version":
			c.Version = value
		case "Architecture":
			c.Architecture = value
		}
	}
	if c.Source == "" {
		c.Source = c.Package
	}
	return c
}

// Walk calls visit for each entry of the data archive of the package in
// file, in the order of the archive. Names are relative and clean
// ("usr/bin/busybox"); body is valid until visit returns.
func Walk(file string, visit func(h *tar.Header, body io.Reader) error) error {
	err := member(file, "data.tar", func(r io.Reader) error { return eachEntry(r, visit) })
	if err != nil {
		return fmt.Errorf("unpack %s: %w", file, err)
	}
	return nil
}

// member finds the member whose name is prefix plus a packing suffix and
// hands its unpacked bytes to use.
func member(file, prefix string, use func(io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return findMember(bufio.NewReaderSize(f, 1<<20), prefix, use)
}

func findMember(r io.Reader, prefix string, use func(io.Reader) error) error {
	start := make([]byte, len(magic))
	if _, err := io.ReadFull(r, start); err != nil || string(start) != magic {
		return fmt.Errorf("%w: no ar archive", ErrFormat)
	}
	for range maxMembers {
		header := make([]byte, headerBytes)
		if _, err := io.ReadFull(r, header); err != nil {
			return fmt.Errorf("%w: member %s missing", ErrFormat, prefix)
		}
		name := strings.TrimRight(strings.TrimSpace(string(header[:16])), "/")
		size, err := strconv.ParseInt(strings.TrimSpace(string(header[48:58])), 10, 64)
		if err != nil || size < 0 || size > maxUnpackBytes || string(header[58:60]) != "`\n" {
			return fmt.Errorf("%w: bad ar header", ErrFormat)
		}
		if !strings.HasPrefix(name, prefix) {
			if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
				return fmt.Errorf("%w: member %s cut short", ErrFormat, name)
			}
			continue
		}
		unpacked, end, err := unpack(&exactly{r: r, left: size}, strings.TrimPrefix(name, prefix))
		if err != nil {
			return fmt.Errorf("member %s: %w", name, err)
		}
		defer end()
		return use(unpacked)
	}
	return fmt.Errorf("%w: member %s missing", ErrFormat, prefix)
}

func unpack(r io.Reader, suffix string) (io.Reader, func(), error) {
	none := func() {}
	switch suffix {
	case ".xz":
		x, err := xz.ReaderConfig{DictCap: 64 << 20}.NewReader(bufio.NewReaderSize(r, 1<<20))
		return x, none, err
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, none, err
		}
		return z, z.Close, nil
	case ".gz":
		g, err := gzip.NewReader(r)
		return g, none, err
	case "":
		return r, none, nil
	}
	return nil, none, fmt.Errorf("%w: packing %q is not known", ErrFormat, suffix)
}

func eachEntry(r io.Reader, visit func(*tar.Header, io.Reader) error) error {
	archive := tar.NewReader(r)
	var total int64
	for range maxEntries {
		h, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		clean, err := cleanName(h.Name)
		if err != nil {
			return err
		}
		h.Name = clean
		total += h.Size
		if h.Size > maxEntryBytes || total > maxUnpackBytes {
			return fmt.Errorf("%w: %s is too large", ErrFormat, h.Name)
		}
		if err := visit(h, archive); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: more than %d entries", ErrFormat, maxEntries)
}

func cleanName(name string) (string, error) {
	clean := path.Clean(strings.TrimPrefix(name, "./"))
	if path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsRune(clean, 0) {
		return "", fmt.Errorf("%w: entry %q leaves the root", ErrFormat, name)
	}
	return clean, nil
}

// exactly reads left bytes and calls an earlier end an error, which the
// readers above it would take for the end of a whole archive.
type exactly struct {
	r    io.Reader
	left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	if err == io.EOF && e.left > 0 {
		err = fmt.Errorf("%w: cut short", ErrFormat)
	}
	return n, err
}
