package cluster

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/provision/pki"
)

// manyNodes is from when on a node document names the masters' addresses only, to keep
// within its 16 KiB; the others are found by their beacons.
const manyNodes = 64

// Options of Render.
type Options struct {
	Now time.Time
	// Previous is the document that the cluster runs by, nil for a new cluster.
	Previous *nodedoc.ClusterDocument
	// Heartbeat replaces the file's, where machines are emulated; 0 leaves it.
	Heartbeat time.Duration
}

// Bundle is everything that machines are handed to become the cluster.
type Bundle struct {
	Anchor     nodedoc.Anchor
	AnchorJSON []byte
	Document   nodedoc.ClusterDocument
	Cluster    []byte // signed; for masters
	Issuer     []byte // secret; for masters
	Nodes      map[string]NodeFiles
}

// NodeFiles is what one node's medium carries.
type NodeFiles struct {
	Document []byte // signed
	Key      []byte // secret: the boot credential, PEM
	Master   bool   // also gets the bundle's Cluster and Issuer
}

// Render signs the documents of a plan. Every node must have a boot key in the secrets.
func Render(p *Plan, s *pki.Secrets, opt Options) (*Bundle, error) {
	if s.Cluster != p.File.Cluster {
		return nil, fmt.Errorf("the secrets are of cluster %q, the file is of %q — name the right one with secrets: in the cluster file", s.Cluster, p.File.Cluster)
	}
	owner, err := s.Owner()
	if err != nil {
		return nil, err
	}
	b := &Bundle{Nodes: map[string]NodeFiles{}}
	if b.Anchor, err = s.Anchor(); err != nil {
		return nil, err
	}
	if b.AnchorJSON, err = b.Anchor.Encode(); err != nil {
		return nil, err
	}
	if b.Document, err = clusterDocument(p, s, opt); err != nil {
		return nil, err
	}
	var hash string
	if b.Cluster, hash, err = nodedoc.SealCluster(b.Document, owner); err != nil {
		return nil, err
	}
	issuer, err := s.IssuerSecrets()
	if err != nil {
		return nil, err
	}
	if b.Issuer, err = issuer.Encode(); err != nil {
		return nil, err
	}
	home := p.home(b.Document.Masters.Names)
	for _, n := range p.Nodes {
		raw, err := nodedoc.Seal(nodeDocument(p, n, b.Document, hash, home, opt), owner)
		if err != nil {
			return nil, err
		}
		b.Nodes[n.Name] = NodeFiles{Document: raw, Key: []byte(s.BootKeys[n.Name]), Master: b.Document.Masters.Has(n.Name)}
	}
	return b, nil
}

func clusterDocument(p *Plan, s *pki.Secrets, opt Options) (nodedoc.ClusterDocument, error) {
	masters, err := p.nextMasters(opt.Previous)
	if err != nil {
		return nodedoc.ClusterDocument{}, err
	}
	doc := nodedoc.ClusterDocument{
		Format: nodedoc.Format, Cluster: s.Cluster, ClusterID: s.ClusterID, Masters: masters, File: p.Text,
		Nodes: map[string]nodedoc.Admission{}, SignedAt: opt.Now.UTC().Truncate(time.Second),
	}
	for _, n := range p.Nodes {
		key, err := s.BootKey(n.Name)
		if err != nil {
			return nodedoc.ClusterDocument{}, err
		}
		doc.Nodes[n.Name] = nodedoc.Admission{BootKey: key, Addresses: addresses(n)}
	}
	if doc.Revision, err = nextRevision(p, doc, opt.Previous); err != nil {
		return nodedoc.ClusterDocument{}, err
	}
	return doc, nil
}

// nextRevision rises with each change; a file that counts for itself must count upwards.
func nextRevision(p *Plan, doc nodedoc.ClusterDocument, prev *nodedoc.ClusterDocument) (uint64, error) {
	own := p.File.Revision
	if prev == nil {
		return max(own, 1), nil
	}
	if prev.File == doc.File && slices.Equal(prev.Masters.Names, doc.Masters.Names) && len(prev.Nodes) == len(doc.Nodes) {
		return prev.Revision, nil
	}
	if own != 0 && own <= prev.Revision {
		return 0, fmt.Errorf("revision: %d — the cluster runs by revision %d already; write %d, or remove the key and lith counts", own, prev.Revision, prev.Revision+1)
	}
	return max(own, prev.Revision+1), nil
}

func addresses(n *Node) []string {
	var out []string
	for _, net := range n.Settings.Networks {
		if p, err := netip.ParsePrefix(net.Address); err == nil {
			out = append(out, p.Addr().String())
		}
	}
	return out
}

// home is the region of the masters, and of all nodes that name none. Where no node of the
// file names a region or a zone, it is empty.
func (p *Plan) home(masters []string) string {
	used := false
	for _, n := range p.Nodes {
		if n.Region != "" && slices.Contains(masters, n.Name) {
			return n.Region
		}
		used = used || n.Region != "" || n.Zone != ""
	}
	if used {
		return nodedoc.DefaultPlace
	}
	return ""
}

func nodeDocument(p *Plan, n *Node, c nodedoc.ClusterDocument, hash, home string, opt Options) nodedoc.Document {
	f, s := p.File, n.Settings
	heartbeat, stall := f.Heartbeat, f.Stall
	if opt.Heartbeat > 0 {
		stall = max(stall, stall*opt.Heartbeat/heartbeat)
		heartbeat = opt.Heartbeat
	}
	doc := nodedoc.Document{
		Format: nodedoc.Format, Cluster: c.Cluster, ClusterID: c.ClusterID, Revision: c.Revision, DocumentHash: hash,
		Name: n.Name, Mode: s.Mode, Region: cmp.Or(n.Region, home), Zone: n.Zone, Attributes: s.Attributes, Masters: c.Masters,
		Raft:          nodedoc.Raft{HeartbeatMS: heartbeat.Milliseconds(), StallMS: stall.Milliseconds()},
		AgentsGraceMS: f.AgentsGrace.Milliseconds(), AdoptWaitMS: f.AdoptWait.Milliseconds(),
		API: f.API, ZooKeeper: f.ZooKeeper, Networks: s.Networks, Time: s.Time, WatchdogSeconds: int(s.Watchdog / time.Second),
		Reserve: s.Reserve, Oversubscribe: s.Oversubscribe, Allocation: f.Allocation, RAMStorePercent: s.RAMStore, Resources: s.Resources, KernelArgs: s.KernelArgs,
		Modules: "early", Kexec: s.Kexec, Tasks: f.Tasks, Registries: f.Registries, SignedAt: c.SignedAt,
	}
	if s.Console != "auto" {
		doc.Console = s.Console
	}
	if f.ModulesLate {
		doc.Modules = "late"
	}
	for _, other := range p.Nodes {
		if len(p.Nodes) > manyNodes && !c.Masters.Has(other.Name) {
			continue
		}
		for _, a := range c.Nodes[other.Name].Addresses {
			doc.Peers = append(doc.Peers, nodedoc.Peer{Name: other.Name, Address: a})
		}
	}
	return doc
}
