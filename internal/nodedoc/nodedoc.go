// Package nodedoc holds the documents by which a machine learns who it is: the anchor
// (public, all that a node must believe), the node document (what one node is and shall
// do), the cluster document (the whole cluster file, for masters), and the secrets that
// only a master's boot medium carries.
//
// Invariant: Open and OpenCluster return a document only when its envelope is within
// its bound, the signature is the owner's, the payload is in canonical form (decoding
// and encoding it again gives the same bytes), it belongs to the anchor's cluster and
// every field is within its range. Whoever holds a Document need not check it again.
//
// It does no I/O: where documents come from is noded's business, how they are made out
// of a cluster file is provision/cluster's, and keys are made by provision/pki.
package nodedoc

import (
	"cmp"
	"crypto/ed25519"
	"time"

	"github.com/mesolith/mesolith/internal/acl"
	"github.com/mesolith/mesolith/internal/ratelimit"
)

// Format is the number of the present form of anchors and documents. Numbers are never
// used again with another meaning.
const Format = 1

// Bounds of the documents as they travel, in bytes.
const (
	MaxAnchor          = 1 << 10
	MaxNodeDocument    = 16 << 10
	MaxClusterDocument = 4 << 20
	MaxIssuerSecrets   = 256 << 10
	// MaxAPIRules is what ACLs and rate limits together may take of a node document.
	MaxAPIRules = 8 << 10
)

// Modes of a node.
const (
	ModeRAM  = "ram"  // nothing is written to any disk
	ModeDisk = "disk" // a state partition and two slots
)

// What a caller without credentials may do on the API.
const (
	AnonymousNone      = "none"
	AnonymousReader    = "reader"
	AnonymousFramework = "framework" // and what a reader may
)

// DefaultPlace is the region, or the zone, of a node that names only the other.
const DefaultPlace = "default"

// Domain is where a node stands, with its names filled in; ok is false for one that says
// nothing of that.
func (d Document) Domain() (region, zone string, ok bool) {
	return cmp.Or(d.Region, DefaultPlace), cmp.Or(d.Zone, DefaultPlace), d.Region != "" || d.Zone != ""
}

// Anchor is all that a node must believe to recognise its cluster. It is public.
type Anchor struct {
	Format    int    `json:"format"`
	Cluster   string `json:"cluster"`
	ClusterID string `json:"clusterID"`
	// OwnerKey is the Ed25519 public key that signs documents.
	OwnerKey ed25519.PublicKey `json:"ownerKey"`
	// CAPin is the SHA-256 of the root CA's SubjectPublicKeyInfo, in lower-case hex.
	CAPin string `json:"caPin"`
}

// Document says what one node is. It holds no secret: netboot servers hand it to anyone.
type Document struct {
	Format    int    `json:"format"`
	Cluster   string `json:"cluster"`
	ClusterID string `json:"clusterID"`
	// Revision is the cluster file's; a node keeps the highest it saw.
	Revision uint64 `json:"revision"`
	// DocumentHash is the SHA-256 of the cluster document's payload, in lower-case hex.
	DocumentHash string `json:"documentHash"`
	Name         string `json:"name"`
	Mode         string `json:"mode"` // ModeRAM or ModeDisk
	// Region and Zone are the node's fault domain; both empty: it has none.
	Region     string            `json:"region,omitempty"`
	Zone       string            `json:"zone,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Masters    Masters           `json:"masters"`
	Raft       Raft              `json:"raft"`
	// AgentsGraceMS is how long an agent may be unheard before it is unreachable.
	AgentsGraceMS int64 `json:"agentsGraceMS"`
	// AdoptWaitMS is how long returning agents may be adopted after an empty birth.
	AdoptWaitMS int64 `json:"adoptWaitMS"`
	API         API   `json:"api"`
	// ZooKeeper is the path at which clients of ZooKeeper find the leader, as /mesos; empty:
	// the port is closed.
	ZooKeeper       string    `json:"zookeeper,omitempty"`
	Networks        []Network `json:"networks"`
	Time            Time      `json:"time"`
	WatchdogSeconds int       `json:"watchdogSeconds"`
	Reserve         Reserve   `json:"reserve"`
	// Oversubscribe is offered beyond what the node has, as what may be taken back.
	Oversubscribe   Oversubscribe `json:"oversubscribe,omitzero"`
	Allocation      Allocation    `json:"allocation,omitzero"`
	RAMStorePercent int           `json:"ramStorePercent"`
	Resources       string        `json:"resources,omitempty"` // Mesos resources text; empty: what the machine has
	Console         string        `json:"console,omitempty"`   // empty: automatic
	KernelArgs      []string      `json:"kernelArgs,omitempty"`
	Modules         string        `json:"modules"` // "early" or "late"
	Kexec           bool          `json:"kexec"`
	Tasks           Tasks         `json:"tasks"`
	Registries      Registries    `json:"registries"`
	// Peers are the addresses of the cluster's nodes that the file states.
	Peers    []Peer    `json:"peers,omitempty"`
	SignedAt time.Time `json:"signedAt"`
}

// Masters is the list of the nodes that vote, with the version that birth and
// replacement compare.
type Masters struct {
	Version uint64   `json:"version"`
	Names   []string `json:"names"`
	// WaitMS is how long a master waits for the others before a smaller majority founds.
	WaitMS int64 `json:"waitMS"`
}

// Has reports whether the named node is one of the masters.
func (m Masters) Has(name string) bool {
	for _, n := range m.Names {
		if n == name {
			return true
		}
	}
	return false
}

// Raft holds the times of the replicated log.
type Raft struct {
	HeartbeatMS int64 `json:"heartbeatMS"`
	StallMS     int64 `json:"stallMS"`
}

// API says how the ports 5050 and 5051 may be spoken to.
type API struct {
	Plaintext bool `json:"plaintext"`
	// PlaintextFrom limits plain HTTP to these networks; empty with Plaintext: everyone.
	PlaintextFrom []string `json:"plaintextFrom,omitempty"`
	Anonymous     string   `json:"anonymous"`
	Domain        string   `json:"domain,omitempty"`
	// ACLs are who may do what to which object; nil: what roles allow.
	ACLs *acl.ACLs `json:"acls,omitempty"`
	// RateLimits are how often each principal may call; nil: as often as it likes.
	RateLimits *ratelimit.Limits `json:"rateLimits,omitempty"`
}

// Network is one interface of the node, found by Match and configured by DHCP or with a
// fixed address.
type Network struct {
	Name    string   `json:"name"`
	Match   Match    `json:"match"`
	DHCP    bool     `json:"dhcp"`
	Address string   `json:"address,omitempty"` // with prefix length: 10.7.0.11/24
	Gateway string   `json:"gateway,omitempty"`
	DNS     []string `json:"dns,omitempty"`
	MTU     int      `json:"mtu,omitempty"` // 0: the driver's own
}

// Match finds a network card; every field that is set must agree.
type Match struct {
	MAC    string `json:"mac,omitempty"`
	Link   string `json:"link,omitempty"` // "any-up": the first card with carrier
	Driver string `json:"driver,omitempty"`
}

// Time says whom to ask for the time and how long to wait before running unsynced.
type Time struct {
	Servers []string `json:"servers"` // "dhcp" stands for what DHCP option 42 names
	WaitMS  int64    `json:"waitMS"`
}

// Reserve is what tasks never get. MemoryMB 0 means max(112 MB, 5 %).
type Reserve struct {
	CPUs     float64 `json:"cpus"`
	MemoryMB uint64  `json:"memoryMB"`
}

// Oversubscribe is what a node offers beyond what it has. Only CPUs can be: tasks that want
// more than there are become slower, and memory that is not there ends them.
type Oversubscribe struct {
	CPUs float64 `json:"cpus"`
}

// How siblings compete for offers.
const (
	SorterDRF    = "drf" // dominant resource fairness
	SorterRandom = "random"
)

// Allocation says how a leader divides what is free. Empty: the default, which is SorterDRF.
type Allocation struct {
	RoleSorter      string `json:"roleSorter,omitempty"`
	FrameworkSorter string `json:"frameworkSorter,omitempty"`
	// FairSharingExcluded are names of resources that do not count in shares.
	FairSharingExcluded []string `json:"fairSharingExcluded,omitempty"`
}

// Tasks holds the defaults of tasks.
type Tasks struct {
	Image            string   `json:"image"`  // "base" or an image reference
	Report           string   `json:"report"` // "container": tasks report their own address
	HostNetworkRoles []string `json:"hostNetworkRoles,omitempty"`
	Pool             string   `json:"pool"` // the addresses of all tasks of the cluster
	// HostPaths are the paths of the node's that tasks may have as volumes, with all below them.
	HostPaths []string `json:"hostPaths,omitempty"`
}

// Registries says where images come from.
type Registries struct {
	Mirrors map[string][]string `json:"mirrors,omitempty"`
	Offline bool                `json:"offline"` // true: never ask the public name
}

// Peer is a node whose address the file states.
type Peer struct {
	Name    string `json:"name"`
	Address string `json:"address"` // without prefix length and port
}

// ClusterDocument is the whole cluster file as its owner signed it, with what the file
// alone does not say: the masters chosen and the public halves of the boot credentials.
type ClusterDocument struct {
	Format    int     `json:"format"`
	Cluster   string  `json:"cluster"`
	ClusterID string  `json:"clusterID"`
	Revision  uint64  `json:"revision"`
	Masters   Masters `json:"masters"`
	// File is the cluster file's text.
	File string `json:"file"`
	// Nodes are all nodes of the file by name.
	Nodes    map[string]Admission `json:"nodes"`
	SignedAt time.Time            `json:"signedAt"`
}

// Admission is what an issuer must know of a node to give it a certificate.
type Admission struct {
	// BootKey is the Ed25519 public half of the boot credential.
	BootKey ed25519.PublicKey `json:"bootKey"`
	// Addresses are the fixed addresses of the node, good for its certificate.
	Addresses []string `json:"addresses,omitempty"`
}
