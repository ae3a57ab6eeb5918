package records

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/internal/wire/keeper"
)

func TestPutAndOpen(t *testing.T) {
	dir := t.TempDir()
	s, _, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := Record{Step: Exec, Slot: 7, Launch: &keeper.Launch{ContainerId: "c1", Term: 3}, Container: &keeper.Container{ContainerId: "c1", Pid: 42}}
	if err := s.Put(want); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(Record{Step: Done, Container: &keeper.Container{ContainerId: "tombstone"}}); err != nil {
		t.Fatal(err)
	}
	if err := s.PutFence(Fence{2, 9}); err != nil {
		t.Fatal(err)
	}
	_, found, err := Open(dir)
	if err != nil || len(found.Problems) != 0 || len(found.Records) != 2 || found.Fence != (Fence{2, 9}) {
		t.Fatalf("found %+v, %v", found, err)
	}
	got := found.Records[0]
	if got.Step != want.Step || got.Slot != want.Slot || !proto.Equal(got.Launch, want.Launch) || !proto.Equal(got.Container, want.Container) {
		t.Errorf("got %+v", got)
	}
	if found.Records[1].Launch != nil {
		t.Error("a tombstone has a launch")
	}
	for range 2 {
		if err := s.Delete("c1"); err != nil {
			t.Error(err)
		}
	}
}

func TestDamageIsSetAside(t *testing.T) {
	dir := t.TempDir()
	s, _, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"flip", "short", "empty", "zeros", "header", "newer", "other", "good"} {
		if err := s.Put(Record{Step: Done, Container: &keeper.Container{ContainerId: id}}); err != nil {
			t.Fatal(err)
		}
	}
	alter := func(id string, f func([]byte) []byte) {
		path := filepath.Join(dir, id+suffix)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f(raw), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	alter("flip", func(b []byte) []byte { b[len(b)-3] ^= 1; return b })
	alter("short", func(b []byte) []byte { return b[:10] })
	alter("empty", func([]byte) []byte { return nil })
	alter("zeros", func(b []byte) []byte { return make([]byte, len(b)) })
	alter("header", func(b []byte) []byte { b[3] ^= 1; return b })
	alter("other", func([]byte) []byte {
		raw, err := os.ReadFile(filepath.Join(dir, "good"+suffix))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	})
	if err := os.WriteFile(filepath.Join(dir, "x.rec.tmp"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	alter("newer", func(b []byte) []byte { return []byte(strings.Replace(string(b), "record 1", "record 2", 1)) })
	newer := filepath.Join(dir, "newer"+suffix)
	if _, _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "start that version again") {
		t.Errorf("a record of a newer version: %v", err)
	}
	if err := os.Remove(newer); err != nil { // it was left where it is
		t.Fatal(err)
	}
	_, again, err := Open(dir) // some were set aside before the newer one was met
	if err != nil || len(again.Records) != 1 {
		t.Fatalf("found %+v, %v", again, err)
	}
	aside, err := filepath.Glob(filepath.Join(dir, "*.bad"))
	if err != nil || len(aside) != 6 {
		t.Errorf("kept aside: %q, %v", aside, err)
	}
	if _, again, err = Open(dir); err != nil || len(again.Problems) != 0 {
		t.Errorf("again: %+v, %v", again, err)
	}
}

// On a full disk the record that was there stays, and it is said what to do.
func TestAFullDiskKeepsTheRecord(t *testing.T) {
	dir := t.TempDir()
	s, _, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := &keeper.Container{ContainerId: "c"}
	if err := s.Put(Record{Step: Accepted, Container: c}); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/full", filepath.Join(dir, "c"+suffix+".tmp")); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(Record{Step: Started, Container: c}); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "make room on the file system of "+dir) {
		t.Errorf("it says: %v", err)
	}
	_, found, err := Open(dir)
	if err != nil || len(found.Records) != 1 || found.Records[0].Step != Accepted {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestFence(t *testing.T) {
	if !(Fence{1, 5}).Older(Fence{2, 1}) || !(Fence{1, 1}).Older(Fence{1, 2}) || (Fence{1, 2}).Older(Fence{1, 2}) {
		t.Error("order of leaders is wrong")
	}
}

func FuzzParse(f *testing.F) {
	dir := f.TempDir()
	s, _, err := Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	if err := s.Put(Record{Step: Accepted, Launch: &keeper.Launch{ContainerId: "a"}, Container: &keeper.Container{ContainerId: "a"}}); err != nil {
		f.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "a.rec"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(_ *testing.T, raw []byte) { _, _ = parse(raw) })
}
