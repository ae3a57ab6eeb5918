package mesosjson

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// MaxDepth is how deep objects and lists may nest.
	MaxDepth = 100
	// MaxValues is how many values one text may hold: a short text of empty objects would
	// otherwise take many times its own size.
	MaxValues = 200_000
)

// ErrTooBig is returned for a text that nests too deep or holds too many values.
var ErrTooBig = errors.New("JSON is too deep or has too many values")

// parser reads JSON from a text held in memory.
type parser struct {
	in     []byte
	pos    int
	depth  int
	values int
}

func (p *parser) errorf(format string, args ...any) error {
	return fmt.Errorf("at byte %d: %w", p.pos, fmt.Errorf(format, args...))
}

func (p *parser) space() {
	for p.pos < len(p.in) {
		switch p.in[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

// peek returns the first byte of the next token, 0 at the end.
func (p *parser) peek() byte {
	p.space()
	if p.pos == len(p.in) {
		return 0
	}
	return p.in[p.pos]
}

func (p *parser) expect(c byte) error {
	if got := p.peek(); got != c {
		return p.unexpected("'" + string(c) + "'")
	}
	p.pos++
	return nil
}

func (p *parser) unexpected(want string) error {
	if p.pos == len(p.in) {
		return p.errorf("text ends where %s is due", want)
	}
	return p.errorf("found %q where %s is due", p.in[p.pos], want)
}

// count is called for each value.
func (p *parser) count() error {
	p.values++
	if p.values > MaxValues {
		return p.errorf("more than %d values: %w", MaxValues, ErrTooBig)
	}
	return nil
}

// object calls each for every name, with the position at the value.
func (p *parser) object(each func(name string) error) error {
	return p.sequence('{', '}', func() error {
		if p.peek() != '"' {
			return p.unexpected("a name")
		}
		name, err := p.str()
		if err != nil {
			return err
		}
		if err := p.expect(':'); err != nil {
			return err
		}
		p.space()
		return each(name)
	})
}

// array calls each with the position at each element.
func (p *parser) array(each func() error) error { return p.sequence('[', ']', each) }

func (p *parser) sequence(open, end byte, each func() error) error {
	if err := p.expect(open); err != nil {
		return err
	}
	if p.depth++; p.depth > MaxDepth {
		return p.errorf("nested deeper than %d: %w", MaxDepth, ErrTooBig)
	}
	defer func() { p.depth-- }()
	if p.peek() == end {
		p.pos++
		return nil
	}
	for {
		if err := p.count(); err != nil {
			return err
		}
		if err := each(); err != nil {
			return err
		}
		switch p.peek() {
		case ',':
			p.pos++
		case end:
			p.pos++
			return nil
		default:
			return p.unexpected("',' or '" + string(end) + "'")
		}
	}
}

// skip reads past one value of any kind.
func (p *parser) skip() error {
	switch c := p.peek(); {
	case c == '{':
		return p.object(func(string) error { return p.skip() })
	case c == '[':
		return p.array(p.skip)
	case c == '"':
		_, err := p.str()
		return err
	case c == '-' || c >= '0' && c <= '9':
		_, err := p.number()
		return err
	default:
		_, err := p.word()
		return err
	}
}

// word reads true, false or null.
func (p *parser) word() (string, error) {
	p.space()
	for _, w := range []string{"true", "false", "null"} {
		if len(p.in)-p.pos >= len(w) && string(p.in[p.pos:p.pos+len(w)]) == w {
			p.pos += len(w)
			return w, nil
		}
	}
	return "", p.unexpected("a value")
}

// number returns the text of a number, which follows JSON's grammar.
func (p *parser) number() (string, error) {
	start := p.pos
	digits := func() bool {
		from := p.pos
		for p.pos < len(p.in) && p.in[p.pos] >= '0' && p.in[p.pos] <= '9' {
			p.pos++
		}
		return p.pos > from
	}
	if p.pos < len(p.in) && p.in[p.pos] == '-' {
		p.pos++
	}
	zero := p.pos < len(p.in) && p.in[p.pos] == '0'
	from := p.pos
	ok := digits() && !(zero && p.pos > from+1)
	if ok && p.pos < len(p.in) && p.in[p.pos] == '.' {
		p.pos++
		ok = digits()
	}
	if ok && p.pos < len(p.in) && (p.in[p.pos] == 'e' || p.in[p.pos] == 'E') {
		p.pos++
		if p.pos < len(p.in) && (p.in[p.pos] == '+' || p.in[p.pos] == '-') {
			p.pos++
		}
		ok = digits()
	}
	if !ok {
		p.pos = start
		return "", p.errorf("not a number")
	}
	return string(p.in[start:p.pos]), nil
}

// str reads a string. Bytes that are not UTF-8 and lone surrogates become U+FFFD, so that
// nothing further on meets a string that is not text.
func (p *parser) str() (string, error) {
	p.pos++ // the quote
	start := p.pos
	for p.pos < len(p.in) {
		switch c := p.in[p.pos]; {
		case c == '"':
			s := string(p.in[start:p.pos])
			p.pos++
			return s, nil
		case c == '\\' || c >= utf8.RuneSelf:
			return p.strSlow(append([]byte(nil), p.in[start:p.pos]...))
		case c < ' ':
			return "", p.errorf("control character in a string")
		default:
			p.pos++
		}
	}
	return "", p.errorf("string without end")
}

func (p *parser) strSlow(out []byte) (string, error) {
	for p.pos < len(p.in) {
		switch c := p.in[p.pos]; {
		case c == '"':
			p.pos++
			return string(out), nil
		case c < ' ':
			return "", p.errorf("control character in a string")
		case c == '\\':
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			out = utf8.AppendRune(out, r)
		default:
			r, n := utf8.DecodeRune(p.in[p.pos:])
			out = utf8.AppendRune(out, r)
			p.pos += n
		}
	}
	return "", p.errorf("string without end")
}

func (p *parser) escape() (rune, error) {
	p.pos++
	if p.pos == len(p.in) {
		return 0, p.errorf("string without end")
	}
	c := p.in[p.pos]
	p.pos++
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		return p.unicode()
	}
	return 0, p.errorf("unknown escape \\%c", c)
}

func (p *parser) unicode() (rune, error) {
	r, err := p.hex4()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if len(p.in)-p.pos < 6 || p.in[p.pos] != '\\' || p.in[p.pos+1] != 'u' {
		return utf8.RuneError, nil
	}
	back := p.pos
	p.pos += 2
	low, err := p.hex4()
	if err != nil {
		return 0, err
	}
	both := utf16.DecodeRune(r, low)
	if both == utf8.RuneError {
		p.pos = back
	}
	return both, nil
}

func (p *parser) hex4() (rune, error) {
	if len(p.in)-p.pos < 4 {
		return 0, p.errorf("\\u needs four hexadecimal digits")
	}
	v, err := strconv.ParseUint(string(p.in[p.pos:p.pos+4]), 16, 16)
	if err != nil {
		return 0, p.errorf("\\u needs four hexadecimal digits")
	}
	p.pos += 4
	return rune(v), nil
}
