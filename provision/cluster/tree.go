package cluster

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a cluster file.
const (
	maxFile  = 1 << 20 // bytes
	maxDepth = 16      // the vocabulary needs 9
)

type kind int

const (
	scalar  kind = iota // text, whatever YAML would make of it
	list                // items
	mapping             // entries, in the file's order
	null                // a key without a value
)

func (k kind) String() string {
	return [...]string{"a single value", "a list", "a mapping", "empty"}[k]
}

// value is one value of the file: the text as written, where, and in which layer of the
// file, so that after merging each part still knows its origin.
type value struct {
	kind      kind
	text      string
	quoted    bool
	items     []*value
	entries   []entry
	line, col int
	layer     string // "built-in", "defaults", "group gpu", "node"; empty elsewhere
}

type entry struct {
	key       string
	line, col int
	value     *value
}

// get gives the value under a path of keys, or nil.
func (v *value) get(path ...string) *value {
	for _, key := range path {
		if v == nil {
			return nil
		}
		var next *value
		for _, e := range v.entries {
			if e.key == key {
				next = e.value
			}
		}
		v = next
	}
	return v
}

// stamp notes the layer on a value and all below it.
func (v *value) stamp(layer string) *value {
	v.layer = layer
	for _, e := range v.entries {
		e.value.stamp(layer)
	}
	for _, item := range v.items {
		item.stamp(layer)
	}
	return v
}

// parseTree reads YAML into values. What means different things to different YAML
// programs (anchors, tags, a key twice, several documents) is refused.
func parseTree(r *report, text []byte) (root *value) {
	if len(text) > maxFile {
		r.fail(1, 1, "the file has %d bytes — at most %d are allowed.", len(text), maxFile)
		return nil
	}
	file, err := parseYAML(text)
	if err != nil {
		var syntax interface {
			GetToken() *token.Token
			GetMessage() string
		}
		line, col, message := 1, 1, firstLine(err.Error())
		if errors.As(err, &syntax) {
			message = syntax.GetMessage()
			if t := syntax.GetToken(); t != nil && t.Position != nil {
				line, col = t.Position.Line, t.Position.Column
			}
		}
		r.fail(line, col, "not YAML: %s.", strings.TrimSuffix(message, "."))
		return nil
	}
	docs := make([]ast.Node, 0, 1)
	for _, d := range file.Docs {
		if d.Body != nil {
			docs = append(docs, d.Body)
		}
	}
	switch len(docs) {
	case 0:
		r.fail(1, 1, "the file is empty — `lith init` writes one to start from.")
		return nil
	case 1:
		c := converter{report: r}
		return c.convert(docs[0], 0)
	}
	line, col := position(docs[1])
	r.fail(line, col, "a second document begins here — a cluster file is one document; remove the line with ---.")
	return nil
}

// parseYAML guards against a panic of the library: the file is bytes from outside.
func parseYAML(text []byte) (file *ast.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			file, err = nil, fmt.Errorf("the YAML reader gave up (%v)", p)
		}
	}()
	return parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
}

type converter struct{ *report }

func (c converter) convert(n ast.Node, depth int) *value {
	line, col := position(n)
	v := &value{line: line, col: col}
	if depth > maxDepth {
		c.fail(line, col, "nested more than %d deep — nothing in a cluster file is.", maxDepth)
		v.kind = null
		return v
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		v.kind = mapping
		for _, pair := range n.Values {
			c.pair(v, pair, depth)
		}
	case *ast.MappingValueNode:
		v.kind = mapping
		c.pair(v, n, depth)
	case *ast.SequenceNode:
		v.kind = list
		for _, item := range n.Values {
			v.items = append(v.items, c.convert(item, depth+1))
		}
	case *ast.NullNode:
		v.kind = null
	case *ast.LiteralNode:
		v.text, v.quoted = n.Value.Value, true
	case *ast.StringNode:
		v.text, v.quoted = n.Value, n.Token.Type != token.StringType
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		v.text = n.GetToken().Value
	case *ast.AnchorNode, *ast.AliasNode:
		c.fail(line, col, "anchors (&) and aliases (*) are not allowed — use defaults: or groups:; quote a text that begins so.")
		v.kind = null
	case *ast.TagNode:
		c.fail(line, col, "tags (!) are not allowed — every key here has one type; quote a text that begins so.")
		v.kind = null
	default:
		c.fail(line, col, "%s is not allowed here.", n.Type())
		v.kind = null
	}
	return v
}

func (c converter) pair(v *value, pair *ast.MappingValueNode, depth int) {
	line, col := position(pair.Key)
	if _, merge := pair.Key.(*ast.MergeKeyNode); merge {
		c.fail(line, col, "merge keys (<<) are not allowed — use defaults: or groups:.")
		return
	}
	switch pair.Key.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
	default:
		c.fail(line, col, "a key must be plain text.")
		return
	}
	key := pair.Key.GetToken().Value
	for _, e := range v.entries {
		if e.key == key {
			c.fail(line, col, "key %q is here a second time (first in line %d) — keep one of them.", key, e.line)
			return
		}
	}
	if len(v.entries) == 0 {
		v.line, v.col = line, col
	}
	child := c.convert(pair.Value, depth+1)
	if child.line == 0 {
		child.line, child.col = line, col
	}
	v.entries = append(v.entries, entry{key: key, line: line, col: col, value: child})
}

func position(n ast.Node) (line, col int) {
	if n == nil {
		return 1, 1
	}
	switch m := n.(type) { // its own token is the colon
	case *ast.MappingNode:
		if len(m.Values) > 0 {
			n = m.Values[0].Key
		}
	case *ast.MappingValueNode:
		n = m.Key
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line, t.Position.Column
	}
	return 1, 1
}

// merge lays over upon base: mappings merge key by key, everything else is replaced.
// Two things belong together and are replaced as one: a `match`, whose parts all have to
// agree, and the choice between dhcp and a fixed address of a network.
func merge(base, over *value) *value {
	if base == nil || over == nil || base.kind != mapping || over.kind != mapping {
		if over == nil {
			return base
		}
		return over
	}
	out := *over
	out.entries = nil
	for _, e := range base.entries {
		if superseded(e.key, over) {
			continue
		}
		if mine := over.get(e.key); mine != nil {
			continue
		}
		out.entries = append(out.entries, e)
	}
	for _, e := range over.entries {
		if e.key != "match" {
			e.value = merge(base.get(e.key), e.value)
		}
		out.entries = append(out.entries, e)
	}
	return &out
}

func superseded(key string, over *value) bool {
	switch key {
	case "dhcp":
		return over.get("address") != nil && over.get("dhcp") == nil
	case "address", "gateway":
		dhcp := over.get("dhcp")
		return dhcp != nil && dhcp.text == "true" && over.get(key) == nil
	}
	return false
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
