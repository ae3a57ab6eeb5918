//go:build vm && bench

package qemutests

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/image"
	"github.com/mesolith/mesolith/image/cpio"
	"github.com/mesolith/mesolith/image/programs"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

const (
	isolatedAt = "usr/lib/mesolith/isolated/isolated" // in the image
	shippedAt  = "usr/lib/mesolith/isolated/shipped/isolated"
	bareRuns   = 15 // isolation/bare's, a round
)

// Figure 9: ACCEPT to TASK_RUNNING of a container whose image is cached, and what
// libcontainer takes by itself for the same container on the same machine, in turns.
func TestBenchAcceptToRunning(t *testing.T) {
	const rounds, launches = 2, 15
	if theLab.shared != nil {
		theLab.shared.close() // its machines lack the program to compare with
		theLab.shared = nil
	}
	w := withBare(t)
	if err := w.WaitReady(within(t, toElect)); err != nil {
		t.Fatal(err)
	}
	leader, err := w.WaitLeader(within(t, toElect))
	if err != nil {
		t.Fatal(err)
	}
	// The tasks run beside a follower: where the leader is does not matter to them.
	machines := slices.DeleteFunc(w.Machines(), func(m *cluster.Machine) bool { return m.Node.Name == leader.Name })
	on := machines[0]
	s := newStarter(t, w, leader, on.Node)
	progress("%s leads, tasks start on %s; pulling the image", leader.Name, on.Node.Name)
	s.run(t, 2)
	s.took = nil
	var bare []time.Duration
	for i := range rounds {
		s.run(t, launches)
		bare = append(bare, startBare(t, w, on, len(bare)+bareRuns)[len(bare):]...)
		progress("round %d of %d: p50 of all tasks %d ms, of all bare containers %d ms", i+1, rounds, median(s.took).Milliseconds(), median(bare).Milliseconds())
	}
	for _, line := range partsOf(t, w, on) {
		progress("  %s", line)
	}
	p50, p99, b := median(s.took), quantile(s.took, 0.99), median(bare)
	figure{
		number: 9, n: len(s.took), reached: p50 <= 2*b,
		what:  fmt.Sprintf("ACCEPT to TASK_RUNNING, image cached; a bare container p50 %d ms (N=%d)", b.Milliseconds(), len(bare)),
		value: fmt.Sprintf("p50 %d ms = %.2f bare, p99 %d ms", p50.Milliseconds(), float64(p50)/float64(b), p99.Milliseconds()),
		goal:  fmt.Sprintf("2 bare = %d ms (50 / 150 ms on a quiet machine without emulation)", 2*b.Milliseconds()),
	}.note()
}

// withBare is a cluster of three whose machines have isolation/bare in isolated's place;
// it becomes the isolated of the image.
func withBare(t *testing.T) *world {
	t.Helper()
	progress("building the program that starts bare containers")
	builder := programs.Builder{Checkout: "..", Out: theLab.dir}
	bare, err := builder.Compile(t.Context(), programs.Program{Name: "bare", Package: "./isolation/bare", C: true})
	if err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(bare.Path)
	if err != nil {
		t.Fatal(err)
	}
	extra := cpio.New()
	extra.File(isolatedAt, 0o755, body)
	extra.File(shippedAt, 0o755, shippedIsolated(t))
	initramfs, err := os.ReadFile(theLab.image.Initramfs)
	if err != nil {
		t.Fatal(err)
	}
	// The kernel takes archives one behind the other; each begins at a multiple of four.
	both := bytes.NewBuffer(initramfs)
	both.Write(make([]byte, (4-len(initramfs)%4)%4))
	if _, err := extra.WriteTo(both); err != nil {
		t.Fatal(err)
	}
	with := theLab.image
	with.Initramfs = filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(with.Initramfs, both.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return newWorld(t, options{nodes: 3, image: &with})
}

// shippedIsolated is the program in the image, byte for byte.
func shippedIsolated(t *testing.T) []byte {
	t.Helper()
	dir := filepath.Dir(theLab.image.Initramfs)
	m, err := image.ReadManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(m.Contents, func(f image.ManifestFile) bool { return f.Path == isolatedAt })
	if at < 0 {
		t.Fatalf("%s is not in the image's manifest", isolatedAt)
	}
	body, err := os.ReadFile(filepath.Join(dir, "..", "programs", "isolated"))
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != m.Contents[at].SHA256 {
		t.Fatalf("build/programs/isolated is not the one in the image; run make image")
	}
	return body
}

// starter launches one task after the other on one node and times each.
type starter struct {
	client *client.Client
	image  string
	node   cluster.Node

	mu     sync.Mutex
	more   int
	next   int
	unable int // calls that were refused, as between two leaders
	took   []time.Duration
	sent   time.Time // of the task under way; zero: none
	ended  chan error
	done   chan struct{} // a round is complete
}

func newStarter(t *testing.T, w *world, leader, on cluster.Node) *starter {
	t.Helper()
	// As frameworks do, it keeps its connections and speaks to the leader: every other
	// test's client makes a new connection for each call.
	keeping, ok := w.Client().Transport.(*http.Transport)
	if !ok {
		t.Fatalf("the cluster's transport is a %T", w.Client().Transport)
	}
	keeping = keeping.Clone()
	keeping.DisableKeepAlives = false
	t.Cleanup(keeping.CloseIdleConnections)
	masters := append([]string{w.URL(leader, "")}, w.APIs()...)
	c, err := client.New(client.Config{
		Masters: masters, HTTP: &http.Client{Transport: keeping}, Protobuf: true, Framework: benchFramework("start-time"),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &starter{client: c, image: w.image(t), node: on, ended: make(chan error, 1), done: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { s.ended <- c.Run(ctx, s.handle) }()
	t.Cleanup(func() {
		cancel()
		<-s.ended
	})
	return s
}

// run launches some tasks and waits until each has run.
func (s *starter) run(t *testing.T, tasks int) {
	t.Helper()
	ctx := within(t, toRun+4*tasks)
	s.mu.Lock()
	s.more = tasks
	again := s.next > 0
	s.mu.Unlock()
	if again { // offers were declined for long meanwhile
		if err := s.client.Revive(ctx); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-s.done:
	case err := <-s.ended:
		s.ended <- err
		t.Fatal(err)
	case <-ctx.Done():
		t.Fatalf("%d tasks of %d have not run: %v (%d calls were refused)", s.more, tasks, ctx.Err(), s.unable)
	}
}

func (s *starter) handle(ctx context.Context, e *scheduler.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.GetType() {
	case scheduler.Event_OFFERS:
		for _, o := range e.GetOffers().GetOffers() {
			s.offer(ctx, o)
		}
	case scheduler.Event_UPDATE:
		return s.update(e.GetUpdate().GetStatus())
	}
	return nil
}

// offer takes an offer for the next task, or lets it go. A refused call is no end: the
// offers of a leader that has gone come again from the next one.
func (s *starter) offer(ctx context.Context, o *mesosv1.Offer) {
	elsewhere := o.GetHostname() != s.node.Address.String()
	if elsewhere || s.more == 0 || !s.sent.IsZero() {
		seconds := 0.05
		if elsewhere || s.more == 0 {
			seconds = 3600
		}
		if err := s.client.Decline(ctx, []*mesosv1.OfferID{o.GetId()}, seconds); err != nil {
			s.unable++
		}
		return
	}
	id := fmt.Sprintf("run-%d", s.next)
	s.next++
	s.sent = time.Now()
	launch := client.Launch(benchTask(id, s.image, o))
	if err := s.client.Accept(ctx, []*mesosv1.OfferID{o.GetId()}, []*mesosv1.Offer_Operation{launch}, 0.05); err != nil {
		s.unable++
		s.sent = time.Time{}
	}
}

func (s *starter) update(st *mesosv1.TaskStatus) error {
	switch {
	case st.GetState() == mesosv1.TaskState_TASK_RUNNING:
		s.took = append(s.took, time.Since(s.sent))
	case st.GetState() == mesosv1.TaskState_TASK_FINISHED:
		s.sent = time.Time{}
		if s.more--; s.more == 0 {
			s.done <- struct{}{}
		}
	case client.Terminal(st.GetState()):
		return fmt.Errorf("%s ended as %s: %s", st.GetTaskId().GetValue(), st.GetState(), st.GetMessage())
	}
	return nil
}

func benchTask(id, image string, o *mesosv1.Offer) *mesosv1.TaskInfo {
	scalar := func(name string, v float64) *mesosv1.Resource {
		return &mesosv1.Resource{
			Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v},
			AllocationInfo: o.GetAllocationInfo(),
		}
	}
	return &mesosv1.TaskInfo{
		Name: &id, TaskId: &mesosv1.TaskID{Value: &id}, AgentId: o.GetAgentId(), Container: dockerImage(image),
		Resources: []*mesosv1.Resource{scalar("cpus", 0.05), scalar("mem", 32)},
		Command: &mesosv1.CommandInfo{
			Shell: proto.Bool(false), Value: proto.String("/program"), Arguments: []string{"program", "say", "fast"},
		},
	}
}

// startBare ends isolated, so that isolation/bare starts its containers, and gives all
// times that the machine has logged once they are so many and isolated is back.
func startBare(t *testing.T, w *world, on *cluster.Machine, want int) []time.Duration {
	t.Helper()
	ctx := within(t, toRun+bareRuns)
	ready := len(logged(t, w, on, "isolated answers"))
	console := on.VM().Console
	seen := console.Len()
	if err := w.nodeAPI(on.Node).Kill(ctx, "isolated", "KILL"); err != nil {
		t.Fatal(err)
	}
	// Asking the machine meanwhile would take time from it.
	line, err := console.Wait(ctx, seen, "bare containers: ")
	if err != nil {
		t.Fatal(err)
	}
	var out []time.Duration
	for _, l := range logged(t, w, on, "bare start") {
		var ms float64
		if err := json.Unmarshal(l["ms"], &ms); err != nil {
			t.Fatal(err)
		}
		out = append(out, time.Duration(ms*float64(time.Millisecond)))
	}
	if len(out) < want {
		t.Fatalf("%d of %d: %s", len(out), want, line.Text)
	}
	eventually(t, ctx, func() error {
		if len(logged(t, w, on, "isolated answers")) <= ready {
			return errors.New("isolated is not back")
		}
		return nil
	})
	return out
}

// logged are the lines with a message in isolated's log.
func logged(t *testing.T, w *world, on *cluster.Machine, message string) []map[string]json.RawMessage {
	t.Helper()
	r, err := w.nodeAPI(on.Node).Logs(within(t, toRun), "isolated", false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]json.RawMessage
	for s := bufio.NewScanner(bytes.NewReader(raw)); s.Scan(); {
		var line map[string]json.RawMessage
		if json.Unmarshal(s.Bytes(), &line) == nil && string(line["msg"]) == `"`+message+`"` {
			out = append(out, line)
		}
	}
	return out
}

// partsOf says what isolated spent a task's time on.
func partsOf(t *testing.T, w *world, on *cluster.Machine) []string {
	t.Helper()
	times := map[string][]float64{}
	var order []string
	for _, l := range logged(t, w, on, "container runs") {
		var took map[string]float64
		if err := json.Unmarshal(l["took"], &took); err != nil {
			t.Fatal(err)
		}
		for name, ms := range took {
			if times[name] == nil {
				order = append(order, name)
			}
			times[name] = append(times[name], ms)
		}
	}
	slices.Sort(order)
	var out []string
	for _, name := range order {
		out = append(out, fmt.Sprintf("in isolated, %s: p50 %.0f ms (N=%d)", strings.TrimSuffix(name, "_ms"), quantile(times[name], 0.5), len(times[name])))
	}
	return out
}
