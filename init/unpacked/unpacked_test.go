package unpacked

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A file with a hole is what a cut archive leaves: its size is right, its pages are not.
func TestCheckNamesWhatIsNotWhole(t *testing.T) {
	root := t.TempDir()
	put := func(name string, body []byte, size int64) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, body, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
	if err := Check(root); err == nil || !strings.Contains(err.Error(), "files.sha256") {
		t.Errorf("without a manifest: %v", err)
	}
	whole := []byte(strings.Repeat("x", 10000))
	put("init", whole, 10000)
	put("empty", nil, 0)
	put("lib/cut", whole[:4096], 1<<20)
	list := "00  init\n00  empty\n"
	put(Manifest, []byte(list), int64(len(list)))
	if err := Check(root); err != nil {
		t.Errorf("a whole image: %v", err)
	}
	list += "00  lib/cut\n00  usr/a\n00  usr/b\n00  usr/c\n"
	put(Manifest, []byte(list), int64(len(list)))
	want := "the image was not unpacked whole: lib/cut (4096 of 1048576 bytes), usr/a (missing), usr/b (missing) and 1 more, of 6 files"
	if err := Check(root); err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	put(Manifest, []byte(list), int64(len(list))+4096) // cut itself: it ends in zeros
	if err := Check(root); err == nil || !strings.Contains(err.Error(), "and 2 more") {
		t.Errorf("a cut manifest: %v", err)
	}
}

func TestComplaint(t *testing.T) {
	log := "<6>[    0.1] Trying to unpack rootfs image as initramfs...\n<3>[    0.2] Initramfs unpacking failed: ZSTD-compressed data is truncated\n<6>[    0.3] x\n"
	if got := Complaint(log); got != "Initramfs unpacking failed: ZSTD-compressed data is truncated" {
		t.Errorf("%q", got)
	}
	if got := Complaint("<6>[    0.1] all is well\n"); got != "" {
		t.Errorf("%q", got)
	}
}
