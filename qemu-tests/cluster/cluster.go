// Package cluster is a whole cluster of virtual machines on a LAN of its own, with a
// registry that they can pull from and the host's ways in: what `lith up` runs and what
// the VM tests look at.
//
// Invariant: a machine gets exactly the files that its node was given, by its firmware
// (fw_cfg), and nothing of a cluster is left when Close has returned, or when the process
// has died, but the files in its directory. Waiting is for lines and states, with a
// deadline from the caller; nothing here sleeps.
//
// It does not make node documents (provision/cluster does, see Render) and starts no
// supervisor (cmd/lith does).
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mesolith/mesolith/qemu-tests/lan"
	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// FwCfgPrefix is where the firmware keeps a node's files.
const FwCfgPrefix = "opt/org.mesolith/"

// Node is one machine of the cluster.
type Node struct {
	Name    string
	MAC     net.HardwareAddr
	Address netip.Addr // its lease
	UUID    string
	Serial  string
	Master  bool
	// MemoryMB is the machine's memory where it differs from the cluster's.
	MemoryMB int `json:",omitempty"`
	// Files are what its firmware hands it: anchor.json, node.json, node.key, …
	Files map[string][]byte
	// Cmdline is added to the image's kernel command line.
	Cmdline string    `json:",omitempty"`
	Disks   []vm.Disk `json:",omitempty"`
	QEMU    []string  `json:",omitempty"` // more of QEMU's arguments
}

// Image is what machines boot.
type Image struct {
	Kernel    string // vmlinux with a PVH note, or a bzImage
	Initramfs string
	Cmdline   string
}

// Config says what a cluster is.
type Config struct {
	Name     string
	Dir      string // machines' directories, files and sockets
	Image    Image
	Nodes    []Node
	Subnet   netip.Prefix // zero: DefaultSubnet
	MemoryMB int          // zero: DefaultMemoryMB
	Accel    string       // vm.AccelKVM or vm.AccelTCG
	NoDHCP   bool
	NAT      bool
	// Plaintext: the API takes plain HTTP; otherwise HTTPS is spoken to it.
	Plaintext bool
	// Client makes the transport of API calls (certificates, credentials) out of the
	// dialler; nil: plain HTTP or HTTPS without credentials.
	Client   func(dial DialFunc) http.RoundTripper
	Progress func(Event)
	Log      *slog.Logger
}

// DialFunc connects to an address on the LAN.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// DefaultMemoryMB is what a machine gets when nobody says otherwise.
const DefaultMemoryMB = 512

// DefaultSubnet is the LAN's network; every cluster has a LAN of its own.
var DefaultSubnet = netip.MustParsePrefix("10.77.0.0/24")

// Cluster is a cluster that was started.
type Cluster struct {
	LAN      *lan.LAN
	Registry *Registry

	cfg      Config
	client   *http.Client
	machines map[string]*Machine // not changed after Prepare
}

// Machine is one node's machine; it may be off.
type Machine struct {
	Node Node

	cluster *Cluster
	mu      sync.Mutex
	vm      *vm.VM
	began   time.Time // of the newest power-on
	watch   sync.WaitGroup
}

// ErrOff says that a machine is not powered.
var ErrOff = errors.New("the machine is off")

// Start makes the LAN and powers every machine on. Machines are not awaited: see
// WaitLeader and WaitReady.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	c, err := Prepare(cfg)
	if err != nil {
		return nil, err
	}
	for _, n := range cfg.Nodes {
		if err := c.Machine(n.Name).PowerOn(ctx); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// Prepare makes the LAN and the registry; every machine is off.
func Prepare(cfg Config) (*Cluster, error) {
	if !cfg.Subnet.IsValid() {
		cfg.Subnet = DefaultSubnet
	}
	if cfg.MemoryMB == 0 {
		cfg.MemoryMB = DefaultMemoryMB
	}
	if cfg.Progress == nil {
		cfg.Progress = func(Event) {}
	}
	c := &Cluster{cfg: cfg, machines: map[string]*Machine{}}
	hosts := make([]lan.Host, 0, len(cfg.Nodes))
	for _, n := range cfg.Nodes {
		hosts = append(hosts, lan.Host{Name: n.Name, MAC: n.MAC, Address: n.Address})
	}
	wire, err := lan.New(lan.Config{Subnet: cfg.Subnet, Hosts: hosts, NoDHCP: cfg.NoDHCP, NAT: cfg.NAT, Log: cfg.Log})
	if err != nil {
		return nil, fmt.Errorf("start cluster %s: %w", cfg.Name, err)
	}
	c.LAN = wire
	c.client = &http.Client{Transport: c.transport()}
	for _, n := range cfg.Nodes {
		if err := c.add(n); err != nil {
			c.Close()
			return nil, fmt.Errorf("start cluster %s: %w", cfg.Name, err)
		}
	}
	if c.Registry, err = newRegistry(wire, cfg.Log); err != nil {
		c.Close()
		return nil, fmt.Errorf("start cluster %s: %w", cfg.Name, err)
	}
	return c, nil
}

func (c *Cluster) transport() http.RoundTripper {
	dial := func(ctx context.Context, _, address string) (net.Conn, error) { return c.LAN.Dial(ctx, address) }
	if c.cfg.Client != nil {
		return c.cfg.Client(dial)
	}
	return &http.Transport{DialContext: dial, DisableKeepAlives: true}
}

// add writes a node's files and gives it a port of the LAN.
func (c *Cluster) add(n Node) error {
	if c.machines[n.Name] != nil {
		return fmt.Errorf("two nodes are named %s", n.Name)
	}
	dir := c.dir(n.Name)
	if err := os.MkdirAll(filepath.Join(dir, "fw_cfg"), 0o700); err != nil {
		return err
	}
	for name, body := range n.Files {
		if name != filepath.Base(name) {
			return fmt.Errorf("file %q of node %s is not a plain name", name, n.Name)
		}
		if err := os.WriteFile(filepath.Join(dir, "fw_cfg", name), body, 0o600); err != nil {
			return err
		}
	}
	if err := c.LAN.Plug(n.Name, filepath.Join(dir, "lan.sock")); err != nil {
		return err
	}
	c.machines[n.Name] = &Machine{Node: n, cluster: c}
	return nil
}

func (c *Cluster) dir(name string) string { return filepath.Join(c.cfg.Dir, "nodes", name) }

// Machine finds a machine by its node's name; nil when there is none.
func (c *Cluster) Machine(name string) *Machine { return c.machines[name] }

// Machines gives all machines in the order of their nodes.
func (c *Cluster) Machines() []*Machine {
	all := make([]*Machine, 0, len(c.cfg.Nodes))
	for _, n := range c.cfg.Nodes {
		if m := c.machines[n.Name]; m != nil {
			all = append(all, m)
		}
	}
	return all
}

// Close cuts every machine's power and ends the LAN. Files stay.
func (c *Cluster) Close() {
	var all sync.WaitGroup
	for _, m := range c.Machines() {
		all.Go(m.PowerCut)
	}
	all.Wait()
	if c.Registry != nil {
		c.Registry.close()
	}
	c.LAN.Close()
}

// PowerOn starts the machine; one that runs is left alone.
func (m *Machine) PowerOn(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.vm != nil {
		select {
		case <-m.vm.Done():
		default:
			return nil
		}
	}
	c := m.cluster
	memory := m.Node.MemoryMB
	if memory == 0 {
		memory = c.cfg.MemoryMB
	}
	began := time.Now()
	m.began = began
	started, err := vm.Start(ctx, vm.Config{
		Name: m.Node.Name, Dir: c.dir(m.Node.Name),
		Kernel: c.cfg.Image.Kernel, Initramfs: c.cfg.Image.Initramfs, Cmdline: strings.TrimSpace(c.cfg.Image.Cmdline + " " + m.Node.Cmdline),
		Accel: c.cfg.Accel, MemoryMB: memory, UUID: m.Node.UUID, Serial: m.Node.Serial,
		FwCfg: m.firmware(), Disks: m.Node.Disks, Extra: m.Node.QEMU, Log: c.cfg.Log,
		NICs: []vm.NIC{{MAC: m.Node.MAC, Socket: filepath.Join(c.dir(m.Node.Name), "lan.sock")}},
	})
	if err != nil {
		return err
	}
	m.vm = started
	c.cfg.Progress(Event{Node: m.Node.Name, Kind: PoweredOn})
	m.watch.Go(func() { m.follow(started, began) })
	return nil
}

func (m *Machine) firmware() []vm.FwCfg {
	var files []vm.FwCfg
	for name := range m.Node.Files {
		files = append(files, vm.FwCfg{Name: FwCfgPrefix + name, File: filepath.Join(m.cluster.dir(m.Node.Name), "fw_cfg", name)})
	}
	slices.SortFunc(files, func(a, b vm.FwCfg) int { return strings.Compare(a.Name, b.Name) })
	return files
}

// VM is the machine's newest life, nil before the first.
func (m *Machine) VM() *vm.VM {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.vm
}

// Running reports whether the machine is on.
func (m *Machine) Running() bool {
	v := m.VM()
	if v == nil {
		return false
	}
	select {
	case <-v.Done():
		return false
	default:
		return true
	}
}

// PowerCut takes the power away; the machine gets no chance to do anything.
func (m *Machine) PowerCut() {
	if v := m.VM(); v != nil {
		v.Kill()
	}
	m.watch.Wait()
}

// PowerOff presses the power button and waits for an orderly end.
func (m *Machine) PowerOff(ctx context.Context) error {
	v := m.VM()
	if v == nil {
		return nil
	}
	if err := v.PowerButton(ctx); err != nil {
		return err
	}
	m.watch.Wait()
	return nil
}

// Reset presses the reset button.
func (m *Machine) Reset(ctx context.Context) error {
	v := m.VM()
	if v == nil {
		return fmt.Errorf("reset %s: %w", m.Node.Name, ErrOff)
	}
	return v.Reset(ctx)
}

// Artefacts lists what a reader of a failed test wants to see: every machine's console.
func (c *Cluster) Artefacts() []string {
	var files []string
	for _, n := range c.cfg.Nodes {
		files = append(files, filepath.Join(c.dir(n.Name), "console.log"))
	}
	return files
}
