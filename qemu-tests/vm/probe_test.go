package vm

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The probe's program is an ordinary Linux program: the host can run it too.
func TestProbeProgramPrints(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skipf("the program is for linux/amd64, this is %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	path := filepath.Join(t.TempDir(), "init")
	if err := os.WriteFile(path, PrintingProgram(Hello), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, len(Hello)+1)
	n, err := out.Read(buf)
	if err != nil || string(buf[:n]) != Hello+"\n" {
		t.Errorf("printed %q, %v", buf[:n], err)
	}
	// It waits for ever: known while it lives, gone afterwards.
	p, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if p.Program != path || !p.Alive() {
		t.Errorf("identified %+v", p)
	}
	other := p
	other.Start += "0"
	if other.Alive() {
		t.Error("a process with another start time was taken for this one")
	}
	if err := other.Signal(syscall.SIGKILL); !errors.Is(err, ErrGone) {
		t.Errorf("signal to another process: %v", err)
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the program ended by itself")
	}
	if p.Alive() {
		t.Error("alive after its end")
	}
}

func TestConsoleFindsLinesInPieces(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "console.log"))
	if err != nil {
		t.Fatal(err)
	}
	c := newConsole(file)
	for _, piece := range []string{"first li", "ne\r\nsec", "ond line\nlast"} {
		if _, err := c.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if l, err := c.Wait(ctx, 0, "first"); err != nil || l.Text != "first line" {
		t.Errorf("%q, %v", l.Text, err)
	}
	if got := c.Len(); got != 2 {
		t.Errorf("%d whole lines, want 2", got)
	}
	c.close()
	if _, err := c.Wait(ctx, 0, "last"); err != nil {
		t.Errorf("the last line without its end: %v", err)
	}
	_, err = c.Wait(ctx, 0, "never")
	if !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "second line") {
		t.Errorf("waiting in vain: %v", err)
	}
}

// A console whose file cannot be written any more goes on: the machine would stop else.
func TestConsoleOutlivesItsFile(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "console.log"))
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	c := newConsole(file)
	for _, piece := range []string{"one\n", strings.Repeat("x", maxLine+3) + "\n", "two\n"} {
		if n, err := c.Write([]byte(piece)); err != nil || n != len(piece) {
			t.Fatalf("wrote %d of %d: %v", n, len(piece), err)
		}
	}
	var got []string
	for _, l := range c.Lines(0) {
		got = append(got, l.Text)
	}
	if len(got) != 5 || !strings.Contains(got[0], "not complete") || got[1] != "one" || len(got[2]) != maxLine || got[3] != "xxx" || got[4] != "two" {
		t.Errorf("lines %.40q", got)
	}
}
