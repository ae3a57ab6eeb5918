package cni

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// node is what of this node's own network concerns tasks.
type node struct {
	bridge    bool // there is one
	up        bool
	mtu       int
	mac       string
	addresses []netip.Prefix    // of the bridge
	routes    []Route           // ours, known by their protocol number
	sysctls   map[string]string // those in the plan; one that this kernel lacks is absent
}

// sysctls are the kernel's switches. Forwarding is the node's work as a router;
// route_localnet lets its own programs reach mapped ports by 127.0.0.1 (the firewall
// keeps tasks away from there); bridged packets must not pass the IP rules twice; the
// bridge speaks no IPv6, in which task networks have no addresses.
var sysctls = []struct{ key, value string }{
	{"net/ipv4/ip_forward", "1"},
	{"net/bridge/bridge-nf-call-iptables", "0"},
	{"net/ipv4/conf/" + Bridge + "/route_localnet", "1"},
	{"net/ipv6/conf/" + Bridge + "/disable_ipv6", "1"},
}

// deed is one step of making the node's network so.
type deed struct {
	verb   string
	prefix netip.Prefix
	route  Route
	mtu    int
	key    string
	value  string
}

const (
	verbBridge        = "create bridge"
	verbMTU           = "set MTU"
	verbMAC           = "set hardware address"
	verbUp            = "set up"
	verbAddress       = "add address"
	verbRemoveAddress = "remove address"
	verbSysctl        = "set sysctl"
	verbRoute         = "set route"
	verbRemoveRoute   = "remove route"
)

// String prints the deed.
func (d deed) String() string {
	switch d.verb {
	case verbBridge, verbUp:
		return d.verb + " " + Bridge
	case verbMTU:
		return fmt.Sprintf("%s of %s to %d", d.verb, Bridge, d.mtu)
	case verbMAC:
		return fmt.Sprintf("%s of %s to %s", d.verb, Bridge, d.value)
	case verbAddress, verbRemoveAddress:
		return fmt.Sprintf("%s %s on %s", d.verb, d.prefix, Bridge)
	case verbSysctl:
		return fmt.Sprintf("%s %s to %s", d.verb, d.key, d.value)
	default:
		if !d.route.Via.IsValid() {
			return fmt.Sprintf("%s to %s: unreachable", d.verb, d.route.Subnet)
		}
		return fmt.Sprintf("%s to %s by %s", d.verb, d.route.Subnet, d.route.Via)
	}
}

// hardwareAddress is the bridge's own, made of its IPv4 address: left to the kernel it
// would change with the ports, and tasks would send to an address that is gone.
func hardwareAddress(s Settings) net.HardwareAddr {
	a := gateway(s.Subnet).As4()
	return net.HardwareAddr{0x02, 0x6d, a[0], a[1], a[2], a[3]}
}

// planNode gives the steps from what is to what the settings say.
func planNode(s Settings, have node) []deed {
	var steps []deed
	if !have.bridge {
		steps = append(steps, deed{verb: verbBridge})
	}
	if mac := hardwareAddress(s).String(); have.mac != mac {
		steps = append(steps, deed{verb: verbMAC, value: mac})
	}
	if have.mtu != s.mtu() {
		steps = append(steps, deed{verb: verbMTU, mtu: s.mtu()})
	}
	for _, c := range sysctls {
		// What a bridge has is there as soon as the bridge is.
		if value, known := have.sysctls[c.key]; (known || !have.bridge) && value != c.value {
			steps = append(steps, deed{verb: verbSysctl, key: c.key, value: c.value})
		}
	}
	own := netip.PrefixFrom(gateway(s.Subnet), s.Subnet.Bits())
	if !slices.Contains(have.addresses, own) {
		steps = append(steps, deed{verb: verbAddress, prefix: own})
	}
	for _, p := range have.addresses {
		if p != own {
			steps = append(steps, deed{verb: verbRemoveAddress, prefix: p})
		}
	}
	if !have.up {
		steps = append(steps, deed{verb: verbUp})
	}
	return append(steps, planRoutes(s, have.routes)...)
}

// planRoutes gives the steps to the wanted routes. What of the pool belongs to no node
// is unreachable, so that it does not wander off by the default route.
func planRoutes(s Settings, have []Route) []deed {
	want := map[netip.Prefix]Route{s.Pool.Masked(): {Subnet: s.Pool.Masked()}}
	for _, r := range s.Routes {
		if r.Subnet.Masked() != s.Subnet.Masked() {
			want[r.Subnet.Masked()] = Route{Subnet: r.Subnet.Masked(), Via: r.Via}
		}
	}
	if s.Pool.Masked() == s.Subnet.Masked() {
		delete(want, s.Pool.Masked())
	}
	var steps []deed
	for _, r := range have {
		w, wanted := want[r.Subnet]
		switch {
		case !wanted:
			steps = append(steps, deed{verb: verbRemoveRoute, route: r})
		case w == r:
			delete(want, r.Subnet)
		case w.Via.IsValid() != r.Via.IsValid(): // another type: not replaced, but added beside
			steps = append(steps, deed{verb: verbRemoveRoute, route: r})
		}
	}
	added := make([]Route, 0, len(want))
	for _, r := range want {
		added = append(added, r)
	}
	slices.SortFunc(added, func(a, b Route) int {
		if c := a.Subnet.Addr().Compare(b.Subnet.Addr()); c != 0 {
			return c
		}
		return a.Subnet.Bits() - b.Subnet.Bits()
	})
	for _, r := range added {
		steps = append(steps, deed{verb: verbRoute, route: r})
	}
	return steps
}
