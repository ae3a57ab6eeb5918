package modules

import (
	"bytes"
	"debug/elf"
	"fmt"
	"strings"
)

// Info is what a module says about itself in its .modinfo section.
type Info struct {
	Name     string
	Depends  []string // modules whose symbols it uses
	Pre      []string // soft dependencies to load before; names or aliases
	Post     []string // soft dependencies to load after
	Aliases  []string
	Firmware []string
	Licence  string
	Kernel   string // the version that it was built for; empty where it says none
}

// maxModinfo bounds the section; the largest of a distribution's kernel, of
// drivers with thousands of device ids, has about 150 KB.
const maxModinfo = 4 << 20

// ParseModule reads the .modinfo of an unpacked module.
func ParseModule(module []byte) (Info, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return Info{}, fmt.Errorf("read module: %w", err)
	}
	section := f.Section(".modinfo")
	if section == nil || section.Size > maxModinfo {
		return Info{}, fmt.Errorf("read module: no .modinfo section of sound size")
	}
	raw, err := section.Data()
	if err != nil {
		return Info{}, fmt.Errorf("read .modinfo: %w", err)
	}
	info := parseModinfo(raw)
	if info.Name == "" {
		return Info{}, fmt.Errorf("read .modinfo: it names no module")
	}
	return info, nil
}

func parseModinfo(raw []byte) Info {
	var info Info
	for field := range strings.SplitSeq(string(raw), "\x00") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "name":
			info.Name = normal(value)
		case "vermagic":
			info.Kernel, _, _ = strings.Cut(value, " ")
		case "license":
			info.Licence = value
		case "depends":
			info.Depends = append(info.Depends, splitNames(value)...)
		case "alias":
			info.Aliases = append(info.Aliases, value)
		case "firmware":
			info.Firmware = append(info.Firmware, value)
		case "softdep":
			info.addSoft(value)
		}
	}
	return info
}

// addSoft takes "pre: a b post: c".
func (i *Info) addSoft(value string) {
	var into *[]string
	for word := range strings.FieldsSeq(value) {
		switch word {
		case "pre:":
			into = &i.Pre
		case "post:":
			into = &i.Post
		default:
			if into != nil {
				*into = append(*into, word)
			}
		}
	}
}

func splitNames(list string) []string {
	var names []string
	for name := range strings.SplitSeq(list, ",") {
		if name != "" {
			names = append(names, normal(name))
		}
	}
	return names
}

// normal is the form in which the kernel compares names of modules.
func normal(name string) string { return strings.ReplaceAll(name, "-", "_") }
