package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mesolith/mesolith/image/cpio"
)

// Manifest says what an image is: manifest.json beside it.
type Manifest struct {
	Format      int               `json:"format"`
	Version     string            `json:"version"`
	Git         string            `json:"git"`
	Release     bool              `json:"release"`
	Kernel      ManifestKernel    `json:"kernel"`
	CommandLine string            `json:"commandLine"`
	Toolchain   map[string]string `json:"toolchain"`
	Packages    []ManifestPackage `json:"packages"`
	Files       []ManifestFile    `json:"files"`    // beside this one
	Contents    []ManifestFile    `json:"contents"` // of the initramfs
}

// ManifestKernel names the kernel in the image.
type ManifestKernel struct {
	Version string `json:"version"`
	Modules int    `json:"modules"`
}

// ManifestPackage is a package whose files are in the image.
type ManifestPackage struct {
	Package string `json:"package"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
	Pinned  bool   `json:"pinned"` // it is what the lock file names
}

// ManifestFile is a file with its checksum.
type ManifestFile struct {
	Path   string `json:"path"`
	Bytes  int    `json:"bytes"`
	SHA256 string `json:"sha256"`
}

func fileOf(path string, body []byte) ManifestFile {
	sum := sha256.Sum256(body)
	return ManifestFile{path, len(body), hex.EncodeToString(sum[:])}
}

// write leaves exactly the four files in the output directory.
func (b *build) write(ctx context.Context, root *cpio.Archive, rawBytes int, initramfs []byte) (Result, error) {
	m := Manifest{
		Format: 1, Version: Version, Git: b.git, Release: b.Release, CommandLine: CommandLine, Toolchain: b.tools,
		Kernel: ManifestKernel{b.kernel.version, len(b.kernel.chosen)},
	}
	for _, f := range slices.Concat(b.kernel.files, b.debs) {
		m.Packages = append(m.Packages, ManifestPackage{f.Package, f.Version, f.SHA256, f.Pinned})
	}
	for name, body := range root.Files {
		m.Contents = append(m.Contents, fileOf(name, body))
	}
	bill, err := b.bill(ctx, fileOf("initramfs.zst", initramfs).SHA256)
	if err != nil {
		return Result{}, err
	}
	m.Files = []ManifestFile{fileOf("vmlinuz", b.kernel.image), fileOf("initramfs.zst", initramfs), fileOf("SBOM.spdx.json", bill)}
	manifest, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return Result{}, err
	}
	bodies := map[string][]byte{
		"vmlinuz": b.kernel.image, "initramfs.zst": initramfs, "SBOM.spdx.json": bill, "manifest.json": append(manifest, '\n'),
	}
	if err := os.MkdirAll(b.Out, 0o755); err != nil {
		return Result{}, fmt.Errorf("write image: %w", err)
	}
	if err := onlyOurs(b.Out); err != nil {
		return Result{}, err
	}
	for _, name := range Files {
		if err := writeWhole(filepath.Join(b.Out, name), bodies[name]); err != nil {
			return Result{}, err
		}
	}
	return Result{Manifest: m, Parts: b.parts(root, rawBytes, len(initramfs))}, nil
}

// onlyOurs refuses a directory that holds anything but an earlier image, so
// that exactly four files are there afterwards and nothing strange is served.
func onlyOurs(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	for _, e := range entries {
		if !slices.Contains(Files, e.Name()) {
			return fmt.Errorf("write image: %s holds %s, which is no part of an image; name an empty directory with -o", dir, e.Name())
		}
	}
	return nil
}

// ReadManifest reads the manifest of the image in dir and checks that the
// files beside it are the ones it names.
func ReadManifest(dir string) (Manifest, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return Manifest{}, fmt.Errorf("no image in %s: %w; build one with: lith image build -o %s", dir, err, dir)
	}
	var m Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return Manifest{}, fmt.Errorf("image %s: manifest.json: %w", dir, err)
	}
	for _, want := range m.Files {
		body, err := os.ReadFile(filepath.Join(dir, filepath.Base(want.Path)))
		if err != nil {
			return Manifest{}, fmt.Errorf("image %s: %w", dir, err)
		}
		if got := fileOf(want.Path, body); got != want {
			return Manifest{}, fmt.Errorf("image %s: %s is not the file that the manifest names (sha256 %s, expected %s)", dir, want.Path, got.SHA256, want.SHA256)
		}
	}
	return m, nil
}

// Size gives the bytes of a file of the image.
func (m Manifest) Size(file string) (int, error) {
	for _, f := range m.Files {
		if f.Path == file {
			return f.Bytes, nil
		}
	}
	return 0, fmt.Errorf("image %s: its manifest names no %s", m.Version, file)
}

const (
	unknownGit  = "unknown"
	dirtySuffix = "+changes"
)

// gitState is the commit, with a suffix when the checkout has changes. It
// does not say which: that would be another thing in each of two checkouts
// with the same changes only if the changes differ, and then the programs do.
func gitState(ctx context.Context, checkout string) string {
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "safe.directory=*", "-C", checkout}, args...)...)
		cmd.Env = append(os.Environ(), "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0")
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	commit, err := git("rev-parse", "HEAD")
	if err != nil {
		return unknownGit
	}
	changes, err := git("status", "--porcelain")
	if err != nil {
		return unknownGit
	}
	if changes != "" {
		return commit + dirtySuffix
	}
	return commit
}

// commitTime is empty where no commit says when.
func commitTime(state, checkout string) string {
	if state == unknownGit || strings.HasSuffix(state, dirtySuffix) {
		return ""
	}
	out, err := exec.Command("git", "-c", "safe.directory=*", "-C", checkout, "show", "-s", "--format=%ct", state).Output()
	if err != nil {
		return ""
	}
	var seconds int64
	if _, err := fmt.Sscan(string(out), &seconds); err != nil {
		return ""
	}
	return time.Unix(seconds, 0).UTC().Format(time.RFC3339)
}

func sorted(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
