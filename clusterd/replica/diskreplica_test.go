package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// What diskProbe does with whole replicas: one that is alone, and three with a disk each.

const (
	probeHeartbeat = time.Second // software emulation, and three of them in one machine
	probeInFlight  = 8
)

// chain is a Machine that two runs can be compared by: how many entries, and a checksum
// over all of them in order.
type chain struct {
	mu  sync.Mutex
	n   uint64
	sum uint64
}

func (c *chain) Apply(_, _ uint64, entry []byte) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	c.sum = crc64.Update(c.sum, crc64.MakeTable(crc64.ISO), entry)
	return c.n
}

type chainCopy [16]byte

func (c chainCopy) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(c[:])
	return int64(n), err
}

func (c *chain) Snapshot() (io.WriterTo, error) {
	n, sum := c.at()
	var out chainCopy
	binary.BigEndian.PutUint64(out[:], n)
	binary.BigEndian.PutUint64(out[8:], sum)
	return out, nil
}

func (c *chain) Restore(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil || len(raw) != 0 && len(raw) != 16 {
		return fmt.Errorf("%d bytes: %w", len(raw), errors.Join(err, errors.ErrUnsupported))
	}
	raw = append(raw, make([]byte, 16)...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n, c.sum = binary.BigEndian.Uint64(raw), binary.BigEndian.Uint64(raw[8:])
	return nil
}

func (c *chain) at() (n, sum uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n, c.sum
}

// probed is one replica on one disk, opened again when it has failed.
type probed struct {
	name    string
	dir     string
	voters  []Voter
	room    *room
	mu      sync.Mutex
	replica *Replica // nil: it is down
	machine *chain
}

func (p *probed) self() Voter { return Voter{p.name, "i1"} }

func (p *probed) live() error {
	g := Generation{Height: 1, ID: "probe"}
	if _, _, err := Remembered(p.dir); errors.Is(err, os.ErrNotExist) {
		if err := Found(p.dir, p.self(), g, p.voters, nil); err != nil {
			return err
		}
	}
	last := ""
	for {
		began := time.Now()
		m := &chain{}
		r, err := Open(Config{
			Dir: p.dir, Self: p.self(), Generation: g, Machine: m, Links: p.room.open(p.self()),
			Heartbeat: probeHeartbeat, Stall: probeStall, Log: slog.New(slog.NewTextHandler(os.Stdout, nil)),
		})
		if err != nil {
			if text := err.Error(); text != last {
				say("refused %s: %v", p.name, err)
				last = text
			}
			time.Sleep(probeStall)
			continue
		}
		p.hold(r, m)
		say("open %s ms %d", p.name, time.Since(began).Milliseconds())
		<-r.Failed()
		p.hold(nil, m)
		say("failed %s: %v", p.name, r.Failure())
		if err := r.Close(); err != nil {
			say("waits %s: %v", p.name, err)
			<-r.Closed()
		}
		say("closed %s", p.name)
	}
}

func (p *probed) hold(r *Replica, m *chain) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replica, p.machine = r, m
}

func (p *probed) get() (*Replica, *chain) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.replica, p.machine
}

func runSingle(dir string) error { return runProbed([]string{dir}) }

func runTrio(dirs []string) error {
	if len(dirs) != 3 {
		return fmt.Errorf("%d disks, want 3", len(dirs))
	}
	return runProbed(dirs)
}

func runProbed(dirs []string) error {
	rm := &room{doors: map[string]chan incoming{}, closed: map[string]bool{}}
	var all []*probed
	var voters []Voter
	for i := range dirs {
		voters = append(voters, Voter{string(rune('a' + i)), "i1"})
	}
	for i, dir := range dirs {
		all = append(all, &probed{name: voters[i].Name, dir: filepath.Join(dir, "replica"), voters: voters, room: rm, machine: &chain{}})
	}
	ended := make(chan error, 1)
	for _, p := range all {
		go func() { ended <- p.live() }()
	}
	go tellPositions(all)
	for range probeInFlight {
		go proposeForEver(all)
	}
	return <-ended
}

// tellPositions says each second how far each has come, and whom they follow.
func tellPositions(all []*probed) {
	leader := ""
	for {
		var line strings.Builder
		sums := map[uint64]uint64{}
		for _, p := range all {
			_, m := p.get()
			n, sum := m.at()
			fmt.Fprintf(&line, " %s %d", p.name, n)
			if other, ok := sums[n]; ok && other != sum {
				say("probe: %d entries are not the same everywhere", n)
			}
			sums[n] = sum
		}
		say("at%s", line.String())
		for range 20 {
			for _, p := range all {
				if r, _ := p.get(); r != nil {
					if l, _ := r.Leadership(); l.Leading && p.name != leader {
						leader = p.name
						say("leader %s", leader)
					}
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// proposeForEver says after how many entries in all each of its own was acknowledged.
func proposeForEver(all []*probed) {
	entry := make([]byte, 4096)
	for {
		idle := true
		for _, p := range all {
			r, _ := p.get()
			if r == nil {
				continue
			}
			if l, _ := r.Leadership(); !l.Leading {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), 4*probeStall)
			binary.BigEndian.PutUint64(entry, rand.Uint64())
			out, err := r.Propose(ctx, entry[:100+rand.IntN(len(entry)-100)])
			cancel()
			switch n, ok := out.(uint64); {
			case err != nil:
				say("refusal: %v", err)
				time.Sleep(100 * time.Millisecond)
			case ok:
				say("ack %d", n)
			}
			idle = false
		}
		if idle {
			time.Sleep(20 * time.Millisecond)
		}
	}
}
