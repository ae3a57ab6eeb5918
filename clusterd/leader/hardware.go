package leader

import (
	"context"

	"github.com/mesolith/mesolith/clusterd/state"
)

// AdmitHardware puts into the state which machine carries a master's name. It returns
// once that is committed.
func (l *Leader) AdmitHardware(ctx context.Context, name, hardware string) error {
	return l.enter(ctx, func(answer func(error)) {
		l.propose(state.AdmitHardware{Name: name, Hardware: hardware}, func(_ state.Result, err error) { answer(err) })
	})
}
