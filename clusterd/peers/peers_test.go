package peers

import (
	"bytes"
	"context"
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
	"sync"
	"testing"
	"time"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// authority is a cluster's root, for tests.
type authority struct {
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	anchor nodedoc.Anchor
}

func newAuthority(t *testing.T, name, id string) *authority {
	t.Helper()
	key := newKey(t)
	cert := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name + " root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, nil, &key.PublicKey, key)
	owner, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key, cert, nodedoc.Anchor{Format: 1, Cluster: name, ClusterID: id, OwnerKey: owner, CAPin: nodecert.Pin(cert)}}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, c, parent *x509.Certificate, public any, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (a *authority) issue(t *testing.T, uri *url.URL, name string, life time.Duration, roles ...string) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	leaf := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name, OrganizationalUnit: roles}, URIs: []*url.URL{uri},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a.cert, &key.PublicKey, a.key)
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, a.cert.Raw}, PrivateKey: key, Leaf: leaf}
}

func (a *authority) node(t *testing.T, name string, roles ...string) *tls.Certificate {
	return a.issue(t, nodecert.NodeURI(a.anchor.ClusterID, name, name+"-incarnation"), name, time.Hour, roles...)
}

type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type port struct {
	*Mux
	address string
	log     *logged
}

func serve(t *testing.T, cfg Config) *port {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out := &logged{}
	cfg.Log = slog.New(slog.NewTextHandler(out, nil))
	m := New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &port{m, l.Addr().String(), out}
}

func (p *port) caller(t *testing.T, name string, a *authority, cert *tls.Certificate) *Mux {
	t.Helper()
	return New(Config{
		Self: nodecert.Peer{Name: name, Incarnation: name + "-incarnation"}, Anchor: a.anchor, Certificate: func() *tls.Certificate { return cert },
		Resolve: func(string) []string { return []string{p.address} }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
}

func master(t *testing.T, a *authority) *port {
	cert := a.node(t, "m1", nodecert.RoleAgent, nodecert.RoleMaster)
	return serve(t, Config{
		Self: nodecert.Peer{Name: "m1", Incarnation: "m1-incarnation"}, Anchor: a.anchor,
		Certificate: func() *tls.Certificate { return cert },
	})
}

func echo(t *testing.T, l net.Listener, seen chan<- nodecert.Peer) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p, _ := PeerOf(c)
			seen <- p
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	t.Cleanup(func() { l.Close() })
}

func TestOneClusterTalks(t *testing.T) {
	a := newAuthority(t, "stone", "0123456789abcdef")
	p := master(t, a)
	seen := make(chan nodecert.Peer, 1)
	echo(t, p.Listener(Raft), seen)
	caller := p.caller(t, "m2", a, a.node(t, "m2", nodecert.RoleMaster))
	c, err := caller.Dial(t.Context(), "m1", Raft)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := <-seen; got.Name != "m2" || got.Incarnation != "m2-incarnation" || !got.Master() {
		t.Errorf("the called side saw %+v", got)
	}
	if name, incarnation := caller.Peer(c); name != "m1" || incarnation != "m1-incarnation" {
		t.Errorf("the caller saw %s %s", name, incarnation)
	}
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, 5)
	if _, err := io.ReadFull(c, back); err != nil || string(back) != "hello" {
		t.Errorf("%q %v", back, err)
	}
}

func TestWhoIsRefusedHearsWhy(t *testing.T) {
	a, b := newAuthority(t, "stone", "0123456789abcdef"), newAuthority(t, "other", "fedcba9876543210")
	p := master(t, a)
	echo(t, p.Listener(Raft), make(chan nodecert.Peer, 100))
	echo(t, p.Listener(Agent), make(chan nodecert.Peer, 100))
	forged := newAuthority(t, "stone", "0123456789abcdef") // same names, another root
	for name, test := range map[string]struct {
		caller *Mux
		ask    string
		alpn   string
		want   string
	}{
		"worker speaks raft":     {p.caller(t, "w1", a, a.node(t, "w1", nodecert.RoleAgent)), "m1", Raft, "takes [master]"},
		"not served":             {p.caller(t, "m2", a, a.node(t, "m2", nodecert.RoleMaster)), "m1", Birth, "does not speak birth/1"},
		"another cluster":        {p.caller(t, "m2", a, b.node(t, "m2", nodecert.RoleMaster)), "m1", Raft, `cluster "fedcba9876543210"`},
		"we are another cluster": {p.caller(t, "m2", b, b.node(t, "m2", nodecert.RoleMaster)), "m1", Raft, `cluster "0123456789abcdef"`},
		"wrong CA, same id":      {p.caller(t, "m2", a, forged.node(t, "m2", nodecert.RoleMaster)), "m1", Raft, "does not end at this cluster's root"},
		"another name answers":   {p.caller(t, "m2", a, a.node(t, "m2", nodecert.RoleMaster)), "m3", Raft, "m1 answers under the address of m3"},
		"ran out": {
			p.caller(t, "m2", a, a.issue(t, nodecert.NodeURI(a.anchor.ClusterID, "m2", "m2-incarnation"), "m2", -time.Minute, nodecert.RoleMaster)),
			"m1", Raft, "expired",
		},
		"operator": {p.caller(t, "eva", a, a.issue(t, nodecert.OperatorURI(a.anchor.ClusterID, "eva"), "eva", time.Hour, nodedoc.RoleAdmin)), "m1", Agent, "operator's certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := test.caller.Dial(t.Context(), test.ask, test.alpn)
			if err == nil {
				c.Close()
				t.Fatal("let in")
			}
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v; want %q", err, test.want)
			}
		})
	}
	if n := strings.Count(p.log.String(), "from=w1"); n != 1 {
		t.Errorf("refusal of w1 was logged %d times:\n%s", n, p.log)
	}
}

func TestJoinTakesCallersWithoutCertificate(t *testing.T) {
	a := newAuthority(t, "stone", "0123456789abcdef")
	p := master(t, a)
	seen := make(chan nodecert.Peer, 1)
	echo(t, p.Listener(Join), seen)
	c, err := tls.Dial("tcp", p.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{Join}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; got.Name != "" {
		t.Errorf("%+v", got)
	}
	if _, err := tls.Dial("tcp", p.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}); err == nil {
		t.Error("h2 was spoken")
	}
}

func TestPlainSaysWhoAnswers(t *testing.T) {
	p := serve(t, Config{Self: nodecert.Peer{Name: "n1", Incarnation: "incarnation-1"}, Plain: true})
	seen := make(chan nodecert.Peer, 1)
	echo(t, p.Listener(Raft), seen)
	caller := New(Config{Self: nodecert.Peer{Name: "n2", Incarnation: "incarnation-2"}, Plain: true, Resolve: func(string) []string { return []string{p.address} }})
	c, err := caller.Dial(t.Context(), "n1", Raft)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := <-seen; got.Name != "n2" || got.Incarnation != "incarnation-2" {
		t.Errorf("%+v", got)
	}
	if _, incarnation := caller.Peer(c); incarnation != "incarnation-1" {
		t.Errorf("%q", incarnation)
	}
	if _, err := caller.Dial(t.Context(), "n3", Raft); err == nil || !strings.Contains(err.Error(), "answers under the address of n3") {
		t.Errorf("%v", err)
	}
	raw, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	io.WriteString(raw, "GET / HTTP/1.1\r\n\r\n")
	if answer, _ := io.ReadAll(raw); !strings.Contains(string(answer), "is the caller a --dev clusterd too?") {
		t.Errorf("%q", answer)
	}
}

// One address takes no more than its share of handshakes.
func TestSilentCallersAreCounted(t *testing.T) {
	m := New(Config{})
	for range maxPerAddress {
		if !m.begin("10.0.0.1") {
			t.Fatal("refused too early")
		}
	}
	if m.begin("10.0.0.1") || !m.begin("10.0.0.2") {
		t.Error("handshakes are not counted by address")
	}
	m.end("10.0.0.1")
	if !m.begin("10.0.0.1") {
		t.Error("a free place was not given again")
	}
}

// Strangers who fill every place with silence keep no node out that was heard before.
func TestAFloodOfStrangers(t *testing.T) {
	a := newAuthority(t, "stone", "0123456789abcdef")
	cert := a.node(t, "m1", nodecert.RoleMaster)
	p := serve(t, Config{
		Self: nodecert.Peer{Name: "m1", Incarnation: "m1-incarnation"}, Anchor: a.anchor, Certificate: func() *tls.Certificate { return cert },
		Known: func(host string) bool { return host == "127.0.0.1" },
	})
	for host := range maxHandshakes / maxPerAddress {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(host+1))}}
		for range maxPerAddress {
			c, err := d.Dial("tcp", p.address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 2, 1)}}
	late, err := d.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if _, err := late.Read(make([]byte, 1)); err == nil {
		t.Error("a stranger too many was let in")
	}
	if _, _, ok := p.caller(t, "m2", a, a.node(t, "m2", nodecert.RoleMaster)).Lives(t.Context(), "m1"); !ok {
		t.Error("a node that was heard before is kept out")
	}
}

func FuzzFirstLine(f *testing.F) {
	f.Add("MESOLITH raft/1 n1 incarnation-1\n")
	f.Add("GET / HTTP/1.1\r\n")
	f.Add(strings.Repeat("a", 600))
	f.Fuzz(func(t *testing.T, text string) {
		line, err := readLine(strings.NewReader(text))
		if err == nil && (len(line) > maxWelcome || strings.Contains(line, "\n")) {
			t.Errorf("%q", line)
		}
	})
}

// A node that serves nothing proves all the same that it lives, and which one it is.
func TestWhoLives(t *testing.T) {
	a := newAuthority(t, "stone", "0123456789abcdef")
	p := master(t, a)
	caller := p.caller(t, "m2", a, a.node(t, "m2", nodecert.RoleMaster))
	if incarnation, key, ok := caller.Lives(t.Context(), "m1"); !ok || incarnation != "m1-incarnation" || key == nil {
		t.Errorf("%q %v %v", incarnation, key, ok)
	}
	if incarnation, _, ok := caller.Lives(t.Context(), "m3"); ok {
		t.Errorf("m1 answered for m3 as %q", incarnation)
	}
}

// A clone of a machine proves that it lives; its name and a forged certificate do not.
func TestWhoLivesUnderOnesOwnName(t *testing.T) {
	a := newAuthority(t, "stone", "0123456789abcdef")
	clone := master(t, a)
	self := New(Config{
		Self: nodecert.Peer{Name: "m1", Incarnation: "this"}, Anchor: a.anchor, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Certificate: func() *tls.Certificate {
			return a.issue(t, nodecert.NodeURI(a.anchor.ClusterID, "m1", "this"), "m1", time.Hour, nodecert.RoleMaster)
		},
	})
	if incarnation, _, ok := self.LivesAt(t.Context(), "m1", clone.address); !ok || incarnation != "m1-incarnation" {
		t.Errorf("the clone answered as %q, %v", incarnation, ok)
	}
	forged := newAuthority(t, "stone", "0123456789abcdef") // same names, another root
	if _, _, ok := self.LivesAt(t.Context(), "m1", master(t, forged).address); ok {
		t.Error("a forged certificate proved something")
	}
	late := a.issue(t, nodecert.NodeURI(a.anchor.ClusterID, "m1", "m1-late"), "m1", -time.Minute, nodecert.RoleMaster)
	old := serve(t, Config{Self: nodecert.Peer{Name: "m1", Incarnation: "m1-late"}, Anchor: a.anchor, Certificate: func() *tls.Certificate { return late }})
	if _, _, ok := self.LivesAt(t.Context(), "m1", old.address); ok {
		t.Error("a certificate that ran out proved something")
	}
}
