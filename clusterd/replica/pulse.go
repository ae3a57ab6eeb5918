package replica

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Pulse counts what a follower hears of its leaders. One outlives all replicas of a
// program, so that it can be read without asking which one is open; nil counts nothing.
type Pulse struct {
	mu     sync.Mutex
	leader string // whose heartbeats these are, and in which term
	term   uint64
	last   time.Time

	heard, missed uint64
	longest       time.Duration
}

// Beats is what was counted since the program began.
type Beats struct {
	Heard   uint64
	Missed  uint64        // silences of a whole heartbeat timeout, of a leader that went on
	Longest time.Duration // silence of one leader
}

// Read gives the counts.
func (p *Pulse) Read() Beats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Beats{Heard: p.heard, Missed: p.missed, Longest: p.longest}
}

// hear notes one heartbeat. Between those of two leaders, or of two terms, nothing is
// missed: there was an election.
func (p *Pulse) hear(leader string, term uint64, now time.Time, timeout time.Duration) (silence time.Duration) {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard++
	if leader == p.leader && term == p.term {
		silence = now.Sub(p.last)
		p.longest = max(p.longest, silence)
		if silence >= timeout {
			p.missed++
		}
	}
	p.leader, p.term, p.last = leader, term, now
	return silence
}

// SetHeartbeatHandler implements raft.Transport.
func (t *transport) SetHeartbeatHandler(handle func(raft.RPC)) {
	cfg := t.layer.cfg
	t.NetworkTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		if a, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
			silence := cfg.Pulse.hear(string(a.Addr), a.Term, time.Now(), cfg.Heartbeat)
			if silence >= cfg.Heartbeat {
				cfg.Log.Warn("the leader was silent for a whole heartbeat timeout", "leader", string(a.Addr), "term", a.Term, "silence", silence)
			}
		}
		handle(rpc)
	})
}
