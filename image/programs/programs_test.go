package programs

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// checkout is a module with one program, in a directory of its own.
func checkout(t *testing.T, deep string) Builder {
	t.Helper()
	root := filepath.Join(t.TempDir(), deep)
	for name, text := range map[string]string{
		"go.mod":       "module example.test/tiny\n\ngo 1.26\n",
		"init/main.go": "package main\n\nimport \"runtime/debug\"\n\nfunc main() { debug.PrintStack() }\n",
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Builder{Checkout: root, Out: t.TempDir(), Cache: t.TempDir()}
}

var tiny = Program{Name: "init", Package: "./init"}

func TestTheSameBytesFromAnyDirectory(t *testing.T) {
	var sums [][32]byte
	for _, deep := range []string{"a", "another/much/deeper/place"} {
		b := checkout(t, deep)
		// What a builder may have in his environment must not get in.
		t.Setenv("GOFLAGS", "-tags="+strings.ReplaceAll(deep, "/", "_"))
		t.Setenv("GOAMD64", map[bool]string{true: "v1", false: "v3"}[deep == "a"])
		built, err := b.Compile(t.Context(), tiny)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(built.Path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(raw), b.Checkout) {
			t.Errorf("the program holds the path it was built in, %s", b.Checkout)
		}
		sums = append(sums, sha256.Sum256(raw))
	}
	if sums[0] != sums[1] {
		t.Error("the same sources gave other bytes in another directory")
	}
}

func TestAProgramThatIsNotThereIsNamed(t *testing.T) {
	b := checkout(t, "x")
	missing := b.Missing([]Program{tiny, {Name: "isolated", Package: "./isolation"}})
	if !slices.Equal(missing, []string{"./isolation"}) {
		t.Errorf("missing %v", missing)
	}
}

func TestTheCompilersWordsAreHandedOn(t *testing.T) {
	b := checkout(t, "x")
	if err := os.WriteFile(filepath.Join(b.Checkout, "init", "bad.go"), []byte("package main\nfunc f() { undefinedThing() }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := b.Compile(t.Context(), tiny)
	if err == nil || !strings.Contains(err.Error(), "init/bad.go:2") {
		t.Errorf("got %v, want the file and line", err)
	}
}

func TestThePluginsOfTheNodeAreAmongThem(t *testing.T) {
	for _, need := range []string{"bridge", "host-local", "loopback"} {
		if !slices.ContainsFunc(Plugins, func(p string) bool { return filepath.Base(p) == need }) {
			t.Errorf("plugin %s is missing", need)
		}
	}
	for _, p := range Plugins {
		if base := filepath.Base(p); base == "portmap" || base == "firewall" {
			t.Errorf("plugin %s runs programs that a node does not have", base)
		}
	}
}
