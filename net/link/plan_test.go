package link

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func cards() []Link {
	return []Link{
		{Index: 1, Name: "lo", Loopback: true},
		{Index: 3, Name: "eth1", MAC: "52:54:00:00:00:02", Driver: "virtio_net", Physical: true, Up: true, Carrier: true, MTU: 1500},
		{Index: 2, Name: "eth0", MAC: "52:54:00:00:00:01", Driver: "ice", Physical: true, MTU: 1500},
		{Index: 9, Name: "cni0", Up: true, Carrier: true, MTU: 1500},
	}
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		name  string
		match Match
		taken map[int]bool
		want  string // name of the card, or a part of the error
	}{
		{"mac in capitals", Match{MAC: "52:54:00:00:00:01"}, nil, "eth0"},
		{"first with carrier", Match{AnyUp: true}, nil, "eth1"},
		{"a bridge is no card", Match{AnyUp: true}, map[int]bool{3: true}, "no carrier on eth0"},
		{"driver", Match{Driver: "virtio_net"}, nil, "eth1"},
		{"taken", Match{Driver: "virtio_net"}, map[int]bool{3: true}, "no card with driver virtio_net among eth0 (mac 52:54:00:00:00:01, driver ice)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := Choose(c.match, cards(), c.taken)
			got := l.Name
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	if _, err := Choose(Match{AnyUp: true}, cards()[:1], nil); err == nil || !strings.Contains(err.Error(), "driver is not in the image") {
		t.Errorf("a machine without cards: %v", err)
	}
}

func TestPlan(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, c := range []struct {
		name string
		want Want
		have []netip.Prefix
		plan []string
	}{
		{"fresh", Want{Index: 2, Address: prefix("10.7.0.11/24"), MTU: 9000}, nil, []string{"set mtu 9000 on eth0", "bring up eth0", "add 10.7.0.11/24 to eth0"}},
		{"only up", Want{Index: 2}, []netip.Prefix{prefix("10.7.0.99/24")}, []string{"bring up eth0"}},
		{
			"changed, and foreign kinds stay",
			Want{Index: 3, Address: prefix("10.7.0.11/24")},
			[]netip.Prefix{prefix("10.7.0.99/24"), prefix("fe80::1/64"), prefix("169.254.1.1/16")},
			[]string{"add 10.7.0.11/24 to eth1", "remove 10.7.0.99/24 from eth1"},
		},
		{"done", Want{Index: 3, Address: prefix("10.7.0.11/24"), MTU: 1500}, []netip.Prefix{prefix("10.7.0.11/24")}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			have := cards()
			for i := range have {
				if have[i].Index == c.want.Index {
					have[i].Addresses = c.have
				}
			}
			steps, err := Plan(c.want, have)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range steps {
				got = append(got, fmt.Sprint(s))
			}
			if d := cmp.Diff(c.plan, got); d != "" {
				t.Error(d)
			}
		})
	}
	if _, err := Plan(Want{Index: 77}, cards()); err == nil {
		t.Error("a card that is gone was planned for")
	}
	if got := PlanLoopback(cards()); len(got) != 1 || got[0].Name != "lo" {
		t.Errorf("loopback: %v", got)
	}
}

func TestBusAddress(t *testing.T) {
	for path, want := range map[string]string{
		"/sys/devices/pci0000:00/0000:00:03.0/virtio1": "0000:00:03.0",
		"/sys/devices/platform/dev":                    "",
	} {
		if got := busAddress(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
