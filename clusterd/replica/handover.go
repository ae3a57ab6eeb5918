package replica

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
)

// HandOver reads everything that the directory of a closed replica holds: its newest
// snapshot and the whole log after it, also the entries of which this server never
// learned that they are committed, because they may have been acknowledged. The Machine
// is left in that state, which is returned as a snapshot with its position; a directory
// that holds nothing gives a zero position.
//
// It is for a generation that is dead: entries that were never committed count with the
// others from then on.
func HandOver(dir string, m Machine) (end Left, err error) {
	fail := func(err error) (Left, error) {
		return Left{}, fmt.Errorf("read what is left in %s: %w", dir, err)
	}
	if err := m.Restore(bytes.NewReader(nil)); err != nil {
		return fail(err)
	}
	if end, err = restoreNewest(dir, m); err != nil {
		return fail(err)
	}
	if end, err = replay(filepath.Join(dir, "wal"), m, end); err != nil {
		return fail(err)
	}
	if end.LastIndex == 0 {
		return end, nil
	}
	w, err := m.Snapshot()
	if err != nil {
		return fail(err)
	}
	var buf bytes.Buffer
	if _, err := w.WriteTo(&buf); err != nil {
		return fail(err)
	}
	end.State = buf.Bytes()
	return end, nil
}

// Left is what HandOver finds.
type Left struct {
	Position
	State  []byte
	Voters []Voter // newest configuration
}

func restoreNewest(dir string, m Machine) (Left, error) {
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotRetain, quiet())
	if err != nil {
		return Left{}, err
	}
	list, err := snaps.List()
	if err != nil || len(list) == 0 {
		return Left{}, err
	}
	meta, r, err := snaps.Open(list[0].ID)
	if err != nil {
		return Left{}, err
	}
	defer r.Close()
	if err := m.Restore(r); err != nil {
		return Left{}, err
	}
	return Left{Position: Position{LastTerm: meta.Term, LastIndex: meta.Index, AppliedIndex: meta.Index}, Voters: votersIn(meta.Configuration)}, nil
}

// replay applies the log after a snapshot.
func replay(dir string, m Machine, from Left) (Left, error) {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return from, nil
	}
	log, err := openLog(dir, atOnce{}, ofCluster().Segment)
	if err != nil {
		return from, err
	}
	defer log.Close()
	last, err := log.LastIndex()
	if err != nil {
		return from, err
	}
	for i := from.LastIndex + 1; i <= last; i++ {
		var l raft.Log
		if err := log.GetLog(i, &l); err != nil {
			return from, fmt.Errorf("entry %d: %w", i, err)
		}
		switch l.Type {
		case raft.LogConfiguration:
			from.Voters = votersIn(raft.DecodeConfiguration(l.Data))
		case raft.LogCommand:
			out := m.Apply(l.Index, l.Term, l.Data)
			if x, ok := out.(interface{ Fatal() error }); ok && x.Fatal() != nil {
				return from, fmt.Errorf("entry %d of term %d: %w", l.Index, l.Term, x.Fatal())
			}
		}
		from.LastTerm, from.LastIndex, from.AppliedIndex = l.Term, l.Index, l.Index
	}
	return from, nil
}

// Holds says whether the directory of a closed replica holds anything of its generation.
func Holds(dir string) (bool, error) {
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotRetain, quiet())
	if err != nil {
		return false, fmt.Errorf("look into %s: %w", dir, err)
	}
	list, err := snaps.List()
	if err != nil || len(list) > 0 {
		return true, err
	}
	if _, err := os.Stat(filepath.Join(dir, "wal")); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	s, err := openStore(filepath.Join(dir, "wal"), atOnce{}, ofCluster().Segment, time.Minute, func(error) {})
	if err != nil {
		return true, fmt.Errorf("look into %s: %w", dir, err)
	}
	last, err := s.LastIndex()
	return last > 0 || err != nil, errors.Join(err, s.close())
}

func votersIn(c raft.Configuration) (out []Voter) {
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter {
			out = append(out, voterOf(s.ID))
		}
	}
	return out
}
