package leader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/offers"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/clusterd/streams"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

// UpdateSchedule replaces the plan of which machines will be away when; nil: that is
// committed. Offers of agents whose window changes are taken back, and made again with it.
// ErrInvalid: the schedule cannot be.
func (l *Leader) UpdateSchedule(ctx context.Context, windows []state.Window) error {
	return l.maintain(ctx, state.UpdateSchedule{Windows: windows})
}

// StartMaintenance takes scheduled machines down, with the agents on them; their tasks are
// over. ErrInvalid: one is not in the schedule, or down already.
func (l *Leader) StartMaintenance(ctx context.Context, machines []state.MachineID) error {
	return l.maintain(ctx, state.StartMaintenance{Machines: machines})
}

// StopMaintenance lets machines come back that are down, and takes them out of the schedule.
// ErrInvalid: one is not down.
func (l *Leader) StopMaintenance(ctx context.Context, machines []state.MachineID) error {
	return l.maintain(ctx, state.StopMaintenance{Machines: machines})
}

func (l *Leader) maintain(ctx context.Context, command state.Command) error {
	return l.enter(ctx, func(answer func(error)) {
		l.propose(command, func(r state.Result, err error) {
			if err != nil {
				if isRefusal(err) {
					err = invalidCall("%v", err)
				}
				answer(err)
				return
			}
			l.log.Info("maintenance is planned otherwise", "by", fmt.Sprintf("%T", command))
			for id, is := range l.windows() {
				if l.told[id] == is {
					continue
				}
				l.told[id] = is
				l.rescindAgent(id) // they are made again, with the window
				maps.DeleteFunc(l.inverseAgain, func(key inverseKey, _ time.Time) bool { return key.agent == id })
			}
			for _, e := range r.Events {
				if a := l.ended[e.Agent]; e.Change == state.AgentEnded && a != nil && !a.away {
					a.conn.send(l.Height(), l.cfg.Term, &agentwire.FromMaster{Body: &agentwire.FromMaster_Shutdown{Shutdown: &agentwire.Shutdown{
						Reason: "an operator took its machine down for maintenance",
					}}})
				}
			}
			l.allocate = true
			answer(nil)
		})
	})
}

// window is when an agent will be away; all zero: nobody plans that.
type window struct {
	planned         bool
	start, duration int64
}

func windowOf(w *state.Window) window {
	if w == nil {
		return window{}
	}
	return window{planned: true, start: w.StartNS, duration: w.Duration}
}

func (l *Leader) windows() map[state.AgentID]window {
	out := map[state.AgentID]window{}
	l.cfg.Machine.View(func(s *state.State) {
		for id := range l.agents {
			if a, ok := s.Agent(id); ok {
				out[id] = windowOf(s.Maintenance().Window(a))
			}
		}
	})
	return out
}

// Unavailability words a window.
func Unavailability(w *state.Window) *mesosv1.Unavailability {
	out := &mesosv1.Unavailability{Start: &mesosv1.TimeInfo{Nanoseconds: proto.Int64(w.StartNS)}}
	if w.Duration >= 0 {
		out.Duration = &mesosv1.DurationInfo{Nanoseconds: proto.Int64(w.Duration)}
	}
	return out
}

// inverseOffer asks a framework to give an agent back by a time. At most one is out for each
// framework that holds something of an agent.
type inverseOffer struct {
	id        offers.ID
	agent     state.AgentID
	framework state.FrameworkID
	window    window
}

// wanted is an inverse offer that is to be out.
type wanted struct {
	offer  *mesosv1.InverseOffer
	window window
}

// inverseKey is who was asked for what.
type inverseKey struct {
	agent     state.AgentID
	framework state.FrameworkID
}

// wantBack is what frameworks hold of agents that will be away.
func (l *Leader) wantBack(s *state.State) map[inverseKey]wanted {
	out := map[inverseKey]wanted{}
	if len(s.Maintenance().Windows) == 0 {
		return out
	}
	for id := range l.agents {
		a, ok := s.Agent(id)
		if !ok || a.Unreachable {
			continue
		}
		w := s.Maintenance().Window(a)
		if w == nil {
			continue
		}
		away := windowOf(w)
		for t := range s.ContainersOfAgent(id) {
			if !t.Orphan && !t.Released && l.frameworks[t.FrameworkID] != nil {
				out[inverseKey{id, t.FrameworkID}] = wanted{&mesosv1.InverseOffer{
					FrameworkId: &mesosv1.FrameworkID{Value: proto.String(string(t.FrameworkID))}, AgentId: &mesosv1.AgentID{Value: proto.String(string(id))},
					Url: agentURL(a), Unavailability: Unavailability(w),
				}, away}
			}
		}
	}
	return out
}

// askBack asks frameworks for what is wanted of them, in the same round as offers are made,
// and takes back what asks for something else, or for nothing any more.
func (l *Leader) askBack(want map[inverseKey]wanted, now time.Time) {
	l.rescindInverse(func(o inverseOffer) bool {
		w, still := want[inverseKey{o.agent, o.framework}]
		return !still || w.window != o.window
	})
	out := map[state.FrameworkID][]*mesosv1.InverseOffer{}
	for key, w := range want {
		if _, asked := l.inverseOut[key]; asked || now.Before(l.inverseAgain[key]) || l.frameworks[key.framework] == nil {
			continue
		}
		l.inverseLast++
		id := l.inverseID(l.inverseLast)
		l.inverseOut[key] = id
		l.inverse[id] = inverseOffer{id, key.agent, key.framework, w.window}
		w.offer.Id = &mesosv1.OfferID{Value: proto.String(string(id))}
		out[key.framework] = append(out[key.framework], w.offer)
	}
	for key := range l.inverseAgain {
		if _, still := want[key]; !still {
			delete(l.inverseAgain, key)
		}
	}
	for id, list := range out {
		l.send(l.frameworks[id], inverseEvent(list))
	}
}

// inverseID is unique in a generation, and not an offer's.
func (l *Leader) inverseID(n uint64) offers.ID {
	return offers.ID(l.cfg.Generation + "-I" + strconv.FormatUint(l.cfg.Term, 10) + "." + strconv.Itoa(l.cfg.Round) + "." + strconv.FormatUint(n, 10))
}

func (l *Leader) dropInverse(o inverseOffer) {
	delete(l.inverse, o.id)
	delete(l.inverseOut, inverseKey{o.agent, o.framework})
}

func (l *Leader) rescindInverse(which func(inverseOffer) bool) {
	for _, o := range l.inverse {
		if which(o) {
			l.dropInverse(o)
			l.send(l.frameworks[o.framework], streams.NewEvent(&scheduler.Event{
				Type:                scheduler.Event_RESCIND_INVERSE_OFFER.Enum(),
				RescindInverseOffer: &scheduler.Event_RescindInverseOffer{InverseOfferId: &mesosv1.OfferID{Value: proto.String(string(o.id))}},
			}))
		}
	}
}

func inverseEvent(list []*mesosv1.InverseOffer) *streams.Event {
	slices.SortFunc(list, func(a, b *mesosv1.InverseOffer) int {
		return cmp.Compare(a.GetAgentId().GetValue(), b.GetAgentId().GetValue())
	})
	return streams.NewEvent(&scheduler.Event{Type: scheduler.Event_INVERSE_OFFERS.Enum(), InverseOffers: &scheduler.Event_InverseOffers{InverseOffers: list}})
}

// answerInverse takes a framework's answer. It is written down for operators; the same is
// asked again when its filter is over.
func (l *Leader) answerInverse(f *framework, ids []*mesosv1.OfferID, filters *mesosv1.Filters, accept bool, answer func(error)) {
	open, failed := 1, error(nil)
	finish := func(err error) {
		if err != nil && !isRefusal(err) {
			failed = errors.Join(failed, err)
		}
		if open--; open == 0 {
			answer(failed)
		}
	}
	for _, id := range ids {
		o, ok := l.inverse[offers.ID(id.GetValue())]
		if !ok || o.framework != f.id {
			l.log.Info("answer to an inverse offer that is not out", "framework", f.id, "offer", id.GetValue())
			continue
		}
		l.dropInverse(o)
		l.inverseAgain[inverseKey{o.agent, o.framework}] = time.Now().Add(max(refusePause(filters), l.cfg.AllocationInterval))
		same := false
		l.cfg.Machine.View(func(s *state.State) {
			said, ok := s.InverseAnswer(o.agent, o.framework)
			same = ok && said.Accept == accept
		})
		if same {
			continue // it is written down
		}
		open++
		l.propose(state.AnswerInverseOffer{Agent: o.agent, Framework: o.framework, Accept: accept}, func(_ state.Result, err error) { finish(err) })
	}
	finish(nil)
}
