// Package images fetches images into a node's store, and files into tasks' sandboxes: what
// `clusterd pull` and `clusterd pull --fetch` run, as processes and users of their own,
// because everything that reads a registry's or a server's answers or unpacks a stranger's
// archive lives here and nowhere else.
//
// It speaks to any registry that go-containerregistry speaks to, takes the node's
// platform out of an index, unpacks gzip, zstd and plain layers, each once (a layer's
// directory is named by its digest), and writes the image's file last, so that what
// imagestore.Find finds is whole. The built-in base comes through the same unpacker.
//
// Invariants: nothing is used before its digest is verified; no entry of an archive can
// leave its root; sizes, counts, ratios and documents are bounded. Mounting, garbage
// and who may pull are the keeper's business.
package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/mesolith/mesolith/internal/imagestore"
)

// Config says what to pull, from where and into what.
type Config struct {
	Store     string
	Reference string
	Base      string // the built-in base as an archive; used for reference "base"
	// Certificates is the bundle of CA certificates that the built-in base gets; none,
	// where there is no such file.
	Certificates string
	Mirrors      map[string][]string // registry host to endpoints, tried in order before the host itself
	Offline      bool                // never contact the public name
	Platform     string              // os/arch; empty: the host's
	Auth         []byte              // a docker config.json; empty: anonymous
	Limits       Limits
	Log          *slog.Logger
}

type puller struct {
	store    imagestore.Store
	limits   Limits
	chown    bool
	log      *slog.Logger
	mirrors  map[string][]string
	offline  bool
	platform string
	auth     authFile

	certificates string
}

// Pull fetches one image and returns it. The error says what failed, where, why and
// what to do.
func Pull(ctx context.Context, c Config) (imagestore.Image, error) {
	p := &puller{
		store: imagestore.Store{Dir: c.Store}, limits: c.Limits, chown: os.Geteuid() == 0, log: c.Log,
		mirrors: c.Mirrors, offline: c.Offline, platform: c.Platform, certificates: c.Certificates,
	}
	if p.platform == "" {
		p.platform = "linux/" + runtime.GOARCH
	}
	if p.limits == (Limits{}) {
		p.limits = DefaultLimits()
	}
	if len(c.Auth) > 0 {
		auth, err := parseAuth(c.Auth)
		if err != nil {
			return imagestore.Image{}, err
		}
		p.auth = auth
	}
	for _, dir := range []string{p.store.Layers(), p.store.Images(), p.store.Staging()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return imagestore.Image{}, fmt.Errorf("make store: %w", err)
		}
	}
	var img imagestore.Image
	var err error
	if c.Reference == imagestore.BaseReference {
		img, err = p.base(c.Base)
	} else {
		img, err = p.fetch(ctx, c.Reference)
	}
	if err != nil {
		return imagestore.Image{}, fmt.Errorf("image %s: %w", c.Reference, err)
	}
	img.Format, img.Reference, img.PulledAt = imagestore.Format, c.Reference, time.Now().UnixNano()
	if err := p.writeImage(img); err != nil {
		return imagestore.Image{}, fmt.Errorf("image %s: %w", c.Reference, err)
	}
	return img, nil
}

// writeImage makes the image known, by one rename.
func (p *puller) writeImage(img imagestore.Image) error {
	raw, err := json.MarshalIndent(img, "", " ")
	if err != nil {
		return err
	}
	if len(raw) > imagestore.MaxImageFile {
		return fmt.Errorf("its description has %d bytes, at most %d are read", len(raw), imagestore.MaxImageFile)
	}
	f, err := os.CreateTemp(p.store.Staging(), "image-")
	if err != nil {
		return fmt.Errorf("write image file: %w", err)
	}
	_, err = f.Write(raw)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), p.store.ImageFile(img.Reference))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write image file: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// base unpacks the built-in root file system, named by its own digest.
func (p *puller) base(file string) (imagestore.Image, error) {
	if file == "" {
		return imagestore.Image{}, errors.New("this node has no built-in base (no --base was given): name an image in the task, or set tasks.image in the cluster file")
	}
	digest, err := fileDigest(file)
	if err != nil {
		return imagestore.Image{}, fmt.Errorf("built-in base: %w", err)
	}
	name, size, err := p.ensureLayer(layerSource{digest: digest, open: func() (io.ReadCloser, error) { return os.Open(file) }})
	if err != nil {
		return imagestore.Image{}, fmt.Errorf("unpack %s: %w", filepath.Base(file), err)
	}
	layers := []string{name}
	certificates, err := certificateLayer(p.certificates)
	switch {
	case errors.Is(err, fs.ErrNotExist): // not a node: whoever needs some brings them
	case err != nil:
		return imagestore.Image{}, fmt.Errorf("built-in base: %w", err)
	default:
		above, more, err := p.ensureLayer(certificates)
		if err != nil {
			return imagestore.Image{}, fmt.Errorf("lay out %s: %w", p.certificates, err)
		}
		layers, size = append(layers, above), size+more
	}
	return imagestore.Image{
		Digest: digest, Layers: layers, Bytes: size,
		Config: imagestore.Config{Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
	}, nil
}

// certificatesInTask is where programs look for the CAs they trust.
const certificatesInTask = "etc/ssl/certs/ca-certificates.crt"

// certificateLayer is a layer with the node's own bundle of CA certificates: the image
// holds them once.
func certificateLayer(file string) (layerSource, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return layerSource{}, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: certificatesInTask, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(raw))}); err != nil {
		return layerSource{}, err
	}
	if _, err := w.Write(raw); err != nil {
		return layerSource{}, err
	}
	if err := w.Close(); err != nil {
		return layerSource{}, err
	}
	return layerSource{
		digest: fmt.Sprintf("sha256:%x", sha256.Sum256(b.Bytes())),
		open:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil },
	}, nil
}

func isNotEmpty(err error) bool {
	return errors.Is(err, syscall.ENOTEMPTY)
}
