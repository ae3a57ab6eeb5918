// Package records is the keeper's memory: one file per container, replaced as a whole
// and flushed before the deed it announces.
//
// A file is a header line with the format's number and the body's CRC-32C, then the
// body (JSON). A damaged file is set aside under another name and reported, never half
// believed; the container it was about is then one without a record, which the keeper
// removes. A file of a newer format is left as it is and refused: to set it aside would
// end a container that the newer program knows. What the steps mean is isolation/run's
// business.
package records

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/internal/wire/keeper"
)

const (
	format    = 1
	suffix    = ".rec"
	maxRecord = 16 << 20
	fenceFile = "fence"
)

// Step is how far a container has been taken; each is recorded before it is begun.
type Step string

// The steps, in order.
const (
	Accepted Step = "accepted" // nothing is done yet
	Started  Step = "started"  // the first process exists and waits before the program
	Exec     Step = "exec"     // the program may run
	Exited   Step = "exited"   // its wait status is in the record; what it left is being removed
	Done     Step = "done"     // ENDED or FAILED, nothing is left but the sandbox
)

// Record is all that is known of one container.
type Record struct {
	Step      Step
	Slot      uint32            // which range of host ids is its own; 0: none
	Layers    []string          // of the image store, that its root is made of
	Launch    *keeper.Launch    // nil: a tombstone, killed before it was launched
	Container *keeper.Container // what others are told
	Grace     time.Duration     // of the kill that was asked for; 0: none was, or nobody said
}

type body struct {
	Step      Step
	Slot      uint32
	Layers    []string
	Launch    []byte
	Container []byte
	Grace     time.Duration
}

// Fence is the newest leader that has spoken; older ones are refused.
type Fence struct{ Height, Term uint64 }

// Older says whether f is of an older leader than g.
func (f Fence) Older(g Fence) bool {
	return f.Height < g.Height || (f.Height == g.Height && f.Term < g.Term)
}

// Store is the directory of records. Its methods may be called concurrently, but each
// container's records by one owner only.
type Store struct {
	dir string
	mu  sync.Mutex
}

// Found is what Open read.
type Found struct {
	Records  []Record
	Fence    Fence
	Problems []string // files set aside, with the reason
}

// Open reads all records.
func Open(dir string) (*Store, Found, error) {
	var found Found
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, found, fmt.Errorf("make directory of records: %w", err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, found, fmt.Errorf("read records: %w", err)
	}
	s := &Store{dir: dir}
	for _, n := range names {
		path := filepath.Join(dir, n.Name())
		switch {
		case strings.HasSuffix(n.Name(), ".tmp"):
			if err := os.Remove(path); err != nil {
				return nil, found, fmt.Errorf("remove unfinished record: %w", err)
			}
		case n.Name() == fenceFile || strings.HasSuffix(n.Name(), suffix):
			if err := s.load(path, n.Name(), &found); err != nil {
				return nil, found, err
			}
		}
	}
	return s, found, nil
}

func (s *Store) load(path, name string, found *Found) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read record: %w", err)
	}
	if name == fenceFile {
		err = decode(raw, &found.Fence)
	} else {
		var r Record
		if r, err = parse(raw); err == nil && r.Container.GetContainerId()+suffix != name {
			err = fmt.Errorf("it is about container %q", r.Container.GetContainerId())
		}
		if err == nil {
			found.Records = append(found.Records, r)
		}
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, errNewer) {
		return fmt.Errorf("read record %s: %w: start that version again, or remove the file, which ends its container", path, err)
	}
	found.Problems = append(found.Problems, fmt.Sprintf("%s: %v; kept as %s.bad", path, err, name))
	if err := os.Rename(path, path+".bad"); err != nil {
		return fmt.Errorf("set damaged record aside: %w", err)
	}
	return nil
}

var (
	errDamaged = errors.New("damaged")
	errNewer   = errors.New("written by a newer version")
)

func parse(raw []byte) (Record, error) {
	var b body
	if err := decode(raw, &b); err != nil {
		return Record{}, err
	}
	r := Record{Step: b.Step, Slot: b.Slot, Layers: b.Layers, Grace: b.Grace, Container: &keeper.Container{}}
	if err := proto.Unmarshal(b.Container, r.Container); err != nil {
		return Record{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if b.Launch != nil {
		r.Launch = &keeper.Launch{}
		if err := proto.Unmarshal(b.Launch, r.Launch); err != nil {
			return Record{}, fmt.Errorf("%w: %w", errDamaged, err)
		}
	}
	return r, nil
}

func decode(raw []byte, into any) error {
	if len(raw) > maxRecord {
		return fmt.Errorf("%w: %d bytes", errDamaged, len(raw))
	}
	head, rest, ok := strings.Cut(string(raw), "\n")
	var number int
	var sum uint32
	if n, err := fmt.Sscanf(head, "mesolith container record %d %x", &number, &sum); !ok || err != nil || n != 2 {
		return fmt.Errorf("%w: no header", errDamaged)
	}
	if number > format {
		return fmt.Errorf("%w: format %d, this program knows %d", errNewer, number, format)
	}
	if crc32.Checksum([]byte(rest), crc32.MakeTable(crc32.Castagnoli)) != sum {
		return fmt.Errorf("%w: wrong checksum", errDamaged)
	}
	if err := json.Unmarshal([]byte(rest), into); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return nil
}

// Put replaces a container's record and returns when it is on the medium.
func (s *Store) Put(r Record) error {
	b := body{Step: r.Step, Slot: r.Slot, Layers: r.Layers, Grace: r.Grace}
	var err error
	if b.Container, err = proto.Marshal(r.Container); err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	if r.Launch != nil {
		if b.Launch, err = proto.Marshal(r.Launch); err != nil {
			return fmt.Errorf("encode record: %w", err)
		}
	}
	return s.write(r.Container.GetContainerId()+suffix, b)
}

// PutFence remembers the newest leader.
func (s *Store) PutFence(f Fence) error { return s.write(fenceFile, f) }

// Delete forgets a container; it is no error if there is no record.
func (s *Store) Delete(id string) error {
	if err := os.Remove(filepath.Join(s.dir, id+suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record: %w", err)
	}
	return s.syncDir()
}

func (s *Store) write(name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	head := fmt.Sprintf("mesolith container record %d %08x\n", format, crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli)))
	path := filepath.Join(s.dir, name)
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	_, err = f.Write(append([]byte(head), raw...))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("write record: %w: make room on the file system of %s", err, s.dir)
	}
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return s.syncDir()
}

func (s *Store) syncDir() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := os.Open(s.dir)
	if err != nil {
		return fmt.Errorf("flush directory of records: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("flush directory of records: %w", err)
	}
	return nil
}
