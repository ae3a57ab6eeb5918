package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	api "github.com/mesolith/mesolith/api/node"
	"github.com/mesolith/mesolith/internal/joinwire"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/nodeplan"
	"github.com/mesolith/mesolith/internal/wire/noded"
	"github.com/mesolith/mesolith/provision/node/lan"
	"github.com/mesolith/mesolith/provision/pki"
)

func TestMasterComesUp(t *testing.T) {
	b := newBench(t)
	b.deliver(t, b.document("m1"), true)
	b.put(t, "run/log/clusterd", "line one\n")
	b.run(t)
	plan, err := nodeplan.Read(b.plan)
	if err != nil || plan.Hostname != "m1" {
		t.Fatalf("plan %+v: %v", plan, err)
	}
	n := b.dial(t).node(func(n *noded.Node) bool { return n.Credentials != nil && len(n.Addresses) > 0 && n.Clock.GetSynced() })
	anchor, err := b.secrets.Anchor()
	if err != nil {
		t.Fatal(err)
	}
	if doc, err := nodedoc.Open(n.Document, anchor); err != nil || doc.Name != "m1" {
		t.Fatalf("document handed over: %+v, %v", doc, err)
	}
	if n.Addresses[0] != "10.7.0.11/24" || n.Inventory.Cpus != 2 || n.Inventory.MemoryBytes != 1<<30 || n.Inventory.RamStoreBytes != plan.RAMStoreBytes {
		t.Errorf("node %v", n)
	}
	if len(n.Credentials.IssuingKeyPem) == 0 || len(n.Credentials.ApiCredentials) == 0 {
		t.Error("a master's clusterd has no issuing key or no API credentials")
	}
	pair, err := tls.X509KeyPair(append(n.Credentials.CertificatePem, n.Credentials.CaPem...), n.Credentials.KeyPem)
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Leaf.VerifyHostname("10.7.0.11"); err != nil {
		t.Error(err)
	}

	b.lan.mu.Lock()
	if b.lan.name != "m1" {
		t.Errorf("DHCP servers would be told %q", b.lan.name)
	}
	b.lan.mu.Unlock()

	reader := b.operator(t, nodedoc.RoleReader)
	h, err := reader.Health(t.Context())
	if err != nil || h.Name != "m1" || h.Incarnation != n.Incarnation || h.CertificateEnds.IsZero() {
		t.Errorf("health %+v: %v", h, err)
	}
	b.put(t, "proc/30/smaps_rollup", "Rss: 8 kB\nPss: 4 kB\nPss_Anon: 2 kB\n")
	b.put(t, "proc/30/cgroup", "0::/system/clusterd\n")
	b.put(t, "proc/30/oom_score_adj", "-997\n")
	mem, err := reader.Memory(t.Context())
	if want := (api.MemoryGroup{Name: "clusterd", Processes: 1, PSSBytes: 4096, AnonymousBytes: 2048, ResidentBytes: 8192, LowestScore: -997, HighestScore: -997}); err != nil || mem.TotalBytes != 1<<30 || !slices.Equal(mem.Groups, []api.MemoryGroup{want}) {
		t.Errorf("memory %+v: %v", mem, err)
	}
	logs, err := reader.Logs(t.Context(), "clusterd", false)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(logs)
	_ = logs.Close()
	if string(text) != "line one\n" {
		t.Errorf("log %q", text)
	}
	if err := reader.Kill(t.Context(), "clusterd", "KILL"); !errors.Is(err, api.ErrRefused) || !strings.Contains(err.Error(), "role admin is needed") {
		t.Errorf("a reader may kill: %v", err)
	}
	if _, err := reader.Logs(t.Context(), "../secret", false); !errors.Is(err, api.ErrRefused) {
		t.Errorf("a log outside of the directory: %v", err)
	}
}

func TestRestartKeepsKeyAndIncarnation(t *testing.T) {
	b := newBench(t)
	b.deliver(t, b.document("m1"), true)
	got := make([]*noded.Node, 0, 2)
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- Run(ctx, b.cfg) }()
		got = append(got, b.dial(t).node(func(n *noded.Node) bool { return n.Credentials != nil && len(n.Addresses) > 0 }))
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		b.cfg.API, b.cfg.Plan = l, nil
		if err := os.RemoveAll(filepath.Join(b.root, "sys/firmware")); err != nil { // the medium is gone
			t.Fatal(err)
		}
	}
	if got[0].Incarnation != got[1].Incarnation || !bytes.Equal(got[0].Credentials.KeyPem, got[1].Credentials.KeyPem) {
		t.Error("a noded that started again is another incarnation or has another key")
	}
}

func TestHoldsWithoutDocument(t *testing.T) {
	b := newBench(t)
	b.run(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	_, err := (&api.Client{Base: "https://" + b.cfg.API.Addr().String(), HTTP: client}).Health(t.Context())
	if !errors.Is(err, api.ErrRefused) || !strings.Contains(err.Error(), "no valid node document") {
		t.Errorf("the node API answers %v", err)
	}
	waitFor(t, func() bool { return strings.Contains(b.screen.String(), "to do:") })
	for _, part := range []string{"fw_cfg", "mesolith.node", "medium MESOLITH", "serial S1"} {
		if !strings.Contains(b.screen.String(), part) {
			t.Errorf("the console does not name %s:\n%s", part, b.screen)
		}
	}
	b.deliver(t, b.document("m1"), true) // a medium that comes late is found
	b.dial(t).node(func(n *noded.Node) bool { return n.Credentials != nil })
}

func TestWorkerJoins(t *testing.T) {
	b := newBench(t)
	b.deliver(t, b.document("w1"), false)
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
	asked := make(chan JoinRequest, 1)
	b.cfg.Joiner = joiner(func(r JoinRequest) (JoinAnswer, error) {
		asked <- r
		chain, err := issuer.IssueNode(r.CSR, pki.Node{Name: r.Name, Incarnation: r.Incarnation}, time.Now())
		return JoinAnswer{Chain: chain}, err
	})
	b.run(t)
	n := b.dial(t).node(func(n *noded.Node) bool { return n.Credentials != nil })
	r := <-asked
	if len(r.Issuers) != 1 || r.Issuers[0] != (Issuer{"m1", "10.7.0.11:5052"}) || r.Incarnation != n.Incarnation {
		t.Errorf("asked %+v", r)
	}
	if len(n.Credentials.IssuingKeyPem) != 0 {
		t.Error("a worker has an issuing key")
	}
}

// A refused machine says so on its console, with the issuer's reason, once; and it takes
// the time from the master that lets it in.
func TestRefusedThenAdmitted(t *testing.T) {
	b := newBench(t)
	b.clock.skew = -20 * 365 * 24 * time.Hour
	b.deliver(t, b.document("w1"), false)
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
	b.cfg.AskTime = func(context.Context, string) (time.Duration, error) { return 0, errors.New("no answer") }
	var mu sync.Mutex
	asked, lastZero := 0, false
	b.cfg.Joiner = joiner(func(r JoinRequest) (JoinAnswer, error) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		lastZero = r.Now.IsZero()
		if asked < 3 {
			return JoinAnswer{}, fmt.Errorf("join at m1: %w: a stranger's key", joinwire.ErrWrongCredential)
		}
		chain, err := issuer.IssueNode(r.CSR, pki.Node{Name: r.Name, Incarnation: r.Incarnation}, time.Now())
		return JoinAnswer{Chain: chain, Time: time.Now().Add(time.Hour)}, err
	})
	b.run(t)
	n := b.dial(t).node(func(n *noded.Node) bool { return n.Credentials != nil })
	if n.Clock.GetSource() != "master" || b.clock.Now().Before(time.Now().Add(59*time.Minute)) {
		t.Errorf("clock %v at %s", n.Clock, b.clock.Now())
	}
	mu.Lock()
	defer mu.Unlock()
	if !lastZero {
		t.Error("it judged an issuer by a clock that it cannot believe")
	}
	if got := strings.Count(b.screen.String(), "certificate: none yet: refused: join at m1: "); got != 1 || asked < 3 {
		t.Errorf("said %d times in %d rounds:\n%s", got, asked, b.screen)
	}
}

// A machine whose address changes asks for a certificate that fits.
func TestAnotherAddressAnotherCertificate(t *testing.T) {
	b := newBench(t)
	b.deliver(t, b.document("w1"), false)
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
	asked := make(chan struct{}, 16)
	b.cfg.Joiner = joiner(func(r JoinRequest) (JoinAnswer, error) {
		asked <- struct{}{}
		chain, err := issuer.IssueNode(r.CSR, pki.Node{Name: r.Name, Incarnation: r.Incarnation}, time.Now())
		return JoinAnswer{Chain: chain}, err
	})
	b.run(t)
	clusterd := b.dial(t)
	first := clusterd.node(func(n *noded.Node) bool { return n.Credentials != nil && len(n.Addresses) > 0 })
	<-asked
	b.lan.changed(lan.State{}) // the lease ran out: nothing to certify
	b.lan.changed(lan.State{Addresses: []netip.Prefix{netip.MustParsePrefix("10.7.0.99/24")}, MTU: 1500})
	<-asked
	n := clusterd.node(func(n *noded.Node) bool {
		return n.Credentials != nil && !bytes.Equal(n.Credentials.CertificatePem, first.Credentials.CertificatePem)
	})
	if n.Addresses[0] != "10.7.0.99/24" {
		t.Errorf("node %v", n.Addresses)
	}
}

// Hints that say nothing new wake nobody: who was refused waits before he asks again.
func TestOldHintsWakeNobody(t *testing.T) {
	h := newHub(&noded.Node{})
	h.setHints([]*noded.Issuer{{Name: "m1", Address: "10.7.0.11:5052"}})
	seen := h.view().changed
	h.setHints([]*noded.Issuer{{Name: "m1", Address: "10.7.0.11:5052"}})
	select {
	case <-seen:
		t.Error("the same hints woke somebody")
	default:
	}
	h.setHints([]*noded.Issuer{{Name: "m2", Address: "10.7.0.12:5052"}})
	select {
	case <-seen:
	default:
		t.Error("new hints woke nobody")
	}
}

type joiner func(JoinRequest) (JoinAnswer, error)

func (j joiner) Join(_ context.Context, r JoinRequest) (JoinAnswer, error) { return j(r) }

func TestClockBelowTheFloorIsSet(t *testing.T) {
	b := newBench(t)
	b.clock.skew = -20 * 365 * 24 * time.Hour
	b.deliver(t, b.document("m1"), true)
	b.run(t)
	n := b.dial(t).node(func(n *noded.Node) bool { return n.Credentials != nil })
	if b.clock.steps == 0 || b.clock.Now().Before(time.Now().Add(-time.Minute)) || n.Clock == nil {
		t.Errorf("clock %s after %d steps", b.clock.Now(), b.clock.steps)
	}
}

// The inventory follows the LAN: a card that has an address by now is shown with it.
func TestInventoryFollowsTheLAN(t *testing.T) {
	b := newBench(t)
	b.deliver(t, b.document("m1"), true)
	b.run(t)
	clusterd := b.dial(t)
	clusterd.node(func(n *noded.Node) bool { return n.Credentials != nil && len(n.Addresses) > 0 })
	b.lan.mu.Lock()
	b.lan.nics = []*noded.Nic{{Name: "eth0", Mac: "52:54:00:00:00:01", Carrier: true, Addresses: []string{"10.7.0.99/24"}}}
	b.lan.mu.Unlock()
	b.lan.changed(lan.State{Addresses: []netip.Prefix{netip.MustParsePrefix("10.7.0.99/24")}, MTU: 1500})
	clusterd.node(func(n *noded.Node) bool {
		nics := n.GetInventory().GetNics()
		return len(nics) == 1 && slices.Equal(nics[0].Addresses, []string{"10.7.0.99/24"})
	})
}

// TestKill signals the process that init reports.
func TestKill(t *testing.T) {
	b := newBench(t)
	b.deliver(t, b.document("m1"), true)
	l, err := net.Listen("unix", b.cfg.InitSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go serveInit(l)
	b.run(t)
	b.dial(t).node(func(n *noded.Node) bool { return n.Credentials != nil })
	admin := b.operator(t, nodedoc.RoleAdmin)
	list, err := admin.Services(t.Context())
	if err != nil || len(list) != 1 || list[0].PID != 4711 {
		t.Fatalf("services %+v: %v", list, err)
	}
	if err := admin.Kill(t.Context(), "clusterd", "kill"); err != nil {
		t.Fatal(err)
	}
	if sig := <-b.signals; sig != syscall.SIGKILL {
		t.Errorf("signal %v", sig)
	}
	if err := admin.Kill(t.Context(), "nobody", "KILL"); err == nil || !strings.Contains(err.Error(), "clusterd (running)") {
		t.Errorf("an unknown program: %v", err)
	}
}

// TestAdmit takes an operator's word to clusterd, and shows operators what waits for it.
func TestAdmit(t *testing.T) {
	b := newBench(t)
	b.deliver(t, b.document("m1"), true)
	b.run(t)
	clusterd := b.dial(t)
	clusterd.node(func(n *noded.Node) bool { return n.Credentials != nil && n.HardwareHash != "" })
	clusterd.send(&noded.Request{Id: 9, Body: &noded.Request_Status{Status: &noded.ClusterStatus{
		Held: []*noded.HeldHardware{{Master: "m1", Hardware: "other", Known: "before"}},
	}}})
	operator := b.operator(t, nodedoc.RoleOperator)
	for {
		h, err := operator.Health(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if slices.Equal(h.Status.Held, []api.Held{{Master: "m1", Hardware: "other", Known: "before"}}) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	long := strings.Repeat("x", 300)
	for _, bad := range []api.Held{
		{Master: "nobody", Hardware: "other", Known: "before"},
		{Master: "m1", Known: "before"},
		{Master: "m1", Hardware: "other"},
		{Master: "m1", Hardware: long, Known: "before"},
		{Master: "m1", Hardware: "other", Known: long},
	} {
		if err := operator.Admit(t.Context(), bad); !errors.Is(err, api.ErrRefused) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	if err := b.operator(t, nodedoc.RoleReader).Admit(t.Context(), api.Held{Master: "m1", Hardware: "other", Known: "before"}); !errors.Is(err, api.ErrRefused) {
		t.Errorf("a reader admits: %v", err)
	}
	for _, hardware := range []string{"third", "other"} { // the last word counts
		if err := operator.Admit(t.Context(), api.Held{Master: "m1", Hardware: hardware, Known: "before"}); err != nil {
			t.Fatal(err)
		}
	}
	clusterd.node(func(n *noded.Node) bool {
		a := n.GetAdmitted()
		return len(a) == 1 && a[0].GetMaster() == "m1" && a[0].GetHardware() == "other" && a[0].GetInstead() == "before"
	})
}
