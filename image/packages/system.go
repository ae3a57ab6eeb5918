package packages

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// system is the distribution that builds, as /etc/os-release names it.
type system struct {
	ID   string   // "debian", "ubuntu"
	Like []string // what it descends from
}

func hostSystem() (system, error) {
	raw, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return system{}, fmt.Errorf("which distribution is this: %w", err)
	}
	return parseSystem(string(raw)), nil
}

func parseSystem(osRelease string) system {
	var s system
	for line := range strings.Lines(osRelease) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "ID":
			s.ID = value
		case "ID_LIKE":
			s.Like = strings.Fields(value)
		}
	}
	return s
}

var ubuntuKernel = regexp.MustCompile(`^linux-image-unsigned-(\d[\d.]*-\d+)-generic$`)

// kernelPackages returns the packages of the newest generic kernel among
// names: on Debian of the wanted series, on Ubuntu the distribution's own,
// where the modules lie in packages beside it. No fit gives none.
func (s system) kernelPackages(names []string, series string) []string {
	if s.ID == "ubuntu" || slices.Contains(s.Like, "ubuntu") {
		newest := newestMatch(names, ubuntuKernel)
		if newest == "" {
			return nil
		}
		version := ubuntuKernel.FindStringSubmatch(newest)[1]
		return []string{newest, "linux-modules-" + version + "-generic", "linux-modules-extra-" + version + "-generic"}
	}
	debian := regexp.MustCompile(`^linux-image-(` + regexp.QuoteMeta(series) + `\.\d+\+deb\d+(?:\.\d+)?)-amd64-unsigned$`)
	if newest := newestMatch(names, debian); newest != "" {
		return []string{newest}
	}
	return nil
}

func newestMatch(names []string, pattern *regexp.Regexp) string {
	var newest string
	var best []int
	for _, name := range names {
		m := pattern.FindStringSubmatch(name)
		if m == nil {
			continue
		}
		if v := numbers(m[1]); newest == "" || slices.Compare(v, best) > 0 {
			newest, best = name, v
		}
	}
	return newest
}

var digits = regexp.MustCompile(`\d+`)

// numbers are the numbers in a version, in order: "6.12.117+deb12" is
// 6, 12, 117, 12.
func numbers(version string) []int {
	var list []int
	for _, d := range digits.FindAllString(version, 8) {
		n, err := strconv.Atoi(d)
		if err != nil {
			n = 0
		}
		list = append(list, n)
	}
	return list
}
