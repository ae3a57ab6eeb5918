package state

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// A name gets an id once, whatever is asked again, and keeps it over a snapshot.
func TestNameUser(t *testing.T) {
	s := New()
	for _, name := range []string{"web", "db", "web", "cache", "db"} {
		if _, err := (NameUser{Name: name}).apply(s); err != nil {
			t.Fatal(err)
		}
	}
	var raw bytes.Buffer
	if _, err := s.Snapshot().WriteTo(&raw); err != nil {
		t.Fatal(err)
	}
	restored, _, err := Read(&raw)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"web", "db", "cache"} {
		for _, of := range []*State{s, restored} {
			if back, ok := of.UserNamed(firstUser + uint32(i)); !ok || back != name {
				t.Errorf("%d is %q, not %s", firstUser+i, back, name)
			}
			if id, ok := of.UserID(name); !ok || id != firstUser+uint32(i) {
				t.Errorf("%s has %d", name, id)
			}
		}
	}
	for _, id := range []uint32{0, firstUser - 1, firstUser + maxUsers} {
		if name, ok := s.UserNamed(id); ok {
			t.Errorf("%d is %q", id, name)
		}
	}
	if _, ok := s.UserID("nobody"); ok {
		t.Error("a name that nobody said has an id")
	}
	if s.Hash() != restored.Hash() {
		t.Error("the restored state is another")
	}
	old := s.Snapshot()
	if _, err := (NameUser{Name: "late"}).apply(s); err != nil {
		t.Fatal(err)
	}
	if len(old.users) != 3 || s.Hash() == restored.Hash() {
		t.Error("a name changed what was copied before, or nothing")
	}
}

func TestNamesAreBounded(t *testing.T) {
	s := New()
	for _, name := range []string{"", strings.Repeat("x", maxUser+1)} {
		if _, err := (NameUser{Name: name}).apply(s); !errors.Is(err, ErrCommandInvalid) {
			t.Errorf("%d bytes: %v", len(name), err)
		}
	}
	for i := range maxUsers {
		if _, err := (NameUser{Name: fmt.Sprint("u", i)}).apply(s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := (NameUser{Name: "one more"}).apply(s); !errors.Is(err, ErrListFull) {
		t.Errorf("beyond the bound: %v", err)
	}
	if _, err := (NameUser{Name: "u7"}).apply(s); err != nil {
		t.Errorf("a known name: %v", err)
	}
	if id, _ := s.UserID(fmt.Sprint("u", maxUsers-1)); id >= 65536 {
		t.Errorf("the last id is %d: no container maps it", id)
	}
}
