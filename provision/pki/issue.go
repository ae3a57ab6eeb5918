package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// Lifetimes. Every certificate begins an hour back, so that a clock a little behind
// does not refuse it.
const (
	rootLifetime     = 10 * 365 * 24 * time.Hour
	issuingLifetime  = 90 * 24 * time.Hour
	NodeLifetime     = 24 * time.Hour
	OperatorLifetime = 30 * 24 * time.Hour
	backdated        = time.Hour
)

// maxCSR bounds a certificate request, in bytes.
const maxCSR = 16 << 10

// ErrIssuerExpired says that the issuing key has run out and must be renewed by the owner.
var ErrIssuerExpired = errors.New("the issuing key has run out")

func newRoot(cluster, clusterID string, now time.Time) (KeyPair, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return KeyPair{}, err
	}
	template := authority("Mesolith root of "+cluster, clusterID, now, rootLifetime)
	template.MaxPathLen = 1
	certPEM, err := sign(template, template, key.Public(), key)
	if err != nil {
		return KeyPair{}, fmt.Errorf("make root CA: %w", err)
	}
	return KeyPair{Key: keyPEM, Cert: certPEM}, nil
}

// RenewIssuing makes a new issuing key, signed by the root, good for 90 days.
func (s *Secrets) RenewIssuing(now time.Time) error {
	root, err := parseCert(s.Root.Cert)
	if err != nil {
		return fmt.Errorf("root of the secrets file: %w", err)
	}
	rootKey, err := parseKey(s.Root.Key)
	if err != nil {
		return fmt.Errorf("root of the secrets file: %w", err)
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return err
	}
	template := authority("Mesolith issuer of "+s.Cluster, s.ClusterID, now, issuingLifetime)
	template.MaxPathLenZero = true
	certPEM, err := sign(template, root, key.Public(), rootKey)
	if err != nil {
		return fmt.Errorf("make issuing key: %w", err)
	}
	s.Issuing = KeyPair{Key: keyPEM, Cert: certPEM}
	return nil
}

// IssuingEnds says when the issuing key runs out.
func (s *Secrets) IssuingEnds() (time.Time, error) {
	cert, err := parseCert(s.Issuing.Cert)
	if err != nil {
		return time.Time{}, fmt.Errorf("issuing key of the secrets file: %w", err)
	}
	return cert.NotAfter, nil
}

// Issuer signs the certificates of one cluster. It is safe for use by many goroutines.
type Issuer struct {
	clusterID     string
	key           crypto.Signer
	issuing, root *x509.Certificate
}

// OpenIssuer reads the secrets of a master's medium and verifies that they belong to the
// anchor's cluster.
func OpenIssuer(s nodedoc.IssuerSecrets, a nodedoc.Anchor) (*Issuer, error) {
	root, err := parseCert(s.CAPEM)
	if err != nil {
		return nil, fmt.Errorf("root of the issuer: %w", err)
	}
	if nodecert.Pin(root) != a.CAPin {
		return nil, fmt.Errorf("issuer: %w", nodecert.ErrOtherRoot)
	}
	issuing, err := parseCert(s.IssuingCertPEM)
	if err != nil {
		return nil, fmt.Errorf("issuing certificate: %w", err)
	}
	if err := issuing.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("issuing certificate is not the root's: %w", err)
	}
	key, err := parseKey(s.IssuingKeyPEM)
	if err != nil {
		return nil, fmt.Errorf("issuing key: %w", err)
	}
	if pub, ok := key.Public().(*ecdsa.PublicKey); !ok || !pub.Equal(issuing.PublicKey) {
		return nil, errors.New("issuing key and certificate do not belong together")
	}
	return &Issuer{clusterID: a.ClusterID, key: key, issuing: issuing, root: root}, nil
}

// Ends says when the issuing key runs out.
func (i *Issuer) Ends() time.Time { return i.issuing.NotAfter }

// Node says for whom a node certificate is.
type Node struct {
	Name, Incarnation string
	Master            bool
	// Addresses are the IP addresses at which API clients may find the node.
	Addresses []net.IP
	// Names are DNS names besides the node's own.
	Names []string
}

// IssueNode signs a node's certificate request. Only the key is taken from the request;
// who it is for is the caller's word. The chain is leaf, issuing, root, in DER.
func (i *Issuer) IssueNode(csrDER []byte, n Node, now time.Time) (chain [][]byte, err error) {
	if len(csrDER) > maxCSR {
		return nil, fmt.Errorf("certificate request of %d bytes, at most %d are allowed", len(csrDER), maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if !nodedoc.ValidName(n.Name) || !nodecert.ValidIncarnation(n.Incarnation) {
		return nil, fmt.Errorf("certificate for %.80q, incarnation %.80q: malformed", n.Name, n.Incarnation)
	}
	roles := []string{nodecert.RoleAgent}
	if n.Master {
		roles = append(roles, nodecert.RoleMaster)
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: n.Name, OrganizationalUnit: roles},
		URIs:        []*url.URL{nodecert.NodeURI(i.clusterID, n.Name, n.Incarnation)},
		DNSNames:    append([]string{n.Name}, n.Names...),
		IPAddresses: n.Addresses,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	return i.leaf(template, csr.PublicKey, now, NodeLifetime)
}

// IssueOperator makes a key and a certificate for a person. role is reader, operator or
// admin. Both results are PEM, the certificate with its chain.
func (i *Issuer) IssueOperator(name, role string, now time.Time, lifetime time.Duration) (certPEM, keyPEM string, err error) {
	switch role {
	case nodedoc.RoleReader, nodedoc.RoleOperator, nodedoc.RoleAdmin:
	default:
		return "", "", fmt.Errorf("role of an operator is reader, operator or admin, not %.80q", role)
	}
	if !nodedoc.ValidName(name) {
		return "", "", fmt.Errorf("operator name %q is not a DNS label (a-z, 0-9 and dashes, at most 63)", name)
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name, OrganizationalUnit: []string{role}},
		URIs:        []*url.URL{nodecert.OperatorURI(i.clusterID, name)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	chain, err := i.leaf(template, key.Public(), now, lifetime)
	if err != nil {
		return "", "", err
	}
	return EncodeChain(chain), keyPEM, nil
}

func (i *Issuer) leaf(template *x509.Certificate, pub crypto.PublicKey, now time.Time, lifetime time.Duration) ([][]byte, error) {
	if !now.Before(i.issuing.NotAfter) {
		return nil, fmt.Errorf("%w on %s; the owner renews it with `lith plan -o DIR`", ErrIssuerExpired, i.issuing.NotAfter.Format(time.RFC3339))
	}
	template.NotBefore, template.NotAfter = now.Add(-backdated), now.Add(lifetime)
	if template.NotAfter.After(i.issuing.NotAfter) {
		template.NotAfter = i.issuing.NotAfter
	}
	var err error
	if template.SerialNumber, err = serial(); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.issuing, pub, i.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", template.Subject.CommonName, err)
	}
	return [][]byte{der, i.issuing.Raw, i.root.Raw}, nil
}

// NewNodeKey makes the key of a node's incarnation and the request to sign it.
func NewNodeKey() (key *ecdsa.PrivateKey, csrDER []byte, err error) {
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make node key: %w", err)
	}
	csrDER, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	return key, csrDER, nil
}

// EncodeChain gives certificates as PEM, in their order.
func EncodeChain(chain [][]byte) string {
	var out []byte
	for _, der := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return string(out)
}

func authority(cn, clusterID string, now time.Time, lifetime time.Duration) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: cn, SerialNumber: clusterID},
		NotBefore: now.Add(-backdated), NotAfter: now.Add(lifetime),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func sign(template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (string, error) {
	var err error
	if template.SerialNumber, err = serial(); err != nil {
		return "", err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		return "", err
	}
	return EncodeChain([][]byte{der}), nil
}

func serial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return n, nil
}

func newKey() (crypto.Signer, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, "", fmt.Errorf("encode key: %w", err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

func parseCert(text string) (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
		return nil, errors.New("not exactly one PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

func parseKey(text string) (crypto.Signer, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("not a PEM private key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		return key, nil
	case ed25519.PrivateKey:
		return key, nil
	}
	return nil, fmt.Errorf("key is a %T, not ECDSA or Ed25519", key)
}
