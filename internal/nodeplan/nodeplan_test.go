package nodeplan

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlanSurvivesTheTrip(t *testing.T) {
	for _, total := range []uint64{160 * mib, 256 * mib, 2 * gib, 1 << 42} {
		want := Default(total, 0, 0)
		want.Hostname = "m-1"
		want.ModulesLate = total > gib
		raw, err := Encode(want)
		if err != nil {
			t.Fatalf("encode plan of %d bytes of memory: %v", total, err)
		}
		got, err := Read(bytes.NewReader(append(raw, "rest"...)))
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("plan changed on the way:\n%s", d)
		}
	}
}

func TestDefaultLeavesRoomForTasks(t *testing.T) {
	p := Default(2*gib, 0, 0)
	if p.TasksMaxBytes+p.RAMStoreBytes+112*mib > 2*gib {
		t.Errorf("tasks %d + store %d + reserve exceed the machine", p.TasksMaxBytes, p.RAMStoreBytes)
	}
	p = Default(4*gib, gib, 50)
	if got, want := p.TasksMaxBytes, uint64(gib); got < want-64*mib || got > want+64*mib {
		t.Errorf("tasks get %d MiB, want about 1024", got/mib)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := Encode(Default(gib, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	flip := func(i int) []byte { b := bytes.Clone(good); b[i] ^= 1; return b }
	cases := map[string][]byte{
		"nothing": nil, "cut": good[:len(good)-1], "magic": flip(0), "version": flip(9),
		"length": flip(13), "body": flip(20), "sum": flip(len(good) - 1), "more": append(bytes.Clone(good), 0),
		"huge": make([]byte, MaxBytes+1),
	}
	for name, raw := range cases {
		if _, err := Decode(raw); !errors.Is(err, ErrForm) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	if _, err := Read(bytes.NewReader(nil)); err != io.EOF {
		t.Errorf("empty stream: %v", err)
	}
	for _, h := range []string{"-a", "a-", "a b", "ä", "a/b"} {
		p := Default(gib, 0, 0)
		p.Hostname = h
		if _, err := Encode(p); err == nil {
			t.Errorf("hostname %q was accepted", h)
		}
	}
}

func FuzzDecode(f *testing.F) {
	good, err := Encode(Default(gib, 0, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:20])
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := Decode(raw)
		if err != nil {
			return
		}
		again, err := Encode(p)
		if err != nil || !bytes.Equal(raw, again) {
			t.Fatalf("accepted %x but encodes as %x (%v)", raw, again, err)
		}
	})
}
