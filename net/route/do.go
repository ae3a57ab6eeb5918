package route

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/mesolith/mesolith/net/link"
)

// Observe lists the IPv4 default routes of the main table.
func Observe() ([]Route, error) {
	list, err := link.Whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []Route
	for _, r := range list {
		if r.Dst != nil && !isDefault(r.Dst) {
			continue
		}
		gateway, ok := netip.AddrFromSlice(r.Gw)
		if !ok {
			continue
		}
		out = append(out, Route{Link: r.LinkIndex, Gateway: gateway.Unmap(), Metric: r.Priority})
	}
	return out, nil
}

// Do carries out one step; a step that is done already is no error.
func Do(s Step) error {
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	r := &netlink.Route{
		LinkIndex: s.Route.Link, Dst: all, Gw: s.Route.Gateway.AsSlice(), Priority: s.Route.Metric,
		Flags: int(netlink.FLAG_ONLINK), // a gateway outside the prefix is the operator's word
	}
	var err error
	if s.Remove {
		r.Flags = 0
		err = netlink.RouteDel(r)
		if errors.Is(err, syscall.ESRCH) {
			err = nil
		}
	} else {
		err = netlink.RouteReplace(r)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	return nil
}

func isDefault(n *net.IPNet) bool {
	ones, _ := n.Mask.Size()
	return ones == 0 && n.IP.IsUnspecified()
}
