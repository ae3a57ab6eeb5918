package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// The survivor of a dead generation may hold entries that were acknowledged by a leader
// that died before it could say so: they are handed over with the rest.
func TestHandOverHoldsWhatWasNeverKnownToBeCommitted(t *testing.T) {
	dir := t.TempDir()
	self, g := Voter{"a", "i1"}, Generation{Height: 4, ID: "g4"}
	if err := Found(dir, self, g, []Voter{self, {"b", "i1"}, {"c", ""}}, []byte("first\n")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := openStore(filepath.Join(dir, "wal"), time.Minute, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(2); i < 10; i++ {
		l := &raft.Log{Index: i, Term: 7, Type: raft.LogCommand, Data: fmt.Append(nil, "x", i)}
		if i == 5 {
			l = &raft.Log{Index: i, Term: 7, Type: raft.LogNoop}
		}
		if err := log.StoreLog(l); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and again: it changes nothing
		m := &counter{entries: []string{"of another life"}}
		state, end, err := HandOver(dir, m)
		if err != nil {
			t.Fatal(err)
		}
		if end.LastIndex != 9 || end.LastTerm != 7 {
			t.Errorf("%+v", end)
		}
		want := "first\nx2\nx3\nx4\nx6\nx7\nx8\nx9\n"
		if string(state) != want {
			t.Errorf("handed over %q, want %q", state, want)
		}
	}
	if holds, err := Holds(dir); !holds || err != nil {
		t.Errorf("%v %v", holds, err)
	}
}

func TestAnEmptyDirectoryHoldsNothing(t *testing.T) {
	dir := t.TempDir()
	if err := Join(dir, Voter{"a", "i1"}, Generation{1, "g"}); err != nil {
		t.Fatal(err)
	}
	if holds, err := Holds(dir); holds || err != nil {
		t.Errorf("%v %v", holds, err)
	}
	state, end, err := HandOver(dir, &counter{})
	if err != nil || end != (Position{}) || len(state) != 0 {
		t.Errorf("%q %+v %v", state, end, err)
	}
}

// The library's own answer to where its configuration stands is always 0, which would
// let a change through that was decided on an older one.
func TestAChangeOfAnOlderConfigurationIsRefused(t *testing.T) {
	synctest.Test(t, aChangeOfAnOlderConfigurationIsRefused)
}

func aChangeOfAnOlderConfigurationIsRefused(t *testing.T) {
	tr := newTrio(t, "")
	_, r := tr.leader()
	_, first, err := r.Members()
	if err != nil || first == 0 {
		t.Fatalf("index %d, %v", first, err)
	}
	if err := r.AddLearner(t.Context(), Voter{"d", "i1"}, first); err != nil {
		t.Fatal(err)
	}
	_, second, err := r.Members()
	if err != nil || second <= first {
		t.Fatalf("index %d after %d, %v", second, first, err)
	}
	if err := r.Remove(t.Context(), Voter{"d", "i1"}, first); err == nil {
		t.Error("a change on top of an older configuration was taken")
	}
	if err := r.Remove(t.Context(), Voter{"d", "i1"}, second); err != nil {
		t.Error(err)
	}
	// It is the same after a restart, from the log or from a snapshot.
	_, want, err := r.Members()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range tr.voters {
		tr.close(v.Name)
	}
	for _, v := range tr.voters {
		tr.start(v)
	}
	_, r = tr.leader()
	if _, got, err := r.Members(); got != want || err != nil {
		t.Errorf("index %d after a restart, %d before; %v", got, want, err)
	}
}

// While a write hangs the library takes no request at all: callers must not hang with it.
func TestAHungWriteHoldsNoCaller(t *testing.T) {
	tr := newTrio(t, "")
	_, r := tr.leader()
	r.log.mu.Lock() // the next write waits
	defer r.log.mu.Unlock()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 2*heartbeat)
		_, err := r.Propose(ctx, []byte("x"))
		cancel()
		if !errors.Is(err, ErrUnknownOutcome) && !errors.Is(err, ErrNotLeader) {
			t.Errorf("%v", err)
		}
	}
}
