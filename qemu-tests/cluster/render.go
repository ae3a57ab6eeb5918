package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mesolith/mesolith/image"
	"github.com/mesolith/mesolith/internal/nodedoc"
	clusterfile "github.com/mesolith/mesolith/provision/cluster"
	"github.com/mesolith/mesolith/provision/pki"
	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// Rendered is a cluster file turned into machines.
type Rendered struct {
	Name       string
	Nodes      []Node
	Subnet     netip.Prefix
	Plaintext  bool // the API takes plain HTTP from the host, which comes as the gateway
	AnchorJSON []byte
	// OperatorCert and OperatorKey are an administrator's of this cluster, PEM.
	OperatorCert, OperatorKey string
}

// operatorLifetime is how long the certificate that `lith up` makes for itself is good.
const operatorLifetime = 90 * 24 * time.Hour

// emulatedHeartbeat is what emulated machines are given: at the 250 ms of real ones they
// would hold elections whenever the host is busy.
const emulatedHeartbeat = time.Second

// maxGenerated is how many nodes a generated file may have: their addresses fit into the
// default LAN, and one host's memory holds no more.
const maxGenerated = 50

// GeneratedFile is the cluster file that is used when there is none.
func GeneratedFile(name string, nodes int) (string, error) {
	if nodes < 1 || nodes > maxGenerated {
		return "", fmt.Errorf("%d nodes: a generated cluster has 1 to %d", nodes, maxGenerated)
	}
	masters := 1
	switch {
	case nodes >= 5:
		masters = 5
	case nodes >= 3:
		masters = 3
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# Made by lith up for virtual machines on one host. The API is open on purpose: it listens
# on the host's loopback addresses only.
apiVersion: v1
cluster: %s
version: %s
masters: %d
api: { plaintext: true, anonymous: framework }
defaults:
  time: { servers: [dhcp], wait: 1s }
nodes:
`, name, image.Version, masters)
	for i := 1; i <= nodes; i++ {
		fmt.Fprintf(&b, "  - { name: n%d, mac: \"%s\" }\n", i, generatedMAC(i))
	}
	return b.String(), nil
}

// generatedMAC is of the range that QEMU's guests have.
func generatedMAC(i int) net.HardwareAddr {
	return net.HardwareAddr{0x52, 0x54, 0, 0, byte(i >> 8), byte(i)}
}

// Render makes machines out of a plan. Nodes that the file finds by other things than
// their MAC get one, and the serial number or UUID that the file wants.
func Render(p *clusterfile.Plan, s *pki.Secrets, accel string, now time.Time) (Rendered, error) {
	opt := clusterfile.Options{Now: now}
	if accel == vm.AccelTCG && p.File.Heartbeat < emulatedHeartbeat {
		opt.Heartbeat = emulatedHeartbeat
	}
	bundle, err := clusterfile.Render(p, s, opt)
	if err != nil {
		return Rendered{}, fmt.Errorf("render cluster %s: %w", p.File.Cluster, err)
	}
	r := Rendered{Name: p.File.Cluster, AnchorJSON: bundle.AnchorJSON}
	if r.Subnet, err = subnetOf(p); err != nil {
		return Rendered{}, err
	}
	r.Plaintext = plaintextFrom(p.File.API, r.Subnet.Addr().Next())
	taken := fixedAddresses(p)
	next := r.Subnet.Addr()
	for range 10 {
		next = next.Next() // leases begin at the eleventh address
	}
	for i, n := range p.Nodes {
		machine, err := machineOf(n, i, bundle)
		if err != nil {
			return Rendered{}, err
		}
		if fixed, ok := taken[n.Name]; ok {
			machine.Address = fixed
		} else {
			machine.Address = nextFree(&next, taken)
		}
		r.Nodes = append(r.Nodes, machine)
	}
	return r, r.operator(s, bundle.Anchor, now)
}

// plaintextFrom reports whether the API takes plain HTTP from an address.
func plaintextFrom(api nodedoc.API, from netip.Addr) bool {
	if len(api.PlaintextFrom) == 0 {
		return api.Plaintext
	}
	return slices.ContainsFunc(api.PlaintextFrom, func(cidr string) bool {
		network, err := netip.ParsePrefix(cidr)
		return err == nil && network.Contains(from)
	})
}

func (r *Rendered) operator(s *pki.Secrets, anchor nodedoc.Anchor, now time.Time) error {
	secrets, err := s.IssuerSecrets()
	if err != nil {
		return fmt.Errorf("operator's certificate: %w", err)
	}
	issuer, err := pki.OpenIssuer(secrets, anchor)
	if err != nil {
		return fmt.Errorf("operator's certificate: %w", err)
	}
	r.OperatorCert, r.OperatorKey, err = issuer.IssueOperator("lith", nodedoc.RoleAdmin, now, operatorLifetime)
	return err
}

func machineOf(n *clusterfile.Node, i int, b *clusterfile.Bundle) (Node, error) {
	files := b.Nodes[n.Name]
	m := Node{
		Name: n.Name, MAC: generatedMAC(i + 1), Serial: n.Match.Serial, UUID: n.Match.UUID, Master: files.Master,
		Files: map[string][]byte{"anchor.json": b.AnchorJSON, "node.json": files.Document, "node.key": files.Key},
	}
	if files.Master {
		m.Files["cluster.json"], m.Files["issuer.json"] = b.Cluster, b.Issuer
	}
	mac := n.Match.MAC
	for _, net := range n.Settings.Networks {
		if mac == "" {
			mac = net.Match.MAC
		}
	}
	if mac != "" {
		var err error
		if m.MAC, err = net.ParseMAC(mac); err != nil {
			return Node{}, fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	if m.UUID == "" {
		m.UUID = nameUUID(b.Anchor.ClusterID, n.Name)
	}
	if m.Serial == "" {
		m.Serial = b.Anchor.Cluster + "-" + n.Name
	}
	return m, nil
}

// nameUUID is the same for the same node of the same cluster.
func nameUUID(clusterID, name string) string {
	sum := sha256.Sum256([]byte(clusterID + "/" + name))
	sum[6] = sum[6]&0x0f | 0x80 // version 8: made by a rule of our own
	sum[8] = sum[8]&0x3f | 0x80
	h := hex.EncodeToString(sum[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// fixedAddresses are the addresses that the file gives to nodes.
func fixedAddresses(p *clusterfile.Plan) map[string]netip.Addr {
	fixed := map[string]netip.Addr{}
	for _, n := range p.Nodes {
		for _, net := range n.Settings.Networks {
			if at, err := netip.ParsePrefix(net.Address); err == nil && fixed[n.Name] == (netip.Addr{}) {
				fixed[n.Name] = at.Addr()
			}
		}
	}
	return fixed
}

// subnetOf is the network of the file's fixed addresses, which must be one.
func subnetOf(p *clusterfile.Plan) (netip.Prefix, error) {
	var subnet netip.Prefix
	for _, n := range p.Nodes {
		for _, net := range n.Settings.Networks {
			at, err := netip.ParsePrefix(net.Address)
			if err != nil {
				continue
			}
			if subnet.IsValid() && at.Masked() != subnet {
				return subnet, fmt.Errorf("node %s is in network %s, others are in %s: virtual machines share one LAN", n.Name, at.Masked(), subnet)
			}
			subnet = at.Masked()
			if net.Gateway != "" && net.Gateway != subnet.Addr().Next().String() {
				return subnet, fmt.Errorf("gateway %s of node %s: on the virtual LAN it is the network's first address, %s", net.Gateway, n.Name, subnet.Addr().Next())
			}
		}
	}
	if !subnet.IsValid() {
		return DefaultSubnet, nil
	}
	return subnet, nil
}

func nextFree(next *netip.Addr, taken map[string]netip.Addr) netip.Addr {
	for {
		*next = next.Next()
		free := true
		for _, a := range taken {
			free = free && a != *next
		}
		if free {
			return *next
		}
	}
}
