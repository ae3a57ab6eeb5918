package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	kernel "github.com/mesolith/mesolith/net/link"
)

// routeProtocol marks our routes in the kernel's table, so that those of others are
// never taken for ours.
const routeProtocol = 77

// unreachableMetric puts the pool's unreachable route behind any other.
const unreachableMetric = 4096

// observeNode reads what is.
func observeNode() (node, error) {
	have := node{sysctls: map[string]string{}}
	for _, c := range sysctls {
		raw, err := os.ReadFile(filepath.Join("/proc/sys", c.key))
		if err == nil {
			have.sysctls[c.key] = strings.TrimSpace(string(raw))
		} else if !errors.Is(err, os.ErrNotExist) {
			return node{}, fmt.Errorf("read sysctl %s: %w", c.key, err)
		}
	}
	routes, err := kernel.Whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return node{}, fmt.Errorf("list routes to task networks: %w", err)
	}
	for _, r := range routes {
		have.routes = append(have.routes, routeOf(r))
	}
	link, err := netlink.LinkByName(Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return have, nil
	}
	if err != nil {
		return node{}, fmt.Errorf("look at %s: %w", Bridge, err)
	}
	if _, ok := link.(*netlink.Bridge); !ok {
		return node{}, fmt.Errorf("interface %s is a %s and not a bridge; rename it: the tasks' bridge needs the name", Bridge, link.Type())
	}
	a := link.Attrs()
	have.bridge, have.up, have.mtu, have.mac = true, a.Flags&net.FlagUp != 0, a.MTU, a.HardwareAddr.String()
	addresses, err := kernel.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return node{}, fmt.Errorf("list addresses of %s: %w", Bridge, err)
	}
	for _, address := range addresses {
		have.addresses = append(have.addresses, prefixOf(address.IPNet))
	}
	return have, nil
}

func routeOf(r netlink.Route) Route {
	out := Route{Subnet: prefixOf(r.Dst)}
	if via, ok := netip.AddrFromSlice(r.Gw); ok {
		out.Via = via.Unmap()
	}
	return out
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	address, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(address.Unmap(), ones)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// do carries out one deed; one that is done already is no error.
func (d deed) do() error {
	var err error
	switch d.verb {
	case verbSysctl:
		err = os.WriteFile(filepath.Join("/proc/sys", d.key), []byte(d.value), 0)
		err = unless(err, os.ErrNotExist) // a switch this kernel does not have
	case verbBridge:
		err = unless(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: Bridge, TxQLen: -1}}), syscall.EEXIST)
	case verbRoute:
		err = netlink.RouteReplace(d.kernelRoute())
	case verbRemoveRoute:
		err = unless(netlink.RouteDel(d.kernelRoute()), syscall.ESRCH)
	default:
		err = d.onBridge()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", d, err)
	}
	return nil
}

func (d deed) kernelRoute() *netlink.Route {
	r := &netlink.Route{Dst: ipNet(d.route.Subnet), Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN}
	if d.route.Via.IsValid() {
		r.Gw = d.route.Via.AsSlice()
	} else {
		r.Type, r.Priority = unix.RTN_UNREACHABLE, unreachableMetric
	}
	return r
}

func (d deed) onBridge() error {
	link, err := netlink.LinkByName(Bridge)
	if err != nil {
		return err
	}
	switch d.verb {
	case verbMAC:
		mac, err := net.ParseMAC(d.value)
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(link, mac)
	case verbMTU:
		return netlink.LinkSetMTU(link, d.mtu)
	case verbUp:
		return netlink.LinkSetUp(link)
	case verbAddress:
		return netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(d.prefix)})
	default:
		return unless(netlink.AddrDel(link, &netlink.Addr{IPNet: ipNet(d.prefix)}), syscall.EADDRNOTAVAIL)
	}
}

func unless(err, fine error) error {
	if errors.Is(err, fine) {
		return nil
	}
	return err
}

// loopbackUp sets the loopback of a network namespace up.
func loopbackUp(namespace string) error {
	ns, err := netns.GetFromPath(namespace)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", namespace, err)
	}
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter network namespace %s: %w", namespace, err)
	}
	defer handle.Close()
	lo, err := handle.LinkByName("lo")
	if err == nil {
		err = handle.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set loopback of %s up: %w", namespace, err)
	}
	return nil
}

// namespaceThere tells whether the path is a network namespace: what is left of one is
// an empty file, which plugins stumble over.
func namespaceThere(path string) bool {
	var fs unix.Statfs_t
	return path != "" && unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// removeVeth takes away a port of the bridge by name; without it, or when the name is
// another interface's by now, it does nothing.
func removeVeth(name string) error {
	if name == "" {
		return nil
	}
	ports, err := bridgePorts()
	if err != nil {
		return err
	}
	link, ok := ports[name]
	if !ok {
		return nil
	}
	if err := unless(netlink.LinkDel(link), syscall.ENODEV); err != nil {
		return fmt.Errorf("remove %s from %s: %w", name, Bridge, err)
	}
	return nil
}

// bridgePorts are the veths on the bridge.
func bridgePorts() (map[string]netlink.Link, error) {
	ports := map[string]netlink.Link{}
	bridge, err := netlink.LinkByName(Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return ports, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", Bridge, err)
	}
	links, err := kernel.Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		if l.Type() == "veth" && l.Attrs().MasterIndex == bridge.Attrs().Index {
			ports[l.Attrs().Name] = l
		}
	}
	return ports, nil
}
