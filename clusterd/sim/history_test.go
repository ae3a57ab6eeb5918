package sim

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/state"
)

// history is what Raft did, as an observer beside all replicas sees it.
type history struct {
	mu       sync.Mutex
	applied  map[place]applied
	times    map[[32]byte]int // how often an entry stands in the history
	acked    map[[32]byte]bool
	unknown  int
	leaders  map[string]string // by generation and term
	launches map[string]launchFate
	lost     []string // agents that an acknowledged entry calls unreachable
	wrong    []string
}

// place is where an entry stands: each generation is a history of its own, and the state
// that one begins with may be of an earlier index than what others of the last have.
type place struct {
	generation string
	index      uint64
}

type applied struct {
	entry [32]byte
	term  uint64
	by    string
}

// launchFate is what became of a proposed launch.
type launchFate int

const (
	launchUnknown launchFate = iota + 1
	launchDone
	launchRefused
)

func newHistory() *history {
	return &history{
		applied: map[place]applied{}, times: map[[32]byte]int{}, acked: map[[32]byte]bool{}, leaders: map[string]string{},
		launches: map[string]launchFate{},
	}
}

func (h *history) fault(format string, args ...any) {
	if len(h.wrong) < 20 {
		h.wrong = append(h.wrong, fmt.Sprintf(format, args...))
	}
}

// elected checks that a term has one leader.
func (h *history) elected(generation string, term uint64, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := fmt.Sprintf("%s/%d", generation, term)
	if old := h.leaders[key]; old != "" && old != name {
		h.fault("term %s is led by %s and by %s", key, old, name)
	}
	h.leaders[key] = name
}

// recorder is a replica's machine whose entries are compared with those of the others.
type recorder struct {
	*state.Machine
	h    *history
	name string
}

func newRecorder(h *history, name string) *recorder { return &recorder{state.NewMachine(), h, name} }

// Apply implements replica.Machine.
func (r *recorder) Apply(index, term uint64, entry []byte) any {
	sum := sha256.Sum256(entry)
	at := place{r.generation(entry), index}
	r.h.mu.Lock()
	old, known := r.h.applied[at]
	switch {
	case known && (old.entry != sum || old.term != term):
		r.h.fault("entry %d: %s applied one of term %d, %s another of term %d", index, old.by, old.term, r.name, term)
	case !known:
		r.h.applied[at] = applied{sum, term, r.name}
		if len(entry) > 0 {
			r.h.times[sum]++
		}
	}
	r.h.mu.Unlock()
	return r.Machine.Apply(index, term, entry)
}

// generation is whose history an entry belongs to: the first of each says so.
func (r *recorder) generation(entry []byte) (id string) {
	r.View(func(s *state.State) { id = s.Generation().ID })
	if len(entry) == 0 {
		return id
	}
	if _, commands, err := state.DecodeEntry(entry); err == nil && len(commands) > 0 {
		if b, ok := commands[0].(state.BeginGeneration); ok {
			return b.Generation.ID
		}
	}
	return id
}

// proposals is a leader's log with an observer.
type proposals struct {
	leader.Log
	h *history
}

// Propose implements leader.Log.
func (p *proposals) Propose(ctx context.Context, entry []byte) (any, error) {
	var commands []state.Command
	if len(entry) > 0 {
		var err error
		if _, commands, err = state.DecodeEntry(entry); err != nil {
			return nil, err
		}
	}
	p.h.note(commands, launchUnknown, nil)
	out, err := p.Log.Propose(ctx, entry)
	p.h.mu.Lock()
	if err == nil && len(entry) > 0 {
		p.h.acked[sha256.Sum256(entry)] = true
	} else if err != nil {
		p.h.unknown++
	}
	p.h.mu.Unlock()
	if done, ok := out.(state.Applied); ok && err == nil {
		p.h.note(commands, launchDone, done.Results)
	}
	return out, err
}

func (h *history) note(commands []state.Command, fate launchFate, results []state.Result) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, c := range commands {
		switch c := c.(type) {
		case state.LaunchTask:
			f := fate
			if i < len(results) && results[i].Err != nil {
				f = launchRefused
			}
			h.launches[string(c.Task)] = f
		case state.MarkUnreachable:
			if fate == launchDone && i < len(results) && results[i].Err == nil {
				h.lost = append(h.lost, string(c.ID))
			}
		case state.RemoveFramework:
			if fate == launchDone {
				h.fault("framework %s was removed", c.ID)
			}
		}
	}
}

// lostCount is how many agents were called unreachable so far.
func (h *history) lostCount() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.lost)
}

func (h *history) fateOf(task string) launchFate {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.launches[task]
}

// check says what is wrong with the history once everything has come to rest.
func (h *history) check() (acked, missing int, wrong []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for sum := range h.acked {
		switch h.times[sum] {
		case 1:
		case 0:
			missing++
		default:
			h.fault("an acknowledged entry stands %d times in the history", h.times[sum])
		}
	}
	if missing > 0 {
		h.fault("%d of %d acknowledged entries are lost", missing, len(h.acked))
	}
	return len(h.acked), missing, h.wrong
}
