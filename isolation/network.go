package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/run"
	"github.com/mesolith/mesolith/isolation/spec"
	"github.com/mesolith/mesolith/net/cni"
	"github.com/mesolith/mesolith/net/firewall"
)

// networkWithin is how long a launch waits for the cluster's word about this node's
// part of the network of tasks.
const networkWithin = 30 * time.Second

// network is net/cni in the words of isolation/run and of the wire.
type network struct {
	cni   *cni.Network
	known chan struct{} // closed once tasks can be attached
	once  sync.Once
}

func newNetwork(c cni.Config) (*network, error) {
	n, err := cni.New(c)
	if err != nil {
		return nil, err
	}
	out := &network{cni: n, known: make(chan struct{})}
	out.note()
	return out, nil
}

func (n *network) note() {
	if n.cni.Configured() {
		n.once.Do(func() { close(n.known) })
	}
}

// SetNetwork tells this node's part of the network.
func (n *network) SetNetwork(ctx context.Context, m *keeper.SetNetwork) error {
	s := cni.Settings{Version: m.GetVersion(), MTU: int(m.GetMtu())}
	var err error
	if s.Pool, err = netip.ParsePrefix(m.GetPool()); err != nil {
		return fmt.Errorf("%w: pool of the network of tasks: %w", run.ErrInvalid, err)
	}
	if s.Subnet, err = netip.ParsePrefix(m.GetSubnet()); err != nil {
		return fmt.Errorf("%w: subnet of this node: %w", run.ErrInvalid, err)
	}
	if s.Address, err = netip.ParseAddr(m.GetAddress()); err != nil {
		return fmt.Errorf("%w: address of this node: %w", run.ErrInvalid, err)
	}
	for _, r := range m.GetRoutes() {
		subnet, serr := netip.ParsePrefix(r.GetSubnet())
		via, verr := netip.ParseAddr(r.GetVia())
		if err := errors.Join(serr, verr); err != nil {
			return fmt.Errorf("%w: route to another node: %w", run.ErrInvalid, err)
		}
		s.Routes = append(s.Routes, cni.Route{Subnet: subnet, Via: via})
	}
	for _, p := range m.GetProvisioning() {
		at, err := netip.ParseAddrPort(p)
		if err != nil {
			return fmt.Errorf("%w: provisioning service: %w", run.ErrInvalid, err)
		}
		s.Provisioning = append(s.Provisioning, at)
	}
	err = n.cni.Configure(ctx, s)
	n.note()
	return err
}

func (n *network) Attach(ctx context.Context, a run.Attachment) (run.Attached, error) {
	late := time.NewTimer(networkWithin)
	defer late.Stop()
	select {
	case <-n.known:
	case <-ctx.Done():
		return run.Attached{}, ctx.Err()
	case <-late.C:
		return run.Attached{}, fmt.Errorf("the cluster has not told this node its part of the network of tasks within %s: no leader?", networkWithin)
	}
	got, err := n.cni.Attach(ctx, a.ID, a.NetNS, ranges(a.Ports))
	if err != nil {
		return run.Attached{}, err
	}
	out := run.Attached{Name: spec.DefaultNetwork, Ports: a.Ports}
	for _, ip := range got.Addresses {
		out.IPs = append(out.IPs, ip.String())
	}
	return out, nil
}

func (n *network) Detach(ctx context.Context, id, netns string) error {
	return n.cni.Detach(ctx, id, netns)
}

func (n *network) Restore(ctx context.Context, keep map[string]bool) error {
	return n.cni.Sweep(ctx, func(id string) bool { return keep[id] })
}

// ranges puts ports that follow each other together: TCP and UDP alike where they are.
func ranges(ports []*keeper.PortMapping) []cni.PortRange {
	var tcp, udp []cni.PortRange
	for _, p := range ports {
		r := cni.PortRange{Begin: uint16(p.GetHostPort()), End: uint16(p.GetHostPort()), Container: uint16(p.GetContainerPort())}
		if p.GetProtocol() == "udp" {
			udp = append(udp, r)
		} else {
			tcp = append(tcp, r)
		}
	}
	tcp, udp = merge(tcp), merge(udp)
	if slices.Equal(tcp, udp) {
		return tcp // AnyProtocol is the zero value
	}
	var out []cni.PortRange
	for _, r := range tcp {
		r.Protocol = firewall.TCP
		out = append(out, r)
	}
	for _, r := range udp {
		r.Protocol = firewall.UDP
		out = append(out, r)
	}
	return out
}

func merge(in []cni.PortRange) []cni.PortRange {
	slices.SortFunc(in, func(a, b cni.PortRange) int { return cmp.Compare(a.Begin, b.Begin) })
	var out []cni.PortRange
	for _, r := range in {
		if last := len(out) - 1; last >= 0 && out[last].End+1 == r.Begin && out[last].Container+(r.Begin-out[last].Begin) == r.Container {
			out[last].End = r.End
			continue
		}
		out = append(out, r)
	}
	return out
}
