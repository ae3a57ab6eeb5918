package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/mesolith/mesolith/internal/fault"
	"github.com/mesolith/mesolith/net/firewall"
	"github.com/vishvananda/netlink"
)

// pluginTime is how long one CNI call may take; under emulation the first takes 400 ms.
const pluginTime = 30 * time.Second

// callsAtOnce bounds CNI calls: when many tasks end together each call would take as long
// as all of them, and the time of each would end.
const callsAtOnce = 4

// Config is what a Network needs.
type Config struct {
	Bin string // directory of the CNI plugins
	Dir string // records, leases and libcni's cache
	Log *slog.Logger
}

// Network is the task network of this node. Its methods may be called at once for
// different ids; the caller sees to it that there is one call at a time for one id.
type Network struct {
	bin   string
	store store
	log   *slog.Logger
	cni   *libcni.CNIConfig

	calls chan struct{} // a place for each CNI call under way

	mu       sync.Mutex // also held while the table is replaced, so that the newest wins
	settings Settings   // the zero value: not configured
	records  map[string]*Record
	changes  uint64 // of records and settings
	tabled   uint64 // the changes that the table in place knows
	tables   uint64 // how often it was replaced
}

// New opens the records. It touches nothing of the kernel's: Sweep and Configure do.
func New(c Config) (*Network, error) {
	n := &Network{bin: c.Bin, store: store{c.Dir}, log: c.Log, calls: make(chan struct{}, callsAtOnce), changes: 1}
	for _, dir := range []string{n.store.recordsDir(), n.store.leases(), n.store.cache()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("open task networks: %w", err)
		}
	}
	n.cni = libcni.NewCNIConfigWithCacheDir([]string{c.Bin}, n.store.cache(), &plugins{})
	var err error
	if n.records, err = n.store.load(c.Log); err != nil {
		return nil, err
	}
	var kept Settings
	there, err := n.store.read(n.store.settingsPath(), &kept)
	if err == nil && there {
		err = kept.check()
	}
	if err != nil {
		n.log.Warn("task network settings forgotten: the cluster gives them again", "err", err)
		return n, nil
	}
	n.settings = kept
	return n, nil
}

// Configured tells whether tasks can be attached.
func (n *Network) Configured() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.settings.Subnet.IsValid()
}

// Configure makes bridge, routes, sysctls and table what the settings say. Settings
// older than those in force are ignored. What can be done is done even when one route
// fails.
func (n *Network) Configure(ctx context.Context, s Settings) error {
	if err := s.check(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.Version < n.settings.Version {
		n.log.Debug("older task network settings ignored", "version", s.Version, "have", n.settings.Version)
		return nil
	}
	if n.settings.Subnet.IsValid() && n.settings.Subnet != s.Subnet && len(n.records) > 0 {
		return fmt.Errorf("the node's task network cannot change from %s to %s while %d tasks have addresses in it: %w", n.settings.Subnet, s.Subnet, len(n.records), ErrSettings)
	}
	if !reflect.DeepEqual(s, n.settings) {
		if err := n.store.write(n.store.settingsPath(), s); err != nil {
			return err
		}
		n.settings = s
		n.changes++
	}
	return n.makeNode(ctx)
}

// makeNode makes the node so, by the settings in force; n.mu is held.
func (n *Network) makeNode(ctx context.Context) error {
	have, err := observeNode()
	if err != nil {
		return err
	}
	var failed error
	for _, d := range planNode(n.settings, have) {
		if err := ctx.Err(); err != nil {
			return errors.Join(failed, err)
		}
		if err := d.do(); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		n.log.Debug("task network", "did", d.String())
	}
	failed = errors.Join(failed, n.replaceTable())
	if err := firewall.LimitFlows(Bridge, "/proc"); err != nil { // a host in development may lack it
		n.log.Warn("a task may use up the connections that this node tracks", "error", err)
	}
	return failed
}

// replaceTable puts the table in place that records and settings describe; n.mu is held.
func (n *Network) replaceTable() error {
	table, err := firewall.Plan(firewallSettings(n.settings, n.records, false))
	if err != nil {
		return err
	}
	if err := firewall.Replace(table); err != nil {
		return err
	}
	n.tabled = n.changes
	n.tables++
	return nil
}

// attachPoints and detachPoints name what a crash is tried after.
var (
	attachPoints = map[Step]fault.Point{
		StepRecord: fault.NetRecord, StepAdd: fault.NetAddress, StepLoopback: fault.NetLoopback, StepMap: fault.NetRules, StepForget: fault.NetFlows,
	}
	detachPoints = map[Step]fault.Point{
		StepUnmap: fault.NetUnrules, StepDelete: fault.NetUnaddress, StepForget: fault.NetUnflows, StepUnrecord: fault.NetUnrecord,
	}
)

// Attach gives the network namespace at the path an interface with an address of this
// node's task network, and leads the ports to it. A second call for the same does
// nothing new. What a failed call did is undone.
func (n *Network) Attach(ctx context.Context, id, namespace string, ports []PortRange) (Attachment, error) {
	steps, settings, err := n.planAttach(id, Record{ID: id, Namespace: namespace, Ports: ports})
	if err != nil {
		return Attachment{}, fmt.Errorf("attach %s: %w", id, err)
	}
	for _, step := range steps {
		if err = n.do(ctx, step, id, settings); err != nil {
			err = fmt.Errorf("attach %s: %s: %w", id, step, err)
			return Attachment{}, errors.Join(err, n.Detach(context.WithoutCancel(ctx), id, namespace))
		}
		fault.After(attachPoints[step], id)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.records[id].attachment(), nil
}

// planAttach reserves id and ports in memory, so that no other call takes them.
func (n *Network) planAttach(id string, want Record) ([]Step, Settings, error) {
	if err := checkID(id); err != nil {
		return nil, Settings{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.settings.Subnet.IsValid() {
		return nil, Settings{}, ErrNotConfigured
	}
	have := n.records[id]
	steps, err := AttachSteps(have, want)
	if err != nil || have != nil {
		return steps, n.settings, err
	}
	with := maps.Clone(n.records)
	with[id] = &want
	if _, err := firewall.Plan(firewallSettings(n.settings, with, true)); err != nil {
		return nil, Settings{}, err
	}
	n.records = with
	return steps, n.settings, nil
}

// Detach takes address, ports and interface away again, and does nothing when that is
// done already. The namespace may be gone.
func (n *Network) Detach(ctx context.Context, id, namespace string) error {
	n.mu.Lock()
	settings, have := n.settings, n.records[id]
	n.mu.Unlock()
	for _, step := range DetachSteps(have) {
		if err := n.do(ctx, step, id, settings); err != nil {
			return fmt.Errorf("detach %s from %s: %s: %w", id, namespace, step, err)
		}
		fault.After(detachPoints[step], id)
	}
	return nil
}

// do carries out one step for a record.
func (n *Network) do(ctx context.Context, step Step, id string, s Settings) error {
	n.mu.Lock()
	have := n.records[id]
	n.mu.Unlock()
	if have == nil {
		return errors.New("its record has gone: two calls for one id at once")
	}
	r := *have
	var err error
	switch step {
	case StepRecord:
		r.Added, r.Addresses, r.Veth = false, nil, ""
		err = n.record(r)
	case StepAdd:
		if err = n.add(ctx, &r, s); err == nil {
			err = n.record(r)
		}
	case StepLoopback:
		err = loopbackUp(r.Namespace)
	case StepMap:
		err = n.remap(r)
	case StepUnmap: // from here on it counts as broken off, also after a crash
		r.Added = false
		if err = n.record(r); err == nil {
			err = n.remap(r)
		}
	case StepForget:
		for _, address := range r.Addresses {
			err = errors.Join(err, firewall.Forget(address, r.mappings(address)))
		}
	case StepDelete:
		err = n.delete(ctx, r, s)
	case StepUnrecord:
		if err = n.store.remove(n.store.recordPath(id)); err == nil {
			n.mu.Lock()
			delete(n.records, id)
			n.mu.Unlock()
		}
	}
	if err == nil {
		n.log.Debug("task network", "did", string(step), "id", id)
	}
	return err
}

// record writes the record down, and only then believes it.
func (n *Network) record(r Record) error {
	if err := n.store.write(n.store.recordPath(r.ID), r); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.records[r.ID] = &r
	n.changes++
	return nil
}

// remap replaces the table by what is recorded now, unless another call has done so since
// r was recorded: of many that come together one does it for all. A task without ports has
// no rule of its own.
func (n *Network) remap(r Record) error {
	if len(r.Ports) == 0 {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.settings.Subnet.IsValid() {
		return firewall.Remove()
	}
	if n.tabled == n.changes {
		return nil
	}
	return n.replaceTable()
}

// call waits for its turn to run a plugin, which has its time from then on; end gives the
// turn back.
func (n *Network) call(ctx context.Context) (timed context.Context, end func(), err error) {
	select {
	case n.calls <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	timed, cancel := context.WithTimeout(ctx, pluginTime)
	return timed, func() { cancel(); <-n.calls }, nil
}

func (n *Network) add(ctx context.Context, r *Record, s Settings) error {
	list, err := n.list(s)
	if err != nil {
		return err
	}
	ctx, end, err := n.call(ctx)
	if err != nil {
		return err
	}
	defer end()
	res, err := n.cni.AddNetworkList(ctx, list, runtimeOf(*r))
	if err != nil {
		return err
	}
	return r.result(res, s)
}

// delete runs CNI DEL and removes what that leaves when the namespace is gone.
func (n *Network) delete(ctx context.Context, r Record, s Settings) error {
	if !s.Subnet.IsValid() { // settings were lost: Sweep finds the lease
		return removeVeth(r.Veth)
	}
	list, err := n.list(s)
	if err != nil {
		return err
	}
	if !namespaceThere(r.Namespace) {
		r.Namespace = ""
	}
	ctx, end, err := n.call(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := n.cni.DelNetworkList(ctx, list, runtimeOf(r)); err != nil {
		return err
	}
	return removeVeth(r.Veth)
}

func (n *Network) list(s Settings) (*libcni.NetworkConfigList, error) {
	raw, err := networkConfig(s, n.store.leases())
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromBytes(raw)
}

func runtimeOf(r Record) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: r.ID, NetNS: r.Namespace, IfName: Interface}
}

// Sweep, at start-up, takes away what no record names and what belongs to no task that
// is to be kept: attachments, leases, veths and rules. An attachment that broke off in
// the middle is undone too. Then the node is made as the last known settings say, so
// that the ports of kept tasks work before the cluster has been heard.
func (n *Network) Sweep(ctx context.Context, keep func(id string) bool) error {
	n.mu.Lock()
	var gone []string
	for id, r := range n.records {
		if !r.Added || !keep(id) {
			gone = append(gone, id)
		}
	}
	configured := n.settings.Subnet.IsValid()
	n.mu.Unlock()
	slices.Sort(gone)
	var failed error
	for _, id := range gone {
		n.log.Info("network of a task that is gone removed", "id", id)
		failed = errors.Join(failed, n.Detach(ctx, id, ""))
	}
	failed = errors.Join(failed, n.sweepLeases(), n.sweepCache(), n.sweepVeths())
	if !configured {
		return errors.Join(failed, firewall.Remove())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return errors.Join(failed, n.makeNode(ctx))
}

// sweepLeases removes the leases of nobody: host-local keeps a file per address, with
// the container's id in its first line.
func (n *Network) sweepLeases() error {
	dir := filepath.Join(n.store.leases(), Name)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return unless(err, os.ErrNotExist)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var failed error
	for _, e := range entries {
		address, err := netip.ParseAddr(e.Name())
		if err != nil { // its lock, and the last address it gave
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		id, _, _ := strings.Cut(string(raw), "\n")
		r := n.records[strings.TrimSpace(id)]
		if err == nil && r != nil && slices.Contains(r.Addresses, address) {
			continue
		}
		n.log.Info("lease of nobody removed", "address", address, "id", strings.TrimSpace(id))
		failed = errors.Join(failed, err, n.store.remove(filepath.Join(dir, e.Name())))
	}
	return failed
}

func (n *Network) sweepCache() error {
	dir := filepath.Join(n.store.cache(), "results")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return unless(err, os.ErrNotExist)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var failed error
	for _, e := range entries {
		id := strings.TrimSuffix(strings.TrimPrefix(e.Name(), Name+"-"), "-"+Interface)
		if n.records[id] == nil {
			failed = errors.Join(failed, n.store.remove(filepath.Join(dir, e.Name())))
		}
	}
	return failed
}

func (n *Network) sweepVeths() error {
	ports, err := bridgePorts()
	if err != nil {
		return err
	}
	n.mu.Lock()
	for _, r := range n.records {
		delete(ports, r.Veth)
	}
	n.mu.Unlock()
	var failed error
	for name, link := range ports {
		n.log.Info("interface of nobody removed", "name", name)
		if err := netlink.LinkDel(link); err != nil {
			failed = errors.Join(failed, fmt.Errorf("remove %s: %w", name, err))
		}
	}
	return failed
}
