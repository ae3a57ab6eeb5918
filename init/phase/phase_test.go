package phase

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLoopNeverWaitsLongerThanTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		say := func(f string, a ...any) { lines = append(lines, fmt.Sprintf(f, a...)) }
		fed := 0
		release := make(chan struct{})
		loop := Loop{Say: say, Warn: say, Feed: func() { fed++ }}
		tries := 0
		start := time.Now()
		err := loop.Run([]Phase{
			{Name: "quick", Deadline: time.Second, Run: func() error { return nil }},
			{Name: "hangs", Deadline: 5 * time.Second, Run: func() error { <-release; return nil }},
			{Name: "twice", Deadline: time.Second, OnFailure: Retry, Run: func() error {
				if tries++; tries == 1 {
					return errors.New("not yet")
				}
				return nil
			}},
			{Name: "vital", Deadline: time.Second, OnFailure: Reboot, Run: func() error { return errors.New("no disk") }},
			{Name: "never", Deadline: time.Second, Run: func() error { t.Error("ran after a vital failure"); return nil }},
		})
		close(release)
		if err == nil || !strings.Contains(err.Error(), "phase vital: no disk") {
			t.Errorf("Run: %v", err)
		}
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("took %s", d)
		}
		if fed < 6 {
			t.Errorf("watchdog fed %d times during a phase of 5 s", fed)
		}
		want := []string{
			"phase quick 0.00s ok",
			"phase hangs 5.00s degraded: deadline passed (5s); going on without",
			"phase twice 0.00s failed: not yet; once more",
			"phase twice 0.00s ok",
			"phase vital 0.00s failed: no disk; rebooting",
		}
		if got := strings.Join(lines, "\n"); got != strings.Join(want, "\n") {
			t.Errorf("printed:\n%s", got)
		}
	})
}
