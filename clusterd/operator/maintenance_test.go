package operator

import (
	"fmt"
	"slices"
	"testing"

	"github.com/mesolith/mesolith/clusterd/state"
)

// By whatever names a schedule knows a machine, its agents are found, and no others.
func TestAgentsByMachine(t *testing.T) {
	m := state.NewMachine()
	commands := []state.Command{state.BeginGeneration{Generation: state.Generation{Height: 1, ID: "11111111-2222-3333-4444-555555555555"}}}
	for i, at := range [][2]string{{"a", "10.0.0.1"}, {"A", "10.0.0.2"}, {"b", "10.0.0.1"}, {"", "10.0.0.3"}, {"c", ""}, {"", ""}} {
		commands = append(commands, state.RegisterAgent{Node: fmt.Sprint("n", i), AttachKey: "k", Hostname: at[0], Address: at[1], Pool: "10.88.0.0/16"})
	}
	entry, _ := state.EncodeEntry(1, commands, 1<<20)
	if out := m.Apply(1, 1, entry).(state.Applied); out.Err != nil {
		t.Fatal(out.Err)
	}
	m.View(func(s *state.State) {
		found := agentsByMachine(s)
		pairs := 0
		for _, host := range []string{"", "a", "b", "c"} {
			for _, ip := range []string{"", "10.0.0.1", "10.0.0.2", "10.0.0.3"} {
				id := state.MachineID{Hostname: host, IP: ip}
				var want []*state.Agent
				for a := range s.Agents() {
					if id.Is(a) {
						want = append(want, a)
					}
				}
				if !slices.Equal(found[id], want) {
					t.Errorf("%+v: %d agents, want %d", id, len(found[id]), len(want))
				}
				pairs += len(want)
			}
		}
		if pairs != 11 {
			t.Errorf("%d names of agents were compared, want 11", pairs)
		}
	})
}
