package replica

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"golang.org/x/sys/unix"
)

// This test program is also the first program of a virtual machine whose disk fails
// (qemu-tests/f_store_test.go): there it writes and says on the console what it was told.

const (
	probeStall = 3 * time.Second
	probeKeep  = 1500 // entries left when the log's beginning is cut off
	probeCut   = 3000 // entries after which it is
	probeTerms = 20   // batches between two terms
)

// diskProbe never returns: the kernel panics when its first program ends.
func diskProbe(args []string) {
	if err := diskProbeVerb(args); err != nil {
		say("probe: %v", err)
	}
	for { // not select, which the runtime takes for a deadlock
		time.Sleep(time.Hour)
	}
}

// noise keeps writes on their way to a disk that nobody flushes: a power cut finds some.
func noise(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "noise"), os.O_CREATE|os.O_WRONLY|unix.O_DIRECT, 0o600)
	if err != nil {
		return err
	}
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	go func() {
		for {
			if _, err := f.WriteAt(page, 4096*rand.Int64N(256)); err != nil {
				time.Sleep(time.Second) // the disk fails: that is told elsewhere
			}
			time.Sleep(2 * time.Millisecond)
		}
	}()
	return nil
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func diskProbeVerb(args []string) error {
	if len(args) < 1 || args[0] == "append" && len(args) < 3 || args[0] == "rate" && len(args) < 2 {
		return fmt.Errorf("what to do is missing: %q", args)
	}
	disks, err := mountDisks()
	if err != nil {
		return err
	}
	switch args[0] {
	case "append": // STORE BATCH [keep]
		batch, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		if err := noise(disks[0]); err != nil {
			return err
		}
		p := &appender{kind: args[1], dir: disks[0], batch: batch, keep: len(args) > 3}
		return p.run()
	case "rate":
		return measureRates(args[1], disks[0])
	case "single":
		if err := noise(disks[0]); err != nil {
			return err
		}
		return runSingle(disks[0])
	case "trio":
		return runTrio(disks)
	}
	return fmt.Errorf("unknown verb %q", args[0])
}

// mountDisks makes the machine's disks usable and gives their directories.
func mountDisks() ([]string, error) {
	for _, m := range []struct{ what, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return nil, err
		}
		if err := unix.Mount(m.what, m.at, m.what, 0, ""); err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	list, err := os.Open("/modules/order")
	if err != nil {
		return nil, err
	}
	for s := bufio.NewScanner(list); s.Scan(); {
		f, err := os.Open("/modules/" + s.Text())
		if err != nil {
			return nil, err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			return nil, fmt.Errorf("load %s: %w", s.Text(), err)
		}
		f.Close()
	}
	var dirs []string
	for _, letter := range "abc" {
		device, dir := "/dev/vd"+string(letter), "/disk-"+string(letter)
		if _, err := os.Stat("/sys/block/vd" + string(letter)); errors.Is(err, os.ErrNotExist) {
			break
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		if err := unix.Mount(device, dir, "ext4", 0, "errors=remount-ro"); err != nil {
			return nil, fmt.Errorf("mount %s: %w", device, err)
		}
		dirs = append(dirs, dir)
	}
	if len(dirs) == 0 {
		return nil, errors.New("the machine has no disk")
	}
	return dirs, nil
}

type candidate interface {
	raft.LogStore
	raft.StableStore
	close() error
}

// plainWAL is raft-wal with its own table of segments and without the watch on writes.
type plainWAL struct {
	*wal.WAL
	meta *metadb.BoltMetaDB
}

func (p plainWAL) close() error { return errors.Join(p.Close(), p.meta.Close()) }

func openPlainWAL(dir string) (candidate, error) {
	meta := &metadb.BoltMetaDB{}
	log, err := wal.Open(dir, wal.WithSegmentSize(ofCluster().Segment), wal.WithLogger(quiet()), wal.WithMetaStore(meta),
		wal.WithSegmentFiler(segment.NewFiler(dir, fs.New())))
	if err != nil {
		meta.Close()
		return nil, err
	}
	return plainWAL{log, meta}, nil
}

func openCandidate(kind, dir string) (candidate, error) {
	dir = filepath.Join(dir, kind)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	switch kind {
	case "ours":
		return openStore(dir, atOnce{}, ofCluster().Segment, probeStall, func(error) {})
	case "wal":
		return openPlainWAL(dir)
	case "bolt":
		return openBolt(dir)
	}
	return nil, fmt.Errorf("unknown store %q", kind)
}

// appender writes for ever, and says each index once the store has taken it.
type appender struct {
	kind, dir string
	batch     int
	keep      bool // never cut the log: the disk fills up

	acked    atomic.Uint64
	lastWord atomic.Int64 // when something was acknowledged, Unix milliseconds
}

func (p *appender) run() error {
	go p.watch()
	for opened := 1; opened <= 3; opened++ {
		began := time.Now()
		s, err := openCandidate(p.kind, p.dir)
		if err != nil {
			say("refused %d ms: %v", time.Since(began).Milliseconds(), err)
			time.Sleep(2 * time.Second)
			continue
		}
		if err := p.check(s, began); err != nil {
			return err
		}
		err = p.write(s)
		say("failed after %d, %d ms without a word: %v", p.acked.Load(), time.Now().UnixMilli()-p.lastWord.Load(), err)
		began = time.Now()
		closed := make(chan error, 1)
		go func() { closed <- s.close() }()
		select {
		case err := <-closed:
			say("closed in %d ms: %v", time.Since(began).Milliseconds(), err)
		case <-time.After(4 * probeStall):
			return errors.New("closing hangs")
		}
	}
	say("down")
	return nil
}

// watch says when nothing has been acknowledged for long.
func (p *appender) watch() {
	for {
		time.Sleep(probeStall / 2)
		if last := p.lastWord.Load(); last != 0 {
			if silent := time.Now().UnixMilli() - last; silent > 2*probeStall.Milliseconds() {
				say("silent for %d ms", silent)
			}
		}
	}
}

var probeTerm = []byte("CurrentTerm")

// check reads everything that an opened store holds.
func (p *appender) check(s candidate, began time.Time) error {
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	took := time.Since(began)
	term, err := s.GetUint64(probeTerm)
	if err != nil && !strings.Contains(err.Error(), "not found") {
		return err
	}
	bad := 0
	for i := first; last > 0 && i <= last; i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil {
			say("entry %d: %v", i, err)
			bad++
		} else if err := rightEntry(&l, i); err != nil {
			say("%v", err)
			bad++
		}
	}
	say("opened first %d last %d term %d bad %d ms %d", first, last, term, bad, took.Milliseconds())
	p.acked.Store(last)
	return nil
}

func (p *appender) write(s candidate) error {
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	next := p.acked.Load() + 1
	if first == 0 {
		first = next
	}
	term, _ := s.GetUint64(probeTerm)
	for batch := 1; ; batch++ {
		logs := make([]*raft.Log, p.batch)
		for i := range logs {
			logs[i] = newEntry(next, rand.IntN(1200))
			next++
		}
		if err := s.StoreLogs(logs); err != nil {
			return err
		}
		p.lastWord.Store(time.Now().UnixMilli())
		p.acked.Store(next - 1)
		say("ack %d", next-1)
		if batch%probeTerms == 0 {
			term++
			if err := s.SetUint64(probeTerm, term); err != nil {
				return err
			}
			say("term %d", term)
		}
		if !p.keep && next-first > probeCut {
			if err := s.DeleteRange(first, next-probeKeep); err != nil {
				return err
			}
			first = next - probeKeep + 1
		}
	}
}

// newEntry can be told from every other, and damage to it be seen.
func newEntry(index uint64, size int) *raft.Log {
	data := binary.BigEndian.AppendUint64(make([]byte, 0, size+12), index)
	for len(data) < size+8 {
		data = append(data, byte(rand.Uint32()))
	}
	data = binary.BigEndian.AppendUint32(data, crc32.ChecksumIEEE(data))
	return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: data, AppendedAt: time.Now()}
}

func rightEntry(l *raft.Log, index uint64) error {
	n := len(l.Data) - 4
	if l.Index != index || n < 8 || binary.BigEndian.Uint64(l.Data) != index || crc32.ChecksumIEEE(l.Data[:n]) != binary.BigEndian.Uint32(l.Data[n:]) {
		return fmt.Errorf("entry %d is not what was written (%d bytes, index %d)", index, len(l.Data), l.Index)
	}
	return nil
}

// measureRates says how fast a store takes entries of 256 bytes on this disk, and how
// long it then takes to open.
func measureRates(kind, dir string) error {
	for round := range 3 {
		for _, batch := range []int{1, 64} {
			if err := measureRate(kind, filepath.Join(dir, fmt.Sprintf("%d-%d", round, batch)), batch); err != nil {
				return err
			}
		}
	}
	say("down")
	return nil
}

func measureRate(kind, dir string, batch int) error {
	s, err := openCandidate(kind, dir)
	if err != nil {
		return err
	}
	began, next := time.Now(), uint64(1)
	for time.Since(began) < 4*time.Second {
		logs := make([]*raft.Log, batch)
		for i := range logs {
			logs[i] = newEntry(next, 244)
			next++
		}
		if err := s.StoreLogs(logs); err != nil {
			return err
		}
	}
	took := time.Since(began)
	if err := s.close(); err != nil {
		return err
	}
	opening := time.Now()
	if s, err = openCandidate(kind, dir); err != nil {
		return err
	}
	if last, err := s.LastIndex(); err != nil || last != next-1 {
		return fmt.Errorf("it holds %d of %d: %w", last, next-1, err)
	}
	say("rate %s batch %d entries/s %.0f batches/s %.0f n %d open ms %d", kind, batch,
		float64(next-1)/took.Seconds(), float64(next-1)/float64(batch)/took.Seconds(), next-1, time.Since(opening).Milliseconds())
	return s.close()
}
