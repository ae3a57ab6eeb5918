// Package firewall keeps a node's one nftables table, "mesolith": the ports of tasks on
// the node's addresses, masquerading of what leaves the task networks, and the doors
// that tasks must find shut.
//
// Plan is pure: from the node's task network and the ports mapped into it, it describes
// the whole table, and String prints that in nft's own language. Replace puts a table in
// place through netlink in one transaction: the kernel goes from the old table to the
// new one without a moment in between, and a table that it refuses leaves the old one
// untouched. Forget drops the connection tracking entries that would lead old UDP flows
// past new rules.
//
// Invariant: what the kernel has is what one Plan described, never a mixture. Other
// tables are not touched. Which ports are whose is decided by net/cni; that no two tasks
// have the same port is the scheduler's promise, and Plan refuses a table where it is
// broken.
package firewall

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// TableName is the name of the table, of family inet.
const TableName = "mesolith"

// Ports of the node's own programs. Node to node traffic, node API and beacon are never
// a task's business; the first two belong to the APIs, which tasks may call.
const (
	ownFirst    = 5050
	closedFirst = 5052
	ownLast     = 5054
)

// maxMappings bounds the table: four rules each, and a node has 65,536 ports.
const maxMappings = 16384

// ErrPort tells that a mapping cannot be part of a table.
var ErrPort = errors.New("port cannot be mapped")

// Mapping leads a range of the node's ports to a task's address.
type Mapping struct {
	Protocol  Protocol // AnyProtocol: TCP and UDP
	Begin     uint16   // first port on the node
	End       uint16   // last port on the node
	Container uint16   // port in the task that Begin leads to; the others follow
	Address   netip.Addr
}

// Settings is everything the table depends on.
type Settings struct {
	Pool     netip.Prefix // all task networks of the cluster
	Subnet   netip.Prefix // this node's
	Bridge   string       // the interface all tasks of this node are behind
	Mappings []Mapping

	// Provisioning are the addresses where a provisioning server hands out nodes'
	// documents over HTTP; its DHCP and TFTP ports are closed to tasks wherever it is.
	Provisioning []netip.AddrPort
}

// Plan describes the table.
func Plan(s Settings) (Table, error) {
	if err := s.check(); err != nil {
		return Table{}, err
	}
	return Table{Chains: []Chain{
		{Name: "raw-in", Kind: Filter, Hook: Prerouting, Priority: -300, Rules: s.rawIn()},
		{Name: "raw-out", Kind: Filter, Hook: Output, Priority: -300, Rules: s.rawOut()},
		{Name: "input", Kind: Filter, Hook: Input, Rules: s.input()},
		{Name: "forward", Kind: Filter, Hook: Forward, Rules: s.forward()},
		{Name: "ports-in", Kind: NAT, Hook: Prerouting, Priority: -100, Rules: s.ports()},
		{Name: "ports-out", Kind: NAT, Hook: Output, Priority: -100, Rules: s.ports()},
		{Name: "leave", Kind: NAT, Hook: Postrouting, Priority: 100, Rules: s.leave()},
	}}, nil
}

func (s Settings) check() error {
	if !s.Pool.IsValid() || !s.Subnet.IsValid() || !s.Pool.Addr().Is4() || !s.Subnet.Addr().Is4() {
		return fmt.Errorf("task network %s in pool %s: both must be IPv4 networks", s.Subnet, s.Pool)
	}
	if !s.Pool.Overlaps(s.Subnet) || s.Subnet.Bits() < s.Pool.Bits() {
		return fmt.Errorf("task network %s is not inside the pool %s", s.Subnet, s.Pool)
	}
	if s.Bridge == "" || len(s.Bridge) > 15 {
		return fmt.Errorf("bridge %q: an interface's name has 1 to 15 characters", s.Bridge)
	}
	for _, at := range s.Provisioning {
		if !at.Addr().Is4() || at.Port() == 0 {
			return fmt.Errorf("provisioning service %s: must be an IPv4 address and a port", at)
		}
	}
	if len(s.Mappings) > maxMappings {
		return fmt.Errorf("%d port mappings: at most %d on one node: %w", len(s.Mappings), maxMappings, ErrPort)
	}
	for _, m := range s.Mappings {
		if err := m.check(s.Subnet); err != nil {
			return err
		}
	}
	return distinct(s.Mappings)
}

// check tells whether a mapping could be part of a table of this network.
func (m Mapping) check(subnet netip.Prefix) error {
	switch {
	case m.Begin == 0 || m.End < m.Begin:
		return fmt.Errorf("ports %d-%d: not a range: %w", m.Begin, m.End, ErrPort)
	case m.Begin <= ownLast && m.End >= ownFirst:
		return fmt.Errorf("ports %d-%d: %d to %d are the node's own; take them out of the agent's ports resource: %w", m.Begin, m.End, ownFirst, ownLast, ErrPort)
	case m.Container == 0 || int(m.Container)+int(m.End-m.Begin) > 65535:
		return fmt.Errorf("ports %d-%d: they do not fit behind port %d of the task: %w", m.Begin, m.End, m.Container, ErrPort)
	case m.Protocol > UDP:
		return fmt.Errorf("ports %d-%d: protocol %d is unknown: %w", m.Begin, m.End, m.Protocol, ErrPort)
	case !subnet.Contains(m.Address):
		return fmt.Errorf("ports %d-%d lead to %s, which is not in %s: %w", m.Begin, m.End, m.Address, subnet, ErrPort)
	}
	return nil
}

// distinct refuses two mappings of one port.
func distinct(list []Mapping) error {
	for _, protocol := range []Protocol{TCP, UDP} {
		var of []Mapping
		for _, m := range list {
			if m.Protocol == AnyProtocol || m.Protocol == protocol {
				of = append(of, m)
			}
		}
		slices.SortFunc(of, func(a, b Mapping) int { return cmp.Compare(a.Begin, b.Begin) })
		for i := 1; i < len(of); i++ {
			if of[i].Begin <= of[i-1].End {
				return fmt.Errorf("port %d/%s leads to %s already and cannot lead to %s too: %w", of[i].Begin, protocol, of[i-1].Address, of[i].Address, ErrPort)
			}
		}
	}
	return nil
}

// rawIn comes before connection tracking. Packets between the node's own programs are
// not tracked, nor are those between them and whoever calls their APIs, so that a flood of
// connections that fills the table cannot stop Raft or silence the node. (What the node
// calls is tracked: answers from another node's APIs may be a task's.) A task's packet with a foreign source address, or to the node's loopback (which
// route_localnet would let in), goes no further.
func (s Settings) rawIn() []Rule {
	rules := []Rule{
		{In: Is(s.Bridge), Source: Outside(s.Subnet), Do: Drop},
		{In: Is(s.Bridge), Destination: Inside(loopback), Do: Drop},
	}
	for _, p := range []Protocol{TCP, UDP} {
		rules = append(rules,
			Rule{In: Not(s.Bridge), Local: true, Protocol: p, To: Ports{ownFirst, ownLast}, Do: NoTrack},
			Rule{In: Not(s.Bridge), Local: true, Protocol: p, From: Ports{closedFirst, ownLast}, Do: NoTrack})
	}
	return rules
}

func (s Settings) rawOut() []Rule {
	var rules []Rule
	for _, p := range []Protocol{TCP, UDP} {
		rules = append(rules,
			Rule{Out: Not(s.Bridge), Protocol: p, To: Ports{closedFirst, ownLast}, Do: NoTrack},
			Rule{Out: Not(s.Bridge), Protocol: p, From: Ports{ownFirst, ownLast}, Do: NoTrack})
	}
	return rules
}

// closed are the services no task may speak to, whoever offers them: node to node, node
// API, beacon; DHCP, TFTP and the PXE server.
var closed = []struct {
	protocol Protocol
	ports    Ports
}{
	{TCP, Ports{closedFirst, ownLast}},
	{UDP, Ports{closedFirst, ownLast}},
	{UDP, Ports{67, 67}},
	{UDP, Ports{69, 69}},
	{UDP, Ports{4011, 4011}},
}

// input shuts the node's own doors to its tasks (by either family: a bridge has
// link-local addresses too) and to other nodes' tasks.
func (s Settings) input() []Rule {
	var rules []Rule
	for _, c := range closed {
		rules = append(rules,
			Rule{In: Is(s.Bridge), Protocol: c.protocol, To: c.ports, Do: Drop},
			Rule{In: Not("lo"), Source: Inside(s.Pool), Protocol: c.protocol, To: c.ports, Do: Drop})
	}
	return append(rules, s.provisioning()...)
}

func (s Settings) provisioning() []Rule {
	var rules []Rule
	for _, at := range s.Provisioning {
		host := netip.PrefixFrom(at.Addr(), at.Addr().BitLen())
		rules = append(rules, Rule{In: Is(s.Bridge), Destination: Inside(host), Protocol: TCP, To: Ports{at.Port(), at.Port()}, Do: Drop})
	}
	return rules
}

// forward shuts other nodes' doors: past this node, a task's packet would carry the
// node's address. Tasks among themselves may use any port.
func (s Settings) forward() []Rule {
	var rules []Rule
	for _, c := range closed {
		rules = append(rules, Rule{In: Is(s.Bridge), Destination: Outside(s.Pool), Protocol: c.protocol, To: c.ports, Do: Drop})
	}
	return append(rules, s.provisioning()...)
}

// ports is the same before routing and for the node's own programs: a mapped port is
// the task's on every address of the node.
func (s Settings) ports() []Rule {
	var rules []Rule
	for _, m := range s.sorted() {
		for _, p := range []Protocol{TCP, UDP} {
			if m.Protocol == AnyProtocol || m.Protocol == p {
				rules = append(rules, m.rules(p)...)
			}
		}
	}
	return rules
}

// rules is one rule when numbers stay what they are, else one for each port.
func (m Mapping) rules(p Protocol) []Rule {
	if m.Begin == m.Container {
		return []Rule{{Local: true, Protocol: p, To: Ports{m.Begin, m.End}, Do: Translate, Address: m.Address}}
	}
	var rules []Rule
	for i := 0; i <= int(m.End-m.Begin); i++ {
		port := m.Begin + uint16(i)
		rules = append(rules, Rule{Local: true, Protocol: p, To: Ports{port, port}, Do: Translate, Address: m.Address, Port: m.Container + uint16(i)})
	}
	return rules
}

func (s Settings) sorted() []Mapping {
	list := slices.Clone(s.Mappings)
	slices.SortFunc(list, func(a, b Mapping) int {
		return cmp.Or(cmp.Compare(a.Begin, b.Begin), cmp.Compare(a.Protocol, b.Protocol))
	})
	return list
}

// leave is where sources are rewritten: a task that called itself or a neighbour by the
// node's address (the answer must come back this way), the node's own programs by its
// loopback, and whatever leaves the pool. Traffic between tasks keeps its addresses.
func (s Settings) leave() []Rule {
	return []Rule{
		{Out: Is(s.Bridge), Source: Inside(s.Subnet), Translated: true, Do: Masquerade},
		{Out: Is(s.Bridge), Source: Inside(loopback), Do: Masquerade},
		{Out: Not(s.Bridge), Source: Inside(s.Subnet), Destination: Outside(s.Pool), Do: Masquerade},
	}
}

var loopback = netip.MustParsePrefix("127.0.0.0/8")
