package credentials

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/provision/pki"
)

func TestIssueAndLoad(t *testing.T) {
	secrets, err := pki.NewCluster("demo", []string{"m1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	anchor, err := secrets.Anchor()
	if err != nil {
		t.Fatal(err)
	}
	issuing, err := secrets.IssuerSecrets()
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := pki.OpenIssuer(issuing, anchor)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "secret")
	who := Who{Anchor: anchor, Name: "m1", Incarnation: strings.Repeat("a", 32), Master: true}
	certify := func(n pki.Node) Certify {
		return func(_ context.Context, csr []byte) ([][]byte, error) { return issuer.IssueNode(csr, n, time.Now()) }
	}
	node := pki.Node{Name: "m1", Incarnation: who.Incarnation, Master: true, Addresses: []net.IP{net.IPv4(10, 7, 0, 11)}}
	set, err := Issue(t.Context(), dir, who, time.Now, pki.NewNodeKey, certify(node))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory of the key: %v, %v", info, err)
	}
	half := time.Until(RenewAt(set.Leaf))
	if half < 11*time.Hour || half > 13*time.Hour {
		t.Errorf("renewed after %s", half)
	}
	if !set.Covers([]netip.Addr{netip.MustParseAddr("10.7.0.11")}) || set.Covers([]netip.Addr{netip.MustParseAddr("10.7.0.12")}) {
		t.Error("addresses of the certificate are read wrongly")
	}
	again, err := Load(dir, who, time.Now())
	if err != nil || string(again.KeyPEM) != string(set.KeyPEM) || string(again.RootPEM) != string(set.RootPEM) || string(again.ChainPEM) != string(set.ChainPEM) {
		t.Fatalf("taken up again: %v", err)
	}
	other := who
	other.Incarnation = strings.Repeat("b", 32)
	if _, err := Load(dir, other, time.Now()); err == nil {
		t.Error("another incarnation's certificate was taken up")
	}
	if _, err := Load(dir, who, time.Now().Add(25*time.Hour)); err == nil {
		t.Error("a certificate that ran out was taken up")
	}
	node.Master = false
	if _, err := Issue(t.Context(), dir, who, time.Now, pki.NewNodeKey, certify(node)); err == nil || !strings.Contains(err.Error(), "of no use") {
		t.Errorf("a certificate without the master's role: %v", err)
	}
	if _, err := Load(dir, who, time.Now()); err != nil {
		t.Errorf("a useless answer destroyed what there was: %v", err)
	}
}
