package faces

import (
	"context"
	"encoding/base64"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/internal/nodedoc"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// shelf is a keeper that has one sandbox, /s, with one file.
type shelf struct{ file string }

func newShelf(t *testing.T) shelf {
	t.Helper()
	s := shelf{filepath.Join(t.TempDir(), "stdout")}
	if err := os.WriteFile(s.file, []byte("hello\xff"), 0o640); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s shelf) Open(_ context.Context, name string) (*os.File, *keeper.FileInfo, error) {
	switch name {
	case "/s/stdout":
		f, err := os.Open(s.file)
		return f, &keeper.FileInfo{Path: name, Size: 6, Mode: 0o100640}, err
	case "/etc/passwd":
		return nil, nil, fs.ErrPermission
	}
	return nil, nil, fs.ErrNotExist
}

func (s shelf) ReadDir(_ context.Context, name string) ([]*keeper.FileInfo, error) {
	if name != "/s" {
		return nil, fs.ErrNotExist
	}
	return []*keeper.FileInfo{{Path: "/s/stdout", Size: 6, Mode: 0o100640, Nlink: 1, User: "root", Group: "root", MtimeUnixNs: 5e9}}, nil
}

// A node's files are listed and read by calls, too, byte for byte.
func TestFilesByCalls(t *testing.T) {
	c := operated(t, nodedoc.AnonymousReader)
	agent := agentServer(t, open).URL
	for name, ask := range map[string]func(string) (int, string){
		"master": func(body string) (int, string) {
			status, _, text := c.post("m1", "/api/v1", body, "Content-Type", "application/json")
			return status, text
		},
		"agent": func(body string) (int, string) {
			status, _, text := call(t, agent+"/api/v1", body, "Content-Type", "application/json")
			return status, text
		},
	} {
		for body, want := range map[string]int{
			`{"type":"LIST_FILES","list_files":{"path":"/s"}}`:                                   200,
			`{"type":"LIST_FILES","list_files":{"path":"/nowhere"}}`:                             404,
			`{"type":"LIST_FILES","list_files":{"path":"/s/../etc"}}`:                            400,
			`{"type":"LIST_FILES"}`:                                                              400,
			`{"type":"READ_FILE","read_file":{"path":"/s/stdout","offset":0}}`:                   200,
			`{"type":"READ_FILE","read_file":{"path":"/s/none","offset":0}}`:                     404,
			`{"type":"READ_FILE","read_file":{"path":"/etc/passwd","offset":0}}`:                 403,
			`{"type":"READ_FILE","read_file":{"path":"/s/stdout","offset":9223372036854775808}}`: 400,
			`{"type":"READ_FILE"}`: 400,
		} {
			if status, text := ask(body); status != want {
				t.Errorf("%s: %s: %d %s", name, body, status, text)
			}
		}
		_, text := ask(`{"type":"LIST_FILES","list_files":{"path":"/s"}}`)
		check(t, name, text, map[string]any{"list_files.file_infos.0.path": "/s/stdout", "list_files.file_infos.0.size": 6.0, "list_files.file_infos.0.mtime.nanoseconds": 5e9, "list_files.file_infos.0.uid": "root"})
		_, text = ask(`{"type":"READ_FILE","read_file":{"path":"/s/stdout","offset":3,"length":5}}`)
		check(t, name, text, map[string]any{"read_file.size": 6.0, "read_file.data": base64.StdEncoding.EncodeToString([]byte("lo\xff"))})
		_, text = ask(`{"type":"READ_FILE","read_file":{"path":"/s/stdout","offset":60}}`)
		check(t, name, text, map[string]any{"read_file.size": 6.0, "read_file.data": ""})
	}
}

// Operators have a node log more for a time.
func TestLogging(t *testing.T) {
	c := operated(t, nodedoc.AnonymousReader)
	o := basic("o")
	set := func(want int, level, ns string) {
		t.Helper()
		body := `{"type":"SET_LOGGING_LEVEL","set_logging_level":{"level":` + level + `,"duration":{"nanoseconds":` + ns + `}}}`
		if status, _, text := c.post("m1", "/api/v1", body, "Content-Type", "application/json"); status != 403 {
			t.Errorf("anybody: %d %s", status, text)
		}
		if status, _, text := c.post("m1", "/api/v1", body, "Content-Type", "application/json", "Authorization", o); status != want {
			t.Errorf("%s: %d %s", body, status, text)
		}
	}
	is := func(want float64, level slog.Level) {
		t.Helper()
		check(t, "GET_LOGGING_LEVEL", c.read("m1", `{"type":"GET_LOGGING_LEVEL"}`), map[string]any{"get_logging_level.level": want})
		if got := c.level.Level(); got != level {
			t.Errorf("it logs from %s on, want %s", got, level)
		}
	}
	is(0, slog.LevelInfo)
	set(200, "2", "3600000000000")
	is(2, slog.LevelDebug)
	set(400, "1", "0")
	set(400, "1", "86400000000001")
	set(400, "2147483648", "5")
	is(2, slog.LevelDebug)
	set(200, "0", "1000000")
	is(0, slog.LevelInfo)
	toggle := func(want int, query string, header ...string) string {
		t.Helper()
		status, _, text := c.post("m1", "/logging/toggle"+query, "", header...)
		if status != want {
			t.Errorf("%s: %d %s", query, status, text)
		}
		return strings.TrimSpace(text)
	}
	toggle(403, "?level=1&duration=1hrs")
	toggle(400, "?level=-1&duration=1hrs", "Authorization", o)
	toggle(400, "?level=1&duration=long", "Authorization", o)
	toggle(200, "?level=1&duration=200ms", "Authorization", o)
	if got := toggle(200, ""); got != "1" {
		t.Errorf("it logs %q", got)
	}
	for deadline := time.Now().Add(30 * time.Second); c.level.Level() != slog.LevelInfo; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it goes on logging more")
		}
	}
}
