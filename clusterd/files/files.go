// Package files lets callers look at a node's sandboxes over HTTP: /files/browse, read and
// download, with the paths that Mesos' tools build: the sandbox's absolute path below the
// agent's work directory, or /frameworks/F/executors/E/runs/latest and what is below it.
//
// Invariants: this process resolves no path itself; it cleans the text, maps a virtual
// beginning on a sandbox and asks the keeper, which opens below the sandbox and nowhere
// else. One answer holds one page of a file, a download is copied, never held.
//
// Who may look at all is decided before (package faces), what exists by the keeper. The ACLs
// are asked for each path, by whom the executor runs as whose sandbox it lies in.
package files

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/internal/acl"
	"github.com/mesolith/mesolith/internal/wire/keeper"
)

const (
	// pageBytes is the most that one read gives: sixteen pages of memory, as in Mesos.
	pageBytes = 16 * 4096
	// downloadTime is how long a download may take.
	downloadTime = 15 * time.Minute
	maxPath      = 4096
)

// Sandbox opens what lies in sandboxes; the agent's keeper is one. Errors wrap fs's.
type Sandbox interface {
	Open(ctx context.Context, path string) (*os.File, *keeper.FileInfo, error)
	ReadDir(ctx context.Context, path string) ([]*keeper.FileInfo, error)
}

// Config is what the endpoints need.
type Config struct {
	Sandbox Sandbox
	// Latest finds the sandbox of the newest run of an executor; false: there is none.
	Latest func(ctx context.Context, framework, executor string) (dir string, ok bool, err error)
	// Owner is whom the executor runs as whose sandbox a path on the node lies in; false:
	// nobody remembers. Nil: it is never known.
	Owner func(ctx context.Context, path string) (user string, ok bool, err error)
	Log   *slog.Logger
}

type handler struct{ Config }

// Handlers are the endpoints by path.
func Handlers(cfg Config) map[string]http.Handler {
	h := &handler{cfg}
	return map[string]http.Handler{
		"/files/browse":   http.HandlerFunc(h.browse),
		"/files/read":     http.HandlerFunc(h.read),
		"/files/download": http.HandlerFunc(h.download),
	}
}

// logs are the virtual paths of the programs' own logs.
var logs = []string{"/master/log", "/slave/log"}

// resolve turns a path that was asked for into one on the node, cleaned and absolute, if
// the caller may see what is there.
func (c Config) resolve(ctx context.Context, asked string) (string, error) {
	name, err := c.find(ctx, asked)
	if err != nil {
		return "", err
	}
	j := auth.JudgeOf(ctx)
	action, o := acl.AccessSandbox, acl.Unknown()
	switch {
	case slices.ContainsFunc(logs, func(log string) bool { return name == log || strings.HasPrefix(name, log+"/") }):
		action, o = acl.AccessMesosLog, acl.Object{}
	case j.Restricts(action) && c.Owner != nil:
		user, known, err := c.Owner(ctx, name)
		if err != nil {
			return "", err
		}
		if known {
			o = acl.Named(user)
		}
	}
	if !j.May(action, o) {
		why := j.Sentence(action, "path '"+asked+"'")
		auth.Refused(ctx, action.String(), asked, why)
		return "", fmt.Errorf("%s: %w", why, fs.ErrPermission)
	}
	return name, nil
}

// find is resolve for who may see everything.
func (c Config) find(ctx context.Context, asked string) (string, error) {
	switch {
	case asked == "":
		//lint:ignore ST1005 Mesos' own words, which clients show
		return "", fmt.Errorf("Expecting 'path=value' in query: %w", fs.ErrInvalid)
	case len(asked) > maxPath || strings.ContainsRune(asked, 0):
		return "", fmt.Errorf("path is too long or holds a zero byte: %w", fs.ErrInvalid)
	}
	for part := range strings.SplitSeq(asked, "/") {
		if part == ".." {
			return "", fmt.Errorf("path must not contain '..': %w", fs.ErrInvalid)
		}
	}
	clean := path.Clean("/" + asked)
	parts := strings.Split(clean, "/")
	if len(parts) < 7 || parts[1] != "frameworks" || parts[3] != "executors" || parts[5] != "runs" || parts[6] != "latest" {
		return clean, nil
	}
	dir, ok, err := c.Latest(ctx, parts[2], parts[4])
	if err != nil {
		return "", err
	}
	if !ok || dir == "" {
		return "", fmt.Errorf("%s: %w", asked, fs.ErrNotExist)
	}
	rest := parts[7:]
	// A command task's own directory is its executor's.
	if len(rest) >= 2 && rest[0] == "tasks" && rest[1] == parts[4] {
		rest = rest[2:]
	}
	return path.Join(append([]string{dir}, rest...)...), nil
}

func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case r.Context().Err() != nil:
	case errors.Is(err, fs.ErrNotExist):
		httpio.Error(w, http.StatusNotFound, err.Error())
	case errors.Is(err, fs.ErrPermission):
		httpio.Error(w, http.StatusForbidden, err.Error())
	case errors.Is(err, fs.ErrInvalid):
		httpio.Error(w, http.StatusBadRequest, err.Error())
	default:
		h.Log.Warn("file not served", "path", r.URL.Query().Get("path"), "error", err)
		httpio.Error(w, http.StatusInternalServerError, err.Error())
	}
}

type entry struct {
	Path  string  `json:"path"`
	Nlink uint32  `json:"nlink"`
	Size  int64   `json:"size"`
	MTime float64 `json:"mtime"`
	Mode  string  `json:"mode"`
	UID   string  `json:"uid"`
	GID   string  `json:"gid"`
}

// List gives what is in a directory, with paths as the directory was asked for, so that the
// caller can ask for what is below. Errors wrap fs's.
func (c Config) List(ctx context.Context, asked string) ([]*keeper.FileInfo, error) {
	dir, err := c.resolve(ctx, asked)
	if err != nil {
		return nil, err
	}
	list, err := c.Sandbox.ReadDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	for _, f := range list {
		f.Path = path.Join(path.Clean("/"+asked), path.Base(f.GetPath()))
	}
	return list, nil
}

// Read gives at most one page of a file from an offset on, and the size of all of it; a
// length below 0 is as much as a page holds. Errors wrap fs's.
func (c Config) Read(ctx context.Context, asked string, offset, length int64) (page []byte, size int64, err error) {
	f, info, err := c.open(ctx, asked)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	if length < 0 || length > pageBytes {
		length = pageBytes
	}
	buf := make([]byte, length)
	n, err := f.ReadAt(buf, offset)
	if err != nil && err != io.EOF {
		return nil, 0, fmt.Errorf("read %s: %w", info.GetPath(), err)
	}
	return buf[:n], info.GetSize(), nil
}

// open gives an open regular file.
func (c Config) open(ctx context.Context, asked string) (*os.File, *keeper.FileInfo, error) {
	name, err := c.resolve(ctx, asked)
	if err != nil {
		return nil, nil, err
	}
	f, info, err := c.Sandbox.Open(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if info.GetMode()&formatMask != formatRegular {
		f.Close()
		return nil, nil, fmt.Errorf("%s is not a file: %w", asked, fs.ErrInvalid)
	}
	return f, info, nil
}

func (h *handler) browse(w http.ResponseWriter, r *http.Request) {
	asked := r.URL.Query().Get("path")
	list, err := h.List(r.Context(), asked)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	out := make([]entry, 0, len(list))
	for _, f := range list {
		out = append(out, entry{
			Path: f.GetPath(), Nlink: f.GetNlink(), Size: f.GetSize(),
			MTime: float64(f.GetMtimeUnixNs() / 1e9), Mode: modeText(f.GetMode()), UID: f.GetUser(), GID: f.GetGroup(),
		})
	}
	body, err := json.Marshal(out)
	if err == nil {
		err = h.json(w, r, body)
	}
	if err != nil {
		h.Log.Info("listing not sent", "path", asked, "error", err)
	}
}

func (h *handler) json(w http.ResponseWriter, r *http.Request, body []byte) error {
	return httpio.Send(w, r, httpio.JSON, func(out io.Writer) error {
		_, err := out.Write(body)
		return err
	})
}

func (h *handler) read(w http.ResponseWriter, r *http.Request) {
	offset, err1 := number(r.URL.Query().Get("offset"))
	length, err2 := number(r.URL.Query().Get("length"))
	if err := errors.Join(err1, err2); err != nil {
		h.fail(w, r, err)
		return
	}
	end := offset == -1
	if end {
		offset, length = 0, 0
	}
	page, size, err := h.Read(r.Context(), r.URL.Query().Get("path"), offset, length)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if end {
		offset = size
	}
	body := append([]byte(`{"offset":`), strconv.FormatInt(offset, 10)...)
	body = append(body, `,"data":`...)
	body = mesosjson.AppendString(body, string(wholeRunes(page)))
	body = append(body, '}')
	if err := h.json(w, r, body); err != nil {
		h.Log.Info("page not sent", "path", r.URL.Query().Get("path"), "error", err)
	}
}

// number reads an offset or length: -1 or absent stands for the end, or everything.
func number(text string) (int64, error) {
	if text == "" {
		return -1, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < -1 {
		//lint:ignore ST1005 as above
		return 0, fmt.Errorf("Failed to parse offset or length: %q: %w", text, fs.ErrInvalid)
	}
	return n, nil
}

// wholeRunes leaves off a character that the page cuts in two, so that it comes whole
// with the next page.
func wholeRunes(b []byte) []byte {
	for back := 1; back <= min(len(b)-1, utf8.UTFMax-1); back++ {
		c := b[len(b)-back]
		if !utf8.RuneStart(c) {
			continue
		}
		if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-back:]) {
			return b[:len(b)-back]
		}
		break
	}
	return b
}

func (h *handler) download(w http.ResponseWriter, r *http.Request) {
	f, info, err := h.open(r.Context(), r.URL.Query().Get("path"))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer f.Close()
	header := w.Header()
	name := path.Base(path.Clean("/" + r.URL.Query().Get("path")))
	header.Set("Content-Type", "application/octet-stream")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	err = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(downloadTime))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		h.Log.Info("download not begun", "path", info.GetPath(), "error", err)
		return
	}
	// A file that grows is sent as long as it was when it was opened.
	http.ServeContent(w, r, "", time.Unix(0, info.GetMtimeUnixNs()), io.NewSectionReader(f, 0, info.GetSize()))
}

// The kinds of files as st_mode has them.
const (
	formatMask    = 0o170000
	formatRegular = 0o100000
)

// modeText is the first column of ls -l.
func modeText(mode uint32) string {
	kinds := map[uint32]byte{0o140000: 's', 0o120000: 'l', formatRegular: '-', 0o060000: 'b', 0o040000: 'd', 0o020000: 'c', 0o010000: 'p'}
	kind, ok := kinds[mode&formatMask]
	if !ok {
		kind = '?'
	}
	out := []byte{kind}
	for shift := 6; shift >= 0; shift -= 3 {
		bits := mode >> shift
		for i, c := range "rwx" {
			if bits&(4>>i) == 0 {
				c = '-'
			}
			out = append(out, byte(c))
		}
	}
	for i, special := range []struct {
		bit      uint32
		set, not byte
	}{{0o4000, 's', 'S'}, {0o2000, 's', 'S'}, {0o1000, 't', 'T'}} {
		if mode&special.bit == 0 {
			continue
		}
		at := 3 + 3*i
		if out[at] == 'x' {
			out[at] = special.set
		} else {
			out[at] = special.not
		}
	}
	return string(out)
}
