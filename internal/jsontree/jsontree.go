// Package jsontree reads JSON that people write into a tree that knows where each value
// stands, so that what is wrong with it can be said with line and column.
//
// Invariant: Parse gives a tree only of one JSON value of at most the given size, UTF-8
// throughout, nested at most MaxDepth deep, without a key twice in one object; whatever
// else it is given is an error with its place.
//
// A tree may also be made of another language with places, as the cluster file's YAML is;
// what a tree must hold is the business of who decodes it (acl, ratelimit).
package jsontree

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxDepth bounds how deep values may be nested.
const MaxDepth = 16

// Kind is what a value is.
type Kind int

// The kinds. A scalar is text, a number or a truth value.
const (
	Scalar Kind = iota
	List
	Mapping
	Null
)

func (k Kind) String() string {
	return [...]string{"a single value", "a list", "a mapping", "empty"}[k]
}

// Node is one value.
type Node struct {
	Kind    Kind
	Text    string // of a scalar, as it is written, without quotes
	Items   []*Node
	Entries []Entry // in their order
	// Line and Col are where it begins, counted from 1.
	Line, Col int
}

// Entry is one key of a mapping.
type Entry struct {
	Key       string
	Line, Col int
	Value     *Node
}

// Problem is one thing that is wrong: where, and a sentence with what, why and what to do.
type Problem struct {
	Line, Col int
	Text      string
}

func (p Problem) String() string { return fmt.Sprintf("%d:%d: %s", p.Line, p.Col, p.Text) }

// Problems are what is wrong with one text; as an error they print one a line.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, e := range p {
		lines[i] = e.String()
	}
	return strings.Join(lines, "\n")
}

// In names the file that the problems are of: each line begins with it.
func (p Problems) In(file string) error {
	lines := make([]string, len(p))
	for i, e := range p {
		lines[i] = file + ":" + e.String()
	}
	return errors.New(strings.Join(lines, "\n"))
}

// maxProblems: after that many nobody reads on.
const maxProblems = 20

// Add notes what is wrong with a value.
func (p *Problems) Add(line, col int, format string, args ...any) {
	if len(*p) < maxProblems {
		*p = append(*p, Problem{line, col, fmt.Sprintf(format, args...)})
	}
}

// At notes what is wrong with a value.
func (p *Problems) At(n *Node, format string, args ...any) { p.Add(n.Line, n.Col, format, args...) }

// Parse reads one JSON value of at most most bytes.
func Parse(text []byte, most int) (*Node, Problems) {
	var bad Problems
	if len(text) > most {
		bad.Add(1, 1, "the file has %d bytes — at most %d are allowed.", len(text), most)
		return nil, bad
	}
	if at := invalid(text); at >= 0 {
		line, col := place(text, at)
		bad.Add(line, col, "this is not UTF-8 — save the file as UTF-8.")
		return nil, bad
	}
	var whole json.RawMessage
	if err := json.Unmarshal(text, &whole); err != nil {
		return nil, Problems{broken(text, err)}
	}
	r := reader{text: text, d: json.NewDecoder(bytes.NewReader(text))}
	r.d.UseNumber()
	n, err := r.value(0)
	var p Problem
	switch {
	case errors.As(err, &p):
		return nil, Problems{p}
	case err != nil:
		line, col := r.next()
		return nil, Problems{{line, col, "not JSON: " + err.Error() + "."}}
	}
	return n, nil
}

// broken says what makes a text no JSON.
func broken(text []byte, err error) Problem {
	at := len(text)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		at = int(syntax.Offset) - 1
	}
	why := err.Error()
	switch {
	case strings.Contains(why, "unexpected end"):
		at, why = len(text), "it ends too early — is a closing bracket missing?"
	case strings.Contains(why, "after top-level value"):
		why = "a second value begins here — the file is one JSON object; remove the rest."
	default:
		why += "."
	}
	line, col := place(text, at)
	return Problem{line, col, "not JSON: " + why}
}

// Error makes a problem an error on its own.
func (p Problem) Error() string { return p.String() }

func invalid(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// place turns an offset into line and column; columns count characters.
func place(text []byte, at int) (line, col int) {
	at = max(0, min(at, len(text)))
	before := text[:at]
	start := bytes.LastIndexByte(before, '\n') + 1
	return 1 + bytes.Count(before, []byte("\n")), 1 + utf8.RuneCount(before[start:])
}

type reader struct {
	text []byte
	d    *json.Decoder
	// at is the offset of line and col, counted from 0.
	at, line, col int
}

// next is where the next token begins.
func (r *reader) next() (line, col int) {
	at := int(r.d.InputOffset())
	for at < len(r.text) && strings.IndexByte(" \t\r\n,:", r.text[at]) >= 0 {
		at++
	}
	for ; r.at < at; r.at++ {
		switch c := r.text[r.at]; {
		case c == '\n':
			r.line, r.col = r.line+1, 0
		case utf8.RuneStart(c):
			r.col++
		}
	}
	return r.line + 1, r.col + 1
}

func (r *reader) value(depth int) (*Node, error) {
	n := &Node{}
	n.Line, n.Col = r.next()
	if depth > MaxDepth {
		return nil, Problem{n.Line, n.Col, fmt.Sprintf("nested more than %d deep — nothing in this file is.", MaxDepth)}
	}
	t, err := r.d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			return r.object(n, depth)
		}
		return r.list(n, depth)
	case string:
		n.Text = t
	case json.Number:
		n.Text = t.String()
	case bool:
		n.Text = fmt.Sprint(t)
	default:
		n.Kind = Null
	}
	return n, nil
}

func (r *reader) list(n *Node, depth int) (*Node, error) {
	n.Kind = List
	for r.d.More() {
		item, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		n.Items = append(n.Items, item)
	}
	_, err := r.d.Token()
	return n, err
}

func (r *reader) object(n *Node, depth int) (*Node, error) {
	n.Kind = Mapping
	seen := map[string]int{}
	for r.d.More() {
		e := Entry{}
		e.Line, e.Col = r.next()
		t, err := r.d.Token()
		if err != nil {
			return nil, err
		}
		key, ok := t.(string)
		if !ok {
			return nil, Problem{e.Line, e.Col, "a key must be text in quotes."}
		}
		if line := seen[key]; line > 0 {
			return nil, Problem{e.Line, e.Col, fmt.Sprintf("key %.80q is here a second time (first in line %d) — keep one of them.", key, line)}
		}
		seen[key], e.Key = e.Line, key
		if e.Value, err = r.value(depth + 1); err != nil {
			return nil, err
		}
		n.Entries = append(n.Entries, e)
	}
	_, err := r.d.Token()
	return n, err
}

// Nearest gives the known word most like the given one, when one is like it; else "".
func Nearest(word string, known []string) string {
	best, distance := "", 1+len(word)/3
	for _, k := range known {
		if len(word) > 2*len(k)+2 {
			continue
		}
		if d := edits(word, k); d <= distance && (best == "" || d < distance) {
			best, distance = k, d
		}
	}
	return best
}

// edits counts the letters to insert, remove or change between two words.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
