package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/imagestore"
)

// A whiteout is about lower layers only, wherever it stands among its own layer's entries.
func TestWhiteoutBesideItsName(t *testing.T) {
	for name, entries := range map[string][]entry{
		"whiteouts first": {fileEntry(".wh.dir", ""), fileEntry(".wh.file", ""), dirEntry("dir/"), fileEntry("dir/new", "n"), fileEntry("file", "new")},
		"whiteouts last":  {dirEntry("dir/"), fileEntry("dir/new", "n"), fileEntry("file", "new"), fileEntry(".wh.dir", ""), fileEntry(".wh.file", "")},
	} {
		root := t.TempDir()
		if _, err := unpack(root, bytes.NewReader(archive(t, entries...)), DefaultLimits(), false); err != nil {
			t.Fatal(err)
		}
		for file, want := range map[string]string{"dir/new": "n", "file": "new"} {
			if got, err := os.ReadFile(filepath.Join(root, file)); err != nil || string(got) != want {
				t.Errorf("%s: %s is %q, %v", name, file, got, err)
			}
		}
		value := make([]byte, 8)
		if n, err := unix.Getxattr(filepath.Join(root, "dir"), imagestore.OpaqueXattr, value); err != nil || string(value[:n]) != "y" {
			t.Errorf("%s: what lower layers have in the directory shows: %q, %v", name, value[:max(n, 0)], err)
		}
	}
}

// A file of holes takes a few bytes of an archive and all of the disk.
func TestSparseBomb(t *testing.T) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	const size = "10000000000"
	// PAX 1.0: the body begins with the map of what is no hole, here one empty piece at the end.
	body := "1\n" + size + "\n0\n"
	body += strings.Repeat("\x00", 512-len(body))
	h := &tar.Header{Name: "f", Typeflag: tar.TypeReg, Size: int64(len(body)), Mode: 0o644, Uid: os.Geteuid(), Gid: os.Getegid(), Format: tar.FormatPAX}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// archive/tar writes no sparse files: the header's records go before it by hand.
	records := ""
	for _, r := range [][2]string{{"GNU.sparse.major", "1"}, {"GNU.sparse.minor", "0"}, {"GNU.sparse.name", "f"}, {"GNU.sparse.realsize", size}} {
		records += paxRecord(r[0], r[1])
	}
	var all bytes.Buffer
	all.Write(paxHeader(t, records))
	all.Write(buf.Bytes())
	root := t.TempDir()
	n, err := unpack(root, &all, Limits{Bytes: 1 << 40, Entries: 10, Path: 100, Ratio: 1000}, false)
	if !errors.Is(err, ErrBadEntry) || !strings.Contains(err.Error(), "bomb") || n > ratioFrom+1<<20 {
		t.Errorf("%d bytes were written: %v", n, err)
	}
}

func paxRecord(key, value string) string {
	n := len(key) + len(value) + 3
	for digits := 1; ; digits++ {
		if s := len(itoa(n + digits)); s == digits {
			return itoa(n+digits) + " " + key + "=" + value + "\n"
		}
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

// paxHeader is an extended header with its records, as a block of its own.
func paxHeader(t *testing.T, records string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: "PaxHeaders/f", Typeflag: tar.TypeReg, Size: int64(len(records)), Mode: 0o644, Format: tar.FormatUSTAR}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, records); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	raw := buf.Bytes()
	raw[156] = tar.TypeXHeader
	sum := 0
	copy(raw[148:156], "        ")
	for _, b := range raw[:512] {
		sum += int(b)
	}
	octal := ""
	for range 6 {
		octal = string(rune('0'+sum%8)) + octal
		sum /= 8
	}
	copy(raw[148:156], octal+"\x00 ")
	return raw
}

func TestEntriesThatNoLayerHas(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "pax_global_header"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	global := entry{Header: tar.Header{Name: "pax_global_header", Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}}
	if _, err := unpack(root, bytes.NewReader(globalArchive(t, global.Header)), DefaultLimits(), false); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(root, "pax_global_header")); err != nil || string(got) != "kept" {
		t.Errorf("a header of no file removed one: %q, %v", got, err)
	}
	for _, ids := range [][2]int{{65536, 0}, {0, 70000}} {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		if err := w.WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Uid: ids[0], Gid: ids[1]}); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := unpack(t.TempDir(), &buf, DefaultLimits(), true); !errors.Is(err, ErrBadEntry) || !strings.Contains(err.Error(), "0 to 65535") {
			t.Errorf("owner %v: %v", ids, err)
		}
	}
	huge := Limits{Bytes: 1 << 20, Entries: 10, Path: 100}
	u := &unpacker{limits: huge, bytes: 1 << 19}
	if err := u.file(-1, "f", &tar.Header{Size: 1<<63 - 1}, strings.NewReader("")); !errors.Is(err, ErrBadEntry) {
		t.Errorf("a size that wraps: %v", err)
	}
}

func globalArchive(t *testing.T, h tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// An image without an index that says what machine it is for is believed.
func TestImageForAnotherMachine(t *testing.T) {
	host := newRegistry(t, nil)
	img := imageOf(t, layerOf(t, archive(t, fileEntry("f", "x"))))
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", "s390x"
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	push(t, host+"/other:1", img)
	_, err = Pull(context.Background(), Config{Store: t.TempDir(), Reference: host + "/other:1", Platform: "linux/amd64", Log: quiet()})
	if err == nil || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("got %v", err)
	}
}

// A layer that ends early, or has more than its manifest says, is not used.
func TestDamagedCompression(t *testing.T) {
	raw := archive(t, fileEntry("f", strings.Repeat("bytes ", 10000)))
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	whole := z.Bytes()
	digest, _, err := v1.SHA256(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{"cut": whole[:len(whole)/2], "longer": append(bytes.Clone(whole), 0), "empty": nil} {
		dir := t.TempDir()
		p := &puller{store: imagestore.Store{Dir: dir}, limits: DefaultLimits(), log: quiet()}
		if err := os.MkdirAll(p.store.Staging(), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(p.store.Layers(), 0o755); err != nil {
			t.Fatal(err)
		}
		src := layerSource{digest: digest.String(), open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }}
		if _, _, err := p.ensureLayer(src); err == nil {
			t.Errorf("%s: taken", name)
		}
		for _, d := range []string{p.store.Layers(), p.store.Staging()} {
			if left, err := os.ReadDir(d); err != nil || len(left) > 0 {
				t.Errorf("%s: %s has %v, %v", name, d, left, err)
			}
		}
	}
}

// Answers are bounded, blobs that come by a redirection are not, and who sends nothing is
// given up.
func TestAnswersOfARegistry(t *testing.T) {
	const long = maxDocument + 1<<20
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v2/x/blobs/b":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "/silent":
			w.WriteHeader(http.StatusOK)
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		default:
			http.NewResponseController(w).Flush() // no length
			_, _ = io.Copy(w, io.LimitReader(zeros{}, long))
		}
	}))
	defer s.Close()
	client := &http.Client{Transport: boundedTransport{next: &http.Transport{}, patience: time.Minute}}
	for path, want := range map[string]int64{"/token": maxDocument, "/v2/x/manifests/1": maxDocument, "/elsewhere": maxDocument, "/v2/x/blobs/b": long} {
		resp, err := client.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || n != want {
			t.Errorf("%s: %d bytes, want %d, %v", path, n, want, err)
		}
	}
	client.Transport = boundedTransport{next: &http.Transport{}, patience: 10 * time.Millisecond}
	resp, err := client.Get(s.URL + "/silent")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); !errors.Is(err, errSlow) {
		t.Errorf("a registry that says nothing: %v", err)
	}
}
