package zookeeper

import (
	"bytes"
	"fmt"
	"path"
	"slices"
)

// View is what this node knows of the masters.
type View struct {
	Generation string // of the cluster's state; empty: not known yet, and nobody is served
	Height     uint64
	Term       uint64
	// Leader is the leader's MasterInfo in JSON; nil: none is known.
	Leader []byte
	// Others are those of the other masters, each at a place that is the same on every node;
	// nil where its address is not known. More than maxOthers are not listed.
	Others [][]byte
	Leads  bool // this node is the leader
}

// maxOthers is how many numbers a term has beside its leader's.
const maxOthers = 7

// base gives the sequence number of a term's leader. Clients read it into 31 bits and
// remember the leader by it, so it must be another one for each leader: 8 bits of the
// height, 20 of the term, 3 for the masters. After 256 births or a million elections it
// comes again, when nobody remembers.
func base(height, term uint64) int32 { return int32(height&0xff)<<23 | int32(term&0xfffff)<<3 }

// ahead reports whether who has seen change a has seen a later term than that of change
// b. The numbers of terms begin again after the last, so half of them are behind.
func ahead(a, b int64) bool {
	const terms = 1 << 28
	distance := (a>>35 - b>>35) & (terms - 1)
	return distance != 0 && distance < terms/2
}

// stat is what is known of a znode beside its data. Changes are named by zxid: the term's
// sequence number in the upper half, a count of this node's own in the lower.
type stat struct {
	created, modified, childrenModified int64 // zxid
	createdMS, modifiedMS               int64 // since 1970
	childrenVersion                     int32
	owner                               int64 // of an ephemeral znode
	length, children                    int32
}

type znode struct {
	stat     stat
	data     []byte
	children []string // names, sorted
}

// tree is all znodes as they are at one moment; it is never changed.
type tree struct {
	view  View
	zxid  int64
	nodes map[string]*znode
}

// serving reports whether this node knows enough to be asked.
func (t *tree) serving() bool { return t.view.Generation != "" }

// next gives the tree that a view makes of this one; root is the group's path. A view of
// an older term of the same generation names no leader: it is not one any more.
func (t *tree) next(v View, root string, nowMS int64) *tree {
	if v.Generation == t.view.Generation && (v.Height < t.view.Height || v.Height == t.view.Height && v.Term < t.view.Term) {
		v.Height, v.Term, v.Leader, v.Others, v.Leads = t.view.Height, t.view.Term, nil, nil, false
	}
	out := &tree{view: v, zxid: int64(base(v.Height, v.Term))<<32 + 1, nodes: map[string]*znode{}}
	if v.Generation == t.view.Generation && out.zxid <= t.zxid {
		out.zxid = t.zxid + 1
	}
	old := t.nodes
	if v.Generation != t.view.Generation {
		old = nil
	}
	number := base(v.Height, v.Term)
	var members []string
	for i, info := range slices.Concat([][]byte{v.Leader}, v.Others[:min(len(v.Others), maxOthers)]) {
		// Without a leader there is no group: the lowest of the others does not lead.
		if info == nil || v.Leader == nil {
			continue
		}
		name := fmt.Sprintf("json.info_%010d", number+int32(i))
		members = append(members, name)
		out.put(old, path.Join(root, name), info, nil, nowMS)
		out.nodes[path.Join(root, name)].stat.owner = int64(number) + int64(i) + 1
	}
	out.put(old, root, nil, members, nowMS)
	for p := root; p != "/"; p = path.Dir(p) {
		out.put(old, path.Dir(p), nil, []string{path.Base(p)}, nowMS)
	}
	return out
}

// put adds a znode: the old one while nothing of it changed.
func (t *tree) put(old map[string]*znode, at string, data []byte, children []string, nowMS int64) {
	was := old[at]
	if was != nil && bytes.Equal(was.data, data) && slices.Equal(was.children, children) {
		n := *was
		t.nodes[at] = &n
		return
	}
	n := &znode{data: data, children: children, stat: stat{
		created: t.zxid, modified: t.zxid, childrenModified: t.zxid, createdMS: nowMS, modifiedMS: nowMS,
	}}
	if was != nil {
		s := was.stat
		n.stat.created, n.stat.createdMS, n.stat.childrenVersion = s.created, s.createdMS, s.childrenVersion
		if bytes.Equal(was.data, data) {
			n.stat.modified, n.stat.modifiedMS = s.modified, s.modifiedMS
		}
		if n.stat.childrenModified = s.childrenModified; !slices.Equal(was.children, children) {
			n.stat.childrenModified = t.zxid
			n.stat.childrenVersion++
		}
	}
	n.stat.length, n.stat.children = int32(len(data)), int32(len(children))
	t.nodes[at] = n
}

// same reports whether nobody could tell the two apart.
func (t *tree) same(o *tree) bool {
	if t.view.Generation != o.view.Generation || t.view.Height != o.view.Height || t.view.Term != o.view.Term || t.view.Leads != o.view.Leads || len(t.nodes) != len(o.nodes) {
		return false
	}
	for p, n := range t.nodes {
		if m := o.nodes[p]; m == nil || !bytes.Equal(n.data, m.data) || !slices.Equal(n.children, m.children) {
			return false
		}
	}
	return true
}

// event is the kind of a change that a watch tells of.
type event int32

const (
	eventCreated  event = 1
	eventDeleted  event = 2
	eventData     event = 3
	eventChildren event = 4
)

// watch is one znode of which a client wants to hear once: of its data and whether it is
// there, or of its children.
type watch struct {
	path     string
	children bool
}

// changed tells what a watch has to tell when one tree follows another; 0: nothing.
func (w watch) changed(before, after *tree) event {
	was, is := before.nodes[w.path], after.nodes[w.path]
	switch {
	case was == nil && is == nil:
		return 0
	case was == nil:
		if w.children {
			return 0
		}
		return eventCreated
	case is == nil:
		return eventDeleted
	case w.children && !slices.Equal(was.children, is.children):
		return eventChildren
	case !w.children && !bytes.Equal(was.data, is.data):
		return eventData
	}
	return 0
}
