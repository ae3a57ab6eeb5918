package run

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/fetchplan"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/spec"
)

// wants is a launch of a line with files to be fetched.
func wants(id, line string, uris ...*mesosv1.CommandInfo_URI) *keeper.Launch {
	l := launchOf(id, line)
	task := &mesosv1.TaskInfo{}
	if err := proto.Unmarshal(l.TaskInfo, task); err != nil {
		panic(err)
	}
	task.Command.Uris = uris
	var err error
	if l.TaskInfo, err = proto.Marshal(task); err != nil {
		panic(err)
	}
	return l
}

func uri(value string) *mesosv1.CommandInfo_URI {
	return &mesosv1.CommandInfo_URI{Value: &value}
}

func tgz(t *testing.T, name, body string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o750, Size: int64(len(body))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Files are there before the program begins, as Mesos would have made them, and the user's.
func TestFilesAreFetched(t *testing.T) {
	h := newHouse(t)
	packed := tgz(t, "app/run", "#!/bin/sh\necho ran\n")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/app.tgz":
			w.Write(packed)
		case "/tool":
			fmt.Fprint(w, "#!/bin/sh\necho tool\n")
		case "/moved":
			http.Redirect(w, r, "/tool", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	defer s.Close()
	tool, moved := uri(s.URL+"/tool"), uri(s.URL+"/moved")
	tool.Executable = proto.Bool(true)
	moved.OutputFile = proto.String("sub/dir/there")
	local := filepath.Join(h.dir, "local.txt")
	if err := os.WriteFile(local, []byte("of this machine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.launch(wants("c", "app/run; ./tool; cat sub/dir/there local.txt; ls app.tgz; stat -c %a,%u tool app/run sub/dir/there", uri(s.URL+"/app.tgz"), tool, moved, uri("file://"+local)))
	c := h.until("c", gone)
	uid := os.Geteuid()
	want := fmt.Sprintf("ran\ntool\n#!/bin/sh\necho tool\nof this machine\napp.tgz\n755,%d\n750,%d\n644,%d\n", uid, uid, uid)
	if got := h.output(c, "stdout"); got != want {
		t.Errorf("stdout %q, want %q (%v)", got, want, c)
	}
}

// Another user's files are that user's.
func TestFetchedFilesAreTheUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run tasks as others")
	}
	h := newHouse(t)
	for dir := h.dir; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil { // the task walks there
			t.Fatal(err)
		}
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "x") }))
	defer s.Close()
	secret := filepath.Join(h.dir, "secret")
	if err := os.WriteFile(secret, []byte("root's"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := wants("c", "stat -c %u:%g f", uri(s.URL+"/f"))
	l.User = "1234"
	h.launch(l)
	if got := h.output(h.until("c", gone), "stdout"); got != "1234:1234\n" {
		t.Errorf("owner %q", got)
	}
	l = wants("d", "cat secret", uri(secret))
	l.User = "1234"
	h.launch(l)
	if c := h.until("d", gone); c.GetFailure() != keeper.Container_LAUNCH || !strings.Contains(c.GetMessage(), "permission denied") {
		t.Errorf("a file that only root may read: %v", c)
	}
}

// What cannot be fetched is the task's failure, with which, what and what to do.
func TestFilesThatCannotBeHad(t *testing.T) {
	h := newHouse(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/evil.tgz":
			w.Write(tgz(t, "../../evil", "x"))
		case "/bad.zip":
			fmt.Fprint(w, "this is no zip")
		case "/large":
			w.Write(make([]byte, 2<<20))
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/short":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "x")
		default:
			http.Error(w, "no", http.StatusForbidden)
		}
	}))
	defer s.Close()
	for i, test := range []struct {
		uri  string
		kind keeper.Container_Failure
		want []string
	}{
		{s.URL + "/evil.tgz", keeper.Container_LAUNCH, []string{"/evil.tgz", "leaves the sandbox", "extract"}},
		{s.URL + "/bad.zip", keeper.Container_LAUNCH, []string{"/bad.zip", "unpack zip", "pack it again"}},
		{s.URL + "/large", keeper.Container_LAUNCH, []string{"/large", "1 MB", "ask for more disk"}},
		{s.URL + "/loop", keeper.Container_LAUNCH, []string{"/loop", "10 redirections"}},
		{s.URL + "/short", keeper.Container_LAUNCH, []string{"/short", "unexpected EOF"}},
		{strings.Replace(s.URL, "//", "//user:secret@", 1) + "/forbidden?token=secret", keeper.Container_LAUNCH, []string{"/forbidden", "403 Forbidden", "credentials"}},
		{"http://127.0.0.1:1/x", keeper.Container_LAUNCH, []string{"http://127.0.0.1:1/x", "refused", "the node's network"}},
		{"hdfs://a/b", keeper.Container_INVALID_TASK, []string{"command.uris[0]", "Hadoop"}},
	} {
		id := fmt.Sprintf("c%d", i)
		l := wants(id, "true", uri(test.uri))
		l.DiskBytes = 1 << 20
		h.launch(l)
		c := h.until(id, gone)
		if c.GetFailure() != test.kind || strings.Contains(c.GetMessage(), "secret") {
			t.Errorf("%s: %v", test.uri, c)
		}
		for _, w := range test.want {
			if !strings.Contains(c.GetMessage(), w) {
				t.Errorf("%s: %q lacks %q", test.uri, c.GetMessage(), w)
			}
		}
	}
	if left, _ := filepath.Glob(filepath.Join(h.dir, "work/slaves/S0/frameworks/F0/executors/t/runs/evil")); len(left) > 0 {
		t.Errorf("it left the sandbox: %v", left)
	}
}

// A kill ends the fetching, and so does the keeper's own end; the next keeper begins it
// again in an empty sandbox.
func TestFetchingEndsAndBeginsAgain(t *testing.T) {
	h := newHouse(t)
	asked := make(chan struct{}, 10)
	var free atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/first" {
			fmt.Fprint(w, "first")
			return
		}
		fmt.Fprint(w, "beginning")
		http.NewResponseController(w).Flush()
		asked <- struct{}{}
		if !free.Load() {
			<-r.Context().Done()
		}
	}))
	defer s.Close()
	h.launch(wants("killed", "true", uri(s.URL+"/slow")))
	<-asked
	if err := h.k.Kill(&keeper.Kill{ContainerId: "killed", GraceNs: int64(time.Hour), Term: 1}); err != nil {
		t.Fatal(err)
	}
	if c := h.until("killed", gone); c.GetFailure() != keeper.Container_KILLED_DURING_LAUNCH {
		t.Errorf("killed ended as %v", c)
	}
	h.launch(wants("again", "ls", uri(s.URL+"/first"), uri(s.URL+"/slow")))
	<-asked
	h.close()
	sandbox := sandboxPath(h.k.cfg.WorkDir, launchOf("again", ""))
	if _, err := os.Stat(filepath.Join(sandbox, "first")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sandbox, "stale"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	free.Store(true)
	h.open()
	if got := h.output(h.until("again", gone), "stdout"); got != "first\nslow\nstderr\nstdout\n" {
		t.Errorf("the sandbox had %q", got)
	}
}

// A file with cache set is fetched once for each user, as long as the store keeps it; one
// without, each time.
func TestKeptFiles(t *testing.T) {
	h := newHouse(t)
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %d\n", r.URL.Path, asked.Add(1))
	}))
	defer s.Close()
	n := 0
	run := func(user, want string, cache bool) {
		t.Helper()
		n++
		id := fmt.Sprintf("c%d", n)
		one, other := uri(s.URL+"/one"), uri(s.URL+"/other")
		one.Cache, other.Cache = &cache, &cache
		l := wants(id, "cat one other", one, other)
		l.User = user
		h.launch(l)
		c := h.until(id, gone)
		if got := h.output(c, "stdout"); got != want {
			t.Errorf("%s: %q, want %q (%v)", id, got, want, c)
		}
	}
	run("root", "/one 1\n/other 2\n", true)
	run("root", "/one 1\n/other 2\n", true)
	run("root", "/one 3\n/other 4\n", false)
	run("0", "/one 5\n/other 6\n", true)
	h.close()
	h.open()
	run("root", "/one 1\n/other 2\n", true)
	if err := h.k.collectImages(func() bool { return true }); err != nil {
		t.Fatal(err)
	}
	run("root", "/one 7\n/other 8\n", true)

	// The longest not used goes first, and no more than has to.
	names, err := os.ReadDir(h.k.images.URIs())
	if err != nil || len(names) != 2 {
		t.Fatalf("kept: %v, %v", names, err)
	}
	old := filepath.Join(h.k.images.URIs(), names[0].Name())
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	if err := h.k.collectURIs(func(sum uint64) bool { return sum > 10 }); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(h.k.images.URIs()); err != nil || len(left) != 1 || left[0].Name() != names[1].Name() {
		t.Errorf("kept: %v, %v", left, err)
	}
}

// On a node the fetcher has the ids of the task and no others.
func TestFetcherHasTheTasksIDs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give ids away")
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "x") }))
	defer s.Close()
	h := newHouse(t)
	program := filepath.Join("/tmp", fmt.Sprintf("fetcher-%d", os.Getpid())) // it walks there by itself
	self, err := os.ReadFile(h.k.cfg.Pull[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(program)
	h.k.cfg.Pull[0] = program
	for _, uid := range []uint32{0, 1000, 100000} {
		sandbox := t.TempDir()
		j := &Job{FirstID: 5 * slotSize, User: spec.User{UID: uid, GID: uid}}
		host := int(spec.HostID(j.FirstID, uid))
		if err := os.Chown(sandbox, host, host); err != nil {
			t.Fatal(err)
		}
		into, err := openDir(sandbox)
		if err != nil {
			t.Fatal(err)
		}
		defer into.Close()
		help := helper{files: []*os.File{into}, started: mayEnd, confine: func(cmd *exec.Cmd) (func(), error) { return h.k.confineToTask(cmd, j) }}
		plan := fetchplan.Plan{Items: []fetchplan.Item{{URI: s.URL + "/f", Output: "d/f"}}, Bytes: 10, Entries: 10}
		if err := h.k.carryOut(t.Context(), plan, help); err != nil {
			t.Fatalf("user %d: %v", uid, err)
		}
		info, err := os.Stat(filepath.Join(sandbox, "d/f"))
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != host || int(st.Gid) != host {
			t.Errorf("user %d: the file is %d:%d's, want %d", uid, st.Uid, st.Gid, host)
		}
		// Another's directory is closed to it, be it root in its own eyes.
		if err := os.Chown(sandbox, 0, 0); err != nil {
			t.Fatal(err)
		}
		plan.Items[0].Output = "g"
		if err := h.k.carryOut(t.Context(), plan, help); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("user %d wrote into another's directory: %v", uid, err)
		}
	}
}
