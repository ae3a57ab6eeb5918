package sbom

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// rule recognises a licence by sentences that only its text holds.
type rule struct {
	licence string
	phrases []string
}

// rules are tried in order: the more particular before the more general.
var rules = []rule{
	{"Apache-2.0", []string{"apache license", "version 2.0"}},
	{"MPL-2.0", []string{"mozilla public license", "2.0"}},
	{"LGPL-3.0-only WITH LGPL-3.0-linking-exception", []string{"lesser general public license", "version 3", "as a special exception to the gnu lesser general public license version 3"}},
	{"LGPL-3.0-only", []string{"gnu lesser general public license", "version 3"}},
	{"LGPL-2.1-only", []string{"gnu lesser general public license", "version 2.1"}},
	{"GPL-3.0-only", []string{"gnu general public license", "version 3"}},
	{"GPL-2.0-only", []string{"gnu general public license", "version 2"}},
	{"BSD-3-Clause", []string{"redistribution and use in source and binary forms", "endorse or promote products"}},
	{"BSD-2-Clause", []string{"redistribution and use in source and binary forms"}},
	{"ISC", []string{"permission to use, copy, modify, and/or distribute this software for any purpose with or without fee"}},
	{"ISC", []string{"permission to use, copy, modify, and distribute this software for any purpose with or without fee"}},
	{"MIT", []string{"permission is hereby granted, free of charge, to any person obtaining a copy"}},
	{"Unlicense", []string{"this is free and unencumbered software released into the public domain"}},
	{"CC-BY-SA-4.0", []string{"attribution-sharealike 4.0 international"}},
	{"CC0-1.0", []string{"cc0 1.0 universal"}},
}

const maxLicenceText = 256 << 10

// LicenceOf reads the licence files at the top of a module's directory. More
// than one licence gives an expression with AND; none known gives "".
func LicenceOf(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	var found []string
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		if e.IsDir() || !(strings.HasPrefix(name, "LICEN") || strings.HasPrefix(name, "COPYING") || strings.HasPrefix(name, "UNLICENSE")) {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil || len(raw) > maxLicenceText {
			return ""
		}
		licence := recognise(string(raw))
		if licence == "" {
			return ""
		}
		if !slices.Contains(found, licence) {
			found = append(found, licence)
		}
	}
	slices.Sort(found)
	return strings.Join(found, " AND ")
}

func recognise(text string) string {
	flat := strings.Join(strings.Fields(strings.ToLower(text)), " ")
next:
	for _, r := range rules {
		for _, phrase := range r.phrases {
			if !strings.Contains(flat, phrase) {
				continue next
			}
		}
		return r.licence
	}
	return ""
}
