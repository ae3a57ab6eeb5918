//go:build vm && long

package qemutests

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// PID 1 panics, is not fed, is asked to reboot: each time the machine comes back by
// itself and says how its last boot ended, on the console and to its operator.
func TestEachEndOfABootIsTold(t *testing.T) {
	f := newFaultyMachine(t, "ends", "listen")
	f.sees("how the last boot ended: nothing is known: power was off", "n1 leads")
	fired := 0

	lost := f.told("PID 1 died: panic: fault injected: a goroutine of PID 1 panics", func() {
		f.tell("panic")
		f.sees("fault injected: a goroutine of PID 1 panics", "Kernel panic - not syncing: Attempted to kill init")
	})
	fired++
	log := whole(t, func() (io.ReadCloser, error) { return f.nodeAPI(f.m.Node).Logs(t.Context(), "crash", false) })
	for _, part := range []string{"panic: fault injected: a goroutine of PID 1 panics\n", "init/fault.obey.func1()\n", "Kernel panic - not syncing"} {
		if !bytes.Contains([]byte(log), []byte(part)) {
			t.Errorf("the log crash has no %q:\n%.4000s", part, log)
		}
	}
	if end := f.health().LastEnd; !strings.HasPrefix(end, "PID 1 died: panic: fault injected") {
		t.Errorf("the operator is told %q", end)
	}

	bites := f.m.VM().Events("WATCHDOG") // a panic on a busy host waits long enough for one
	f.tell("prepare:hang")
	f.tell("kill clusterd")
	f.sees("fault: prepare hangs", "supervisor does not answer, watchdog not fed", "how the last boot ended: the watchdog reset the machine: PID 1 had stopped feeding it")
	fired++
	if n := f.m.VM().Events("WATCHDOG"); n != bites+1 {
		t.Errorf("the watchdog bit %d times, %d before", n, bites)
	}
	f.sees("fault: listening")
	f.tell("tick:hang") // the main loop hangs as well, not the supervisor only
	f.sees("fault: tick hangs", "how the last boot ended: the watchdog reset the machine")
	if n := f.m.VM().Events("WATCHDOG"); n != bites+2 {
		t.Errorf("the watchdog bit %d times, %d before", n, bites)
	}
	f.sees("n1 leads")

	lost += f.told("the test wants it (at ", func() {
		if err := f.nodeAPI(f.m.Node).Reboot(t.Context(), "the test wants it"); err != nil {
			t.Fatal(err)
		}
		f.sees("going down: the test wants it")
	})
	fired++
	t.Logf("%d of 3 kinds of ends fired and were told; the watchdog bit %d times; %d more were lost with the memory that they were recorded in", fired, f.m.VM().Events("WATCHDOG"), lost)
}

// told ends a boot and waits until the next one tells of it. A machine without ERST or
// EFI's variables, as this one, keeps the record in memory that the next kernel may be
// placed on: what is lost then is known as lost, and it is tried once more, and again.
func (f *faultyMachine) told(want string, end func()) (lost int) {
	f.t.Helper()
	const tries = 3
	for lost < tries {
		end()
		line := f.sees("how the last boot ended: ").Text
		f.sees("n1 leads")
		if strings.Contains(line, "how the last boot ended: "+want) {
			return lost
		}
		if !strings.Contains(line, "nothing is known") {
			f.t.Fatalf("the next boot says %q, want %q", line, want)
		}
		lost++
	}
	f.t.Fatalf("%d boots in a row knew nothing of it: %s", tries, want)
	return lost
}
