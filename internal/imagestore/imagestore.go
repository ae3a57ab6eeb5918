// Package imagestore names what lies where in a node's store of images, and gives the
// form of the one file that describes a pulled image. The program that pulls (it reads
// strangers' bytes, as a user of its own) writes it; the one that starts containers
// reads it and trusts none of it: Read checks every name before it becomes a path.
//
//	DIR/layers/sha256-HEX/    one unpacked layer in overlay's form (whiteouts are 0/0
//	                          character devices, opaque directories carry user.overlay.opaque)
//	DIR/images/KEY.json       an Image; KEY is the hash of the reference that was asked for
//	DIR/staging/              what is being unpacked; nothing in it is ever used
//	DIR/uris/KEY              a file that tasks want fetched once; KEY is the hash of who and what
//
// Invariant: a layer's directory exists under its name only if its bytes had the digest
// that the name gives. Fetching and unpacking are isolation/images'; mounting is
// isolation/rootfs'.
package imagestore

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Format is the number of the image file's form.
const Format = 1

// Bounds of an image file.
const (
	MaxImageFile = 4 << 20 // bytes
	MaxLayers    = 127
)

// BaseReference is the name of the built-in root file system for tasks without an image.
const BaseReference = "base"

// OpaqueXattr marks a directory that hides what lower layers have in it.
const OpaqueXattr = "user.overlay.opaque"

// ErrBadImageFile says that an image file is not one that a puller of ours writes.
var ErrBadImageFile = errors.New("not a valid image file")

var layerName = regexp.MustCompile(`^sha256-[0-9a-f]{64}$`)

// Image is one pulled image.
type Image struct {
	Format    int
	Reference string   // as it was asked for
	Digest    string   // of the manifest: sha256:HEX
	Layers    []string // directory names below layers/, lowest first
	Config    Config
	Bytes     int64 // of the unpacked layers
	PulledAt  int64 // Unix nanoseconds
}

// Config is what a container takes from an image's configuration.
type Config struct {
	User       string
	Env        []string
	Entrypoint []string
	Cmd        []string
	WorkingDir string
}

// Store is a store's root directory.
type Store struct{ Dir string }

// Key is the file name stem of a reference.
func Key(reference string) string {
	sum := sha256.Sum256([]byte(reference))
	return hex.EncodeToString(sum[:16])
}

// LayerName is the directory name of a digest in the form sha256:HEX.
func LayerName(digest string) (string, error) {
	name := strings.Replace(digest, ":", "-", 1)
	if !layerName.MatchString(name) {
		return "", fmt.Errorf("digest %q is not sha256 in lower-case hexadecimal", digest)
	}
	return name, nil
}

// Layer is the path of a layer's directory.
func (s Store) Layer(name string) string { return filepath.Join(s.Dir, "layers", name) }

// Layers is the directory of all layers.
func (s Store) Layers() string { return filepath.Join(s.Dir, "layers") }

// Images is the directory of all image files.
func (s Store) Images() string { return filepath.Join(s.Dir, "images") }

// Staging is the directory for what is not complete.
func (s Store) Staging() string { return filepath.Join(s.Dir, "staging") }

// URIs is the directory of files that are kept for the next task.
func (s Store) URIs() string { return filepath.Join(s.Dir, "uris") }

// ImageFile is the path of the file that describes a reference.
func (s Store) ImageFile(reference string) string {
	return filepath.Join(s.Images(), Key(reference)+".json")
}

// Find reads the image of a reference; the error is fs.ErrNotExist when it was never
// pulled or one of its layers is gone.
func (s Store) Find(reference string) (Image, error) {
	f, err := os.Open(s.ImageFile(reference))
	if err != nil {
		return Image{}, err
	}
	defer f.Close()
	img, err := Decode(f)
	if err != nil {
		return Image{}, fmt.Errorf("image file of %s: %w", reference, err)
	}
	if img.Reference != reference {
		return Image{}, fmt.Errorf("image file of %s: %w: it is about %q", reference, ErrBadImageFile, img.Reference)
	}
	for _, l := range img.Layers {
		if _, err := os.Lstat(s.Layer(l)); err != nil {
			return Image{}, fmt.Errorf("layer of %s: %w", reference, err)
		}
	}
	return img, nil
}

// Decode reads and checks an image file.
func Decode(r io.Reader) (Image, error) {
	raw, err := io.ReadAll(io.LimitReader(r, MaxImageFile+1))
	if err != nil {
		return Image{}, err
	}
	if len(raw) > MaxImageFile {
		return Image{}, fmt.Errorf("%w: longer than %d bytes", ErrBadImageFile, MaxImageFile)
	}
	var img Image
	if err := json.Unmarshal(raw, &img); err != nil {
		return Image{}, fmt.Errorf("%w: %w", ErrBadImageFile, err)
	}
	if img.Format != Format {
		return Image{}, fmt.Errorf("%w: format %d, this program knows %d", ErrBadImageFile, img.Format, Format)
	}
	if len(img.Layers) > MaxLayers {
		return Image{}, fmt.Errorf("%w: %d layers, at most %d", ErrBadImageFile, len(img.Layers), MaxLayers)
	}
	for _, l := range img.Layers {
		if !layerName.MatchString(l) {
			return Image{}, fmt.Errorf("%w: layer name %q", ErrBadImageFile, l)
		}
	}
	return img, nil
}
