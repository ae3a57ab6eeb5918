package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sort"
	"strings"
	"unicode"

	"golang.org/x/term"
)

// progress shows a start to a person: one line per fact, and on a terminal the nodes'
// present phases in a last line that is drawn anew.
type progress struct {
	out    io.Writer
	live   bool
	phases map[string]string // node → its newest phase
	drawn  bool
}

// lineWidth is what fits on a narrow terminal beside the seconds; maxText bounds what a
// machine's console adds to the screen.
const (
	lineWidth = 68
	maxText   = 300
)

func newProgress(out io.Writer) *progress {
	f, ok := out.(*os.File)
	return &progress{out: out, live: ok && term.IsTerminal(int(f.Fd())), phases: map[string]string{}}
}

func (p *progress) show(e event) {
	switch e.Kind {
	case eventPhase:
		name, rest, _ := strings.Cut(e.Text, " ")
		p.phases[e.Node] = name
		if !p.live || !strings.HasSuffix(rest, " ok") {
			p.line(e.At, e.Node, "phase "+e.Text)
		}
	case eventMachine:
		p.phases[e.Node] = e.Text
		p.line(e.At, e.Node, e.Text)
	case eventTrouble:
		p.line(e.At, e.Node, e.Text)
	case eventLeader:
		p.line(e.At, e.Node, "was elected leader")
	case eventReady:
		p.line(e.At, "", "ready: "+e.Text)
	case eventFailed:
		p.line(e.At, "", "failed")
	}
	p.draw(e.At)
}

func (p *progress) line(at float64, node, text string) {
	p.erase()
	if node != "" {
		node += " "
	}
	if short := []rune(text); len(short) > maxText {
		text = string(short[:maxText]) + "…"
	}
	fmt.Fprintf(p.out, "%6.1f s  %s%s\n", at, node, printable(text))
}

// printable keeps what a machine's console says from steering the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}

func (p *progress) draw(at float64) {
	if !p.live {
		return
	}
	p.erase()
	nodes := make([]string, 0, len(p.phases))
	for node, phase := range p.phases {
		nodes = append(nodes, node+": "+phase)
	}
	sort.Strings(nodes)
	text := []rune(strings.Join(nodes, " · "))
	if len(text) > lineWidth {
		text = append(text[:lineWidth-1], '…')
	}
	fmt.Fprintf(p.out, "%6.1f s  %s", at, string(text))
	p.drawn = true
}

func (p *progress) erase() {
	if p.drawn {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.drawn = false
	}
}

func (p *progress) finish() { p.erase() }

// sayHandler shows what a room logs as a sentence to the person who waits.
type sayHandler struct{ out io.Writer }

func (h sayHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (h sayHandler) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += ", " + strings.ReplaceAll(a.Key, "_", " ") + " " + a.Value.String()
		return true
	})
	_, err := fmt.Fprintln(h.out, text)
	return err
}

func (h sayHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

func (h sayHandler) WithGroup(string) slog.Handler { return h }
