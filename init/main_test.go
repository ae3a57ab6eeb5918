package main

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesolith/mesolith/init/supervise"
)

// A supervisor that hangs is a machine that hangs: the watchdog is not fed, and bites.
func TestTheWatchdogIsFedForAnAnswerOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sup, err := supervise.New(supervise.Config{LogDir: t.TempDir()}, nil)
		if err != nil {
			t.Fatal(err)
		}
		fed, warned := 0, 0
		try := func() {
			beat(sup, func() { fed++ }, func(string, ...any) { warned++ })
		}
		began := time.Now()
		try() // nobody serves it
		if fed != 0 || warned != 1 || time.Since(began) != time.Second {
			t.Errorf("fed %d times, warned %d times in %s", fed, warned, time.Since(began))
		}
		done := make(chan struct{})
		go sup.Run(done)
		try()
		if fed != 1 || warned != 1 {
			t.Errorf("fed %d times, warned %d times", fed, warned)
		}
		close(done)
	})
}
