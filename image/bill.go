package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/mesolith/mesolith/image/deb"
	"github.com/mesolith/mesolith/image/sbom"
)

// licence is that of our own programs, and of the CNI plugins, which are upstream's.
const licence = "Apache-2.0"

// cLibraries are linked statically into isolated, by the package that holds each as an
// archive. The compiler's own is found by asking the compiler.
var cLibraries = []struct{ name, archive, source, licence string }{
	{"libc6-dev", "libc.a", "glibc", "LGPL-2.1-or-later AND GPL-2.0-or-later"},
	{"libseccomp-dev", "libseccomp.a", "libseccomp", "LGPL-2.1-only"},
}

// bill makes the software bill of materials.
func (b *build) bill(ctx context.Context, initramfsSHA256 string) ([]byte, error) {
	var list []sbom.Component
	goModules := map[string]*sbom.Component{}
	var order []string
	for _, p := range b.programs {
		body, err := os.ReadFile(p.Path)
		if err != nil {
			return nil, fmt.Errorf("bill of materials: %w", err)
		}
		sum := sha256.Sum256(body)
		list = append(list, sbom.Component{
			Kind: "program", Name: p.Name, Version: Version, SHA256: hex.EncodeToString(sum[:]), Licence: licence,
			Source: "github.com/mesolith/mesolith", Comment: "compiled by " + b.tools["go"],
		})
		for _, m := range p.Modules {
			if m.Replace != nil {
				m = m.Replace
			}
			key := m.Path + "@" + m.Version
			c, ok := goModules[key]
			if !ok {
				c = &sbom.Component{Kind: "go", Name: m.Path, Version: m.Version, GoSum: m.Sum, Licence: moduleLicence(m.Path, m.Version), Source: "https://pkg.go.dev/" + key}
				goModules[key] = c
				order = append(order, key)
			}
			if c.GoSum == "" {
				c.GoSum = m.Sum
			}
			c.Within = append(c.Within, p.Name)
		}
		if p.C {
			linked, err := b.linkedC(ctx, p.Name)
			if err != nil {
				return nil, fmt.Errorf("bill of materials: %w", err)
			}
			list = append(list, linked...)
		}
	}
	for _, key := range order {
		list = append(list, *goModules[key])
	}
	list = append(list, sbom.Component{Kind: "go", Name: "std", Version: strings.TrimPrefix(b.tools["go"], "go"), Licence: "BSD-3-Clause", Source: "https://go.dev/dl/"})
	debs, err := b.packedDebs()
	if err != nil {
		return nil, err
	}
	return sbom.Document("mesolith-image", Version, initramfsSHA256, append(list, debs...))
}

func (b *build) linkedC(ctx context.Context, program string) ([]sbom.Component, error) {
	of := func(name, version, archive, source, licence string) (sbom.Component, error) {
		sum, err := b.builder().ArchiveSHA256(ctx, archive)
		return sbom.Component{
			Kind: "c", Name: name, Version: version, SHA256: sum, Licence: licence, Source: source, Within: []string{program},
			Comment: "linked statically; the checksum is that of " + archive + "; binutils " + b.tools["binutils"],
		}, err
	}
	var list []sbom.Component
	for _, c := range cLibraries {
		one, err := of(c.name, b.tools[c.name], c.archive, c.source, c.licence)
		if err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	major, version, err := b.builder().Libgcc(ctx)
	if err != nil {
		return nil, err
	}
	one, err := of("libgcc-"+major+"-dev", version, "libgcc.a", "gcc-"+major, "GPL-3.0-or-later WITH GCC-exception-3.1")
	return append(list, one), err
}

func (b *build) packedDebs() ([]sbom.Component, error) {
	var list []sbom.Component
	for _, f := range append(b.kernel.files[:len(b.kernel.files):len(b.kernel.files)], b.debs...) {
		control, err := deb.ReadControl(f.Path)
		if err != nil {
			return nil, err
		}
		list = append(list, sbom.Component{Kind: "deb", Name: f.Package, Version: f.Version, SHA256: f.SHA256, Licence: f.Licence, Source: control.Source})
	}
	if len(b.kernel.files) == 0 {
		sum := sha256.Sum256(b.kernel.image)
		list = append(list, sbom.Component{Kind: "program", Name: "kernel", Version: b.kernel.version, SHA256: hex.EncodeToString(sum[:]), Licence: "GPL-2.0-only WITH Linux-syscall-note", Comment: "given by --kernel and --modules"})
	}
	return list, nil
}

// moduleLicence reads the licence of a module in the module cache.
func moduleLicence(path, version string) string {
	cache, err := moduleCache()
	if err != nil {
		return ""
	}
	return sbom.LicenceOf(filepath.Join(cache, escape(path)+"@"+escape(version)))
}

func moduleCache() (string, error) {
	out, err := exec.CommandContext(context.Background(), "go", "env", "GOMODCACHE").Output()
	return strings.TrimSpace(string(out)), err
}

// escape writes capitals as the module cache has them.
func escape(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('!')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}
