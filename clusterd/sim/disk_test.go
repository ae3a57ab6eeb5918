package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/mesolith/mesolith/clusterd/replica"
)

var errNoPower = errors.New("the machine has no power")

// disk is what lies under one life of a master. What is written reaches real files at
// once; how to undo what was not flushed is remembered, for the moment the power fails.
type disk struct {
	rng    *rand.Rand
	counts *counts
	death  func(dark bool) // called once, when a planned death comes

	mu     sync.Mutex
	dead   bool
	gone   chan struct{} // closed when dead
	stall  chan struct{} // not nil: steps wait until it is closed
	undo   []undo
	plan   *plan
	points map[moment]int // passed
}

// moment is before or after a step.
type moment struct {
	point replica.Point
	after bool
}

func (m moment) String() string {
	if m.after {
		return "after " + string(m.point)
	}
	return "before " + string(m.point)
}

// plan is a fault that comes with the n-th step of its kind.
type plan struct {
	moment
	left int
	what fault
}

type fault int

const (
	kill  fault = iota // of the program: what was written is there
	power              // of the machine: what was not flushed may not be
	eio                // of this step alone
	hang               // of this step, until the stall is lifted
)

// undo is a write that was not flushed.
type undo struct {
	path    string
	offset  int64
	old     []byte
	created bool
}

func newDisk(rng *rand.Rand, c *counts, death func(bool)) *disk {
	return &disk{rng: rng, counts: c, death: death, gone: make(chan struct{}), points: map[moment]int{}}
}

// Do implements replica.Disk.
func (d *disk) Do(s replica.Step, f func() error) error {
	if err := d.pass(moment{s.Point, false}); err != nil {
		return err
	}
	if err := d.step(s, f); err != nil {
		return err
	}
	return d.pass(moment{s.Point, true})
}

// pass lets a moment go by, or has the plan's fault happen.
func (d *disk) pass(m moment) error {
	d.mu.Lock()
	stall := d.stall
	d.mu.Unlock()
	if stall != nil {
		select {
		case <-stall:
		case <-d.gone:
		}
	}
	d.mu.Lock()
	if d.dead {
		d.mu.Unlock()
		return errNoPower
	}
	d.points[m]++
	if d.plan == nil || d.plan.moment != m {
		d.mu.Unlock()
		return nil
	}
	if d.plan.left--; d.plan.left > 0 {
		d.mu.Unlock()
		return nil
	}
	what := d.plan.what
	d.plan = nil
	d.counts.add("steps failed: " + m.String())
	switch what {
	case eio:
		d.mu.Unlock()
		d.counts.add("EIO")
		return fmt.Errorf("%s: %w", m, syscall.EIO)
	case hang:
		stall := make(chan struct{})
		d.stall = stall
		d.mu.Unlock()
		d.counts.add("writes hung")
		select {
		case <-stall:
			return nil
		case <-d.gone:
			return errNoPower
		}
	}
	d.end(what == power)
	d.mu.Unlock()
	d.death(what == power)
	return errNoPower
}

func (d *disk) step(s replica.Step, f func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return errNoPower
	}
	switch s.Point {
	case replica.LogCreate:
		d.undo = append(d.undo, undo{path: s.Path, created: true})
	case replica.LogWrite:
		old := make([]byte, len(s.Data))
		if file, err := os.Open(s.Path); err == nil {
			file.ReadAt(old, s.Offset) // what lies beyond the end is zero
			file.Close()
		}
		d.undo = append(d.undo, undo{path: s.Path, offset: s.Offset, old: old})
	}
	err := f()
	if s.Point == replica.LogFlush && err == nil {
		left := d.undo[:0]
		for _, u := range d.undo {
			if u.path != s.Path {
				left = append(left, u)
			}
		}
		d.undo = left
	}
	return err
}

func (d *disk) isDead() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}

// die is a death that no plan brought.
func (d *disk) die(dark bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.dead {
		d.end(dark)
	}
}

// end is the moment after which nothing is written; the lock is held.
func (d *disk) end(dark bool) {
	d.dead = true
	close(d.gone)
	if !dark {
		d.counts.add("programs killed")
		return
	}
	d.counts.add("powers cut")
	for i := len(d.undo) - 1; i >= 0; i-- {
		d.lose(d.undo[i])
	}
}

const sector = 512

// lose does to one write what a power cut may do to it.
func (d *disk) lose(u undo) {
	if u.created {
		if d.rng.IntN(2) == 0 && os.Remove(u.path) == nil {
			d.counts.add("new files lost")
		}
		return
	}
	file, err := os.OpenFile(u.path, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer file.Close()
	d.counts.add("writes in danger")
	switch d.rng.IntN(3) {
	case 0:
		d.counts.add("writes kept without a flush")
	case 1:
		file.WriteAt(u.old, u.offset)
		d.counts.add("writes lost")
	default:
		for at := int64(0); at < int64(len(u.old)); {
			size := min(int64(len(u.old))-at, sector-(u.offset+at)%sector)
			if d.rng.IntN(2) == 0 {
				file.WriteAt(u.old[at:at+size], u.offset+at)
			}
			at += size
		}
		d.counts.add("writes torn")
	}
}

// loseSnapshot cuts what was written of a snapshot that was not finished.
func loseSnapshots(dir string, rng *rand.Rand, c *counts) {
	parts, _ := filepath.Glob(filepath.Join(dir, "g-*", "snapshots", "*.tmp", "state.bin"))
	for _, p := range parts {
		if info, err := os.Stat(p); err == nil && info.Size() > 0 && strings.HasSuffix(filepath.Dir(p), ".tmp") {
			if os.Truncate(p, rng.Int64N(info.Size()+1)) == nil {
				c.add("snapshots torn")
			}
		}
	}
}

// freeze has every step wait; thaw lets them go on.
func (d *disk) freeze() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stall == nil {
		d.stall = make(chan struct{})
	}
}

func (d *disk) thaw() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stall != nil {
		close(d.stall)
		d.stall = nil
	}
}

// want plans a fault; a former one that has not come is given up.
func (d *disk) want(p plan) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.plan = &p
}
