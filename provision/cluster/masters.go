package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mesolith/mesolith/internal/nodedoc"
)

// chooseMasters prefers pinned nodes, then those that are masters already, then spreads
// by zone, then takes the lowest name. All are of one region. The result is sorted.
func (d *decoder) chooseMasters(before []string) []string {
	chosen, err := choose(d.nodes, d.file.Masters.Count, before)
	if err != nil {
		at := d.root.get("masters")
		d.failAt(at, "%s.", err)
	}
	return chosen
}

func choose(nodes []*Node, count int, before []string) ([]string, error) {
	var chosen, candidates []*Node
	for _, n := range nodes {
		switch n.Role {
		case RoleMaster:
			chosen = append(chosen, n)
		case "":
			candidates = append(candidates, n)
		}
	}
	if len(chosen) > count {
		return nil, fmt.Errorf("masters: %d — but %d nodes are pinned with role: master; unpin some or raise masters", count, len(chosen))
	}
	if n := len(chosen) + len(candidates); n < count {
		return nil, fmt.Errorf("masters: %d — the file has only %d nodes that may be masters; add nodes or lower masters", count, n)
	}
	region, err := masterRegion(count, chosen, candidates, before)
	if err != nil {
		return nil, err
	}
	near := slices.DeleteFunc(slices.Clone(candidates), func(n *Node) bool { return !n.mayBeIn(region) })
	if n := len(chosen) + len(near); n < count {
		return nil, fmt.Errorf("masters: %d — region %s has only %d nodes that may be masters, and all masters are in one region; add nodes there, lower masters, or pin masters of another region with role: master", count, region, n)
	}
	candidates = near
	for len(chosen) < count {
		best := slices.MinFunc(candidates, func(a, b *Node) int {
			if x, y := slices.Contains(before, a.Name), slices.Contains(before, b.Name); x != y {
				if x {
					return -1
				}
				return 1
			}
			if x, y := inZone(chosen, a.Zone), inZone(chosen, b.Zone); x != y {
				return x - y
			}
			return strings.Compare(a.Name, b.Name)
		})
		chosen = append(chosen, best)
		candidates = slices.DeleteFunc(candidates, func(n *Node) bool { return n == best })
	}
	names := make([]string, len(chosen))
	for i, n := range chosen {
		names[i] = n.Name
	}
	slices.Sort(names)
	return names, nil
}

// mayBeIn says whether a node could stand in a region: one that names none is wherever the
// masters are.
func (n *Node) mayBeIn(region string) bool {
	return n.Region == "" || region == "" || n.Region == region
}

// masterRegion is the region of all masters: of those that are pinned, else of those that are
// masters already, else the one with the most nodes that may be, the lowest name on a tie.
// Empty: no node names one.
func masterRegion(count int, pinned, candidates []*Node, before []string) (string, error) {
	region, first := "", ""
	for _, n := range pinned {
		switch {
		case n.Region == "":
		case region == "":
			region, first = n.Region, n.Name
		case n.Region != region:
			return "", fmt.Errorf("masters: %d — nodes %s (region %s) and %s (region %s) are pinned with role: master, and all masters are in one region, which agents elsewhere are far from; pin nodes of one region", count, first, region, n.Name, n.Region)
		}
	}
	if region != "" {
		return region, nil
	}
	votes := map[string]int{}
	for _, n := range candidates {
		if n.Region == "" {
			continue
		}
		if votes[n.Region]++; slices.Contains(before, n.Name) {
			votes[n.Region] += len(candidates)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(votes)) {
		if region == "" || votes[name] > votes[region] {
			region = name
		}
	}
	return region, nil
}

func inZone(nodes []*Node, zone string) int {
	n := 0
	for _, other := range nodes {
		if other.Zone == zone {
			n++
		}
	}
	return n
}

// nextMasters gives the list that follows the previous document's. The version rises
// with every change, and a change is one name for another.
func (p *Plan) nextMasters(prev *nodedoc.ClusterDocument) (nodedoc.Masters, error) {
	m := nodedoc.Masters{Version: 1, Names: p.Masters, WaitMS: p.File.Masters.Wait.Milliseconds()}
	if prev == nil {
		return m, nil
	}
	names, err := choose(p.Nodes, p.File.Masters.Count, prev.Masters.Names)
	if err != nil {
		return nodedoc.Masters{}, err
	}
	m.Names, m.Version = names, prev.Masters.Version
	added := 0
	for _, n := range names {
		if !prev.Masters.Has(n) {
			added++
		}
	}
	if len(names) != len(prev.Masters.Names) {
		return nodedoc.Masters{}, fmt.Errorf("masters: %d — the running cluster has %d (%s), and their number cannot change while it runs",
			len(names), len(prev.Masters.Names), strings.Join(prev.Masters.Names, ", "))
	}
	switch added {
	case 0:
	case 1:
		m.Version++
	default:
		return nodedoc.Masters{}, fmt.Errorf("masters would change from %s to %s — one name at a time may change, so that a majority always knows both lists",
			strings.Join(prev.Masters.Names, ", "), strings.Join(names, ", "))
	}
	return m, nil
}

// warn says what is allowed and will hurt.
func (d *decoder) warn(masters []string) {
	d.warnZones(masters)
	for _, n := range d.nodes {
		d.warnTime(n)
	}
}

func (d *decoder) warnZones(masters []string) {
	perZone := map[string]int{}
	var zones []string
	for _, n := range d.nodes {
		if !slices.Contains(masters, n.Name) {
			continue
		}
		if n.Zone == "" {
			return // zones are not in use, or not everywhere
		}
		if perZone[n.Zone]++; perZone[n.Zone] == 1 {
			zones = append(zones, n.Zone)
		}
	}
	if len(masters) < 3 {
		return
	}
	slices.Sort(zones)
	quorum := len(masters)/2 + 1
	for _, z := range zones {
		if len(masters)-perZone[z] < quorum {
			d.warnAt(d.root.get("nodes"), "only %d of %d masters can be placed in different zones (%s) — loss of zone %s would lose the quorum.",
				len(zones), len(masters), strings.Join(zones, ", "), z)
			return
		}
	}
}

func (d *decoder) warnTime(n *Node) {
	s := n.Settings
	for _, server := range s.Time.Servers {
		if server != "dhcp" {
			return
		}
	}
	for _, net := range s.Networks {
		if net.DHCP {
			return
		}
	}
	at := n.merged.get("time", "servers")
	if at == nil || at.layer == "built-in" || len(s.Time.Servers) == 0 {
		return
	}
	wait := "30s"
	if w := n.merged.get("time", "wait"); w != nil {
		wait = w.text
	}
	d.warnAt(at, "time.servers: [dhcp] but dhcp: false on every network of %s — %s would start unsynced after %s.", n.Name, n.Name, wait)
}

// apiOpen says when the file opens what is closed by default, or half of it.
func (d *decoder) apiOpen() {
	a := d.file.API
	if a.Plaintext && a.Anonymous == nodedoc.AnonymousFramework {
		if at := d.root.get("api", "plaintext"); at != nil {
			d.warnAt(at, "the API is open: plain HTTP, and who has no credentials may run tasks — right for a test cluster on one machine only.")
		}
	}
	if d.file.ZooKeeper != "" && !a.Plaintext {
		d.warnAt(d.root.get("zookeeper"), "zookeeper: on without api.plaintext — who looks for the leader there speaks plain HTTP to it and is refused; write api: {plaintext: true} or the networks of such clients.")
	}
}
