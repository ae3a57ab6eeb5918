package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

type entry struct{ name, body string }

func tarball(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.body)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func packXZ(t testing.TB, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(raw)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func packZstd(t testing.TB, raw []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(raw, nil)
}

func ar(members ...entry) []byte {
	b := bytes.NewBufferString(magic)
	for _, m := range members {
		fmt.Fprintf(b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.name, 0, 0, 0, 0o644, len(m.body))
		b.WriteString(m.body)
		if len(m.body)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func write(t *testing.T, raw []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestReadsControlAndData(t *testing.T) {
	control := tarball(t, entry{"./control", "Package: hello\nSource: greet (1.0)\nVersion: 1:2.3-4\nArchitecture: amd64\nDescription: x\n Version: no\n"})
	data := tarball(t, entry{"./usr/bin/hello", "hi"}, entry{"./etc/hello", "conf"})
	file := write(t, ar(entry{"debian-binary", "2.0\n"}, entry{"control.tar.xz", string(packXZ(t, control))}, entry{"data.tar.zst", string(packZstd(t, data))}))

	got, err := ReadControl(file)
	if err != nil {
		t.Fatal(err)
	}
	want := Control{Package: "hello", Source: "greet", Version: "1:2.3-4", Architecture: "amd64"}
	if got != want {
		t.Errorf("control %+v, want %+v", got, want)
	}
	seen := map[string]string{}
	err = Walk(file, func(h *tar.Header, body io.Reader) error {
		b, err := io.ReadAll(body)
		seen[h.Name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"usr/bin/hello": "hi", "etc/hello": "conf"}, seen); diff != "" {
		t.Error(diff)
	}
}

func TestRefusesWhatIsNotSound(t *testing.T) {
	escape := packXZ(t, tarball(t, entry{"../../etc/passwd", "x"}))
	for name, raw := range map[string][]byte{
		"empty":        nil,
		"no ar":        []byte("PK\x03\x04 something else entirely"),
		"no data":      ar(entry{"debian-binary", "2.0\n"}),
		"cut short":    ar(entry{"data.tar.xz", string(packXZ(t, tarball(t, entry{"a", "b"})))})[:90],
		"leaves root":  ar(entry{"data.tar.xz", string(escape)}),
		"packing":      ar(entry{"data.tar.rar", "x"}),
		"bad size":     []byte(magic + "data.tar.xz     0           0     0     100644  -5        `\n"),
		"header ended": []byte(magic + "data.tar.xz"),
	} {
		t.Run(name, func(t *testing.T) {
			err := Walk(write(t, raw), func(*tar.Header, io.Reader) error { return nil })
			if err == nil {
				t.Fatal("accepted")
			}
			if name == "leaves root" && !errors.Is(err, ErrFormat) {
				t.Errorf("error %v does not say that the package is unsound", err)
			}
		})
	}
}

func FuzzFindMember(f *testing.F) {
	f.Add(ar(entry{"debian-binary", "2.0\n"}, entry{"data.tar.xz", string(packXZ(f, tarball(f, entry{"a/b", "c"})))}))
	f.Add(ar(entry{"data.tar", string(tarball(f, entry{"./x", "y"}))}))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, raw []byte) {
		findMember(bytes.NewReader(raw), "data.tar", func(r io.Reader) error {
			return eachEntry(r, func(h *tar.Header, body io.Reader) error {
				if h.Name == ".." || filepath.IsAbs(h.Name) {
					t.Fatalf("name %q", h.Name)
				}
				_, err := io.Copy(io.Discard, io.LimitReader(body, 1<<16))
				return err
			})
		})
	})
}
