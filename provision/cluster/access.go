package cluster

import (
	"github.com/mesolith/mesolith/internal/acl"
	"github.com/mesolith/mesolith/internal/jsontree"
	"github.com/mesolith/mesolith/internal/ratelimit"
)

// Who may do what, and how often: the file holds the same mappings as Mesos' JSON, and they
// are read by those who act on them.

func (d *decoder) acls(v *value, path string) {
	a, bad := acl.Decode(v.tree())
	d.file.API.ACLs = a
	d.within(path, bad)
}

func (d *decoder) rateLimits(v *value, path string) {
	l, bad := ratelimit.Decode(v.tree())
	d.file.API.RateLimits = l
	d.within(path, bad)
}

// within reports what is wrong with a part of the file that somebody else read.
func (d *decoder) within(path string, bad jsontree.Problems) {
	for _, p := range bad {
		d.fail(p.Line, p.Col, "%s: %s", path, p.Text)
	}
}

// tree is a value as its reader wants it.
func (v *value) tree() *jsontree.Node {
	kinds := map[kind]jsontree.Kind{scalar: jsontree.Scalar, list: jsontree.List, mapping: jsontree.Mapping, null: jsontree.Null}
	n := &jsontree.Node{Kind: kinds[v.kind], Text: v.text, Line: v.line, Col: v.col}
	for _, item := range v.items {
		n.Items = append(n.Items, item.tree())
	}
	for _, e := range v.entries {
		n.Entries = append(n.Entries, jsontree.Entry{Key: e.key, Line: e.line, Col: e.col, Value: e.value.tree()})
	}
	return n
}
