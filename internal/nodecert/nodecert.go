// Package nodecert reads the certificates by which nodes and operators prove who they
// are, verifies their chain against a cluster's pinned root, and makes and verifies the
// proof by which a node with a boot credential asks for a certificate.
//
// Invariant: Parse gives a Peer only for a certificate whose common name, URI and
// organizational units agree and whose URI names this cluster; VerifyChain gives one
// only when, besides, the chain ends at the root that the anchor pins. There is no
// other root: the machine's own store of authorities is never asked.
//
// It issues nothing (provision/pki does) and opens no connection (clusterd/peers does).
package nodecert

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/mesolith/mesolith/internal/nodedoc"
)

// Roles that a node's certificate may carry.
const (
	RoleAgent  = "agent"
	RoleMaster = "master"
)

// uriScheme begins the URI of every certificate of a cluster.
const uriScheme = "mesolith"

// ErrOtherRoot says that a chain does not end at the root that the anchor pins.
var ErrOtherRoot = errors.New("certificate chain does not end at this cluster's root")

// Peer is who holds a certificate.
type Peer struct {
	Name        string
	Incarnation string   // of a node; empty for an operator
	Roles       []string // agent, master; or reader, operator, admin
	Operator    bool
}

// Has reports whether the peer has a role.
func (p Peer) Has(role string) bool {
	for _, r := range p.Roles {
		if r == role {
			return true
		}
	}
	return false
}

// Master reports whether the peer is a node that may speak Raft.
func (p Peer) Master() bool { return !p.Operator && p.Has(RoleMaster) }

// NodeURI is the URI of one incarnation of a node.
func NodeURI(clusterID, name, incarnation string) *url.URL {
	return &url.URL{Scheme: uriScheme, Host: clusterID, Path: "/node/" + name + "/" + incarnation}
}

// OperatorURI is the URI of an operator.
func OperatorURI(clusterID, name string) *url.URL {
	return &url.URL{Scheme: uriScheme, Host: clusterID, Path: "/operator/" + name}
}

// Parse reads who holds a certificate of the given cluster. It does not verify the chain.
func Parse(cert *x509.Certificate, clusterID string) (Peer, error) {
	if cert == nil {
		return Peer{}, errors.New("no certificate")
	}
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != uriScheme {
		return Peer{}, fmt.Errorf("certificate of %.80q has no single %s: URI", cert.Subject.CommonName, uriScheme)
	}
	uri := cert.URIs[0]
	if uri.Host != clusterID {
		return Peer{}, fmt.Errorf("certificate of %.80q is of cluster %.80q, not %s", cert.Subject.CommonName, uri.Host, clusterID)
	}
	var p Peer
	parts := strings.Split(uri.Path, "/")
	allowed := []string{RoleAgent, RoleMaster}
	switch {
	case len(parts) == 4 && parts[1] == "node":
		p = Peer{Name: parts[2], Incarnation: parts[3]}
		if !ValidIncarnation(p.Incarnation) {
			return Peer{}, fmt.Errorf("certificate of %.80q has a malformed incarnation", cert.Subject.CommonName)
		}
	case len(parts) == 3 && parts[1] == "operator":
		p = Peer{Name: parts[2], Operator: true}
		allowed = []string{nodedoc.RoleReader, nodedoc.RoleOperator, nodedoc.RoleAdmin}
	default:
		return Peer{}, fmt.Errorf("certificate URI %.200q is neither a node's nor an operator's", uri)
	}
	if p.Name != cert.Subject.CommonName || !nodedoc.ValidName(p.Name) {
		return Peer{}, fmt.Errorf("certificate's common name %.80q and URI %.200q disagree", cert.Subject.CommonName, uri)
	}
	for _, ou := range cert.Subject.OrganizationalUnit {
		if !contains(allowed, ou) {
			return Peer{}, fmt.Errorf("certificate of %s has an unknown role %.80q", p.Name, ou)
		}
		p.Roles = append(p.Roles, ou)
	}
	if len(p.Roles) == 0 {
		return Peer{}, fmt.Errorf("certificate of %s has no role", p.Name)
	}
	return p, nil
}

// ValidIncarnation reports whether an id of an incarnation is well formed: 8 to 64
// letters, digits or dashes.
func ValidIncarnation(id string) bool {
	if len(id) < 8 || len(id) > 64 {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// Pin is the SHA-256 of a certificate's SubjectPublicKeyInfo, as anchors carry it.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// VerifyChain verifies a presented chain (leaf first, the root included) against the
// anchor's pin and reads who holds the leaf. With a zero time (a node that has none yet)
// validity in time is not checked, only the chain.
func VerifyChain(chain []*x509.Certificate, a nodedoc.Anchor, now time.Time) (Peer, error) {
	if len(chain) == 0 {
		return Peer{}, errors.New("peer presented no certificate")
	}
	if len(chain) > 8 {
		return Peer{}, fmt.Errorf("peer presented %d certificates, at most 8 are looked at", len(chain))
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	pinned := false
	for _, cert := range chain[1:] {
		if Pin(cert) == a.CAPin {
			roots.AddCert(cert)
			pinned = true
			continue
		}
		between.AddCert(cert)
	}
	if !pinned {
		return Peer{}, fmt.Errorf("%w (%s)", ErrOtherRoot, a.Cluster)
	}
	if now.IsZero() {
		now = chain[0].NotBefore.Add(chain[0].NotAfter.Sub(chain[0].NotBefore) / 2)
	}
	for _, cert := range chain {
		// A certificate of the future shows that our clock is behind, and nothing else:
		// to refuse it would cut this node off from all whose certificates are new.
		if now.Before(cert.NotBefore) {
			now = cert.NotBefore
		}
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return Peer{}, fmt.Errorf("certificate of %.80q: %w", chain[0].Subject.CommonName, err)
	}
	return Parse(chain[0], a.ClusterID)
}

// VerifyPeer is VerifyChain for the other end of a TLS connection; it fits
// tls.Config.VerifyConnection of both sides (with InsecureSkipVerify on the dialling
// side, which turns off the check by host name that this one replaces).
func VerifyPeer(state tls.ConnectionState, a nodedoc.Anchor, now time.Time) (Peer, error) {
	return VerifyChain(state.PeerCertificates, a, now)
}

// ExporterLabel is the label by which both ends of a join derive the bytes that tie a
// proof to their TLS session: state.ExportKeyingMaterial(ExporterLabel, nil, 32).
const ExporterLabel = "EXPORTER-mesolith-join-1"

const proofContext = "mesolith join 1\n"

// BootProof signs a certificate request with a boot credential, bound to one TLS session.
func BootProof(credential ed25519.PrivateKey, exporter, csrDER []byte) []byte {
	return ed25519.Sign(credential, proofText(exporter, csrDER))
}

// VerifyBootProof verifies what BootProof made.
func VerifyBootProof(credential ed25519.PublicKey, exporter, csrDER, proof []byte) bool {
	if len(credential) != ed25519.PublicKeySize || len(exporter) < 16 {
		return false
	}
	return ed25519.Verify(credential, proofText(exporter, csrDER), proof)
}

func proofText(exporter, csrDER []byte) []byte {
	request := sha256.Sum256(csrDER)
	session := sha256.Sum256(exporter)
	text := append([]byte(proofContext), session[:]...)
	return append(text, request[:]...)
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

// bootKeyType is the PEM type of a boot credential.
const bootKeyType = "PRIVATE KEY"

// maxBootKey bounds the file of a boot credential, in bytes.
const maxBootKey = 4096

// EncodeBootKey gives a boot credential as a node's medium carries it (node.key).
func EncodeBootKey(key ed25519.PrivateKey) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("encode boot key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: bootKeyType, Bytes: der})), nil
}

// ParseBootKey reads a boot credential (node.key).
func ParseBootKey(raw []byte) (ed25519.PrivateKey, error) {
	if len(raw) > maxBootKey {
		return nil, fmt.Errorf("boot key of %d bytes, at most %d are allowed", len(raw), maxBootKey)
	}
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != bootKeyType {
		return nil, fmt.Errorf("boot key is not PEM of type %s", bootKeyType)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("boot key: %w", err)
	}
	signer, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("boot key is a %T, not Ed25519", key)
	}
	return signer, nil
}
