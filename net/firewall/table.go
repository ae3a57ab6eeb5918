package firewall

import (
	"fmt"
	"net/netip"
	"strings"
)

// Protocol is a transport protocol.
type Protocol uint8

// The protocols that have ports.
const (
	AnyProtocol Protocol = iota
	TCP
	UDP
)

// String is nft's word for it.
func (p Protocol) String() string { return [...]string{"any", "tcp", "udp"}[p] }

// Kind is the type of a chain, Hook its place, Verdict what a rule does.
type (
	Kind    string
	Hook    string
	Verdict string
)

// What chains and rules are made of.
const (
	Filter Kind = "filter"
	NAT    Kind = "nat"

	Prerouting  Hook = "prerouting"
	Input       Hook = "input"
	Forward     Hook = "forward"
	Output      Hook = "output"
	Postrouting Hook = "postrouting"

	Drop       Verdict = "drop"
	NoTrack    Verdict = "notrack"
	Masquerade Verdict = "masquerade"
	Translate  Verdict = "dnat"
)

// Table is a whole table.
type Table struct{ Chains []Chain }

// Chain is one base chain; what no rule says is accepted.
type Chain struct {
	Name     string
	Kind     Kind
	Hook     Hook
	Priority int32
	Rules    []Rule
}

// Name is a condition on an interface's name; the zero value holds for all.
type Name struct {
	name string
	not  bool
}

// Is holds for one interface, Not for all others.
func Is(name string) Name  { return Name{name: name} }
func Not(name string) Name { return Name{name: name, not: true} }

// Net is a condition on an IPv4 address; the zero value holds for all packets, any other
// for IPv4 packets only.
type Net struct {
	prefix netip.Prefix
	not    bool
}

// Inside holds for addresses of the network, Outside for all others.
func Inside(p netip.Prefix) Net  { return Net{prefix: p.Masked()} }
func Outside(p netip.Prefix) Net { return Net{prefix: p.Masked(), not: true} }

// Ports is a range of port numbers, both ends in it; the zero value is no condition.
type Ports struct{ Begin, End uint16 }

// Rule holds when all its conditions do.
type Rule struct {
	In, Out             Name
	Source, Destination Net
	Local               bool // the destination is an address of this node
	Translated          bool // the destination was rewritten by a rule
	Protocol            Protocol
	From, To            Ports // source and destination ports
	Do                  Verdict
	Address             netip.Addr // of Translate
	Port                uint16     // of Translate; 0 leaves it as it is
}

// String prints the table in nft's language.
func (t Table) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", TableName)
	for _, c := range t.Chains {
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype %s hook %s priority %d; policy accept;\n", c.Name, c.Kind, c.Hook, c.Priority)
		for _, r := range c.Rules {
			fmt.Fprintf(&b, "\t\t%s\n", r)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// String prints the rule in nft's language.
func (r Rule) String() string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	sign := func(not bool) string {
		if not {
			return "!= "
		}
		return ""
	}
	if r.In.name != "" {
		add("iifname %s%q", sign(r.In.not), r.In.name)
	}
	if r.Out.name != "" {
		add("oifname %s%q", sign(r.Out.not), r.Out.name)
	}
	if r.Source.prefix.IsValid() {
		add("ip saddr %s%s", sign(r.Source.not), r.Source.prefix)
	}
	if r.Destination.prefix.IsValid() {
		add("ip daddr %s%s", sign(r.Destination.not), r.Destination.prefix)
	}
	if r.Local {
		add("fib daddr type local")
	}
	if r.Translated {
		add("ct status dnat")
	}
	if r.From.End != 0 {
		add("%s sport %s", r.Protocol, r.From)
	}
	if r.To.End != 0 {
		add("%s dport %s", r.Protocol, r.To)
	}
	switch {
	case r.Do == Translate && r.Port != 0:
		add("dnat ip to %s", netip.AddrPortFrom(r.Address, r.Port))
	case r.Do == Translate:
		add("dnat ip to %s", r.Address)
	default:
		add("%s", r.Do)
	}
	return strings.Join(parts, " ")
}

// String prints the range in nft's language.
func (p Ports) String() string {
	if p.Begin == p.End {
		return fmt.Sprint(p.Begin)
	}
	return fmt.Sprintf("%d-%d", p.Begin, p.End)
}
