package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/internal/nodecert"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/provision/pki"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// closedCluster serves a played cluster as nodes do by default: TLS, certificates only.
func closedCluster(t *testing.T) (dir string, server *httptest.Server) {
	t.Helper()
	secrets, err := pki.NewCluster("closed", []string{"n1"}, time.Now())
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
	key, csr, err := pki.NewNodeKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := issuer.IssueNode(csr, pki.Node{Name: "n1", Incarnation: "0123456789abcdef", Master: true, Addresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p := playCluster(t)
	server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := nodecert.VerifyPeer(*r.TLS, anchor, time.Now())
		if err != nil || !caller.Operator || !caller.Has(nodedoc.RoleAdmin) {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		p.server.Config.Handler.ServeHTTP(w, r)
	}))
	server.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13,
	}
	server.StartTLS()
	t.Cleanup(server.Close)

	dir = t.TempDir()
	cert, operator, err := issuer.IssueOperator("operator", nodedoc.RoleAdmin, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := anchor.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{operatorCert: cert, operatorKey: operator, anchorFile: string(raw)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := strings.TrimPrefix(server.URL, "https://")
	err = writeJSON(filepath.Join(dir, stateFile), clusterState{
		Name: "closed", Doors: cluster.Doors{API: at, Nodes: map[string]cluster.NodeDoors{"n1": {API: at, Agent: at, Node: at}}},
		Nodes: []stateNode{{Name: "n1", Address: "127.0.0.1", Master: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir, server
}

func TestClosedCluster(t *testing.T) {
	dir, server := closedCluster(t)
	r := lith(t.Context(), "status", "--cluster", dir)
	if r.code != 0 || !strings.Contains(r.out, "n1 leads") || !strings.Contains(r.out, "agent, master (leads)") {
		t.Errorf("code %d, %v:\n%s", r.code, r.err, r.out)
	}
	if r := lith(t.Context(), "status", "--cluster", dir, "--api", server.URL); r.code != 0 {
		t.Errorf("by URL: code %d, %v:\n%s", r.code, r.err, r.out)
	}
	if r := lith(t.Context(), "__complete", "node", "--cluster", dir, "n"); !strings.Contains(r.out, "n1") {
		t.Errorf("completion of nodes: %q", r.out)
	}
}

func TestAnotherClustersServerIsNotBelieved(t *testing.T) {
	dir, _ := closedCluster(t)
	_, stranger := closedCluster(t)
	r := lith(t.Context(), "status", "--cluster", dir, "--api", stranger.URL)
	if r.err == nil || !strings.Contains(r.err.Error(), nodecert.ErrOtherRoot.Error()) {
		t.Errorf("a server of another cluster: code %d, %v", r.code, r.err)
	}
}

func TestWithoutTheOperatorsCertificate(t *testing.T) {
	_, server := closedCluster(t)
	r := lith(t.Context(), "status", "--cluster", t.TempDir(), "--api", server.URL)
	if r.err == nil || !strings.Contains(r.err.Error(), "operator's certificate") {
		t.Errorf("without a certificate: %v", r.err)
	}
}
