package service

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLife(t *testing.T) {
	at := time.Unix(1000, 0)
	after := func(d time.Duration) time.Time { at = at.Add(d); return at }
	var s Service
	steps := []struct {
		event Event
		phase Phase
		do    []Action
	}{
		{Event{Kind: Want, At: at}, Starting, []Action{{Do: Spawn}}},
		{Event{Kind: Want, At: at}, Starting, nil},
		{Event{Kind: SpawnFailed, Exit: "no such file", At: after(time.Second)}, Backoff, []Action{{Do: SetTimer, After: FirstPause}}},
		{Event{Kind: TimerFired, At: after(time.Second)}, Starting, []Action{{Do: Spawn}}},
		{Event{Kind: Spawned, PID: 40, At: after(0)}, Running, nil},
		{Event{Kind: Died, Exit: "exit status 2", At: after(time.Second)}, Backoff, []Action{{Do: SetTimer, After: 2 * FirstPause}}},
		{Event{Kind: TimerFired, At: after(time.Second)}, Starting, []Action{{Do: Spawn}}},
		{Event{Kind: Spawned, PID: 41, At: after(0)}, Running, nil},
		{Event{Kind: TimerFired, At: after(0)}, Running, nil},
		{Event{Kind: Died, Exit: "signal: killed", At: after(ProvenAfter)}, Backoff, []Action{{Do: SetTimer, After: FirstPause}}},
		{Event{Kind: TimerFired, At: after(time.Second)}, Starting, []Action{{Do: Spawn}}},
		{Event{Kind: Stop, Grace: 5 * time.Second, At: after(0)}, Stopping, []Action{{Do: SetTimer, After: 5 * time.Second}}},
		{Event{Kind: Spawned, PID: 42, At: after(0)}, Stopping, []Action{{Do: Terminate}}},
		{Event{Kind: TimerFired, At: after(5 * time.Second)}, Stopping, []Action{{Do: Kill}}},
		{Event{Kind: Died, Exit: "signal: killed", At: after(0)}, Stopped, []Action{{Do: StopTimer}, {Do: Kill}}},
		{Event{Kind: Want, At: after(0)}, Stopped, nil},
	}
	for i, step := range steps {
		var do []Action
		s, do = Next(s, step.event)
		if s.Phase != step.phase {
			t.Fatalf("step %d: phase %s, want %s", i, s.Phase, step.phase)
		}
		if d := cmp.Diff(step.do, do); d != "" {
			t.Fatalf("step %d: %s", i, d)
		}
	}
	if s.Restarts != 3 || s.PID != 0 || s.LastExit != "signal: killed" {
		t.Errorf("at the end: %+v", s)
	}
}

func TestPauseIsBounded(t *testing.T) {
	at := time.Unix(0, 0)
	s, _ := Next(Service{}, Event{Kind: Want, At: at})
	var do []Action
	for range 30 {
		s, do = Next(s, Event{Kind: SpawnFailed, At: at})
		s, _ = Next(s, Event{Kind: TimerFired, At: at})
	}
	if do[0].After != LongestWait {
		t.Errorf("pause after 30 failures is %s", do[0].After)
	}
}
