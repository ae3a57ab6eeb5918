package run

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		k := &Keeper{work: make(chan struct{}, 1)}
		given := 0
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			rest(ctx, k.work, func() { given++ })
		}()
		after := func(pause time.Duration, want int, when string) {
			t.Helper()
			time.Sleep(pause)
			synctest.Wait()
			if given != want {
				t.Errorf("%s: given back %d times, want %d", when, given, want)
			}
		}
		after(restAfter, 1, "the start is work too")
		after(time.Hour, 1, "nothing was done since")
		for range 10 {
			k.busy()
			k.busy()
			after(restAfter-time.Millisecond, 1, "amid work")
		}
		after(time.Millisecond, 2, "after work")
		cancel()
		<-ended
	})
}
