package discovery

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
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire/beacon"
	"google.golang.org/protobuf/proto"
)

const (
	stone = "0123456789abcdef0123456789abcdef"
	other = "fedcba9876543210fedcba9876543210"
)

type authority struct {
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	anchor nodedoc.Anchor
}

func create(t testing.TB, c, parent *x509.Certificate, public any, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
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

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newAuthority(t testing.TB, id string) *authority {
	t.Helper()
	key := newKey(t)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert := create(t, c, c, &key.PublicKey, key)
	owner, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key, cert, nodedoc.Anchor{Format: 1, Cluster: "stone", ClusterID: id, OwnerKey: owner, CAPin: nodecert.Pin(cert)}}
}

func (a *authority) node(t testing.TB, name, incarnation string, roles ...string) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	leaf := create(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name, OrganizationalUnit: roles},
		URIs:      []*url.URL{nodecert.NodeURI(a.anchor.ClusterID, name, incarnation)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey, a.key)
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, a.cert.Raw}, PrivateKey: key}
}

// lan delivers every datagram to everybody on it, the sender too.
type lan struct {
	mu    sync.Mutex
	ports []*portOnLAN
}

type portOnLAN struct {
	net.PacketConn // nil: other methods are not used
	lan            *lan
	self           net.Addr
	in             chan []byte
	closed         chan struct{}
	once           sync.Once
}

func (l *lan) plug(ip string) *portOnLAN {
	p := &portOnLAN{lan: l, self: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), Port)), in: make(chan []byte, 64), closed: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports = append(l.ports, p)
	return p
}

// ReadFrom implements net.PacketConn.
func (p *portOnLAN) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-p.in:
		return copy(b, d), p.self, nil
	case <-p.closed:
		return 0, nil, net.ErrClosed
	}
}

// WriteTo implements net.PacketConn.
func (p *portOnLAN) WriteTo(b []byte, _ net.Addr) (int, error) {
	p.lan.mu.Lock()
	defer p.lan.mu.Unlock()
	for _, o := range p.lan.ports {
		select {
		case o.in <- bytes.Clone(b):
		default:
		}
	}
	return len(b), nil
}

// Close implements net.PacketConn.
func (p *portOnLAN) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
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

func table(a *authority, name, incarnation, ip string, cert *tls.Certificate, out *logged) *Table {
	return New(Config{
		Name: name, Incarnation: incarnation, Addresses: []string{ip + ":5052"}, Anchor: a.anchor,
		Certificate: func() *tls.Certificate { return cert },
		Broadcast:   []netip.AddrPort{netip.MustParseAddrPort("10.7.0.255:5054")}, Log: slog.New(slog.NewTextHandler(out, nil)),
	})
}

func TestTwoClustersOnOneLAN(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newAuthority(t, stone), newAuthority(t, other)
		wire := &lan{}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		out := &logged{}
		m1 := table(a, "m1", "m1-incarnation", "10.7.0.1", a.node(t, "m1", "m1-incarnation", nodecert.RoleAgent, nodecert.RoleMaster), out)
		m2 := table(a, "m2", "m2-incarnation", "10.7.0.2", a.node(t, "m2", "m2-incarnation", nodecert.RoleAgent, nodecert.RoleMaster), &logged{})
		stranger := table(b, "m2", "sx-incarnation", "10.7.0.3", b.node(t, "m2", "sx-incarnation", nodecert.RoleMaster), &logged{})
		blank := New(Config{Name: "w1", Anchor: a.anchor, Certificate: func() *tls.Certificate { return nil }, Log: slog.New(slog.NewTextHandler(&logged{}, nil))})
		changed := m1.Changed()
		for i, x := range []*Table{m1, m2, stranger, blank} {
			p := wire.plug([]string{"10.7.0.1", "10.7.0.2", "10.7.0.3", "10.7.0.4"}[i])
			x.Announce(Announcement{Master: true})
			wg.Go(func() {
				if err := x.Run(ctx, p); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		select {
		case <-changed:
		default:
			t.Error("nobody was told of the newcomer")
		}
		if got := m1.Resolve("m2"); !slices.Equal(got, []string{"10.7.0.2:5052"}) {
			t.Errorf("m2 is at %v", got)
		}
		if _, ok := m1.Leader(); ok {
			t.Error("a leader nobody announced")
		}
		m2.Announce(Announcement{Master: true, Leading: true, Height: 3, Generation: "g", Term: 7, Leader: "m2"})
		time.Sleep(time.Second)
		synctest.Wait()
		if l, ok := m1.Leader(); !ok || l.Name != "m2" || l.Term != 7 {
			t.Errorf("%+v %v", l, ok)
		}
		if n := strings.Count(out.String(), "another cluster speaks"); n != 1 {
			t.Errorf("the other cluster was reported %d times: %s", n, out)
		}
		if h := blank.Hints(); len(h) != 2 || h[0] != (Static{"m1", "10.7.0.1:5052"}) {
			t.Errorf("hints of a node without certificate: %v", h)
		}
		if len(blank.Nodes()) != 0 {
			t.Error("a node without certificate believed something")
		}
		time.Sleep(10 * time.Second) // still heard
		synctest.Wait()
		if _, ok := m1.Leader(); !ok {
			t.Error("the leader was forgotten while it speaks")
		}
		cancel()
		time.Sleep(freshFor + time.Second)
		if _, ok := m1.Leader(); ok {
			t.Error("a silent leader is still named")
		}
	})
}

func TestOnlyProvenBeaconsAreBelieved(t *testing.T) {
	a := newAuthority(t, stone)
	forged := newAuthority(t, stone) // the same id, another root
	for name, test := range map[string]struct {
		cert   *tls.Certificate
		speak  string // the name in the beacon
		change func(*beacon.Datagram)
		master bool
		want   string // in the log; empty: believed
	}{
		"good":               {a.node(t, "m2", "m2-incarnation", nodecert.RoleMaster), "m2", nil, true, ""},
		"other root":         {forged.node(t, "m2", "m2-incarnation", nodecert.RoleMaster), "m2", nil, true, "is not believed"},
		"other name":         {a.node(t, "m3", "m2-incarnation", nodecert.RoleMaster), "m2", nil, true, "the certificate is of m3"},
		"worker as master":   {a.node(t, "m2", "m2-incarnation", nodecert.RoleAgent), "m2", nil, true, "claims to be a master"},
		"changed on its way": {a.node(t, "m2", "m2-incarnation", nodecert.RoleMaster), "m2", func(d *beacon.Datagram) { d.Signature[len(d.Signature)-1] ^= 1 }, true, "signature is not"},
		"no certificate":     {a.node(t, "m2", "m2-incarnation", nodecert.RoleMaster), "m2", func(d *beacon.Datagram) { d.Chain = nil }, true, "0 certificates"},
	} {
		t.Run(name, func(t *testing.T) {
			out := &logged{}
			m1 := table(a, "m1", "m1-incarnation", "10.7.0.1", a.node(t, "m1", "m1-incarnation", nodecert.RoleMaster), out)
			from := table(a, test.speak, "m2-incarnation", "10.7.0.2", test.cert, &logged{})
			from.own.Master = test.master
			packet, err := from.compose(test.cert)
			if err != nil {
				t.Fatal(err)
			}
			if test.change != nil {
				d := &beacon.Datagram{}
				if err := proto.Unmarshal(packet, d); err != nil {
					t.Fatal(err)
				}
				test.change(d)
				if packet, err = proto.Marshal(d); err != nil {
					t.Fatal(err)
				}
			}
			for range 3 {
				m1.hear(packet, nil)
			}
			if believed := len(m1.Nodes()) == 1; believed != (test.want == "") {
				t.Errorf("believed: %v; log: %s", believed, out)
			}
			if test.want != "" && strings.Count(out.String(), test.want) != 1 {
				t.Errorf("log: %s", out)
			}
		})
	}
}

func TestAnOldBeaconChangesNothing(t *testing.T) {
	a := newAuthority(t, stone)
	cert := a.node(t, "m2", "m2-incarnation", nodecert.RoleMaster)
	m1 := table(a, "m1", "m1-incarnation", "10.7.0.1", a.node(t, "m1", "m1-incarnation", nodecert.RoleMaster), &logged{})
	m2 := table(a, "m2", "m2-incarnation", "10.7.0.2", cert, &logged{})
	m2.own = Announcement{Master: true, Leading: true, Term: 1}
	old, err := m2.compose(cert)
	if err != nil {
		t.Fatal(err)
	}
	m2.own = Announcement{Master: true, Term: 2}
	newer, err := m2.compose(cert)
	if err != nil {
		t.Fatal(err)
	}
	m1.hear(newer, nil)
	m1.hear(old, nil)
	if l, ok := m1.Leader(); ok {
		t.Errorf("a recorded beacon made %+v a leader", l)
	}
}

// The addresses of proven beacons are known, as long as they are their nodes'.
func TestKnownAddresses(t *testing.T) {
	a := newAuthority(t, stone)
	m1 := table(a, "m1", "m1-incarnation", "10.7.0.1", a.node(t, "m1", "m1-incarnation", nodecert.RoleMaster), &logged{})
	cert := a.node(t, "m2", "m2-incarnation", nodecert.RoleMaster)
	for _, step := range []struct{ address, known, unknown string }{{"10.7.0.2", "10.7.0.2", "10.7.0.3"}, {"10.7.0.3", "10.7.0.3", "10.7.0.2"}} {
		packet, err := table(a, "m2", "m2-incarnation", step.address, cert, &logged{}).compose(cert)
		if err != nil {
			t.Fatal(err)
		}
		m1.hear(packet, nil)
		if !m1.Known(step.known) || m1.Known(step.unknown) {
			t.Errorf("heard from %s: known %v, %s known %v", step.address, m1.Known(step.known), step.unknown, m1.Known(step.unknown))
		}
	}
	forged := newAuthority(t, stone)
	cert = forged.node(t, "m3", "m3-incarnation", nodecert.RoleMaster)
	packet, err := table(forged, "m3", "m3-incarnation", "10.7.0.9", cert, &logged{}).compose(cert)
	if err != nil {
		t.Fatal(err)
	}
	m1.hear(packet, nil)
	if m1.Known("10.7.0.9") {
		t.Error("an unproven beacon made an address known")
	}
}

func TestATwinIsNoticed(t *testing.T) {
	a := newAuthority(t, stone)
	cert := a.node(t, "m1", "m1-another", nodecert.RoleMaster)
	m1 := table(a, "m1", "m1-incarnation", "10.7.0.1", a.node(t, "m1", "m1-incarnation", nodecert.RoleMaster), &logged{})
	packet, err := table(a, "m1", "m1-another", "10.7.0.9", cert, &logged{}).compose(cert)
	if err != nil {
		t.Fatal(err)
	}
	m1.hear(packet, nil)
	if inc, at, ok := m1.Twin(); !ok || inc != "m1-another" || at != "10.7.0.9:5052" {
		t.Errorf("%q %q %v", inc, at, ok)
	}
}

func TestStatedAddresses(t *testing.T) {
	x := New(Config{Name: "n1", Static: []Static{{"n1", "127.0.0.1:1"}, {"n2", "127.0.0.1:2"}}})
	if got := x.Resolve("n2"); !slices.Equal(got, []string{"127.0.0.1:2"}) {
		t.Error(got)
	}
	if n := x.Nodes(); len(n) != 1 || n[0].Name != "n2" {
		t.Error(n)
	}
	if got := x.Resolve("n9"); got != nil {
		t.Error(got)
	}
	for in, want := range map[string]string{"10.7.0.11/24": "10.7.0.255:5054", "192.168.5.1/22": "192.168.7.255:5054", "10.0.0.1/32": "10.0.0.1:5054"} {
		if got, err := BroadcastOf(in); err != nil || got.String() != want {
			t.Errorf("%s: %s %v", in, got, err)
		}
	}
	for _, in := range []string{"10.7.0.11", "fe80::1/64", ""} {
		if _, err := BroadcastOf(in); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
}

func FuzzParse(f *testing.F) {
	a := newAuthority(f, stone)
	cert := a.node(f, "m1", "m1-incarnation", nodecert.RoleMaster)
	good, err := table(a, "m1", "m1-incarnation", "10.7.0.1", cert, &logged{}).compose(cert)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	m2 := table(a, "m2", "m2-incarnation", "10.7.0.2", cert, &logged{})
	f.Fuzz(func(t *testing.T, packet []byte) {
		_, b, err := parse(packet)
		if err == nil && (len(b.GetAddresses()) > maxAddresses || !nodedoc.ValidName(b.GetName())) {
			t.Errorf("%v", b)
		}
		m2.hear(packet, nil)
	})
}
