// Package packages fetches the Debian (or Ubuntu) packages that the image is
// made of: the kernel, and what the base file system of tasks contains.
//
// Each is a file in the build's cache, named by its checksum, and its bytes
// are checked at every use: against the lock file, or, when the archive no
// longer has the pinned version, against the index that the host's apt has
// verified by signature. The second happens only outside release builds and
// is always said aloud, old and new. Nothing is installed, no root is needed.
//
// What is inside the packages is not looked at here; package deb reads them.
package packages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// ErrNotPinned is wrapped when a release build would need another version
// than the lock file names.
var ErrNotPinned = errors.New("the pinned version is not to be had")

// File is a package file whose checksum was verified.
type File struct {
	Path    string
	Package string
	Version string
	SHA256  string
	Licence string
	Pinned  bool // it is the version that the lock file names
}

// Store fetches into and serves from one directory.
type Store struct {
	Dir     string // cache directory
	Release bool   // refuse whatever the lock file does not name
	Tell    func(format string, args ...any)

	apt *apt
}

// Open makes the cache directory if need be.
func Open(dir string, release bool, tell func(format string, args ...any)) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(dir, "debs"), 0o755); err != nil {
		return nil, fmt.Errorf("open package cache: %w", err)
	}
	return &Store{Dir: dir, Release: release, Tell: tell, apt: &apt{dir: filepath.Join(dir, "apt"), tell: tell}}, nil
}

// Kernel returns the files that together hold kernel and modules, the one
// with the kernel first.
func (s *Store) Kernel(ctx context.Context, lock Kernel) ([]File, error) {
	if f, err := s.pinned(ctx, lock.Pin); err == nil {
		return []File{f}, nil
	} else if s.Release {
		return nil, err
	}
	system, err := hostSystem()
	if err != nil {
		return nil, err
	}
	names, err := indexed(ctx, s, func() ([]string, error) {
		all, err := s.apt.names(ctx, "linux-image-")
		return system.kernelPackages(all, lock.Series), err
	})
	if err != nil {
		return nil, fmt.Errorf("no kernel package of %s fits (series %s): %w", system.ID, lock.Series, err)
	}
	var files []File
	for _, name := range names {
		f, err := s.newest(ctx, name, lock.Licence)
		if err != nil && len(files) > 0 && strings.HasPrefix(name, "linux-modules-extra-") {
			continue // not every release has one
		}
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	s.Tell("kernel: %s %s is not in this host's archive; taking %s %s, which apt's signed index vouches for",
		lock.Package, lock.Version, files[0].Package, files[0].Version)
	return files, nil
}

// Get returns the pinned package, or, except in a release build, the newest
// that apt's signed index vouches for.
func (s *Store) Get(ctx context.Context, pin Pin) (File, error) {
	f, err := s.pinned(ctx, pin)
	if err == nil || s.Release {
		return f, err
	}
	f, newestErr := s.newest(ctx, pin.Package, pin.Licence)
	if newestErr != nil {
		return File{}, fmt.Errorf("%w; and the newest: %w", err, newestErr)
	}
	s.Tell("%s: %s is gone from the archive; taking %s, which apt's signed index vouches for", pin.Package, pin.Version, f.Version)
	return f, nil
}

// pinned serves from the cache, else from the host's index, else from a
// fresh index of our own.
func (s *Store) pinned(ctx context.Context, pin Pin) (File, error) {
	f := File{Path: s.path(pin.SHA256), Package: pin.Package, Version: pin.Version, SHA256: pin.SHA256, Licence: pin.Licence, Pinned: true}
	if s.cached(f) {
		return f, nil
	}
	s.Tell("fetching %s %s", pin.Package, pin.Version)
	err := s.fetch(ctx, f)
	if err != nil && s.apt.ownIndex(ctx) == nil {
		err = s.fetch(ctx, f)
	}
	if err != nil {
		return File{}, fmt.Errorf("%s %s: %w: %w", pin.Package, pin.Version, ErrNotPinned, err)
	}
	return f, nil
}

func (s *Store) newest(ctx context.Context, name, licence string) (File, error) {
	stanzas, err := indexed(ctx, s, func() ([]stanza, error) { return s.apt.versions(ctx, name) })
	if err != nil {
		return File{}, err
	}
	newest := stanzas[0]
	f := File{Path: s.path(newest.SHA256), Package: name, Version: newest.Version, SHA256: newest.SHA256, Licence: licence}
	if s.cached(f) {
		return f, nil
	}
	s.Tell("fetching %s %s", f.Package, f.Version)
	if err := s.fetch(ctx, f); err != nil {
		return File{}, fmt.Errorf("%s %s: %w", f.Package, f.Version, err)
	}
	return f, nil
}

// indexed asks the host's index and, when that knows nothing, our own.
func indexed[T any](ctx context.Context, s *Store, ask func() ([]T, error)) ([]T, error) {
	found, err := ask()
	if err == nil && len(found) > 0 {
		return found, nil
	}
	if err := s.apt.ownIndex(ctx); err != nil {
		return nil, err
	}
	found, err = ask()
	if err == nil && len(found) == 0 {
		err = errors.New("the index has none")
	}
	return found, err
}

func (s *Store) path(sum string) string { return filepath.Join(s.Dir, "debs", sum+".deb") }

func (s *Store) cached(f File) bool {
	sum, err := fileSHA256(f.Path)
	return err == nil && sum == f.SHA256
}

// fetch downloads into a directory of its own and moves the file to its
// place only when its checksum is right.
func (s *Store) fetch(ctx context.Context, f File) error {
	dir, err := os.MkdirTemp(s.Dir, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	got, err := s.apt.download(ctx, dir, f.Package, f.Version)
	if err != nil {
		return err
	}
	sum, err := fileSHA256(got)
	if err != nil {
		return err
	}
	if sum != f.SHA256 {
		return fmt.Errorf("its sha256 is %s, expected %s", sum, f.SHA256)
	}
	return os.Rename(got, f.Path)
}

func fileSHA256(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
