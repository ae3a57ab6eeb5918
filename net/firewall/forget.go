package firewall

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Forget drops what the kernel remembers about flows that a change of the table
// concerns: those from or to the task's address, and UDP to its mapped ports. Without
// this, a client that keeps sending to a port would be led to where it led before.
func Forget(address netip.Addr, mappings []Mapping) error {
	filter := stale{address: address, mappings: mappings}
	var err error
	for range dumpAttempts {
		_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filter)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("forget tracked connections of %s: %w", address, err)
	}
	return nil
}

// dumpAttempts is how often a list that changed while it was read is read again.
const dumpAttempts = 5

type stale struct {
	address  netip.Addr
	mappings []Mapping
}

// MatchConntrackFlow tells whether the flow is to be forgotten.
func (s stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	task := s.address.AsSlice()
	if s.address.IsValid() && (flow.Forward.SrcIP.Equal(task) || flow.Forward.DstIP.Equal(task) ||
		flow.Reverse.SrcIP.Equal(task) || flow.Reverse.DstIP.Equal(task)) {
		return true
	}
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	for _, m := range s.mappings {
		if m.Protocol != TCP && m.Begin <= flow.Forward.DstPort && flow.Forward.DstPort <= m.End {
			return true
		}
	}
	return false
}
