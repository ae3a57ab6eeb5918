//go:build vm && long

package qemutests

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// closedFile is a cluster of one with the defaults: TLS and credentials only.
const closedFile = `apiVersion: v1
cluster: %s
version: 0.1.0
masters: 1
defaults:
  time: { servers: [dhcp], wait: 1s }
nodes:
  - { name: %s, mac: "%s" }
`

// Without DHCP a machine says so, again and again, and goes on waiting: its console
// lives, and nothing else is touched.
func TestNoDHCP(t *testing.T) {
	stopwatch(t)
	w := newWorld(t, options{nodes: 1, noDHCP: true})
	console := w.Machine("n1").VM().Console
	if _, err := console.Wait(within(t, toElect), 0, "DHCP"); err != nil {
		t.Fatalf("the console says nothing of DHCP: %v", err)
	}
	if !w.Machine("n1").Running() {
		t.Error("the machine gave up")
	}
}

// Two clusters on one LAN become two clusters: each elects its own leader, counts its own
// agents, and says that the other is there.
func TestTwoClustersOnOneLAN(t *testing.T) {
	roomFor(t, 2)
	stopwatch(t)
	other, err := makeWorld(t.Context(), t.Name(), options{prepare: true, file: fmt.Sprintf(closedFile, "right", "right", "52:54:00:00:01:02")})
	if err != nil {
		t.Fatal(err)
	}
	guest := other.rendered.Nodes[0]
	other.close()
	guest.Address = cluster.DefaultSubnet.Addr().Next().Next()
	w := newWorld(t, options{file: fmt.Sprintf(closedFile, "left", "left", "52:54:00:00:01:01"), spoil: func(r *cluster.Rendered) {
		r.Nodes = append(r.Nodes, guest)
	}})
	stranger := strangersClient(w)
	stranger.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, n := range w.rendered.Nodes {
		eventually(t, within(t, toElect), func() error {
			resp, err := stranger.Get(w.URL(n, "/redirect"))
			if err != nil {
				return err
			}
			resp.Body.Close()
			at, err := resp.Location()
			if err != nil {
				return fmt.Errorf("%s answers %s: %w", n.Name, resp.Status, err)
			}
			if at.Hostname() != n.Address.String() {
				t.Fatalf("%s follows %s of the other cluster", n.Name, at.Host)
			}
			return nil
		})
	}
	agents, err := w.AgentsBy(within(t, toElect), w.rendered.Nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(agents) > 1 {
		t.Errorf("cluster left counts %d agents: %v", len(agents), agents)
	}
}

// A machine with another machine's secret never gets in: its console and the issuer's
// log say why, and the cluster does not change.
func TestNodeWithTheWrongSecret(t *testing.T) {
	roomFor(t, 2)
	stopwatch(t)
	w := newWorld(t, options{nodes: 2, spoil: func(r *cluster.Rendered) {
		impostor := map[string][]byte{}
		for name, body := range r.Nodes[1].Files {
			impostor[name] = body
		}
		impostor["node.key"] = r.Nodes[0].Files["node.key"]
		r.Nodes[1].Files = impostor
	}})
	if _, err := w.WaitLeader(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	console := w.Machine("n2").VM().Console
	line, err := console.Wait(within(t, toElect), 0, "refused")
	if err != nil {
		t.Fatalf("the console does not say that it was refused: %v", err)
	}
	fmt.Println("the refused node says:", strings.TrimSpace(line.Text))
	agents, err := w.Agents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(agents) > 1 {
		t.Errorf("%d agents, the impostor among them: %v", len(agents), agents)
	}
}

// With the defaults of a cluster file the API is closed: plain HTTP is refused in words,
// TLS without credentials gets 401, and an operator's certificate is let in.
func TestDefaultsAreClosed(t *testing.T) {
	roomFor(t, 1)
	stopwatch(t)
	w := newWorld(t, options{file: fmt.Sprintf(closedFile, "closed", "one", "52:54:00:00:02:01")})
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	n := w.rendered.Nodes[0]
	for _, c := range []struct {
		url  string
		code int
	}{
		{fmt.Sprintf("http://%s:%d/state", n.Address, cluster.APIPort), 403},
		{fmt.Sprintf("https://%s:%d/state", n.Address, cluster.APIPort), 401},
		{fmt.Sprintf("https://%s:%d/version", n.Address, cluster.APIPort), 200},
	} {
		resp, err := strangersClient(w).Get(c.url)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.code {
			t.Errorf("%s answers %s, want %d", c.url, resp.Status, c.code)
		}
	}
}

// strangersClient has no certificate and trusts whom it meets.
func strangersClient(w *world) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, at string) (net.Conn, error) { return w.LAN.Dial(ctx, at) },
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
	}}
}
