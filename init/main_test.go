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
		fed := 0
		try := func() bool { return beat(sup, func() { fed++ }) }
		began := time.Now()
		if answers := try(); answers || fed != 0 || time.Since(began) != time.Second { // nobody serves it
			t.Errorf("fed %d times in %s, answers %t", fed, time.Since(began), answers)
		}
		done := make(chan struct{})
		go sup.Run(done)
		if answers := try(); !answers || fed != 1 {
			t.Errorf("fed %d times, answers %t", fed, answers)
		}
		close(done)
	})
}
