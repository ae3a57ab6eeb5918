package leader

import (
	"context"
	"errors"
	"strconv"
	"strings"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/acl"
)

// What the ACLs say of the calls of frameworks, and of what operators make of resources.
// Who calls is the principal that was proven; a name in a FrameworkInfo alone is nobody's.

// Authorize says whether a principal may do something to an object; an empty principal is a
// caller that is not known.
type Authorize func(principal string, action acl.Action, o acl.Object) bool

// ErrForbidden: the caller is not authorized; the error that wraps it is the sentence.
var ErrForbidden = errors.New("not authorized")

type refusedKey struct{}

// WithRefused has everything that a call is refused for want of authorization told to f,
// whether the call itself fails by it or not. The leader calls it: it must be quick.
func WithRefused(ctx context.Context, f func(object, why string)) context.Context {
	return context.WithValue(ctx, refusedKey{}, f)
}

// refusedOf is whom to tell, if only nobody.
func refusedOf(ctx context.Context) func(object, why string) {
	if f, ok := ctx.Value(refusedKey{}).(func(string, string)); ok {
		return f
	}
	return func(string, string) {}
}

// forbidden is "" for what a principal may do, else the sentence that it may not.
func (l *Leader) forbidden(principal string, action acl.Action, what string, name string) string {
	if l.cfg.Authorize == nil || l.cfg.Authorize(principal, action, acl.Named(name)) {
		return ""
	}
	return acl.Sentence(principal, action, what+" '"+name+"'")
}

// forbiddenRoles says which of the roles of a subscription a principal may not use.
func (l *Leader) forbiddenRoles(principal string, roles []string) string {
	for _, role := range roles {
		if why := l.forbidden(principal, acl.RegisterFramework, "role", role); why != "" {
			return why
		}
	}
	if len(roles) == 0 && l.cfg.Authorize != nil && !l.cfg.Authorize(principal, acl.RegisterFramework, acl.Object{}) {
		return acl.Sentence(principal, acl.RegisterFramework, "no role")
	}
	return ""
}

// taskUser is whom a task runs as: its command's user, its executor's, its framework's.
func taskUser(t *mesosv1.TaskInfo, framework *mesosv1.FrameworkInfo) string {
	if u := t.GetCommand().GetUser(); u != "" {
		return u
	}
	if u := t.GetExecutor().GetCommand().GetUser(); u != "" {
		return u
	}
	return framework.GetUser()
}

// forbiddenUser says whether a principal may not run something as a user. The user may be
// written as "name:group", and as a number: who is denied a name is denied its number too.
func (l *Leader) forbiddenUser(principal, user string) string {
	names := []string{user}
	name, _, grouped := strings.Cut(user, ":")
	if grouped {
		names = append(names, name)
	}
	if id, err := strconv.ParseUint(name, 10, 32); err == nil {
		if id == 0 {
			names = append(names, "root")
		}
		l.cfg.Machine.View(func(s *state.State) {
			if n, ok := s.UserNamed(uint32(id)); ok {
				names = append(names, n)
			}
		})
	}
	for _, n := range names {
		if why := l.forbidden(principal, acl.RunTask, "user", n); why != "" {
			return why
		}
	}
	return ""
}

// forbiddenGroup says why the tasks of a group and their executor may not be run; one is
// enough, a group is launched whole or not at all.
func (l *Leader) forbiddenGroup(f *framework, g *mesosv1.Offer_Operation_LaunchGroup) string {
	users := []string{}
	switch x := g.GetExecutor(); {
	case x.GetCommand().GetUser() != "":
		users = append(users, x.GetCommand().GetUser())
	case x.GetType() != mesosv1.ExecutorInfo_DEFAULT: // a program of the framework's
		users = append(users, f.info.GetUser())
	}
	for _, t := range g.GetTaskGroup().GetTasks() {
		users = append(users, taskUser(t, f.info))
	}
	for _, u := range users {
		if why := l.forbiddenUser(f.principal, u); why != "" {
			return why
		}
	}
	return ""
}

// Authorizing is what an operation needs: an action on each of its objects.
type authorizing struct {
	action acl.Action
	what   string
	names  []string
}

// forbiddenOperation says why a principal may not make an operation of resources. have are
// the resources that it is made of, which know who created the volumes among them.
func (l *Leader) forbiddenOperation(principal string, op *mesosv1.Offer_Operation, have state.Resources) string {
	if l.cfg.Authorize == nil {
		return ""
	}
	for _, need := range needsOf(op, have) {
		for _, name := range need.names {
			if why := l.forbidden(principal, need.action, need.what, name); why != "" {
				return why
			}
		}
	}
	return ""
}

func needsOf(op *mesosv1.Offer_Operation, have state.Resources) []authorizing {
	const role, reserver, creator = "role", "reservations of principal", "volumes of principal"
	switch op.GetType() {
	case mesosv1.Offer_Operation_RESERVE:
		return []authorizing{
			{acl.ReserveResources, role, rolesOn(op.GetReserve().GetResources())},
			{acl.UnreserveResources, reserver, reserversOf(op.GetReserve().GetSource())},
		}
	case mesosv1.Offer_Operation_UNRESERVE:
		return []authorizing{{acl.UnreserveResources, reserver, reserversOf(op.GetUnreserve().GetResources())}}
	case mesosv1.Offer_Operation_CREATE:
		return []authorizing{{acl.CreateVolume, role, rolesOn(op.GetCreate().GetVolumes())}}
	case mesosv1.Offer_Operation_DESTROY:
		return []authorizing{{acl.DestroyVolume, creator, creatorsOf(op.GetDestroy().GetVolumes(), have)}}
	case mesosv1.Offer_Operation_GROW_VOLUME:
		return []authorizing{{acl.ResizeVolume, role, rolesOn([]*mesosv1.Resource{op.GetGrowVolume().GetVolume()})}}
	case mesosv1.Offer_Operation_SHRINK_VOLUME:
		return []authorizing{{acl.ResizeVolume, role, rolesOn([]*mesosv1.Resource{op.GetShrinkVolume().GetVolume()})}}
	case mesosv1.Offer_Operation_CREATE_DISK:
		action := acl.CreateMountDisk
		if op.GetCreateDisk().GetTargetType() == mesosv1.Resource_DiskInfo_Source_BLOCK {
			action = acl.CreateBlockDisk
		}
		return []authorizing{{action, role, rolesOn([]*mesosv1.Resource{op.GetCreateDisk().GetSource()})}}
	case mesosv1.Offer_Operation_DESTROY_DISK:
		source := op.GetDestroyDisk().GetSource()
		action := acl.DestroyRawDisk
		switch source.GetDisk().GetSource().GetType() {
		case mesosv1.Resource_DiskInfo_Source_BLOCK:
			action = acl.DestroyBlockDisk
		case mesosv1.Resource_DiskInfo_Source_MOUNT:
			action = acl.DestroyMountDisk
		}
		return []authorizing{{action, role, rolesOn([]*mesosv1.Resource{source})}}
	}
	return nil
}

// rolesOn are the roles that resources are reserved for, in either form of reservations.
func rolesOn(list []*mesosv1.Resource) (out []string) {
	for _, r := range list {
		if stack := r.GetReservations(); len(stack) > 0 {
			out = append(out, stack[len(stack)-1].GetRole())
		} else {
			out = append(out, r.GetRole())
		}
	}
	return out
}

// reserversOf are who made the innermost reservations. They are part of what a resource
// is, so that nobody can claim another.
func reserversOf(list []*mesosv1.Resource) (out []string) {
	for _, r := range list {
		if stack := r.GetReservations(); len(stack) > 0 {
			out = append(out, stack[len(stack)-1].GetPrincipal())
		} else {
			out = append(out, r.GetReservation().GetPrincipal())
		}
	}
	return out
}

// creatorsOf are who created volumes: as they are known here, whatever the call says.
func creatorsOf(list []*mesosv1.Resource, have state.Resources) (out []string) {
	for _, r := range list {
		creator := r.GetDisk().GetPersistence().GetPrincipal()
		want, err := fromWire([]*mesosv1.Resource{r})
		for i := range have {
			if err == nil && len(want) == 1 && have[i].Volume() != "" && have[i].Detail == want[0].Detail && have[i].Role == want[0].Role && have[i].Mounting != nil {
				creator = have[i].Mounting.Principal
			}
		}
		out = append(out, creator)
	}
	return out
}
