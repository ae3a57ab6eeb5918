package sbom

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var someComponents = []Component{
	{Kind: "program", Name: "init", Version: "0.1.0", SHA256: strings.Repeat("ab", 32)},
	{Kind: "program", Name: "isolated", Version: "0.1.0", SHA256: strings.Repeat("cd", 32)},
	{Kind: "go", Name: "github.com/BurntSushi/toml", Version: "v1.4.1", GoSum: "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", Licence: "MIT", Within: []string{"isolated", "init"}},
	{Kind: "deb", Name: "libc6", Version: "2.36-9+deb12u14", SHA256: strings.Repeat("0f", 32), Licence: "LGPL-2.1-or-later", Source: "glibc"},
	{Kind: "c", Name: "libseccomp-dev", Version: "2.5.4-1+deb12u1", Source: "libseccomp", Within: []string{"isolated"}},
}

func TestEveryRelationNamesAPackage(t *testing.T) {
	raw, err := Document("mesolith-image", "0.1.0", strings.Repeat("12", 32), someComponents)
	if err != nil {
		t.Fatal(err)
	}
	var d document
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{d.ID: true}
	for _, p := range d.Packages {
		if known[p.ID] || !regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`).MatchString(p.ID) {
			t.Errorf("id %q is used twice or no SPDX id", p.ID)
		}
		known[p.ID] = true
		if p.Concluded == "" || p.Download == "" {
			t.Errorf("%s: a licence and a place are mandatory, NOASSERTION at least", p.ID)
		}
	}
	if len(d.Packages) != len(someComponents)+1 {
		t.Errorf("%d packages for %d components and the image", len(d.Packages), len(someComponents))
	}
	contains := map[string]int{}
	for _, r := range d.Relationships {
		if !known[r.Element] || !known[r.Related] {
			t.Errorf("%s %s %s: an end is unknown", r.Element, r.Type, r.Related)
		}
		contains[r.Element]++
	}
	want := map[string]int{"SPDXRef-DOCUMENT": 1, "SPDXRef-image": 3, "SPDXRef-program-init": 1, "SPDXRef-program-isolated": 2}
	if diff := cmp.Diff(want, contains); diff != "" {
		t.Error(diff)
	}
}

func TestTheOrderOfComponentsDoesNotMatter(t *testing.T) {
	first, err := Document("i", "1", "00", someComponents)
	if err != nil {
		t.Fatal(err)
	}
	turned := []Component{someComponents[4], someComponents[2], someComponents[0], someComponents[3], someComponents[1]}
	second, err := Document("i", "1", "00", turned)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(first), string(second)); diff != "" {
		t.Error(diff)
	}
}

func TestModuleSumsAreChecked(t *testing.T) {
	if _, err := Document("i", "1", "00", []Component{{Kind: "go", Name: "x", Version: "v1.0.0", GoSum: "h1:short"}}); err == nil {
		t.Error("a checksum that is none was written down")
	}
}

func TestLicencesAreRecognisedOrLeftOpen(t *testing.T) {
	texts := map[string]string{
		"Apache-2.0":   "Apache License\n  Version 2.0, January 2004",
		"MIT":          "Permission is hereby granted, free of charge, to any\nperson obtaining a copy",
		"BSD-3-Clause": "Redistribution and use in source and binary forms ... to endorse or\npromote products derived",
		"BSD-2-Clause": "Redistribution and use in source and binary forms, with or without",
		"CC-BY-SA-4.0": "Attribution-ShareAlike 4.0 International",
		"MPL-2.0":      "Mozilla Public License, version 2.0",
		"":             "All rights reserved. Ask us.",
	}
	for want, text := range texts {
		if got := recognise(text); got != want {
			t.Errorf("%.30q: got %q, want %q", text, got, want)
		}
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"LICENSE": texts["MIT"], "LICENSE.BSD": texts["BSD-3-Clause"]} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := LicenceOf(dir); got != "BSD-3-Clause AND MIT" {
		t.Errorf("two files: %q", got)
	}
	if got := LicenceOf(filepath.Join(dir, "none")); got != "" {
		t.Errorf("no directory: %q", got)
	}
}
