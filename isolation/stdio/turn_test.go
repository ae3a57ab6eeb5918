package stdio

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// pumped runs a stream with a limit; between is called after each part was written and
// has arrived.
func pumped(t *testing.T, sandbox string, limit int64, parts int, part []byte, between func(n int)) *Pump {
	t.Helper()
	dir := t.TempDir()
	if err := Make(dir, os.Geteuid(), os.Getegid()); err != nil {
		t.Fatal(err)
	}
	w, err := OpenWriter(dir, "stdout")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p, err := Open(dir, sandbox, "stdout", os.Geteuid(), os.Getegid(), limit)
	if err != nil {
		t.Fatal(err)
	}
	for n := range parts {
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := p.drain(); err != nil {
			t.Fatal(err)
		}
		between(n)
	}
	return p
}

// Of a stream without end the newest is kept: no byte is lost between the two files, and
// they never have more than twice the limit.
func TestFullFileIsPutAside(t *testing.T) {
	sandbox := t.TempDir()
	var written bytes.Buffer
	line := []byte("0123456789abcdef")
	p := pumped(t, sandbox, 1000, 1000, line, func(int) { written.Write(line) })
	p.close()
	now, err := os.ReadFile(filepath.Join(sandbox, "stdout"))
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(sandbox, "stdout"+Before))
	if err != nil {
		t.Fatal(err)
	}
	if len(now) > 1000 || len(before) != 1000 {
		t.Errorf("%d bytes in the file, %d in the one before", len(now), len(before))
	}
	if !bytes.HasSuffix(written.Bytes(), append(before, now...)) {
		t.Error("what is kept is not the newest")
	}
}

// A task cannot keep what was written for it beyond that, whatever it does with names:
// rename the files, give them more names, or put others in their place.
func TestTaskKeepsNoMoreThanTwoFiles(t *testing.T) {
	for name, trick := range map[string]func(sandbox string, n int) error{
		"rename": func(s string, n int) error { return os.Rename(s+"/stdout", s+fmt.Sprint("/kept-", n)) },
		"more names": func(s string, n int) error {
			_ = os.Link(s+"/stdout"+Before, s+fmt.Sprint("/older-", n))
			return os.Link(s+"/stdout", s+fmt.Sprint("/kept-", n))
		},
		"remove":                 func(s string, n int) error { return os.Remove(s + "/stdout") },
		"a directory in its way": func(s string, n int) error { _ = os.MkdirAll(s+"/stdout"+Before+"/x", 0o755); return nil },
		"a directory in its place": func(s string, n int) error {
			_ = os.Remove(s + "/stdout")
			_ = os.Mkdir(s+"/stdout", 0o755)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			sandbox, tricks := t.TempDir(), 0
			p := pumped(t, sandbox, 1000, 200, make([]byte, 100), func(n int) {
				if trick(sandbox, n) == nil {
					tricks++
				}
			})
			defer p.close()
			if tricks == 0 {
				t.Fatal("the trick never worked")
			}
			seen := map[string]bool{}
			var sum int64
			files, err := filepath.Glob(sandbox + "/*")
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				info, err := os.Lstat(f)
				if err != nil {
					t.Fatal(err)
				}
				key := fmt.Sprintf("%+v", info.Sys())
				if info.Mode().IsRegular() && !seen[key] {
					seen[key] = true
					sum += info.Size()
				}
			}
			if sum > 2000 {
				t.Errorf("%d bytes are kept in %d files", sum, len(files))
			}
			for _, f := range []*os.File{p.file, p.before} {
				if f == nil {
					continue
				}
				if info, err := f.Stat(); err != nil || info.Size() > 1000 {
					t.Errorf("%s has %d bytes, %v", f.Name(), info.Size(), err)
				}
			}
		})
	}
}
