package journal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
)

func identity(key string) *Record {
	return &Record{Body: &Record_Identity{Identity: &Identity{AttachKey: key}}}
}

func updated(id string) *Record {
	return &Record{Body: &Record_Updated{Updated: &Updated{ContainerId: id, Status: bytes.Repeat([]byte{7}, 100)}}}
}

func TestRecordsComeBackInOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent", "journal")
	first, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []*Record{identity("k"), updated("a"), updated("b")}
	if err := first.Journal.Append(want[0]); err != nil {
		t.Fatal(err)
	}
	if err := first.Journal.Append(want[1:]...); err != nil {
		t.Fatal(err)
	}
	again, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, again.Records, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if err := again.Journal.Rewrite(want[:1]); err != nil {
		t.Fatal(err)
	}
	if err := again.Journal.Append(updated("c")); err != nil {
		t.Fatal(err)
	}
	third, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(third.Records) != 2 || third.Records[1].GetUpdated().GetContainerId() != "c" {
		t.Errorf("after rewrite: %v", third.Records)
	}
}

// Whatever length a crash leaves, the records that were whole come back.
func TestEveryTornTailIsCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	o, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Journal.Append(identity("k"), updated("a")); err != nil {
		t.Fatal(err)
	}
	whole := o.Journal.Size()
	if err := o.Journal.Append(updated("torn")); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := whole + 1; n < int64(len(raw)); n++ {
		if err := os.WriteFile(path, raw[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(again.Records) != 2 || again.CutAt != whole || again.Aside != "" {
			t.Fatalf("length %d: %d records, cut at %d, aside %q", n, len(again.Records), again.CutAt, again.Aside)
		}
		again.Journal.Close()
	}
}

// Whatever is damaged, the file is kept, what was whole before the damage is given, and it
// is said, also by the next opening, that more is lost.
func TestDamageSetsTheFileAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	o, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Journal.Append(identity("k"), updated("a"), updated("b"), updated("c")); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	second := bytes.Index(whole, []byte("\x0a\x01a")) // in the second record
	last := bytes.Index(whole, []byte("\x0a\x01c"))
	for _, c := range []struct {
		name string
		kept int
		raw  func([]byte) []byte
	}{
		{"one bit of the first record", 0, func(raw []byte) []byte { raw[len(header)+9] ^= 4; return raw }},
		{"one bit in the middle", 1, func(raw []byte) []byte { raw[second] ^= 4; return raw }},
		{"a length, to a great one", 1, func(raw []byte) []byte { raw[second-10] ^= 0xff; return raw }},
		{"a length, to one that reaches beyond the end", 1, func(raw []byte) []byte { raw[second-8] ^= 0x10; return raw }},
		{"zeros in the middle", 1, func(raw []byte) []byte { clear(raw[second : last-40]); return raw }},
		{"header", 0, func(raw []byte) []byte { raw[3] ^= 1; return raw }},
		{"cut in the header", 0, func(raw []byte) []byte { return raw[:5] }},
		{"empty", 0, func([]byte) []byte { return nil }},
		{"all zeros", 0, func(raw []byte) []byte { return make([]byte, len(raw)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal")
			raw := c.raw(bytes.Clone(whole))
			if err := os.WriteFile(path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			first, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if kept, err := os.ReadFile(first.Aside); err != nil || !bytes.Equal(kept, raw) || first.Why == "" {
				t.Errorf("aside %q, why %q: %v", first.Aside, first.Why, err)
			}
			second, err := Open(path)
			if err != nil || second.Aside != "" {
				t.Fatalf("opened again: %+v, %v", second, err)
			}
			for _, o := range []Opened{first, second} {
				if n := len(o.Records); n != c.kept+1 || o.Records[n-1].GetDamaged().GetWhy() == "" {
					t.Errorf("%d records, want %d and one that says that more is lost: %v", n, c.kept, o.Records)
				}
			}
		})
	}
}

// With no space left nothing that Append has taken is lost, nothing more is taken, and it
// is said what to do.
func TestAFullDiskTakesNothingMore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	o, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Journal.Append(identity("k"), updated("a")); err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	whole := o.Journal.file
	o.Journal.file = full
	for range 2 {
		if err := o.Journal.Append(updated("b")); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "make room on the file system of "+filepath.Dir(path)) {
			t.Errorf("it says: %v", err)
		}
	}
	if err := o.Journal.Rewrite(nil); err == nil {
		t.Error("it is written after a failure")
	}
	full.Close()
	whole.Close()
	again, err := Open(path)
	if err != nil || len(again.Records) != 2 {
		t.Errorf("%d records, %v", len(again.Records), err)
	}
}

func TestNewerFormatIsRefusedAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, []byte(anyHeader+"2\nabc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("err = %v", err)
	}
	if raw, _ := os.ReadFile(path); string(raw) != anyHeader+"2\nabc" {
		t.Errorf("the file changed: %q", raw)
	}
}

func FuzzDecode(f *testing.F) {
	good := []byte(header)
	for _, r := range []*Record{identity("k"), updated("a")} {
		good, _ = appendRecord(good, r)
	}
	f.Add(good)
	f.Add(good[:len(good)-3])
	f.Add([]byte(header))
	f.Add(make([]byte, 4096))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, n, err := Decode(raw)
		if err == nil && (n < int64(len(header)) || n > int64(len(raw))) {
			t.Fatalf("good length %d of %d", n, len(raw))
		}
	})
}
