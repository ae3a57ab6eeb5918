package control

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mesolith/mesolith/init/reap"
	"golang.org/x/sys/unix"
)

// The last words of a process that nobody listened to are still in the pipe.
func TestHeldPipesKeepTheLastWords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		held bool
		want string
	}{{true, "last words\n"}, {false, ""}} {
		out, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		in, say, err := os.Pipe() // it ends when this is closed
		if err != nil {
			t.Fatal(err)
		}
		p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "read go; echo last words"}, &os.ProcAttr{Files: []*os.File{in, out, nil}})
		if err != nil {
			t.Fatal(err)
		}
		var held pipes
		k := reap.Key{Container: "c", StartTime: 1}
		if test.held {
			held.hold(k, p.Pid)
			held.hold(k, p.Pid) // asked again: nothing more
			if n := len(held.held[k]); n != 1 {
				t.Fatalf("%d pipes held", n)
			}
		}
		out.Close()
		in.Close()
		say.Close()
		if _, err := p.Wait(); err != nil {
			t.Fatal(err)
		}
		left, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, _ := left.Read(buf)
		left.Close()
		if got := string(buf[:max(n, 0)]); got != test.want {
			t.Errorf("held %v: %q", test.held, got)
		}
		held.release(k)
		held.release(k)
	}
}
