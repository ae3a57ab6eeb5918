package nodecert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mesolith/mesolith/internal/nodedoc"
)

const clusterID = "0123456789abcdef0123456789abcdef"

func leaf(cn string, ous []string, uris ...string) *x509.Certificate {
	c := &x509.Certificate{Subject: pkix.Name{CommonName: cn, OrganizationalUnit: ous}}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			panic(err)
		}
		c.URIs = append(c.URIs, parsed)
	}
	return c
}

func TestParse(t *testing.T) {
	node := NodeURI(clusterID, "m1", "abcdef0123456789").String()
	for _, c := range []struct {
		name string
		cert *x509.Certificate
		want Peer
		err  string
	}{
		{"a master", leaf("m1", []string{"agent", "master"}, node), Peer{Name: "m1", Incarnation: "abcdef0123456789", Roles: []string{"agent", "master"}}, ""},
		{"an operator", leaf("ann", []string{"admin"}, OperatorURI(clusterID, "ann").String()), Peer{Name: "ann", Roles: []string{"admin"}, Operator: true}, ""},
		{"no URI", leaf("m1", []string{"agent"}), Peer{}, "no single"},
		{"two URIs", leaf("m1", []string{"agent"}, node, node), Peer{}, "no single"},
		{"another cluster", leaf("m1", []string{"agent"}, NodeURI(strings.Repeat("0", 32), "m1", "abcdef0123456789").String()), Peer{}, "of cluster"},
		{"another name", leaf("m2", []string{"agent"}, node), Peer{}, "disagree"},
		{"no role", leaf("m1", nil, node), Peer{}, "has no role"},
		{"a node as admin", leaf("m1", []string{"admin"}, node), Peer{}, "unknown role"},
		{"an operator as master", leaf("ann", []string{"master"}, OperatorURI(clusterID, "ann").String()), Peer{}, "unknown role"},
		{"a short incarnation", leaf("m1", []string{"agent"}, NodeURI(clusterID, "m1", "x").String()), Peer{}, "incarnation"},
		{"another kind", leaf("m1", []string{"agent"}, "mesolith://"+clusterID+"/god/m1"), Peer{}, "neither"},
		{"nothing", nil, Peer{}, "no certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse(c.cert, clusterID)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func issue(t *testing.T, parent *authority, template *x509.Certificate) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	signer := authority{cert: template, key: key}
	if parent != nil {
		signer = *parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert: cert, key: key}
}

func TestVerifyChain(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ca := func(name string) *x509.Certificate {
		return &x509.Certificate{
			Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign, NotBefore: start, NotAfter: start.AddDate(1, 0, 0),
		}
	}
	node := func() *x509.Certificate {
		c := leaf("m1", []string{"agent"}, NodeURI(clusterID, "m1", "abcdef0123456789").String())
		c.NotBefore, c.NotAfter = start, start.Add(24*time.Hour)
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
		return c
	}
	root := issue(t, nil, ca("root"))
	issuing := issue(t, &root, ca("issuing"))
	m1 := issue(t, &issuing, node())
	otherRoot := issue(t, nil, ca("root"))
	forged := issue(t, &otherRoot, node())
	a := nodedoc.Anchor{Format: 1, Cluster: "demo", ClusterID: clusterID, CAPin: Pin(root.cert)}
	chain := func(list ...authority) (certs []*x509.Certificate) {
		for _, e := range list {
			certs = append(certs, e.cert)
		}
		return certs
	}
	for _, c := range []struct {
		name  string
		chain []*x509.Certificate
		now   time.Time
		err   string
	}{
		{"a good one", chain(m1, issuing, root), start.Add(time.Hour), ""},
		{"no time yet", chain(m1, issuing, root), time.Time{}, ""},
		{"run out", chain(m1, issuing, root), start.AddDate(0, 0, 2), "expired"},
		{"a clock that is hours behind", chain(m1, issuing, root), start.Add(-7 * time.Hour), ""},
		{"another root", chain(forged, otherRoot), start.Add(time.Hour), "root"},
		{"our root shown, another signed", chain(forged, otherRoot, root), start.Add(time.Hour), "unknown authority"},
		{"root missing", chain(m1, issuing), start.Add(time.Hour), "root"},
		{"nothing", nil, start, "no certificate"},
		{"too many", chain(m1, issuing, root, root, root, root, root, root, root), start, "at most"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := VerifyChain(c.chain, a, c.now)
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if err == nil && p.Name != "m1" {
				t.Errorf("peer is %+v", p)
			}
		})
	}
	if _, err := VerifyChain(chain(m1, issuing), a, start); !errors.Is(err, ErrOtherRoot) {
		t.Errorf("error %v, want %v", err, ErrOtherRoot)
	}
}

func TestBootProof(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	pub := key.Public().(ed25519.PublicKey)
	session, csr := bytes.Repeat([]byte{2}, 32), []byte("request")
	proof := BootProof(key, session, csr)
	if !VerifyBootProof(pub, session, csr, proof) {
		t.Error("a good proof was refused")
	}
	if VerifyBootProof(pub, bytes.Repeat([]byte{3}, 32), csr, proof) {
		t.Error("a proof of another session was accepted")
	}
	if VerifyBootProof(pub, session, []byte("other"), proof) {
		t.Error("a proof for another request was accepted")
	}
	if VerifyBootProof(nil, session, csr, proof) {
		t.Error("a proof was accepted without a key")
	}
}

// FuzzParse feeds certificates as a peer would send them.
func FuzzParse(f *testing.F) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	template := leaf("m1", []string{"agent"}, NodeURI(clusterID, "m1", "abcdef0123456789").String())
	template.SerialNumber = big.NewInt(1)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		if p, err := Parse(cert, clusterID); err == nil && (!nodedoc.ValidName(p.Name) || len(p.Roles) == 0) {
			t.Errorf("accepted %+v", p)
		}
		_, _ = VerifyChain([]*x509.Certificate{cert, cert}, nodedoc.Anchor{CAPin: Pin(cert), ClusterID: clusterID}, time.Time{})
	})
}
