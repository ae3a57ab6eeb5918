package replica

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// fsm puts a Machine under the library.
type fsm struct {
	m    Machine
	disk Disk
	fail func(error)
}

// Apply implements raft.FSM. An entry that this program cannot apply ends the replica:
// to go on would be to differ from the others.
func (f *fsm) Apply(l *raft.Log) any {
	var out any
	if err := f.disk.Do(Step{Point: EntryApply}, func() error { out = f.m.Apply(l.Index, l.Term, l.Data); return nil }); err != nil {
		f.fail(fmt.Errorf("entry %d of term %d: %w", l.Index, l.Term, err))
		return err
	}
	if x, ok := out.(interface{ Fatal() error }); ok && x.Fatal() != nil {
		f.fail(fmt.Errorf("entry %d of term %d: %w", l.Index, l.Term, x.Fatal()))
	}
	return out
}

// Snapshot implements raft.FSM: the copy is made here, the writing comes later.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	w, err := f.m.Snapshot()
	if err != nil {
		return nil, err
	}
	return &snapshot{w}, nil
}

// Restore implements raft.FSM. A snapshot that this program cannot take in, as one of a
// newer version, ends the replica: the library would go back to an older one.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	err := f.disk.Do(Step{Point: StateRestore}, func() error { return f.m.Restore(r) })
	if err != nil {
		err = fmt.Errorf("restore a snapshot: %w", err)
		f.fail(err)
	}
	return err
}

type snapshot struct{ w io.WriterTo }

// Persist implements raft.FSMSnapshot.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := s.w.WriteTo(sink); err != nil {
		sink.Cancel()
		return err
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (s *snapshot) Release() {}

func quiet() hclog.Logger { return hclog.NewNullLogger() }

// adapt lets the library's words arrive as ours, at the levels that people want to see.
func adapt(l *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Warn, Output: &lines{l}, DisableTime: true, JSONFormat: false})
}

// lines turns each of the library's lines into one record.
type lines struct{ l *slog.Logger }

// Write implements io.Writer.
func (w *lines) Write(p []byte) (int, error) {
	text := string(p)
	for len(text) > 0 && text[len(text)-1] == '\n' {
		text = text[:len(text)-1]
	}
	level := slog.LevelInfo
	if len(text) > 7 && (text[:7] == "[ERROR]") {
		level = slog.LevelWarn
	}
	w.l.Log(context.Background(), level, "raft library", "says", text)
	return len(p), nil
}
