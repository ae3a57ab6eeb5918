package images

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/imagestore"
)

// ErrDigest says that bytes are not those that a manifest named.
var ErrDigest = errors.New("wrong digest")

// zstdWindow is the largest window that a layer may ask memory for, in bytes.
const zstdWindow = 128 << 20

// layerSource is one layer to be had.
type layerSource struct {
	digest string // of the bytes as they travel, sha256:HEX
	diffID string // of the archive inside, sha256:HEX; empty: not known
	open   func() (io.ReadCloser, error)
}

// ensureLayer unpacks a layer unless it is there, and returns its directory name. The
// bytes are hashed while they are unpacked into staging; the rename into place happens
// only if both digests match.
func (p *puller) ensureLayer(src layerSource) (name string, size int64, err error) {
	name, err = imagestore.LayerName(src.digest)
	if err != nil {
		return "", 0, err
	}
	final := p.store.Layer(name)
	if _, err := os.Lstat(final); err == nil {
		return name, 0, nil
	}
	stage, err := os.MkdirTemp(p.store.Staging(), "layer-")
	if err != nil {
		return "", 0, fmt.Errorf("make staging directory: %w", err)
	}
	defer func() {
		if rerr := os.RemoveAll(stage); rerr != nil && err == nil {
			err = fmt.Errorf("remove staging directory: %w", rerr)
		}
	}()
	root := filepath.Join(stage, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", 0, err
	}
	body, err := src.open()
	if err != nil {
		return "", 0, err
	}
	size, err = unpackVerified(root, body, src.digest, src.diffID, p.limits, p.chown)
	if cerr := body.Close(); err == nil && cerr != nil {
		err = cerr
	}
	if err != nil {
		return "", 0, err
	}
	// On a disk the name must not be there before the bytes are.
	if err := flush(root); err != nil {
		return "", 0, err
	}
	if err := os.Rename(root, final); err != nil && !errors.Is(err, os.ErrExist) && !isNotEmpty(err) {
		return "", 0, fmt.Errorf("put layer in place: %w", err)
	}
	return name, size, nil
}

// flush writes the file system of a directory to its medium.
func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("flush layer: %w", err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("flush layer: %w", err)
	}
	return nil
}

// unpackVerified unpacks one compressed layer into dir and compares both digests.
func unpackVerified(dir string, body io.Reader, digest, diffID string, limits Limits, chown bool) (int64, error) {
	outer := sha256.New()
	counted := &counter{r: io.TeeReader(body, outer)}
	plain, closePlain, err := decompress(counted)
	if err != nil {
		return 0, err
	}
	defer closePlain()
	inner := sha256.New()
	bounded := &ratioReader{r: plain, in: counted, ratio: limits.Ratio}
	archive := io.TeeReader(bounded, inner)
	size, unpackErr := unpack(dir, archive, limits, chown)
	if unpackErr == nil {
		_, unpackErr = io.Copy(io.Discard, archive)
	}
	if unpackErr != nil {
		return size, unpackErr
	}
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return size, fmt.Errorf("read the layer's end: %w", err)
	}
	if got := digestOf(outer); got != digest {
		return size, fmt.Errorf("%w: the layer's bytes are %s, the manifest says %s", ErrDigest, got, digest)
	}
	if got := digestOf(inner); diffID != "" && got != diffID {
		return size, fmt.Errorf("%w: the unpacked layer is %s, the image's configuration says %s", ErrDigest, got, diffID)
	}
	return size, nil
}

func digestOf(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }

// decompress looks at the first bytes, not at a media type, and gives the archive.
func decompress(r io.Reader) (io.Reader, func(), error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("read layer: %w", err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, nil, fmt.Errorf("read gzip layer: %w", err)
		}
		return z, func() { z.Close() }, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, fmt.Errorf("read zstd layer: %w", err)
		}
		return z, z.Close, nil
	default:
		return br, func() {}, nil
	}
}

// counter counts what has been read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// ratioReader stops a decompression bomb: more than ratio bytes out of each byte in,
// once there is enough of it to tell.
type ratioReader struct {
	r     io.Reader
	in    *counter
	out   int64
	ratio int64
}

const ratioFrom = 64 << 20 // bytes that are let through in any case

func (b *ratioReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.out += int64(n)
	if b.out > ratioFrom && b.ratio > 0 && b.out > b.in.n*b.ratio {
		return n, fmt.Errorf("%w: %d bytes out of %d compressed ones is a decompression bomb (limit %d:1)", ErrBadEntry, b.out, b.in.n, b.ratio)
	}
	return n, err
}
