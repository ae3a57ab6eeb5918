package stdio

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
)

func TestOutputArrivesWhole(t *testing.T) {
	dir, sandbox := t.TempDir(), t.TempDir()
	if err := Make(dir, os.Geteuid(), os.Getegid()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sandbox, "stdout"), []byte("before "), 0o644); err != nil {
		t.Fatal(err)
	}
	w, err := OpenWriter(dir, "stdout")
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	for i, part := range [][]byte{want[:1000], want[1000:]} {
		p, err := Open(dir, sandbox, "stdout", os.Geteuid(), os.Getegid(), 0)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		cancel() // the first pump ends as if the keeper had been killed and came back
		if err := <-done; err != nil {
			t.Fatalf("pump %d: %v", i, err)
		}
	}
	w.Close()
	got, err := os.ReadFile(filepath.Join(sandbox, "stdout"))
	if err != nil || !bytes.Equal(got, append([]byte("before "), want...)) {
		t.Fatalf("%d bytes arrived of %d, %v", len(got)-7, len(want), err)
	}
}

func TestEndsWhenWritersAreGone(t *testing.T) {
	dir, sandbox := t.TempDir(), t.TempDir()
	if err := Make(dir, os.Geteuid(), os.Getegid()); err != nil {
		t.Fatal(err)
	}
	w, err := OpenWriter(dir, "stderr")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Open(dir, sandbox, "stderr", os.Geteuid(), os.Getegid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("last words"))
	w.Close()
	if err := p.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(sandbox, "stderr")); err != nil || string(got) != "last words" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestWhatTheTaskPutThereIsNotFollowed(t *testing.T) {
	dir, sandbox, outside := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(outside, []byte("safe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Make(dir, os.Geteuid(), os.Getegid()); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(sandbox, "stdout")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(outside, filepath.Join(sandbox, "stderr")); err != nil {
		t.Fatal(err)
	}
	for _, name := range Streams {
		w, err := OpenWriter(dir, name)
		if err != nil {
			t.Fatal(err)
		}
		p, err := Open(dir, sandbox, name, os.Geteuid(), os.Getegid(), 0)
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte("evil"))
		w.Close()
		if err := p.Run(context.Background()); err != nil {
			t.Fatal(err)
		}
		if p.Dropped() != 4 {
			t.Errorf("%s: %d bytes dropped", name, p.Dropped())
		}
	}
	if got, err := os.ReadFile(outside); err != nil || string(got) != "safe" {
		t.Fatalf("the file outside is %q, %v", got, err)
	}
}

// A file that nothing can be written to any more stops no task: bytes are dropped, and
// what comes after the pipe's full megabyte is taken too.
func TestFileInTroubleDropsBytes(t *testing.T) {
	dir, sandbox := t.TempDir(), t.TempDir()
	if err := Make(dir, os.Geteuid(), os.Getegid()); err != nil {
		t.Fatal(err)
	}
	w, err := OpenWriter(dir, "stdout")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Open(dir, sandbox, "stdout", os.Geteuid(), os.Getegid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	readOnly, err := os.Open(filepath.Join(sandbox, "stdout"))
	if err != nil {
		t.Fatal(err)
	}
	p.file.Close()
	p.file = readOnly
	done := make(chan error, 1)
	go func() { done <- p.Run(context.Background()) }()
	const size = 3 << 20
	if _, err := w.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if p.Dropped() != size {
		t.Errorf("%d of %d bytes dropped", p.Dropped(), size)
	}
}
