package run

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A keeper that comes back lets the program begin, unless the keeper before it did, however
// far that one and the first process had come (libcontainer's own Exec fails in the first
// case and waits for the task's end in the second).
func TestReleaseAfterAKeeper(t *testing.T) {
	yes := func() bool { return true }
	pipe := func(t *testing.T) string {
		fifo := filepath.Join(t.TempDir(), "exec.fifo")
		if err := syscall.Mkfifo(fifo, 0o622); err != nil {
			t.Fatal(err)
		}
		return fifo
	}
	// first is what libcontainer's first process does before its program.
	first := func(fifo string) error {
		f, err := os.OpenFile(fifo, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.Write([]byte("0"))
		return errors.Join(err, f.Close())
	}
	wantReleased := func(t *testing.T, fifo string, waiting func() bool) {
		t.Helper()
		if err := release(fifo, waiting); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(fifo); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the pipe is left: %v", err)
		}
	}
	t.Run("the pipe was read and removed, the process is on its way", func(t *testing.T) {
		wantReleased(t, filepath.Join(t.TempDir(), "exec.fifo"), yes)
	})
	t.Run("the pipe was read and not removed", func(t *testing.T) {
		fifo := pipe(t)
		began := beside(first, fifo)
		f, err := os.Open(fifo)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Read([]byte{0}); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if err := <-began; err != nil {
			t.Fatal(err)
		}
		var looks atomic.Int32
		wantReleased(t, fifo, func() bool { return looks.Add(1) < 5 })
		if n := looks.Load(); n != 5 {
			t.Errorf("looked %d times at a process that went on at the fifth", n)
		}
	})
	t.Run("the process waits", func(t *testing.T) {
		fifo := pipe(t)
		began := beside(first, fifo)
		wantReleased(t, fifo, yes)
		if err := <-began; err != nil {
			t.Error(err)
		}
	})
	t.Run("the process is still to come", func(t *testing.T) {
		fifo := pipe(t)
		began := beside(func(fifo string) error { time.Sleep(20 * releasePoll); return first(fifo) }, fifo)
		wantReleased(t, fifo, yes)
		if err := <-began; err != nil {
			t.Error(err)
		}
	})
	t.Run("the process has ended", func(t *testing.T) {
		wantReleased(t, pipe(t), func() bool { return false })
	})
}

func beside(do func(string) error, fifo string) <-chan error {
	done := make(chan error, 1)
	go func() { done <- do(fifo) }()
	return done
}
