// Package identity reads what tells one machine from another: the SMBIOS strings that
// the kernel shows under /sys/class/dmi/id, and the MAC addresses of its cards.
//
// Invariant: Hash is the same at each boot of the same hardware, whatever the order in
// which drivers found the cards, and placeholders that vendors leave in ("To be filled
// by O.E.M.") never count, because thousands of machines share them.
//
// It proves nothing: all of it can be forged, and what proves a boot is the credential
// on the machine's medium.
package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Machine is what a machine says of itself; fields that are empty or placeholders are "".
type Machine struct {
	Vendor, Product, Serial, UUID string
	MACs                          []string // sorted, lower case
}

// maxField bounds one string of the firmware, in bytes.
const maxField = 256

// Read reads the identity below a root directory ("/" on a node).
func Read(root string) Machine {
	dmi := filepath.Join(root, "sys/class/dmi/id")
	return Machine{
		Vendor: field(dmi, "sys_vendor"), Product: field(dmi, "product_name"),
		Serial: field(dmi, "product_serial"), UUID: strings.ToLower(field(dmi, "product_uuid")),
		MACs: macs(filepath.Join(root, "sys/class/net")),
	}
}

// Hash is the machine's fingerprint: SHA-256 in hex over UUID, serial number and cards.
func (m Machine) Hash() string {
	text := "mesolith hardware 1\n" + m.UUID + "\n" + m.Serial + "\n" + strings.Join(m.MACs, "\n")
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func field(dir, name string) string {
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return "" // not every firmware has every field
	}
	text := strings.TrimSpace(strings.ToValidUTF8(string(raw[:min(len(raw), maxField)]), ""))
	if placeholder(text) {
		return ""
	}
	return text
}

// placeholders are what vendors leave in fields that they did not fill.
var placeholders = []string{
	"to be filled by o.e.m.", "default string", "system serial number", "system product name",
	"not specified", "not applicable", "none", "n/a", "o.e.m.", "empty", "0123456789", "123456789", "unknown",
	"03000200-0400-0500-0006-000700080009", "ffffffff-ffff-ffff-ffff-ffffffffffff",
}

func placeholder(s string) bool {
	return strings.Trim(s, "0-. ") == "" || slices.Contains(placeholders, strings.ToLower(s))
}

// macs lists the addresses of cards that are devices (no bridges, no tunnels).
func macs(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(dir, e.Name(), "device")); err != nil {
			continue
		}
		mac := strings.ToLower(field(filepath.Join(dir, e.Name()), "address"))
		if mac != "" && strings.Trim(mac, "0:") != "" && !slices.Contains(out, mac) {
			out = append(out, mac)
		}
	}
	slices.Sort(out)
	return out
}
