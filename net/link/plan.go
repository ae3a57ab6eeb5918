// Package link gives a node's network cards their addresses: it observes the cards that
// the kernel has, chooses the card that a network of the node document means, plans what
// must change and does it.
//
// Invariant: Plan is pure and complete: doing its steps and observing again gives a plan
// without steps. Only addresses that this package gave (label-free, scope global, IPv4)
// are taken away again, and only on the card that the plan is for; cards that no network
// names are left alone.
//
// Routes are net/route's part, leases net/dhcp's; who may have which address is decided
// by the node document.
package link

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Link is one network card as the kernel shows it.
type Link struct {
	Index     int
	Name      string
	MAC       string // lower case, with colons
	Driver    string
	PCI       string // address on the bus, such as 0000:00:03.0; empty elsewhere
	Up        bool   // administratively
	Carrier   bool
	Loopback  bool
	Physical  bool // backed by a device, so not a bridge, veth or tunnel
	MTU       int
	SpeedMbps uint64 // 0: unknown
	Addresses []netip.Prefix
}

// Match says which card a network means; every field that is set must agree.
type Match struct {
	MAC    string
	Driver string
	AnyUp  bool // the first with carrier
}

// Choose gives the card that a match means. Cards in taken belong to other networks.
// With AnyUp a card without carrier is not chosen. The answer of two equal cards is the
// one with the lower index, so that it is the same each time.
func Choose(m Match, have []Link, taken map[int]bool) (Link, error) {
	cards := slices.Clone(have)
	slices.SortFunc(cards, func(a, b Link) int { return a.Index - b.Index })
	var silent []string
	for _, l := range cards {
		if !l.Physical || taken[l.Index] || !m.fits(l) {
			continue
		}
		if m.AnyUp && !l.Carrier {
			silent = append(silent, l.Name)
			continue
		}
		return l, nil
	}
	if len(silent) > 0 {
		return Link{}, fmt.Errorf("no carrier on %s (is the cable in?)", strings.Join(silent, ", "))
	}
	return Link{}, fmt.Errorf("no card with %s among %s", m, describe(cards))
}

func (m Match) fits(l Link) bool {
	return (m.MAC == "" || strings.EqualFold(m.MAC, l.MAC)) && (m.Driver == "" || m.Driver == l.Driver)
}

// Candidates gives the cards that must be up before Choose can see their carrier.
func Candidates(m Match, have []Link) []Link {
	var out []Link
	for _, l := range have {
		if l.Physical && m.fits(l) {
			out = append(out, l)
		}
	}
	return out
}

// String says what a match looks for, as messages quote it.
func (m Match) String() string {
	var parts []string
	if m.MAC != "" {
		parts = append(parts, "mac "+m.MAC)
	}
	if m.Driver != "" {
		parts = append(parts, "driver "+m.Driver)
	}
	if m.AnyUp {
		parts = append(parts, "carrier")
	}
	if len(parts) == 0 {
		return "any name"
	}
	return strings.Join(parts, " and ")
}

func describe(cards []Link) string {
	var parts []string
	for _, l := range cards {
		if l.Physical {
			parts = append(parts, fmt.Sprintf("%s (mac %s, driver %s)", l.Name, l.MAC, l.Driver))
		}
	}
	if len(parts) == 0 {
		return "none at all: the machine shows no network card, or its driver is not in the image"
	}
	return strings.Join(parts, ", ")
}

// Want is what one card shall be.
type Want struct {
	Index   int
	Address netip.Prefix // invalid: none yet, but up
	MTU     int          // 0: leave the driver's
}

// Kind is what a step does.
type Kind uint8

// Kinds of steps.
const (
	SetMTU        Kind = iota + 1 // Step.MTU
	SetUp                         // bring the card up
	AddAddress                    // Step.Address
	RemoveAddress                 // Step.Address
)

// Step is one change of one card.
type Step struct {
	Kind    Kind
	Index   int
	Name    string // for people
	Address netip.Prefix
	MTU     int
}

// String prints a step.
func (s Step) String() string {
	switch s.Kind {
	case SetMTU:
		return fmt.Sprintf("set mtu %d on %s", s.MTU, s.Name)
	case SetUp:
		return "bring up " + s.Name
	case AddAddress:
		return fmt.Sprintf("add %s to %s", s.Address, s.Name)
	case RemoveAddress:
		return fmt.Sprintf("remove %s from %s", s.Address, s.Name)
	}
	return fmt.Sprintf("unknown step %d on %s", s.Kind, s.Name)
}

// Plan gives the steps from what is to what one card shall be. The new address comes
// before old ones go, so that a change leaves no moment without any.
func Plan(want Want, have []Link) ([]Step, error) {
	at := slices.IndexFunc(have, func(l Link) bool { return l.Index == want.Index })
	if at < 0 {
		return nil, fmt.Errorf("plan card %d: it is gone", want.Index)
	}
	l := have[at]
	var steps []Step
	if want.MTU != 0 && want.MTU != l.MTU {
		steps = append(steps, Step{Kind: SetMTU, Index: l.Index, Name: l.Name, MTU: want.MTU})
	}
	if !l.Up {
		steps = append(steps, Step{Kind: SetUp, Index: l.Index, Name: l.Name})
	}
	if !want.Address.IsValid() {
		return steps, nil
	}
	if !slices.Contains(l.Addresses, want.Address) {
		steps = append(steps, Step{Kind: AddAddress, Index: l.Index, Name: l.Name, Address: want.Address})
	}
	for _, a := range l.Addresses {
		if a != want.Address && a.Addr().Is4() && !a.Addr().IsLinkLocalUnicast() && !a.Addr().IsLoopback() {
			steps = append(steps, Step{Kind: RemoveAddress, Index: l.Index, Name: l.Name, Address: a})
		}
	}
	return steps, nil
}

// PlanLoopback gives the steps that make the loopback work.
func PlanLoopback(have []Link) []Step {
	for _, l := range have {
		if l.Loopback && !l.Up {
			return []Step{{Kind: SetUp, Index: l.Index, Name: l.Name}}
		}
	}
	return nil
}
