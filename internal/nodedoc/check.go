package nodedoc

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"path"
	"strings"
	"time"
)

// Bounds of what a document may hold.
const (
	maxText     = 1024 // one free text
	maxList     = 64   // addresses, servers, arguments, attributes of one node
	maxNetworks = 16
	maxNodes    = 10_000
	maxTime     = 24 * time.Hour
)

// ValidName reports whether a name may be a cluster's or a node's: a DNS label in lower
// case, 1 to 63 characters.
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > 63 || name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// ValidClusterID reports whether an id has the form that cluster ids have: 32 lower-case
// hexadecimal digits.
func ValidClusterID(id string) bool { return isHex(id, 16) }

// Check verifies an anchor's fields.
func (a Anchor) Check() error {
	switch {
	case a.Format != Format:
		return fmt.Errorf("%w %d (this program knows %d)", ErrFormat, a.Format, Format)
	case !ValidName(a.Cluster):
		return fmt.Errorf("cluster name %.80q is not a DNS label", a.Cluster)
	case !ValidClusterID(a.ClusterID):
		return fmt.Errorf("cluster id %.80q is not 32 hexadecimal digits", a.ClusterID)
	case len(a.OwnerKey) != ed25519.PublicKeySize:
		return fmt.Errorf("owner key has %d bytes, not %d", len(a.OwnerKey), ed25519.PublicKeySize)
	case !isHex(a.CAPin, 32):
		return fmt.Errorf("CA pin %.80q is not a SHA-256 in hexadecimal", a.CAPin)
	}
	return nil
}

// Check verifies every field of a node document; Seal and Open call it.
func (d Document) Check() error {
	checks := []func(Document) error{
		checkIdentity, checkMasters, checkTimes, checkAPI, checkNetworks, checkMachine, checkAllocation, checkTasks,
	}
	for _, check := range checks {
		if err := check(d); err != nil {
			return err
		}
	}
	return nil
}

func checkIdentity(d Document) error {
	switch {
	case d.Format != Format:
		return fmt.Errorf("%w %d (this program knows %d)", ErrFormat, d.Format, Format)
	case !ValidName(d.Cluster):
		return fmt.Errorf("cluster name %.80q is not a DNS label", d.Cluster)
	case !ValidClusterID(d.ClusterID):
		return fmt.Errorf("cluster id %.80q is not 32 hexadecimal digits", d.ClusterID)
	case !ValidName(d.Name):
		return fmt.Errorf("node name %.80q is not a DNS label", d.Name)
	case d.Revision == 0:
		return fmt.Errorf("revision is 0")
	case !isHex(d.DocumentHash, 32):
		return fmt.Errorf("documentHash %.80q is not a SHA-256 in hexadecimal", d.DocumentHash)
	case d.SignedAt.IsZero():
		return fmt.Errorf("signedAt is missing")
	case len(d.Zone) > 63:
		return fmt.Errorf("zone has %d characters, at most 63 are allowed", len(d.Zone))
	case len(d.Region) > 63:
		return fmt.Errorf("region has %d characters, at most 63 are allowed", len(d.Region))
	case len(d.Attributes) > maxList:
		return fmt.Errorf("%d attributes, at most %d are allowed", len(d.Attributes), maxList)
	case len(d.Peers) > maxList*4:
		return fmt.Errorf("%d peers, at most %d are allowed", len(d.Peers), maxList*4)
	}
	for _, p := range d.Peers {
		if !ValidName(p.Name) {
			return fmt.Errorf("peer name %.80q is not a DNS label", p.Name)
		}
		if _, err := netip.ParseAddr(p.Address); err != nil {
			return fmt.Errorf("address %.80q of peer %s is not an IP address", p.Address, p.Name)
		}
	}
	return nil
}

func checkMasters(d Document) error { return d.Masters.check() }

func (m Masters) check() error {
	if n := len(m.Names); n != 1 && n != 3 && n != 5 {
		return fmt.Errorf("%d masters, not 1, 3 or 5", n)
	}
	if m.Version == 0 {
		return fmt.Errorf("version of the list of masters is 0")
	}
	seen := make(map[string]bool, len(m.Names))
	for _, n := range m.Names {
		if !ValidName(n) || seen[n] {
			return fmt.Errorf("master %.80q is not a node name or is named twice", n)
		}
		seen[n] = true
	}
	return within("masters.waitMS", m.WaitMS, 0, maxTime.Milliseconds())
}

func checkTimes(d Document) error {
	day := maxTime.Milliseconds()
	for _, t := range []struct {
		name       string
		value, min int64
	}{
		{"raft.heartbeatMS", d.Raft.HeartbeatMS, 10},
		{"raft.stallMS", d.Raft.StallMS, 10},
		{"agentsGraceMS", d.AgentsGraceMS, 1000},
		{"adoptWaitMS", d.AdoptWaitMS, 0},
		{"time.waitMS", d.Time.WaitMS, 0},
	} {
		if err := within(t.name, t.value, t.min, day); err != nil {
			return err
		}
	}
	return texts("time.servers", d.Time.Servers, 255)
}

func checkAPI(d Document) error {
	switch d.API.Anonymous {
	case AnonymousNone, AnonymousReader, AnonymousFramework:
	default:
		return fmt.Errorf("api.anonymous %.80q is not none, reader or framework", d.API.Anonymous)
	}
	if err := texts("api.plaintextFrom", d.API.PlaintextFrom, 64); err != nil {
		return err
	}
	for _, cidr := range d.API.PlaintextFrom {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			return fmt.Errorf("api.plaintextFrom %.80q is not a network", cidr)
		}
	}
	if len(d.API.Domain) > 253 {
		return fmt.Errorf("api.domain has %d characters, at most 253 are allowed", len(d.API.Domain))
	}
	if n := d.API.RuleBytes(); n > MaxAPIRules {
		return fmt.Errorf("api.acls and api.rateLimits have %d bytes as JSON, at most %d are allowed", n, MaxAPIRules)
	}
	if d.ZooKeeper != "" {
		if err := CheckZooKeeper(d.ZooKeeper); err != nil {
			return fmt.Errorf("zookeeper: %w", err)
		}
	}
	return nil
}

// CheckZooKeeper says what of a path could not be that of a group of masters.
func CheckZooKeeper(p string) error {
	switch {
	case len(p) > 255:
		return fmt.Errorf("the path has %d characters, at most 255 are allowed", len(p))
	case !strings.HasPrefix(p, "/") || p == "/" || path.Clean(p) != p || strings.ContainsFunc(p, func(c rune) bool { return c <= ' ' || c > '~' }):
		return fmt.Errorf("%q is no path of a znode: it begins with a slash, does not end with one, and has no empty parts, spaces or letters beyond ASCII, as /mesos", p)
	}
	return nil
}

// RuleBytes is how long ACLs and rate limits are as JSON.
func (a API) RuleBytes() int {
	raw, err := json.Marshal(API{ACLs: a.ACLs, RateLimits: a.RateLimits})
	if err != nil {
		return math.MaxInt
	}
	return len(raw)
}

func checkNetworks(d Document) error {
	if n := len(d.Networks); n == 0 || n > maxNetworks {
		return fmt.Errorf("%d networks, 1 to %d are allowed", n, maxNetworks)
	}
	seen := make(map[string]bool, len(d.Networks))
	for _, n := range d.Networks {
		if !ValidName(n.Name) || seen[n.Name] {
			return fmt.Errorf("network %.80q is not a DNS label or is named twice", n.Name)
		}
		seen[n.Name] = true
		if err := n.check(); err != nil {
			return fmt.Errorf("network %s: %w", n.Name, err)
		}
	}
	return nil
}

func (n Network) check() error {
	if n.Match == (Match{}) {
		return fmt.Errorf("match is empty")
	}
	if n.Match.Link != "" && n.Match.Link != "any-up" {
		return fmt.Errorf("match.link %.80q is not any-up", n.Match.Link)
	}
	if len(n.Match.MAC) > 17 || len(n.Match.Driver) > 64 {
		return fmt.Errorf("match.mac or match.driver is too long")
	}
	if n.DHCP == (n.Address != "") {
		return fmt.Errorf("either dhcp or an address, not both or none")
	}
	if n.Address != "" {
		if _, err := netip.ParsePrefix(n.Address); err != nil {
			return fmt.Errorf("address %.80q is not an address with prefix length", n.Address)
		}
	}
	if n.Gateway != "" {
		if _, err := netip.ParseAddr(n.Gateway); err != nil {
			return fmt.Errorf("gateway %.80q is not an IP address", n.Gateway)
		}
	}
	if err := texts("dns", n.DNS, 64); err != nil {
		return err
	}
	for _, a := range n.DNS {
		if _, err := netip.ParseAddr(a); err != nil {
			return fmt.Errorf("dns %.80q is not an IP address", a)
		}
	}
	if n.MTU != 0 {
		return within("mtu", int64(n.MTU), 576, 65535)
	}
	return nil
}

func checkMachine(d Document) error {
	switch {
	case d.Mode != ModeRAM && d.Mode != ModeDisk:
		return fmt.Errorf("mode %.80q is not ram or disk", d.Mode)
	case d.Modules != "early" && d.Modules != "late":
		return fmt.Errorf("modules %.80q is not early or late", d.Modules)
	case math.IsNaN(d.Reserve.CPUs) || d.Reserve.CPUs < 0 || d.Reserve.CPUs > 4096:
		return fmt.Errorf("reserve.cpus %v is not within 0 to 4096", d.Reserve.CPUs)
	case math.IsNaN(d.Oversubscribe.CPUs) || d.Oversubscribe.CPUs < 0 || d.Oversubscribe.CPUs > 4096:
		return fmt.Errorf("oversubscribe.cpus %v is not within 0 to 4096", d.Oversubscribe.CPUs)
	case d.Reserve.MemoryMB > 1<<30:
		return fmt.Errorf("reserve.memoryMB %d is too much", d.Reserve.MemoryMB)
	case len(d.Resources) > maxText || len(d.Console) > maxText:
		return fmt.Errorf("resources or console is longer than %d characters", maxText)
	}
	if err := within("watchdogSeconds", int64(d.WatchdogSeconds), 0, 3600); err != nil {
		return err
	}
	if err := within("ramStorePercent", int64(d.RAMStorePercent), 1, 90); err != nil {
		return err
	}
	for key, value := range d.Attributes {
		if key == "" || len(key) > 128 || len(value) > maxText {
			return fmt.Errorf("attribute %.80q is empty or too long", key)
		}
	}
	return texts("kernelArgs", d.KernelArgs, maxText)
}

// nodesOwn are directories with what belongs to a node and its programs alone.
var nodesOwn = []string{"/dev", "/etc", "/proc", "/run", "/store", "/sys", "/usr/lib/mesolith", "/var/lib/mesolith", "/var/lib/mesos"}

// CheckHostPath says whether tasks can be given a path of a node's, and what lies below it.
func CheckHostPath(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p {
		return fmt.Errorf("%.200q is not an absolute path in its shortest form", p)
	}
	for _, own := range nodesOwn {
		if p == "/" || p == own || strings.HasPrefix(p, own+"/") || strings.HasPrefix(own, p+"/") {
			return fmt.Errorf("%.200q is a place of the node's own files, or holds one (%s): name a directory that is there for tasks", p, own)
		}
	}
	return nil
}

func checkAllocation(d Document) error {
	for name, sorter := range map[string]string{"roleSorter": d.Allocation.RoleSorter, "frameworkSorter": d.Allocation.FrameworkSorter} {
		if sorter != "" && sorter != SorterDRF && sorter != SorterRandom {
			return fmt.Errorf("allocation.%s %.80q is not drf or random", name, sorter)
		}
	}
	if n := len(d.Allocation.FairSharingExcluded); n > maxList {
		return fmt.Errorf("allocation.fairSharingExcluded names %d resources, at most %d are allowed", n, maxList)
	}
	return nil
}

func checkTasks(d Document) error {
	if d.Tasks.Image == "" || len(d.Tasks.Image) > maxText {
		return fmt.Errorf("tasks.image is empty or too long")
	}
	if d.Tasks.Report != "container" && d.Tasks.Report != "host" {
		return fmt.Errorf("tasks.report %.80q is not container or host", d.Tasks.Report)
	}
	if _, err := netip.ParsePrefix(d.Tasks.Pool); err != nil {
		return fmt.Errorf("tasks.pool %.80q is not a network", d.Tasks.Pool)
	}
	if err := texts("tasks.hostNetworkRoles", d.Tasks.HostNetworkRoles, 255); err != nil {
		return err
	}
	if err := texts("tasks.hostPaths", d.Tasks.HostPaths, maxText); err != nil {
		return err
	}
	for _, p := range d.Tasks.HostPaths {
		if err := CheckHostPath(p); err != nil {
			return fmt.Errorf("tasks.hostPaths: %w", err)
		}
	}
	if len(d.Registries.Mirrors) > maxList {
		return fmt.Errorf("%d registries with mirrors, at most %d are allowed", len(d.Registries.Mirrors), maxList)
	}
	for host, mirrors := range d.Registries.Mirrors {
		if host == "" || len(host) > 255 {
			return fmt.Errorf("registry %.80q is empty or too long", host)
		}
		if err := texts("registries.mirrors["+host+"]", mirrors, maxText); err != nil {
			return err
		}
	}
	return nil
}

// Check verifies a cluster document; SealCluster and OpenCluster call it.
func (d ClusterDocument) Check() error {
	switch {
	case d.Format != Format:
		return fmt.Errorf("%w %d (this program knows %d)", ErrFormat, d.Format, Format)
	case !ValidName(d.Cluster):
		return fmt.Errorf("cluster name %.80q is not a DNS label", d.Cluster)
	case !ValidClusterID(d.ClusterID):
		return fmt.Errorf("cluster id %.80q is not 32 hexadecimal digits", d.ClusterID)
	case d.Revision == 0:
		return fmt.Errorf("revision is 0")
	case d.SignedAt.IsZero():
		return fmt.Errorf("signedAt is missing")
	case len(d.Nodes) > maxNodes:
		return fmt.Errorf("%d nodes, at most %d are allowed", len(d.Nodes), maxNodes)
	}
	if err := d.Masters.check(); err != nil {
		return err
	}
	for _, name := range d.Masters.Names {
		if _, ok := d.Nodes[name]; !ok {
			return fmt.Errorf("master %s is not among the nodes", name)
		}
	}
	for name, n := range d.Nodes {
		if !ValidName(name) {
			return fmt.Errorf("node name %.80q is not a DNS label", name)
		}
		if len(n.BootKey) != ed25519.PublicKeySize {
			return fmt.Errorf("boot key of %s has %d bytes, not %d", name, len(n.BootKey), ed25519.PublicKeySize)
		}
		if len(n.Addresses) > maxNetworks {
			return fmt.Errorf("%s has %d addresses, at most %d are allowed", name, len(n.Addresses), maxNetworks)
		}
		for _, a := range n.Addresses {
			if _, err := netip.ParseAddr(a); err != nil {
				return fmt.Errorf("address %.80q of %s is not an IP address", a, name)
			}
		}
	}
	return nil
}

func within(name string, value, min, max int64) error {
	if value < min || value > max {
		return fmt.Errorf("%s %d is not within %d to %d", name, value, min, max)
	}
	return nil
}

func texts(name string, list []string, longest int) error {
	if len(list) > maxList {
		return fmt.Errorf("%s has %d entries, at most %d are allowed", name, len(list), maxList)
	}
	for _, s := range list {
		if s == "" || len(s) > longest {
			return fmt.Errorf("%s: %.80q is empty or longer than %d characters", name, s, longest)
		}
	}
	return nil
}

func isHex(s string, bytes int) bool {
	if len(s) != 2*bytes || strings.ToLower(s) != s {
		return false
	}
	_, err := hex.DecodeString(s)
	return err == nil
}
