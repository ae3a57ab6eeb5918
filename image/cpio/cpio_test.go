package cpio

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	reader "github.com/u-root/mkuimage/cpio"
)

func build(t *testing.T) []byte {
	t.Helper()
	a := New()
	a.Link("/bin/sh", "busybox")
	a.File("bin/busybox", 0o755, []byte("ELF"))
	a.Device("dev/console", 0o600, 5, 1)
	a.Dir("tmp", 0o1777)
	a.File("usr/lib/deep/er/file", 0o640, []byte("12345"))
	var b bytes.Buffer
	n, err := a.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("wrote %d of %d: %v", n, b.Len(), err)
	}
	return b.Bytes()
}

func TestAnotherReaderUnderstandsIt(t *testing.T) {
	records, err := reader.ReadAllRecords(reader.Newc.Reader(bytes.NewReader(build(t))))
	if err != nil {
		t.Fatal(err)
	}
	type seen struct {
		Name               string
		Mode, Major, Minor uint64
		UID, GID, MTime    uint64
		Size, Links        uint64
	}
	var got []seen
	for _, r := range records {
		got = append(got, seen{r.Name, r.Mode, r.Rmajor, r.Rminor, r.UID, r.GID, r.MTime, r.FileSize, r.NLink})
	}
	want := []seen{
		{Name: "bin", Mode: 0o40755, Links: 2},
		{Name: "bin/busybox", Mode: 0o100755, Size: 3, Links: 1},
		{Name: "bin/sh", Mode: 0o120777, Size: 7, Links: 1},
		{Name: "dev", Mode: 0o40755, Links: 2},
		{Name: "dev/console", Mode: 0o20600, Major: 5, Minor: 1, Links: 1},
		{Name: "tmp", Mode: 0o41777, Links: 2},
		{Name: "usr", Mode: 0o40755, Links: 2},
		{Name: "usr/lib", Mode: 0o40755, Links: 2},
		{Name: "usr/lib/deep", Mode: 0o40755, Links: 2},
		{Name: "usr/lib/deep/er", Mode: 0o40755, Links: 2},
		{Name: "usr/lib/deep/er/file", Mode: 0o100640, Size: 5, Links: 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSameEntriesSameBytes(t *testing.T) {
	first := build(t)
	for range 10 {
		if !bytes.Equal(first, build(t)) {
			t.Fatal("two archives of the same entries differ")
		}
	}
}
