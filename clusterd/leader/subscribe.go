package leader

import (
	"context"
	"fmt"
	"maps"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/constraints"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/clusterd/streams"
	"google.golang.org/protobuf/proto"
)

// Subscribe connects a framework to s. What is wrong with the subscription itself is
// said by an ERROR event on s, which then ends (the HTTP answer is 200 all the same); an
// error means that nothing was decided.
func (l *Leader) Subscribe(ctx context.Context, principal string, call *scheduler.Call, s *streams.Stream) error {
	sub := call.GetSubscribe()
	info, ok := proto.Clone(sub.GetFrameworkInfo()).(*mesosv1.FrameworkInfo)
	if !ok || info == nil {
		return fmt.Errorf("subscribe without framework_info")
	}
	if info.GetId() == nil && call.GetFrameworkId() != nil {
		info.Id = call.GetFrameworkId()
	}
	if err := checkFramework(info, sub.GetSuppressedRoles()); err != nil {
		s.Close(errorEvent(err.Error()))
		return nil
	}
	wants, err := constraints.Compile(sub.GetOfferConstraints(), rolesOf(info))
	if err != nil {
		s.Close(errorEvent(err.Error()))
		return nil
	}
	if why := l.forbiddenRoles(principal, rolesOf(info)); why != "" {
		refusedOf(ctx)("framework "+info.GetName(), why)
		s.Close(errorEvent(why))
		return nil
	}
	wish := wish{info, sub.GetSuppressedRoles(), wants}
	err = l.enter(ctx, func(answer func(error)) { l.subscribe(ctx, principal, wish, s, answer) })
	if err != nil {
		l.Disconnected(s.ID(), false) // it may have been connected in the same moment
	}
	return err
}

// wish is what a framework says of itself.
type wish struct {
	info       *mesosv1.FrameworkInfo
	suppressed []string
	wants      constraints.Set
}

func (l *Leader) subscribe(ctx context.Context, principal string, wish wish, s *streams.Stream, answer func(error)) {
	info := wish.info
	l.count("master/messages_register_framework")
	id := state.FrameworkID(info.GetId().GetValue())
	refuse := func(format string, args ...any) {
		s.Close(errorEvent(fmt.Sprintf(format, args...)))
		answer(nil)
	}
	old, removed := l.known(id)
	switch {
	case removed:
		refuse("Framework has been removed")
		return
	case old != nil && old.principal != info.GetPrincipal():
		refuse("Framework %s: the principal %q cannot be changed to %q", id, old.principal, info.GetPrincipal())
		return
	case old != nil:
		// These two keep their old value, silently.
		info.User, info.Checkpoint = proto.String(old.user), proto.Bool(old.checkpoint)
	}
	wire, err := proto.MarshalOptions{AllowPartial: true}.Marshal(info)
	if err != nil {
		refuse("FrameworkInfo cannot be stored: %v", err)
		return
	}
	command := subscription(id, wire, info)
	deadline, timed := l.deadlines[id]
	delete(l.deadlines, id) // it came back: the timer must not fire while that is committed
	l.propose(command, func(r state.Result, err error) {
		if err != nil {
			if timed {
				l.deadlines[id] = deadline
			}
			if isRefusal(err) {
				refuse("%v", err)
				return
			}
			answer(err)
			return
		}
		if f := l.frameworks[r.FrameworkID]; f != nil && ctx.Err() != nil {
			// Who asked is gone and has a newer stream: the call was late on its way.
			l.log.Info("a subscription came too late", "framework", r.FrameworkID)
			answer(ctx.Err())
			return
		}
		l.connect(r.FrameworkID, principal, wish, s)
		if f := l.frameworks[r.FrameworkID]; f != nil && ctx.Err() != nil {
			l.disconnect(f, false) // nobody will serve this stream, nor say that it ended
		}
		answer(nil)
	})
}

// subscription is the command of a framework's subscription.
func subscription(id state.FrameworkID, wire []byte, info *mesosv1.FrameworkInfo) state.SubscribeFramework {
	return state.SubscribeFramework{
		ID: id, Info: wire, Name: info.GetName(), User: info.GetUser(), Principal: info.GetPrincipal(), Hostname: info.GetHostname(),
		Roles: rolesOf(info), Capabilities: capabilities(info), Checkpoint: info.GetCheckpoint(),
		FailoverTimeout: int64(info.GetFailoverTimeout() * 1e9),
	}
}

// standing is what the state knows of a framework that subscribes again.
type standing struct {
	principal, user string
	checkpoint      bool
}

func (l *Leader) known(id state.FrameworkID) (old *standing, removed bool) {
	if id == "" {
		return nil, false
	}
	l.cfg.Machine.View(func(s *state.State) {
		removed = s.FrameworkRemoved(id)
		if f, ok := s.Framework(id); ok {
			old = &standing{f.Principal, f.User, f.Checkpoint}
		}
	})
	return old, removed
}

// connect makes s the framework's one stream; an older one is told and ended.
func (l *Leader) connect(id state.FrameworkID, principal string, wish wish, s *streams.Stream) {
	if old := l.frameworks[id]; old != nil {
		old.stream.Close(errorEvent("Framework failed over"))
		l.discard(id)
	}
	f := &framework{id: id, stream: s, principal: principal}
	f.become(wish)
	l.frameworks[id] = f
	delete(l.deadlines, id)
	l.filters.ClearFramework(id)
	l.send(f, subscribedEvent(id, l.info))
	l.log.Info("framework subscribed", "framework", id, "name", f.info.GetName(), "roles", f.roles)
	l.resendUpdates(f)
	l.resendOperations(f)
	l.allocate = true
}

// become takes over what a framework says of itself.
func (f *framework) become(w wish) {
	w.info.Id = &mesosv1.FrameworkID{Value: proto.String(string(f.id))}
	f.info, f.caps, f.roles, f.wants, f.suppressed = w.info, capabilities(w.info), rolesOf(w.info), w.wants, map[string]bool{}
	for _, role := range w.suppressed {
		f.suppressed[role] = true
	}
}

// discard takes a framework's offers back without a word: its stream is gone.
func (l *Leader) discard(id state.FrameworkID) {
	for _, o := range l.book.OfFramework(id) {
		l.book.Remove(o.ID)
		l.allocate = true
	}
	for _, o := range l.inverse {
		if o.framework == id {
			l.dropInverse(o)
		}
	}
	maps.DeleteFunc(l.inverseAgain, func(key inverseKey, _ time.Time) bool { return key.framework == id })
}

// send puts an event on a framework's stream; one that overflows is a disconnect.
func (l *Leader) send(f *framework, e *streams.Event) {
	if f == nil {
		return
	}
	if !f.stream.Send(e) && l.frameworks[f.id] == f {
		l.log.Warn("framework reads too slowly; its stream is ended", "framework", f.id)
		l.disconnect(f, false)
	}
}

// Disconnected says that a subscription's stream ended. plain: the node that held the
// socket saw the client close it; otherwise it was lost by our doing. An unknown stream
// was replaced or ended by us before.
func (l *Leader) Disconnected(streamID string, plain bool) {
	l.post(context.Background(), func() {
		for _, f := range l.frameworks {
			if f.stream.ID() == streamID {
				l.disconnect(f, plain)
				return
			}
		}
	})
}

func (l *Leader) disconnect(f *framework, plain bool) {
	delete(l.frameworks, f.id)
	f.stream.Close(nil)
	l.discard(f.id)
	l.filters.ClearFramework(f.id)
	var timeout time.Duration
	known := false
	l.cfg.Machine.View(func(s *state.State) {
		if fw, ok := s.Framework(f.id); ok {
			timeout, known = time.Duration(fw.FailoverTimeout), true
		}
	})
	if !known {
		return
	}
	if !plain {
		timeout = max(timeout, afterOurFault)
	}
	l.log.Info("framework disconnected", "framework", f.id, "removed_in", timeout)
	l.propose(state.DisconnectFramework{ID: f.id, Remaining: int64(timeout)}, func(state.Result, error) {})
	l.deadlines[f.id] = time.Now().Add(timeout)
	l.allocate = true
}

// removeFramework ends a framework for good; its tasks are killed by what follows from
// the commit.
func (l *Leader) removeFramework(id state.FrameworkID, why string, answer func(error)) {
	delete(l.deadlines, id)
	l.propose(state.RemoveFramework{ID: id}, func(_ state.Result, err error) {
		if err == nil {
			l.log.Info("framework removed", "framework", id, "why", why)
			if f := l.frameworks[id]; f != nil {
				delete(l.frameworks, id)
				f.stream.Close(nil)
			}
			l.discard(id)
			l.filters.ClearFramework(id)
			l.allocate = true
		}
		answer(err)
	})
}
