package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/mesolith/mesolith/internal/jsontree"
)

// Roles that a node of the file may be pinned to.
const (
	RoleMaster = "master"
	RoleAgent  = "agent" // never a master
)

// maxNodes bounds a file after its ranges are expanded.
const maxNodes = 10_000

// Node is one machine of the file with everything laid over each other.
type Node struct {
	Name     string
	Match    MachineMatch
	Role     string // pinned; empty: automatic
	Region   string // of its own or by its layers; empty: that of the masters
	Zone     string
	Groups   []string
	Settings Settings

	at     *value // its entry in the file
	path   string // nodes[2]
	match  *value
	merged *value // all layers, with the origin of each part
}

// MachineMatch finds a machine at first contact; every field that is set must agree.
type MachineMatch struct {
	MAC, Serial, UUID, Asset, IP, TPM string
}

func (d *decoder) nodeList(v *value, path string) {
	if v.kind != list {
		d.failAt(v, "nodes is %s — it must be a list of machines, each beginning with a dash.", v.kind)
		return
	}
	for i, item := range v.items {
		at := fmt.Sprintf("%s[%d]", path, i)
		if item.kind != mapping {
			d.failAt(item, "%s is %s — write at least mac: or name: of the machine.", at, item.kind)
			continue
		}
		expanded, ok := d.expand(item, at)
		if !ok {
			continue
		}
		for _, one := range expanded {
			if len(d.nodes) >= maxNodes {
				d.failAt(item, "more than %d nodes — that is more than one cluster holds.", maxNodes)
				return
			}
			d.node(one, at)
		}
	}
	if len(v.items) == 0 {
		d.failAt(v, "nodes is empty — a cluster has at least one machine.")
	}
}

func (d *decoder) node(v *value, path string) {
	n := &Node{at: v, path: path}
	table := d.settingFields(&Settings{})
	table["name"] = d.label(&n.Name)
	table["mac"] = d.mac(&n.Match.MAC)
	table["match"] = d.machineMatch(&n.Match)
	table["role"] = d.choice(&n.Role, RoleMaster, RoleAgent)
	table["groups"] = d.texts(&n.Groups)
	before := d.errors
	d.object(v, path, table)
	n.match = v.get("match")
	if short := v.get("mac"); short != nil {
		if n.match != nil && n.match.get("mac") != nil {
			d.failAt(short, "%s has mac: and match: {mac: …} — they say the same; keep one of them.", path)
		}
		n.match = short
	}
	for i, g := range n.Groups {
		if g != "" && d.findGroup(g) == nil {
			at := v.get("groups").items[i]
			hint := "define it under groups:."
			if near := jsontree.Nearest(g, d.groupNames()); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			d.failAt(at, "unknown group %q in %s — %s", g, path, hint)
		}
	}
	if n.Name == "" && v.get("name") == nil {
		if n.Match.MAC == "" {
			if d.errors == before {
				d.failAt(v, "%s has neither name nor mac — one of them must say which machine it is.", path)
			}
			return
		}
		n.Name = "n-" + strings.ReplaceAll(n.Match.MAC, ":", "")
	}
	if n.Name != "" {
		d.nodes = append(d.nodes, n)
	}
}

func (d *decoder) machineMatch(m *MachineMatch) setter {
	return func(v *value, path string) {
		d.object(v, path, fields{
			"mac": d.mac(&m.MAC), "serial": d.machineText(&m.Serial), "uuid": d.machineText(&m.UUID),
			"asset": d.machineText(&m.Asset), "ip": d.address(&m.IP), "tpm": d.text(&m.TPM),
		})
		if v.kind == mapping && len(v.entries) == 0 {
			d.failAt(v, "%s is empty — give one of mac, serial, uuid, asset, ip, tpm.", path)
		}
	}
}

func (d *decoder) machineText(into *string) setter {
	return func(v *value, path string) {
		d.text(into)(v, path)
		if placeholder(*into) {
			d.failAt(v, "%s %q is a vendor placeholder found on many machines — match by mac instead.", path[strings.LastIndex(path, ".")+1:], *into)
			*into = ""
		}
	}
}

// expand makes one entry for each element of the range in a node's name, as w[01-20].
// Ranges in its match and in the addresses of its networks run along with it.
func (d *decoder) expand(v *value, path string) ([]*value, bool) {
	name := v.get("name")
	if name == nil || name.kind != scalar || !strings.Contains(name.text, "[") {
		return []*value{v}, true
	}
	names, err := elements(name.text)
	if err != nil {
		d.failAt(name, "name %.80q of %s — %s.", name.text, path, err)
		return nil, false
	}
	out := make([]*value, len(names))
	for i := range names {
		one, ok := d.element(v, i, len(names), nil)
		if !ok {
			return nil, false
		}
		out[i] = one
	}
	return out, true
}

// element copies a value with the i-th element in place of each range.
func (d *decoder) element(v *value, i, n int, path []string) (*value, bool) {
	c := *v
	if v.kind == scalar && ranged(path) && strings.Contains(v.text, "[") {
		list, err := elements(v.text)
		if err == nil && len(list) != n {
			err = fmt.Errorf("the range has %d elements, the one of name has %d; they run along each other", len(list), n)
		}
		if err != nil {
			d.failAt(v, "%s %.80q — %s.", strings.Join(path, "."), v.text, err)
			return nil, false
		}
		c.text = list[i]
		return &c, true
	}
	c.entries = slices.Clone(v.entries)
	for j, e := range c.entries {
		child, ok := d.element(e.value, i, n, append(slices.Clone(path), e.key))
		if !ok {
			return nil, false
		}
		c.entries[j].value = child
	}
	return &c, true
}

// ranged says where ranges are read: in the name, in what finds a machine or a card, and
// in addresses. Elsewhere brackets are text.
func ranged(path []string) bool {
	last := path[len(path)-1]
	switch {
	case len(path) == 1:
		return last == "name" || last == "mac" || last == "zone" || last == "region"
	case path[0] == "match":
		return true
	case path[0] == "network":
		return last == "address" || len(path) == 4 && path[2] == "match"
	}
	return false
}

// elements expands the one range of a text: 7CE1[01-20]X.
func elements(text string) ([]string, error) {
	open, closed := strings.IndexByte(text, '['), strings.IndexByte(text, ']')
	if open < 0 || closed < open || strings.Count(text, "[") != 1 || strings.Count(text, "]") != 1 {
		return nil, fmt.Errorf("a range is written once, as w[01-20]")
	}
	low, high, ok := strings.Cut(text[open+1:closed], "-")
	a, err1 := strconv.ParseUint(low, 10, 32)
	b, err2 := strconv.ParseUint(high, 10, 32)
	switch {
	case !ok || err1 != nil || err2 != nil:
		return nil, fmt.Errorf("between the brackets stand two numbers, as w[01-20]")
	case a > b:
		return nil, fmt.Errorf("the range goes down from %s to %s; write the smaller number first", low, high)
	case b-a >= maxNodes:
		return nil, fmt.Errorf("the range has %d elements, at most %d are allowed", b-a+1, maxNodes)
	case len(low) > 1 && low[0] == '0' && len(low) != len(high):
		return nil, fmt.Errorf("%s and %s have different widths; write both with the same number of digits", low, high)
	}
	width := 0
	if len(low) == len(high) {
		width = len(low)
	}
	list := make([]string, 0, b-a+1)
	for n := a; n <= b; n++ {
		list = append(list, text[:open]+fmt.Sprintf("%0*d", width, n)+text[closed+1:])
	}
	return list, nil
}

// layers merges what the file says of each node and reads the result.
func (d *decoder) layers(base *value) {
	for _, n := range d.nodes {
		merged := base
		if d.defaults != nil {
			merged = merge(merged, d.defaults.stamp("defaults"))
		}
		for _, g := range d.groups {
			if slices.Contains(n.Groups, g.name) {
				merged = merge(merged, g.settings.stamp("group "+g.name))
			}
		}
		own := *n.at
		own.entries = slices.DeleteFunc(slices.Clone(n.at.entries), func(e entry) bool {
			return slices.Contains([]string{"name", "mac", "match", "role", "groups"}, e.key)
		})
		n.merged = merge(merged, own.stamp("node"))
		d.settings(n.merged, n.path, &n.Settings)
		n.Region, n.Zone = n.Settings.Region, n.Settings.Zone
	}
}

// unique refuses names, MACs and addresses that two nodes claim.
func (d *decoder) unique() {
	type claim struct {
		node *Node
		at   *value
	}
	seen := map[string]claim{}
	check := func(what, text string, n *Node, at *value) {
		if text == "" || at == nil {
			return
		}
		first, twice := seen[what+" "+text]
		if !twice {
			seen[what+" "+text] = claim{n, at}
			return
		}
		if first.node == n {
			return
		}
		d.failAt(first.at, "%s %s is used by nodes %q (%s) and %q (%s) — each must be unique.",
			what, text, first.node.Name, where(first.at), n.Name, where(at))
	}
	names := map[string]*Node{}
	for _, n := range d.nodes {
		if first, twice := names[n.Name]; twice {
			d.failAt(n.at, "node %q is here a second time (first in line %d) — a name is a node's identity.", n.Name, first.at.line)
			continue
		}
		names[n.Name] = n
		check("mac", n.Match.MAC, n, matchPlace(n, "mac"))
		check("serial", n.Match.Serial, n, matchPlace(n, "serial"))
		check("uuid", strings.ToLower(n.Match.UUID), n, matchPlace(n, "uuid"))
		for _, net := range n.Settings.Networks {
			if p, err := netip.ParsePrefix(net.Address); err == nil {
				check("address", p.Addr().String(), n, n.merged.get("network", net.Name, "address"))
			}
			if net.Match.MAC != "" {
				check("mac", net.Match.MAC, n, n.merged.get("network", net.Name, "match", "mac"))
			}
		}
	}
}

func matchPlace(n *Node, key string) *value {
	if n.match == nil || n.match.kind == scalar {
		return n.match
	}
	return n.match.get(key)
}

func itoa(n int) string { return strconv.Itoa(n) }
