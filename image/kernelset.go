package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mesolith/mesolith/image/deb"
	"github.com/mesolith/mesolith/image/kernel"
	"github.com/mesolith/mesolith/image/modules"
	"github.com/mesolith/mesolith/image/packages"
)

// kernelSet is a kernel with the modules that go into the image.
type kernelSet struct {
	version string // "6.12.117+deb12-amd64", the name below /lib/modules
	image   []byte // the bzImage
	files   []packages.File
	chosen  map[string]modules.Module
	open    map[string]bool // names of those that lie in the image unpacked
	tables  modules.Tables
	builtin []byte
}

// takeKernel gets kernel and modules, from the pinned package or from the
// files that were named, chooses the modules and derives what QEMU boots.
func (b *build) takeKernel(ctx context.Context) error {
	image, tree := b.Kernel, b.Modules
	if image == "" {
		files, err := b.store.Kernel(ctx, b.lock.Kernel)
		if err != nil {
			return err
		}
		b.kernel.files = files
		if image, tree, err = unpackKernel(b.cache(), files); err != nil {
			return err
		}
	}
	var err error
	if b.kernel.image, err = os.ReadFile(image); err != nil {
		return fmt.Errorf("read kernel: %w", err)
	}
	if b.kernel.version, err = kernelVersion(b.kernel.image); err != nil {
		return fmt.Errorf("kernel %s: %w", image, err)
	}
	if err := b.chooseModules(tree); err != nil {
		return err
	}
	return b.deriveELF()
}

// unpackKernel keeps a kernel package's kernel and modules, unpacked once, in
// a directory named by the packages' checksums.
func unpackKernel(cache string, files []packages.File) (image, tree string, err error) {
	h := sha256.New()
	for _, f := range files {
		io.WriteString(h, f.SHA256)
	}
	dir := filepath.Join(cache, "kernel-"+hex.EncodeToString(h.Sum(nil))[:16])
	if _, err := os.Stat(dir); err != nil {
		fresh, err := os.MkdirTemp(cache, "unpack-")
		if err != nil {
			return "", "", err
		}
		defer os.RemoveAll(fresh)
		for _, f := range files {
			if err := unpackKernelFiles(f.Path, fresh); err != nil {
				return "", "", err
			}
		}
		if err := os.Rename(fresh, dir); err != nil {
			return "", "", err
		}
	}
	trees, err := filepath.Glob(filepath.Join(dir, "modules", "*"))
	if err != nil || len(trees) != 1 {
		return "", "", fmt.Errorf("kernel package holds %d module directories, expected one", len(trees))
	}
	return filepath.Join(dir, "vmlinuz"), trees[0], nil
}

func unpackKernelFiles(file, dir string) error {
	return deb.Walk(file, func(h *tar.Header, body io.Reader) error {
		name := strings.TrimPrefix(h.Name, "usr/")
		var to string
		switch {
		case h.Typeflag != tar.TypeReg:
			return nil
		case strings.HasPrefix(name, "boot/vmlinuz-"):
			to = filepath.Join(dir, "vmlinuz")
		case strings.HasPrefix(name, "lib/modules/"):
			to = filepath.Join(dir, strings.TrimPrefix(name, "lib/"))
		default:
			return nil
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		raw, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		return os.WriteFile(to, raw, 0o644)
	})
}

var versionPattern = regexp.MustCompile(`^[0-9]+\.[0-9]+[0-9A-Za-z.+~-]*`)

// kernelVersion reads the version string that the boot header points at.
func kernelVersion(image []byte) (string, error) {
	if len(image) < 0x210 || string(image[0x202:0x206]) != "HdrS" {
		return "", errors.New("it is no bzImage: the boot header is missing")
	}
	at := 0x200 + int(image[0x20e]) + int(image[0x20f])<<8
	if at+128 > len(image) {
		return "", errors.New("its version string lies outside the file")
	}
	version := versionPattern.FindString(string(image[at : at+128]))
	if version == "" {
		return "", errors.New("its boot header names no version")
	}
	return version, nil
}

func (b *build) chooseModules(dir string) error {
	kept := filepath.Join(b.cache(), "modules")
	if err := os.MkdirAll(kept, 0o755); err != nil {
		return err
	}
	tree, err := modules.Open(os.DirFS(dir), func(file string, packed []byte) ([]byte, error) {
		return unpackOnce(kept, file, packed)
	})
	if err != nil {
		return fmt.Errorf("modules in %s (it must be what lies below /lib/modules/VERSION): %w", dir, err)
	}
	open, err := tree.Closure(slices.Concat(modules.Boot, modules.Virtual))
	if err != nil {
		return err
	}
	wanted := slices.Concat(modules.Boot, modules.Virtual, modules.Required)
	for _, name := range modules.Optional {
		if module, _ := tree.Has(name); module {
			wanted = append(wanted, name)
		}
	}
	if b.kernel.chosen, err = tree.Closure(wanted); err != nil {
		return err
	}
	if err := b.kernel.sameVersion(dir); err != nil {
		return err
	}
	b.kernel.open = map[string]bool{}
	for name := range open {
		b.kernel.open[name] = true
	}
	b.kernel.tables = tree.WriteTables(b.kernel.chosen, b.kernel.path)
	b.kernel.builtin, err = os.ReadFile(filepath.Join(dir, "modules.builtin"))
	return err
}

// sameVersion refuses modules that the kernel would refuse at boot, one by one.
func (k *kernelSet) sameVersion(dir string) error {
	for _, name := range slices.Sorted(maps.Keys(k.chosen)) {
		if of := k.chosen[name].Kernel; of != "" && of != k.version {
			return fmt.Errorf("modules in %s: %s is of kernel %s, and the kernel is %s, which would refuse it: name kernel and modules of one version", dir, name, of, k.version)
		}
	}
	return nil
}

// path is a module's place below /lib/modules/VERSION in the image.
func (k *kernelSet) path(m modules.Module) string {
	if k.open[m.Name] {
		return m.Path
	}
	return m.Path + m.Packing
}

func (k *kernelSet) body(m modules.Module) []byte {
	if k.open[m.Name] {
		return m.Unpacked
	}
	return m.Packed
}

// unpackOnce keeps unpacked modules by the checksum of the packed ones: xz in
// Go takes seconds for all of them.
func unpackOnce(dir, file string, packed []byte) ([]byte, error) {
	sum := sha256.Sum256(packed)
	kept := filepath.Join(dir, hex.EncodeToString(sum[:])+".ko")
	if raw, err := os.ReadFile(kept); err == nil {
		return raw, nil
	}
	raw, err := modules.Unpack(file, packed)
	if err != nil {
		return nil, err
	}
	return raw, writeWhole(kept, raw)
}

// deriveELF leaves build/qemu/vmlinux, which QEMU starts faster than the
// bzImage. A kernel without one is no error: then there is no such file.
func (b *build) deriveELF() error {
	to := filepath.Join(b.Checkout, "build", "qemu", "vmlinux")
	program, err := kernel.ExtractELF(b.kernel.image)
	if errors.Is(err, kernel.ErrFormat) {
		b.Tell("kernel: %v; QEMU will boot the bzImage", err)
		if err := os.Remove(to); err != nil && !os.IsNotExist(err) {
			return err
		}
		return nil
	}
	if err != nil {
		return err
	}
	if same, err := os.ReadFile(to); err == nil && sha256.Sum256(same) == sha256.Sum256(program) {
		return nil
	}
	return writeWhole(to, program)
}

// writeWhole makes the file appear with all its bytes or not at all.
func writeWhole(file string, body []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(body)
	if chmodErr := f.Chmod(0o644); err == nil {
		err = chmodErr
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.Rename(f.Name(), file)
}
