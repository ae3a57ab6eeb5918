package agent

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestProvisioning(t *testing.T) {
	lookup := func(_ context.Context, network, host string) ([]netip.Addr, error) {
		if host != "boot.example" || network != "ip4" {
			return nil, errors.New("no such name")
		}
		return []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::1")}, nil
	}
	for source, want := range map[string][]string{
		"http://10.0.0.1:8080/n1.json": {"10.0.0.1:8080"},
		"http://10.0.0.1/n1.json":      {"10.0.0.1:80"},
		"https://boot.example/x":       {"192.0.2.7:443"},
		"fw_cfg":                       nil,
		"/dev/sr0 (MESOLITH)":          nil,
		"http://[2001:db8::1]/x":       nil, // tasks have no such addresses
	} {
		got, err := Provisioning(t.Context(), source, lookup)
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", source, got, err, want)
		}
	}
	if _, err := Provisioning(t.Context(), "http://elsewhere/x", lookup); err == nil {
		t.Error("a name that nobody knows has addresses")
	}
}
