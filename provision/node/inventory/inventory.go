// Package inventory lists what a machine is made of: processors, memory, network cards,
// disks, display and compute devices, and what the firmware says.
//
// Invariant: it reads only /proc, /sys and the PCI names of its own table, opens no
// device and changes nothing; what cannot be read is left out, so that one odd device
// does not hide the others.
//
// What of it is offered to frameworks is the agent's decision.
package inventory

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/mesolith/mesolith/internal/wire/noded"
	"github.com/mesolith/mesolith/provision/node/identity"
)

// maxDevices bounds each list of devices.
const maxDevices = 512

// Read takes stock of the machine below a root directory ("/" on a node). Network cards
// come from the caller, who asks the kernel for their addresses too; with nil they are
// left out.
func Read(root string, nics []*noded.Nic) *noded.Inventory {
	m := identity.Read(root)
	return &noded.Inventory{
		Kernel: text(root, "proc/sys/kernel/osrelease"),
		Vendor: m.Vendor, Product: m.Product, Serial: m.Serial, Uuid: m.UUID,
		Cpus: cpus(root), MemoryBytes: memory(root),
		Nics: nics, Disks: disks(root), Gpus: gpus(root),
	}
}

func text(root, path string) string {
	raw, err := os.ReadFile(filepath.Join(root, path))
	if err != nil || len(raw) > 64<<10 {
		return ""
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(raw), ""))
}

func number(root, path string) uint64 {
	n, err := strconv.ParseUint(text(root, path), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func memory(root string) uint64 {
	raw, err := os.ReadFile(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return 0
	}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 3 && fields[0] == "MemTotal:" {
			kib, err := strconv.ParseUint(fields[1], 10, 54)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}

// cpus counts the processors that are online.
func cpus(root string) uint32 {
	return countList(text(root, "sys/devices/system/cpu/online"))
}

// countList counts the members of a kernel list such as 0-3,8.
func countList(list string) uint32 {
	var n uint32
	for _, part := range strings.Split(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		from, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			continue
		}
		to := from
		if isRange {
			if to, err = strconv.ParseUint(last, 10, 16); err != nil || to < from {
				continue
			}
		}
		n += uint32(to - from + 1)
	}
	return n
}

func names(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries[:min(len(entries), maxDevices)] {
		out = append(out, e.Name())
	}
	sort.Strings(out)
	return out
}

// disks lists whole block devices that are backed by hardware.
func disks(root string) []*noded.Disk {
	var out []*noded.Disk
	for _, name := range names(filepath.Join(root, "sys/block")) {
		at := filepath.Join("sys/block", name)
		if _, err := os.Stat(filepath.Join(root, at, "device")); err != nil {
			continue
		}
		d := &noded.Disk{
			Name: name, Model: text(root, at+"/device/model"), Serial: first(text(root, at+"/device/serial"), text(root, at+"/serial")),
			Wwid:  first(text(root, at+"/wwid"), text(root, at+"/device/wwid")),
			Bytes: number(root, at+"/size") * 512, Rotational: text(root, at+"/queue/rotational") == "1", Removable: text(root, at+"/removable") == "1",
		}
		if d.Bytes > 0 {
			out = append(out, d)
		}
	}
	return out
}

func first(options ...string) string {
	for _, o := range options {
		if o != "" {
			return o
		}
	}
	return ""
}
