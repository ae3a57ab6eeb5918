package images

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/fetchplan"
)

// bzipped is a tar archive with the file f, which has the line "hello".
const bzipped = "QlpoOTFBWSZTWf/hyE8AAHD7hMmQAERAAGWAAADjRJ4AAACACCAAVDSJkYTT0AJ6CSp5IaZMgDQW+4m7oQRvASM6RKzywK3JIGDth7M0Elv0QX49RqZVqwebJrY+Bjb9IwIjSIgOC7kinChIf/DkJ4A="

func gzipped(t testing.TB, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func xzed(t testing.TB, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zipped struct {
	name, body string
	mode       fs.FileMode
}

func zipOf(t testing.TB, entries ...zipped) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		h.SetMode(e.mode)
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// inSandbox unpacks a file below TOP/sandbox and says what is there then.
func inSandbox(t testing.TB, raw []byte, kind fetchplan.Kind, limits Limits) (top string, names []string, err error) {
	t.Helper()
	top = t.TempDir()
	sandbox := filepath.Join(top, "sandbox")
	if err := os.Mkdir(sandbox, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(raw); err != nil {
		t.Fatal(err)
	}
	root, err := unix.Open(sandbox, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	u := &unpacker{root: root, sandbox: true, limits: limits, parent: -1, in: &counter{}}
	err = u.archive(f, kind, "rest")
	if u.bytes > limits.Bytes+1 {
		t.Fatalf("%d bytes were written, %d are allowed", u.bytes, limits.Bytes)
	}
	walked := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() { // the tests are not only root's
			if err := os.Chmod(path, 0o755); err != nil {
				return err
			}
		}
		name, err := filepath.Rel(sandbox, path)
		if err == nil && name != "." && name != ".." {
			names = append(names, name)
		}
		return err
	})
	if walked != nil {
		t.Fatal(walked)
	}
	return top, names, err
}

var roomy = Limits{Bytes: 1 << 20, Entries: 100, Path: 4096, Ratio: 1000}

// Each kind of archive gives its files.
func TestArchivesInSandboxes(t *testing.T) {
	files := archive(t, dirEntry("d/"), fileEntry("d/f", "hello"), linkEntry("d/l", "../d/f", tar.TypeSymlink), linkEntry("h", "d/f", tar.TypeLink), fileEntry(".wh.x", ""))
	unpacked := []string{".wh.x", "d", "d/f", "d/l", "h"}
	bz, err := base64.StdEncoding.DecodeString(bzipped)
	if err != nil {
		t.Fatal(err)
	}
	for kind, test := range map[fetchplan.Kind]struct {
		raw  []byte
		want []string
	}{
		fetchplan.Tar:      {files, unpacked},
		fetchplan.TarGzip:  {gzipped(t, files), unpacked},
		fetchplan.TarXZ:    {xzed(t, files), unpacked},
		fetchplan.TarBzip2: {bz, []string{"f"}},
		fetchplan.Zip:      {zipOf(t, zipped{"d/", "", fs.ModeDir | 0o755}, zipped{"d/f", "hello", 0o600}, zipped{"d/l", "f", fs.ModeSymlink | 0o777}), []string{"d", "d/f", "d/l"}},
		fetchplan.Gzip:     {gzipped(t, []byte("hello")), []string{"rest"}},
	} {
		top, names, err := inSandbox(t, test.raw, kind, roomy)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if diff := cmp.Diff(test.want, names); diff != "" {
			t.Errorf("%s: %s", kind, diff)
		}
		for _, name := range []string{"d/f", "d/l", "h", "rest", "f"} {
			if got, err := os.ReadFile(filepath.Join(top, "sandbox", name)); err == nil && strings.TrimSpace(string(got)) != "hello" {
				t.Errorf("%s: %s has %q", kind, name, got)
			}
		}
	}
}

// A directory that may not be written to is filled first, and nothing runs with another's
// rights.
func TestModesInSandboxes(t *testing.T) {
	dir := dirEntry("d/")
	dir.Mode = 0o555
	file := fileEntry("d/f", "x")
	file.Mode = 0o4755
	root := t.TempDir()
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	u := &unpacker{root: fd, sandbox: true, limits: roomy, parent: -1, in: &counter{r: bytes.NewReader(archive(t, dir, file))}}
	if err := u.tar(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(root+"/d", 0o755) })
	for name, want := range map[string]fs.FileMode{"d": fs.ModeDir | 0o555, "d/f": 0o755} {
		if info, err := os.Stat(filepath.Join(root, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// What leads out of the sandbox, is no file, or is more than there is room for, is refused.
func TestBadArchivesInSandboxes(t *testing.T) {
	small := Limits{Bytes: 10, Entries: 2, Path: 100, Ratio: 1000}
	device := entry{Header: tar.Header{Name: "dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}
	encrypted := zipOf(t, zipped{"f", "x", 0o644})
	encrypted[bytes.Index(encrypted, []byte("PK\x01\x02"))+8] |= 1
	for name, test := range map[string]struct {
		raw    []byte
		kind   fetchplan.Kind
		limits Limits
		want   string
	}{
		"name out":              {archive(t, fileEntry("a/../../x", "x")), fetchplan.Tar, roomy, "leaves the sandbox"},
		"hard link out":         {archive(t, linkEntry("x", "../../x", tar.TypeLink)), fetchplan.Tar, roomy, "leaves the sandbox"},
		"link out":              {archive(t, linkEntry("d/x", "../../x", tar.TypeSymlink)), fetchplan.Tar, roomy, "leads out"},
		"absolute link":         {archive(t, linkEntry("x", "/etc", tar.TypeSymlink)), fetchplan.Tar, roomy, "leads out"},
		"link by way of a link": {archive(t, dirEntry("a/b/"), linkEntry("a/b/s", "../..", tar.TypeSymlink), linkEntry("a/b/t", "s/../..", tar.TypeSymlink)), fetchplan.Tar, roomy, "leads out"},
		"through such a link":   {archive(t, dirEntry("a/b/"), linkEntry("a/b/s", "../..", tar.TypeSymlink), linkEntry("a/b/t", "s/../..", tar.TypeSymlink), fileEntry("a/b/t/x", "x")), fetchplan.Tar, roomy, "leads out"},
		"device":                {archive(t, device), fetchplan.Tar, roomy, "device"},
		"too much":              {archive(t, fileEntry("f", "12345678901")), fetchplan.Tar, small, "more bytes"},
		"too many":              {archive(t, dirEntry("a/"), dirEntry("b/"), dirEntry("c/")), fetchplan.Tar, small, "more than 2 entries"},
		"no end":                {gzipped(t, archive(t, fileEntry("f", "x")))[:20], fetchplan.TarGzip, roomy, "EOF"},
		"not gzip":              {[]byte("hello, this is text"), fetchplan.Gzip, roomy, "gzip"},
		"gzip too much":         {gzipped(t, bytes.Repeat([]byte{0}, 11)), fetchplan.Gzip, small, "more bytes"},
		"not xz":                {[]byte("hello, this is text"), fetchplan.TarXZ, roomy, "xz"},
		"short xz":              {[]byte("x"), fetchplan.TarXZ, roomy, "EOF"},
		"zip name out":          {zipOf(t, zipped{"../x", "x", 0o644}), fetchplan.Zip, roomy, "leaves the sandbox"},
		"zip link out":          {zipOf(t, zipped{"x", "../x", fs.ModeSymlink | 0o777}), fetchplan.Zip, roomy, "leads out"},
		"zip device":            {zipOf(t, zipped{"x", "", fs.ModeDevice | 0o666}), fetchplan.Zip, roomy, "no file"},
		"zip too much":          {zipOf(t, zipped{"x", "12345678901", 0o644}), fetchplan.Zip, small, "more bytes"},
		"zip encrypted":         {encrypted, fetchplan.Zip, roomy, "encrypted"},
		"not zip":               {[]byte("hello"), fetchplan.Zip, roomy, "zip"},
	} {
		top, _, err := inSandbox(t, test.raw, test.kind, test.limits)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if names, err := os.ReadDir(top); err != nil || len(names) != 1 {
			t.Errorf("%s: written beside the sandbox: %v, %v", name, names, err)
		}
	}
}

// The readers take no more memory than they are given.
func TestReadersAreBounded(t *testing.T) {
	greedy := xzed(t, []byte("x"))
	head := greedy[12 : 12+4*(int(greedy[12])+1)]
	at := bytes.Index(head, []byte{0x21, 1})
	if at < 0 {
		t.Fatal("the head of a block is not as expected")
	}
	head[at+2] = 40 // 4 GiB
	sum := crc32.ChecksumIEEE(head[:len(head)-4])
	for i := range 4 {
		head[len(head)-4+i] = byte(sum >> (8 * i))
	}
	if _, _, err := inSandbox(t, greedy, fetchplan.TarXZ, roomy); !errors.Is(err, ErrBadEntry) || !strings.Contains(err.Error(), "dictionary") {
		t.Errorf("a dictionary of 4 GiB: %v", err)
	}
	m := &metered{ReaderAt: bytes.NewReader(make([]byte, 100)), left: 50}
	if _, err := m.ReadAt(make([]byte, 40), 0); err != nil {
		t.Error(err)
	}
	if _, err := m.ReadAt(make([]byte, 40), 40); !errors.Is(err, ErrBadEntry) {
		t.Errorf("a directory of a zip file that does not end: %v", err)
	}
	bomb := gzipped(t, make([]byte, ratioFrom+64<<10))
	limits := Limits{Bytes: 1 << 30, Entries: 1, Path: 100, Ratio: 10}
	if _, _, err := inSandbox(t, bomb, fetchplan.Gzip, limits); !errors.Is(err, ErrBadEntry) || !strings.Contains(err.Error(), "bomb") {
		t.Errorf("a bomb: %v", err)
	}
}

// Whatever an archive has in it, nothing comes to be beside the sandbox, and what was
// unpacked without an error has no link that leads out of it.
func FuzzArchiveInSandbox(f *testing.F) {
	kinds := []fetchplan.Kind{fetchplan.Tar, fetchplan.TarGzip, fetchplan.TarBzip2, fetchplan.TarXZ, fetchplan.Zip, fetchplan.Gzip}
	plain := archive(f, dirEntry("a/"), fileEntry("a/b", "x"), linkEntry("l", "a", tar.TypeSymlink), fileEntry("l/c", "y"))
	evil := archive(f, linkEntry("l", "../..", tar.TypeSymlink), fileEntry("l/c", "y"))
	bz, err := base64.StdEncoding.DecodeString(bzipped)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []struct {
		raw  []byte
		kind uint8
	}{
		{plain, 0},
		{evil, 0},
		{gzipped(f, plain), 1},
		{bz, 2},
		{xzed(f, plain), 3},
		{zipOf(f, zipped{"a/", "", fs.ModeDir | 0o755}, zipped{"a/b", "x", 0o644}, zipped{"l", "a", fs.ModeSymlink | 0o777}), 4},
		{zipOf(f, zipped{"../x", "x", 0o644}), 4},
		{gzipped(f, []byte("x")), 5},
	} {
		f.Add(seed.raw, seed.kind)
	}
	f.Fuzz(func(t *testing.T, raw []byte, kind uint8) {
		top, names, failed := inSandbox(t, raw, kinds[int(kind)%len(kinds)], Limits{Bytes: 1 << 20, Entries: 100, Path: 255, Ratio: 1000})
		if beside, err := os.ReadDir(top); err != nil || len(beside) != 1 {
			t.Fatalf("something was written beside the sandbox: %v, %v", beside, err)
		}
		if failed != nil {
			return
		}
		root, err := unix.Open(filepath.Join(top, "sandbox"), unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(root)
		for _, name := range names {
			fd, err := unix.Openat2(root, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH})
			if err == nil {
				unix.Close(fd)
			}
			if errors.Is(err, unix.EXDEV) {
				t.Fatalf("%q leads out of the sandbox", name)
			}
		}
	})
}
