package node

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestKernelLine(t *testing.T) {
	for record, want := range map[string]string{
		"6,339,5140900,-;NET: Registered\n SUBSYSTEM=x\n": "[    5.140900] NET: Registered\n",
		"nonsense": "nonsense",
		"6,1;text": "6,1;text",
	} {
		if got := kernelLine(record); got != want {
			t.Errorf("%q: %q, want %q", record, got, want)
		}
	}
}

// TestFollowOverAChangeOfFile reads a log whose ring goes on in a new file.
func TestFollowOverAChangeOfFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clusterd")
	write := func(p, text string) {
		t.Helper()
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path+".old", "one\n")
	write(path, "two\n")
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- copyLog(ctx, w, path, true) }()
	lines := bufio.NewReader(r)
	expect := func(want string) {
		t.Helper()
		if got, err := lines.ReadString('\n'); err != nil || got != want+"\n" {
			t.Fatalf("%q, %v; want %q", got, err, want)
		}
	}
	expect("one")
	expect("two")
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	write(path, "three\n")
	expect("three")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
