package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/mesolith/mesolith/api/client"
	"github.com/mesolith/mesolith/api/node"
)

// Where a finding begins.
const (
	skewWarns       = 5 * time.Second // between a node's clock and this machine's
	skewWrong       = 5 * time.Minute // certificates and people stop agreeing
	certificateSoon = time.Hour       // a certificate is renewed at half of its day
	restartLately   = 10 * time.Minute
	memoryLow       = 10 // percent of a machine's memory that is free
)

// diagnose judges. It is pure: the same facts give the same findings.
func diagnose(f facts) diagnosis {
	d := diagnosis{Cluster: f.cluster, Findings: []finding{}}
	for _, n := range f.nodes {
		d.machine(f, n)
	}
	d.versions(f)
	d.masters(f)
	d.work(f)
	d.count()
	return d
}

// machine is one node's own side.
func (d *diagnosis) machine(f facts, n nodeFacts) {
	if n.err != nil {
		if f.young {
			d.warn(n.name, "its own side (port 5053) does not answer yet: "+n.err.Error(), "The cluster was started a moment ago; it may be booting.", "Wait; its console shows how far it is.")
			return
		}
		d.wrong(n.name, "its own side (port 5053) does not answer: "+n.err.Error(),
			"The machine is off, cut off, or booting. Its tasks are reported unreachable once the cluster's patience is over.",
			"Look at its console, its power and its cable.")
		return
	}
	h := n.health
	if h.Name == "" {
		d.wrong(n.name, "it has no node document: "+strings.Join(h.Waiting, "; "), "It belongs to no cluster.", "Give it its document: see docs/cluster-file.md.")
		return
	}
	d.ok(n.name, "answers; kernel %s, image %s, %s", h.Kernel, orNothingSaid(h.Version), orNothingSaid(h.Status.Summary))
	d.clock(n)
	d.certificate(n)
	d.services(f, n)
	if m := n.memory; m.TotalBytes > 0 {
		if free := 100 * m.AvailableBytes / m.TotalBytes; free < memoryLow {
			d.warn(n.name, fmt.Sprintf("only %d %% of its memory is free", free), "Tasks may be ended when they ask for more than is there.", "See who holds it: `lith node "+n.name+" memory"+f.at+"`.")
		} else {
			d.ok(n.name, "%d %% of its memory is free", free)
		}
	}
	if len(n.nics) > 0 && !slices.ContainsFunc(n.nics, func(c node.NIC) bool { return c.Carrier }) {
		d.wrong(n.name, "no network card has a carrier", "It is about to be cut off.", "Look at its cables.")
	}
	if n.crash != "" {
		d.warn(n.name, "its kernel crashed before this boot: "+crashLine(n.crash), "Tasks that ran on it were lost then.", "Read it whole: `lith node "+n.name+" logs crash"+f.at+"`.")
	}
	if n.api != "" {
		d.wrong(n.name, "its Mesos API does not answer: "+n.api, "Clients that use this node's address fail; others are served.", "See why: `lith node "+n.name+" logs clusterd"+f.at+"`.")
	}
}

func orNothingSaid(s string) string {
	if s == "" {
		return "nothing said"
	}
	return s
}

// crashLine is the line of a crash that says why.
func crashLine(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	for _, l := range lines {
		if strings.Contains(l, "panic") || strings.Contains(l, "BUG") || strings.Contains(l, "Oops") {
			return strings.TrimSpace(l)
		}
	}
	return strings.TrimSpace(lines[0])
}

func (d *diagnosis) clock(n nodeFacts) {
	skew := n.health.Time.Sub(n.asked).Abs()
	source := orNothingSaid(n.health.Clock.Source)
	switch {
	case skew >= skewWrong:
		d.wrong(n.name, fmt.Sprintf("its clock is %s away from this machine's (source: %s)", skew.Round(time.Second), source),
			"No task, agent or framework is removed for it; certificates may be refused, and logs mislead.", "Give it a time server, or set this machine's clock.")
	case skew >= skewWarns:
		d.warn(n.name, fmt.Sprintf("its clock is %s away from this machine's (source: %s)", skew.Round(time.Second), source), "Logs of several nodes do not line up.", "Give it a time server.")
	case !n.health.Clock.Synced:
		d.warn(n.name, "its clock follows no time server (source: "+source+")", "It drifts.", "Name one in the cluster file, or let DHCP do it.")
	default:
		d.ok(n.name, "its clock is right within %s (source: %s)", skewWarns, source)
	}
}

func (d *diagnosis) certificate(n nodeFacts) {
	ends := n.health.CertificateEnds
	left := ends.Sub(n.health.Time)
	switch {
	case ends.IsZero():
		d.wrong(n.name, "it has no certificate yet", "It cannot speak to the other nodes.", "A master that holds the issuing key must be reachable; `lith node "+n.name+" logs noded` says what was tried.")
	case left <= 0:
		d.wrong(n.name, fmt.Sprintf("its certificate ended %s ago", (-left).Round(time.Second)), "It cannot make new connections to other nodes.", "It joins again by itself when a master that issues can be reached.")
	case left < certificateSoon:
		d.warn(n.name, fmt.Sprintf("its certificate ends in %s and was not renewed at half of its time", left.Round(time.Second)), "It will be cut off then.", "`lith node "+n.name+" logs noded` says why.")
	default:
		d.ok(n.name, "its certificate lasts %s more", left.Round(time.Minute))
	}
}

func (d *diagnosis) services(f facts, n nodeFacts) {
	bad := false
	for _, s := range n.services {
		logs := "`lith node " + n.name + " logs " + s.Name + f.at + "` says why."
		switch {
		case s.State != "running" && s.State != "starting":
			bad = true
			d.wrong(n.name, fmt.Sprintf("%s is not running (%s, last exit: %s)", s.Name, s.State, orNothingSaid(s.LastExit)), meansDown[s.Name], logs)
		case s.Restarts > 0 && n.health.Time.Sub(s.Since) < restartLately:
			bad = true
			d.warn(n.name, fmt.Sprintf("%s was started again %s ago (%s, last exit: %s)", s.Name, n.health.Time.Sub(s.Since).Round(time.Second), plural(int(s.Restarts), "restart", "restarts"), orNothingSaid(s.LastExit)),
				"No task notices a restart; many of them are a fault.", logs)
		}
	}
	if !bad && len(n.services) > 0 {
		d.ok(n.name, "%s run", plural(len(n.services), "program", "programs"))
	}
}

// meansDown says what a program's absence means.
var meansDown = map[string]string{
	"clusterd": "Its tasks go on; nothing new starts on this node, and a master is missing.",
	"isolated": "Its tasks go on; none starts or is ended on this node.",
	"noded":    "Its tasks go on; its certificate is not renewed.",
}

// versions are compared between nodes.
func (d *diagnosis) versions(f facts) {
	by := map[string][]string{}
	for _, n := range f.nodes {
		if n.err == nil && n.health.Version != "" {
			by[n.health.Version] = append(by[n.health.Version], n.name)
		}
	}
	if len(by) < 2 {
		return
	}
	var parts []string
	for v, names := range by {
		parts = append(parts, v+" on "+strings.Join(names, ", "))
	}
	slices.Sort(parts)
	d.warn("cluster", "nodes run different images: "+strings.Join(parts, "; "), "That is fine during an update, and only then.", "Boot the rest from the newer one.")
}

// masters are judged by what they say of themselves.
func (d *diagnosis) masters(f facts) {
	var listed, up, late, whys []string
	mute := 0
	leaders := map[string][]string{}
	for _, n := range f.nodes {
		if !n.master {
			continue
		}
		listed = append(listed, n.name)
		s := n.health.Status
		if n.err != nil || s.Role == "" || s.Role == "agent" {
			continue // off, or its clusterd has said nothing yet
		}
		up = append(up, n.name)
		stopped := strings.Contains(s.Summary, "has stopped voting")
		if stopped {
			d.wrong(n.name, s.Summary, "The other masters go on without it.", "Switch off the machine that is not meant, then restart clusterd on the other.")
		}
		if s.Leader == "" {
			if s.Summary != "" && !slices.Contains(whys, s.Summary) {
				whys = append(whys, s.Summary)
			}
			continue
		}
		leaders[s.Leader] = append(leaders[s.Leader], n.name)
		if !s.Votes {
			mute++
			if !stopped && !f.holds(n.name) { // those say more themselves
				late = append(late, n.name)
			}
		}
	}
	d.held(f)
	if len(listed) == 0 {
		return // by URL: nobody said which nodes are masters
	}
	quorum := len(listed)/2 + 1
	switch {
	case len(up) < quorum:
		d.wrong("masters", fmt.Sprintf("%d of %s answer, %d are needed", len(up), plural(len(listed), "master", "masters"), quorum),
			"What runs goes on. Nothing new starts, and nobody is told of what ends, until they are back.", "Bring back "+strings.Join(without(listed, up), ", ")+".")
	case len(leaders) == 0:
		d.wrong("masters", "no leader: "+strings.Join(whys, "; "), "What runs goes on. Nothing new starts until there is one.", "It comes by itself when a majority is up and connected; if not, look at the masters' logs.")
	case len(leaders) > 1:
		d.warn("masters", fmt.Sprintf("they name different leaders: %v", leaders), "That is so for a moment while one takes over.", "Ask again; if it stays, the masters are cut from each other.")
	case len(up) < len(listed):
		d.warn("masters", fmt.Sprintf("%d of %s answer, %d are needed", len(up), plural(len(listed), "master", "masters"), quorum), spare(len(up)-mute-quorum), "Bring back "+strings.Join(without(listed, up), ", ")+".")
	case mute == 0:
		d.ok("masters", "all %d answer, %d are needed, %s leads", len(up), quorum, slices.Collect(maps.Keys(leaders))[0])
	}
	if len(late) > 0 {
		d.warn("masters", fmt.Sprintf("%s %s no vote yet, %d are needed", strings.Join(late, ", "), has(len(late)), quorum), spare(len(up)-mute-quorum),
			"It comes by itself within seconds of their boot; reboot no other master before. If it stays, read clusterd's log on the leader.")
	}
}

// holds says whether a master's machine is another one than the cluster knows.
func (f facts) holds(name string) bool {
	return slices.ContainsFunc(f.nodes, func(n nodeFacts) bool {
		return slices.ContainsFunc(n.health.Status.Held, func(h node.Held) bool { return h.Master == name })
	})
}

func has(n int) string {
	if n == 1 {
		return "has"
	}
	return "have"
}

func spare(n int) string {
	if n <= 0 {
		return "None of them may be lost now."
	}
	return fmt.Sprintf("%d more may be lost.", n)
}

func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(some, s) })
}

// held are other machines under masters' names.
func (d *diagnosis) held(f facts) {
	var seen []node.Held
	for _, n := range f.nodes {
		for _, h := range n.health.Status.Held {
			if !slices.Contains(seen, h) {
				seen = append(seen, h)
				d.wrong("masters", heldSentence(h), "One master fewer votes until then.",
					"If the former machine is off for good: `lith nodes admit "+h.Master+f.at+"`. If not, switch the new one off: its medium is a copy.")
			}
		}
	}
}

// work is what the leader says of agents, frameworks and tasks.
func (d *diagnosis) work(f facts) {
	if f.apiErr != nil {
		d.wrong("cluster", "its API did not answer: "+f.apiErr.Error(), "What runs goes on; agents, frameworks and tasks could not be looked at.", "See the masters above.")
		return
	}
	if f.state == nil {
		return // nobody leads: said already
	}
	active, lost := 0, []string{}
	for _, a := range f.state.GetGetAgents().GetAgents() {
		if a.GetActive() {
			active++
		} else {
			lost = append(lost, a.GetAgentInfo().GetHostname())
		}
	}
	if len(lost) > 0 {
		d.wrong("cluster", fmt.Sprintf("%s not attached to the leader: %s", plural(len(lost), "agent is", "agents are"), strings.Join(lost, ", ")),
			"Their tasks may go on there; frameworks are told that they are unreachable.", "See these nodes above.")
	} else {
		d.ok("cluster", "%s attached", plural(active, "agent is", "agents are"))
	}
	var gone []string
	all := f.state.GetGetFrameworks().GetFrameworks()
	for _, fw := range all {
		if !fw.GetConnected() {
			gone = append(gone, fw.GetFrameworkInfo().GetName())
		}
	}
	if len(gone) > 0 {
		d.warn("cluster", fmt.Sprintf("%s not connected: %s", plural(len(gone), "framework is", "frameworks are"), strings.Join(gone, ", ")),
			"Their tasks go on until their failover timeout is over, and are ended then.", "Start them again, if they should run.")
	} else {
		d.ok("cluster", "%s connected", plural(len(all), "framework is", "frameworks are"))
	}
	running, unheard := 0, len(f.state.GetGetTasks().GetUnreachableTasks())
	for _, t := range f.state.GetGetTasks().GetTasks() {
		if !client.Terminal(t.GetState()) {
			running++
		}
	}
	if unheard > 0 {
		d.warn("cluster", fmt.Sprintf("%s on nodes that are not heard", plural(unheard, "task is", "tasks are")), "They may run; nobody knows until the node is heard again.", "Bring these nodes back, or start the tasks elsewhere.")
	}
	d.ok("cluster", "%s", plural(running, "task runs or starts", "tasks run or start"))
}
