package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// Bounds of what a console keeps in memory; its file has everything.
const (
	maxLine  = 16 << 10
	maxLines = 50_000
)

// Line is one line of a console and when its last byte came.
type Line struct {
	At   time.Time
	Text string
}

// Console is what a machine prints on its serial port.
type Console struct {
	mu      sync.Mutex
	file    *os.File
	partial []byte
	lines   []Line
	dropped int // lines no longer kept, so that positions stay true
	ended   bool
	lost    error         // why the file has not everything
	changed chan struct{} // closed and made anew at each change
}

func newConsole(file *os.File) *Console {
	return &Console{file: file, changed: make(chan struct{})}
}

// Write takes bytes from the serial port.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.file.Write(p); err != nil && c.lost == nil {
		// A full disk must not stop the machine, whose prints wait for this reader.
		c.lost = fmt.Errorf("the console's file is not complete: %w", err)
		c.add(Line{At: time.Now(), Text: "host: " + c.lost.Error()})
	}
	c.partial = append(c.partial, p...)
	now := time.Now()
	for {
		end := bytes.IndexByte(c.partial, '\n')
		if end < 0 && len(c.partial) < maxLine {
			break
		}
		rest := end + 1
		if end < 0 || end > maxLine {
			end, rest = maxLine, maxLine // a line without end, in pieces
		}
		c.add(Line{At: now, Text: strings.Trim(string(c.partial[:end]), "\r")})
		c.partial = c.partial[rest:]
	}
	return len(p), nil
}

func (c *Console) add(l Line) {
	if len(c.lines) == maxLines {
		c.lines = append(c.lines[:0], c.lines[maxLines/2:]...)
		c.dropped += maxLines / 2
	}
	c.lines = append(c.lines, l)
	c.wake()
}

func (c *Console) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if len(c.partial) > 0 {
		c.add(Line{At: time.Now(), Text: string(c.partial)})
		c.partial = nil
	}
	c.wake()
	c.file.Close()
}

// Len is the position behind the newest line: a Wait from there sees only what follows.
func (c *Console) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped + len(c.lines)
}

// Lines gives the lines from a position on.
func (c *Console) Lines(from int) []Line {
	c.mu.Lock()
	defer c.mu.Unlock()
	from = max(from-c.dropped, 0)
	if from >= len(c.lines) {
		return nil
	}
	return append([]Line(nil), c.lines[from:]...)
}

// Wait waits for a line that contains text, looking at those from a position on. The
// error of a wait in vain shows the last lines.
func (c *Console) Wait(ctx context.Context, from int, text string) (Line, error) {
	for {
		c.mu.Lock()
		changed, ended := c.changed, c.ended
		at := max(from-c.dropped, 0)
		for ; at < len(c.lines); at++ {
			if strings.Contains(c.lines[at].Text, text) {
				line := c.lines[at]
				c.mu.Unlock()
				return line, nil
			}
		}
		from = c.dropped + len(c.lines)
		c.mu.Unlock()
		if ended {
			return Line{}, fmt.Errorf("waiting for %q on the console: %w; its last lines:\n%s", text, ErrEnded, c.Tail(15))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Line{}, fmt.Errorf("waiting for %q on the console: %w; its last lines:\n%s", text, ctx.Err(), c.Tail(15))
		}
	}
}

// Tail gives the newest lines as indented text.
func (c *Console) Tail(n int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, l := range c.lines[max(len(c.lines)-n, 0):] {
		b.WriteString("    " + l.Text + "\n")
	}
	return b.String()
}
