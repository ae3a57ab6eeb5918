package console

import (
	"bytes"
	"strings"
	"testing"
)

func TestSay(t *testing.T) {
	var out bytes.Buffer
	c := New(&out)
	c.Say("node", "m1 of %s", "demo")
	c.Say("node", "m1 of %s", "demo") // nothing new
	c.Say("network lan", "bad\x1b[2Jname\n%s", strings.Repeat("x", 1000))
	c.Say("node", "m2 of demo")
	lines := strings.Split(strings.TrimSuffix(out.String(), "\r\n"), "\r\n")
	if len(lines) != 3 || lines[0] != "mesolith: node: m1 of demo" || strings.Contains(out.String(), "\x1b") || len([]rune(lines[1])) > maxLine+40 {
		t.Errorf("%q", lines)
	}
}
