// Package route keeps a node's default route: it observes the default routes of the
// main table, plans what must change and does it.
//
// Invariant: after the steps of a plan there is, per card, the one default route that was
// wanted with its metric, and no other; routes that are not default routes, and those of
// other cards, are left alone (net/cni and net/mesh have their own).
//
// Which gateway is wanted is decided by the node document or by a DHCP lease.
package route

import (
	"fmt"
	"net/netip"
)

// Route is one IPv4 default route of the main table.
type Route struct {
	Link    int // the card's index
	Gateway netip.Addr
	Metric  int
}

// Step adds or removes one default route.
type Step struct {
	Remove bool
	Route  Route
}

// String prints a step.
func (s Step) String() string {
	verb := "add"
	if s.Remove {
		verb = "remove"
	}
	return fmt.Sprintf("%s default route by %s on card %d (metric %d)", verb, s.Route.Gateway, s.Route.Link, s.Route.Metric)
}

// Plan gives the steps to the wanted default route of one card; one with an invalid
// gateway means none. The new route is added before the old one goes.
func Plan(want Route, have []Route) []Step {
	var steps []Step
	there := false
	for _, r := range have {
		if r == want {
			there = true
		}
	}
	if want.Gateway.IsValid() && !there {
		steps = append(steps, Step{Route: want})
	}
	for _, r := range have {
		if r.Link == want.Link && r != want {
			steps = append(steps, Step{Remove: true, Route: r})
		}
	}
	return steps
}
