package cluster

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mesolith/mesolith/internal/acl"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/ratelimit"
	"github.com/mesolith/mesolith/provision/pki"
)

var update = flag.Bool("update", false, "write the golden files anew")

func parse(t *testing.T, text string) *Plan {
	t.Helper()
	p, err := Parse("cluster.yaml", []byte(text))
	if err != nil {
		t.Fatalf("refused:\n%v", err)
	}
	return p
}

func TestSmallestFile(t *testing.T) {
	p := parse(t, smallFile)
	want := []string{"n-525400000001", "n-525400000002", "n-52540000000a"}
	if d := cmp.Diff(want, p.Names()); d != "" {
		t.Errorf("names (-want +got):\n%s", d)
	}
	if d := cmp.Diff(want, p.Masters); d != "" {
		t.Errorf("masters (-want +got):\n%s", d)
	}
	if len(p.Warnings) > 0 {
		t.Errorf("warnings: %v", p.Warnings)
	}
	s := p.Nodes[0].Settings
	wantSettings := Settings{
		Mode: "ram", Console: "auto", Time: nodedoc.Time{Servers: []string{"dhcp", "pool.ntp.org"}, WaitMS: 30_000},
		Watchdog: 30 * time.Second, RAMStore: 25, Reserve: nodedoc.Reserve{CPUs: 0.1},
		Networks: []nodedoc.Network{{Name: "lan", Match: nodedoc.Match{Link: "any-up"}, DHCP: true}},
	}
	if d := cmp.Diff(wantSettings, s); d != "" {
		t.Errorf("settings (-want +got):\n%s", d)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got); after looking, run with -update:\n%s", name, d)
	}
}

func TestFullFile(t *testing.T) {
	p := parse(t, fullFile)
	var b strings.Builder
	for _, w := range p.Warnings {
		b.WriteString(w.String() + "\n")
	}
	if err := p.Print(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "full.plan", b.String())
}

func TestRender(t *testing.T) {
	p := parse(t, fullFile)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s, err := pki.NewCluster("rack7", p.Names(), now)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Render(p, s, Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Nodes) != 5 || !b.Nodes["m1"].Master || b.Nodes["w03"].Master {
		t.Errorf("nodes rendered: %d, m1 master %v, w03 master %v", len(b.Nodes), b.Nodes["m1"].Master, b.Nodes["w03"].Master)
	}
	doc, err := nodedoc.Open(b.Nodes["w02"].Document, b.Anchor)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := nodedoc.Hash(b.Document)
	if err != nil {
		t.Fatal(err)
	}
	acls, err := acl.Parse([]byte(`{"register_frameworks":[{"principals":{"values":["marathon"]},"roles":{"values":["web","web/%"]}},{"principals":{"values":["marathon"]},"roles":{"type":"NONE"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	limits := &ratelimit.Limits{
		Limits: []ratelimit.Limit{{Principal: "marathon", Rate: ratelimit.Rate{QPS: 50, Capacity: 200}}}, Aggregate: ratelimit.Rate{QPS: 100, Capacity: 100},
	}
	want := nodedoc.Document{
		Format: 1, Cluster: "rack7", ClusterID: s.ClusterID, Revision: 12, DocumentHash: hash, Name: "w02", Mode: "ram", Region: "fra", Zone: "c",
		Attributes: map[string]string{"gpu": "a100", "site": "fra", "floor": "1.10"},
		Masters:    nodedoc.Masters{Version: 1, Names: []string{"m1", "n-525400000002", "w01"}, WaitMS: 40_000},
		Raft:       nodedoc.Raft{HeartbeatMS: 300, StallMS: 3000}, AgentsGraceMS: 30_000, AdoptWaitMS: 300_000,
		API: nodedoc.API{Plaintext: true, PlaintextFrom: []string{"10.7.0.0/24"}, Anonymous: "reader", Domain: "rack7.example", ACLs: acls, RateLimits: limits}, ZooKeeper: "/rack7/mesos",
		Networks: []nodedoc.Network{{
			Name: "lan", Match: nodedoc.Match{Link: "any-up"}, Address: "10.7.0.22/24",
			Gateway: "10.7.0.1", MTU: 9000,
		}},
		Time:            nodedoc.Time{Servers: []string{"dhcp", "pool.ntp.org"}, WaitMS: 20_000},
		WatchdogSeconds: 60, Reserve: nodedoc.Reserve{CPUs: 0.2, MemoryMB: 256}, RAMStorePercent: 30, Oversubscribe: nodedoc.Oversubscribe{CPUs: 2},
		Allocation: nodedoc.Allocation{RoleSorter: "random", FrameworkSorter: "drf", FairSharingExcluded: []string{"gpus"}},
		KernelArgs: []string{"hugepagesz=1G", "hugepages=16"}, Modules: "late",
		Tasks:      nodedoc.Tasks{Image: "base", Report: "container", HostNetworkRoles: []string{"infra"}, HostPaths: []string{"/srv/data"}, Pool: "10.96.0.0/12"},
		Registries: nodedoc.Registries{Mirrors: map[string][]string{"docker.io": {"http://10.7.0.9:5000"}}},
		Peers: []nodedoc.Peer{
			{Name: "m1", Address: "10.7.0.11"},
			{Name: "w01", Address: "10.7.0.21"},
			{Name: "w02", Address: "10.7.0.22"},
			{Name: "w03", Address: "10.7.0.23"},
		},
		SignedAt: now,
	}
	if d := cmp.Diff(want, doc); d != "" {
		t.Errorf("document of w02 (-want +got):\n%s", d)
	}
	if _, err := nodedoc.OpenCluster(b.Cluster, b.Anchor); err != nil {
		t.Error(err)
	}
	if _, err := nodedoc.ParseIssuerSecrets(b.Issuer); err != nil {
		t.Error(err)
	}
}

func TestRenderOnEmulatedMachines(t *testing.T) {
	p := parse(t, smallFile)
	s, err := pki.NewCluster("demo", p.Names(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b, err := Render(p, s, Options{Now: time.Now(), Heartbeat: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := nodedoc.Open(b.Nodes["n-525400000001"].Document, b.Anchor)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(nodedoc.Raft{HeartbeatMS: 1000, StallMS: 8000}, doc.Raft); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestRevisionsAndMasters(t *testing.T) {
	nodes := func(names ...string) string {
		text := "apiVersion: v1\ncluster: demo\nmasters: 3\nnodes:\n"
		for _, n := range names {
			text += "  - name: " + n + "\n"
		}
		return text
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s, err := pki.NewCluster("demo", []string{"a", "b", "c", "d", "e", "aa"}, now)
	if err != nil {
		t.Fatal(err)
	}
	first, err := Render(parse(t, nodes("a", "b", "c", "d")), s, Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		text     string
		revision uint64
		masters  nodedoc.Masters
		err      string
	}{
		{"nothing changes", nodes("a", "b", "c", "d"), 1, nodedoc.Masters{Version: 1, Names: []string{"a", "b", "c"}}, ""},
		{"a lower name does not take over", nodes("aa", "a", "b", "c", "d"), 2, nodedoc.Masters{Version: 1, Names: []string{"a", "b", "c"}}, ""},
		{"one goes", nodes("a", "b", "d"), 2, nodedoc.Masters{Version: 2, Names: []string{"a", "b", "d"}}, ""},
		{"two go", nodes("a", "d", "e"), 0, nodedoc.Masters{}, "one name at a time"},
		{"fewer", strings.Replace(nodes("a", "b", "c"), "masters: 3", "masters: 1", 1), 0, nodedoc.Masters{}, "their number cannot change"},
		{"revision falls", "revision: 1\n" + nodes("a", "b", "c"), 0, nodedoc.Masters{}, "write 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := Render(parse(t, c.text), s, Options{Now: now, Previous: &first.Document})
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if err != nil {
				return
			}
			c.masters.WaitMS = 30_000
			if d := cmp.Diff(c.masters, b.Document.Masters); d != "" || b.Document.Revision != c.revision {
				t.Errorf("revision %d, want %d; masters (-want +got):\n%s", b.Document.Revision, c.revision, d)
			}
		})
	}
}

func TestRenderRefuses(t *testing.T) {
	p := parse(t, smallFile)
	s, err := pki.NewCluster("demo", nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Render(p, s, Options{Now: time.Now()}); err == nil || !strings.Contains(err.Error(), "no boot key") {
		t.Errorf("without boot keys: %v", err)
	}
	other, err := pki.NewCluster("other", p.Names(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Render(p, other, Options{Now: time.Now()}); err == nil || !strings.Contains(err.Error(), `"other"`) {
		t.Errorf("with another cluster's secrets: %v", err)
	}
}

func TestMastersSpreadOverZones(t *testing.T) {
	p := parse(t, `apiVersion: v1
cluster: demo
masters: 3
nodes:
  - {name: a1, zone: a}
  - {name: a2, zone: a}
  - {name: a3, zone: a, role: master}
  - {name: b1, zone: b, role: agent}
  - {name: b2, zone: b}
  - {name: c1, zone: c}
`)
	if d := cmp.Diff([]string{"a3", "b2", "c1"}, p.Masters); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// All masters are of one region, by the pinned ones or by the most nodes; who names no
// region is where they are.
func TestRegions(t *testing.T) {
	for _, test := range []struct {
		name, nodes string
		masters     []string
		regions     map[string]string // of the nodes' documents
	}{
		{
			"by the pinned one", "[{name: a, region: far}, {name: b, region: far}, {name: c, region: far}, {name: d, region: fra, role: master}, {name: e, region: fra}, {name: f}]",
			[]string{"d", "e", "f"},
			map[string]string{"a": "far", "d": "fra", "f": "fra"},
		},
		{
			"by the most", "[{name: a, region: fra}, {name: b, region: muc, zone: x}, {name: c, region: muc, zone: x}, {name: d, region: muc, zone: y}]",
			[]string{"b", "c", "d"},
			map[string]string{"a": "fra", "b": "muc"},
		},
		{
			"nobody names one", "[{name: a}, {name: b}, {name: c}]",
			[]string{"a", "b", "c"},
			map[string]string{"a": ""},
		},
		{
			"zones alone", "[{name: a, zone: x}, {name: b, zone: y}, {name: c}]",
			[]string{"a", "b", "c"},
			map[string]string{"a": "default", "c": "default"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := parse(t, "apiVersion: v1\ncluster: demo\nmasters: 3\nnodes: "+test.nodes+"\n")
			if d := cmp.Diff(test.masters, p.Masters); d != "" {
				t.Errorf("masters (-want +got):\n%s", d)
			}
			s, err := pki.NewCluster("demo", p.Names(), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			b, err := Render(p, s, Options{Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range test.regions {
				doc, err := nodedoc.Open(b.Nodes[name].Document, b.Anchor)
				if err != nil {
					t.Fatal(err)
				}
				if doc.Region != want {
					t.Errorf("%s is in region %q, want %q", name, doc.Region, want)
				}
			}
		})
	}
}

func TestRegionOfAGroup(t *testing.T) {
	p := parse(t, "apiVersion: v1\ncluster: demo\nmasters: 1\ndefaults: {region: fra}\ngroups: {west: {region: west, zone: w1}}\nnodes: [{name: a}, {name: b, groups: [west]}, {name: c, groups: [west], zone: w2}]\n")
	for name, want := range map[string]string{"a": "fra/", "b": "west/w1", "c": "west/w2"} {
		if n := p.Node(name); n.Region+"/"+n.Zone != want {
			t.Errorf("%s is in %s/%s, want %s", name, n.Region, n.Zone, want)
		}
	}
}

func TestValuesKnowTheirOrigin(t *testing.T) {
	p := parse(t, fullFile)
	got := map[string]string{}
	for _, v := range p.Node("w01").Values() {
		got[v.Path] = v.Text + " | " + v.Origin
	}
	for path, want := range map[string]string{
		"mode":                   "ram | defaults, line 20",
		"attributes.gpu":         "a100 | group gpu, line 48",
		"network.lan.address":    "10.7.0.21/24 | node, line 67",
		"network.lan.match.link": "any-up | defaults, line 27",
		"time.servers":           "[dhcp, pool.ntp.org] | defaults, line 23",
	} {
		if got[path] != want {
			t.Errorf("%s: %q, want %q", path, got[path], want)
		}
	}
	if _, both := got["network.lan.dhcp"]; both {
		t.Error("an address of the node's own did not replace dhcp of the defaults")
	}
	small := parse(t, smallFile)
	if v := small.Nodes[0].Values()[0]; v.Origin != "built-in" {
		t.Errorf("origin of %s is %q, want built-in", v.Path, v.Origin)
	}
}

func TestErrorsAreProblems(t *testing.T) {
	_, err := Parse("x.yaml", []byte("masters: 2\n"))
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != 4 {
		t.Fatalf("error %v is not four problems", err)
	}
}

// FuzzParse: any bytes give a plan or problems, never a panic, and a plan can be printed
// and rendered or says why not.
func FuzzParse(f *testing.F) {
	f.Add([]byte(smallFile))
	f.Add([]byte(fullFile))
	for _, c := range messages {
		f.Add([]byte(c.text))
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s, err := pki.NewCluster("demo", []string{"n-525400000001", "n-525400000002", "n-52540000000a"}, now)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 64<<10 {
			return // the library's time, not ours
		}
		p, err := Parse("f.yaml", text)
		if err != nil {
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("error without a problem: %#v", err)
			}
			return
		}
		if err := p.Print(&strings.Builder{}); err != nil {
			t.Fatal(err)
		}
		if b, err := Render(p, s, Options{Now: now}); err == nil {
			for name, n := range b.Nodes {
				if _, err := nodedoc.Open(n.Document, b.Anchor); err != nil {
					t.Fatalf("document of %s: %v", name, err)
				}
			}
		}
	})
}
