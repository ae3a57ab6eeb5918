package lan

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesolith/mesolith/internal/nodedoc"
)

func TestMerge(t *testing.T) {
	addr := netip.MustParseAddr
	want := []nodedoc.Network{{Name: "lan", DNS: []string{"10.7.0.1"}}, {Name: "storage"}, {Name: "late"}}
	got := Merge(want, map[string]port{
		"storage": {address: netip.MustParsePrefix("10.40.0.11/24"), dns: []netip.Addr{addr("10.7.0.1"), addr("10.40.0.1")}, ntp: []netip.Addr{addr("10.40.0.2")}, domain: "example"},
		"lan":     {address: netip.MustParsePrefix("10.7.0.11/24"), dns: []netip.Addr{addr("10.7.0.99")}},
	})
	wanted := State{
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.7.0.11/24"), netip.MustParsePrefix("10.40.0.11/24")},
		DNS:       []string{"10.7.0.1", "10.40.0.1"}, NTP: []string{"10.40.0.2"}, Domain: "example",
	}
	if d := cmp.Diff(wanted, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

func TestResolverFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	s := State{DNS: []string{"10.7.0.1", "10.7.0.2", "10.7.0.3", "10.7.0.4"}, Domain: "bad name\nnameserver 6.6.6.6"}
	if err := writeResolver(path, s); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil || string(raw) != "nameserver 10.7.0.1\nnameserver 10.7.0.2\nnameserver 10.7.0.3\n" {
		t.Errorf("%q, %v", raw, err)
	}
}

func TestSameNetwork(t *testing.T) {
	a := nodedoc.Network{Name: "lan", DHCP: true, DNS: []string{"10.7.0.1"}}
	b := a
	b.DNS = []string{"10.7.0.1"}
	if !same(a, b) {
		t.Error("equal networks differ")
	}
	if b.MTU = 9000; same(a, b) {
		t.Error("another MTU is the same network")
	}
}
