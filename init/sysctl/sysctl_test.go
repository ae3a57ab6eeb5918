package sysctl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSetWritesWhatIsThere(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "net/ipv4")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	forward := filepath.Join(dir, "ip_forward")
	if err := os.WriteFile(forward, []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Set(root); err != nil { // all others are absent here
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(forward); err != nil || string(raw) != "1\n" {
		t.Errorf("ip_forward is %q, %v", raw, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "tcp_syncookies"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Set(root); err == nil || !strings.Contains(err.Error(), "net.ipv4.tcp_syncookies") {
		t.Errorf("a refused setting: %v", err)
	}
}
