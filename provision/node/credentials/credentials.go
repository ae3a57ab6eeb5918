// Package credentials keeps the certificate of one incarnation of a node: it makes the
// key, has it certified, and renews it at half of its life.
//
// Invariant: the key is made on this machine and is written only below a directory of
// its own in memory (0700), from where a restarted noded takes it up again; what is
// handed out is always a key with a certificate that verifies against the anchor and
// names this node and this incarnation.
//
// Who certifies is the caller's: a master signs with the issuing key of its own medium
// (provision/pki), every other node asks a master by join/1.
package credentials

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// Set is a key with its certificate, PEM and parsed.
type Set struct {
	KeyPEM   []byte // PKCS #8
	ChainPEM []byte // leaf, then the issuing certificate
	RootPEM  []byte
	TLS      *tls.Certificate // with the whole chain
	Leaf     *x509.Certificate
}

// Who says for whom the certificate is.
type Who struct {
	Anchor            nodedoc.Anchor
	Name, Incarnation string
	Master            bool
	Addresses         []netip.Addr
}

// Certify has a request signed; the chain is leaf, issuing, root in DER.
type Certify func(ctx context.Context, csrDER []byte) (chain [][]byte, err error)

const (
	keyFile   = "node.key"
	chainFile = "node.crt"
	maxFile   = 64 << 10
)

// RenewAt is when a certificate is to be renewed: after half of its life, the hour that
// it is dated back not counted.
func RenewAt(leaf *x509.Certificate) time.Time {
	const backdated = time.Hour
	from := leaf.NotBefore.Add(backdated)
	return from.Add(leaf.NotAfter.Sub(from) / 2)
}

// Issue makes a new key, has it certified, verifies what came back and stores both.
func Issue(ctx context.Context, dir string, w Who, now func() time.Time, newKey func() (*ecdsa.PrivateKey, []byte, error), certify Certify) (*Set, error) {
	key, csr, err := newKey()
	if err != nil {
		return nil, err
	}
	chain, err := certify(ctx, csr)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode node key: %w", err)
	}
	var chainPEM []byte
	for _, c := range chain {
		chainPEM = append(chainPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	set, err := open(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), chainPEM, w, now())
	if err != nil {
		return nil, fmt.Errorf("the certificate that was issued is of no use: %w", err)
	}
	return set, set.save(dir)
}

// Load takes up what an earlier start of noded stored, unless it does not fit any more.
func Load(dir string, w Who, now time.Time) (*Set, error) {
	key, err := readFile(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, err
	}
	chain, err := readFile(filepath.Join(dir, chainFile))
	if err != nil {
		return nil, err
	}
	return open(key, chain, w, now)
}

// Covers reports whether a certificate names all the addresses: API clients look there.
func (s *Set) Covers(addresses []netip.Addr) bool {
	for _, a := range addresses {
		if !slices.ContainsFunc(s.Leaf.IPAddresses, func(ip net.IP) bool {
			have, ok := netip.AddrFromSlice(ip)
			return ok && have.Unmap() == a
		}) {
			return false
		}
	}
	return true
}

func open(keyPEM, chainPEM []byte, w Who, now time.Time) (*Set, error) {
	cert, err := tls.X509KeyPair(chainPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("node key and certificate: %w", err)
	}
	var chain []*x509.Certificate
	for _, der := range cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("node certificate: %w", err)
		}
		chain = append(chain, c)
	}
	peer, err := nodecert.VerifyChain(chain, w.Anchor, now)
	if err != nil {
		return nil, err
	}
	if peer.Operator || peer.Name != w.Name || peer.Incarnation != w.Incarnation || peer.Master() != w.Master {
		return nil, fmt.Errorf("certificate is for %s, incarnation %s, roles %v, not for this node %s, incarnation %s", peer.Name, peer.Incarnation, peer.Roles, w.Name, w.Incarnation)
	}
	set := &Set{KeyPEM: keyPEM, TLS: &cert, Leaf: chain[0]}
	for _, c := range chain {
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		if nodecert.Pin(c) == w.Anchor.CAPin {
			set.RootPEM = block
			continue
		}
		set.ChainPEM = append(set.ChainPEM, block...)
	}
	return set, nil
}

// save writes key and certificate; the certificate last, so that a key without one is
// what a death in between leaves, and that does not load.
func (s *Set) save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("store node key: %w", err)
	}
	if err := os.Remove(filepath.Join(dir, chainFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("store node key: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{keyFile, s.KeyPEM}, {chainFile, append(slices.Clone(s.ChainPEM), s.RootPEM...)}} {
		if err := writeFile(filepath.Join(dir, f.name), f.data); err != nil {
			return fmt.Errorf("store %s: %w", f.name, err)
		}
	}
	return nil
}

func writeFile(path string, data []byte) error {
	next := path + ".new"
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

func readFile(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxFile {
		return nil, fmt.Errorf("read %s: longer than %d bytes", path, maxFile)
	}
	return raw, nil
}

// SelfSigned makes the certificate that the node API shows before there is a real one.
func SelfSigned(newKey func() (*ecdsa.PrivateKey, []byte, error), template *x509.Certificate) (*tls.Certificate, error) {
	key, _, err := newKey()
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign own certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign own certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
