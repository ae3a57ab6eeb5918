package sockpath

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSocketsAtShortAndLongPaths(t *testing.T) {
	for _, dir := range []string{"d", strings.Repeat("long/", 40)} {
		dir = filepath.Join(t.TempDir(), dir)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "s.sock")
		ln, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			conn, err := ln.Accept()
			if err == nil {
				_, _ = io.WriteString(conn, "hello")
				conn.Close()
			}
		}()
		conn, err := Dial(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
			t.Errorf("read %q, %v", got, err)
		}
		conn.Close()
		if _, err := Listen(path); !errors.Is(err, ErrInUse) {
			t.Errorf("second listener: %v, want %v", err, ErrInUse)
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after Close the socket is still there: %v", err)
		}
	}
}
