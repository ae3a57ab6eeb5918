package pstore

import (
	"testing"
	"time"
)

const goPanic = `Panic#1 Part1
<5>[   11.203000] mesolith: up 2.31s
<12>[   20.100000] panic: runtime error: index out of range [3] with length 2
<12>[   20.100100] 
<12>[   20.100200] goroutine 7 [running]:
<12>[   20.100300] panic: again, while panicking
<0>[   20.140000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000200
<4>[   20.150000] CPU: 0 UID: 0 PID: 1 Comm: init Not tainted
`

func TestCause(t *testing.T) {
	for _, c := range []struct {
		text, want string
		asked      bool
	}{
		{goPanic, "PID 1 died: panic: runtime error: index out of range [3] with length 2", false},
		{"Panic#1 Part1\n<0>[1.0] Kernel panic - not syncing: System is deadlocked on memory\n", "kernel panic: System is deadlocked on memory", false},
		{"Shutdown#1 Part1\n<4>[9.1] mesolith: going down: lith node n1 reboot\n<4>[9.9] mesolith: reboot\n", "lith node n1 reboot", true},
		{"Shutdown#1 Part1\n<4>[9.1] mesolith: " + GoingDown(BootFailed+": phase state: full") + "\n", "boot failed: phase state: full", false},
		{"Oops#1 Part1\n<4>[9.1] nothing of note\n", "", false},
		{"", "", false},
	} {
		if cause, asked := Cause(c.text); cause != c.want || asked != c.asked {
			t.Errorf("%q, asked %t; want %q, %t", cause, asked, c.want, c.asked)
		}
	}
}

func TestLastEnd(t *testing.T) {
	at := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	var ends []End
	ends = merge(ends, at, "Shutdown#1 Part1\n<4>[9.1] mesolith: going down: asked\n", true)
	// A trace too long for one record: the kernel's conclusion is in one, PID 1's words in another.
	ends = merge(ends, at.Add(time.Minute), "Panic#2 Part1\n<0>[1.0] Kernel panic - not syncing: Attempted to kill init!\n", true)
	ends = merge(ends, at.Add(time.Minute), "Panic#2 Part2\n<12>[1.0] panic: a bug\n", true)
	soon := at.Add(2 * time.Minute)
	for _, c := range []struct {
		name   string
		ends   []End
		bitten bool
		now    time.Time
		want   string
		row    int
	}{
		{"a crash", ends, false, soon, "PID 1 died: panic: a bug (at 2026-05-04T03:03:01Z, unasked for in a row: 1)", 1},
		{"asked for", ends[:1], false, soon, "asked (at 2026-05-04T03:02:01Z)", 0},
		{"nothing", nil, false, soon, "nothing is known: power was off, the machine was reset, or it keeps no records", 0},
		{"bitten", nil, true, soon, "the watchdog reset the machine: PID 1 had stopped feeding it", 0},
		{"bitten after a crash", ends, true, soon, "PID 1 died: panic: a bug, and the watchdog reset the machine (at 2026-05-04T03:03:01Z, unasked for in a row: 1)", 1},
		{"bitten long after a crash", ends, true, soon.Add(time.Hour), "the watchdog reset the machine: PID 1 had stopped feeding it", 0},
	} {
		if got, row := LastEnd(c.ends, c.bitten, c.now, 20*time.Second); got != c.want || row != c.row {
			t.Errorf("%s: %q, %d in a row; want %q, %d", c.name, got, row, c.want, c.row)
		}
	}
}

// Each boot's record holds what that boot knew of the end before.
func TestEndsInARow(t *testing.T) {
	at := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	inRow, said := 0, "nothing is known"
	for boot, want := range []int{1, 2, 3} {
		text := "Panic#1 Part1\n<12>[    7.1] mesolith: how the last boot ended: " + said + "\n<0>[   60.2] Kernel panic - not syncing: again\n"
		said, inRow = LastEnd(merge(nil, at, text, false), false, at, 0)
		if inRow != want {
			t.Errorf("after boot %d: %d in a row, %q", boot, inRow, said)
		}
		if wait := afterCrashes(inRow); (wait == Pause) != (want >= Many-1) {
			t.Errorf("after %d in a row it waits %s", inRow, wait)
		}
	}
	for _, text := range []string{
		"Panic#1 Part1\n<12>[    7.1] mesolith: how the last boot ended: " + said + "\n<0>[  400.2] Kernel panic - not syncing: much later\n",
		"Panic#1 Part1\n<12>[    7.1] mesolith: how the last boot ended: asked (at 2026-05-04T03:02:01Z)\n<0>[   60.2] Kernel panic - not syncing: once\n",
	} {
		if _, inRow := LastEnd(merge(nil, at, text, false), false, at, 0); inRow != 1 {
			t.Errorf("%d in a row after %q", inRow, text)
		}
	}
}

// What the runtime prints is a record a word.
func TestJoined(t *testing.T) {
	in := "Panic#1 Part1\n<13>[   37.1] mesolith: up\n<12>[   37.2] panic: \n<12>[   37.3] a bug\n<12>[   37.4] \n<12>[   37.5] \n" +
		"<12>[   37.6] goroutine \n<12>[   37.6] 40\n<12>[   37.6]  [\n<12>[   37.6] running\n<12>[   37.6] ]:\n" +
		"<12>[   37.7] main.f\n<12>[   37.7] (\n<12>[   37.7] )\n<12>[   37.8] \t\n<12>[   37.8] main.go\n<12>[   37.8] :\n<12>[   37.8] 12\n<12>[   37.8] \n" +
		"<0>[   37.9] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000200\n"
	want := "Panic#1 Part1\n<13>[   37.1] mesolith: up\n<12>[   37.2] panic: a bug\n<12>[   37.5] \n<12>[   37.6] goroutine 40 [running]:\n" +
		"<12>[   37.7] main.f()\n<12>[   37.8] \tmain.go:12\n<0>[   37.9] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000200\n"
	got := joined(in)
	if got != want {
		t.Errorf("%q\nwant %q", got, want)
	}
	if cause, _ := Cause(got); cause != "PID 1 died: panic: a bug" {
		t.Errorf("cause %q", cause)
	}
}

func FuzzCause(f *testing.F) {
	f.Add(goPanic)
	f.Add("<[")
	f.Fuzz(func(t *testing.T, text string) { Cause(joined(text)) })
}
