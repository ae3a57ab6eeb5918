package firewall

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func settings(mappings ...Mapping) Settings {
	return Settings{
		Pool:     netip.MustParsePrefix("10.88.0.0/16"),
		Subnet:   netip.MustParsePrefix("10.88.1.0/24"),
		Bridge:   "mesos0",
		Mappings: mappings,
	}
}

var (
	first  = netip.MustParseAddr("10.88.1.2")
	second = netip.MustParseAddr("10.88.1.3")
)

func TestPlanIsWhatTheGoldenFileSays(t *testing.T) {
	withServer := settings()
	withServer.Provisioning = []netip.AddrPort{netip.MustParseAddrPort("10.7.0.1:5055")}
	for name, s := range map[string]Settings{
		"empty": settings(),
		"ports": settings(
			Mapping{Begin: 31005, End: 31009, Container: 31005, Address: second},
			Mapping{Begin: 31000, End: 31000, Container: 31000, Address: first},
			Mapping{Protocol: TCP, Begin: 8080, End: 8081, Container: 80, Address: first},
			Mapping{Protocol: UDP, Begin: 8080, End: 8080, Container: 53, Address: second},
		),
		"provisioning": withServer,
	} {
		t.Run(name, func(t *testing.T) {
			table, err := Plan(s)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".nft")
			if *update {
				if err := os.WriteFile(golden, []byte(table.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), table.String()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestPlanRefusesPortsThatCannotBeMapped(t *testing.T) {
	for name, mappings := range map[string][]Mapping{
		"twice":              {{Begin: 31000, End: 31002, Container: 31000, Address: first}, {Begin: 31002, End: 31002, Container: 31002, Address: second}},
		"twice, one for all": {{Begin: 31000, End: 31000, Container: 31000, Address: first}, {Protocol: UDP, Begin: 31000, End: 31000, Container: 53, Address: second}},
		"the node's own":     {{Begin: 5000, End: 6000, Container: 5000, Address: first}},
		"zero":               {{Begin: 0, End: 1, Container: 1, Address: first}},
		"backwards":          {{Begin: 2, End: 1, Container: 2, Address: first}},
		"past the last":      {{Begin: 100, End: 200, Container: 65500, Address: first}},
		"foreign address":    {{Begin: 100, End: 200, Container: 100, Address: netip.MustParseAddr("10.88.2.2")}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Plan(settings(mappings...)); !errors.Is(err, ErrPort) {
				t.Errorf("got %v, want %v", err, ErrPort)
			}
		})
	}
}

func TestPlanRefusesNetworksThatDoNotFit(t *testing.T) {
	outside, v6, nameless := settings(), settings(), settings()
	outside.Subnet = netip.MustParsePrefix("10.89.1.0/24")
	v6.Pool = netip.MustParsePrefix("fd00::/16")
	nameless.Bridge = ""
	for name, s := range map[string]Settings{"outside": outside, "v6": v6, "no bridge": nameless, "nothing": {}} {
		if _, err := Plan(s); err == nil {
			t.Errorf("%s: planned", name)
		}
	}
}

func TestTheSamePortMayHaveTwoProtocols(t *testing.T) {
	_, err := Plan(settings(
		Mapping{Protocol: TCP, Begin: 53, End: 53, Container: 53, Address: first},
		Mapping{Protocol: UDP, Begin: 53, End: 53, Container: 53, Address: second}))
	if err != nil {
		t.Error(err)
	}
}
