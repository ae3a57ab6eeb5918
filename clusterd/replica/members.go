package replica

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// Member is a server of the configuration.
type Member struct {
	Voter
	Votes bool
}

// Placeholder says that nobody carries this place yet.
func (v Voter) Placeholder() bool { return v.Incarnation == "" }

func voterOf(id raft.ServerID) Voter {
	name, incarnation, _ := strings.Cut(string(id), "/")
	if incarnation == placeholder {
		incarnation = ""
	}
	return Voter{name, incarnation}
}

// Members is the newest configuration in this replica's log, with its index.
func (r *Replica) Members() ([]Member, uint64, error) {
	for {
		index, err := r.configIndex()
		if err != nil {
			return nil, 0, err
		}
		f := r.raft.GetConfiguration() // its own Index is always 0
		if err := f.Error(); err != nil {
			return nil, 0, fmt.Errorf("read configuration: %w", err)
		}
		again, err := r.configIndex()
		if err != nil {
			return nil, 0, err
		}
		if again != index {
			continue // it changed meanwhile
		}
		var out []Member
		for _, s := range f.Configuration().Servers {
			out = append(out, Member{voterOf(s.ID), s.Suffrage == raft.Voter})
		}
		return out, index, nil
	}
}

func (r *Replica) configIndex() (uint64, error) {
	if i := r.log.lastConfig(); i > 0 {
		return i, nil
	}
	list, err := r.snaps.List()
	if err != nil {
		return 0, fmt.Errorf("read configuration: %w", err)
	}
	if len(list) == 0 {
		return 0, nil
	}
	return list[0].ConfigurationIndex, nil
}

// AddLearner lets a server receive the log without a vote; prev is the configuration's
// index that the decision was made on.
func (r *Replica) AddLearner(ctx context.Context, v Voter, prev uint64) error {
	id := v.ServerID()
	return outcomeOf("add "+id+" as learner", r.await(ctx, func() raft.Future { return r.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(id), prev, 0) }))
}

// AddVoter gives a server its vote.
func (r *Replica) AddVoter(ctx context.Context, v Voter, prev uint64) error {
	id := v.ServerID()
	return outcomeOf("add "+id+" as voter", r.await(ctx, func() raft.Future { return r.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(id), prev, 0) }))
}

// Remove takes a server out.
func (r *Replica) Remove(ctx context.Context, v Voter, prev uint64) error {
	id := v.ServerID()
	return outcomeOf("remove "+id, r.await(ctx, func() raft.Future { return r.raft.RemoveServer(raft.ServerID(id), prev, 0) }))
}

func outcomeOf(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, outcome(err))
	}
	return nil
}

// Handover gives the lead to another voter that has caught up, if there is one.
func (r *Replica) Handover(ctx context.Context) error {
	if err := r.await(ctx, r.raft.LeadershipTransfer); err != nil {
		return fmt.Errorf("hand leadership over: %w", err)
	}
	return nil
}

// HandoverTo gives the lead to this voter.
func (r *Replica) HandoverTo(ctx context.Context, v Voter) error {
	err := r.await(ctx, func() raft.Future {
		return r.raft.LeadershipTransferToServer(raft.ServerID(v.ServerID()), raft.ServerAddress(v.ServerID()))
	})
	if err != nil {
		return fmt.Errorf("hand leadership over to %s: %w", v.ServerID(), err)
	}
	return nil
}

// Leader is who this replica takes for the leader.
func (r *Replica) Leader() (Voter, bool) {
	_, id := r.raft.LeaderWithID()
	if id == "" {
		return Voter{}, false
	}
	return voterOf(id), true
}

// Position is how far this replica's log goes. Of two logs of one generation the one
// with the higher (LastTerm, LastIndex) holds everything that was acknowledged and is in
// either; Term, the newest that the server voted in, says nothing about that.
type Position struct{ Term, LastTerm, LastIndex, AppliedIndex uint64 }

// Position reads it.
func (r *Replica) Position() Position {
	p := Position{Term: r.raft.CurrentTerm(), LastIndex: r.raft.LastIndex(), AppliedIndex: r.raft.AppliedIndex()}
	stats := r.raft.Stats()
	for _, key := range []string{"last_log_term", "last_snapshot_term"} {
		if n, err := strconv.ParseUint(stats[key], 10, 64); err == nil {
			p.LastTerm = max(p.LastTerm, n)
		}
	}
	return p
}

// Follows says whether this replica, not leading, has heard of a leader within d.
func (r *Replica) Follows(d time.Duration) bool {
	return time.Since(r.raft.LastContact()) < d
}

// CaughtUp says, on the leader, whether a server has everything up to index.
func (r *Replica) CaughtUp(v Voter, index uint64) bool {
	applied, known := r.stream.applied(v.ServerID())
	return known && applied >= index
}
