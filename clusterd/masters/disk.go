package masters

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mesolith/mesolith/clusterd/discovery/birth"
	"github.com/mesolith/mesolith/clusterd/replica"
	"github.com/mesolith/mesolith/internal/wholefile"
)

// The files beside the generations' directories, and in those that were left.
var (
	epochKind    = wholefile.Kind{Name: "masters-epoch", Format: 1}
	promiseKind  = wholefile.Kind{Name: "masters-promise", Format: 1}
	positionKind = wholefile.Kind{Name: "masters-position", Format: 1}
	stateKind    = wholefile.Kind{Name: "masters-state", Format: 1}
	hardwareKind = wholefile.Kind{Name: "masters-hardware", Format: 1}
	originKind   = wholefile.Kind{Name: "masters-origin", Format: 1}
)

// position is how far the state of a left generation goes.
type position struct {
	Generation birth.Generation `json:"generation"`
	Term       uint64           `json:"term"`
	LastIndex  uint64           `json:"lastIndex"`
	Unwritten  bool             `json:"unwritten,omitempty"` // as in birth.Own
	Origin     birth.Reach      `json:"origin"`
	Voters     []birth.Voter    `json:"voters,omitempty"`
	dir        string
}

// own is what a master says of itself that holds nothing newer.
func (p *position) own() birth.Own {
	return birth.Own{Legacy: true, Generation: p.Generation, Term: p.Term, LastIndex: p.LastIndex, Unwritten: p.Unwritten, Origin: p.Origin, Voters: p.Voters}
}

func randomID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// newUUID names a generation.
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (m *Masters) dir(g birth.Generation) string { return filepath.Join(m.cfg.Dir, "g-"+g.ID) }

// begin recalls, again and again until it can: a master that cannot read what it is bound
// to takes no part and says why, and the agent's half of this program goes on.
func (m *Masters) begin(ctx context.Context) (promise birth.Promise, ok bool) {
	last := ""
	for {
		var err error
		if promise, err = m.readPromise(); err == nil {
			err = m.recall()
		}
		if err == nil {
			m.ailing = ""
			return promise, true
		}
		if text := err.Error(); text != last {
			last = text
			m.log.Error("this master takes no part while its files cannot be read", "error", err)
			m.ail("it takes no part while its files cannot be read: " + text)
		}
		select {
		case <-time.After(m.cfg.Stall):
		case <-ctx.Done():
			return promise, false
		}
	}
}

// recall finds what this incarnation was bound to when the program last ran.
func (m *Masters) recall() error {
	if err := os.MkdirAll(m.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("open masters' directory: %w", err)
	}
	if err := m.recallHardware(); err != nil {
		return err
	}
	raw, err := epochKind.Read(filepath.Join(m.cfg.Dir, "epoch"))
	if err == nil {
		if m.epoch, err = strconv.Atoi(string(raw)); err != nil {
			return fmt.Errorf("read %s: %w", filepath.Join(m.cfg.Dir, "epoch"), err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	entries, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return fmt.Errorf("open masters' directory: %w", err)
	}
	var left []*position
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "g-") {
			continue
		}
		dir := filepath.Join(m.cfg.Dir, e.Name())
		g, server, err := replica.Remembered(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // its founding was not finished: it is none
		}
		if err != nil {
			return err // it may be the one that this master is bound to
		}
		m.highest = max(m.highest, g.Height)
		if server == m.self().ServerID() && g.Height >= m.gen.Height {
			m.gen = birth.Generation(g)
			continue
		}
		p, err := readPosition(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue // it was not left, and is not this server's: another began it and ended
		}
		if err != nil {
			return err // it may be all that is left of the cluster
		}
		left = append(left, p)
	}
	m.legacy = newestLeft(left)
	if m.gen.ID != "" {
		return m.open()
	}
	return nil
}

// newestLeft is the newest of what was left; nil: nothing.
func newestLeft(left []*position) (newest *position) {
	var all []birth.Answer
	for _, p := range left {
		all = append(all, birth.Answer{Own: p.own()})
	}
	if best := birth.Newest(all); best != nil {
		i := slices.IndexFunc(left, func(p *position) bool { return p.own().Reach().Same(best.Reach()) })
		newest = left[i]
	}
	return newest
}

func readPosition(dir string) (*position, error) {
	path := filepath.Join(dir, "position")
	raw, err := positionKind.Read(path)
	if err != nil {
		return nil, err
	}
	p := &position{dir: dir}
	if err := json.Unmarshal(raw, p); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return p, nil
}

// readOrigin says how far the state goes that a generation was founded with; nil: this
// master did not take part and was filled by a leader.
func readOrigin(dir string) (*birth.Reach, error) {
	path := filepath.Join(dir, "origin")
	raw, err := originKind.Read(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r birth.Reach
	if err := json.Unmarshal(raw, &r); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return &r, nil
}

// unwritten says whether a log that ends at last is only what its generation was founded
// with, and how far that goes.
func (m *Masters) unwritten(last uint64) (bool, birth.Reach) {
	if m.origin == nil || last > replica.FoundedAt {
		return false, birth.Reach{}
	}
	return true, *m.origin
}

// open starts the replica of m.gen.
func (m *Masters) open() error {
	var err error
	if m.origin, err = readOrigin(m.dir(m.gen)); err != nil {
		return err
	}
	r, err := replica.Open(replica.Config{
		Dir: m.dir(m.gen), Self: m.self(), Generation: replica.Generation(m.gen), Machine: m.cfg.Machine, Links: links{m},
		Heartbeat: m.cfg.Heartbeat, Stall: m.cfg.Stall, Disk: m.cfg.Disk, Sizes: m.cfg.Sizes, Pulse: m.cfg.Pulse, Log: m.log,
	})
	if err != nil {
		return err
	}
	m.replica = r
	m.accepting.Store(true)
	m.highest = max(m.highest, m.gen.Height)
	m.log.Info("replica open", "generation", m.gen.ID, "height", m.gen.Height, "server", m.self().ServerID())
	return nil
}

// reopen follows a failure of the disk: the replica's directory is opened anew, or stays
// closed and says why. Tasks and the agent's half go on either way; nothing else is done
// meanwhile, because this master is still bound to what it cannot read.
func (m *Masters) reopen(ctx context.Context) {
	why := m.replica.Failure()
	if m.term != nil {
		m.endTerm()
	}
	m.accepting.Store(false)
	failed := m.replica
	m.replica = nil
	m.ail("its log failed and is being opened anew: " + why.Error())
	if err := failed.Close(); err != nil {
		m.log.Error("this master takes no part while a write of its log hangs", "why", why, "error", err)
		m.ail("it takes no part while a write of its log hangs: " + why.Error())
		select {
		case <-failed.Closed():
		case <-ctx.Done():
			return
		}
	}
	last := ""
	for {
		err := m.open()
		if err == nil {
			break
		}
		if text := err.Error(); text != last {
			last = text
			m.log.Error("this master takes no part while its log cannot be opened", "why", why, "error", err)
			m.ail("it takes no part while its log cannot be opened: " + text)
		}
		select {
		case <-time.After(m.cfg.Stall):
		case <-ctx.Done():
			return
		}
	}
	m.ailing = ""
	m.log.Warn("replica opened anew after a failure", "why", why)
}

// ail says why this master takes no part.
func (m *Masters) ail(why string) {
	m.ailing = why
	m.publish()
}

// shut closes the replica. One that cannot be closed may still be written to by what
// hangs in it: then this master takes no part until the program is started again.
func (m *Masters) shut(ctx context.Context) {
	if m.term != nil {
		m.endTerm()
	}
	m.accepting.Store(false)
	if err := m.replica.Close(); err != nil {
		m.log.Error("this master takes no part until clusterd is started again: its replica could not be closed", "error", err)
		m.replica = nil
		<-ctx.Done()
	}
	m.replica = nil
}

// leave makes this master a new incarnation that is bound to nothing. Everything that
// its log held stays; nothing is added to it any more when it is read.
func (m *Masters) leave(ctx context.Context) error {
	if m.replica == nil {
		return nil
	}
	m.rememberHardware()
	m.shut(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	dir := m.dir(m.gen)
	end, err := replica.HandOver(dir, m.cfg.Machine)
	if err == nil && end.LastIndex > 0 {
		p := &position{Generation: m.gen, Term: end.LastTerm, LastIndex: end.LastIndex, dir: dir}
		for _, v := range end.Voters {
			p.Voters = append(p.Voters, birth.Voter(v))
		}
		p.Unwritten, p.Origin = m.unwritten(end.LastIndex)
		if err = m.keep(p, end.State); err == nil {
			m.legacy = p
		}
	}
	if err != nil {
		return errors.Join(err, m.open())
	}
	m.log.Warn("left a generation", "generation", m.gen.ID, "height", m.gen.Height, "index", end.LastIndex, "now", m.self().ServerID())
	m.gen = birth.Generation{}
	if end.LastIndex == 0 { // it was never bound
		return os.RemoveAll(dir)
	}
	return nil
}

// keep writes a left generation's state down, and last that it was left.
func (m *Masters) keep(p *position, state []byte) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := stateKind.Write(filepath.Join(p.dir, "state"), state); err != nil {
		return err
	}
	if err := positionKind.Write(filepath.Join(p.dir, "position"), raw); err != nil {
		return err
	}
	if err := epochKind.Write(filepath.Join(m.cfg.Dir, "epoch"), []byte(strconv.Itoa(m.epoch+1))); err != nil {
		return err
	}
	m.epoch++
	return nil
}

// unjoin closes a replica that waits to be filled and hears no leader: who is about to
// promise to bind to nobody else must not be bound by a leader that comes back.
func (m *Masters) unjoin() {
	if m.replica == nil || m.leaderName() != "" || m.replica.Position().LastIndex > 0 {
		return
	}
	dir := m.dir(m.gen)
	m.accepting.Store(false)
	err := m.replica.Close()
	m.replica = nil
	if err == nil {
		var bound bool
		if bound, err = replica.Holds(dir); err == nil && bound { // in this very moment
			err = m.open()
		} else if err == nil {
			m.gen = birth.Generation{}
			err = os.RemoveAll(dir)
		}
	}
	if err != nil {
		m.log.Error("closing a replica that waited", "error", err)
	}
}

// readPromise gives the promise that was open when the program ended. One that cannot be
// read must not be broken either.
func (m *Masters) readPromise() (birth.Promise, error) {
	var p birth.Promise
	path := filepath.Join(m.cfg.Dir, "promise")
	raw, err := promiseKind.Read(path)
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		if err = json.Unmarshal(raw, &p); err != nil {
			err = fmt.Errorf("read %s: %w", path, err)
		}
	}
	return p, err
}

func (m *Masters) writePromise(p birth.Promise) error {
	path := filepath.Join(m.cfg.Dir, "promise")
	if p.Attempt == "" {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return promiseKind.Write(path, raw)
}

// legacyState is what was kept of the generation that was left.
func (m *Masters) legacyState() ([]byte, error) {
	if m.legacy == nil {
		return nil, nil
	}
	return stateKind.Read(filepath.Join(m.legacy.dir, "state"))
}

// bind makes this incarnation a member of a new generation, by its first snapshot, which
// goes as far as origin.
func (m *Masters) bind(g birth.Generation, voters []birth.Voter, state []byte, origin birth.Reach) error {
	if m.replica != nil {
		return fmt.Errorf("still bound to generation %s", m.gen.ID)
	}
	list := make([]replica.Voter, 0, len(voters))
	for _, v := range voters {
		list = append(list, replica.Voter(v))
	}
	raw, err := json.Marshal(origin)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(m.dir(g), 0o700); err != nil {
		return fmt.Errorf("found generation: %w", err)
	}
	if err := originKind.Write(filepath.Join(m.dir(g), "origin"), raw); err != nil {
		return err
	}
	if err := replica.Found(m.dir(g), m.self(), replica.Generation(g), list, state); err != nil {
		return err
	}
	return m.enter(g)
}

// join makes this incarnation a learner of a generation that lives.
func (m *Masters) join(g birth.Generation) error {
	if err := replica.Join(m.dir(g), m.self(), replica.Generation(g)); err != nil {
		return err
	}
	return m.enter(g)
}

func (m *Masters) enter(g birth.Generation) error {
	m.gen = g
	if err := m.open(); err != nil {
		m.gen = birth.Generation{}
		return err
	}
	m.forgetOthers()
	return nil
}

// forgetOthers removes generations of the past once a newer one holds this master's
// state.
func (m *Masters) forgetOthers() {
	if !m.own().Bound {
		return // joined and still empty: what is left may yet be needed
	}
	m.legacy = nil
	entries, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if dir := filepath.Join(m.cfg.Dir, e.Name()); strings.HasPrefix(e.Name(), "g-") && dir != m.dir(m.gen) {
			if err := os.RemoveAll(dir); err != nil {
				m.log.Warn("a former generation's directory stays", "dir", dir, "error", err)
			}
		}
	}
}
