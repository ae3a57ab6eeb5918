package masters

import (
	"context"
	"time"

	"github.com/mesolith/mesolith/clusterd/discovery/birth"
)

// lookForTwin tells the birth of another incarnation that speaks under this name.
func (m *Masters) lookForTwin(ctx context.Context, now time.Time) {
	if m.cfg.Twin == nil || m.birth.Stopped() {
		return
	}
	if incarnation, address, ok := m.cfg.Twin(); ok {
		m.next(ctx, birth.TwinHeard{Now: now, Incarnation: incarnation, Address: address})
	}
}

// proveTwin challenges whoever is at an address, one at a time.
func (m *Masters) proveTwin(ctx context.Context, address string) {
	if m.proving {
		return
	}
	m.proving = true
	m.talks.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, talkTime)
		defer cancel()
		incarnation, ok := m.cfg.Lives(ctx, address)
		m.post(ctx, func() {
			m.proving = false
			if ok {
				m.next(ctx, birth.TwinLives{Now: time.Now(), Own: m.cfg.Incarnation, Incarnation: incarnation, Address: address})
			}
		})
	})
}

// stopVoting takes this master out; the agent's half goes on, and what is on disk stays.
func (m *Masters) stopVoting(ctx context.Context, why string) {
	m.log.Error("this master stops voting", "why", why)
	m.accepting.Store(false)
	if m.replica != nil {
		m.shut(ctx)
	}
}
