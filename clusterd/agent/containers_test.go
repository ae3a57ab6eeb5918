package agent

import (
	"log/slog"
	"testing"

	"github.com/mesolith/mesolith/clusterd/task"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// Containers that no journal knows are ended, or forgotten when they have ended; those that
// operators nested in others are left alone.
func TestNestedContainersAreLeftAlone(t *testing.T) {
	for _, test := range []struct {
		nested bool
		phase  keeper.Container_Phase
		want   int
	}{
		{false, keeper.Container_RUNNING, 1},
		{false, keeper.Container_ENDED, 1},
		{true, keeper.Container_RUNNING, 0},
		{true, keeper.Container_ENDED, 0},
	} {
		link := &keeperLink{out: make(chan *keeper.Request, 1), asked: map[uint64]*keeper.Request{}}
		a := &Agent{log: slog.New(slog.DiscardHandler), tasks: map[string]*task.Task{}, keeper: link}
		if err := a.onContainer(&keeper.Container{ContainerId: "p.n", Nested: test.nested, Phase: test.phase}); err != nil {
			t.Fatal(err)
		}
		if len(link.out) != test.want {
			t.Errorf("nested %v, %s: %d requests", test.nested, test.phase, len(link.out))
		}
	}
}
