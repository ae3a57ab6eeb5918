// Package console tells whoever stands at the machine what it is and what it waits for:
// one line at a time on /dev/console.
//
// Invariant: a line is written when what it says changed, never twice in a row for the
// same subject, so that a console that nobody clears stays readable; a console that is
// gone or blocked never holds up the node for longer than one write.
//
// It is output only: nothing is read from the console.
package console

import (
	"fmt"
	"io"
	"strings"
	"sync"
)

// Console writes lines. It is safe for use by many goroutines.
type Console struct {
	mu   sync.Mutex
	out  io.Writer
	last map[string]string
}

const maxLine = 400 // characters of one line

// New gives a console that writes to out.
func New(out io.Writer) *Console {
	return &Console{out: out, last: map[string]string{}}
}

// Say writes what there is to say about a subject (node, network, cluster, …), unless it
// was the last thing said about it.
func (c *Console) Say(subject, format string, args ...any) {
	text := clean(fmt.Sprintf(format, args...))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last[subject] == text {
		return
	}
	c.last[subject] = text
	// A console that cannot be written to has nobody who could be told.
	_, _ = fmt.Fprintf(c.out, "mesolith: %s: %s\r\n", subject, text)
}

// clean keeps control characters out: names and reasons come from outside.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > maxLine {
		return string(runes[:maxLine-1]) + "…"
	}
	return s
}
