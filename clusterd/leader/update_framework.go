package leader

import (
	"fmt"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/constraints"
	"github.com/mesolith/mesolith/clusterd/state"
	"google.golang.org/protobuf/proto"
)

// refusal is a sentence for whoever called; kind is ErrInvalid, ErrForbidden or ErrConflict.
type refusal struct {
	text string
	kind error
}

func (r refusal) Error() string { return r.text }
func (r refusal) Unwrap() error { return r.kind }

func invalidCall(format string, args ...any) error {
	return refusal{fmt.Sprintf(format, args...), ErrInvalid}
}

// updateFramework replaces what a framework says of itself while it stays subscribed. Everything
// is replaced: roles that are not suppressed in the call are not any more. Offers of roles
// that it has left are rescinded.
func (l *Leader) updateFramework(f *framework, u *scheduler.Call_UpdateFramework, wants constraints.Set, answer func(error)) {
	info, ok := proto.Clone(u.GetFrameworkInfo()).(*mesosv1.FrameworkInfo)
	if !ok || info == nil {
		answer(invalidCall("'update_framework.framework_info' is missing"))
		return
	}
	if info.Principal == nil {
		info.Principal = f.info.Principal // it subscribed without naming it, too
	}
	if err := checkUpdate(f, info, u); err != nil {
		answer(err)
		return
	}
	if why := l.forbiddenRoles(f.principal, rolesOf(info)); why != "" {
		answer(refusal{why, ErrForbidden})
		return
	}
	wire, err := proto.MarshalOptions{AllowPartial: true}.Marshal(info)
	if err != nil {
		answer(invalidCall("FrameworkInfo cannot be stored: %v", err))
		return
	}
	l.propose(state.UpdateFramework{SubscribeFramework: subscription(f.id, wire, info)}, func(_ state.Result, err error) {
		now := l.frameworks[f.id]
		switch {
		case err == nil && now == f:
			l.become(f, wish{info, u.GetSuppressedRoles(), wants})
		case err == nil && now != nil:
			// It subscribed anew meanwhile, and said something else of itself.
			l.sayAgain(now)
			err = ErrStreamIDWrong
		case err != nil && isRefusal(err):
			err = fmt.Errorf("%w: %w", err, ErrFrameworkGone)
		}
		answer(err)
	})
}

// sayAgain writes down once more what a framework said when it subscribed.
func (l *Leader) sayAgain(f *framework) {
	wire, err := proto.MarshalOptions{AllowPartial: true}.Marshal(f.info)
	if err != nil {
		l.log.Error("a framework cannot be stored", "framework", f.id, "error", err)
		return
	}
	l.propose(state.UpdateFramework{SubscribeFramework: subscription(f.id, wire, f.info)}, func(state.Result, error) {})
}

// checkUpdate says what is wrong with an update; the words are those of Mesos.
func checkUpdate(f *framework, info *mesosv1.FrameworkInfo, u *scheduler.Call_UpdateFramework) error {
	if err := checkFramework(info, u.GetSuppressedRoles()); err != nil {
		return invalidCall("'FrameworkInfo' is not valid: %v", err)
	}
	if id := info.GetId().GetValue(); id != string(f.id) {
		return invalidCall("'framework_id' is %s, and 'update_framework.framework_info.id' is %q", f.id, id)
	}
	old := f.info
	for _, fixed := range []struct {
		name    string
		changed bool
	}{
		{"principal", info.GetPrincipal() != old.GetPrincipal()},
		{"user", info.GetUser() != old.GetUser()},
		{"checkpoint", info.GetCheckpoint() != old.GetCheckpoint()},
	} {
		if fixed.changed {
			return invalidCall("Updating 'FrameworkInfo.%s' is unsupported", fixed.name)
		}
	}
	return nil
}

// constraintsOf compiles what an update wants, before the leader's loop has to wait for it.
func constraintsOf(call *scheduler.Call) (constraints.Set, error) {
	u := call.GetUpdateFramework()
	if u == nil {
		return constraints.Set{}, nil
	}
	wants, err := constraints.Compile(u.GetOfferConstraints(), rolesOf(u.GetFrameworkInfo()))
	if err != nil {
		return wants, invalidCall("'UpdateFramework.offer_constraints' are not valid: %v", err)
	}
	return wants, nil
}

// become makes a subscribed framework what it says it is from now on.
func (l *Leader) become(f *framework, w wish) {
	was, suppressed := f.roles, f.suppressed
	f.become(w)
	for _, role := range was {
		switch {
		case !contains(f.roles, role):
			l.filters.Clear(f.id, role)
		case suppressed[role] && !f.suppressed[role]:
			l.filters.Clear(f.id, role)
		}
	}
	for _, o := range l.book.OfFramework(f.id) {
		if !contains(f.roles, o.Role) {
			l.book.Remove(o.ID)
			l.send(f, rescindEvent(o.ID))
		}
	}
	l.log.Info("framework updated", "framework", f.id, "name", f.info.GetName(), "roles", f.roles)
	l.allocate = true
}
