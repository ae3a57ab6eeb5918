package base

import (
	"archive/tar"
	"bytes"
	"testing"
)

func TestPlacesPackagesInTheMergedTree(t *testing.T) {
	for from, want := range map[string]string{
		"lib/x86_64-linux-gnu/libc.so.6":     "usr/lib/x86_64-linux-gnu/libc.so.6",
		"lib64/ld-linux-x86-64.so.2":         "usr/lib64/ld-linux-x86-64.so.2",
		"usr/lib/x86_64-linux-gnu/libstdc++": "usr/lib/x86_64-linux-gnu/libstdc++",
		"bin/busybox":                        "usr/bin/busybox",
		"etc/ld.so.conf.d/x.conf":            "etc/ld.so.conf.d/x.conf",
		"lib":                                "lib",
	} {
		if got := place(from); got != want {
			t.Errorf("place(%q) = %q, want %q", from, got, want)
		}
	}
}

func TestTakesOnlyWhatTasksNeed(t *testing.T) {
	for name, want := range map[string]bool{
		"usr/lib/x86_64-linux-gnu/libc.so.6":       true,
		"usr/lib/x86_64-linux-gnu/libmvec.so.1":    false,
		"usr/lib/locale/C.utf8/LC_CTYPE":           true,
		"usr/lib/locale/de_DE/LC_CTYPE":            false,
		"usr/lib/x86_64-linux-gnu/gconv/UTF-16.so": false,
		"usr/share/doc/libc6/copyright":            true,
		"usr/share/doc/libc6/changelog.gz":         false,
		"usr/share/man/man1/x.1.gz":                false,
		"etc/passwd":                               false,
		"var/lib/dpkg/status":                      false,
	} {
		if got := wanted(name); got != want {
			t.Errorf("wanted(%q) = %v", name, got)
		}
	}
}

func TestPackIsTheSameEveryTime(t *testing.T) {
	make := func() []byte {
		tree := skeleton()
		tree["usr/bin/x"] = node{kind: tar.TypeReg, mode: 0o755, body: []byte("program")}
		packed, err := tree.pack(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	first := make()
	for range 5 {
		if !bytes.Equal(first, make()) {
			t.Fatal("packed twice, the bytes differ")
		}
	}
}
