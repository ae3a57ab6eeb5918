package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// folder is a keeper that serves a real directory as /sandbox.
type folder struct{ root *os.Root }

func (f folder) below(name string) (string, error) {
	rest, ok := strings.CutPrefix(name, "/sandbox")
	if !ok || rest != "" && rest[0] != '/' {
		return "", fmt.Errorf("%s is no sandbox: %w", name, fs.ErrPermission)
	}
	return path.Join(".", rest), nil
}

func (f folder) Open(_ context.Context, name string) (*os.File, *keeper.FileInfo, error) {
	rel, err := f.below(name)
	if err != nil {
		return nil, nil, err
	}
	file, err := f.root.Open(rel)
	if err != nil {
		return nil, nil, err
	}
	st, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	return file, info(name, st), nil
}

func (f folder) ReadDir(_ context.Context, name string) ([]*keeper.FileInfo, error) {
	rel, err := f.below(name)
	if err != nil {
		return nil, err
	}
	list, err := fs.ReadDir(f.root.FS(), rel)
	if err != nil {
		return nil, err
	}
	var out []*keeper.FileInfo
	for _, e := range list {
		st, err := e.Info()
		if err != nil {
			return nil, err
		}
		out = append(out, info(path.Join(name, e.Name()), st))
	}
	return out, nil
}

func info(name string, st os.FileInfo) *keeper.FileInfo {
	raw, _ := st.Sys().(*syscall.Stat_t)
	return &keeper.FileInfo{Path: name, Size: st.Size(), Mode: raw.Mode, MtimeUnixNs: st.ModTime().UnixNano(), Nlink: uint32(raw.Nlink), User: "u", Group: "g"}
}

func handlers(t testing.TB) map[string]http.Handler {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"stdout": "hello\nworld\n", "umlaut": "aä", "long": strings.Repeat("x", pageBytes+10)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	a := auth.New(time.Now)
	if err := a.Set(auth.Policy{Plaintext: true, Anonymous: nodedoc.AnonymousReader}); err != nil {
		t.Fatal(err)
	}
	hs := Handlers(Config{
		Sandbox: folder{root}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Latest: func(_ context.Context, framework, executor string) (string, bool, error) {
			if framework == "broken" {
				return "", false, errors.New("no answer")
			}
			return "/sandbox", framework == "f" && executor == "e", nil
		},
	})
	for path, h := range hs {
		hs[path] = a.Guard(auth.RealmMasterReadonly, nodedoc.RoleReader, h)
	}
	return hs
}

func TestEndpoints(t *testing.T) {
	hs := handlers(t)
	for _, c := range []struct {
		name, endpoint string
		query          url.Values
		status         int
		body           string
	}{
		{"read", "read", url.Values{"path": {"/sandbox/stdout"}, "offset": {"6"}, "length": {"3"}}, 200, `{"offset":6,"data":"wor"}`},
		{"size", "read", url.Values{"path": {"/sandbox/stdout"}, "offset": {"-1"}}, 200, `{"offset":12,"data":""}`},
		{"size by default", "read", url.Values{"path": {"/sandbox/stdout"}}, 200, `{"offset":12,"data":""}`},
		{"beyond the end", "read", url.Values{"path": {"/sandbox/stdout"}, "offset": {"99"}, "length": {"9"}}, 200, `{"offset":99,"data":""}`},
		{"half a letter waits", "read", url.Values{"path": {"/sandbox/umlaut"}, "offset": {"0"}, "length": {"2"}}, 200, `{"offset":0,"data":"a"}`},
		{"latest", "read", url.Values{"path": {"/frameworks/f/executors/e/runs/latest/stdout"}, "offset": {"0"}, "length": {"5"}}, 200, `{"offset":0,"data":"hello"}`},
		{"latest, task", "read", url.Values{"path": {"/frameworks/f/executors/e/runs/latest/tasks/e/stdout"}, "offset": {"0"}, "length": {"5"}}, 200, `{"offset":0,"data":"hello"}`},
		{"latest, none", "read", url.Values{"path": {"/frameworks/f/executors/x/runs/latest/stdout"}, "offset": {"0"}}, 404, ""},
		{"latest, broken", "read", url.Values{"path": {"/frameworks/broken/executors/x/runs/latest"}, "offset": {"0"}}, 500, ""},
		{"missing", "read", url.Values{"path": {"/sandbox/none"}, "offset": {"0"}}, 404, ""},
		{"forbidden", "read", url.Values{"path": {"/etc/passwd"}, "offset": {"0"}}, 403, ""},
		{"dots", "read", url.Values{"path": {"/sandbox/../etc/passwd"}, "offset": {"0"}}, 400, ""},
		{"no path", "read", url.Values{"offset": {"0"}}, 400, "Expecting 'path=value' in query"},
		{"zero byte", "read", url.Values{"path": {"/sandbox/a\x00b"}}, 400, ""},
		{"offset", "read", url.Values{"path": {"/sandbox/stdout"}, "offset": {"x"}}, 400, "Failed to parse"},
		{"directory", "read", url.Values{"path": {"/sandbox/sub"}, "offset": {"0"}}, 400, "not a file"},
		{"browse", "browse", url.Values{"path": {"/sandbox"}}, 200, `"path":"/sandbox/stdout","nlink":1,"size":12,`},
		{"browse latest", "browse", url.Values{"path": {"/frameworks/f/executors/e/runs/latest"}}, 200, `"path":"/frameworks/f/executors/e/runs/latest/stdout"`},
		{"browse modes", "browse", url.Values{"path": {"/sandbox"}}, 200, `"mode":"drwxr-xr-x","uid":"u","gid":"g"`},
		{"download", "download", url.Values{"path": {"/sandbox/stdout"}}, 200, "hello\nworld\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			hs["/files/"+c.endpoint].ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/files/"+c.endpoint+"?"+c.query.Encode(), nil))
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if c.endpoint == "download" && w.Header().Get("Content-Disposition") != "attachment; filename=stdout" {
				t.Errorf("header %v", w.Header())
			}
		})
	}
	w := httptest.NewRecorder()
	hs["/files/read"].ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/files/read?path=/sandbox/long&offset=0", nil))
	if got := strings.Count(w.Body.String(), "x"); got != pageBytes {
		t.Errorf("a page has %d bytes", got)
	}
}

func TestModeText(t *testing.T) {
	for mode, want := range map[uint32]string{
		0o100644: "-rw-r--r--", 0o040755: "drwxr-xr-x", 0o104755: "-rwsr-xr-x", 0o041777: "drwxrwxrwt", 0o102644: "-rw-r-Sr--", 0o120777: "lrwxrwxrwx",
	} {
		if got := modeText(mode); got != want {
			t.Errorf("%o: %s, want %s", mode, got, want)
		}
	}
}

// No path leads anywhere but below what was asked for.
func FuzzResolve(f *testing.F) {
	for _, s := range []string{"/sandbox/stdout", "../x", "/frameworks/f/executors/e/runs/latest/../../x", "a//b/./c", "/..", "\x00", "/frameworks/f/executors/e/runs/latest/tasks/e/x"} {
		f.Add(s)
	}
	h := &handler{Config{Latest: func(context.Context, string, string) (string, bool, error) { return "/sandbox", true, nil }}}
	f.Fuzz(func(t *testing.T, p string) {
		got, err := h.find(t.Context(), p)
		if err != nil {
			return
		}
		if got[0] != '/' || path.Clean(got) != got || strings.Contains(got+"/", "/../") || strings.ContainsRune(got, 0) {
			t.Fatalf("%q resolves to %q", p, got)
		}
	})
}
