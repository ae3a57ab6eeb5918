// Package cluster reads the cluster file: one declarative file for a whole cluster. It
// decodes strictly, lays defaults, groups and nodes over each other, checks what belongs
// together, chooses the masters, and renders the signed documents that machines boot by.
//
// Invariant: a file with any error yields no plan and no document, and every error says
// file:line:column, what, why and what to write instead. The same file, secrets and
// previous document give the same documents, but for the time of signing.
//
// It reads and writes no file and asks no machine: what only an inventory can tell (how
// many disks a selector matches) is checked where inventories are known. Keys and
// certificates are provision/pki's.
package cluster

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/mesolith/mesolith/internal/nodedoc"
)

// File is the decoded part of a cluster file that is about the whole cluster.
type File struct {
	Cluster  string
	Version  string
	Revision uint64 // 0: lith counts
	Masters  struct {
		Count int
		Wait  time.Duration
	}
	AdoptWait    time.Duration
	Heartbeat    time.Duration
	Stall        time.Duration
	AgentsGrace  time.Duration
	Allocation   nodedoc.Allocation
	API          nodedoc.API
	ZooKeeper    string // path; empty: off
	Trust        string
	Registries   nodedoc.Registries
	SecretsPath  string
	Tasks        nodedoc.Tasks
	ModulesLate  bool
	StoragePools map[string]string // network name to pool, other than tasks
}

// defaultFile holds the built-in values of the keys about the whole cluster.
func defaultFile() File {
	f := File{
		AdoptWait: 10 * time.Minute, Heartbeat: 250 * time.Millisecond, Stall: 2 * time.Second,
		AgentsGrace: 25 * time.Second, API: nodedoc.API{Anonymous: nodedoc.AnonymousNone},
		Trust: "medium", SecretsPath: "cluster.secrets.yaml",
		Tasks:        nodedoc.Tasks{Image: "base", Report: "container", Pool: "10.88.0.0/16"},
		StoragePools: map[string]string{},
	}
	f.Masters.Wait = 30 * time.Second
	return f
}

// decoder reads one file. Layers of settings are kept as values, to be merged per node.
type decoder struct {
	*report
	root     *value
	file     File
	defaults *value
	groups   []group // in the file's order
	nodes    []*Node
}

type group struct {
	name     string
	settings *value
}

func (d *decoder) top() {
	f := &d.file
	d.object(d.root, "", fields{
		"apiVersion": d.apiVersion,
		"cluster":    d.label(&f.Cluster),
		"version":    d.text(&f.Version),
		"revision":   d.revision,
		"masters":    d.masters,
		"adopt":      d.table(fields{"wait": d.duration(&f.AdoptWait, 0, 24*time.Hour)}),
		"raft": d.table(fields{
			"heartbeat": d.duration(&f.Heartbeat, 50*time.Millisecond, time.Minute),
			"stall":     d.duration(&f.Stall, 100*time.Millisecond, 10*time.Minute),
		}),
		"agents": d.table(fields{"grace": d.duration(&f.AgentsGrace, time.Second, 24*time.Hour)}),
		"allocation": d.table(fields{
			"roleSorter":          d.choice(&f.Allocation.RoleSorter, nodedoc.SorterDRF, nodedoc.SorterRandom),
			"frameworkSorter":     d.choice(&f.Allocation.FrameworkSorter, nodedoc.SorterDRF, nodedoc.SorterRandom),
			"fairSharingExcluded": d.texts(&f.Allocation.FairSharingExcluded),
		}),
		"api":        d.api,
		"zookeeper":  d.zookeeper,
		"trust":      d.trust,
		"provision":  d.provision,
		"defaults":   func(v *value, path string) { d.defaults = v; d.settings(v, path, &Settings{}) },
		"registries": d.table(fields{"mirrors": d.mirrors, "offline": d.boolean(&f.Registries.Offline)}),
		"secrets":    d.text(&f.SecretsPath),
		"update":     d.update,
		"groups":     d.named(d.group),
		"nodes":      d.nodeList,
		"networks":   d.named(d.pool),
		"tasks": d.table(fields{
			"image":            d.text(&f.Tasks.Image),
			"hostNetworkRoles": d.texts(&f.Tasks.HostNetworkRoles),
			"hostPaths":        d.hostPaths,
			"report":           d.laterUnless("container", d.choice(&f.Tasks.Report, "container", "host")),
		}),
		"modules": d.modules,
	})
	if d.root.kind != mapping {
		return
	}
	for _, key := range []string{"apiVersion", "cluster", "masters", "nodes"} {
		if d.root.get(key) == nil {
			d.fail(1, 1, "%s: is missing — the smallest file has apiVersion, cluster, masters and nodes.", key)
		}
	}
	if d.file.Stall < d.file.Heartbeat {
		d.failAt(d.root.get("raft"), "raft.stall %s is shorter than raft.heartbeat %s — every slow write would end the leader; make it a few times as long.",
			short(d.file.Stall), short(d.file.Heartbeat))
	}
}

// laterUnless reads a key on which this version does not act: every value but the one that
// says what happens anyway is called so.
func (d *decoder) laterUnless(usual string, set setter) setter {
	return func(v *value, path string) {
		set(v, path)
		if v.kind == scalar && v.text != usual {
			d.notYet(v, path+": "+v.text)
		}
	}
}

// table is object as a setter.
func (d *decoder) table(t fields) setter {
	return func(v *value, path string) { d.object(v, path, t) }
}

func (d *decoder) apiVersion(v *value, path string) {
	if d.scalar(v, path) && v.text != "v1" {
		d.failAt(v, "apiVersion: %.80s — this program reads v1.", v.text)
	}
}

func (d *decoder) revision(v *value, path string) {
	n := 0
	d.integer(&n, 1, 1<<53)(v, path)
	d.file.Revision = uint64(n)
}

func (d *decoder) masters(v *value, path string) {
	if v.kind == mapping {
		d.object(v, path, fields{"count": d.masterCount, "wait": d.duration(&d.file.Masters.Wait, time.Second, time.Hour)})
		if v.get("count") == nil {
			d.failAt(v, "masters has no count — write 1, 3 or 5.")
		}
		return
	}
	d.masterCount(v, path)
}

func (d *decoder) masterCount(v *value, path string) {
	n := -1
	if d.integer(&n, 0, 1000)(v, path); n < 0 {
		return
	}
	switch {
	case n == 1 || n == 3 || n == 5:
		d.file.Masters.Count = n
	case n == 0:
		d.failAt(v, "masters: 0 — a cluster without a master does nothing; use 1, 3 or 5.")
	case n%2 == 0:
		d.failAt(v, "masters: %d — an even number of masters cannot outvote a split; use 1, 3 or 5.", n)
	default:
		d.failAt(v, "masters: %d — more than 5 masters make every decision slower and none safer; use 1, 3 or 5.", n)
	}
}

func (d *decoder) api(v *value, path string) {
	a := &d.file.API
	d.object(v, path, fields{
		"plaintext":   d.plaintext,
		"anonymous":   d.choice(&a.Anonymous, nodedoc.AnonymousNone, nodedoc.AnonymousReader, nodedoc.AnonymousFramework),
		"domain":      d.text(&a.Domain),
		"acls":        d.acls,
		"rateLimits":  d.rateLimits,
		"certificate": func(v *value, path string) { d.notYet(v, path) },
	})
	if n := a.RuleBytes(); n > nodedoc.MaxAPIRules {
		d.failAt(v, "api.acls and api.rateLimits have %d bytes as JSON — each node's document has room for %d of them; name several principals or objects in one rule.", n, nodedoc.MaxAPIRules)
	}
}

// plaintext is true, false, or the list of networks from which plain HTTP is taken.
func (d *decoder) plaintext(v *value, path string) {
	a := &d.file.API
	if v.kind != list {
		d.boolean(&a.Plaintext)(v, path)
		return
	}
	a.Plaintext = len(v.items) > 0
	d.each(func(v *value, path string) {
		var cidr string
		if d.prefix(&cidr)(v, path); cidr != "" {
			a.PlaintextFrom = append(a.PlaintextFrom, cidr)
		}
	}, func() { a.PlaintextFrom = nil })(v, path)
}

// zookeeper is off, on, or the path at which the leader is found instead of the usual one.
func (d *decoder) zookeeper(v *value, path string) {
	f := &d.file
	on := v.kind == mapping
	if on {
		d.object(v, path, fields{"path": d.text(&f.ZooKeeper)})
	} else {
		d.onOff(&on)(v, path)
	}
	if on && v.get("path") == nil {
		f.ZooKeeper = "/mesos"
	}
	if !on {
		return
	}
	if err := nodedoc.CheckZooKeeper(f.ZooKeeper); err != nil {
		d.failAt(v.get("path"), "zookeeper.path: %v.", err)
	}
}

func (d *decoder) trust(v *value, path string) {
	d.choice(&d.file.Trust, "tpm", "medium", "network")(v, path)
	if d.file.Trust != "medium" {
		d.failAt(v, "trust: %s — this version proves nodes by a boot credential on their medium only; use trust: medium.", d.file.Trust)
	}
}

func (d *decoder) provision(v *value, path string) {
	if v.kind == scalar {
		var none string
		d.choice(&none, "none")(v, path)
		return
	}
	var on, boot []string
	var iface, dhcp, rng, unknown string
	d.object(v, path, fields{
		"on": d.texts(&on), "interface": d.text(&iface), "dhcp": d.choice(&dhcp, "proxy", "server", "off"),
		"range": d.addressRange(&rng), "unknown": d.choice(&unknown, "hold", "ignore", "join"), "boot": d.texts(&boot),
	})
	d.listOf(v.get("on"), "provision.on", on, "lith", "masters")
	d.listOf(v.get("boot"), "provision.boot", boot, "pxe-uefi", "pxe-bios", "http")
	if rng != "" && dhcp != "server" {
		d.failAt(v.get("range"), "provision.range is used with dhcp: server only — with proxy or off your own DHCP server gives the addresses; remove it or write dhcp: server.")
	}
	if rng == "" && dhcp == "server" {
		d.failAt(v.get("dhcp"), "provision.dhcp: server needs range: with the addresses to give, as 10.7.0.100-10.7.0.200.")
	}
	d.notYet(v, "provision")
}

func (d *decoder) listOf(v *value, path string, got []string, words ...string) {
	for i, word := range got {
		var ignored string
		if v != nil && i < len(v.items) && v.items[i].kind == scalar && word != "" {
			d.choice(&ignored, words...)(v.items[i], path)
		}
	}
}

func (d *decoder) addressRange(into *string) setter {
	return func(v *value, path string) {
		if !d.scalar(v, path) {
			return
		}
		a, b, ok := strings.Cut(v.text, "-")
		low, err1 := netip.ParseAddr(strings.TrimSpace(a))
		high, err2 := netip.ParseAddr(strings.TrimSpace(b))
		if !ok || err1 != nil || err2 != nil || low.Compare(high) > 0 || low.Is4() != high.Is4() {
			d.failAt(v, "%s %.80q is no range of addresses — write the lower and the higher one: 10.7.0.100-10.7.0.200.", path, v.text)
			return
		}
		*into = v.text
	}
}

func (d *decoder) hostPaths(v *value, path string) {
	d.texts(&d.file.Tasks.HostPaths)(v, path)
	for i, p := range d.file.Tasks.HostPaths {
		if err := nodedoc.CheckHostPath(p); err != nil && p != "" {
			d.failAt(v.items[i], "%s: %v.", path, err)
		}
	}
}

func (d *decoder) mirrors(v *value, path string) {
	d.file.Registries.Mirrors = map[string][]string{}
	d.named(func(host string, v *value, path string) {
		var urls []string
		d.texts(&urls)(v, path)
		for i, u := range urls {
			if u != "" && !strings.HasPrefix(u, "http://") && !strings.HasPrefix(u, "https://") {
				d.failAt(v.items[i], "mirror %.80q of %s has no scheme — write http://%s or https://%s.", u, host, u, u)
			}
		}
		d.file.Registries.Mirrors[host] = urls
	})(v, path)
}

func (d *decoder) update(v *value, path string) {
	var slots, parallel, rollback, window string
	var order []string
	var drain, healthyFor, within time.Duration
	var registered, caughtUp bool
	d.object(v, path, fields{
		"slots": d.choice(&slots, "ab"), "order": d.texts(&order), "parallel": d.text(&parallel),
		"drain": d.duration(&drain, 0, 7*24*time.Hour),
		"healthy": d.table(fields{
			"agentRegistered": d.boolean(&registered), "raftCaughtUp": d.boolean(&caughtUp),
			"for": d.duration(&healthyFor, 0, time.Hour), "within": d.duration(&within, 0, 24*time.Hour),
		}),
		"rollback": d.choice(&rollback, "auto", "off"), "window": d.text(&window),
	})
	d.notYet(v, "update")
}

func (d *decoder) pool(name string, v *value, path string) {
	var pool string
	start := 1
	d.object(v, path, fields{"pool": d.prefix(&pool), "start": d.integer(&start, 1, 1<<24)})
	if pool == "" {
		if v.get("pool") == nil {
			d.failAt(v, "%s has no pool — write {pool: 10.88.0.0/16}.", path)
		}
		return
	}
	if name != "tasks" {
		d.file.StoragePools[name] = pool
		d.notYet(v, path)
		return
	}
	if p := netip.MustParsePrefix(pool); !p.Addr().Is4() || p.Bits() > 22 {
		d.failAt(v.get("pool"), "networks.tasks.pool %s is too small or not IPv4 — every node takes a part of it for its tasks; use a /22 or wider.", pool)
		return
	}
	d.file.Tasks.Pool = pool
}

func (d *decoder) modules(v *value, path string) {
	var when string
	d.choice(&when, "early", "late")(v, path)
	d.file.ModulesLate = when == "late"
}

func (d *decoder) group(name string, v *value, path string) {
	d.checkLabel(v, path, name)
	d.settings(v, path, &Settings{})
	d.groups = append(d.groups, group{name: name, settings: v})
}

// findGroup gives a group of the file by name, or nil.
func (d *decoder) findGroup(name string) *value {
	for _, g := range d.groups {
		if g.name == name {
			return g.settings
		}
	}
	return nil
}

func (d *decoder) groupNames() []string {
	names := make([]string, len(d.groups))
	for i, g := range d.groups {
		names[i] = g.name
	}
	return names
}

// where gives a value's place for messages that name two.
func where(v *value) string { return fmt.Sprintf("line %d", v.line) }
