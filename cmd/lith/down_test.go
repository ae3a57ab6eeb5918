package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mesolith/mesolith/qemu-tests/vm"
)

// sleeper starts a process that only waits, and reaps it.
func sleeper(t *testing.T) vm.Process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }()
	p, err := vm.Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDownEndsItsProcessesAndNoStranger(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	left, stranger := sleeper(t), sleeper(t)
	reused := stranger
	reused.Start += "0" // its number was ours, long ago
	note := supervisorNote{Supervisor: reused, Machines: map[string]vm.Process{"n1": left, "n2": reused}}
	for name, value := range map[string]any{planFile: clusterPlan{Name: "t"}, supervisorFile: note} {
		if err := writeJSON(filepath.Join(dir, name), value); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := down(t.Context(), dir, false, &out); err != nil {
		t.Fatal(err)
	}
	if left.Alive() {
		t.Error("a machine outlived down")
	}
	if !stranger.Alive() {
		t.Error("down ended a stranger")
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
	if !strings.Contains(out.String(), "ended 1 process;") {
		t.Errorf("said %q", out.String())
	}
}

func TestDownTouchesNoDirectoryThatIsNotACluster(t *testing.T) {
	dir := t.TempDir()
	keep := filepath.Join(dir, "thesis.txt")
	if err := os.WriteFile(keep, []byte("years of work"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := down(t.Context(), dir, false, &out); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Error(err)
	}
}
