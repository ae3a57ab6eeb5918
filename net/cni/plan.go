// Package cni gives tasks their network: one bridge per node, an address of the node's
// own task network for each task through the CNI plugins bridge and host-local, routes
// to the other nodes' task networks, and the ports of tasks on the node's addresses
// through net/firewall.
//
// Everything is recorded before it is done, undone in reverse, and done again without
// harm; Sweep at start-up takes away what no record names, because the plugins collect
// no garbage themselves. plan.go decides and is pure; the other files do.
//
// Invariant: an address or a port belongs to at most one attachment, and the firewall's
// table is the one that the recorded attachments and the newest settings describe.
//
// Who makes network namespaces and when (inside the task's user namespace) is the
// runtime's business, in isolation; which node has which task network is decided in the
// replicated state.
package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/mesolith/mesolith/net/firewall"
)

// The names of the network, its bridge, and the interface in a task.
const (
	Name      = "mesolith"
	Bridge    = "mesos0"
	Interface = "eth0"
)

// Faults that callers tell apart.
var (
	ErrNotConfigured = errors.New("this node has no task network yet: the cluster assigns one when the agent registers")
	ErrPorts         = firewall.ErrPort
	ErrSettings      = errors.New("task network settings are not usable")
)

// Settings is what the cluster says about task networks, as this node needs it.
type Settings struct {
	Version      uint64       // rises; an older one is ignored
	Pool         netip.Prefix // all task networks
	Subnet       netip.Prefix // this node's
	Address      netip.Addr   // this node's on the LAN
	MTU          int          // 0: 1500
	Routes       []Route
	Provisioning []netip.AddrPort // closed to tasks
}

// Route leads to another node's task network.
type Route struct {
	Subnet netip.Prefix
	Via    netip.Addr // that node's address on the LAN; invalid: unreachable
}

// PortRange is a range of the node's ports that are the task's.
type PortRange struct {
	Begin, End uint16
	Container  uint16 // the task's port behind Begin; 0: the same number
	Protocol   firewall.Protocol
}

// Attachment is what a task has.
type Attachment struct {
	Addresses []netip.Addr
	Gateway   netip.Addr
	Network   string
	Ports     []PortRange
}

// Record is an attachment as it is kept on disk.
type Record struct {
	ID        string
	Namespace string // path of the network namespace
	Ports     []PortRange
	Added     bool // CNI ADD has come back, what follows is its result, and DEL has not begun
	Addresses []netip.Addr
	Gateway   netip.Addr
	Veth      string // the host's end
}

// Step is one named deed of attaching or detaching.
type Step string

// The steps.
const (
	StepRecord   Step = "record"
	StepAdd      Step = "address" // CNI ADD: veth, address, default route
	StepLoopback Step = "loopback"
	StepMap      Step = "rules"     // the table with this task's ports
	StepForget   Step = "flows"     // tracked connections that the new table would not lead
	StepUnmap    Step = "unrules"   // the table without them
	StepDelete   Step = "unaddress" // CNI DEL
	StepUnrecord Step = "unrecord"
)

// AttachSteps gives the steps from what is recorded (nil: nothing) to an attachment. One
// that broke off in the middle is undone first: nobody knows how far the plugin came.
func AttachSteps(have *Record, want Record) ([]Step, error) {
	switch {
	case have == nil:
		return []Step{StepRecord, StepAdd, StepLoopback, StepMap, StepForget}, nil
	case have.Namespace != want.Namespace || !slices.Equal(have.Ports, want.Ports):
		return nil, fmt.Errorf("%s is attached already, to %s with ports %v; detach it first", have.ID, have.Namespace, have.Ports)
	case !have.Added:
		return []Step{StepDelete, StepRecord, StepAdd, StepLoopback, StepMap, StepForget}, nil
	default:
		return []Step{StepLoopback, StepMap}, nil
	}
}

// DetachSteps gives the steps from what is recorded to nothing.
func DetachSteps(have *Record) []Step {
	if have == nil {
		return nil
	}
	return []Step{StepUnmap, StepDelete, StepForget, StepUnrecord}
}

func (r Record) attachment() Attachment {
	return Attachment{Addresses: r.Addresses, Gateway: r.Gateway, Network: Name, Ports: r.Ports}
}

// mappings are the record's ports for the firewall. Before the address is known they
// lead to the stand-in, which is enough to see whether the ports are free.
func (r Record) mappings(standIn netip.Addr) []firewall.Mapping {
	to := standIn
	if r.Added && len(r.Addresses) > 0 {
		to = r.Addresses[0]
	}
	var list []firewall.Mapping
	for _, p := range r.Ports {
		m := firewall.Mapping{Protocol: p.Protocol, Begin: p.Begin, End: p.End, Container: p.Container, Address: to}
		if m.Container == 0 {
			m.Container = m.Begin
		}
		list = append(list, m)
	}
	return list
}

// firewallSettings is the table's input. With all is true, attachments without an
// address yet are in it too.
func firewallSettings(s Settings, records map[string]*Record, all bool) firewall.Settings {
	out := firewall.Settings{Pool: s.Pool, Subnet: s.Subnet, Bridge: Bridge, Provisioning: s.Provisioning}
	for _, r := range records {
		if r.Added || all {
			out.Mappings = append(out.Mappings, r.mappings(gateway(s.Subnet))...)
		}
	}
	return out
}

// gateway is the first address of a task network, the bridge's own.
func gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

const maxRoutes = 65536

// check refuses settings that cannot be carried out, before anything is touched.
func (s Settings) check() error {
	switch {
	case !s.Pool.IsValid() || !s.Pool.Addr().Is4() || !s.Subnet.IsValid() || !s.Subnet.Addr().Is4():
		return fmt.Errorf("pool %s, subnet %s: both must be IPv4 networks: %w", s.Pool, s.Subnet, ErrSettings)
	case s.Subnet.Bits() < s.Pool.Bits() || !s.Pool.Contains(s.Subnet.Addr()):
		return fmt.Errorf("subnet %s is not inside the pool %s: %w", s.Subnet, s.Pool, ErrSettings)
	case s.Subnet.Bits() > 29:
		return fmt.Errorf("subnet %s has no room for tasks: %w", s.Subnet, ErrSettings)
	case s.Pool.Contains(s.Address):
		return fmt.Errorf("the node's own address %s lies in the tasks' pool %s; choose another networks.tasks.pool: %w", s.Address, s.Pool, ErrSettings)
	case s.MTU != 0 && (s.MTU < 576 || s.MTU > 65535):
		return fmt.Errorf("MTU %d is not between 576 and 65535: %w", s.MTU, ErrSettings)
	case len(s.Routes) > maxRoutes:
		return fmt.Errorf("%d routes, at most %d: %w", len(s.Routes), maxRoutes, ErrSettings)
	}
	for _, r := range s.Routes {
		if !r.Subnet.IsValid() || !s.Pool.Contains(r.Subnet.Addr()) || r.Subnet.Bits() < s.Pool.Bits() || !r.Via.Is4() || s.Pool.Contains(r.Via) {
			return fmt.Errorf("route to %s by %s: must lead to a network of the pool %s, by a node's LAN address: %w", r.Subnet, r.Via, s.Pool, ErrSettings)
		}
	}
	return nil
}

// identity is what a container id must look like to be a file's name and a plugin's
// argument.
var identity = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

func checkID(id string) error {
	if !identity.MatchString(id) {
		return fmt.Errorf("container id %.140q: 1 to 128 letters, digits, '_', '.', '-'", id)
	}
	return nil
}

// networkConfig is what libcni and the plugins read.
func networkConfig(s Settings, leases string) ([]byte, error) {
	type object = map[string]any
	config := object{
		"cniVersion": "1.0.0",
		"name":       Name,
		"plugins": []object{{
			"type": "bridge", "bridge": Bridge, "isGateway": true, "hairpinMode": true, "mtu": s.mtu(),
			"ipam": object{
				"type":    "host-local",
				"ranges":  [][]object{{{"subnet": s.Subnet.Masked().String(), "gateway": gateway(s.Subnet).String()}}},
				"routes":  []object{{"dst": "0.0.0.0/0"}},
				"dataDir": leases,
			},
		}},
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("write configuration of network %s: %w", Name, err)
	}
	return raw, nil
}

func (s Settings) mtu() int {
	if s.MTU == 0 {
		return 1500
	}
	return s.MTU
}
