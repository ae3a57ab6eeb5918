package cluster

import (
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing to say about a cluster file.
type Problem struct {
	File      string
	Line, Col int
	Text      string // what is wrong, why, and what to write instead
	Warning   bool   // the file can be used as it is
}

// String gives a problem in the form that editors jump to.
func (p Problem) String() string {
	s := fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Col, p.Text)
	if p.Warning {
		s += "   [warning]"
	}
	return s
}

// Problems are the errors of a file; as an error they print one a line.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, e := range p {
		lines[i] = e.String()
	}
	return strings.Join(lines, "\n")
}

// maxProblems bounds what one reading reports; after that many nobody reads on.
const maxProblems = 50

type report struct {
	file     string
	problems []Problem
	errors   int
}

// add notes a problem. A value is read once in its layer and again for each node that it
// reaches: one place of the file gets one message.
func (r *report) add(p Problem) {
	same := func(q Problem) bool {
		return p == q || p.Line == q.Line && p.Col == q.Col && p.Warning == q.Warning && p.Line > 1
	}
	if slices.ContainsFunc(r.problems, same) || len(r.problems) >= maxProblems {
		return
	}
	r.problems = append(r.problems, p)
}

func (r *report) fail(line, col int, format string, args ...any) {
	r.errors++
	r.add(Problem{File: r.file, Line: line, Col: col, Text: fmt.Sprintf(format, args...)})
}

func (r *report) failAt(v *value, format string, args ...any) {
	r.fail(v.line, v.col, format, args...)
}

func (r *report) warnAt(v *value, format string, args ...any) {
	r.add(Problem{File: r.file, Line: v.line, Col: v.col, Text: fmt.Sprintf(format, args...), Warning: true})
}

// notYet says that a key is understood and has no effect in this version.
func (r *report) notYet(v *value, what string) {
	r.warnAt(v, "%s is accepted and not acted on yet — this version does nothing about it.", what)
}

// split gives errors and warnings, each in the file's order.
func (r *report) split() (errs Problems, warnings []Problem) {
	slices.SortStableFunc(r.problems, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Col - b.Col
	})
	for _, p := range r.problems {
		if p.Warning {
			warnings = append(warnings, p)
		} else {
			errs = append(errs, p)
		}
	}
	return errs, warnings
}
