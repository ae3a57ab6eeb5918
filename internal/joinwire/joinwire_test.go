package joinwire

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/join"
)

type cluster struct {
	t      *testing.T
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	anchor nodedoc.Anchor
	boot   map[string]ed25519.PrivateKey
}

func newCluster(t *testing.T, id string, nodes ...string) *cluster {
	t.Helper()
	key := nodeKey(t)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	c := &cluster{t: t, key: key, boot: map[string]ed25519.PrivateKey{}}
	c.cert = c.create(root, root, &key.PublicKey)
	owner, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.anchor = nodedoc.Anchor{Format: 1, Cluster: "stone", ClusterID: id, OwnerKey: owner, CAPin: nodecert.Pin(c.cert)}
	for _, n := range nodes {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c.boot[n] = private
	}
	return c
}

func nodeKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (c *cluster) create(template, parent *x509.Certificate, public any) *x509.Certificate {
	c.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

func (c *cluster) chain(name, incarnation string, public any, roles ...string) [][]byte {
	leaf := c.create(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name, OrganizationalUnit: roles},
		URIs:      []*url.URL{nodecert.NodeURI(c.anchor.ClusterID, name, incarnation)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, c.cert, public)
	return [][]byte{leaf.Raw, c.cert.Raw}
}

// office opens an issuer on loopback.
func (c *cluster) office(change func(*Issuer), roles ...string) (address string) {
	key := nodeKey(c.t)
	cert := tls.Certificate{Certificate: c.chain("m1", "m1-incarnation", &key.PublicKey, roles...), PrivateKey: key}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{ALPN}, MinVersion: tls.VersionTLS13})
	if err != nil {
		c.t.Fatal(err)
	}
	i := &Issuer{
		Name: "m1", ClusterID: c.anchor.ClusterID, LivesWait: time.Second, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		BootKey: func(name string) (ed25519.PublicKey, bool) {
			k, ok := c.boot[name]
			if !ok {
				return nil, false
			}
			return k.Public().(ed25519.PublicKey), true
		},
		Lives: func(context.Context, string) (Living, bool) { return Living{}, false },
		Issue: func(name, incarnation string, csr []byte, _ net.Addr) ([][]byte, error) {
			r, err := x509.ParseCertificateRequest(csr)
			if err != nil {
				return nil, err
			}
			return c.chain(name, incarnation, r.PublicKey, nodecert.RoleAgent), nil
		},
	}
	change(i)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- i.Serve(ctx, l) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
	return l.Addr().String()
}

func (c *cluster) request(name string, key *ecdsa.PrivateKey) Request {
	c.t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		c.t.Fatal(err)
	}
	return Request{Anchor: c.anchor, Name: name, Incarnation: name + "-incarnation", CSR: csr, Credential: c.boot[name], Now: time.Now()}
}

const id, otherID = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"

func same(*Issuer) {}

func TestJoin(t *testing.T) {
	c := newCluster(t, id, "w1")
	address := c.office(same, nodecert.RoleMaster)
	for _, now := range []time.Time{time.Now(), {}} { // with and without a clock
		r := c.request("w1", nodeKey(t))
		r.Now = now
		g, err := Ask(t.Context(), address, r)
		if err != nil {
			t.Fatal(err)
		}
		if len(g.Chain) != 2 || g.Issuer != "m1" || time.Since(g.Time).Abs() > time.Minute {
			t.Errorf("%d certificates of %s at %s", len(g.Chain), g.Issuer, g.Time)
		}
	}
}

func TestWhoMayNotJoin(t *testing.T) {
	c := newCluster(t, id, "w1", "w2")
	foreign := newCluster(t, otherID, "w1")
	key, running := nodeKey(t), nodeKey(t)
	alive := func(incarnation string, key crypto.PublicKey) func(*Issuer) {
		return func(i *Issuer) {
			i.Lives = func(context.Context, string) (Living, bool) { return Living{incarnation, key}, true }
		}
	}
	for name, test := range map[string]struct {
		issuer  func(*Issuer)
		role    string
		request func() Request
		want    error
		text    string
	}{
		"wrong credential": {same, nodecert.RoleMaster, func() Request { r := c.request("w1", key); r.Credential = c.boot["w2"]; return r }, ErrWrongCredential, "medium of another node"},
		"unknown node":     {same, nodecert.RoleMaster, func() Request { r := c.request("w9", key); r.Credential = c.boot["w2"]; return r }, ErrUnknownNode, "has no node w9"},
		"a living twin":    {alive("w1-another", &running.PublicKey), nodecert.RoleMaster, func() Request { return c.request("w1", key) }, ErrAlive, "incarnation w1-another"},
		"its own id with another key": {
			alive("w1-incarnation", &running.PublicKey), nodecert.RoleMaster,
			func() Request { return c.request("w1", key) }, ErrAlive, "not signed by its key",
		},
		"renewal by another key": {
			alive("w1-incarnation", &running.PublicKey), nodecert.RoleMaster,
			func() Request { r := c.request("w1", key); r.Previous = key; return r }, ErrAlive, "not signed by its key",
		},
		"no time":         {func(i *Issuer) { i.Now = func() time.Time { return time.Time{} } }, nodecert.RoleMaster, func() Request { return c.request("w1", key) }, ErrNotNow, "does not know the time"},
		"a worker issues": {same, nodecert.RoleAgent, func() Request { return c.request("w1", key) }, nil, "no master"},
		"another cluster": {same, nodecert.RoleMaster, func() Request { return foreign.request("w1", key) }, nodecert.ErrOtherRoot, "root"},
		"issuer gives another's certificate": {func(i *Issuer) {
			i.Issue = func(_, _ string, _ []byte, _ net.Addr) ([][]byte, error) {
				return c.chain("w2", "w2-incarnation", &key.PublicKey, nodecert.RoleAgent), nil
			}
		}, nodecert.RoleMaster, func() Request { return c.request("w1", key) }, nil, "is of w2"},
		"issuer cannot sign": {func(i *Issuer) {
			i.Issue = func(_, _ string, _ []byte, _ net.Addr) ([][]byte, error) {
				return nil, errors.New("the issuing key ran out")
			}
		}, nodecert.RoleMaster, func() Request { return c.request("w1", key) }, ErrNotNow, "ran out"},
	} {
		t.Run(name, func(t *testing.T) {
			address := c.office(test.issuer, test.role)
			_, err := Ask(t.Context(), address, test.request())
			if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v; want %v with %q", err, test.want, test.text)
			}
		})
	}
}

func TestTheLivingRenews(t *testing.T) {
	c := newCluster(t, id, "w1")
	running := nodeKey(t)
	address := c.office(func(i *Issuer) {
		i.Lives = func(context.Context, string) (Living, bool) {
			return Living{"w1-incarnation", &running.PublicKey}, true
		}
	}, nodecert.RoleMaster)
	r := c.request("w1", nodeKey(t))
	r.Previous = running
	if _, err := Ask(t.Context(), address, r); err != nil {
		t.Fatal(err)
	}
}

// A proof recorded in one session is worth nothing in another.
func TestAProofIsOfOneSession(t *testing.T) {
	c := newCluster(t, id, "w1")
	address := c.office(same, nodecert.RoleMaster)
	r := c.request("w1", nodeKey(t))
	var proofs [][]byte
	for range 2 {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{ALPN}})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		state := conn.ConnectionState()
		exporter, err := state.ExportKeyingMaterial(nodecert.ExporterLabel, nil, 32)
		if err != nil {
			t.Fatal(err)
		}
		proofs = append(proofs, nodecert.BootProof(r.Credential, exporter, r.CSR))
		if len(proofs) < 2 {
			continue
		}
		q := &join.Request{Protocol: 1, ClusterId: id, Name: "w1", Incarnation: r.Incarnation, Csr: r.CSR, Proof: proofs[0]}
		if err := wire.Write(conn, q); err != nil {
			t.Fatal(err)
		}
		a := &join.Answer{}
		if err := wire.Read(conn, a, maxAnswer); err != nil || a.GetReason() != join.Reason_REASON_WRONG_CREDENTIAL {
			t.Errorf("%v %v", a, err)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add("w1", "w1-incarnation", id, []byte("csr"), []byte("proof"))
	f.Add("", "", "", []byte{}, []byte{})
	i := &Issuer{
		Name: "m1", ClusterID: id, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		BootKey: func(string) (ed25519.PublicKey, bool) { return make([]byte, ed25519.PublicKeySize), true },
		Lives:   func(context.Context, string) (Living, bool) { return Living{}, false },
		Issue: func(string, string, []byte, net.Addr) ([][]byte, error) {
			return nil, errors.New("must not be reached")
		},
	}
	f.Fuzz(func(t *testing.T, name, incarnation, cluster string, csr, proof []byte) {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		answer, err := i.consider(t.Context(), a, &join.Request{Protocol: 1, ClusterId: cluster, Name: name, Incarnation: incarnation, Csr: csr, Proof: proof})
		if err == nil || len(answer.GetChain()) > 0 || strings.Contains(err.Error(), "must not") {
			t.Errorf("%v %v", answer, err)
		}
	})
}
