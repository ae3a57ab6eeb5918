package cluster

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Plan is a cluster file that may be used: what each node gets, and why.
type Plan struct {
	File     File
	Text     string  // the file as written
	Nodes    []*Node // in the file's order
	Masters  []string
	Warnings []Problem
}

// Parse reads a cluster file. The name is only for messages. The error is of type
// Problems when the file is at fault.
func Parse(name string, text []byte) (*Plan, error) {
	d := &decoder{report: &report{file: name}, file: defaultFile()}
	d.root = parseTree(d.report, text)
	if d.root == nil || d.errors > 0 {
		errs, _ := d.split()
		return nil, errs
	}
	d.top()
	d.apiOpen()
	base, err := builtInTree()
	if err != nil {
		return nil, err
	}
	d.layers(base)
	d.unique()
	p := &Plan{Text: string(text), Nodes: d.nodes}
	if d.errors == 0 {
		p.Masters = d.chooseMasters(nil)
		d.warn(p.Masters)
	}
	errs, warnings := d.split()
	if d.errors > 0 {
		return nil, errs
	}
	p.File, p.Warnings = d.file, warnings
	return p, nil
}

func builtInTree() (*value, error) {
	r := &report{file: "built-in"}
	base := parseTree(r, []byte(builtIn))
	if base == nil || r.errors > 0 {
		errs, _ := r.split()
		return nil, fmt.Errorf("read the built-in defaults: %w", errs)
	}
	return base.stamp("built-in"), nil
}

// Node gives a node by name, or nil.
func (p *Plan) Node(name string) *Node {
	for _, n := range p.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Names gives the names of all nodes in the file's order.
func (p *Plan) Names() []string {
	names := make([]string, len(p.Nodes))
	for i, n := range p.Nodes {
		names[i] = n.Name
	}
	return names
}

// Value is one setting of a node with its origin.
type Value struct {
	Path   string `json:"path"`
	Text   string `json:"value"`
	Origin string `json:"origin"` // built-in; defaults, line 12; group gpu, line 30; node, line 44
}

// Values gives all settings of a node, in the order of their layers.
func (n *Node) Values() []Value { return appendValues(nil, "", n.merged) }

func appendValues(out []Value, path string, v *value) []Value {
	if v.kind == mapping {
		for _, e := range v.entries {
			out = appendValues(out, join(path, e.key), e.value)
		}
		return out
	}
	origin := v.layer
	if origin != "built-in" {
		origin = fmt.Sprintf("%s, line %d", v.layer, v.line)
	}
	return append(out, Value{Path: path, Text: display(v), Origin: origin})
}

func display(v *value) string {
	if v.kind != list {
		return v.text
	}
	parts := make([]string, len(v.items))
	for i, item := range v.items {
		parts[i] = display(item)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// Print writes what each node gets, one setting a line with its origin.
func (p *Plan) Print(w io.Writer) error {
	var b strings.Builder
	count := fmt.Sprintf("%d nodes", len(p.Nodes))
	if len(p.Nodes) == 1 {
		count = "1 node"
	}
	fmt.Fprintf(&b, "cluster %s: %s, masters %s\n", p.File.Cluster, count, strings.Join(p.Masters, ", "))
	for _, n := range p.Nodes {
		roles := "agent"
		if slices.Contains(p.Masters, n.Name) {
			roles = "agent and master"
		}
		fmt.Fprintf(&b, "\n%s (%s", n.Name, roles)
		if n.Region != "" {
			fmt.Fprintf(&b, ", region %s", n.Region)
		}
		if n.Zone != "" {
			fmt.Fprintf(&b, ", zone %s", n.Zone)
		}
		b.WriteString(")\n")
		for _, v := range n.Values() {
			fmt.Fprintf(&b, "  %-28s %-36s %s\n", v.Path, v.Text, v.Origin)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
