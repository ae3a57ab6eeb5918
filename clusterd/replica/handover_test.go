package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	log, err := openStore(filepath.Join(dir, "wal"), atOnce{}, ofCluster().Segment, time.Minute, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(2); i < 10; i++ {
		l := &raft.Log{Index: i, Term: 7, Type: raft.LogCommand, Data: fmt.Append(nil, "x", i)}
		switch i {
		case 5:
			l = &raft.Log{Index: i, Term: 7, Type: raft.LogNoop}
		case 6:
			l.Type, l.Data = raft.LogConfiguration, raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{
				{ID: "a/i1", Address: "a/i1"}, {ID: "b/i2", Address: "b/i2"}, {ID: "c/", Address: "c/"}, {ID: "d/i1", Address: "d/i1", Suffrage: raft.Nonvoter},
			}})
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
		end, err := HandOver(dir, m)
		if err != nil {
			t.Fatal(err)
		}
		if end.LastIndex != 9 || end.LastTerm != 7 {
			t.Errorf("%+v", end)
		}
		want := "first\nx2\nx3\nx4\nx7\nx8\nx9\n"
		if string(end.State) != want {
			t.Errorf("handed over %q, want %q", end.State, want)
		}
		if want := []Voter{{"a", "i1"}, {"b", "i2"}, {"c", ""}}; !slices.Equal(end.Voters, want) {
			t.Errorf("voters %v, want %v", end.Voters, want)
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
	end, err := HandOver(dir, &counter{})
	if err != nil || end.Position != (Position{}) || len(end.State) != 0 || len(end.Voters) != 0 {
		t.Errorf("%+v %v", end, err)
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

// A follower whose log is cut at its end and written on must be able to read all of it
// again after a restart, however often that happens.
func TestALogThatWasCutIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	term := map[uint64]uint64{} // of every entry that must be there
	for round := uint64(1); round < 6; round++ {
		s, err := openStore(dir, atOnce{}, ofCluster().Segment, time.Minute, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		first, last, err := s.bounds()
		if err != nil || uint64(len(term)) != last || first > 1 {
			t.Fatalf("round %d: entries %d to %d, want %d; %v", round, first, last, len(term), err)
		}
		for i, want := range term {
			var l raft.Log
			if err := s.GetLog(i, &l); err != nil || l.Term != want || string(l.Data) != fmt.Sprint(i, "/", want) {
				t.Fatalf("round %d: entry %d: term %d, want %d; %v", round, i, l.Term, want, err)
			}
		}
		if cut := last - min(last, round); last > 0 { // deeper each time
			if err := s.DeleteRange(cut+1, last); err != nil {
				t.Fatal(err)
			}
			for i := cut + 1; i <= last; i++ {
				delete(term, i)
			}
			last = cut
		}
		for i := last + 1; i < last+10; i++ {
			if err := s.StoreLog(&raft.Log{Index: i, Term: round, Data: fmt.Append(nil, i, "/", round)}); err != nil {
				t.Fatal(err)
			}
			term[i] = round
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
}

// After a snapshot from the leader the log begins anew, far ahead.
func TestALogThatBeginsAnew(t *testing.T) {
	dir := t.TempDir()
	for round := uint64(0); round < 4; round++ {
		s, err := openStore(dir, atOnce{}, ofCluster().Segment, time.Minute, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		first, last, err := s.bounds()
		if err != nil || round > 0 && (first != 1000*round || last != 1000*round+4 || s.lastConfig() != last) {
			t.Fatalf("round %d: entries %d to %d, newest configuration %d; %v", round, first, last, s.lastConfig(), err)
		}
		if last > 0 {
			if err := s.DeleteRange(first, last); err != nil {
				t.Fatal(err)
			}
			if s.lastConfig() != 0 {
				t.Error("a configuration that was cut off is still known")
			}
		}
		for i := 1000 * (round + 1); i < 1000*(round+1)+5; i++ {
			if err := s.StoreLog(&raft.Log{Index: i, Term: 1, Type: raft.LogConfiguration}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
}
