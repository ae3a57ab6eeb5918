//go:build vm

package qemutests

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
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

// noDHCPFile has a master with an address of its own and a worker that wants a lease.
const noDHCPFile = `apiVersion: v1
cluster: fixed
version: 0.1.0
masters: 1
api: { plaintext: true, anonymous: framework }
nodes:
  - name: n1
    mac: "52:54:00:00:03:01"
    network:
      lan: { match: { mac: "52:54:00:00:03:01" }, address: 10.77.0.21/24, gateway: 10.77.0.1 }
  - { name: n2, mac: "52:54:00:00:03:02" }
`

// Without DHCP a machine with a fixed address leads and runs a task; one that wants a
// lease says so, again and again, and goes on waiting: its console lives, and nothing
// else is touched.
func TestNoDHCP(t *testing.T) {
	apart(t, 2)
	stopwatch(t)
	w := newWorld(t, options{file: noDHCPFile, noDHCP: true})
	if leader, err := w.WaitLeader(within(t, toElect)); err != nil || leader.Name != "n1" {
		t.Fatalf("leader %s: %v", leader.Name, err)
	}
	f := w.framework(t, false)
	wantState(t, f.runToEnd(t, f.task(t, "fixed", "say", "from a fixed address"))[0], mesosv1.TaskState_TASK_FINISHED)
	line, err := w.Machine("n2").VM().Console.Wait(within(t, toElect), 0, "no address yet")
	if err != nil {
		t.Fatalf("the console says nothing of DHCP: %v", err)
	}
	if !strings.Contains(line.Text, "is a DHCP server on this LAN? else give an address in the cluster file") {
		t.Errorf("it does not say what to do: %s", line.Text)
	}
	if !w.Machine("n2").Running() {
		t.Error("the machine gave up")
	}
	agents, err := w.Agents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(agents) != 1 || agents[0].Hostname != "10.77.0.21" {
		t.Errorf("agents %v", agents)
	}
}

// Two clusters on one LAN become two clusters: each elects its own leader, counts its own
// agents, and says that the other is there.
func TestTwoClustersOnOneLAN(t *testing.T) {
	apart(t, 2)
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
	for _, m := range w.Machines() {
		if _, err := m.VM().Console.Wait(within(t, toRun), 0, "another cluster speaks on this LAN; it is left alone"); err != nil {
			t.Errorf("%s does not say that another cluster is there: %v", m.Node.Name, err)
		}
	}
	agents, err := w.AgentsBy(within(t, toElect), w.rendered.Nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(agents) > 1 {
		t.Errorf("cluster left counts %d agents: %v", len(agents), agents)
	}
}

// With the defaults of a cluster file the API is closed: plain HTTP is refused in words,
// TLS without credentials gets 401, and an operator's certificate is let in.
func TestDefaultsAreClosed(t *testing.T) {
	apart(t, 1)
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
