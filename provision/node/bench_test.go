package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	api "github.com/mesolith/mesolith/api/node"
	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire"
	"github.com/mesolith/mesolith/internal/wire/noded"
	"github.com/mesolith/mesolith/internal/wire/pid1"
	"github.com/mesolith/mesolith/provision/node/lan"
	"github.com/mesolith/mesolith/provision/pki"
)

// wall is a clock that notes how it was set.
type wall struct {
	mu    sync.Mutex
	skew  time.Duration
	steps int
}

func (w *wall) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.skew)
}

func (w *wall) Step(to time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.skew, w.steps = time.Until(to), w.steps+1
	return nil
}

func (w *wall) Slew(time.Duration) error { return nil }

// fixedLan is a network that has its address as soon as it is asked for one.
type fixedLan struct {
	mu      sync.Mutex
	name    string
	nics    []*noded.Nic
	changed func(lan.State)
	asked   chan []nodedoc.Network
}

func (f *fixedLan) Run(ctx context.Context, wants <-chan []nodedoc.Network) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case w := <-wants:
			f.asked <- w
			f.changed(lan.State{Addresses: []netip.Prefix{netip.MustParsePrefix("10.7.0.11/24")}, MTU: 1500})
		}
	}
}

func (f *fixedLan) Named(hostname string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.name = hostname
}

func (f *fixedLan) Nics() ([]*noded.Nic, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.nics != nil {
		return f.nics, nil
	}
	return []*noded.Nic{{Name: "eth0", Mac: "52:54:00:00:00:01", Carrier: true}}, nil
}

// screen is a console that can be read.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// bench is a machine made of files, and the cluster that it belongs to.
type bench struct {
	cfg     Config
	secrets *pki.Secrets
	root    string
	screen  *screen
	clock   *wall
	lan     *fixedLan
	plan    *os.File // init's end
	signals chan syscall.Signal
}

func newBench(t *testing.T) *bench {
	t.Helper()
	root := t.TempDir()
	secrets, err := pki.NewCluster("demo", []string{"m1", "w1"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{secrets: secrets, root: root, screen: &screen{}, clock: &wall{}, signals: make(chan syscall.Signal, 1)}
	b.put(t, "proc/meminfo", "MemTotal: 1048576 kB\n")
	b.put(t, "proc/sys/kernel/osrelease", "6.12.0\n")
	b.put(t, "sys/devices/system/cpu/online", "0-1\n")
	b.put(t, "sys/class/dmi/id/product_serial", "S1\n")
	for _, dir := range []string{"run", "state"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	b.plan = r
	b.cfg = Config{
		Root: root, Socket: filepath.Join(root, "run/noded.sock"), InitSocket: filepath.Join(root, "run/init.sock"),
		SecretDir: filepath.Join(root, "run/secret"), LogDir: filepath.Join(root, "run/log"), StateDir: filepath.Join(root, "state"),
		StateMounted: func() bool { return true }, LocalUIDs: []uint32{uint32(os.Getuid())}, API: l, Plan: w, Console: b.screen,
		Network: func(_ func(subject, line string), changed func(lan.State)) Network {
			b.lan = &fixedLan{changed: changed, asked: make(chan []nodedoc.Network, 4)}
			return b.lan
		},
		Clock: b.clock, AskTime: func(context.Context, string) (time.Duration, error) { return 0, nil },
		Signal: func(_ int, sig syscall.Signal) error { b.signals <- sig; return nil },
		HTTP:   http.DefaultClient, Joiner: noMaster{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	return b
}

type noMaster struct{}

func (noMaster) Join(context.Context, JoinRequest) (JoinAnswer, error) {
	return JoinAnswer{}, errors.New("no master answers here")
}

func (b *bench) put(t *testing.T, path, text string) {
	t.Helper()
	at := filepath.Join(b.root, path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) document(name string) nodedoc.Document {
	return nodedoc.Document{
		Format: nodedoc.Format, Cluster: "demo", ClusterID: b.secrets.ClusterID, Revision: 1, DocumentHash: strings.Repeat("0", 64),
		Name: name, Mode: nodedoc.ModeRAM, Masters: nodedoc.Masters{Version: 1, Names: []string{"m1"}, WaitMS: 1000},
		Raft: nodedoc.Raft{HeartbeatMS: 250, StallMS: 1000}, AgentsGraceMS: 15000, API: nodedoc.API{Anonymous: nodedoc.AnonymousNone},
		Networks:        []nodedoc.Network{{Name: "lan", Match: nodedoc.Match{Link: "any-up"}, DHCP: true}},
		Time:            nodedoc.Time{Servers: []string{"time.example"}, WaitMS: 1000},
		RAMStorePercent: 25, Modules: "early", Tasks: nodedoc.Tasks{Image: "base", Report: "container", Pool: "10.88.0.0/16"},
		Peers: []nodedoc.Peer{{Name: "m1", Address: "10.7.0.11"}}, SignedAt: time.Now().UTC().Truncate(time.Second),
	}
}

// deliver puts a node's files on fw_cfg.
func (b *bench) deliver(t *testing.T, doc nodedoc.Document, master bool) {
	t.Helper()
	owner, err := b.secrets.Owner()
	if err != nil {
		t.Fatal(err)
	}
	anchor, err := b.secrets.Anchor()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := nodedoc.Seal(doc, owner)
	if err != nil {
		t.Fatal(err)
	}
	rawAnchor, err := anchor.Encode()
	if err != nil {
		t.Fatal(err)
	}
	const dir = "sys/firmware/qemu_fw_cfg/by_name/opt/org.mesolith/"
	b.put(t, dir+"anchor.json/raw", string(rawAnchor))
	b.put(t, dir+"node.key/raw", b.secrets.BootKeys[doc.Name])
	if master {
		secrets, err := b.secrets.IssuerSecrets()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := secrets.Encode()
		if err != nil {
			t.Fatal(err)
		}
		b.put(t, dir+"issuer.json/raw", string(raw))
	}
	b.put(t, dir+"node.json/raw", string(signed))
}

func (b *bench) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, b.cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("noded ended: %v", err)
		}
	})
}

// clusterd is the other end of noded.sock.
type clusterd struct {
	t    *testing.T
	conn net.Conn
}

func (b *bench) dial(t *testing.T) *clusterd {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		conn, err := net.Dial("unix", b.cfg.Socket)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
			_ = conn.SetDeadline(deadline)
			c := &clusterd{t, conn}
			c.send(&noded.Request{Id: 1, Body: &noded.Request_Hello{Hello: &noded.Hello{Protocol: 1, Program: "clusterd"}}})
			c.receive()
			return c
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *clusterd) send(r *noded.Request) {
	c.t.Helper()
	if err := wire.Write(c.conn, r); err != nil {
		c.t.Fatal(err)
	}
}

func (c *clusterd) receive() *noded.Response {
	c.t.Helper()
	var r noded.Response
	if err := wire.Read(c.conn, &r, maxLocalFrame); err != nil {
		c.t.Fatal(err)
	}
	if r.Error != "" {
		c.t.Fatal(r.Error)
	}
	return &r
}

// node reads events until one has what a condition asks for.
func (c *clusterd) node(ok func(*noded.Node) bool) *noded.Node {
	c.t.Helper()
	c.send(&noded.Request{Id: 2, Body: &noded.Request_GetNode{GetNode: &noded.GetNode{}}})
	for {
		if n := c.receive().GetNode(); n != nil && ok(n) {
			return n
		}
	}
}

func (b *bench) operator(t *testing.T, role string) *api.Client {
	t.Helper()
	anchor, err := b.secrets.Anchor()
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := b.secrets.IssuerSecrets()
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := pki.OpenIssuer(secrets, anchor)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := issuer.IssueOperator("ann", role, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := nodecert.VerifyPeer(s, anchor, time.Now())
			return err
		},
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &api.Client{Base: "https://" + b.cfg.API.Addr().String(), HTTP: &http.Client{Transport: transport}}
}

func serveInit(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		for {
			var r pid1.Request
			if wire.Read(conn, &r, 1<<20) != nil {
				break
			}
			out := &pid1.Response{Id: r.Id}
			if r.GetServices() != nil {
				out.Body = &pid1.Response_Services{Services: &pid1.ServiceList{Services: []*pid1.Service{{Name: "clusterd", State: "running", Pid: 4711}}}}
			}
			if wire.Write(conn, out) != nil {
				break
			}
		}
		_ = conn.Close()
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen")
		}
	}
}
