package wholefile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

var kind = Kind{"test", 2}

func TestEachDamageIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if _, err := kind.Read(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	body := []byte("what must be found again\nas it was")
	if err := kind.Write(path, body); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		raw  []byte
		want error
	}{
		{"whole", whole, nil},
		{"of an older format", Kind{"test", 1}.Encode(body), nil},
		{"cut", whole[:len(whole)-1], ErrDamaged},
		{"cut in its header", whole[:10], ErrDamaged},
		{"one bit", bytes.Replace(whole, []byte("must"), []byte("mutt"), 1), ErrDamaged},
		{"more", append(bytes.Clone(whole), 0), ErrDamaged},
		{"empty", nil, ErrDamaged},
		{"zeros", make([]byte, len(whole)), ErrDamaged},
		{"of another kind", Kind{"other", 2}.Encode(body), ErrDamaged},
		{"of a newer format", Kind{"test", 3}.Encode(body), ErrNewer},
	} {
		if err := os.WriteFile(path, c.raw, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := kind.Read(path)
		if !errors.Is(err, c.want) || c.want == nil && !bytes.Equal(got, body) {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}

func TestAFailedWriteKeepsTheOldFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := kind.Write(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+".next", 0o700); err != nil { // nothing can be written there
		t.Fatal(err)
	}
	if err := kind.Write(path, []byte("new")); err == nil {
		t.Error("written over a directory")
	}
	if got, err := kind.Read(path); string(got) != "old" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(kind.Encode([]byte("body")))
	f.Add(kind.Encode(nil))
	f.Add([]byte("mesolith test 99 0\n"))
	f.Add([]byte("mesolith test -1 ffffffffff\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		body, err := kind.Decode(raw)
		if err != nil {
			return
		}
		again, err := kind.Decode(kind.Encode(body))
		if err != nil || !bytes.Equal(again, body) {
			t.Errorf("%q: %q, %v", raw, again, err)
		}
	})
}
