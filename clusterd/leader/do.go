package leader

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/constraints"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/fault"
)

// isRefusal tells a command that Apply refused from a term that ended.
func isRefusal(err error) bool {
	return !errors.Is(err, ErrUnknownOutcome) && !errors.Is(err, ErrNotLeader)
}

// Do carries out any call but SUBSCRIBE. nil is 202: what had to be committed is.
func (l *Leader) Do(ctx context.Context, principal, streamID string, call *scheduler.Call) error {
	wants, invalid := constraintsOf(call)
	return l.enter(ctx, func(answer func(error)) {
		f, err := l.caller(principal, streamID, call)
		if err == nil {
			err = invalid // who may not call hears that first
		}
		if err != nil {
			answer(err)
			return
		}
		l.dispatch(f, call, wants, refusedOf(ctx), answer)
	})
}

// caller finds the subscription that a call belongs to; the order of the checks is the
// protocol's.
func (l *Leader) caller(principal, streamID string, call *scheduler.Call) (*framework, error) {
	id := state.FrameworkID(call.GetFrameworkId().GetValue())
	f := l.frameworks[id]
	if f == nil {
		known, owner := false, ""
		l.cfg.Machine.View(func(s *state.State) {
			if fw, ok := s.Framework(id); ok {
				known, owner = true, fw.Principal
			}
		})
		switch {
		case !known:
			return nil, fmt.Errorf("framework %s: %w", id, ErrFrameworkUnknown)
		case principal != "" && owner != "" && owner != principal:
			return nil, fmt.Errorf("framework %s, principal %q: %w", id, principal, ErrPrincipalMismatch)
		}
		return nil, fmt.Errorf("framework %s: %w", id, ErrNotSubscribed)
	}
	switch {
	case f.principal != principal:
		return nil, fmt.Errorf("framework %s, principal %q: %w", id, principal, ErrPrincipalMismatch)
	case streamID == "":
		return nil, ErrStreamIDMissing
	case streamID != f.stream.ID():
		return nil, fmt.Errorf("framework %s, stream %q: %w", id, streamID, ErrStreamIDWrong)
	}
	return f, nil
}

// dispatch carries a call out; wants is what an update says of offers, refused hears what is
// not authorized.
func (l *Leader) dispatch(f *framework, call *scheduler.Call, wants constraints.Set, refused func(object, why string), answer func(error)) {
	l.count("master/messages_" + metricOf(call.GetType()))
	switch call.GetType() {
	case scheduler.Call_ACCEPT:
		l.accept(f, call.GetAccept(), refused, answer)
		return
	case scheduler.Call_KILL:
		l.kill(f, call.GetKill(), answer)
		return
	case scheduler.Call_TEARDOWN:
		l.removeFramework(f.id, "teardown", answer)
		return
	case scheduler.Call_ACKNOWLEDGE:
		l.acknowledge(f, call.GetAcknowledge())
	case scheduler.Call_DECLINE:
		l.decline(f, call.GetDecline())
	case scheduler.Call_REVIVE:
		l.revive(f, call.GetRevive().GetRoles())
	case scheduler.Call_SUPPRESS:
		l.suppress(f, call.GetSuppress().GetRoles())
	case scheduler.Call_RECONCILE:
		l.confirm(func(err error) {
			if err == nil && l.frameworks[f.id] == f {
				l.reconcile(f, call.GetReconcile().GetTasks())
			}
			answer(err)
		})
		return
	case scheduler.Call_ACKNOWLEDGE_OPERATION_STATUS:
		l.acknowledgeOperation(f, call.GetAcknowledgeOperationStatus())
	case scheduler.Call_ACCEPT_INVERSE_OFFERS:
		l.answerInverse(f, call.GetAcceptInverseOffers().GetInverseOfferIds(), call.GetAcceptInverseOffers().GetFilters(), true, answer)
		return
	case scheduler.Call_DECLINE_INVERSE_OFFERS:
		l.answerInverse(f, call.GetDeclineInverseOffers().GetInverseOfferIds(), call.GetDeclineInverseOffers().GetFilters(), false, answer)
		return
	case scheduler.Call_UPDATE_FRAMEWORK:
		l.updateFramework(f, call.GetUpdateFramework(), wants, answer)
		return
	case scheduler.Call_RECONCILE_OPERATIONS:
		l.confirm(func(err error) {
			if err == nil && l.frameworks[f.id] == f {
				l.reconcileOperations(f, call.GetReconcileOperations().GetOperations())
			}
			answer(err)
		})
		return
	case scheduler.Call_MESSAGE:
		l.message(f, call.GetMessage())
	case scheduler.Call_SHUTDOWN:
		l.shutdown(f, call.GetShutdown(), answer)
		return
	default:
		// REQUEST does nothing in Mesos either.
	}
	answer(nil)
}

// Teardown removes a framework whatever it is doing, as an operator wants it; nil: that
// is committed. ErrFrameworkUnknown: there is none of that id.
func (l *Leader) Teardown(ctx context.Context, id state.FrameworkID) error {
	return l.enter(ctx, func(answer func(error)) {
		known := false
		l.cfg.Machine.View(func(s *state.State) { _, known = s.Framework(id) })
		if !known {
			answer(fmt.Errorf("framework %s: %w", id, ErrFrameworkUnknown))
			return
		}
		l.removeFramework(id, "an operator's teardown", func(err error) {
			if err != nil && isRefusal(err) {
				err = fmt.Errorf("%w: %w", err, ErrFrameworkUnknown) // it went meanwhile
			}
			answer(err)
		})
	})
}

func metricOf(t scheduler.Call_Type) string {
	switch t {
	case scheduler.Call_ACCEPT:
		return "launch_tasks"
	case scheduler.Call_DECLINE:
		return "decline_offers"
	case scheduler.Call_KILL:
		return "kill_task"
	case scheduler.Call_REVIVE:
		return "revive_offers"
	case scheduler.Call_SUPPRESS:
		return "suppress_offers"
	case scheduler.Call_RECONCILE:
		return "reconcile_tasks"
	case scheduler.Call_ACKNOWLEDGE:
		return "status_update_acknowledgement"
	case scheduler.Call_TEARDOWN:
		return "unregister_framework"
	case scheduler.Call_MESSAGE:
		return "framework_to_executor"
	case scheduler.Call_UPDATE_FRAMEWORK:
		return "update_framework"
	case scheduler.Call_RECONCILE_OPERATIONS:
		return "reconcile_operations"
	case scheduler.Call_ACKNOWLEDGE_OPERATION_STATUS:
		return "operation_status_update_acknowledgement"
	}
	return "resource_request"
}

func (l *Leader) revive(f *framework, roles []string) {
	if len(roles) == 0 {
		roles = f.roles
	}
	for _, role := range roles {
		if checkRole(role) != nil || !contains(f.roles, role) {
			l.log.Warn("revive dropped: the framework is not subscribed to the role", "framework", f.id, "role", role)
			return
		}
	}
	for _, role := range roles {
		delete(f.suppressed, role)
		l.filters.Clear(f.id, role)
	}
	maps.DeleteFunc(l.inverseAgain, func(key inverseKey, _ time.Time) bool { return key.framework == f.id })
	l.allocate = true
}

func (l *Leader) suppress(f *framework, roles []string) {
	if len(roles) == 0 {
		roles = f.roles
	}
	for _, role := range roles {
		if !contains(f.roles, role) {
			l.log.Warn("suppress dropped: the framework is not subscribed to the role", "framework", f.id, "role", role)
			return
		}
	}
	for _, role := range roles {
		f.suppressed[role] = true
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func (l *Leader) kill(f *framework, k *scheduler.Call_Kill, answer func(error)) {
	id := state.TaskID(k.GetTaskId().GetValue())
	if l.afterLaunch(f, id, func() { l.kill(f, k, answer) }) {
		return
	}
	var container state.ContainerID
	var on state.AgentID
	l.cfg.Machine.View(func(s *state.State) {
		if t, ok := s.TaskOf(f.id, id); ok && !t.State.Terminal() {
			container, on = t.ContainerID, t.AgentID
		}
	})
	if container == "" {
		l.explain(f, id, state.AgentID(k.GetAgentId().GetValue()))
		answer(nil)
		return
	}
	if a := k.GetAgentId().GetValue(); a != "" && state.AgentID(a) != on {
		l.log.Warn("kill dropped: the task is on another agent", "framework", f.id, "task", id, "agent", a, "on", on)
		answer(nil)
		return
	}
	grace := int64(-1)
	if p := k.GetKillPolicy().GetGracePeriod(); p != nil && p.GetNanoseconds() >= 0 {
		grace = p.GetNanoseconds()
	}
	l.propose(state.KillTask{Container: container, Grace: grace}, func(_ state.Result, err error) {
		if err != nil && isRefusal(err) {
			err = nil // it ended meanwhile; its update says so
		} else if err == nil {
			fault.After(fault.LeaderKill, string(container))
			l.sendKill(container)
		}
		answer(err)
	})
}

func (l *Leader) acknowledge(f *framework, a *scheduler.Call_Acknowledge) {
	var container state.ContainerID
	l.cfg.Machine.View(func(s *state.State) {
		if t, ok := s.TaskOf(f.id, state.TaskID(a.GetTaskId().GetValue())); ok && t.AgentID == state.AgentID(a.GetAgentId().GetValue()) {
			container = t.ContainerID
		}
	})
	if container == "" {
		l.count("master/invalid_status_update_acknowledgements")
		return
	}
	uuid := append([]byte(nil), a.GetUuid()...)
	l.propose(state.AcknowledgeUpdate{Container: container, UUID: uuid}, func(_ state.Result, err error) {
		if err != nil {
			l.count("master/invalid_status_update_acknowledgements")
			return
		}
		l.count("master/valid_status_update_acknowledgements")
		fault.After(fault.LeaderSettled, string(container))
		delete(l.retries, container)
	})
}

func (l *Leader) onTick(now time.Time) {
	for id, at := range l.deadlines {
		if now.After(at) {
			l.removeFramework(id, "failover timeout", func(error) {})
		}
	}
	l.retryUpdates(now)
	l.retryOperations(now)
	l.watchAgents(now)
	l.finishDrains()
	if now.Sub(l.lastRound) >= l.cfg.AllocationInterval {
		l.filters.Expire(l.sinceNS(now))
		l.allocate = true
	}
}
