package kmsg

import (
	"strings"
	"testing"
)

func TestCleanMakesOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"a\nb\tc\x1b[31m\r\n": "a b c[31m",
		"":                    "",
		"ä":                   "ä",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
	if got := clean(strings.Repeat("ä", maxLine)); len(got) > maxLine+5 || !strings.HasSuffix(got, "…") {
		t.Errorf("a long line has %d bytes", len(got))
	}
}
