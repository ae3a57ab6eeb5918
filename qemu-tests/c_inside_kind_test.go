//go:build vm

package qemutests

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

const noSuchLine = "(no such line)"

// insideLine is one line of the golden table with those that follow it indented.
type insideLine struct {
	text   string
	others []string
}

// valueFor is what the line says of a kind of task; def is what it says of root's.
func (l insideLine) valueFor(kind, def string) string {
	for _, o := range l.others {
		who, value, _ := strings.Cut(strings.TrimSpace(o), ":")
		if slices.Contains(strings.Split(who, "; "), kind) {
			return strings.TrimSpace(value)
		}
	}
	return def
}

// compareKind compares what one kind of task found with its part of the golden table.
func compareKind(t *testing.T, kind string, table []insideRow) {
	t.Helper()
	raw, err := os.ReadFile(insideTable)
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string][]insideLine{}
	section, due := "", 0
	for line := range strings.SplitSeq(string(raw), "\n") {
		lines := sections[section]
		switch {
		case strings.HasPrefix(line, "== "):
			section = line[3:]
		case strings.HasPrefix(line, "    ") && len(lines) > 0:
			lines[len(lines)-1].others = append(lines[len(lines)-1].others, line)
		case line != "" && section != "":
			sections[section] = append(lines, insideLine{text: line})
		}
	}
	for _, lines := range sections {
		for _, l := range lines {
			def := "there"
			if strings.HasSuffix(l.text, noSuchLine) {
				def = noSuchLine
			}
			if l.valueFor(kind, def) != noSuchLine {
				due++
			}
		}
	}
	for _, r := range table {
		prefix := fmt.Sprintf("%-44s ", r.Name)
		i := slices.IndexFunc(sections[r.Section], func(l insideLine) bool { return strings.HasPrefix(l.text, prefix) })
		if i < 0 {
			t.Errorf("%s: %s: %s: %q is not in %s", kind, r.Section, r.Name, r.Value, insideTable)
			continue
		}
		l := sections[r.Section][i]
		if want := l.valueFor(kind, strings.TrimPrefix(l.text, prefix)); want != strings.TrimSpace(r.Value) {
			t.Errorf("%s: %s: %s: %q, and %s says %q", kind, r.Section, r.Name, r.Value, insideTable, want)
		}
	}
	if len(table) != due || due < 100 {
		t.Errorf("%s: %d lines were found out, %s has %d of it", kind, len(table), insideTable, due)
	}
}
