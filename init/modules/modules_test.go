package modules

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func table(t *testing.T) *Table {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep": `kernel/a/virtio_net.ko: kernel/a/net_failover.ko kernel/a/failover.ko
kernel/a/net_failover.ko: kernel/a/failover.ko
kernel/a/failover.ko:
kernel/n/nf-tables.ko.xz: kernel/l/libcrc32c.ko.xz
kernel/l/libcrc32c.ko.xz:
kernel/c/crc32c-intel.ko:
kernel/c/crc32c_generic.ko:
kernel/x/broken.ko: kernel/x/absent.ko
`,
		"modules.softdep": "# Soft dependencies\nsoftdep libcrc32c pre: crc32c post: nowhere\n",
		"modules.alias": `# Aliases
alias virtio:d00000001v* virtio_net
alias pci:v00008086d000025ABsv*sd*bc*sc*i* i6300esb
alias acpi*:QEMU0002:* qemu_fw_cfg
alias crc32c crc32c_intel
alias crc32c crc32c_generic
alias cpu:type:x86,ven*fam*mod*:feature:*0094* crc32c-intel
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tab, err := ReadTable(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

func TestClosureIsInOrder(t *testing.T) {
	tab := table(t)
	for _, c := range []struct{ name, done, want string }{
		{"virtio_net", "", "failover net_failover virtio_net"},
		{"virtio_net", "failover", "net_failover virtio_net"},
		{"nf_tables", "", "crc32c_intel? crc32c_generic? libcrc32c nf_tables"},
		{"nf-tables", "crc32c_intel libcrc32c", "nf_tables"},
	} {
		steps, err := tab.Closure(c.name, func(n string) bool { return strings.Contains(" "+c.done+" ", " "+n+" ") })
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var got []string
		for _, s := range steps {
			name := s.Name
			if s.Soft {
				name += "?"
			}
			got = append(got, name)
		}
		if d := cmp.Diff(c.want, strings.Join(got, " ")); d != "" {
			t.Errorf("%s with %q loaded:\n%s", c.name, c.done, d)
		}
	}
	if _, err := tab.Closure("broken", func(string) bool { return false }); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("a missing dependency: %v", err)
	}
}

func TestMatch(t *testing.T) {
	tab := table(t)
	for alias, want := range map[string]string{
		"virtio:d00000001v00001AF4":                             "virtio_net",
		"virtio:d00000002v00001AF4":                             "",
		"pci:v00008086d000025ABsv00001AF4sd00001100bc08sc80i00": "i6300esb",
		"acpi:QEMU0002:":                                        "qemu_fw_cfg",
		"crc32c":                                                "crc32c_intel crc32c_generic",
		"cpu:type:x86,ven0000fam0006mod003F:feature:,0000,0094,00A0": "crc32c_intel",
	} {
		if got := strings.Join(tab.Match(alias), " "); got != want {
			t.Errorf("%s: got %q, want %q", alias, got, want)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"a*c", "abc", true},
		{"a*c", "abd", false},
		{"*", "", true},
		{"a?c", "ac", false},
		{"[0-9a]x", "7x", true},
		{"[!0-9]x", "7x", false},
		{"usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00", true},
		{"*a*a*a*a*b", strings.Repeat("a", 200), false},
		{"[", "[", true},
		{"", "x", false},
	} {
		if got := glob(c.pattern, c.text); got != c.want {
			t.Errorf("glob(%q, %q) = %v", c.pattern, c.text, got)
		}
	}
}

func TestUevent(t *testing.T) {
	got := addedAlias([]byte("add@/devices/x\x00ACTION=add\x00MODALIAS=scsi:t-0x00\x00SEQNUM=1\x00"))
	if got != "scsi:t-0x00" {
		t.Errorf("got %q", got)
	}
	if got := addedAlias([]byte("remove@/devices/x\x00MODALIAS=a\x00")); got != "" {
		t.Errorf("a removed device gave %q", got)
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("[a-", "a")
	f.Add("*?[!x]*", "abc")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) >= 200 || len(text) >= 200 {
			return
		}
		// Whatever it says, a star in front can only make it match more.
		if glob(pattern, text) && !glob("*"+pattern, text) {
			t.Errorf("%q matches %q, and does not with a star in front", pattern, text)
		}
	})
}
