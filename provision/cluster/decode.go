package cluster

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mesolith/mesolith/internal/jsontree"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// setter reads one value of the file into one place of the result. path is how messages
// call the value: nodes[0].network.lan.
type setter func(v *value, path string)

// fields are the keys that a mapping may have.
type fields map[string]setter

// object reads a mapping and refuses keys that are not in the table.
func (r *report) object(v *value, path string, table fields) {
	if v.kind != mapping {
		r.failAt(v, "%s is %s — it must be a mapping (key: value).", name(path), v.kind)
		return
	}
	for _, e := range v.entries {
		set, known := table[e.key]
		if !known {
			r.unknownKey(e, path, slices.Sorted(maps.Keys(table)))
			continue
		}
		below := join(path, e.key)
		if e.value.kind == null {
			r.fail(e.line, e.col, "%s has no value — give it one or remove the key.", below)
			continue
		}
		set(e.value, below)
	}
}

func (r *report) unknownKey(e entry, path string, known []string) {
	in := ""
	if path != "" {
		in = " in " + path
	}
	if n := jsontree.Nearest(e.key, known); n != "" {
		r.fail(e.line, e.col, "unknown key %q%s — did you mean %q?", e.key, in, n)
		return
	}
	r.fail(e.line, e.col, "unknown key %q%s — known are %s.", e.key, in, strings.Join(known, ", "))
}

// named reads a mapping whose keys are names that the file chooses.
func (r *report) named(set func(name string, v *value, path string)) setter {
	return func(v *value, path string) {
		if v.kind != mapping {
			r.failAt(v, "%s is %s — it must be a mapping (name: …).", name(path), v.kind)
			return
		}
		for _, e := range v.entries {
			if e.value.kind == null {
				r.fail(e.line, e.col, "%s has no value — give it one or remove the key.", join(path, e.key))
				continue
			}
			set(e.key, e.value, join(path, e.key))
		}
	}
}

func (r *report) scalar(v *value, path string) bool {
	if v.kind != scalar {
		r.failAt(v, "%s is %s — it must be a single value.", path, v.kind)
		return false
	}
	if len(v.text) > 1024 {
		r.failAt(v, "%s has %d characters — at most 1024 are allowed.", path, len(v.text))
		return false
	}
	return true
}

func (r *report) text(into *string) setter {
	return func(v *value, path string) {
		if r.scalar(v, path) {
			if v.text == "" {
				r.failAt(v, "%s is empty — give it a value or remove the key.", path)
			}
			*into = v.text
		}
	}
}

// label reads a name that must be a DNS label.
func (r *report) label(into *string) setter {
	return func(v *value, path string) {
		if r.scalar(v, path) && r.checkLabel(v, path, v.text) {
			*into = v.text
		}
	}
}

func (r *report) checkLabel(v *value, path, text string) bool {
	if nodedoc.ValidName(text) {
		return true
	}
	hint := "use a-z, 0-9 and dashes inside, at most 63 characters"
	if lower := strings.ToLower(text); nodedoc.ValidName(lower) {
		hint = "write " + lower
	}
	r.failAt(v, "%s %.80q is no name — %s.", path, text, hint)
	return false
}

func (r *report) texts(into *[]string) setter {
	return r.each(func(v *value, path string) {
		var s string
		r.text(&s)(v, path)
		*into = append(*into, s)
	}, func() { *into = nil })
}

func (r *report) each(item setter, reset func()) setter {
	return func(v *value, path string) {
		reset()
		if v.kind != list {
			r.failAt(v, "%s is %s — it must be a list: [%s].", path, v.kind, v.text)
			return
		}
		for i, e := range v.items {
			item(e, fmt.Sprintf("%s[%d]", path, i))
		}
	}
}

func (r *report) choice(into *string, words ...string) setter {
	return func(v *value, path string) {
		if !r.scalar(v, path) {
			return
		}
		if !slices.Contains(words, v.text) {
			hint := ""
			if n := jsontree.Nearest(v.text, words); n != "" {
				hint = fmt.Sprintf("did you mean %q? ", n)
			}
			r.failAt(v, "%s: %.80s — %sit is one of %s.", path, v.text, hint, strings.Join(words, ", "))
			return
		}
		*into = v.text
	}
}

func (r *report) boolean(into *bool) setter { return r.either(into, "true", "false") }

// onOff takes on and off, and true and false, which is what YAML 1.1 programs make of them.
func (r *report) onOff(into *bool) setter { return r.either(into, "on", "off", "true", "false") }

func (r *report) either(into *bool, words ...string) setter {
	return func(v *value, path string) {
		var word string
		r.choice(&word, words...)(v, path)
		if word != "" {
			*into = word == "on" || word == "true"
		}
	}
}

func (r *report) integer(into *int, low, high int) setter {
	return func(v *value, path string) {
		if !r.scalar(v, path) {
			return
		}
		n, err := strconv.Atoi(v.text)
		if err != nil || n < low || n > high {
			r.failAt(v, "%s: %.80s — it is a whole number from %d to %d.", path, v.text, low, high)
			return
		}
		*into = n
	}
}

func (r *report) duration(into *time.Duration, low, high time.Duration) setter {
	return func(v *value, path string) {
		if !r.scalar(v, path) {
			return
		}
		d, err := time.ParseDuration(v.text)
		if err != nil {
			hint := "write a number with its unit: 250ms, 30s, 10m, 2h"
			if _, err := strconv.Atoi(v.text); err == nil {
				hint = fmt.Sprintf("the unit is missing: %sms, %ss or %sm", v.text, v.text, v.text)
			}
			r.failAt(v, "%s: %.80s is no duration — %s.", path, v.text, hint)
			return
		}
		if d < low || d > high {
			r.failAt(v, "%s: %s — it is from %s to %s.", path, v.text, short(low), short(high))
			return
		}
		*into = d
	}
}

// sizes by suffix; memory and disks alike count in powers of two with i, of ten without.
var sizeUnits = []struct {
	suffix string
	bytes  uint64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
}

func (r *report) size(into *uint64) setter {
	return func(v *value, path string) {
		if !r.scalar(v, path) {
			return
		}
		for _, u := range sizeUnits {
			digits, ok := strings.CutSuffix(v.text, u.suffix)
			if !ok {
				continue
			}
			n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 32)
			if err != nil {
				break
			}
			*into = n * u.bytes
			return
		}
		r.failAt(v, "%s: %.80s is no size — write a whole number with its unit: 112MB, 16GB, 2TiB.", path, v.text)
	}
}

func (r *report) percent(into *int, low, high int) setter {
	return func(v *value, path string) {
		if !r.scalar(v, path) {
			return
		}
		digits, ok := strings.CutSuffix(v.text, "%")
		n, err := strconv.Atoi(digits)
		if !ok || err != nil || n < low || n > high {
			r.failAt(v, "%s: %.80s — it is a share from %d%% to %d%%.", path, v.text, low, high)
			return
		}
		*into = n
	}
}

func (r *report) number(into *float64, low, high float64) setter {
	return func(v *value, path string) {
		if !r.scalar(v, path) {
			return
		}
		f, err := strconv.ParseFloat(v.text, 64)
		if err != nil || !(f >= low && f <= high) {
			r.failAt(v, "%s: %.80s — it is a number from %v to %v.", path, v.text, low, high)
			return
		}
		*into = f
	}
}

func (r *report) address(into *string) setter {
	return func(v *value, path string) {
		if !r.scalar(v, path) {
			return
		}
		if _, err := netip.ParseAddr(v.text); err != nil {
			r.failAt(v, "%s %.80q is no IP address — write it as 10.7.0.1 or fd00::1.", path, v.text)
			return
		}
		*into = v.text
	}
}

func (r *report) prefix(into *string) setter {
	return func(v *value, path string) {
		if !r.scalar(v, path) {
			return
		}
		p, err := netip.ParsePrefix(v.text)
		if err != nil {
			r.failAt(v, "%s %.80q is no network — write it as 10.88.0.0/16.", path, v.text)
			return
		}
		if p != p.Masked() {
			r.failAt(v, "%s %s has bits set behind its prefix — write %s.", path, v.text, p.Masked())
			return
		}
		*into = v.text
	}
}

// mac reads a hardware address from the text as written: to YAML 1.1 programs one of
// digits only is a number in base 60.
func (r *report) mac(into *string) setter {
	return func(v *value, path string) {
		if !r.scalar(v, path) {
			return
		}
		if why := badMAC(v.text); why != "" {
			r.failAt(v, "mac %q — %s.", v.text, why)
			return
		}
		*into = strings.ToLower(strings.ReplaceAll(v.text, "-", ":"))
	}
}

func badMAC(s string) string {
	for i := range len(s) {
		c := s[i]
		if i%3 == 2 {
			if c != ':' && c != '-' {
				return fmt.Sprintf("character %d is not a colon; write it as 52:54:00:12:34:56", i+1)
			}
			continue
		}
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F') {
			return fmt.Sprintf("character %d is not hexadecimal", i+1)
		}
	}
	if len(s) != 17 {
		return fmt.Sprintf("it has %d characters, not 17; write it as 52:54:00:12:34:56", len(s))
	}
	if s == "00:00:00:00:00:00" || strings.EqualFold(s, "ff:ff:ff:ff:ff:ff") {
		return "no card has this address"
	}
	return ""
}

// short writes a duration without zero parts: 10m, not 10m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func name(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}
