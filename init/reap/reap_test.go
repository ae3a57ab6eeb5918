package reap

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test's own program be the child: it exits with what it is told.
func TestMain(m *testing.M) {
	switch os.Getenv("REAP_CHILD") {
	case "exit7":
		os.Exit(7)
	case "stay":
		os.Stdin.Read(make([]byte, 1)) // until the pipe is closed
		os.Exit(3)
	}
	os.Exit(m.Run())
}

func fork(t *testing.T, what string, stdin uintptr) func() (int, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return func() (int, error) {
		return syscall.ForkExec(exe, []string{exe}, &syscall.ProcAttr{
			Env: append(os.Environ(), "REAP_CHILD="+what), Files: []uintptr{stdin, 1, 2},
		})
	}
}

func sweepUntil(t *testing.T, r *Reaper, ready func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ready(); runtime.Gosched() {
		if err := r.Sweep(); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatal("nobody died within 20 s")
		}
	}
}

func TestStatusGoesToItsOwner(t *testing.T) {
	r := New(2)
	_, exit, err := r.Start(fork(t, "exit7", 0))
	if err != nil {
		t.Fatal(err)
	}
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// A registered process that nobody started through Start, as an orphan is.
	pid, err := fork(t, "stay", in.Fd())()
	if err != nil {
		t.Fatal(err)
	}
	start, err := StartTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	k := Key{"c1", start}
	if err := r.Register(Key{"c1", start + 1}, pid); !errors.Is(err, ErrNotThat) {
		t.Errorf("wrong start time: %v", err)
	}
	for range 2 {
		if err := r.Register(k, pid); err != nil {
			t.Fatal(err)
		}
	}
	if s, _ := r.Status(k); s != Running {
		t.Errorf("state %v, want running", s)
	}
	// One that nobody knows must not stand in the way.
	if _, err := fork(t, "exit7", 0)(); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	sweepUntil(t, r, func() bool {
		select {
		case status = <-exit:
			return true
		default:
			return false
		}
	})
	if status.ExitStatus() != 7 {
		t.Errorf("program's status %v", status)
	}
	done := r.Wait(k)
	in.Close()
	out.Close()
	sweepUntil(t, r, func() bool { s, _ := r.Status(k); return s == Exited })
	<-done
	if _, status := r.Status(k); status.ExitStatus() != 3 {
		t.Errorf("orphan's status %v", status)
	}
	r.Ack(k)
	if s, _ := r.Status(k); s != Unknown {
		t.Errorf("after the acknowledgement: %v", s)
	}
}

func TestTableIsBounded(t *testing.T) {
	r := New(1)
	r.startTime = func(int) (uint64, error) { return 5, nil }
	if err := r.Register(Key{"a", 5}, 10); err != nil {
		t.Fatal(err)
	}
	if err := r.Register(Key{"a", 5}, 11); !errors.Is(err, ErrOther) {
		t.Errorf("same key, other pid: %v", err)
	}
	if err := r.Register(Key{"b", 5}, 12); !errors.Is(err, ErrFull) {
		t.Errorf("second: %v", err)
	}
	r.Ack(Key{"a", 5})
	if err := r.Register(Key{"b", 5}, 12); err != nil {
		t.Errorf("after an acknowledgement: %v", err)
	}
}

// A process whose own parent took its status leaves its pid to another; to forget the
// first must not lose the second's status.
func TestAPIDOfTwoProcesses(t *testing.T) {
	r := New(4)
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	pid, err := fork(t, "exit7", in.Fd())()
	if err != nil {
		t.Fatal(err)
	}
	start, err := StartTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	first, second := Key{"first", start - 1}, Key{"second", start}
	r.startTime = func(int) (uint64, error) { return start - 1, nil }
	if err := r.Register(first, pid); err != nil {
		t.Fatal(err)
	}
	r.startTime = StartTime
	if err := r.Register(second, pid); err != nil {
		t.Fatal(err)
	}
	r.Ack(first)
	sweepUntil(t, r, func() bool { s, _ := r.Status(second); return s != Running })
	if s, status := r.Status(second); s != Exited || status.ExitStatus() != 7 {
		t.Errorf("state %v, status %v", s, status)
	}
}

func FuzzStartTime(f *testing.F) {
	f.Add("1 (a) b) S 0 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 25 0 0")
	f.Add(")")
	f.Fuzz(func(t *testing.T, s string) { parseStartTime(s) })
}

// Without a descriptor nobody can say whose a zombie is: its status waits, and the
// programs' are taken all the same.
func TestNoStatusIsLostWithoutDescriptors(t *testing.T) {
	r := New(2)
	fine := r.startTime
	pid, err := fork(t, "exit7", 0)()
	if err != nil {
		t.Fatal(err)
	}
	start, err := StartTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	k := Key{"c", start}
	if err := r.Register(k, pid); err != nil {
		t.Fatal(err)
	}
	refused := 0
	r.startTime = func(int) (uint64, error) { refused++; return 0, os.NewSyscallError("open", unix.EMFILE) }
	if err := r.Register(Key{"d", start}, pid); errors.Is(err, ErrNotThat) || !errors.Is(err, unix.EMFILE) {
		t.Errorf("registering: %v", err)
	}
	if s, _ := r.Status(k); s != Running {
		t.Errorf("state %v of a process that cannot be asked", s)
	}
	_, exit, err := r.Start(fork(t, "exit7", 0))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); len(exit) == 0; runtime.Gosched() {
		if err := r.Sweep(); err != nil && !errors.Is(err, unix.EMFILE) {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatal("the program's status did not come")
		}
	}
	if status := <-exit; status.ExitStatus() != 7 {
		t.Errorf("program's status %v", status)
	}
	if refused < 2 { // how many sweeps meet the zombie is the scheduler's
		t.Errorf("the fault fired %d times", refused)
	}
	r.startTime = fine
	sweepUntil(t, r, func() bool { s, _ := r.Status(k); return s == Exited })
	if _, status := r.Status(k); status.ExitStatus() != 7 {
		t.Errorf("registered process's status %v", status)
	}
}
