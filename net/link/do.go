package link

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
)

// Do carries out one step; a step that is done already is no error.
func Do(s Step) error {
	l, err := netlink.LinkByIndex(s.Index)
	if err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	switch s.Kind {
	case SetMTU:
		err = netlink.LinkSetMTU(l, s.MTU)
	case SetUp:
		err = netlink.LinkSetUp(l)
	case AddAddress:
		err = netlink.AddrReplace(l, addressOf(s))
	case RemoveAddress:
		err = netlink.AddrDel(l, addressOf(s))
		if errors.Is(err, syscall.EADDRNOTAVAIL) {
			err = nil
		}
	default:
		err = errors.New("no such kind of step")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	return nil
}

func addressOf(s Step) *netlink.Addr {
	a, err := netlink.ParseAddr(s.Address.String())
	if err != nil {
		return &netlink.Addr{} // a valid netip.Prefix always parses
	}
	return a
}
