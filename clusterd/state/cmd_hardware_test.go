package state

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
)

// The newest machine of a name counts, and a snapshot keeps it.
func TestAdmitHardware(t *testing.T) {
	s := New()
	for _, c := range []AdmitHardware{{"m1", "aa"}, {"m2", "bb"}, {"m1", "cc"}} {
		if _, err := c.apply(s); err != nil {
			t.Fatal(err)
		}
	}
	old, want := s.Snapshot(), map[string]string{"m1": "cc", "m2": "bb"}
	var raw bytes.Buffer
	if _, err := old.WriteTo(&raw); err != nil {
		t.Fatal(err)
	}
	restored, _, err := Read(&raw)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(restored.Hardware(), want) || restored.Hash() != s.Hash() {
		t.Errorf("restored: %v, want %v", restored.Hardware(), want)
	}
	if _, err := (AdmitHardware{"m2", "dd"}).apply(s); err != nil {
		t.Fatal(err)
	}
	if old.head.hardware["m2"] != "bb" || restored.Hash() == s.Hash() {
		t.Error("a command changed what was copied before, or nothing")
	}
}

func TestHardwareIsBounded(t *testing.T) {
	s := New()
	long := strings.Repeat("x", maxHardwareName+1)
	for _, c := range []AdmitHardware{{"", "aa"}, {"m1", ""}, {long, "aa"}, {"m1", long}} {
		if _, err := c.apply(s); !errors.Is(err, ErrCommandInvalid) {
			t.Errorf("%d and %d bytes: %v", len(c.Name), len(c.Hardware), err)
		}
	}
	for i := range maxHardware {
		if _, err := (AdmitHardware{fmt.Sprint("m", i), "aa"}).apply(s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := (AdmitHardware{"one more", "aa"}).apply(s); !errors.Is(err, ErrListFull) {
		t.Errorf("beyond the bound: %v", err)
	}
	if _, err := (AdmitHardware{"m1", "bb"}).apply(s); err != nil || s.Hardware()["m1"] != "bb" {
		t.Errorf("a known name: %v", err)
	}
}
