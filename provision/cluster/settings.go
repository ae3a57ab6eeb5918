package cluster

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mesolith/mesolith/internal/nodedoc"
)

// Settings are what defaults, groups and nodes may say of a machine.
type Settings struct {
	Mode       string
	Console    string
	KernelArgs []string
	Time       nodedoc.Time
	Watchdog   time.Duration
	Kexec      bool
	Networks   []nodedoc.Network
	Reserve    nodedoc.Reserve
	// Oversubscribe is offered beyond what the machine has.
	Oversubscribe nodedoc.Oversubscribe
	RAMStore      int // percent
	Resources     string
	Attributes    map[string]string
	Region        string
	Zone          string
}

// builtIn is what every node gets before the file says anything. It is read by the same
// decoder as the file.
const builtIn = `
mode: ram
console: auto
time: { servers: [dhcp, pool.ntp.org], wait: 30s }
watchdog: 30s
kexec: off
network:
  lan: { match: { link: any-up }, dhcp: true }
ramStore: 25%
resources: auto
reserve: { cpus: 0.1 }
`

// settings reads one layer or, when merged, all layers of one node.
func (d *decoder) settings(v *value, path string, s *Settings) { d.object(v, path, d.settingFields(s)) }

func (d *decoder) settingFields(s *Settings) fields {
	var wait time.Duration
	return fields{
		"mode":       d.mode(&s.Mode),
		"console":    d.laterUnless("auto", d.text(&s.Console)),
		"kernelArgs": d.kernelArgs(s),
		"time": d.table(fields{
			"servers": d.texts(&s.Time.Servers),
			"wait": func(v *value, path string) {
				d.duration(&wait, 0, time.Hour)(v, path)
				s.Time.WaitMS = wait.Milliseconds()
			},
		}),
		"watchdog":      d.duration(&s.Watchdog, 0, time.Hour),
		"kexec":         d.kexec(&s.Kexec),
		"network":       d.networks(s),
		"disks":         d.disks,
		"reserve":       d.table(fields{"cpus": d.number(&s.Reserve.CPUs, 0, 4096), "mem": d.memory(&s.Reserve.MemoryMB)}),
		"oversubscribe": d.table(fields{"cpus": d.number(&s.Oversubscribe.CPUs, 0, 4096)}),
		"ramStore":      d.percent(&s.RAMStore, 1, 90),
		"resources":     d.resources(&s.Resources),
		"attributes":    d.attributes(s),
		"region":        d.label(&s.Region),
		"zone":          d.label(&s.Zone),
		"logs":          d.logs,
	}
}

func (d *decoder) kernelArgs(s *Settings) setter {
	return func(v *value, path string) {
		if d.texts(&s.KernelArgs)(v, path); len(s.KernelArgs) > 0 {
			d.notYet(v, path)
		}
	}
}

func (d *decoder) mode(into *string) setter {
	return func(v *value, path string) {
		d.choice(into, nodedoc.ModeRAM, nodedoc.ModeDisk)(v, path)
		if *into == nodedoc.ModeDisk {
			d.failAt(v, "%s: disk — this version runs nodes from RAM only and would forget what such a node should keep; use mode: ram.", path)
		}
	}
}

func (d *decoder) kexec(into *bool) setter {
	return func(v *value, path string) {
		if d.onOff(into)(v, path); *into {
			d.notYet(v, path+": on")
		}
	}
}

// memory reads a size in the MB that Mesos counts (2^20 bytes), written with or without i.
func (d *decoder) memory(intoMB *uint64) setter {
	return func(v *value, path string) {
		binary := *v
		if !strings.HasSuffix(v.text, "iB") && strings.HasSuffix(v.text, "B") {
			binary.text = strings.TrimSuffix(v.text, "B") + "iB"
		}
		var bytes uint64
		if d.size(&bytes)(&binary, path); bytes > 0 {
			*intoMB = bytes >> 20
		}
	}
}

func (d *decoder) resources(into *string) setter {
	return func(v *value, path string) {
		var text string
		if d.text(&text)(v, path); text == "" || text == "auto" {
			*into = ""
			return
		}
		for _, part := range strings.Split(text, ";") {
			name, amount, ok := strings.Cut(part, ":")
			if !ok || strings.TrimSpace(name) == "" || strings.TrimSpace(amount) == "" {
				d.failAt(v, "%s: %.80q is not of the form name:amount — write auto, or as cpus:4;mem:8192;ports:[31000-32000].", path, part)
				return
			}
		}
		*into = text
	}
}

func (d *decoder) attributes(s *Settings) setter {
	return func(v *value, path string) {
		s.Attributes = map[string]string{}
		d.named(func(name string, v *value, path string) {
			var text string
			d.text(&text)(v, path)
			if len(name) > 128 || strings.ContainsAny(name, ":;") {
				d.failAt(v, "attribute %.80q is longer than 128 characters or contains : or ; — frameworks could not write it.", name)
			}
			s.Attributes[name] = text
		})(v, path)
	}
}

func (d *decoder) logs(v *value, path string) {
	var target string
	d.object(v, path, fields{"forward": d.text(&target)})
	if target != "" && !strings.HasPrefix(target, "tcp://") && !strings.HasPrefix(target, "udp://") {
		d.failAt(v.get("forward"), "%s.forward %.80q has no scheme — write tcp://10.7.0.9:6514.", path, target)
		return
	}
	d.notYet(v, path)
}

// networks reads the networks of one layer or node, in the order of the file.
func (d *decoder) networks(s *Settings) setter {
	return func(v *value, path string) {
		s.Networks = nil
		d.named(func(name string, v *value, path string) {
			d.checkLabel(v, path, name)
			n := nodedoc.Network{Name: name}
			d.network(v, path, &n)
			s.Networks = append(s.Networks, n)
		})(v, path)
	}
}

func (d *decoder) network(v *value, path string, n *nodedoc.Network) {
	var standalone bool
	d.object(v, path, fields{
		"match":               d.networkMatch(&n.Match),
		"dhcp":                d.boolean(&n.DHCP),
		"address":             d.networkAddress(v, &n.Address),
		"gateway":             d.address(&n.Gateway),
		"dns":                 d.dns(&n.DNS),
		"mtu":                 d.integer(&n.MTU, 576, 65535),
		"bond":                d.bond,
		"vlan":                d.vlan,
		"standaloneUntilLacp": d.boolean(&standalone),
	})
	if v.kind != mapping {
		return
	}
	prefix, err := netip.ParsePrefix(n.Address)
	gateway, gerr := netip.ParseAddr(n.Gateway)
	if err == nil && gerr == nil && !prefix.Masked().Contains(gateway) {
		d.failAt(v.get("gateway"), "gateway %s is outside %s of the same network — no route could reach it.", n.Gateway, n.Address)
	}
	if n.DHCP && n.Address != "" {
		d.failAt(v.get("dhcp"), "%s has both dhcp: true and an address — DHCP would give a second one; keep one of them.", path)
	}
}

func (d *decoder) networkMatch(m *nodedoc.Match) setter {
	return func(v *value, path string) {
		port := 0
		*m = nodedoc.Match{}
		d.object(v, path, fields{
			"mac": d.mac(&m.MAC), "link": d.choice(&m.Link, "any-up"), "driver": d.text(&m.Driver),
			"port": func(v *value, path string) {
				if d.integer(&port, 0, 255)(v, path); port > 0 {
					d.notYet(v, path)
				}
			},
		})
		if v.kind == mapping && len(v.entries) == 0 {
			d.failAt(v, "%s is empty — say which card: {mac: …}, {driver: …} or {link: any-up}.", path)
		}
	}
}

// networkAddress reads address/prefix. Where the prefix is missing, the gateway of the
// same network may suggest it.
func (d *decoder) networkAddress(network *value, into *string) setter {
	return func(v *value, path string) {
		if !d.scalar(v, path) {
			return
		}
		if v.text == "pool" {
			d.failAt(v, "%s: pool — this version gives no addresses out of pools; write the address with its prefix length, or dhcp: true.", path)
			return
		}
		if a, err := netip.ParseAddr(v.text); err == nil {
			bits, why := 24, ""
			if a.Is6() {
				bits = 64
			}
			if g := network.get("gateway"); g != nil {
				if gw, err := netip.ParseAddr(g.text); err == nil && gw.Is4() == a.Is4() {
					p, err := a.Prefix(bits)
					for err == nil && bits > 8 && !p.Contains(gw) {
						bits -= 8
						p, err = a.Prefix(bits)
					}
					why = " (the gateway " + g.text + " suggests /" + itoa(bits) + ")"
				}
			}
			d.failAt(v, "address %q has no prefix length — write %s/%d%s.", v.text, v.text, bits, why)
			return
		}
		p, err := netip.ParsePrefix(v.text)
		if err != nil {
			d.failAt(v, "address %.80q is no address with prefix length — write it as 10.7.0.11/24.", v.text)
			return
		}
		if p == p.Masked() && p.Bits() < p.Addr().BitLen()-1 {
			d.failAt(v, "address %s is the network itself — write the address of this node in it.", v.text)
			return
		}
		*into = v.text
	}
}

func (d *decoder) dns(into *[]string) setter {
	return d.each(func(v *value, path string) {
		var a string
		if d.address(&a)(v, path); a != "" {
			*into = append(*into, a)
		}
	}, func() { *into = nil })
}

func (d *decoder) bond(v *value, path string) {
	var mode string
	d.object(v, path, fields{
		"mode": d.choice(&mode, "802.3ad", "active-backup", "balance-xor"),
		"links": d.each(func(v *value, path string) {
			d.object(v, path, fields{"match": d.networkMatch(&nodedoc.Match{})})
		}, func() {}),
	})
	d.failAt(v, "%s — this version configures single cards only, the node would have no network; use match: with one card.", path)
}

func (d *decoder) vlan(v *value, path string) {
	var id int
	var on string
	d.object(v, path, fields{"id": d.integer(&id, 1, 4094), "on": d.label(&on)})
	d.failAt(v, "%s — this version configures untagged networks only, the node would have no such network; remove it.", path)
}

// disks reads and checks disk selectors; acting on them comes with the disk mode.
func (d *decoder) disks(v *value, path string) {
	d.named(func(name string, v *value, path string) {
		d.checkLabel(v, path, name)
		var use, fs, confirm string
		wipe := "if-empty"
		count := 1
		d.object(v, path, fields{
			"match": d.diskMatch, "use": d.choice(&use, "agent-work", "system", "state"),
			"fs": d.choice(&fs, "ext4", "xfs"), "wipe": d.choice(&wipe, "never", "if-empty", "always"),
			"confirm": d.text(&confirm), "count": d.integer(&count, 1, 1000),
		})
		if v.kind != mapping {
			return
		}
		if wipe == "always" && confirm == "" {
			at := v.get("wipe")
			d.failAt(at, "%s.wipe: always needs confirm: with the disk's serial or WWID, so that a moved cable cannot erase another disk.", fromDisks(path))
		}
		if confirm != "" && wipe != "always" {
			d.failAt(v.get("confirm"), "%s.confirm is for wipe: always — with wipe: %s nothing is confirmed; remove one of them.", fromDisks(path), wipe)
		}
		d.notYet(v, fromDisks(path))
	})(v, path)
}

// fromDisks shortens nodes[1].disks.data to disks.data.
func fromDisks(path string) string {
	if i := strings.LastIndex(path, "disks."); i >= 0 {
		return path[i:]
	}
	return path
}

func (d *decoder) diskMatch(v *value, path string) {
	var size, maxSize uint64
	var rotational bool
	var wwid, serial, model, bus, device string
	d.object(v, path, fields{
		"minSize": d.size(&size), "maxSize": d.size(&maxSize), "rotational": d.boolean(&rotational), "wwid": d.text(&wwid),
		"serial": d.text(&serial), "model": d.text(&model), "bus": d.text(&bus), "path": d.text(&device),
	})
	if v.kind == mapping && len(v.entries) == 0 {
		d.failAt(v, "%s is empty — say which disk: {serial: …}, {wwid: …} or {minSize: 100GB}.", path)
	}
	for _, text := range []string{serial, wwid} {
		if text != "" && placeholder(text) {
			d.failAt(v, "%s: %q is a vendor placeholder found on many disks — match by size, model or path instead.", path, text)
		}
	}
}

// placeholders are serials and UUIDs that vendors leave in: they match nothing.
var placeholders = []string{
	"to be filled by o.e.m.", "default string", "none", "not specified", "not applicable", "system serial number",
	"0123456789", "123456789", "1234567890", "xxxxxxxxxx", "unknown", "o.e.m.",
	"ffffffff-ffff-ffff-ffff-ffffffffffff",
}

func placeholder(s string) bool {
	s = strings.ToLower(strings.TrimSpace(s))
	return slices.Contains(placeholders, s) || strings.Trim(s, "0-") == "" || strings.HasPrefix(s, "03000200-0400-")
}
