//go:build vm || long

package image

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestTwoBuildsAreBitIdentical builds twice, the second time in another place, under
// another umask, time zone and language, and compares every byte. In the long run the
// second build has nothing cached but the packages, and a compiler cache that has seen
// nothing. It copies first, so that nobody's typing in the checkout comes between the two;
// in the short run the first build is the checkout's own, where that is newer than all it
// was built from.
func TestTwoBuildsAreBitIdentical(t *testing.T) {
	checkout, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	here, first := checkout, builtBefore(t, checkout)
	var there string
	start := time.Now()
	if first == nil {
		here = copyCheckout(t, checkout, "here", "cache")
		there = copyCheckout(t, here, "a/longer/way/to/there", cachedThere)
		first = buildIn(t, here, "umask 022", "TZ=UTC", "LC_ALL=C")
		t.Logf("first build: %.0f s", time.Since(start).Seconds())
	} else {
		there = copyCheckout(t, here, "a/longer/way/to/there", cachedThere)
	}

	start = time.Now()
	env := []string{"TZ=Pacific/Chatham", "LC_ALL=C.UTF-8", "USER=somebody"}
	if coldCache {
		env = append(env, "GOCACHE="+t.TempDir())
	}
	second := buildIn(t, there, "umask 077", env...)
	t.Logf("second build: %.0f s, cold cache: %v", time.Since(start).Seconds(), coldCache)

	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("the images differ:\n%s\n%s", diff, whatDiffers(t, here, there))
	}
}

// buildIn returns the checksums of the image built in a checkout, which must
// be exactly four files.
func buildIn(t *testing.T, checkout, umask string, env ...string) map[string]string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image")
	cmd := exec.CommandContext(t.Context(), "sh", "-c", umask+` && exec go run ./cmd/lith image build -o "$0"`, out)
	cmd.Dir = checkout
	cmd.Env = append(os.Environ(), env...)
	if log, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build in %s: %v\n%s", checkout, err, log)
	}
	return sumsOf(t, out)
}

// sumsOf are the checksums of an image, which must be exactly the files of one.
func sumsOf(t *testing.T, out string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{}
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(out, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(raw)
		sums[e.Name()] = hex.EncodeToString(sum[:])
		if !slices.Contains(Files, e.Name()) {
			t.Errorf("the image has a file %s", e.Name())
		}
	}
	if len(sums) != len(Files) {
		t.Errorf("the image has %d files, want %d", len(sums), len(Files))
	}
	if _, err := ReadManifest(out); err != nil {
		t.Error(err)
	}
	return sums
}

// builtBefore gives the checksums of the image that the checkout holds; nil: there is none,
// something is newer, or the long run wants both built.
func builtBefore(t *testing.T, checkout string) map[string]string {
	t.Helper()
	out := filepath.Join(checkout, "build", "image")
	built, err := os.Stat(filepath.Join(out, "manifest.json"))
	if err != nil || coldCache {
		return nil
	}
	cmd := exec.CommandContext(t.Context(), "git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = checkout
	list, err := cmd.Output()
	if err != nil {
		return nil
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(list), "\x00"), "\x00") {
		if info, err := os.Lstat(filepath.Join(checkout, name)); err != nil || info.ModTime().After(built.ModTime()) {
			return nil
		}
	}
	return sumsOf(t, out)
}

// copyCheckout copies what git knows or would know, git's own directory, and
// of what was built only the part that is named.
func copyCheckout(t *testing.T, from, to, built string) string {
	t.Helper()
	to = filepath.Join(t.TempDir(), to)
	script := `set -eu
mkdir -p "$1/build/$(dirname "$2")"
git -c safe.directory='*' ls-files -z --cached --others --exclude-standard |
while IFS= read -r -d '' file; do [ -e "$file" ] && printf '%s\0' "$file"; done |
tar --null -T - -cf - | tar -xf - -C "$1"
[ -d .git ] && cp -r .git "$1/.git"
cp -r "build/$2" "$1/build/$2"`
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script, "copy", to, built)
	cmd.Dir = from
	if log, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("copy the checkout: %v\n%s", err, log)
	}
	return to
}

// whatDiffers says which program's bytes are not the same.
func whatDiffers(t *testing.T, here, there string) string {
	t.Helper()
	var lines []string
	files, err := filepath.Glob(filepath.Join(here, "build", "programs", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range files {
		x, errX := os.ReadFile(a)
		y, errY := os.ReadFile(filepath.Join(there, "build", "programs", filepath.Base(a)))
		if errX != nil || errY != nil || sha256.Sum256(x) != sha256.Sum256(y) {
			lines = append(lines, "program "+filepath.Base(a)+" differs")
		}
	}
	if lines == nil {
		return "the programs are the same; it is what was packed around them"
	}
	return strings.Join(lines, "\n")
}
