package leader

import (
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/state"
	"google.golang.org/protobuf/proto"
)

// Weights divide what is offered from then on, offers by the old ones are taken back, and
// the next leader knows them too.
func TestWeightsOfRoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		const nodes = 6
		for i := range nodes {
			a := c.agent(string(rune('a' + i)))
			defer a.conn.Close()
			a.attach(string(rune('a' + i)))
		}
		in := func(role string) *subscriber {
			return c.subscribeAs("", frameworkInfo(func(i *mesosv1.FrameworkInfo) { i.Role = proto.String(role) }))
		}
		heavy, light := in("eng/heavy"), in("ops")
		share := func() (int, int) { return len(heavy.offersWithin(5 * time.Second)), len(light.offersWithin(0)) }
		share() // who came first got all
		set := func(w ...state.Weight) {
			t.Helper()
			if err := c.l.UpdateWeights(t.Context(), w); err != nil {
				t.Fatal(err)
			}
		}
		set(state.Weight{Role: "eng", Weight: 2})
		if a, b := share(); a != 4 || b != 2 {
			t.Errorf("of %d agents %d and %d are offered at 2 to 1", nodes, a, b)
		}
		set(state.Weight{Role: "nobody/here", Weight: 5})
		if a, b := share(); a+b != 0 {
			t.Errorf("a weight that counts for nobody took %d offers back", a+b)
		}
		for _, bad := range []state.Weight{{Role: "eng", Weight: 0}, {Role: "eng", Weight: -2}, {Role: "eng", Weight: math.NaN()}, {Role: "a//b", Weight: 1}, {Weight: 1}} {
			if err := c.l.UpdateWeights(t.Context(), []state.Weight{{Role: "ops", Weight: 9}, bad}); !errors.Is(err, ErrInvalid) {
				t.Errorf("%v: %v", bad, err)
			}
		}
		c.end()
		c.lead()
		defer c.end()
		c.m.View(func(s *state.State) {
			if w := s.Weights(); w["eng"] != 2 || w["nobody/here"] != 5 || len(w) != 2 {
				t.Errorf("%v", w)
			}
		})
	})
}
