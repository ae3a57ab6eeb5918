package masters

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mesolith/mesolith/clusterd/discovery/birth"
	"github.com/mesolith/mesolith/internal/wire"
)

// notes is a Machine that keeps entries.
type notes struct {
	mu  sync.Mutex
	all []string
}

func (n *notes) Apply(_, _ uint64, entry []byte) any {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, string(entry))
	var size int
	if _, err := fmt.Sscanf(string(entry), "as long as %d", &size); err == nil {
		n.all = append(n.all, strings.Repeat("x", size))
	}
	return len(n.all)
}

type text string

func (t text) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, string(t))
	return int64(n), err
}

func (n *notes) Snapshot() (io.WriterTo, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return text(strings.Join(n.all, "\n")), nil
}

func (n *notes) Restore(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = nil
	for line := range strings.SplitSeq(string(raw), "\n") {
		if line != "" {
			n.all = append(n.all, line)
		}
	}
	return nil
}

func (n *notes) has(s string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, x := range n.all {
		if x == s {
			return true
		}
	}
	return false
}

// wires connects masters by name in memory.
type wires struct {
	mu    sync.Mutex
	doors map[string]*hall // name/alpn
}

type hall struct {
	in     chan *call
	closed chan struct{}
	once   sync.Once
}

type call struct {
	net.Conn
	name, incarnation string
}

func (h *hall) Accept() (net.Conn, error) {
	select {
	case c := <-h.in:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}
func (h *hall) Close() error   { h.once.Do(func() { close(h.closed) }); return nil }
func (h *hall) Addr() net.Addr { return nil }

type port struct {
	w                 *wires
	name, incarnation string
}

func (p *port) Listener(alpn string) net.Listener {
	h := &hall{in: make(chan *call), closed: make(chan struct{})}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.doors[p.name+"/"+alpn] = h
	return h
}

func (p *port) Dial(ctx context.Context, name, alpn string) (net.Conn, error) {
	p.w.mu.Lock()
	h := p.w.doors[name+"/"+alpn]
	p.w.mu.Unlock()
	if h == nil {
		return nil, errors.New("nobody there")
	}
	ours, theirs := net.Pipe()
	select {
	case h.in <- &call{theirs, p.name, p.incarnation}:
		return &call{ours, name, ""}, nil
	case <-h.closed:
		return nil, errors.New("nobody there any more")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *port) Peer(c net.Conn) (string, string) {
	x := c.(*call)
	return x.name, x.incarnation
}

const beat = 100 * time.Millisecond

type site struct {
	t     *testing.T
	wires *wires
	names []string
	dirs  map[string]string
	boots map[string]int
	on    map[string]*one
	disks bool
	twins twins
	// hardware of each machine, and what an operator said to each, by name.
	hardware map[string]string
	admitted map[string]map[string]birth.Word
}

type one struct {
	m     *Masters
	notes *notes
	stop  func()
	mu    sync.Mutex
	terms []Term
}

func newSite(t *testing.T, disks bool, names ...string) *site {
	s := &site{t: t, wires: &wires{doors: map[string]*hall{}}, names: names, dirs: map[string]string{}, boots: map[string]int{}, on: map[string]*one{}, disks: disks}
	t.Cleanup(func() {
		for _, n := range names {
			s.off(n)
		}
	})
	return s
}

// boot starts a machine that has forgotten everything.
func (s *site) boot(names ...string) {
	for _, n := range names {
		s.boots[n]++
		s.dirs[n] = s.t.TempDir()
		s.start(n)
	}
}

// start runs the program on what the machine has.
func (s *site) start(n string) {
	incarnation := fmt.Sprint("boot", s.boots[n])
	o := &one{notes: &notes{}}
	o.m = New(Config{
		Dir: s.dirs[n], Self: n, Incarnation: incarnation, ClusterID: "cluster", List: s.names, ListVersion: 1, Disks: s.disks,
		Wait: 3 * time.Second, Heartbeat: beat, Stall: 5 * time.Second, Machine: o.notes, Port: &port{s.wires, n, incarnation},
		Lead: func(ctx context.Context, t Term) error {
			o.mu.Lock()
			o.terms = append(o.terms, t)
			o.mu.Unlock()
			<-ctx.Done()
			return nil
		},
		Twin: func() (string, string, bool) {
			heard, _ := s.twins.of(n)
			return "twin", "10.7.0.9:5052", heard
		},
		Lives: func(context.Context, string) (string, bool) {
			_, proves := s.twins.of(n)
			return "twin", proves
		},
		Hardware: s.hardwareOf(n, o),
		Log:      slog.New(slog.NewTextHandler(testLog{s.t, n}, nil)),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.m.Run(ctx) }()
	o.stop = func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("%s: %v", n, err)
		}
	}
	s.on[n] = o
}

type testLog struct {
	t    *testing.T
	name string
}

func (l testLog) Write(p []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Logf("%s: %s", l.name, p)
	}
	return len(p), nil
}

func (s *site) off(names ...string) {
	for _, n := range names {
		if o := s.on[n]; o != nil {
			delete(s.on, n)
			o.stop()
		}
	}
}

func (s *site) eventually(what string, ok func() bool) {
	s.t.Helper()
	end := time.Now().Add(90 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			for n, o := range s.on {
				st, _ := o.m.Status()
				s.t.Logf("%s: %+v", n, st)
			}
			s.t.Fatalf("%s did not happen", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// write commits one note through whoever leads.
func (s *site) write(note string) birth.Generation {
	s.t.Helper()
	var g birth.Generation
	s.eventually("writing "+note, func() bool {
		for _, o := range s.on {
			if st, _ := o.m.Status(); !st.Leading {
				continue
			}
			o.mu.Lock()
			t := o.terms[len(o.terms)-1]
			o.mu.Unlock()
			ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Second)
			_, err := t.Log.Propose(ctx, []byte(note))
			cancel()
			if err == nil {
				g = t.Generation
				return true
			}
		}
		return false
	})
	return g
}

// full waits until every running master votes in one generation with n members.
func (s *site) full() {
	s.t.Helper()
	s.eventually("a full configuration", func() bool {
		for _, o := range s.on {
			st, _ := o.m.Status()
			if !st.Leading {
				continue
			}
			o.mu.Lock()
			t := o.terms[len(o.terms)-1]
			o.mu.Unlock()
			members, _, err := t.Log.Members()
			if err != nil || len(members) != len(s.names) {
				return false
			}
			for _, m := range members {
				if !m.Votes || m.Placeholder() || m.Incarnation != fmt.Sprint("boot", s.boots[m.Name]) && !strings.HasPrefix(m.Incarnation, fmt.Sprint("boot", s.boots[m.Name], ".")) {
					return false
				}
			}
			return true
		}
		return false
	})
}

func (s *site) everywhere(note string) {
	s.t.Helper()
	s.eventually(note+" everywhere", func() bool {
		for _, o := range s.on {
			if !o.notes.has(note) {
				return false
			}
		}
		return true
	})
}

func TestThreeAreBornAndReplaceOneAnother(t *testing.T) {
	synctest.Test(t, threeAreBornAndReplaceOneAnother)
}

func threeAreBornAndReplaceOneAnother(t *testing.T) {
	s := newSite(t, false, "m1", "m2", "m3")
	s.boot("m1", "m2", "m3")
	g := s.write("first")
	s.everywhere("first")
	// One after the other forgets everything; the generation lives on.
	for _, n := range s.names {
		s.off(n)
		s.boot(n)
		s.full()
		if again := s.write("after " + n); again != g {
			t.Fatalf("another generation after %s rebooted", n)
		}
		s.everywhere("first")
	}
}

// A cluster's state may be larger than any frame between nodes.
func TestRebirthWithALargeState(t *testing.T) { synctest.Test(t, rebirthWithALargeState) }

func rebirthWithALargeState(t *testing.T) {
	s := newSite(t, false, "m1", "m2", "m3")
	s.boot("m1", "m2", "m3")
	s.write(fmt.Sprintf("as long as %d", wire.MaxFrame+12345))
	s.write("kept")
	s.everywhere("kept")
	s.off("m1", "m2")
	s.boot("m1", "m2")
	s.write("new")
	s.everywhere("kept")
	s.everywhere(strings.Repeat("x", wire.MaxFrame+12345))
}

func TestRebirthFromASurvivor(t *testing.T) { synctest.Test(t, rebirthFromASurvivor) }

func rebirthFromASurvivor(t *testing.T) {
	s := newSite(t, false, "m1", "m2", "m3")
	s.boot("m1", "m2", "m3")
	g := s.write("kept")
	s.everywhere("kept")
	s.off("m2", "m3")
	s.boot("m2", "m3")
	again := s.write("new")
	if again == g || again.Height <= g.Height {
		t.Errorf("generation %+v after %+v", again, g)
	}
	s.everywhere("kept")
	s.full()
}

func TestColdStartOfAllIsAnEmptyBirth(t *testing.T) { synctest.Test(t, coldStartOfAllIsAnEmptyBirth) }

func coldStartOfAllIsAnEmptyBirth(t *testing.T) {
	s := newSite(t, false, "m1", "m2", "m3")
	s.boot("m1", "m2", "m3")
	g := s.write("gone")
	s.off(s.names...)
	s.boot(s.names...)
	if again := s.write("new"); again.ID == g.ID {
		t.Error("the same generation")
	}
	for n, o := range s.on {
		if o.notes.has("gone") {
			t.Errorf("%s remembers", n)
		}
	}
}

func TestRestartOfAllProgramsLosesNothing(t *testing.T) {
	synctest.Test(t, restartOfAllProgramsLosesNothing)
}

func restartOfAllProgramsLosesNothing(t *testing.T) {
	s := newSite(t, false, "m1", "m2", "m3")
	s.boot("m1", "m2", "m3")
	g := s.write("kept")
	s.off(s.names...)
	for _, n := range s.names {
		s.start(n)
	}
	if again := s.write("new"); again != g {
		t.Errorf("generation %+v after %+v", again, g)
	}
	s.everywhere("kept")
}

func TestWithDisksAMajorityAloneFoundsNothing(t *testing.T) {
	synctest.Test(t, withDisksAMajorityAloneFoundsNothing)
}

func withDisksAMajorityAloneFoundsNothing(t *testing.T) {
	s := newSite(t, true, "m1", "m2", "m3")
	s.boot("m1", "m2")
	s.eventually("the reason", func() bool {
		st, _ := s.on["m1"].m.Status()
		return strings.Contains(st.Why, "waiting for 1 of 3 masters: [m3]")
	})
	time.Sleep(6 * time.Second) // twice the wait that would do without disks
	if st, _ := s.on["m1"].m.Status(); st.Generation.ID != "" {
		t.Fatal("founded without the third")
	}
	s.boot("m3")
	s.write("first")
}

func TestOneMasterAlone(t *testing.T) { synctest.Test(t, oneMasterAlone) }

func oneMasterAlone(t *testing.T) {
	s := newSite(t, true, "m1")
	s.boot("m1")
	g := s.write("first")
	s.off("m1")
	s.start("m1")
	if again := s.write("second"); again != g {
		t.Errorf("generation %+v after %+v", again, g)
	}
	s.everywhere("first")
}

// A master that was off while the others forgot everything and founded anew, without
// hearing of its generation and so at the same height, comes over to them.
func TestALateSurvivorComesOver(t *testing.T) { synctest.Test(t, aLateSurvivorComesOver) }

func aLateSurvivorComesOver(t *testing.T) {
	s := newSite(t, false, "m1", "m2", "m3")
	s.boot("m1", "m2", "m3")
	g := s.write("old")
	s.everywhere("old")
	s.off("m1", "m2", "m3")
	s.boot("m1", "m2")
	again := s.write("new")
	if again.ID == g.ID {
		t.Fatal("the same generation")
	}
	s.start("m3")
	s.full()
	s.everywhere("new")
	if s.on["m3"].notes.has("old") {
		t.Error("m3 mixes two histories")
	}
}

// Agents refuse lower generations than they saw: what they say counts.
func TestAnAgentsHeightIsHeard(t *testing.T) { synctest.Test(t, anAgentsHeightIsHeard) }

func anAgentsHeightIsHeard(t *testing.T) {
	s := newSite(t, false, "m1", "m2", "m3")
	s.boot("m1", "m2", "m3")
	s.on["m3"].m.Heard(41)
	if g := s.write("first"); g.Height != 42 {
		t.Errorf("height %d", g.Height)
	}
}
