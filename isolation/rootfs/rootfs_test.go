package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/imagestore"
)

func write(t *testing.T, path, body string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestFlatten(t *testing.T) {
	low, high, to := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "root")
	write(t, low+"/etc/gone", "x")
	write(t, low+"/etc/kept", "low")
	write(t, low+"/opaque/hidden", "x")
	write(t, high+"/etc/new", "high")
	write(t, high+"/opaque/seen", "high")
	if err := os.Symlink("/etc", low+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(low+"/etc/kept", low+"/etc/same"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(high+"/etc/gone", unix.S_IFCHR, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(high+"/opaque", imagestore.OpaqueXattr, []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it may be done again
		if err := Flatten([]string{low, high}, to); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{"etc/gone": false, "etc/kept": true, "etc/same": true, "etc/new": true, "opaque/hidden": false, "opaque/seen": true, "link": true} {
		if _, err := os.Lstat(filepath.Join(to, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckProgram(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/usr/bin/script", "#!/bin/python -u\n")
	write(t, root+"/usr/bin/good", "#! /usr/bin/interp\n")
	write(t, root+"/usr/bin/interp", "binary")
	if err := os.Symlink("/usr/bin", root+"/bin"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"good": "", "/bin/good": "", "script": "interpreter /bin/python", "/bin/script": "interpreter /bin/python", "nothing": "no directory of PATH", "/bin/nothing": "not in the image", "./mine": "",
	} {
		err := CheckProgram(root, name, "/sbin:/bin", "/sandbox")
		if (want == "") != (err == nil) || (err != nil && (!errors.Is(err, ErrNoProgram) || !strings.Contains(err.Error(), want))) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
