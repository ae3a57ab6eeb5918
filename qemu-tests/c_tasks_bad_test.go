//go:build vm

package qemutests

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// A task that wants more memory than it was given dies alone, with the right reason.
func TestMemoryBombIsContained(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	neighbours := f.start(t, f.liveOn(t, 1)...)
	bomb := f.task(t, "bomb", "eat", "200")
	bomb.Hostname = neighbours[0].Hostname
	ended := f.runToEnd(t, bomb)[0]
	wantState(t, ended, mesosv1.TaskState_TASK_FAILED)
	if got := ended.Status.GetReason(); got != mesosv1.TaskStatus_REASON_CONTAINER_LIMITATION_MEMORY {
		t.Errorf("reason %s (%s)", got, ended.Status.GetMessage())
	}
	f.stillAlive(t, neighbours[0], f.birth(t, neighbours[0]))
}

// forkBomb makes children that wait for ever, and says after each how many there are.
const forkBomb = `mkfifo "$MESOS_SANDBOX/wait"; i=0; while :; do read x < "$MESOS_SANDBOX/wait" & i=$((i+1)); echo $i; done`

// A task that forks without end is stopped by its own limit and bothers nobody.
func TestForkBombIsContained(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	neighbours := f.start(t, f.liveOn(t, 1)...)
	bomb := f.task(t, "bomb")
	bomb.Container, bomb.Command = nil, &mesosv1.CommandInfo{Value: proto.String(forkBomb)}
	bomb.MemMB = 192 // so that it is not memory that ends it
	bomb.Hostname = neighbours[0].Hostname
	ended := f.runToEnd(t, bomb)[0]
	wantState(t, ended, mesosv1.TaskState_TASK_FAILED)
	wantWhy(t, ended, mesosv1.TaskStatus_SOURCE_EXECUTOR, none)
	out, said := f.output(t, ended, "stdout"), f.output(t, ended, "stderr")
	var started int
	if _, err := fmt.Sscan(lastLine(out), &started); err != nil || started < 900 || started > 1024 || !strings.Contains(said, "Resource temporarily unavailable") {
		t.Errorf("the bomb counted to %q and said %q", lastLine(out), said)
	}
	fmt.Printf("the bomb got %d processes\n", started)
	f.stillAlive(t, neighbours[0], f.birth(t, neighbours[0]))
	wantState(t, f.runToEnd(t, f.task(t, "after", "say", "still here"))[0], mesosv1.TaskState_TASK_FINISHED)
}

// Images that cannot be had fail their task with a sentence that says what and where, and
// change nothing else.
func TestBadImages(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	liar := lyingRegistry(t, w)
	for _, c := range []struct {
		name, image string
		says        []string // parts of the message
	}{
		{"nobody listens", "10.77.0.1:5999/nothing:1", []string{"10.77.0.1:5999"}},
		{"no such image", w.Registry.Host + "/absent:1", []string{"absent"}},
		{"wrong digest", liar, []string{"sha256", "10.77.0.1:5001"}},
		{"not a reference", "UPPER CASE//", []string{"UPPER CASE//"}},
		{"an entry above the root", w.layered(t, "above:1", tar.Header{Name: "../../escaped", Typeflag: tar.TypeReg}), []string{"escaped", "leaves the image's root", "build the image again"}},
		{"a hard link out", w.layered(t, "link:1", tar.Header{Name: "l", Linkname: "../../etc/passwd", Typeflag: tar.TypeLink}), []string{"leaves the image's root"}},
		{"an owner nobody can be", w.layered(t, "owner:1", tar.Header{Name: "f", Uid: 70000, Typeflag: tar.TypeReg}), []string{"70000", "0 to 65535"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			task := f.task(t, strings.ReplaceAll(c.name, " ", "-"), "say", "never")
			task.Container = dockerImage(c.image)
			ended := f.runToEnd(t, task)[0]
			wantState(t, ended, mesosv1.TaskState_TASK_FAILED)
			wantWhy(t, ended, mesosv1.TaskStatus_SOURCE_AGENT, mesosv1.TaskStatus_REASON_CONTAINER_LAUNCH_FAILED)
			for _, part := range c.says {
				if !strings.Contains(ended.Status.GetMessage(), part) {
					t.Errorf("message %q does not say %q", ended.Status.GetMessage(), part)
				}
			}
		})
	}
	wantState(t, f.runToEnd(t, f.task(t, "after", "say", "fine"))[0], mesosv1.TaskState_TASK_FINISHED)
	// What a layer writes through links of its own stays in the container's root.
	through := f.task(t, "through", "show", "/out/mark")
	through.Container = dockerImage(w.layered(t, "through:1",
		tar.Header{Name: "up", Linkname: "/", Typeflag: tar.TypeSymlink}, tar.Header{Name: "up/out/mark", Typeflag: tar.TypeReg, Size: 7},
		tar.Header{Name: "far", Linkname: "../../../..", Typeflag: tar.TypeSymlink}, tar.Header{Name: "far/out/far", Typeflag: tar.TypeReg}))
	ended := f.runToEnd(t, through)[0]
	wantState(t, ended, mesosv1.TaskState_TASK_FINISHED)
	if got := f.output(t, ended, "stdout"); got != "written" {
		t.Errorf("through a link was written %q", got)
	}
}

// wantWhy fails the test unless a status has this source and reason; reason 0: none.
func wantWhy(t *testing.T, l client.Launched, source mesosv1.TaskStatus_Source, reason mesosv1.TaskStatus_Reason) {
	t.Helper()
	s := l.Status
	if s.GetSource() != source || s.Reason != nil != (reason != none) || (reason != none && s.GetReason() != reason) {
		t.Errorf("task %s: source %s, reason %v (%s), want %s and %s", l.Task.ID, s.GetSource(), s.Reason, s.GetMessage(), source, reason)
	}
}

// none is no reason at all.
const none = mesosv1.TaskStatus_Reason(-1)

// layered puts the tests' program with one more layer into the registry. Files of a size
// have the word "written" in them.
func (w *world) layered(t *testing.T, as string, entries ...tar.Header) string {
	t.Helper()
	var raw bytes.Buffer
	archive := tar.NewWriter(&raw)
	for _, h := range entries {
		h.Mode = 0o644
		if err := archive.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte("written")[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := cluster.ProgramImage(taskProgram())
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.AppendLayers(img, layer); err != nil {
		t.Fatal(err)
	}
	ref, err := w.Registry.Push(t.Context(), "bad-"+as, img)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// lyingRegistry serves an image whose layer is not what its manifest promises.
func lyingRegistry(t *testing.T, w *world) string {
	t.Helper()
	ref := w.image(t)
	honest := w.Registry.Handler()
	lie := http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet || !strings.Contains(req.URL.Path, "/blobs/") {
			honest.ServeHTTP(rw, req)
			return
		}
		// As long as what was promised, and other bytes: only the digest tells.
		truth := httptest.NewRecorder()
		honest.ServeHTTP(truth, req)
		body := truth.Body.Bytes()
		for i := range body {
			body[i] ^= 0x55
		}
		maps.Copy(rw.Header(), truth.Header())
		rw.WriteHeader(truth.Code)
		_, _ = rw.Write(body)
	})
	const port = 5001
	ln, err := w.LAN.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: lie}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { server.Close() })
	at := fmt.Sprintf("%s:%d", w.LAN.Gateway(), port)
	return strings.Replace(ref, w.Registry.Host, at, 1)
}

// A registry as everybody runs it: a second one on the LAN, with an image of another
// name, pulled by tag.
func TestImageByTagFromAnotherRegistry(t *testing.T) {
	w := three(t)
	f := w.framework(t, false)
	w.image(t)
	ln, err := w.LAN.Listen(5002)
	if err != nil {
		t.Fatal(err)
	}
	second := registry.New()
	server := &http.Server{Handler: second}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { server.Close() })
	img, err := cluster.ProgramImage(taskProgram())
	if err != nil {
		t.Fatal(err)
	}
	host := fmt.Sprintf("%s:%d", w.LAN.Gateway(), 5002)
	if _, err := cluster.PushTo(t.Context(), second, host, "team/tool:v2", img); err != nil {
		t.Fatal(err)
	}
	task := f.task(t, "by-tag", "say", "pulled by tag")
	task.Container = dockerImage(host + "/team/tool:v2")
	ended := f.runToEnd(t, task)[0]
	wantState(t, ended, mesosv1.TaskState_TASK_FINISHED)
	if got := f.output(t, ended, "stdout"); !strings.Contains(got, "pulled by tag") {
		t.Errorf("stdout is %q", got)
	}
}
