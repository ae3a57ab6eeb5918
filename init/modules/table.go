// Package modules loads kernel modules as devices ask for them: by the modalias of each
// device, with hard and soft dependencies, in the form they lie in the image (the kernel
// itself unpacks .ko.xz). There is no udev and no modprobe on a node.
//
// Invariant: a module is given to the kernel at most once, after everything it depends
// on; a module that fails is named, with the reason, and does not stop the others.
//
// Which modules the image holds is image's business; this package reads its tables once.
// After Lock nothing can be loaded until the next boot.
package modules

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// maxLine bounds one line of a table; the longest real ones are some 2,000 bytes.
const maxLine = 64 << 10

// Table is what the image says of its modules.
type Table struct {
	dir     string
	files   map[string]string         // name → file below dir
	deps    map[string][]string       // name → names, as modules.dep has them
	pre     map[string][]string       // soft dependencies: names or aliases
	post    map[string][]string       //
	aliases map[string][]aliasPattern // by what precedes the first colon
}

type aliasPattern struct{ glob, module string }

// ReadTable reads modules.dep, modules.softdep and modules.alias of one kernel version.
func ReadTable(dir string) (*Table, error) {
	t := &Table{
		dir: dir, files: map[string]string{}, deps: map[string][]string{}, pre: map[string][]string{},
		post: map[string][]string{}, aliases: map[string][]aliasPattern{},
	}
	for _, f := range []struct {
		name     string
		parse    func(io.Reader) error
		optional bool
	}{{"modules.dep", t.parseDep, false}, {"modules.softdep", t.parseSoftdep, true}, {"modules.alias", t.parseAlias, true}} {
		file, err := os.Open(filepath.Join(dir, f.name))
		if err != nil && f.optional {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open module table: %w", err)
		}
		err = f.parse(file)
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", f.name, err)
		}
	}
	return t, nil
}

func eachLine(r io.Reader, do func(fields []string)) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 4096), maxLine)
	for s.Scan() {
		line := s.Text()
		if f := strings.Fields(line); len(f) > 0 && f[0][0] != '#' {
			do(f)
		}
	}
	return s.Err()
}

func (t *Table) parseDep(r io.Reader) error {
	return eachLine(r, func(f []string) {
		file := strings.TrimSuffix(f[0], ":")
		name := nameOf(file)
		t.files[name] = file
		for _, d := range f[1:] {
			t.deps[name] = append(t.deps[name], nameOf(d))
		}
	})
}

// parseSoftdep reads "softdep NAME pre: A B post: C".
func (t *Table) parseSoftdep(r io.Reader) error {
	return eachLine(r, func(f []string) {
		if len(f) < 3 || f[0] != "softdep" {
			return
		}
		name, into := normal(f[1]), map[string][]string(nil)
		for _, word := range f[2:] {
			switch {
			case word == "pre:":
				into = t.pre
			case word == "post:":
				into = t.post
			case into != nil:
				into[name] = append(into[name], word)
			}
		}
	})
}

func (t *Table) parseAlias(r io.Reader) error {
	return eachLine(r, func(f []string) {
		if len(f) != 3 || f[0] != "alias" {
			return
		}
		glob := normal(f[1])
		bus := busOf(glob)
		t.aliases[bus] = append(t.aliases[bus], aliasPattern{glob, normal(f[2])})
	})
}

// Match gives the modules that a device's modalias, or a plain alias, asks for.
func (t *Table) Match(alias string) []string {
	alias = normal(alias)
	var out []string
	bus := busOf(alias)
	for _, a := range t.aliases[bus] {
		if !slices.Contains(out, a.module) && glob(a.glob, alias) {
			out = append(out, a.module)
		}
	}
	return out
}

// Resolve gives the modules meant by a name: the module itself, else those with the alias.
func (t *Table) Resolve(name string) []string {
	if n := normal(name); t.files[n] != "" {
		return []string{n}
	}
	return t.Match(name)
}

// Step is one module to load; Soft says that a failure does not matter to Wanted.
type Step struct {
	Name, File string
	Soft       bool
}

// Closure gives everything to load for a module, in order, the module itself included.
// done says what is loaded already.
func (t *Table) Closure(name string, done func(string) bool) ([]Step, error) {
	var steps []Step
	seen := map[string]bool{}
	var add func(name string, soft bool) error
	add = func(name string, soft bool) error {
		if seen[name] || done(name) {
			return nil
		}
		seen[name] = true
		file := t.files[name]
		if file == "" {
			return fmt.Errorf("module %s is not in this image", name)
		}
		for _, alias := range t.pre[name] {
			for _, m := range t.Resolve(alias) {
				add(m, true) // what is not in the image may be built in
			}
		}
		// modules.dep has the last to load first.
		for _, d := range slices.Backward(t.deps[name]) {
			if err := add(d, soft); err != nil {
				return fmt.Errorf("%s needs it: %w", name, err)
			}
		}
		steps = append(steps, Step{Name: name, File: filepath.Join(t.dir, file), Soft: soft})
		for _, alias := range t.post[name] {
			for _, m := range t.Resolve(alias) {
				add(m, true)
			}
		}
		return nil
	}
	err := add(normal(name), false)
	return steps, err
}

// nameOf makes "kernel/drivers/net/virtio_net.ko.xz" into "virtio_net".
func nameOf(file string) string {
	base := path.Base(file)
	if i := strings.Index(base, ".ko"); i > 0 {
		base = base[:i]
	}
	return normal(base)
}

// normal makes hyphens underscores outside brackets, as the kernel's tools do.
func normal(s string) string {
	if !strings.Contains(s, "-") {
		return s
	}
	b := []byte(s)
	inside := false
	for i, c := range b {
		switch {
		case c == '[':
			inside = true
		case c == ']':
			inside = false
		case c == '-' && !inside:
			b[i] = '_'
		}
	}
	return string(b)
}

// busOf gives what stands before the first colon or wildcard: patterns of ACPI devices
// begin with "acpi*:", their modaliases with "acpi:".
func busOf(alias string) string {
	if i := strings.IndexAny(alias, ":*?["); i >= 0 {
		return alias[:i]
	}
	return alias
}

// Kind is what a module is for, as far as the order of a boot depends on it.
type Kind int

const (
	Other    Kind = iota
	Watchdog      // drives the device that reboots a hanging machine
	Network       // drives a network card
)

// Kind gives what a module of this table is for.
func (t *Table) Kind(name string) Kind {
	file := t.files[normal(name)]
	switch {
	case strings.Contains(file, "/drivers/watchdog/"):
		return Watchdog
	case strings.Contains(file, "/drivers/net/"):
		return Network
	}
	return Other
}
