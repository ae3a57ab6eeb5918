package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire/forward"
)

const clusterID = "0123456789abcdef0123456789abcdef"

func credentials(t *testing.T) nodedoc.APICredentials {
	t.Helper()
	var out nodedoc.APICredentials
	for _, c := range [][2]string{{"marathon", nodedoc.RoleFramework}, {"grafana", nodedoc.RoleReader}} {
		hash, err := nodedoc.HashSecret(c[0] + "-secret")
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, nodedoc.APICredential{Principal: c[0], SecretHash: hash, Role: c[1]})
	}
	return out
}

func TestIdentify(t *testing.T) {
	creds := credentials(t)
	closed := Policy{Anonymous: nodedoc.AnonymousNone, Credentials: creds}
	open := Policy{Anonymous: nodedoc.AnonymousFramework, Plaintext: true, Credentials: creds}
	some := Policy{Anonymous: nodedoc.AnonymousReader, Plaintext: true, PlaintextFrom: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	for _, c := range []struct {
		name         string
		policy       Policy
		tls          bool
		remote       string
		user, secret string
		want         Principal
		err          error
	}{
		{"nothing is set", Policy{}, true, "10.1.1.1:9", "", "", Principal{}, ErrUnauthenticated},
		{"no credentials", closed, true, "10.1.1.1:9", "", "", Principal{}, ErrUnauthenticated},
		{"plain is closed", closed, false, "127.0.0.1:9", "marathon", "marathon-secret", Principal{}, ErrForbidden},
		{"right", closed, true, "10.1.1.1:9", "marathon", "marathon-secret", Principal{"marathon", nodedoc.RoleFramework, Basic}, nil},
		{"wrong secret", closed, true, "10.1.1.1:9", "marathon", "x", Principal{}, ErrUnauthenticated},
		{"unknown", closed, true, "10.1.1.1:9", "nobody", "x", Principal{}, ErrUnauthenticated},
		{"empty user is anonymous", closed, true, "10.1.1.1:9", "", "x", Principal{}, ErrUnauthenticated},
		{"open", open, false, "10.1.1.1:9", "", "", Principal{Role: nodedoc.RoleFramework}, nil},
		{"open, some credentials", open, false, "10.1.1.1:9", "root", "root", Principal{Role: nodedoc.RoleFramework}, nil},
		{"open, wrong secret of somebody", open, false, "10.1.1.1:9", "grafana", "x", Principal{}, ErrUnauthenticated},
		{"open, right", open, false, "10.1.1.1:9", "grafana", "grafana-secret", Principal{"grafana", nodedoc.RoleReader, Basic}, nil},
		{"plain from a network", some, false, "10.1.1.1:9", "", "", Principal{Role: nodedoc.RoleReader}, nil},
		{"plain, mapped address", some, false, "[::ffff:10.1.1.1]:9", "", "", Principal{Role: nodedoc.RoleReader}, nil},
		{"plain from elsewhere", some, false, "192.168.1.1:9", "", "", Principal{}, ErrForbidden},
		{"TLS from elsewhere", some, true, "192.168.1.1:9", "", "", Principal{Role: nodedoc.RoleReader}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := New(time.Now)
			if err := a.Set(c.policy); err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequest(http.MethodGet, "/state", nil)
			r.RemoteAddr = c.remote
			if c.tls {
				r.TLS = &tls.ConnectionState{}
			}
			if c.user != "" || c.secret != "" {
				r.SetBasicAuth(c.user, c.secret)
			}
			got, err := a.Identify(r)
			if !errors.Is(err, c.err) || got != c.want {
				t.Errorf("%+v, %v; want %+v, %v", got, err, c.want, c.err)
			}
			// The same call through another node gives the same answer.
			fr := httptest.NewRequest(http.MethodGet, "/state", nil)
			fr.Header = r.Header.Clone()
			fr = fr.WithContext(WithCaller(fr.Context(), &forward.Caller{Remote: c.remote, Tls: c.tls}))
			got, err = a.Identify(fr)
			if !errors.Is(err, c.err) || got != c.want {
				t.Errorf("forwarded: %+v, %v; want %+v, %v", got, err, c.want, c.err)
			}
		})
	}
}

func TestForwardedCertificate(t *testing.T) {
	a := New(time.Now)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r = r.WithContext(WithCaller(context.Background(), &forward.Caller{
		Remote: "10.0.0.1:1", Tls: true, CertificateName: "ann", CertificateRoles: []string{"reader", "operator"},
	}))
	p, err := a.Identify(r)
	if want := (Principal{"ann", nodedoc.RoleOperator, Certificate}); err != nil || p != want {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestLadder(t *testing.T) {
	for _, c := range []struct {
		have, need string
		may        bool
	}{
		{"", "reader", false},
		{"reader", "reader", true},
		{"reader", "framework", false},
		{"framework", "reader", true},
		{"operator", "framework", true},
		{"operator", "admin", false},
		{"admin", "admin", true},
		{"master", "reader", false},
		{"admin", "", false},
		{"admin", "sorcerer", false},
	} {
		if got := (Principal{Role: c.have}).May(c.need); got != c.may {
			t.Errorf("%q may what needs %q: %v", c.have, c.need, got)
		}
	}
}

// ca is a cluster's root, good enough to sign leaves for tests.
type ca struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T) ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca{t, cert, key}
}

func (c ca) leaf(name, role string, uri *url.URL) tls.Certificate {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name, OrganizationalUnit: []string{role}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{uri},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, key.Public(), c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der, c.cert.Raw}, PrivateKey: key}
}

func TestCertificates(t *testing.T) {
	root, other := newCA(t), newCA(t)
	a := New(time.Now)
	anchor := nodedoc.Anchor{Format: 1, Cluster: "c", ClusterID: clusterID, CAPin: nodecert.Pin(root.cert)}
	if err := a.Set(Policy{Anonymous: nodedoc.AnonymousNone, Anchor: &anchor}); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(a.Guard(RealmMasterReadonly, nodedoc.RoleOperator, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(PrincipalOf(r.Context()).Name))
	})))
	node := nodecert.NodeURI(clusterID, "m1", "incarnation-1")
	srv.TLS = a.ServerTLS(&tls.Config{Certificates: []tls.Certificate{root.leaf("m1", "master", node)}})
	srv.Config.ErrorLog = nil
	srv.StartTLS()
	defer srv.Close()
	for _, c := range []struct {
		name   string
		cert   *tls.Certificate
		status int // 0: the handshake fails
		body   string
	}{
		{"none", nil, 401, "operator's certificate"},
		{"operator", new(root.leaf("ann", "operator", nodecert.OperatorURI(clusterID, "ann"))), 200, "ann"},
		{"reader", new(root.leaf("bob", "reader", nodecert.OperatorURI(clusterID, "bob"))), 403, "this needs 'operator'"},
		{"node", new(root.leaf("m1", "master", node)), 401, ""},
		{"other root", new(other.leaf("eve", "admin", nodecert.OperatorURI(clusterID, "eve"))), 0, ""},
		{"other cluster", new(root.leaf("eve", "admin", nodecert.OperatorURI(strings.Repeat("f", 32), "eve"))), 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := &tls.Config{InsecureSkipVerify: true}
			if c.cert != nil {
				conf.Certificates = []tls.Certificate{*c.cert}
			}
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
			resp, err := client.Get(srv.URL)
			if c.status == 0 {
				if err == nil {
					t.Fatalf("let in with status %d", resp.StatusCode)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body := new(strings.Builder)
			if err := resp.Write(body); err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.status || !strings.Contains(body.String(), c.body) {
				t.Errorf("%s", body)
			}
			if c.status == 401 && resp.Header.Get("WWW-Authenticate") != `Basic realm="mesos-master-readonly"` {
				t.Errorf("header %v", resp.Header)
			}
		})
	}
}

func TestPlainAllowed(t *testing.T) {
	a := New(time.Now)
	p, err := PolicyOf(nodedoc.API{Plaintext: true, PlaintextFrom: []string{"10.0.0.0/8"}, Anonymous: "none"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Set(p); err != nil {
		t.Fatal(err)
	}
	for ip, want := range map[string]bool{"10.2.3.4": true, "11.0.0.1": false} {
		if got := a.PlainAllowed(&net.TCPAddr{IP: net.ParseIP(ip), Port: 1}); got != want {
			t.Errorf("%s: %v", ip, got)
		}
	}
}
