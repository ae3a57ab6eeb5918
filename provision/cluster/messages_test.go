package cluster

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const head = "apiVersion: v1\ncluster: demo\nmasters: 1\n"

// messages are the sentences that users meet; each names the place, the reason and the cure.
var messages = []struct {
	name, text string
	want       string // without the file's name; several are separated by line breaks
}{
	{
		"even masters", "apiVersion: v1\ncluster: demo\nversion: 1.0.0\nmasters: 2\nnodes: [{name: a}, {name: b}]\n",
		"4:10: masters: 2 — an even number of masters cannot outvote a split; use 1, 3 or 5.",
	},
	{
		"zookeeper path", head + "zookeeper: {path: mesos/}\nnodes: [{name: a}]\n",
		"4:19: zookeeper.path: \"mesos/\" is no path of a znode: it begins with a slash, does not end with one, and has no empty parts, spaces or letters beyond ASCII, as /mesos.",
	},
	{
		"zookeeper value", head + "zookeeper: yes\nnodes: [{name: a}]\n",
		"4:12: zookeeper: yes — it is one of on, off, true, false.",
	},
	{
		"seven masters", "apiVersion: v1\ncluster: demo\nmasters: 7\nnodes: [{name: a}]\n",
		"3:10: masters: 7 — more than 5 masters make every decision slower and none safer; use 1, 3 or 5.",
	},
	{
		"too few nodes", "apiVersion: v1\ncluster: demo\nmasters: 3\nnodes: [{name: a}]\n",
		"3:10: masters: 3 — the file has only 1 nodes that may be masters; add nodes or lower masters.",
	},
	{
		"unknown key", head + "nodes:\n  - name: m1\n    network:\n      lan:\n        match: {link: any-up}\n        adress: 10.7.0.11/24\n",
		"9:9: unknown key \"adress\" in nodes[0].network.lan — did you mean \"address\"?",
	},
	{
		"unknown key, nothing like it", head + "nodes: [{name: a}]\nraft: {xyzzy: 1}\n",
		"5:8: unknown key \"xyzzy\" in raft — known are heartbeat, stall.",
	},
	{
		"no prefix", head + "nodes:\n  - name: m1\n    network:\n      lan:\n        address: \"10.7.0.11\"\n        gateway: 10.7.0.1\n",
		"8:18: address \"10.7.0.11\" has no prefix length — write 10.7.0.11/24 (the gateway 10.7.0.1 suggests /24).",
	},
	{
		"gateway outside", head + "nodes:\n  - name: m1\n    network:\n      lan:\n        address: 10.7.0.11/24\n        gateway: 10.8.0.1\n",
		"9:18: gateway 10.8.0.1 is outside 10.7.0.11/24 of the same network — no route could reach it.",
	},
	{
		"not hexadecimal", head + "nodes:\n  - mac: \"52:54:00:00:00:0G\"\n",
		"5:10: mac \"52:54:00:00:00:0G\" — character 17 is not hexadecimal.",
	},
	{
		"short mac", head + "nodes:\n  - mac: 52:54:00\n",
		"5:10: mac \"52:54:00\" — it has 8 characters, not 17; write it as 52:54:00:12:34:56.",
	},
	{
		"mac twice", head + "nodes:\n  - name: m1\n    match: {mac: 52:54:00:00:00:01}\n  - name: m3\n    mac: 52:54:00:00:00:01\n",
		"6:18: mac 52:54:00:00:00:01 is used by nodes \"m1\" (line 6) and \"m3\" (line 8) — each must be unique.",
	},
	{
		"address twice", head + "nodes:\n  - name: a\n    network: {lan: {address: 10.7.0.1/24}}\n  - name: b\n    network: {lan: {address: 10.7.0.1/16}}\n",
		"6:30: address 10.7.0.1 is used by nodes \"a\" (line 6) and \"b\" (line 8) — each must be unique.",
	},
	{
		"wipe without confirm", head + "nodes:\n  - name: a\n    disks:\n      data:\n        match: {serial: S4}\n        wipe: always\n",
		"9:15: disks.data.wipe: always needs confirm: with the disk's serial or WWID, so that a moved cable cannot erase another disk.",
	},
	{
		"placeholder serial", head + "nodes:\n  - name: m2\n    match: {serial: \"Default string\"}\n",
		"6:21: serial \"Default string\" is a vendor placeholder found on many machines — match by mac instead.",
	},
	{
		"zero uuid", head + "nodes:\n  - name: m2\n    match: {uuid: 00000000-0000-0000-0000-000000000000}\n",
		"6:19: uuid \"00000000-0000-0000-0000-000000000000\" is a vendor placeholder found on many machines — match by mac instead.",
	},
	{
		"key twice", head + "nodes: [{name: a}]\ncluster: other\n",
		"5:1: key \"cluster\" is here a second time (first in line 2) — keep one of them.",
	},
	{
		"anchor", head + "nodes:\n  - &x {name: a}\n",
		"5:5: anchors (&) and aliases (*) are not allowed — use defaults: or groups:; quote a text that begins so.",
	},
	{
		"tag", head + "nodes:\n  - name: !!str a\n",
		"5:11: tags (!) are not allowed — every key here has one type; quote a text that begins so.",
	},
	{
		"merge key", head + "nodes:\n  - {<<: {name: a}}\n",
		"5:6: merge keys (<<) are not allowed — use defaults: or groups:.",
	},
	{
		"two documents", head + "nodes: [{name: a}]\n---\ncluster: b\n",
		"6:1: a second document begins here — a cluster file is one document; remove the line with ---.",
	},
	{"empty", "", "1:1: the file is empty — `lith init` writes one to start from."},
	{"a list", "- a\n- b\n", "1:1: the file is a list — it must be a mapping (key: value)."},
	{
		"key without value", head + "nodes: [{name: a}]\nraft:\n  heartbeat:\n",
		"6:3: raft.heartbeat has no value — give it one or remove the key.",
	},
	{
		"duration without unit", head + "nodes: [{name: a}]\nraft: {heartbeat: 250}\n",
		"5:19: raft.heartbeat: 250 is no duration — the unit is missing: 250ms, 250s or 250m.",
	},
	{
		"duration too short", head + "nodes: [{name: a}]\nraft: {heartbeat: 1ms}\n",
		"5:19: raft.heartbeat: 1ms — it is from 50ms to 1m.",
	},
	{
		"wrong choice", head + "nodes: [{name: a}]\napi: {anonymous: readers}\n",
		"5:18: api.anonymous: readers — did you mean \"reader\"? it is one of none, reader, framework.",
	},
	{
		"ACL of nothing that exists", head + "nodes: [{name: a}]\napi:\n  acls:\n    run_task:\n      - {principals: {values: [m]}, users: {type: ANY}}\n",
		"7:5: api.acls: unknown key \"run_task\" in the ACLs — did you mean \"run_tasks\"? A rule under a wrong name would restrict nothing.",
	},
	{
		"ACL that nobody fits", head + "nodes: [{name: a}]\napi:\n  acls:\n    run_tasks:\n      - {principals: {values: [m]}, users: {type: any}}\n",
		"8:51: api.acls: run_tasks[0].users.type: \"any\" — it is one of ANY, NONE and SOME (with values). Write ANY.",
	},
	{
		"rate of nothing", head + "nodes: [{name: a}]\napi: {rateLimits: {limits: [{principal: m, qps: 0}]}}\n",
		"5:49: api.rateLimits: limits[0].qps must be a number of calls a second, more than 0 and at most 1000000 — leave it out for no limit.",
	},
	{
		"more ACLs than a document holds", head + "nodes: [{name: a}]\napi:\n  acls:\n    run_tasks:\n      - {principals: {type: ANY}, users: {values: [" + strings.Repeat(strings.Repeat("x", 1000)+", ", 9) + "u]}}\n",
		"6:3: api.acls and api.rateLimits have 9157 bytes as JSON — each node's document has room for 8192 of them; name several principals or objects in one rule.",
	},
	{
		"yaml 1.1 boolean", head + "nodes:\n  - {name: a, network: {lan: {dhcp: yes}}}\n",
		"5:37: nodes[0].network.lan.dhcp: yes — it is one of true, false.",
	},
	{
		"version of the file", "apiVersion: v2\ncluster: demo\nmasters: 1\nnodes: [{name: a}]\n",
		"1:13: apiVersion: v2 — this program reads v1.",
	},
	{
		"name in capitals", head + "nodes: [{name: Rack1}]\n",
		"4:16: nodes[0].name \"Rack1\" is no name — write rack1.",
	},
	{
		"same name", head + "nodes: [{name: a}, {name: a}]\n",
		"4:21: node \"a\" is here a second time (first in line 4) — a name is a node's identity.",
	},
	{
		"ranges of different lengths", head + "nodes:\n  - {name: \"w[01-03]\", match: {serial: \"S[1-2]\"}}\n",
		"5:40: match.serial \"S[1-2]\" — the range has 2 elements, the one of name has 3; they run along each other.",
	},
	{
		"range going down", head + "nodes: [{name: \"w[3-1]\"}]\n",
		"4:16: name \"w[3-1]\" of nodes[0] — the range goes down from 3 to 1; write the smaller number first.",
	},
	{
		"unknown group", head + "groups: {gpu: {attributes: {x: y}}}\nnodes: [{name: a, groups: [gpus]}]\n",
		"5:28: unknown group \"gpus\" in nodes[0] — did you mean \"gpu\"?",
	},
	{
		"disk mode", head + "nodes: [{name: a, mode: disk}]\n",
		"4:25: nodes[0].mode: disk — this version runs nodes from RAM only and would forget what such a node should keep; use mode: ram.",
	},
	{
		"trust by tpm", head + "trust: tpm\nnodes: [{name: a}]\n",
		"4:8: trust: tpm — this version proves nodes by a boot credential on their medium only; use trust: medium.",
	},
	{
		"pool bits", head + "networks: {tasks: {pool: 10.88.0.1/16}}\nnodes: [{name: a}]\n",
		"4:26: networks.tasks.pool 10.88.0.1/16 has bits set behind its prefix — write 10.88.0.0/16.",
	},
	{
		"range without server", head + "provision: {dhcp: proxy, range: 10.0.0.1-10.0.0.9}\nnodes: [{name: a}]\n",
		"4:33: provision.range is used with dhcp: server only — with proxy or off your own DHCP server gives the addresses; remove it or write dhcp: server.",
	},
	{
		"stall below heartbeat", head + "raft: {heartbeat: 3s}\nnodes: [{name: a}]\n",
		"4:8: raft.stall 2s is shorter than raft.heartbeat 3s — every slow write would end the leader; make it a few times as long.",
	},
	{
		"mirror without scheme", head + "registries: {mirrors: {docker.io: [10.0.0.1]}}\nnodes: [{name: a}]\n",
		"4:36: mirror \"10.0.0.1\" of docker.io has no scheme — write http://10.0.0.1 or https://10.0.0.1.",
	},
	{
		"a path of the node's own for tasks", head + "tasks: {hostPaths: [/srv/data, /var]}\nnodes: [{name: a}]\n",
		"4:32: tasks.hostPaths: \"/var\" is a place of the node's own files, or holds one (/var/lib/mesolith): name a directory that is there for tasks.",
	},
	{
		"neither name nor mac", head + "nodes: [{zone: a}]\n",
		"4:10: nodes[0] has neither name nor mac — one of them must say which machine it is.",
	},
	{
		"masters pinned in two regions", "apiVersion: v1\ncluster: x\nmasters: 3\nnodes: [{name: a, region: fra, role: master}, {name: b, region: muc, role: master}, {name: c}]\n",
		"3:10: masters: 3 — nodes a (region fra) and b (region muc) are pinned with role: master, and all masters are in one region, which agents elsewhere are far from; pin nodes of one region.",
	},
	{
		"too few in the masters' region", "apiVersion: v1\ncluster: x\nmasters: 3\nnodes: [{name: a, region: fra, role: master}, {name: b, region: muc}, {name: c, region: fra}]\n",
		"3:10: masters: 3 — region fra has only 2 nodes that may be masters, and all masters are in one region; add nodes there, lower masters, or pin masters of another region with role: master.",
	},
	{
		"a sorter that is none", head + "allocation: {roleSorter: fair}\nnodes: [{name: a}]\n",
		"4:26: allocation.roleSorter: fair — it is one of drf, random.",
	},
	{
		"cpus that are less than none", head + "nodes: [{name: a, oversubscribe: {cpus: -1}}]\n",
		"4:41: nodes[0].oversubscribe.cpus: -1 — it is a number from 0 to 4096.",
	},
	{
		"memory promised twice", head + "nodes: [{name: a, oversubscribe: {mem: 1GB}}]\n",
		"4:35: unknown key \"mem\" in nodes[0].oversubscribe — known are cpus.",
	},
	{
		"nothing but a name", "cluster: x\n",
		"1:1: apiVersion: is missing — the smallest file has apiVersion, cluster, masters and nodes.\n" +
			"1:1: masters: is missing — the smallest file has apiVersion, cluster, masters and nodes.\n" +
			"1:1: nodes: is missing — the smallest file has apiVersion, cluster, masters and nodes.",
	},
}

func TestMessages(t *testing.T) {
	for _, c := range messages {
		t.Run(c.name, func(t *testing.T) {
			p, err := Parse("cluster.yaml", []byte(c.text))
			if p != nil {
				t.Error("a file with errors gave a plan")
			}
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("error is %v", err)
			}
			want := "cluster.yaml:" + strings.ReplaceAll(c.want, "\n", "\ncluster.yaml:")
			if d := cmp.Diff(want, err.Error()); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestNotYAML(t *testing.T) {
	for _, text := range []string{"a: [", "a: {b", "\t- x", "a: b: c", "\"", "a: 'x\n"} {
		_, err := Parse("cluster.yaml", []byte(text))
		if err == nil || !strings.HasPrefix(err.Error(), "cluster.yaml:") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{
			"two zones for three masters", "apiVersion: v1\ncluster: demo\nmasters: 3\nnodes:\n  - {name: a, zone: a}\n  - {name: b, zone: b}\n  - {name: c, zone: a}\n",
			"cluster.yaml:5:3: only 2 of 3 masters can be placed in different zones (a, b) — loss of zone a would lose the quorum.   [warning]",
		},
		{
			"no time", head + "nodes:\n  - name: m1\n    time: {servers: [dhcp]}\n    network: {lan: {address: 10.7.0.11/24}}\n",
			"cluster.yaml:6:21: time.servers: [dhcp] but dhcp: false on every network of m1 — m1 would start unsynced after 30s.   [warning]",
		},
		{
			"zookeeper", head + "zookeeper: on\nnodes: [{name: a}]\n",
			"cluster.yaml:4:12: zookeeper: on without api.plaintext — who looks for the leader there speaks plain HTTP to it and is refused; write api: {plaintext: true} or the networks of such clients.   [warning]",
		},
		{
			"zookeeper over plain HTTP", head + "zookeeper: {path: /mesos-2}\napi: {plaintext: [10.7.0.0/24]}\nnodes: [{name: a}]\n", "",
		},
		{
			"what tasks report", head + "tasks: {report: host}\nnodes: [{name: a}]\n",
			"cluster.yaml:4:17: tasks.report: host is accepted and not acted on yet — this version does nothing about it.   [warning]",
		},
		{"what happens anyway", head + "defaults: {console: auto, kernelArgs: []}\ntasks: {report: container}\nnodes: [{name: a}]\n", ""},
		{
			"kernel arguments", head + "defaults: {console: ttyS1, kernelArgs: [quiet]}\nnodes: [{name: a}]\n",
			"cluster.yaml:4:21: defaults.console: ttyS1 is accepted and not acted on yet — this version does nothing about it.   [warning]\n" +
				"cluster.yaml:4:40: defaults.kernelArgs is accepted and not acted on yet — this version does nothing about it.   [warning]",
		},
		{
			"open API", head + "api: {plaintext: true, anonymous: framework}\nnodes: [{name: a}]\n",
			"cluster.yaml:4:18: the API is open: plain HTTP, and who has no credentials may run tasks — right for a test cluster on one machine only.   [warning]",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := parse(t, c.text)
			var got []string
			for _, w := range p.Warnings {
				got = append(got, w.String())
			}
			if d := cmp.Diff(c.want, strings.Join(got, "\n")); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestTextIsReadAsWritten(t *testing.T) {
	p := parse(t, "apiVersion: v1\ncluster: \"no\"\nversion: 1.10\nmasters: 1\nnodes:\n  - mac: 52:54:00:00:00:01\n    attributes: {a: 010, b: 1e3, c: 1.50, d: no, e: 0x10}\n")
	if p.File.Cluster != "no" || p.File.Version != "1.10" {
		t.Errorf("cluster %q, version %q", p.File.Cluster, p.File.Version)
	}
	want := map[string]string{"a": "010", "b": "1e3", "c": "1.50", "d": "no", "e": "0x10"}
	if d := cmp.Diff(want, p.Nodes[0].Settings.Attributes); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
