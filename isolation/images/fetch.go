package images

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/fetchplan"
)

// maxRedirects is how often a server may send us on.
const maxRedirects = 10

// fetcher carries out one plan. What it may still write is counted over all files.
type fetcher struct {
	plan    fetchplan.Plan
	root    int // descriptor of the directory
	bytes   int64
	entries int
	client  *http.Client
	log     *slog.Logger
}

func fetchErr(_ []string, stdin io.Reader, stderr io.Writer) error {
	plan, err := fetchplan.Read(stdin)
	if err != nil {
		return err
	}
	if u := plan.Become; u != nil {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(u.GID), syscall.Setuid(u.UID)); err != nil {
			return fmt.Errorf("become user %d: %w", u.UID, err)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	return Fetch(ctx, plan, fetchplan.Into, slog.New(slog.NewJSONHandler(stderr, nil)))
}

// Fetch carries out a plan in the directory that a descriptor is of. The error says which
// file, what happened and what to do.
func Fetch(ctx context.Context, plan fetchplan.Plan, into int, log *slog.Logger) error {
	transport := plainTransport()
	transport.DisableCompression = true // what is packed stays packed
	f := &fetcher{
		plan: plan, root: into, bytes: plan.Bytes, entries: plan.Entries, log: log,
		client: &http.Client{Transport: patientTransport{next: transport, patience: patience}, CheckRedirect: checkRedirect},
	}
	have := fetchplan.FirstHave
	for _, item := range plan.Items {
		var from *os.File
		if item.Have {
			from = os.NewFile(uintptr(have), "kept")
			have++
		}
		if err := f.item(ctx, item, from); err != nil {
			return fmt.Errorf("command.uris[%d] %s: %w", item.Index, shown(item.URI), explainFetch(err, plan.Bytes))
		}
		log.Info("fetched", "uri", shown(item.URI), "file", item.Output)
	}
	return nil
}

func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirections", maxRedirects)
	}
	return nil
}

// shown is a URI without what only those may know who know it already.
func shown(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(not a URI)"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// in gives an unpacker that may write as much as is left; the function says that it has.
func (f *fetcher) in() (*unpacker, func()) {
	u := &unpacker{
		root: f.root, sandbox: true, parent: -1, in: &counter{},
		limits: Limits{Bytes: f.bytes, Entries: f.entries, Path: DefaultLimits().Path, Ratio: DefaultLimits().Ratio},
	}
	return u, func() {
		u.dropParent()
		f.bytes -= u.bytes
		f.entries -= u.entries
	}
}

// item has one file, from a descriptor if it is there already.
func (f *fetcher) item(ctx context.Context, item fetchplan.Item, from *os.File) error {
	body, size, err := f.open(ctx, item, from)
	if err != nil {
		return err
	}
	defer body.Close()
	file, err := f.write(item, body, size)
	if err != nil {
		return err
	}
	defer file.Close()
	if item.Kind == fetchplan.Plain {
		return nil
	}
	u, done := f.in()
	defer done()
	if err := u.archive(file, item.Kind, item.Rest); err != nil {
		return badArchive{item.Kind, err}
	}
	return nil
}

// badArchive is what comes of a file that cannot be unpacked.
type badArchive struct {
	kind fetchplan.Kind
	err  error
}

func (b badArchive) Error() string { return fmt.Sprintf("unpack %s: %v", b.kind, b.err) }
func (b badArchive) Unwrap() error { return b.err }

// badStatus is an answer that is no file.
type badStatus int

func (s badStatus) Error() string {
	return strings.TrimSpace(fmt.Sprintf("the server answers %d %s", int(s), http.StatusText(int(s))))
}

// open begins to read a file. Its size is -1 where that is not known.
func (f *fetcher) open(ctx context.Context, item fetchplan.Item, from *os.File) (io.ReadCloser, int64, error) {
	if from != nil {
		return from, -1, nil
	}
	at, err := url.Parse(item.URI)
	if err != nil {
		return nil, 0, err
	}
	if at.Scheme == "file" && f.plan.Local {
		file, err := os.OpenFile(at.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, 0, err
		}
		if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
			return nil, 0, errors.Join(errors.New("it is not a regular file"), err, file.Close())
		}
		return file, -1, nil
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, item.URI, nil)
	if err != nil {
		return nil, 0, err
	}
	r.Header.Set("User-Agent", "mesolith")
	resp, err := f.client.Do(r)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // it tells the whole URI otherwise
		}
		return nil, 0, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, 0, badStatus(resp.StatusCode)
	}
	return resp.Body, resp.ContentLength, nil
}

// write makes the file out of its bytes, in place of what has its name, and leaves it open.
func (f *fetcher) write(item fetchplan.Item, body io.Reader, size int64) (*os.File, error) {
	if size > f.bytes {
		return nil, fmt.Errorf("%w: it has %d", errTooMuch, size)
	}
	u, done := f.in()
	defer done()
	u.entries++
	if u.entries > u.limits.Entries {
		return nil, fmt.Errorf("%w: more than %d files", ErrBadEntry, f.plan.Entries)
	}
	name, err := u.cleanName(item.Output)
	if err != nil {
		return nil, err
	}
	dir, base := path.Split(name)
	parent, err := u.openParent(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return nil, err
	}
	if kind, err := kindOf(parent, base); err != nil || kind == unix.S_IFDIR {
		return nil, errors.Join(fmt.Errorf("there is a directory %s already; set output_file to another name", name), err)
	}
	if _, err := u.clear(parent, base, false); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(parent, base, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make file: %w", err)
	}
	file := os.NewFile(uintptr(fd), name)
	u.bytes, err = io.Copy(file, io.LimitReader(body, f.bytes+1))
	if err == nil && u.bytes > f.bytes {
		err = errTooMuch
	}
	mode := os.FileMode(0o644)
	if item.Executable {
		mode = 0o755
	}
	if err == nil {
		err = file.Chmod(mode)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// explainFetch adds what to do to an error.
func explainFetch(err error, most int64) error {
	var status badStatus
	var archive badArchive
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &status):
		switch {
		case status == http.StatusUnauthorized || status == http.StatusForbidden:
			return fmt.Errorf("%w; give credentials in the URI, or let this cluster read it without", err)
		case status >= 500:
			return fmt.Errorf("%w; look at the server, then start the task again", err)
		}
		return fmt.Errorf("%w; check the URI", err)
	case errors.Is(err, errTooMuch):
		return fmt.Errorf("%w; all files of the task together, unpacked ones too, may have %d MB here: ask for more disk (where files are kept in memory, more mem), or fetch less", err, most>>20)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: the disk of sandboxes is full; start the task elsewhere, or fetch less", err)
	case errors.As(err, &archive):
		return fmt.Errorf("%w; pack it again, or set extract to false to have the file as it is", err)
	case errors.Is(err, errSlow):
		return fmt.Errorf("%w; it was given up after a minute of that: check the server and the way to it", err)
	case errors.As(err, &certificate):
		return fmt.Errorf("%w; offer the file with a certificate of a public authority, or over http where the network is trusted", err)
	case errors.Is(err, context.Canceled), errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission), errors.Is(err, ErrBadEntry):
		return err
	}
	return fmt.Errorf("%w; check the URI and the way from this node to it: files are fetched in the node's network", err)
}

// patientTransport gives up an answer that does not come on.
type patientTransport struct {
	next     http.RoundTripper
	patience time.Duration
}

func (p patientTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	resp, err := p.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &patient{body: resp.Body, giveUp: cancel, left: p.patience}
	return resp, nil
}
