package calls

import (
	"context"
	"sync"
)

// Standing is who leads, as far as this node knows.
type Standing struct {
	Leader  string // the leader's node name; empty: nobody known
	Address string // host:port of the leader's API, for redirects; may be empty
	Height  uint64
	Term    uint64
	Here    bool // this node is the leader
	Ready   bool // and has everything it needs to answer

	Generation string // id of the one at Height; empty: this node has met none
}

// answers tells whether calls may be answered here and now.
func (s Standing) answers() bool { return s.Here && s.Ready }

// same tells whether both describe one term of one leader.
func (s Standing) same(o Standing) bool {
	return s.Leader == o.Leader && s.Height == o.Height && s.Term == o.Term && s.Here == o.Here
}

// Board is where who leads is posted: main writes it, the faces read it. The zero value
// is not ready; use NewBoard.
type Board struct {
	mu      sync.Mutex
	now     Standing
	changed chan struct{}
}

// NewBoard returns a board that knows no leader.
func NewBoard() *Board { return &Board{changed: make(chan struct{})} }

// Post replaces what is known.
func (b *Board) Post(s Standing) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s == b.now {
		return
	}
	b.now = s
	close(b.changed)
	b.changed = make(chan struct{})
}

// Read returns what is known, and a channel that is closed when that changes.
func (b *Board) Read() (Standing, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now, b.changed
}

// wait returns the first standing that ok accepts, or the present one when ctx ends.
func (b *Board) wait(ctx context.Context, ok func(Standing) bool) Standing {
	for {
		s, changed := b.Read()
		if ok(s) {
			return s
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s
		}
	}
}
