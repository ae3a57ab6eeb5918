package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/imagestore"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

type entry struct {
	tar.Header
	body string
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.body))
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if os.Geteuid() != 0 {
			h.Uid, h.Gid = os.Geteuid(), os.Getegid()
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func dirEntry(name string) entry { return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir}} }

func fileEntry(name, body string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, body: body}
}

func linkEntry(name, to string, kind byte) entry {
	return entry{Header: tar.Header{Name: name, Linkname: to, Typeflag: kind}}
}

func layerOf(t testing.TB, raw []byte) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/hello"}, Cmd: []string{"world"}, Env: []string{"A=b"}, WorkingDir: "/srv", User: "7:8"})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// newRegistry serves a registry on loopback; alter may change its answers.
func newRegistry(t testing.TB, alter func(http.Handler) http.Handler) string {
	t.Helper()
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if alter != nil {
		h = alter(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func push(t testing.TB, reference string, img v1.Image) {
	t.Helper()
	ref, err := name.ParseReference(reference, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
}

func TestPullAndFind(t *testing.T) {
	host := newRegistry(t, nil)
	ref := host + "/team/hello:1"
	push(t, ref, imageOf(t,
		layerOf(t, archive(t, dirEntry("etc/"), fileEntry("etc/a", "one"), fileEntry("hello", "#!"), linkEntry("bin", "usr/bin", tar.TypeSymlink), dirEntry("usr/bin/"), fileEntry("bin/sh", "shell"))),
		layerOf(t, archive(t, fileEntry("etc/.wh.a", ""), dirEntry("usr/"), fileEntry("usr/.wh..wh..opq", ""), linkEntry("h2", "h1", tar.TypeSymlink), fileEntry("h1", "x"), linkEntry("h3", "h1", tar.TypeLink)))))
	dir := t.TempDir()
	img, err := Pull(context.Background(), Config{Store: dir, Reference: ref, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	store := imagestore.Store{Dir: dir}
	found, err := store.Find(ref)
	if err != nil {
		t.Fatal(err)
	}
	if found.Digest != img.Digest || len(found.Layers) != 2 || found.Config.User != "7:8" || found.Config.WorkingDir != "/srv" {
		t.Fatalf("found %+v", found)
	}
	if raw, err := os.ReadFile(filepath.Join(store.Layer(found.Layers[0]), "usr/bin/sh")); err != nil || string(raw) != "shell" {
		t.Errorf("file through a symbolic link of the layer: %q, %v", raw, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(store.Layer(found.Layers[1]), "etc/a"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("whiteout: mode %o, device %d, %v", st.Mode, st.Rdev, err)
	}
	value := make([]byte, 8)
	if n, err := unix.Getxattr(filepath.Join(store.Layer(found.Layers[1]), "usr"), imagestore.OpaqueXattr, value); err != nil || string(value[:n]) != "y" {
		t.Errorf("opaque mark: %q, %v", value[:max(n, 0)], err)
	}
	left, err := os.ReadDir(store.Staging())
	if err != nil || len(left) != 0 {
		t.Errorf("left in staging: %v, %v", left, err)
	}
}

func TestIndexAndZstd(t *testing.T) {
	host := newRegistry(t, nil)
	var z bytes.Buffer
	raw := archive(t, fileEntry("f", "zstd"))
	w, err := zstd.NewWriter(&z)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(raw)
	w.Close()
	plain := layerOf(t, raw)
	diffID, err := plain.DiffID()
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.Append(empty.Image, mutate.Addendum{Layer: zstdLayer{static.NewLayer(z.Bytes(), types.OCILayerZStd), diffID}})
	if err != nil {
		t.Fatal(err)
	}
	other := imageOf(t, layerOf(t, archive(t, fileEntry("f", "wrong platform"))))
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	reference := host + "/multi:latest"
	ref, err := name.ParseReference(reference, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	got, err := Pull(context.Background(), Config{Store: dir, Reference: reference, Platform: "linux/amd64", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(filepath.Join(imagestore.Store{Dir: dir}.Layer(got.Layers[0]), "f"))
	if err != nil || string(body) != "zstd" {
		t.Errorf("got %q, %v", body, err)
	}
	if _, err := Pull(context.Background(), Config{Store: dir, Reference: reference, Platform: "linux/riscv64", Log: quiet()}); err == nil || !strings.Contains(err.Error(), "linux/riscv64") {
		t.Errorf("missing platform: %v", err)
	}
}

type zstdLayer struct {
	v1.Layer
	diffID v1.Hash
}

func (l zstdLayer) DiffID() (v1.Hash, error) { return l.diffID, nil }

func TestMirrorsAndOffline(t *testing.T) {
	host := newRegistry(t, nil)
	push(t, host+"/library/tool:2", imageOf(t, layerOf(t, archive(t, fileEntry("f", "x")))))
	c := Config{Store: t.TempDir(), Reference: "docker.io/library/tool:2", Offline: true, Log: quiet(), Mirrors: map[string][]string{"docker.io": {"http://" + host}}}
	if _, err := Pull(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	c.Reference = "example.org/tool:2"
	if _, err := Pull(context.Background(), c); err == nil || !strings.Contains(err.Error(), "registries.offline") {
		t.Errorf("offline without a mirror: %v", err)
	}
	c.Reference = "127.0.0.1:1/tool:2"
	if _, err := Pull(context.Background(), c); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("no registry there: %v", err)
	}
	c.Reference = host + "/library/none:1"
	if _, err := Pull(context.Background(), c); err == nil || !strings.Contains(err.Error(), "check name and tag") {
		t.Errorf("not there: %v", err)
	}
}

func TestWrongDigest(t *testing.T) {
	raw := archive(t, fileEntry("f", strings.Repeat("bytes ", 1000)))
	layer := layerOf(t, raw)
	digest, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	host := newRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+digest.String()) {
				w.Write(archive(t, fileEntry("f", strings.Repeat("evil! ", 1000))))
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	push(t, host+"/bad:1", imageOf(t, layer))
	dir := t.TempDir()
	_, err = Pull(context.Background(), Config{Store: dir, Reference: host + "/bad:1", Log: quiet()})
	if !errors.Is(err, ErrDigest) || !strings.Contains(err.Error(), "push the image again") {
		t.Fatalf("got %v", err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "layers"))
	if err != nil || len(left) != 0 {
		t.Errorf("layers in the store: %v, %v", left, err)
	}
}

func TestNoEntryLeavesTheRoot(t *testing.T) {
	for name, entries := range map[string][]entry{
		"dots":                 {fileEntry("../out", "x")},
		"dots inside":          {dirEntry("a/"), fileEntry("a/../../out", "x")},
		"absolute":             {fileEntry("/out", "x")},
		"absolute link":        {linkEntry("l", "/", tar.TypeSymlink), fileEntry("l/out", "x")},
		"relative link":        {linkEntry("l", "../..", tar.TypeSymlink), fileEntry("l/out", "x")},
		"link over directory":  {dirEntry("d/"), linkEntry("d", "../..", tar.TypeSymlink), fileEntry("d/out", "x")},
		"file through link":    {linkEntry("out", "../../out", tar.TypeSymlink), fileEntry("out", "x")},
		"hard link to outside": {linkEntry("l", "../out", tar.TypeLink)},
		"hard link through":    {linkEntry("s", "../..", tar.TypeSymlink), linkEntry("l", "s/secret", tar.TypeLink)},
		"whiteout of dots":     {fileEntry(".wh...", "")},
		"whiteout of nothing":  {fileEntry("a/.wh.", "")},
		"unknown type":         {{Header: tar.Header{Name: "x", Typeflag: '9'}}},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			root := filepath.Join(top, "in", "root")
			if err := os.MkdirAll(root, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(top, "secret"), []byte("s"), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := unpack(root, bytes.NewReader(archive(t, entries...)), DefaultLimits(), false)
			// Names that lead out are refused; through a link, the image's own root is the root.
			contained := strings.Contains(name, "absolute") || name == "relative link" || name == "link over directory" || name == "file through link"
			if contained != (err == nil) || (err != nil && name != "hard link through" && !errors.Is(err, ErrBadEntry)) {
				t.Error(err)
			}
			for _, outside := range []string{filepath.Join(top, "out"), filepath.Join(top, "in", "out"), "/out"} {
				if _, err := os.Lstat(outside); err == nil {
					t.Errorf("%s exists", outside)
				}
			}
			if body, err := os.ReadFile(filepath.Join(top, "secret")); err != nil || string(body) != "s" {
				t.Errorf("secret: %q, %v", body, err)
			}
			var st unix.Stat_t
			if unix.Stat(filepath.Join(top, "secret"), &st) == nil && st.Nlink != 1 {
				t.Error("a link to a file outside was made")
			}
		})
	}
}

func TestBounds(t *testing.T) {
	many := []entry{fileEntry("a", "1"), fileEntry("b", "2"), fileEntry("c", "3")}
	for name, limits := range map[string]Limits{
		"entries": {Bytes: 100, Entries: 2, Path: 100}, "bytes": {Bytes: 2, Entries: 10, Path: 100}, "path": {Bytes: 100, Entries: 10, Path: 0},
	} {
		if _, err := unpack(t.TempDir(), bytes.NewReader(archive(t, many...)), limits, false); !errors.Is(err, ErrBadEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var z bytes.Buffer
	w, err := zstd.NewWriter(&z)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(w, io.LimitReader(zeros{}, 80<<20))
	w.Close()
	_, err = unpackVerified(t.TempDir(), bytes.NewReader(z.Bytes()), "", "", Limits{Bytes: 1 << 40, Entries: 10, Path: 100, Ratio: 100}, false)
	if !errors.Is(err, ErrBadEntry) {
		t.Errorf("bomb: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestBase(t *testing.T) {
	file := filepath.Join(t.TempDir(), "base.tar")
	if err := os.WriteFile(file, archive(t, dirEntry("bin/"), fileEntry("bin/sh", "x")), 0o644); err != nil {
		t.Fatal(err)
	}
	certificates := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(certificates, []byte("trusted"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var out bytes.Buffer
	if code := Main([]string{"--store", dir, "--image", "base", "--base", file, "--certificates", certificates}, strings.NewReader(""), &out); code != 0 {
		t.Fatalf("exit %d: %s", code, out.String())
	}
	store := imagestore.Store{Dir: dir}
	img, err := store.Find("base")
	if err != nil || len(img.Layers) != 2 {
		t.Fatalf("%+v, %v", img, err)
	}
	// The node's certificates lie above: the archive holds none.
	if raw, err := os.ReadFile(filepath.Join(store.Layer(img.Layers[1]), certificatesInTask)); err != nil || string(raw) != "trusted" {
		t.Errorf("certificates %q, %v", raw, err)
	}
	bare := t.TempDir()
	if code := Main([]string{"--store", bare, "--image", "base", "--base", file, "--certificates", filepath.Join(bare, "none")}, strings.NewReader(""), &out); code != 0 {
		t.Fatalf("exit %d: %s", code, out.String())
	}
	if img, err := (imagestore.Store{Dir: bare}).Find("base"); err != nil || len(img.Layers) != 1 {
		t.Errorf("%+v, %v", img, err)
	}
	if code := Main([]string{"--store", dir, "--image", "NOT valid"}, strings.NewReader(""), &out); code != 1 || !strings.Contains(out.String(), "not a valid image name") {
		t.Errorf("exit %d: %s", code, out.String())
	}
}

func TestAuth(t *testing.T) {
	a, err := parseAuth([]byte(`{"auths":{"https://docker.io/v1/":{"auth":"dTpw"},"r:5000":{"username":"x","password":"y"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.of("index.docker.io").Authorization()
	if err != nil || c.Username != "u" || c.Password != "p" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := parseAuth([]byte(`{"auths":{"x":{"auth":"%"}}}`)); err == nil {
		t.Error("bad base64 accepted")
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, dirEntry("a/"), fileEntry("a/b", "x"), linkEntry("l", "/a", tar.TypeSymlink), fileEntry("l/c", "y"), fileEntry("a/.wh.b", "")))
	f.Add(archive(f, linkEntry("l", "../..", tar.TypeSymlink), fileEntry("l/c", "y")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		top := t.TempDir()
		root := filepath.Join(top, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := unpack(root, bytes.NewReader(raw), Limits{Bytes: 1 << 20, Entries: 100, Path: 255}, false)
		_ = err
		names, err := os.ReadDir(top)
		if err != nil || len(names) != 1 {
			t.Fatalf("something was written beside the root: %v, %v", names, err)
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"config":{"Env":["A=b"]},"rootfs":{"diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, ids, err := parseConfig(raw)
		if err != nil {
			return
		}
		if _, err := json.Marshal(c); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if _, err := imagestore.LayerName(id); err != nil {
				t.Fatal(err)
			}
		}
	})
}
