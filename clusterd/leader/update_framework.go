package leader

import (
	"fmt"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/clusterd/constraints"
	"github.com/mesolith/mesolith/clusterd/state"
	"google.golang.org/protobuf/proto"
)

// invalidCall is a sentence for whoever called.
func invalidCall(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrInvalid)
}

// updateFramework replaces what a framework says of itself while it stays subscribed. Everything
// is replaced: roles that are not suppressed in the call are not any more. Offers of roles
// that it has left are rescinded.
func (l *Leader) updateFramework(f *framework, u *scheduler.Call_UpdateFramework, answer func(error)) {
	info, ok := proto.Clone(u.GetFrameworkInfo()).(*mesosv1.FrameworkInfo)
	if !ok || info == nil {
		answer(invalidCall("'update_framework.framework_info' is missing"))
		return
	}
	if info.Principal == nil {
		info.Principal = f.info.Principal // it subscribed without naming it, too
	}
	wants, err := l.checkUpdate(f, info, u)
	if err != nil {
		answer(err)
		return
	}
	wire, err := proto.MarshalOptions{AllowPartial: true}.Marshal(info)
	if err != nil {
		answer(invalidCall("FrameworkInfo cannot be stored: %v", err))
		return
	}
	l.propose(state.UpdateFramework{SubscribeFramework: subscription(f.id, wire, info)}, func(_ state.Result, err error) {
		if err == nil && l.frameworks[f.id] == f {
			l.become(f, wish{info, u.GetSuppressedRoles(), wants})
		} else if err != nil && isRefusal(err) {
			err = fmt.Errorf("%w: %w", err, ErrFrameworkGone)
		}
		answer(err)
	})
}

// checkUpdate says what is wrong with an update; the words are those of Mesos.
func (l *Leader) checkUpdate(f *framework, info *mesosv1.FrameworkInfo, u *scheduler.Call_UpdateFramework) (constraints.Set, error) {
	none := constraints.Set{}
	if err := checkFramework(info, u.GetSuppressedRoles()); err != nil {
		return none, invalidCall("'FrameworkInfo' is not valid: %v", err)
	}
	if id := info.GetId().GetValue(); id != string(f.id) {
		return none, invalidCall("'framework_id' is %s, and 'update_framework.framework_info.id' is %q", f.id, id)
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
			return none, invalidCall("Updating 'FrameworkInfo.%s' is unsupported", fixed.name)
		}
	}
	wants, err := constraints.Compile(u.GetOfferConstraints(), rolesOf(info))
	if err != nil {
		return none, invalidCall("'UpdateFramework.offer_constraints' are not valid: %v", err)
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
