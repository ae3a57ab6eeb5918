package mesolith

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/mesolith/mesolith"

// reserved names who alone may import what, by import path prefix: one owner of each
// heavy dependency keeps its quirks in one room.
var reserved = []struct {
	dependency string
	rooms      []string
	why        string
}{
	{"github.com/hashicorp/raft", []string{"clusterd/replica"}, "one room knows the library's quirks"},
	{"github.com/opencontainers/runc", []string{"isolation"}, "libcontainer needs cgo, and isolated is the one cgo program"},
	{"github.com/opencontainers/cgroups", []string{"isolation"}, "as libcontainer"},
	{"github.com/vishvananda/netlink", []string{"net"}, "the kernel's network is the net rooms' edge"},
	{"github.com/u-root", []string{"init", "image", "provision/node"}, "the machine's own side"},
	{"github.com/mdlayher/vsock", []string{"provision/node", "cmd/lith"}, "one end serves, one dials"},
	{"C", []string{"isolation"}, "everything else is pure Go"},
}

// pure rooms decide and do nothing: what is listed as impure they may not import, but for
// net/netip, whose addresses are values.
var pure = []string{
	"clusterd/state", "clusterd/alloc", "clusterd/offers", "clusterd/task", "clusterd/discovery/birth",
	"init/service", "isolation/spec", "internal/acl", "internal/jsontree", "internal/ratelimit",
}

var impure = []string{"os", "net", "net/http", "os/exec", "syscall", "golang.org/x/sys", "math/rand", "crypto/rand", "log", "log/slog"}

// pureExceptions: a pure room that needs a word of an impure package for its types only.
var pureExceptions = map[string]string{
	"clusterd/task:syscall":       "WaitStatus decodes a number; nothing is called",
	"clusterd/alloc:math/rand/v2": "a generator seeded by an argument",
	"net/cni:net":                 "hardware addresses as values",
	"isolation/spec:net/url":      "the parts of a word",
}

// decides reports whether a file only decides: those of pure rooms, and a room's plan.
func decides(s source) bool {
	plan := (within(s.dir, "net") || within(s.dir, "provision")) &&
		(path.Base(s.name) == "plan.go" || strings.HasSuffix(s.name, "_plan.go"))
	return plan || slices.Contains(pure, s.dir)
}

// alone: rooms that import nothing else of their own folder.
var alone = map[string]string{
	"isolation/images": "what reads a registry's bytes shares no code with what runs as root",
}

// layers: who may import whom among our own top folders.
var layers = map[string][]string{
	"api":        {"api"},
	"internal":   {"api", "internal"},
	"clusterd":   {"api", "internal", "clusterd"},
	"isolation":  {"api", "internal", "isolation"},
	"net":        {"api", "internal", "net"},
	"init":       {"api", "internal", "init"},
	"image":      {"api", "internal", "image"},
	"provision":  {"api", "internal", "provision"},
	"qemu-tests": {"api", "internal", "qemu-tests", "provision", "image"},
	"docs":       {"api", "docs"},
	"cmd":        {"api", "internal", "cmd", "provision", "image", "qemu-tests"},
}

// wired: folders of a main (not its sub-folders) and what it wires besides.
var wired = map[string][]string{
	"clusterd":       {"provision/node", "provision/pki", "provision/cluster", "isolation/images", "net"},
	"isolation":      {"net"},
	"provision/node": {"net"}, // noded's Run is the machine's main
}

// long files and functions, each with the reason why it is not two.
var longFiles = map[string]string{}

const maxFileLines = 500

type source struct {
	dir, name string
	file      *ast.File
	lines     int
	generated bool
	test      bool
}

func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	set := token.NewFileSet()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch {
			case p != "." && strings.HasPrefix(d.Name(), "."), d.Name() == "testdata", p == "build", p == "bin", p == "tools":
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		raw, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(set, p, raw, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, source{
			dir: filepath.ToSlash(filepath.Dir(p)), name: filepath.ToSlash(p), file: f, lines: bytes.Count(raw, []byte("\n")),
			generated: ast.IsGenerated(f), test: strings.HasSuffix(p, "_test.go"),
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 50 {
		t.Fatalf("only %d Go files found: is this the module's root?", len(out))
	}
	return out
}

func imports(s source) []string {
	var out []string
	for _, i := range s.file.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err == nil {
			out = append(out, p)
		}
	}
	return out
}

func within(dir, room string) bool { return dir == room || strings.HasPrefix(dir, room+"/") }

func TestWhoImportsWhom(t *testing.T) {
	for _, s := range sources(t) {
		for _, p := range imports(s) {
			for _, r := range reserved {
				if (p == r.dependency || strings.HasPrefix(p, r.dependency+"/") || strings.HasPrefix(p, r.dependency+"-")) &&
					!slices.ContainsFunc(r.rooms, func(room string) bool { return within(s.dir, room) }) {
					t.Errorf("%s imports %s, which belongs to %v: %s", s.name, p, r.rooms, r.why)
				}
			}
			ours, ok := strings.CutPrefix(p, module+"/")
			if !ok || s.test {
				continue
			}
			top, _, _ := strings.Cut(s.dir, "/")
			target, _, _ := strings.Cut(ours, "/")
			allowed, known := layers[top]
			if s.dir == "." {
				continue
			}
			if !known {
				t.Errorf("%s: top folder %s has no row in the table of layers", s.name, top)
				continue
			}
			if why := alone[s.dir]; why != "" && within(ours, top) && !within(ours, s.dir) {
				t.Errorf("%s imports %s: %s", s.name, p, why)
			}
			if slices.Contains(allowed, target) || slices.ContainsFunc(wiredFor(s.dir), func(w string) bool { return within(ours, w) }) {
				continue
			}
			t.Errorf("%s imports %s: %s may import %v; let a main hand it over behind an interface", s.name, p, top, allowed)
		}
	}
}

// wiredFor gives what a main's own folder may wire; provision/node counts with its parts.
func wiredFor(dir string) []string {
	if w, ok := wired[dir]; ok {
		return w
	}
	if within(dir, "provision/node") {
		return wired["provision/node"]
	}
	return nil
}

func TestPureRoomsDoNothing(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.generated || !decides(s) {
			continue
		}
		for _, p := range imports(s) {
			for _, bad := range impure {
				if (p == bad || strings.HasPrefix(p, bad+"/")) && p != "net/netip" && pureExceptions[s.dir+":"+p] == "" {
					t.Errorf("%s imports %s: this room is pure", s.name, p)
				}
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s starts a goroutine: this room is pure", s.name)
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && (n.Sel.Name == "Now" || n.Sel.Name == "Sleep" || n.Sel.Name == "After" || n.Sel.Name == "Since") {
					t.Errorf("%s calls time.%s: this room is pure, time is an argument", s.name, n.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestPackagesSayWhatTheyAre(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if s.test || s.file.Name.Name == "main" && within(s.dir, "docs") {
			continue
		}
		documented[s.dir] = documented[s.dir] || s.generated || s.file.Doc != nil
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no package comment", dir)
		}
		switch path.Base(dir) {
		case "util", "utils", "common", "helpers", "misc":
			t.Errorf("%s: a package is named for what it gives", dir)
		}
	}
}

func TestRulesOfTheHouse(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated {
			continue
		}
		if s.lines > maxFileLines && longFiles[s.name] == "" {
			t.Errorf("%s has %d lines: is it one thing? Split it, or say in longFiles why not", s.name, s.lines)
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s has a func init: state begins in a constructor", s.name)
			}
		}
		for _, i := range s.file.Imports {
			if i.Name != nil && i.Name.Name == "_" && i.Path.Value != `"embed"` && !within(s.dir, "isolation") {
				t.Errorf("%s imports %s for its side effects", s.name, i.Path.Value)
			}
			if i.Name != nil && i.Name.Name == "." {
				t.Errorf("%s dot-imports %s", s.name, i.Path.Value)
			}
		}
	}
}

// Every module that go.mod requires directly has its reason in the record of dependencies.
func TestDependenciesHaveAReason(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	record, err := os.ReadFile("docs/adr/0001-dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	required := 0
	for line := range strings.Lines(string(mod)) {
		f := strings.Fields(strings.TrimPrefix(line, "require "))
		if len(f) != 2 || !strings.HasPrefix(f[1], "v") || !strings.Contains(f[0], ".") {
			continue // no requirement, or one with the word indirect behind it
		}
		required++
		_, inHost, _ := strings.Cut(f[0], "/") // cobra's row need not say github.com
		base := path.Base(f[0])
		if !bytes.Contains(record, []byte(inHost)) && !bytes.Contains(record, []byte(" "+base)) {
			t.Errorf("%s is required and has no row in docs/adr/0001-dependencies.md", f[0])
		}
	}
	if required < 20 {
		t.Errorf("only %d direct requirements found in go.mod", required)
	}
}
