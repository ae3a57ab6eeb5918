package image

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// mayBeLinked are licences that ask nothing of our own sources; docs/adr/0005 says why.
var mayBeLinked = []string{"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MPL-2.0", "Unlicense", "CC0-1.0", "CC-BY-SA-4.0"}

func TestLinkedModulesMayBeLinked(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{.Path}} {{.Version}}{{end}}",
		"./init", "./clusterd", "./isolation", "./cmd/lith")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(lines)
	checked := 0
	for _, line := range slices.Compact(lines) {
		path, version, ok := strings.Cut(line, " ")
		if !ok || version == "" {
			continue // the standard library, or ours
		}
		checked++
		found := moduleLicence(path, version)
		for _, one := range strings.Split(found, " AND ") {
			if !slices.Contains(mayBeLinked, one) {
				t.Errorf("%s %s: licence %q", path, version, found)
			}
		}
	}
	if checked < 40 {
		t.Errorf("only %d modules were looked at", checked)
	}
}

func TestOurProgramsNameTheirLicence(t *testing.T) {
	text, err := os.ReadFile("../LICENSE")
	if err != nil || !strings.Contains(string(text), "Apache License") || licence != "Apache-2.0" {
		t.Errorf("LICENSE: %v; the bill of materials says %s", err, licence)
	}
}

// The C libraries in isolated have all that the bill owes of each: version, hash, licence,
// source.
func TestLinkedCLibrariesAreBilledWhole(t *testing.T) {
	b := &build{Options: Options{Checkout: ".", Tell: t.Logf}}
	b.tools = b.builder().Toolchain(t.Context(), []string{"libc6-dev", "libseccomp-dev", "binutils"})
	list, err := b.linkedC(t.Context(), "isolated")
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 3 {
		t.Errorf("%d libraries", len(list))
	}
	for _, c := range list {
		if c.Version == "" || len(c.SHA256) != 64 || c.Licence == "" || c.Source == "" || len(c.Within) != 1 {
			t.Errorf("%+v", c)
		}
	}
}
