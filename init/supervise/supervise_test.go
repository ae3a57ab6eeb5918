package supervise

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRingKeepsTheNewest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "noded")
	r, err := newRing(path, 2000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if _, err := fmt.Fprintf(r, "line %04d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	old, err := os.ReadFile(path + ".old")
	if err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(old)+len(now) > 2000 || len(old) < 900 {
		t.Errorf("%d and %d bytes are kept of 2000", len(old), len(now))
	}
	both := strings.Fields(strings.ReplaceAll(string(old)+string(now), "line ", ""))
	for i, n := range both {
		if want := fmt.Sprintf("%04d", 1000-len(both)+i); n != want {
			t.Fatalf("line %d is %s, want %s", i, n, want)
		}
	}
	again, err := newRing(path, 2000)
	if err != nil || again.size != int64(len(now)) {
		t.Errorf("opened again: size %d, %v", again.size, err)
	}
}

// A ring that could not turn, for want of room, goes on when there is room again.
func TestRingGoesOnAfterAFailedTurn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "noded")
	r, err := newRing(path, 20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(r, "before"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".old"); err != nil { // and the new file was not made
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(r, "after it"); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(path); err != nil || string(raw) != "after it\n" {
		t.Errorf("%q, %v", raw, err)
	}
}

func TestOutputKeepsAllAndTellsOfWarnings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clusterd")
	log, err := newRing(path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		output("clusterd", r, log, func(f string, a ...any) { said = append(said, strings.TrimSpace(fmt.Sprintf(f, a...))) })
	}()
	long := strings.Repeat("x", 3*longestLine)
	fmt.Fprintf(w, "{\"level\":\"INFO\",\"msg\":\"a\"}\n{\"level\":\"WARN\",\"msg\":\"b\"}\n\npanic: c\n{%s\n", long)
	for range 2 * warnPerBurst {
		fmt.Fprintln(w, "again")
	}
	fmt.Fprint(w, "no end of line")
	w.Close()
	<-done

	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(raw), "x"); got != len(long) {
		t.Errorf("%d of %d bytes of a long line were kept", got, len(long))
	}
	if !strings.HasSuffix(string(raw), "no end of line\n") {
		t.Error("the last line was lost")
	}
	if len(said) != warnPerBurst {
		t.Errorf("%d lines went to the console, want %d", len(said), warnPerBurst)
	}
	if said[0] != `clusterd: {"level":"WARN","msg":"b"}` || said[1] != "clusterd: panic: c" {
		t.Errorf("console: %q", said[:2])
	}
}
