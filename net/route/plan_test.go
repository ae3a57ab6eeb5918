package route

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlan(t *testing.T) {
	by := func(link int, gateway string, metric int) Route {
		return Route{Link: link, Gateway: netip.MustParseAddr(gateway), Metric: metric}
	}
	for _, c := range []struct {
		name string
		want Route
		have []Route
		plan []string
	}{
		{"fresh", by(2, "10.7.0.1", 100), nil, []string{"add default route by 10.7.0.1 on card 2 (metric 100)"}},
		{"there, another card's stays", by(2, "10.7.0.1", 100), []Route{by(2, "10.7.0.1", 100), by(3, "10.8.0.1", 101)}, nil},
		{
			"changed", by(2, "10.7.0.254", 100),
			[]Route{by(2, "10.7.0.1", 100)},
			[]string{"add default route by 10.7.0.254 on card 2 (metric 100)", "remove default route by 10.7.0.1 on card 2 (metric 100)"},
		},
		{"none wanted", Route{Link: 2}, []Route{by(2, "10.7.0.1", 100)}, []string{"remove default route by 10.7.0.1 on card 2 (metric 100)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, s := range Plan(c.want, c.have) {
				got = append(got, fmt.Sprint(s))
			}
			if d := cmp.Diff(c.plan, got); d != "" {
				t.Error(d)
			}
		})
	}
}
