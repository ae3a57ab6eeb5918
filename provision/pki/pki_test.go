package pki

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

func at(day int) time.Time { return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC).AddDate(0, 0, day) }

func cluster(t *testing.T) (*Secrets, nodedoc.Anchor, *Issuer) {
	t.Helper()
	s, err := NewCluster("demo", []string{"m1", "m2"}, at(0))
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Anchor()
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := s.IssuerSecrets()
	if err != nil {
		t.Fatal(err)
	}
	i, err := OpenIssuer(secrets, a)
	if err != nil {
		t.Fatal(err)
	}
	return s, a, i
}

func certs(t *testing.T, chain [][]byte) (out []*x509.Certificate) {
	t.Helper()
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

func TestNodeCertificate(t *testing.T) {
	_, a, i := cluster(t)
	_, csr, err := NewNodeKey()
	if err != nil {
		t.Fatal(err)
	}
	n := Node{Name: "m1", Incarnation: "0123456789abcdef", Master: true, Addresses: []net.IP{net.IPv4(10, 7, 0, 11)}}
	chain, err := i.IssueNode(csr, n, at(1))
	if err != nil {
		t.Fatal(err)
	}
	list := certs(t, chain)
	got, err := nodecert.VerifyChain(list, a, at(1).Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	want := nodecert.Peer{Name: "m1", Incarnation: "0123456789abcdef", Roles: []string{"agent", "master"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if err := list[0].VerifyHostname("10.7.0.11"); err != nil {
		t.Error(err)
	}
	if life := list[0].NotAfter.Sub(at(1)); life > 24*time.Hour || !list[0].NotBefore.Equal(at(1).Add(-time.Hour)) {
		t.Errorf("valid from %s to %s", list[0].NotBefore, list[0].NotAfter)
	}
	if _, err := nodecert.VerifyChain(list, a, at(3)); err == nil {
		t.Error("a certificate that ran out was accepted")
	}
}

func TestIssuerRefuses(t *testing.T) {
	s, _, i := cluster(t)
	_, csr, err := NewNodeKey()
	if err != nil {
		t.Fatal(err)
	}
	good := Node{Name: "m1", Incarnation: "0123456789abcdef"}
	if _, err := i.IssueNode(csr, good, at(91)); !errors.Is(err, ErrIssuerExpired) {
		t.Errorf("after 91 days: %v, want %v", err, ErrIssuerExpired)
	}
	chain, err := i.IssueNode(csr, good, at(90).Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if c := certs(t, chain); c[0].NotAfter.After(c[1].NotAfter) {
		t.Error("a certificate outlives its issuer")
	}
	for name, n := range map[string]Node{
		"no incarnation": {Name: "m1"},
		"a bad name":     {Name: "M 1", Incarnation: "0123456789abcdef"},
	} {
		if _, err := i.IssueNode(csr, n, at(1)); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
	csr[len(csr)-1] ^= 1
	if _, err := i.IssueNode(csr, good, at(1)); err == nil {
		t.Error("a request with a broken signature was signed")
	}
	other, err := NewCluster("demo", nil, at(0))
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Anchor()
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := s.IssuerSecrets()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenIssuer(secrets, foreign); !errors.Is(err, nodecert.ErrOtherRoot) {
		t.Errorf("an issuer of another cluster: %v", err)
	}
}

func TestOperatorCertificate(t *testing.T) {
	_, a, i := cluster(t)
	certPEM, keyPEM, err := i.IssueOperator("ann", nodedoc.RoleAdmin, at(0), OperatorLifetime)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(certPEM), []byte(keyPEM))
	if err != nil {
		t.Fatal(err)
	}
	got, err := nodecert.VerifyChain(certs(t, pair.Certificate), a, at(1))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(nodecert.Peer{Name: "ann", Roles: []string{"admin"}, Operator: true}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if got.Master() {
		t.Error("an operator counts as a master")
	}
	if _, _, err := i.IssueOperator("ann", "master", at(0), OperatorLifetime); err == nil {
		t.Error("an operator became a master")
	}
}

func TestSecretsFile(t *testing.T) {
	s, _, _ := cluster(t)
	path := filepath.Join(t.TempDir(), "cluster.secrets.yaml")
	if err := s.Create(path); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(s, got); d != "" {
		t.Errorf("secrets changed on their way (-want +got):\n%s", d)
	}
	if err := s.Create(path); !errors.Is(err, ErrExists) {
		t.Errorf("a second create: %v, want %v", err, ErrExists)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); !errors.Is(err, ErrMode) || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others can read: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestBootKeys(t *testing.T) {
	s, _, _ := cluster(t)
	if made, err := s.EnsureNode("m1"); made || err != nil {
		t.Errorf("a boot key was made twice: %v, %v", made, err)
	}
	if made, err := s.EnsureNode("w01"); !made || err != nil {
		t.Errorf("no boot key was made: %v", err)
	}
	pub, err := s.BootKey("w01")
	if err != nil {
		t.Fatal(err)
	}
	key, err := nodecert.ParseBootKey([]byte(s.BootKeys["w01"]))
	if err != nil {
		t.Fatal(err)
	}
	if !key.Public().(ed25519.PublicKey).Equal(pub) {
		t.Error("the halves of a boot key differ")
	}
	if _, err := s.BootKey("w02"); err == nil || !strings.Contains(err.Error(), "lith plan") {
		t.Errorf("error %v does not say what to do", err)
	}
}

// FuzzParse feeds secrets files.
func FuzzParse(f *testing.F) {
	f.Add([]byte("format: 1\ncluster: demo\nclusterID: 0123456789abcdef0123456789abcdef\nownerKey: AAAA\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if s, err := Parse(raw); err == nil {
			if _, err := s.Anchor(); err != nil {
				t.Errorf("accepted without an anchor: %v", err)
			}
		}
	})
}
