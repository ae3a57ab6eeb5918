package replica

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// counter is a Machine that keeps every entry, in order.
type counter struct {
	mu      sync.Mutex
	entries []string
}

func (c *counter) Apply(index, term uint64, entry []byte) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries = append(c.entries, string(entry))
	return len(c.entries)
}

type frozen []string

func (f frozen) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, strings.Join(f, "\n")+"\n")
	return int64(n), err
}

func (c *counter) Snapshot() (io.WriterTo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return frozen(append([]string(nil), c.entries...)), nil
}

func (c *counter) Restore(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries = nil
	for _, l := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
		if l != "" {
			c.entries = append(c.entries, l)
		}
	}
	return nil
}

func (c *counter) has(entry string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		if e == entry {
			return true
		}
	}
	return false
}

// room connects replicas in memory by name; whoever listens under a name is found.
type room struct {
	mu     sync.Mutex
	doors  map[string]chan incoming
	closed map[string]bool // cut off
	links  []link
}

type link struct {
	from, to string
	conn     net.Conn
}

type incoming struct {
	conn net.Conn
	from Voter
}

type door struct {
	room *room
	self Voter
	in   chan incoming
}

func (r *room) open(self Voter) *door {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := &door{r, self, make(chan incoming)}
	r.doors[self.Name] = d.in
	return d
}

func (r *room) cut(name string, cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed[name] = cut
	for _, l := range r.links {
		if cut && (l.from == name || l.to == name) {
			l.conn.Close()
		}
	}
}

func (d *door) Dial(ctx context.Context, name string) (net.Conn, error) {
	d.room.mu.Lock()
	to := d.room.doors[name]
	cut := d.room.closed[name] || d.room.closed[d.self.Name]
	d.room.mu.Unlock()
	if to == nil || cut {
		return nil, errors.New("no route")
	}
	a, b := net.Pipe()
	select {
	case to <- incoming{b, d.self}:
		d.room.mu.Lock()
		d.room.links = append(d.room.links, link{d.self.Name, name, a})
		d.room.mu.Unlock()
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (d *door) Accept(ctx context.Context) (net.Conn, Voter, error) {
	select {
	case i := <-d.in:
		return i.conn, i.from, nil
	case <-ctx.Done():
		return nil, Voter{}, ctx.Err()
	}
}

const heartbeat = 150 * time.Millisecond

type trio struct {
	t        *testing.T
	room     *room
	dir      string
	gen      Generation
	voters   []Voter
	machines map[string]*counter
	open     map[string]*Replica
}

func newTrio(t *testing.T, first string) *trio {
	tr := &trio{
		t: t, dir: t.TempDir(), room: &room{doors: map[string]chan incoming{}, closed: map[string]bool{}},
		gen: Generation{Height: 1, ID: "g1"}, machines: map[string]*counter{}, open: map[string]*Replica{},
	}
	for _, n := range []string{"a", "b", "c"} {
		tr.voters = append(tr.voters, Voter{n, "i1"})
	}
	for _, v := range tr.voters {
		if err := Found(filepath.Join(tr.dir, v.Name), v, tr.gen, tr.voters, []byte(first)); err != nil {
			t.Fatal(err)
		}
		tr.start(v)
	}
	t.Cleanup(func() {
		for _, r := range tr.open {
			r.Close()
		}
	})
	return tr
}

func (tr *trio) start(v Voter) *Replica {
	tr.t.Helper()
	m := &counter{}
	tr.machines[v.Name] = m
	r, err := Open(Config{
		Dir: filepath.Join(tr.dir, v.Name), Self: v, Generation: tr.gen, Machine: m, Links: tr.room.open(v),
		Heartbeat: heartbeat, Stall: 5 * time.Second, Pulse: &Pulse{}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.open[v.Name] = r
	return r
}

func (tr *trio) close(name string) {
	tr.t.Helper()
	if err := tr.open[name].Close(); err != nil {
		tr.t.Error(err)
	}
	delete(tr.open, name)
}

// leader waits for one that can commit.
func (tr *trio) leader() (string, *Replica) {
	tr.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		for name, r := range tr.open {
			if l, _ := r.Leadership(); l.Leading {
				ctx, cancel := context.WithTimeout(tr.t.Context(), 5*time.Second)
				err := r.Barrier(ctx)
				cancel()
				if err == nil {
					return name, r
				}
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	tr.t.Fatal("no leader")
	return "", nil
}

func (tr *trio) eventually(what string, ok func() bool) {
	tr.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			tr.t.Fatalf("%s did not happen", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestElectProposeAndSurviveTheLeader(t *testing.T) {
	synctest.Test(t, electProposeAndSurviveTheLeader)
}

func electProposeAndSurviveTheLeader(t *testing.T) {
	tr := newTrio(t, "zero\n")
	name, r := tr.leader()
	if !tr.machines[name].has("zero") {
		t.Error("the first snapshot did not reach the machine")
	}
	for i := range 20 {
		if _, err := r.Propose(t.Context(), fmt.Append(nil, "x", i)); err != nil {
			t.Fatal(err)
		}
	}
	tr.close(name)
	second, r2 := tr.leader()
	if second == name {
		t.Fatal("the closed one leads")
	}
	for i := range 20 {
		if !tr.machines[second].has(fmt.Sprint("x", i)) {
			t.Errorf("acknowledged entry %d is lost", i)
		}
	}
	if out, err := r2.Propose(t.Context(), []byte("y")); err != nil || out != 22 {
		t.Errorf("%v %v", out, err)
	}
	tr.start(Voter{name, "i1"})
	tr.eventually("catching up", func() bool { return tr.machines[name].has("y") })
	if _, err := tr.open[name].Propose(t.Context(), []byte("z")); err == nil {
		t.Error("a follower accepted a proposal")
	}
}

func TestRestartedAllKeepEverything(t *testing.T) { synctest.Test(t, restartedAllKeepEverything) }

func restartedAllKeepEverything(t *testing.T) {
	tr := newTrio(t, "")
	_, r := tr.leader()
	for i := range 50 {
		if _, err := r.Propose(t.Context(), fmt.Append(nil, "x", i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range tr.voters {
		tr.close(v.Name)
	}
	for _, v := range tr.voters {
		tr.start(v)
	}
	name, _ := tr.leader()
	for i := range 50 {
		if !tr.machines[name].has(fmt.Sprint("x", i)) {
			t.Errorf("entry %d is lost", i)
		}
	}
}

// A machine that forgot everything answers on the same name: it must neither be counted
// as its predecessor nor take part before it is let in, and then it is.
func TestEmptySuccessorIsNotItsPredecessor(t *testing.T) {
	synctest.Test(t, emptySuccessorIsNotItsPredecessor)
}

func emptySuccessorIsNotItsPredecessor(t *testing.T) {
	tr := newTrio(t, "")
	name, r := tr.leader()
	var gone, other string
	for _, v := range tr.voters {
		if v.Name != name && gone == "" {
			gone = v.Name
		} else if v.Name != name {
			other = v.Name
		}
	}
	tr.close(gone)
	fresh := Voter{gone, "i2"}
	tr.dir = t.TempDir()
	if err := Join(filepath.Join(tr.dir, gone), fresh, tr.gen); err != nil {
		t.Fatal(err)
	}
	tr.start(fresh)
	tr.room.cut(other, true)
	// One real voter of three is left: nothing may be acknowledged.
	ctx, cancel := context.WithTimeout(t.Context(), 10*heartbeat)
	_, err := r.Propose(ctx, []byte("lost"))
	cancel()
	if err == nil {
		t.Fatal("acknowledged with one real voter of three")
	}
	tr.room.cut(other, false)
	_, r = tr.leader()
	members, prev, err := r.Members()
	if err != nil || len(members) != 3 {
		t.Fatalf("%v %v", members, err)
	}
	if err := r.AddLearner(t.Context(), fresh, prev); err != nil {
		t.Fatal(err)
	}
	tr.eventually("catching up", func() bool { return r.CaughtUp(fresh, r.Position().LastIndex) })
	for _, step := range []func(context.Context, Voter, uint64) error{
		func(ctx context.Context, _ Voter, prev uint64) error { return r.Remove(ctx, Voter{gone, "i1"}, prev) },
		r.AddVoter,
	} {
		if _, prev, err = r.Members(); err != nil {
			t.Fatal(err)
		}
		if err := step(t.Context(), fresh, prev); err != nil {
			t.Fatal(err)
		}
	}
	if members, _, _ = r.Members(); len(members) != 3 {
		t.Errorf("%v", members)
	}
	if _, err := r.Propose(t.Context(), []byte("after")); err != nil {
		t.Fatal(err)
	}
	tr.eventually("the newcomer's copy", func() bool { return tr.machines[gone].has("after") })
}

func TestAnotherGenerationIsRefused(t *testing.T) { synctest.Test(t, anotherGenerationIsRefused) }

func anotherGenerationIsRefused(t *testing.T) {
	tr := newTrio(t, "")
	tr.leader()
	stranger := tr.room.open(Voter{"d", "i1"})
	layer := newStreamLayer(Config{Self: Voter{"d", "i1"}, Generation: Generation{Height: 1, ID: "other"}, Links: stranger, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, make(chan struct{}))
	defer layer.Close()
	if _, err := layer.Dial("a/i1", time.Second); err == nil || !strings.Contains(err.Error(), "generation other") {
		t.Errorf("%v", err)
	}
	if _, err := layer.Dial("a/i9", time.Second); err == nil {
		t.Error("a call for another incarnation was taken")
	}
}

func TestAHungWriteEndsTheReplica(t *testing.T) {
	failed := make(chan error, 1)
	s := &store{stall: 20 * time.Millisecond, fail: func(err error) { failed <- err }}
	release := make(chan struct{})
	defer close(release)
	err := s.guard("write", func() error { <-release; return nil })
	if !errors.Is(err, ErrStalled) || !errors.Is(<-failed, ErrStalled) {
		t.Errorf("%v", err)
	}
	if err := s.guard("write", func() error { t.Error("written after a failure"); return nil }); err == nil {
		t.Error("the store goes on after a hung write")
	}
}

func TestBigLogsAreCutBySnapshots(t *testing.T) { synctest.Test(t, bigLogsAreCutBySnapshots) }

func bigLogsAreCutBySnapshots(t *testing.T) {
	tr := newTrio(t, "")
	_, r := tr.leader()
	big := bytes.Repeat([]byte("x"), 200<<10)
	for i := range 60 {
		binary.BigEndian.PutUint32(big, uint32(i)+0x41414141)
		for {
			_, err := r.Propose(t.Context(), big)
			if err == nil {
				break
			}
			t.Log(err) // a slow machine elects anew: that is no fault
			_, r = tr.leader()
		}
	}
	tr.eventually("a snapshot", func() bool {
		found, err := filepath.Glob(filepath.Join(tr.dir, "*", "snapshots", "*-*"))
		return err == nil && len(found) > 3
	})
}
