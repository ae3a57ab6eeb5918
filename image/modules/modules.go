// Package modules chooses kernel modules for the image and writes the tables
// by which init loads them.
//
// From a kernel's module tree and a list of wanted names it takes the closure
// over dependencies and soft dependencies, both read from the modules
// themselves (a distribution's package carries no modules.dep, and depmod
// would not put soft dependencies there anyway). The closure is complete by
// construction: every name in the tables has its file in the image. Soft
// dependencies are written with the aliases already resolved, so that a
// loader needs no second look-up; on the node a soft dependency that fails to
// load is no error.
//
// It loads nothing and knows no device; which module a device needs is found
// on the node, by modules.alias.
package modules

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxModule bounds one unpacked module; the largest used has 12 MB.
const maxModule = 256 << 20

// Tree is a kernel's module directory: what is below /lib/modules/VERSION.
type Tree struct {
	files    fs.FS
	byName   map[string]string // normal name → path
	builtin  map[string]bool
	loaded   map[string]Module
	unpacked func(file string, packed []byte) ([]byte, error)
}

// Module is one chosen module.
type Module struct {
	Info
	Path     string // "kernel/net/bridge/bridge.ko", without packing suffix
	Packing  string // ".xz", ".zst" or ""
	Packed   []byte // as in the tree
	Unpacked []byte
}

// Open indexes a module directory. unpack may be nil; a caller that keeps
// unpacked modules hands in its own, which may call Unpack.
func Open(files fs.FS, unpack func(file string, packed []byte) ([]byte, error)) (*Tree, error) {
	t := &Tree{files: files, byName: map[string]string{}, builtin: map[string]bool{}, loaded: map[string]Module{}, unpacked: unpack}
	if unpack == nil {
		t.unpacked = Unpack
	}
	err := fs.WalkDir(files, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if stem, _, ok := splitFile(file); ok {
			t.byName[normal(strings.TrimSuffix(path.Base(stem), ".ko"))] = file
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("index modules: %w", err)
	}
	list, err := fs.ReadFile(files, "modules.builtin")
	if err != nil {
		return nil, fmt.Errorf("index modules: %w", err)
	}
	for line := range strings.Lines(string(list)) {
		t.builtin[normal(strings.TrimSuffix(path.Base(strings.TrimSpace(line)), ".ko"))] = true
	}
	if len(t.byName) == 0 {
		return nil, fmt.Errorf("index modules: none found")
	}
	return t, nil
}

func splitFile(file string) (stem, packing string, ok bool) {
	for _, packing := range []string{"", ".xz", ".zst", ".gz"} {
		if stem, ok := strings.CutSuffix(file, ".ko"+packing); ok {
			return stem + ".ko", packing, true
		}
	}
	return "", "", false
}

// Unpack returns a module's ELF bytes; the suffix of file says the packing.
func Unpack(file string, packed []byte) ([]byte, error) {
	var r io.Reader
	var err error
	switch path.Ext(file) {
	case ".ko":
		return packed, nil
	case ".xz":
		r, err = xz.ReaderConfig{DictCap: 64 << 20}.NewReader(bytes.NewReader(packed))
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderMaxMemory(maxModule)); err == nil {
			defer z.Close()
			r = z
		}
	default:
		err = fmt.Errorf("its packing is not known")
	}
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", file, err)
	}
	raw, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", file, err)
	}
	if len(raw) > maxModule {
		return nil, fmt.Errorf("unpack %s: more than %d bytes", file, maxModule)
	}
	return raw, nil
}

// Has says whether the kernel has the module, and whether it is built in.
func (t *Tree) Has(name string) (module, builtin bool) {
	_, module = t.byName[normal(name)]
	return module, t.builtin[normal(name)]
}

// Closure returns the wanted modules and all they need, by name. A wanted
// name that is built into the kernel needs nothing; one that the kernel does
// not have at all is an error.
func (t *Tree) Closure(wanted []string) (map[string]Module, error) {
	chosen := map[string]Module{}
	var missing []string
	for _, name := range wanted {
		module, builtin := t.Has(name)
		switch {
		case module:
			if err := t.take(normal(name), chosen); err != nil {
				return nil, err
			}
		case !builtin:
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("the kernel has no module %s", strings.Join(missing, ", "))
	}
	return chosen, nil
}

func (t *Tree) take(name string, chosen map[string]Module) error {
	if _, done := chosen[name]; done {
		return nil
	}
	m, err := t.load(name)
	if err != nil {
		return err
	}
	chosen[name] = m
	for _, need := range m.Depends {
		if _, ok := t.byName[need]; !ok {
			if t.builtin[need] {
				continue
			}
			return fmt.Errorf("module %s needs %s, which the kernel does not have", name, need)
		}
		if err := t.take(need, chosen); err != nil {
			return err
		}
	}
	for _, soft := range slices.Concat(m.Pre, m.Post, Together[name]) {
		for _, provider := range t.providers(soft) {
			if err := t.take(provider, chosen); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *Tree) load(name string) (Module, error) {
	if m, ok := t.loaded[name]; ok {
		return m, nil
	}
	file := t.byName[name]
	packed, err := fs.ReadFile(t.files, file)
	if err != nil {
		return Module{}, fmt.Errorf("read module %s: %w", name, err)
	}
	raw, err := t.unpacked(file, packed)
	if err != nil {
		return Module{}, err
	}
	info, err := ParseModule(raw)
	if err != nil {
		return Module{}, fmt.Errorf("module %s: %w", file, err)
	}
	stem, packing, _ := splitFile(file)
	m := Module{Info: info, Path: stem, Packing: packing, Packed: packed, Unpacked: raw}
	m.Name = name
	t.loaded[name] = m
	return m, nil
}

// softProviders are the aliases that soft dependencies use instead of names
// and the modules that provide them, the one that works on every processor
// first. Reading all 4,000 modules to find these would take minutes.
var softProviders = map[string][]string{
	"crc32c":             {"crc32c_generic", "crc32c_intel"},
	"crc32":              {"crc32_generic", "crc32_pclmul"},
	"crct10dif":          {"crct10dif_generic", "crct10dif_pclmul"},
	"sha256":             {"sha256_generic", "sha256_ssse3"},
	"sha512":             {"sha512_generic", "sha512_ssse3"},
	"xxhash64":           {"xxhash_generic"},
	"blake2b-256":        {"blake2b_generic"},
	"aes":                {"aes_generic", "aesni_intel"},
	"gf128mul":           {"gf128mul"},
	"ccm":                {"ccm"},
	"gcm":                {"gcm"},
	"ctr":                {"ctr"},
	"cmac":               {"cmac"},
	"platform:regulator": nil,
}

func (t *Tree) providers(soft string) []string {
	names, ok := softProviders[soft]
	if !ok {
		names = []string{normal(soft)}
	}
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return t.byName[n] == "" })
}

// Tables are the texts that go beside the modules.
type Tables struct {
	Dep, Softdep, Alias []byte
}

// WriteTables makes modules.dep, modules.softdep and modules.alias for the
// chosen modules; file gives the path under which each is in the image. In
// modules.dep the needed modules are listed so that loading from the last to
// the first works, as depmod does.
func (t *Tree) WriteTables(chosen map[string]Module, file func(Module) string) Tables {
	var dep, soft, alias bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(chosen)) {
		m := chosen[name]
		fmt.Fprintf(&dep, "%s:", file(m))
		for _, need := range slices.Backward(loadOrder(m, chosen)) {
			fmt.Fprintf(&dep, " %s", file(chosen[need]))
		}
		dep.WriteByte('\n')
		t.writeSoft(&soft, m)
		for _, a := range m.Aliases {
			if strings.HasPrefix(a, "cpu:") && loadsTogether(name) {
				continue
			}
			fmt.Fprintf(&alias, "alias %s %s\n", a, name)
		}
	}
	return Tables{Dep: dep.Bytes(), Softdep: soft.Bytes(), Alias: alias.Bytes()}
}

func (t *Tree) writeSoft(b *bytes.Buffer, m Module) {
	resolve := func(label string, names []string) string {
		var found []string
		for _, n := range names {
			found = append(found, t.providers(n)...)
		}
		if len(found) == 0 {
			return ""
		}
		return " " + label + " " + strings.Join(found, " ")
	}
	if text := resolve("pre:", slices.Concat(m.Pre, Together[m.Name])) + resolve("post:", m.Post); text != "" {
		fmt.Fprintf(b, "softdep %s%s\n", m.Name, text)
	}
}

// loadsTogether says whether another module brings this one along.
func loadsTogether(name string) bool {
	for _, list := range Together {
		if slices.Contains(list, name) {
			return true
		}
	}
	return false
}

// loadOrder lists all that m needs, each after what it needs itself.
func loadOrder(m Module, chosen map[string]Module) []string {
	var order []string
	seen := map[string]bool{m.Name: true}
	var visit func(names []string)
	visit = func(names []string) {
		for _, n := range names {
			need, ok := chosen[n]
			if !ok || seen[n] {
				continue
			}
			seen[n] = true
			visit(need.Depends)
			order = append(order, n)
		}
	}
	visit(m.Depends)
	return order
}
