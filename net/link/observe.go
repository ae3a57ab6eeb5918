package link

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// Observe lists the machine's network cards.
func Observe() ([]Link, error) {
	list, err := Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list network cards: %w", err)
	}
	out := make([]Link, 0, len(list))
	for _, l := range list {
		attrs := l.Attrs()
		one := Link{
			Index: attrs.Index, Name: attrs.Name, MAC: attrs.HardwareAddr.String(), MTU: attrs.MTU,
			Up: attrs.Flags&net.FlagUp != 0, Loopback: attrs.Flags&net.FlagLoopback != 0,
		}
		one.readSys("/sys/class/net")
		addresses, err := Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", attrs.Name, err)
		}
		for _, a := range addresses {
			if p, ok := prefixOf(a.IPNet); ok {
				one.Addresses = append(one.Addresses, p)
			}
		}
		out = append(out, one)
	}
	return out, nil
}

// readSys fills in what netlink does not tell.
func (l *Link) readSys(dir string) {
	at := filepath.Join(dir, l.Name)
	if device, err := filepath.EvalSymlinks(filepath.Join(at, "device")); err == nil {
		l.Physical = true
		l.PCI = busAddress(device)
	}
	if driver, err := os.Readlink(filepath.Join(at, "device/driver")); err == nil {
		l.Driver = filepath.Base(driver)
	}
	l.Carrier = readText(filepath.Join(at, "carrier")) == "1"
	if speed, err := strconv.ParseUint(readText(filepath.Join(at, "speed")), 10, 32); err == nil {
		l.SpeedMbps = speed
	}
}

// busAddress finds the PCI address in a device's path; behind virtio it is the parent.
func busAddress(device string) string {
	for device != "/" && device != "." {
		base := filepath.Base(device)
		if len(base) == 12 && base[4] == ':' && base[7] == ':' && base[10] == '.' {
			return base
		}
		device = filepath.Dir(device)
	}
	return ""
}

func readText(path string) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "" // such as carrier of a card that is down
	}
	return strings.TrimSpace(string(raw))
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), true
}
