package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// badDisk fails or hangs at the n-th step of one kind.
type badDisk struct {
	mu    sync.Mutex
	point Point
	left  int
	hang  chan struct{} // nil: the step fails
	hit   bool
}

func (d *badDisk) Do(s Step, f func() error) error {
	d.mu.Lock()
	now := s.Point == d.point && d.left == 1
	if s.Point == d.point && d.left > 0 {
		d.left--
	}
	d.hit = d.hit || now
	d.mu.Unlock()
	switch {
	case now && d.hang != nil:
		<-d.hang
	case now:
		return fmt.Errorf("%s: %w", s.Point, syscall.EIO)
	}
	return f()
}

func (d *badDisk) bite(p Point, n int, hang chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.point, d.left, d.hang, d.hit = p, n, hang, false
}

func (tr *trio) config(v Voter, d Disk) Config {
	tr.machines[v.Name] = &counter{}
	return Config{
		Dir: filepath.Join(tr.dir, v.Name), Self: v, Generation: tr.gen, Machine: tr.machines[v.Name], Links: tr.room.open(v),
		Heartbeat: heartbeat, Stall: 5 * time.Second, Disk: d, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func (tr *trio) startOn(v Voter, d Disk) *Replica {
	tr.t.Helper()
	r, err := Open(tr.config(v, d))
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.open[v.Name] = r
	return r
}

// A disk that fails once, at whatever step of the log, ends the replica; its directory is
// opened anew in the same program and nothing that was acknowledged is missing.
func TestAFailedWriteEndsTheReplicaWhichIsOpenedAnew(t *testing.T) {
	for _, point := range []Point{LogWrite, LogFlush, TermWrite, VoteWrite} {
		t.Run(string(point), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { failOnce(t, point) })
		})
	}
}

func failOnce(t *testing.T, point Point) {
	tr := newTrio(t, "")
	name, r := tr.leader()
	if _, err := r.Propose(t.Context(), []byte("first")); err != nil {
		t.Fatal(err)
	}
	tr.close(name)
	bad := &badDisk{}
	tr.startOn(Voter{name, "i1"}, bad)
	other, r2 := tr.leader()
	for other == name {
		if err := r2.Handover(t.Context()); err != nil {
			t.Log(err)
		}
		time.Sleep(heartbeat)
		other, r2 = tr.leader()
	}
	bad.bite(point, 1, nil)
	if point == TermWrite || point == VoteWrite {
		tr.close(other) // so that an election is held
	} else if _, err := r2.Propose(t.Context(), []byte("second")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-tr.open[name].Failed():
	case <-time.After(time.Minute):
		t.Fatalf("a failed step %q did not end the replica; it happened: %v", point, bad.hit)
	}
	if err := tr.open[name].Failure(); !errors.Is(err, syscall.EIO) {
		t.Errorf("failure: %v", err)
	}
	tr.close(name) // an error here would mean that it cannot be opened again
	bad.bite(TermWrite, 1, nil)
	if r, err := Open(tr.config(Voter{name, "i1"}, bad)); err == nil { // it may start without saving its term
		tr.open[name] = r
		tr.close(name)
	} else if !errors.Is(err, syscall.EIO) {
		t.Errorf("opened on a bad disk: %v", err)
	}
	tr.startOn(Voter{name, "i1"}, bad)
	if tr.open[other] == nil {
		tr.start(Voter{other, "i1"})
	}
	_, r3 := tr.leader()
	if _, err := r3.Propose(t.Context(), []byte("third")); err != nil {
		t.Fatal(err)
	}
	tr.eventually("catching up", func() bool { return tr.machines[name].has("first") && tr.machines[name].has("third") })
}

// While a write hangs its directory is not opened again; as soon as it has ended it may be.
func TestAHungReplicaLetsItsDirectoryGoWhenTheWriteEnds(t *testing.T) {
	synctest.Test(t, hungReplicaLetsGo)
}

func hungReplicaLetsGo(t *testing.T) {
	tr := newTrio(t, "")
	name, _ := tr.leader()
	tr.close(name)
	bad, release := &badDisk{}, make(chan struct{})
	v := Voter{name, "i1"}
	hung := tr.startOn(v, bad)
	_, r := tr.leader()
	bad.bite(LogFlush, 1, release)
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for { // its own leader may be the one that hangs
		if _, err := r.Propose(ctx, []byte("second")); err == nil {
			break
		}
		_, r = tr.leader()
	}
	<-hung.Failed()
	if took := time.Since(began); took > 5*time.Second+20*heartbeat {
		t.Errorf("noticed after %s", took)
	}
	delete(tr.open, name)
	if err := hung.Close(); !errors.Is(err, ErrStalled) {
		t.Errorf("closed while a write hangs: %v", err)
	}
	select {
	case <-hung.Closed():
		t.Error("the directory is let go while a write hangs")
	default:
	}
	close(release)
	<-hung.Closed()
	tr.startOn(v, bad)
	tr.eventually("catching up", func() bool { return tr.machines[name].has("second") })
}
