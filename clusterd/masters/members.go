package masters

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mesolith/mesolith/clusterd/discovery/birth"
	"github.com/mesolith/mesolith/clusterd/replica"
	birthwire "github.com/mesolith/mesolith/internal/wire/birth"
)

// keepMembers is the leader's care for the configuration: one vote for each name of the
// list, carried by the incarnation that lives.
func (m *Masters) keepMembers(ctx context.Context, r *replica.Replica) {
	pause := time.NewTicker(max(m.cfg.Heartbeat, 100*time.Millisecond))
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		if err := m.oneStep(ctx, r); err != nil && ctx.Err() == nil {
			m.log.Warn("change of membership", "error", err)
		}
	}
}

// living asks every other master who it is now. newer are those with a newer list of masters
// than this one's.
func (m *Masters) living(ctx context.Context) (out map[string]birth.Living, newer []replica.Voter) {
	ctx, cancel := context.WithTimeout(ctx, max(4*m.cfg.Heartbeat, time.Second))
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	out = map[string]birth.Living{m.cfg.Self: {Incarnation: m.self().Incarnation, Hardware: m.cfg.Hardware.Own}}
	for _, name := range m.others() {
		wg.Go(func() {
			a, err := m.ask(ctx, name, &birthwire.Request{Body: &birthwire.Request_Ask{Ask: &birthwire.Ask{ClusterId: m.cfg.ClusterID, From: m.cfg.Self}}})
			if err != nil || a.GetRefused() != "" {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			switch version := a.GetListVersion(); {
			case version > m.cfg.ListVersion:
				newer = append(newer, replica.Voter{Name: name, Incarnation: a.GetIncarnation()})
			case version == m.cfg.ListVersion:
				out[name] = livingOf(a)
			}
		})
	}
	wg.Wait()
	return out, newer
}

func (m *Masters) oneStep(ctx context.Context, r *replica.Replica) error {
	answered, newer := m.living(ctx)
	if len(newer) > 0 {
		return m.giveWay(ctx, r, newer)
	}
	living, wait, err := m.judge(ctx, answered)
	if err != nil || wait {
		return err
	}
	members, prev, err := r.Members()
	if err != nil {
		return err
	}
	end := r.Position().LastIndex
	var list []birth.Member
	for _, x := range members {
		list = append(list, birth.Member{Voter: birth.Voter(x.Voter), Votes: x.Votes, CaughtUp: r.CaughtUp(x.Voter, end)})
	}
	s := birth.Replacement(m.cfg.List, list, living)
	who := replica.Voter(s.Who)
	what := ""
	switch s.Kind {
	case birth.AddLearner:
		what, err = "a master came back as another incarnation: it catches up before it votes", r.AddLearner(ctx, who, prev)
	case birth.Remove:
		what, err = "member removed", r.Remove(ctx, who, prev)
	case birth.AddVoter:
		what, err = "member votes", r.AddVoter(ctx, who, prev)
	}
	if err == nil && what != "" { // committed
		m.log.Info(what, "server", who.ServerID(), "placeholder", who.Placeholder())
	}
	return err
}

// giveWay hands the lead to a voter that has a newer list of masters: only who knows the
// newest changes who is a member, and a machine that is none any more may lead no more.
func (m *Masters) giveWay(ctx context.Context, r *replica.Replica, newer []replica.Voter) error {
	members, _, err := r.Members()
	if err != nil {
		return err
	}
	end := r.Position().LastIndex
	for _, x := range members {
		if x.Votes && slices.Contains(newer, x.Voter) && r.CaughtUp(x.Voter, end) {
			m.log.Info("leadership goes to a master with a newer list of masters", "to", x.ServerID())
			return r.HandoverTo(ctx, x.Voter)
		}
	}
	return nil
}
