package run

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/spec"
)

func volumeAt(path string, serial uint64) *keeper.Volume {
	return &keeper.Volume{Role: "a/b", Id: "v", ContainerPath: path, Serial: serial, Bytes: 1 << 20}
}

// A volume is the next task's as the last one left it; removed, it is gone at once with
// what it held, and one of its name is another one.
func TestVolumesOutliveTasks(t *testing.T) {
	h := newHouse(t)
	run := func(id string, v *keeper.Volume, line, want string) {
		t.Helper()
		l := launchOf(id, line)
		l.Volumes = []*keeper.Volume{v}
		h.launch(l)
		if got := h.output(h.until(id, gone), "stdout"); got != want {
			t.Errorf("%s said %q, want %q", id, got, want)
		}
	}
	run("writes", volumeAt("deep/data", 1), "echo kept > deep/data/file; cat deep/data/file", "kept\n")
	run("reads", volumeAt("data", 1), "cat data/file", "kept\n")
	run("next", volumeAt("data", 2), "ls data", "")
	for range 2 { // what is gone may be removed again
		if err := h.k.RemoveVolumes([]*keeper.Volume{volumeAt("data", 1), volumeAt("", 9)}); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(h.k.cfg.WorkDir, "volumes", "roles", "a b", "v", "1")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it is still there: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(h.k.cfg.WorkDir, "volumes", "roles", "a b", "v", "2")); err != nil {
		t.Errorf("one of its name went with it: %v", err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		left, err := os.ReadDir(removedDir(h.k.cfg.WorkDir))
		if err == nil && len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("what it held is not deleted: %v %v", left, err)
		}
	}
}

// What cannot be a volume's place is refused before anything is made.
func TestBadVolumes(t *testing.T) {
	for _, test := range []struct {
		name string
		list []*keeper.Volume
		want string
	}{
		{"no path", []*keeper.Volume{volumeAt("", 1)}, "is no place for a volume"},
		{"the root", []*keeper.Volume{volumeAt("//", 1)}, "is no place for a volume"},
		{"the sandbox", []*keeper.Volume{volumeAt("a/..", 1)}, "is no place for a volume"},
		{"out of the sandbox", []*keeper.Volume{volumeAt("a/../../b", 1)}, "is no place for a volume"},
		{"twice one place", []*keeper.Volume{volumeAt("a", 1), volumeAt("a/", 2)}, "would cover each other"},
		{"one in the other", []*keeper.Volume{volumeAt("/a/b", 1), volumeAt("/a", 2)}, "would cover each other"},
		{"an id that is a path", []*keeper.Volume{{Role: "r", Id: "../x", ContainerPath: "a"}}, "cannot be the name of a directory"},
		{"no role", []*keeper.Volume{{Id: "x", ContainerPath: "a"}}, "cannot be the name of a directory"},
		{"a role of dots", []*keeper.Volume{{Role: "..", Id: "x", ContainerPath: "a"}}, "cannot be the name of a directory"},
		{"another disk", []*keeper.Volume{{Role: "r", Id: "x", ContainerPath: "a", Root: "/etc"}}, "gives no disks of their own"},
	} {
		_, err := volumesOf("/work", &keeper.Launch{Volumes: test.list})
		if !errors.Is(err, spec.ErrInvalidTask) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if _, err := volumesOf("/work", &keeper.Launch{Volumes: []*keeper.Volume{volumeAt("a", 1), volumeAt("ab", 2)}}); err != nil {
		t.Errorf("two places beside each other: %v", err)
	}
}
