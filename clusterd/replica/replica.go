// Package replica is one voter's part in the replicated log, and the only room that
// knows hashicorp/raft: a Machine goes in, Propose comes out.
//
// A replica belongs to one generation, in a directory of its own: `generation` (which
// one, and this server's id), `wal/` (log, term and vote), `snapshots/`. It begins with
// the generation's first snapshot (Found), or empty, waiting for a leader to add it.
//
// Invariants: a server's id and its address are one and the same, name/incarnation, and
// both ends of every connection prove theirs and the generation before a byte of Raft is
// exchanged; a write that hangs or fails ends this replica (Failed), no flush is tried
// twice; nothing is proposed by who does not lead. One request at a time goes to a
// follower: with several in flight the library can deadlock one after a refused append.
//
// Who may found a generation and who votes in it is decided by discovery/birth and
// carried out by masters; connections come from peers.
package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/mesolith/mesolith/internal/wholefile"
)

var (
	// ErrNotLeader: nothing was proposed.
	ErrNotLeader = errors.New("this master does not lead")
	// ErrUnknownOutcome: the entry may or may not be committed.
	ErrUnknownOutcome = errors.New("leadership ended while an entry was on its way; whether it is committed is not known")
	// ErrStalled: a write hung longer than the limit.
	ErrStalled = errors.New("a write of the log hangs longer than raft.stall")
)

// Machine is what the log drives.
type Machine interface {
	// Apply carries out a committed entry and returns what Propose shall return.
	Apply(index, term uint64, entry []byte) any
	Snapshot() (io.WriterTo, error)
	// Restore replaces everything; no bytes at all mean the beginning.
	Restore(io.Reader) error
}

// Voter is a place in the configuration; without incarnation it is a placeholder for a
// master not seen yet, which nobody can take.
type Voter struct{ Name, Incarnation string }

// placeholder is an incarnation that nobody carries.
const placeholder = "unseen"

// ServerID is the voter's id and address in Raft.
func (v Voter) ServerID() string {
	if v.Incarnation == "" {
		return v.Name + "/" + placeholder
	}
	return v.Name + "/" + v.Incarnation
}

// Generation is one Raft history.
type Generation struct {
	Height uint64 `json:"height"`
	ID     string `json:"id"`
}

// Config is what a replica needs.
type Config struct {
	Dir        string // the generation's own directory
	Self       Voter
	Generation Generation
	Machine    Machine
	Links      Links
	Heartbeat  time.Duration // follower without word for that long: election
	Stall      time.Duration // a write that takes longer ends the replica
	Pulse      *Pulse        // counts heartbeats; nil: nobody does
	Disk       Disk          // nil: every write is made at once
	Sizes      Sizes         // zero: those of a cluster
	Log        *slog.Logger
}

// Sizes say how much log is kept in which pieces.
type Sizes struct {
	Segment  int    // bytes of a file of the log
	Snapshot int64  // bytes of log since the last snapshot that lead to the next one
	Trailing uint64 // entries kept behind a snapshot
}

// ofCluster are the usual ones; an entry is at most 256 KiB.
func ofCluster() Sizes { return Sizes{Segment: 4 << 20, Snapshot: 8 << 20, Trailing: 256} }

// Replica is an open one.
type Replica struct {
	cfg    Config
	raft   *raft.Raft
	log    *store
	snaps  raft.SnapshotStore
	stream *streamLayer
	trans  *raft.NetworkTransport

	failOnce sync.Once
	failed   chan struct{}
	failure  error

	mu      sync.Mutex
	leading Leadership
	changed chan struct{}
	stop    chan struct{}
	closed  chan struct{}
	asking  atomic.Int64 // requests that the library has not answered
	watch   sync.WaitGroup
}

// Leadership is whether this replica leads, and in which term.
type Leadership struct {
	Leading bool
	Term    uint64
}

const snapshotRetain = 2

type identity struct {
	Generation Generation `json:"generation"`
	Server     string     `json:"server"`
}

// FoundedAt is where in the log a generation's first snapshot stands.
const FoundedAt = 1

// Found writes a generation's first snapshot into a new directory: the same state and
// configuration on every voter. When it returns nil this server belongs to the
// generation, whatever happens next.
func Found(dir string, self Voter, g Generation, voters []Voter, state []byte) error {
	if err := os.MkdirAll(filepath.Join(dir, "snapshots"), 0o700); err != nil {
		return fmt.Errorf("found generation: %w", err)
	}
	snaps, err := openSnapshots(dir, atOnce{})
	if err != nil {
		return fmt.Errorf("found generation: %w", err)
	}
	_, encoder := raft.NewInmemTransport("") // the library wants one to write names down
	sink, err := snaps.Create(raft.SnapshotVersionMax, FoundedAt, 1, configuration(voters), FoundedAt, encoder)
	if err != nil {
		return fmt.Errorf("found generation: first snapshot: %w", err)
	}
	if _, err := sink.Write(state); err != nil {
		sink.Cancel()
		return fmt.Errorf("found generation: first snapshot: %w", err)
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("found generation: first snapshot: %w", err)
	}
	return remember(dir, self, g)
}

// Join prepares a directory for a replica that a leader will fill.
func Join(dir string, self Voter, g Generation) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("join generation: %w", err)
	}
	return remember(dir, self, g)
}

var generationKind = wholefile.Kind{Name: "generation", Format: 1}

// remember is the last step: a directory without this file is none.
func remember(dir string, self Voter, g Generation) error {
	raw, err := json.Marshal(identity{g, self.ServerID()})
	if err != nil {
		return err
	}
	if err := generationKind.Write(filepath.Join(dir, "generation"), raw); err != nil {
		return fmt.Errorf("remember generation: %w", err)
	}
	return nil
}

// Remembered says which generation a directory belongs to; os.ErrNotExist: to none.
func Remembered(dir string) (Generation, string, error) {
	path := filepath.Join(dir, "generation")
	raw, err := generationKind.Read(path)
	if errors.Is(err, wholefile.ErrDamaged) {
		err = fmt.Errorf("%w: which generation this master belongs to is lost: %s", err, newNode)
	}
	if err != nil {
		return Generation{}, "", err
	}
	var id identity
	if err := json.Unmarshal(raw, &id); err != nil {
		return Generation{}, "", fmt.Errorf("read %s: %w", path, err)
	}
	return id.Generation, id.Server, nil
}

func configuration(voters []Voter) raft.Configuration {
	var c raft.Configuration
	for _, v := range voters {
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(v.ServerID()), Address: raft.ServerAddress(v.ServerID())})
	}
	return c
}

// Open starts the replica of a directory that Found or Join made.
func Open(cfg Config) (*Replica, error) {
	r, err := open(cfg)
	return r, advise(cfg.Dir, err)
}

func open(cfg Config) (*Replica, error) {
	g, server, err := Remembered(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	if g != cfg.Generation || server != cfg.Self.ServerID() {
		return nil, fmt.Errorf("open replica: %s belongs to %s in generation %s, not to %s in %s", cfg.Dir, server, g.ID, cfg.Self.ServerID(), cfg.Generation.ID)
	}
	if cfg.Disk == nil {
		cfg.Disk = atOnce{}
	}
	if cfg.Sizes == (Sizes{}) {
		cfg.Sizes = ofCluster()
	}
	r := &Replica{cfg: cfg, failed: make(chan struct{}), changed: make(chan struct{}), stop: make(chan struct{}), closed: make(chan struct{})}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "wal"), 0o700); err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	r.log, err = openStore(filepath.Join(cfg.Dir, "wal"), cfg.Disk, cfg.Sizes.Segment, cfg.Stall, r.fail)
	if err != nil {
		return nil, fmt.Errorf("open log in %s: %w", cfg.Dir, err)
	}
	snaps, err := openSnapshots(cfg.Dir, cfg.Disk)
	if err != nil {
		r.log.close()
		return nil, err
	}
	r.snaps, r.log.snapshot = snaps, snaps.last.Load
	r.stream = newStreamLayer(cfg, r.failed)
	r.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: r.stream, MaxPool: 3, MaxRPCsInFlight: 1, Timeout: max(10*cfg.Heartbeat, 2*time.Second), Logger: adapt(cfg.Log),
	})
	if err := cfg.Machine.Restore(bytes.NewReader(nil)); err != nil { // the log fills it
		r.log.close()
		return nil, fmt.Errorf("open replica: %w", err)
	}
	notify := make(chan bool, 16)
	if err := r.startLibrary(notify); err != nil {
		return nil, fmt.Errorf("start raft in %s: %w", cfg.Dir, err)
	}
	leaders := make(chan raft.Observation, 1)
	r.raft.RegisterObserver(raft.NewObserver(leaders, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	}))
	r.watch.Go(func() { r.follow(notify, leaders) })
	r.watch.Go(r.snapshotByBytes)
	return r, nil
}

func libraryConfig(cfg Config, notify chan bool) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(cfg.Self.ServerID())
	c.HeartbeatTimeout, c.ElectionTimeout = cfg.Heartbeat, cfg.Heartbeat
	c.LeaderLeaseTimeout = cfg.Heartbeat / 2
	c.CommitTimeout = min(50*time.Millisecond, cfg.Heartbeat/5)
	c.SnapshotThreshold = 1 << 40 // by bytes instead, see snapshotByBytes
	c.SnapshotInterval = time.Hour
	c.TrailingLogs = cfg.Sizes.Trailing
	c.ShutdownOnRemove = false
	c.BatchApplyCh = false
	c.NotifyCh = notify
	c.NoLegacyTelemetry = true
	c.Logger = adapt(cfg.Log)
	return c
}

// follow drains the library's channel, which otherwise blocks it, and keeps the newest.
// leaders tells that another leader is heard, or none.
func (r *Replica) follow(notify <-chan bool, leaders <-chan raft.Observation) {
	for {
		select {
		case <-r.stop:
			return
		case leading := <-notify:
			term := r.raft.CurrentTerm()
			r.mu.Lock()
			r.leading = Leadership{Leading: leading, Term: term}
			r.tell()
			r.mu.Unlock()
		case <-leaders:
			r.mu.Lock()
			r.tell()
			r.mu.Unlock()
		}
	}
}

// tell wakes who waits for a change; with mu held.
func (r *Replica) tell() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Leadership gives the newest, and a channel that closes when there is a newer one or
// another leader is heard.
func (r *Replica) Leadership() (Leadership, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leading, r.changed
}

func (r *Replica) snapshotByBytes() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-tick.C:
			if r.log.bytesSinceReset() < r.cfg.Sizes.Snapshot {
				continue
			}
			r.log.resetBytes()
			if err := r.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) && !errors.Is(err, raft.ErrRaftShutdown) {
				r.cfg.Log.Error("snapshot failed", "error", err)
			}
		}
	}
}

// fail ends this replica: it stops speaking at once. Who owns it closes it.
func (r *Replica) fail(err error) {
	r.failOnce.Do(func() {
		err = advise(r.cfg.Dir, err)
		r.failure = err
		close(r.failed)
		if errors.Is(err, errBegunAnew) {
			r.cfg.Log.Warn("this replica ends, to be opened anew", "why", err)
			return
		}
		r.cfg.Log.Error("this replica ends: its log can no longer be trusted to be on disk", "error", err)
	})
}

// Failed is closed when the replica must be closed and opened anew; Failure says why.
func (r *Replica) Failed() <-chan struct{} { return r.failed }

// Failure is the reason, once Failed is closed.
func (r *Replica) Failure() error {
	select {
	case <-r.failed:
		return r.failure
	default:
		return nil
	}
}

// Propose brings an entry into the log and returns what the Machine made of it.
func (r *Replica) Propose(ctx context.Context, entry []byte) (any, error) {
	var f raft.ApplyFuture
	if err := r.await(ctx, func() raft.Future { f = r.raft.Apply(entry, 0); return f }); err != nil {
		return nil, outcome(err)
	}
	return f.Response(), nil
}

// Barrier returns when everything committed before is applied here.
func (r *Replica) Barrier(ctx context.Context) error {
	if err := r.await(ctx, func() raft.Future { return r.raft.Barrier(0) }); err != nil {
		return outcome(err)
	}
	return nil
}

// await asks the library and waits for it, but no longer than this replica lives: while
// a write hangs it neither takes a request nor answers one.
func (r *Replica) await(ctx context.Context, ask func() raft.Future) error {
	if r.Failure() != nil { // the library may have nobody left who would answer
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, r.failure)
	}
	done := make(chan error, 1)
	r.asking.Add(1)
	go func() {
		defer r.asking.Add(-1)
		done <- ask().Error()
	}()
	select {
	case err := <-done:
		return err
	case <-r.failed:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, r.failure)
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
	}
}

func outcome(err error) error {
	switch {
	case errors.Is(err, ErrUnknownOutcome):
		return err
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: %w", ErrNotLeader, err)
	}
	return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
}

// Close ends the replica. While a write of it hangs it cannot be: then Close gives up, and
// Closed says when its directory may be opened again.
func (r *Replica) Close() error {
	close(r.stop)
	close(r.log.closing)
	r.stream.cancel() // calls under way end now
	r.trans.Close()
	done := make(chan error, 1)
	go func() {
		// The library never answers for what is under way when it ends: without links it
		// steps down before, and answers then.
		for end := time.Now().Add(2 * r.cfg.Heartbeat); r.asking.Load() > 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		err := r.raft.Shutdown().Error()
		if lerr := r.log.close(); err == nil {
			err = lerr
		}
		r.watch.Wait()
		close(r.closed)
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-r.failed:
		select {
		case err := <-done:
			return err
		case <-time.After(r.cfg.Stall + time.Second):
			return fmt.Errorf("replica abandoned: %w", r.failure)
		}
	}
}

// Closed is closed when everything has ended that Close ends.
func (r *Replica) Closed() <-chan struct{} { return r.closed }
