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
	"strconv"
	"strings"
	"time"

	"github.com/mesolith/mesolith/clusterd/discovery/birth"
	"github.com/mesolith/mesolith/clusterd/replica"
)

// position is how far the state of a left generation goes.
type position struct {
	Generation birth.Generation `json:"generation"`
	Term       uint64           `json:"term"`
	LastIndex  uint64           `json:"lastIndex"`
	dir        string
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

// recall finds what this incarnation was bound to when the program last ran.
func (m *Masters) recall() error {
	if err := os.MkdirAll(m.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("open masters' directory: %w", err)
	}
	m.recallHardware()
	raw, err := os.ReadFile(filepath.Join(m.cfg.Dir, "epoch"))
	if err == nil {
		if m.epoch, err = strconv.Atoi(strings.TrimSpace(string(raw))); err != nil {
			return fmt.Errorf("read %s: %w", filepath.Join(m.cfg.Dir, "epoch"), err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read epoch: %w", err)
	}
	entries, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return fmt.Errorf("open masters' directory: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "g-") {
			continue
		}
		dir := filepath.Join(m.cfg.Dir, e.Name())
		g, server, err := replica.Remembered(dir)
		if err != nil {
			continue // its founding was not finished: it is none
		}
		m.highest = max(m.highest, g.Height)
		if server == m.self().ServerID() && g.Height >= m.gen.Height {
			m.gen = birth.Generation(g)
			continue
		}
		if p, err := readPosition(dir); err == nil && (m.legacy == nil || p.Generation.Height > m.legacy.Generation.Height) {
			m.legacy = p
		}
	}
	if m.gen.ID != "" {
		return m.open()
	}
	return nil
}

func readPosition(dir string) (*position, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "position"))
	if err != nil {
		return nil, err
	}
	p := &position{dir: dir}
	if err := json.Unmarshal(raw, p); err != nil {
		return nil, err
	}
	return p, nil
}

// open starts the replica of m.gen.
func (m *Masters) open() error {
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
	state, end, err := replica.HandOver(dir, m.cfg.Machine)
	if err == nil && end.LastIndex > 0 {
		p := &position{Generation: m.gen, Term: end.LastTerm, LastIndex: end.LastIndex, dir: dir}
		if err = m.keep(p, state); err == nil {
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
	if err := writeFile(filepath.Join(p.dir, "state"), state); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(p.dir, "position"), raw); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(m.cfg.Dir, "epoch"), []byte(strconv.Itoa(m.epoch+1))); err != nil {
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

// readPromise gives the promise that was open when the program ended.
func (m *Masters) readPromise() birth.Promise {
	var p birth.Promise
	raw, err := os.ReadFile(filepath.Join(m.cfg.Dir, "promise"))
	if err == nil {
		err = json.Unmarshal(raw, &p)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.log.Warn("reading the open promise", "error", err)
	}
	return p
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
	return writeFile(path, raw)
}

// legacyState is what was kept of the generation that was left.
func (m *Masters) legacyState() ([]byte, error) {
	if m.legacy == nil {
		return nil, nil
	}
	return os.ReadFile(filepath.Join(m.legacy.dir, "state"))
}

// bind makes this incarnation a member of a new generation, by its first snapshot.
func (m *Masters) bind(g birth.Generation, voters []birth.Voter, state []byte) error {
	if m.replica != nil {
		return fmt.Errorf("still bound to generation %s", m.gen.ID)
	}
	list := make([]replica.Voter, 0, len(voters))
	for _, v := range voters {
		list = append(list, replica.Voter(v))
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

// writeFile replaces a file, flushed.
func writeFile(path string, data []byte) error {
	next := path + ".next"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
