package pstore

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// End is how a boot ended, as far as the kernel's record of it tells.
type End struct {
	At    time.Time
	Cause string // one line
	Asked bool   // it was an orderly end that somebody wanted
	// Row counts the ends, this one included, that nobody asked for and that came within
	// Window of each other, as far as each boot knew of the one before.
	Row int
	// Kept says that the record stays in its store, so that it may be of an earlier end.
	Kept bool
}

// BootFailed begins what PID 1 says when it gives a boot up, which nobody asked for.
const BootFailed = "boot failed"

// goingDown is what PID 1 says before an orderly end.
const goingDown = "mesolith: going down: "

// GoingDown is that line's text without the log's own beginning.
func GoingDown(why string) string { return strings.TrimPrefix(goingDown, "mesolith: ") + why }

// merge adds a record's end. A long record is kept in parts, all of one moment: what the
// earlier parts tell is not lost to a later one that says less.
func merge(ends []End, at time.Time, text string, kept bool) []End {
	cause, asked := Cause(text)
	end := End{At: at, Cause: cause, Asked: asked, Row: row(text, asked), Kept: kept}
	if n := len(ends); n > 0 && ends[n-1].At.Equal(at) {
		end.Row = max(end.Row, ends[n-1].Row)
		if weight(cause) <= weight(ends[n-1].Cause) {
			end.Cause, end.Asked = ends[n-1].Cause, ends[n-1].Asked
		}
		ends[n-1] = end
		return ends
	}
	return append(ends, end)
}

// inARow is how the line about the last end tells its Row.
const inARow = "unasked for in a row: "

// row reads from a record how many ends before it came in a row, and counts this one.
func row(text string, asked bool) int {
	if asked {
		return 0
	}
	before, uptime := 0, 0.0
	for line := range strings.Lines(text) {
		if _, count, ok := strings.Cut(line, inARow); ok {
			if n, err := strconv.Atoi(strings.TrimRight(strings.TrimSpace(count), ")")); err == nil {
				before = n
			}
		}
		if _, stamp, ok := strings.Cut(line, "["); ok {
			stamp, _, _ = strings.Cut(stamp, "]")
			if t, err := strconv.ParseFloat(strings.TrimSpace(stamp), 64); err == nil {
				uptime = t
			}
		}
	}
	if uptime > Window.Seconds() {
		return 1
	}
	return before + 1
}

// weight prefers what a program said to what the kernel concluded from its death.
func weight(cause string) int {
	if cause == "" {
		return 0
	}
	if strings.HasPrefix(cause, diedOf) {
		return 2
	}
	return 1
}

const diedOf = "PID 1 died: "

// Cause finds in a record of the kernel's log why that boot ended, in a line; empty when
// it does not say. Asked says that somebody wanted the end.
func Cause(text string) (cause string, asked bool) {
	var panicked, program, down string
	for line := range strings.Lines(text) {
		line = message(line)
		switch {
		case strings.HasPrefix(line, "Kernel panic - not syncing: "):
			panicked = strings.TrimPrefix(line, "Kernel panic - not syncing: ")
		case strings.HasPrefix(line, "panic: "), strings.HasPrefix(line, "fatal error: "):
			if program == "" {
				program = line // a trace's later lines repeat or follow from it
			}
		case strings.HasPrefix(line, goingDown):
			down = strings.TrimPrefix(line, goingDown)
		}
	}
	switch {
	case strings.HasPrefix(panicked, "Attempted to kill init") && program != "":
		return diedOf + program, false
	case panicked != "":
		return "kernel panic: " + panicked, false
	case down != "":
		return down, !strings.HasPrefix(down, BootFailed)
	case program != "":
		return diedOf + program, false
	}
	return "", false
}

// message is a line's text, without its level, its time and blanks around.
func message(line string) string {
	_, text := split(line)
	return strings.TrimSpace(text)
}

// split takes a line of the kernel's log apart: "<0>[    3.141592] text".
func split(line string) (head, text string) {
	text = strings.TrimSuffix(line, "\n")
	whole := text
	if strings.HasPrefix(text, "<") {
		if _, rest, ok := strings.Cut(text, ">"); ok {
			text = rest
		}
	}
	if strings.HasPrefix(text, "[") {
		if _, rest, ok := strings.Cut(text, "]"); ok {
			text = strings.TrimPrefix(rest, " ")
		}
	}
	return whole[:len(whole)-len(text)], text
}

// lately is how old a record may be, apart from the time since this boot began, to be that
// of an end after which the watchdog bit: a panic waits ten seconds, firmware takes its time.
const lately = 2 * time.Minute

// LastEnd puts into a line how the last boot ended, and says how many ends in a row nobody
// had asked for. The watchdog leaves no record of the kernel's, but remembers that it bit.
func LastEnd(ends []End, bitten bool, now time.Time, uptime time.Duration) (line string, inRow int) {
	var last *End
	for i := range ends {
		if ends[i].Cause != "" {
			last = &ends[i]
		}
	}
	if last != nil && bitten && last.Kept && now.Sub(last.At)-uptime > lately {
		last = nil
	}
	then := ""
	if bitten {
		then = ", and the watchdog reset the machine"
	}
	switch {
	case last == nil && bitten:
		return "the watchdog reset the machine: PID 1 had stopped feeding it", 0
	case last == nil:
		return "nothing is known: power was off, the machine was reset, or it keeps no records", 0
	case last.Row > 0:
		return fmt.Sprintf("%s%s (at %s, %s%d)", last.Cause, then, last.At.UTC().Format(time.RFC3339), inARow, last.Row), last.Row
	}
	return fmt.Sprintf("%s%s (at %s)", last.Cause, then, last.At.UTC().Format(time.RFC3339)), last.Row
}

// joined makes lines of what the Go runtime prints when it dies: it writes word by word,
// and the kernel's log makes a record of each, without the ends of lines.
func joined(text string) string {
	var out strings.Builder
	open := false // a line of pieces
	end := func() {
		if open {
			out.WriteByte('\n')
		}
		open = false
	}
	for line := range strings.Lines(text) {
		head, piece := split(line)
		if !fromAProgram(head) || strings.HasPrefix(piece, "mesolith: ") {
			end()
			out.WriteString(strings.TrimSuffix(line, "\n") + "\n")
			continue
		}
		for _, begin := range []string{"\t", "goroutine ", "created by "} {
			if strings.HasPrefix(piece, begin) {
				end()
			}
		}
		if !open {
			out.WriteString(head)
		}
		out.WriteString(piece)
		open = true
		if piece == "" || strings.HasSuffix(piece, ")") || strings.HasSuffix(piece, "]:") {
			end()
		}
	}
	end()
	return out.String()
}

// fromAProgram reports whether a record is of the facility "user": <8> to <15>.
func fromAProgram(head string) bool {
	var level int
	_, err := fmt.Sscanf(head, "<%d>", &level)
	return err == nil && level>>3 == 1
}

// afterCrashes says how long to wait when this is the third boot within Window after ends
// that nobody asked for.
func afterCrashes(inRow int) time.Duration {
	if inRow >= Many-1 {
		return Pause
	}
	return 0
}
