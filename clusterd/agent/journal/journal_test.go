package journal

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
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

func TestDamageSetsTheFileAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	o, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Journal.Append(identity("k"), updated("a"), updated("b")); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(header)+9] ^= 0xff
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if again.Aside == "" || !strings.Contains(again.Why, "checksum") || len(again.Records) != 0 {
		t.Errorf("aside %q why %q records %d", again.Aside, again.Why, len(again.Records))
	}
	kept, err := os.ReadFile(again.Aside)
	if err != nil || !bytes.Equal(kept, raw) {
		t.Errorf("the damaged file was not kept: %v", err)
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
