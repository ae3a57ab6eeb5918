package operator

import (
	"slices"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/clusterd/streams"
	"github.com/mesolith/mesolith/internal/acl"
)

// What somebody may see of a picture: the ACLs leave objects out of lists, they refuse no
// list.

// eyes are those of a caller.
type eyes struct {
	acl.Judge
	users map[string]string // of frameworks, by id
}

// framework says whether the framework of an id may be seen; of one that is not known
// nothing may, unless everything may.
func (e eyes) framework(id string) bool {
	if !e.Restricts(acl.ViewFramework) {
		return true
	}
	user, ok := e.users[id]
	if !ok {
		return e.May(acl.ViewFramework, acl.Unknown())
	}
	return e.May(acl.ViewFramework, acl.Named(user))
}

// of says whether something of a framework's may be seen that runs as a user; an empty one
// is the framework's.
func (e eyes) of(action acl.Action, framework, user string) bool {
	if !e.framework(framework) {
		return false
	}
	if !e.Restricts(action) {
		return true
	}
	if user != "" {
		return e.May(action, acl.Named(user))
	}
	if user, ok := e.users[framework]; ok {
		return e.May(action, acl.Named(user))
	}
	return e.May(action, acl.Unknown())
}

func (e eyes) task(t *mesosv1.Task) bool {
	return e.of(acl.ViewTask, t.GetFrameworkId().GetValue(), t.GetUser())
}

// resource says whether the roles that a resource is reserved for or allocated to may all
// be seen.
func (e eyes) resource(r *mesosv1.Resource) bool {
	seen := func(role string) bool { return e.May(acl.ViewRole, acl.Named(role)) }
	if role := r.GetRole(); r.Role != nil && role != "*" && !seen(role) {
		return false
	}
	for _, v := range r.GetReservations() {
		if !seen(v.GetRole()) {
			return false
		}
	}
	return r.GetAllocationInfo() == nil || seen(r.GetAllocationInfo().GetRole())
}

func (e eyes) resources(list *[]*mesosv1.Resource) {
	if e.Restricts(acl.ViewRole) {
		keep(list, e.resource)
	}
}

func (e eyes) agent(a *master.Response_GetAgents_Agent) {
	for _, list := range []*[]*mesosv1.Resource{&a.TotalResources, &a.AllocatedResources, &a.OfferedResources} {
		e.resources(list)
	}
	if a.AgentInfo != nil {
		e.resources(&a.AgentInfo.Resources)
	}
}

// keep leaves in a list what may be seen.
func keep[T any](list *[]T, may func(T) bool) {
	*list = slices.DeleteFunc(slices.Clone(*list), func(x T) bool { return !may(x) })
}

// For leaves in the picture what somebody may see.
func (p *Picture) For(j acl.Judge) {
	e := eyes{j, p.users}
	if j.Restricts(acl.ViewFramework) {
		for _, list := range []*[]*master.Response_GetFrameworks_Framework{&p.Frameworks, &p.Completed} {
			keep(list, func(f *master.Response_GetFrameworks_Framework) bool {
				return j.May(acl.ViewFramework, acl.Named(f.GetFrameworkInfo().GetUser()))
			})
		}
	}
	if j.Restricts(acl.ViewFramework) || j.Restricts(acl.ViewTask) {
		for _, list := range []*[]*mesosv1.Task{&p.Tasks, &p.TasksUnreachable, &p.TasksCompleted} {
			keep(list, e.task)
		}
	}
	if j.Restricts(acl.ViewFramework) || j.Restricts(acl.ViewExecutor) {
		keep(&p.Executors, func(x *master.Response_GetExecutors_Executor) bool {
			info := x.GetExecutorInfo()
			return e.of(acl.ViewExecutor, info.GetFrameworkId().GetValue(), info.GetCommand().GetUser())
		})
	}
	for _, a := range p.Agents {
		e.agent(a)
	}
	for _, a := range slices.Concat(p.Recovered, p.Unreachable) {
		e.resources(&a.Resources)
	}
	keep(&p.Roles, func(r Role) bool { return j.May(acl.ViewRole, acl.Named(r.Name)) })
	for i := range p.Roles {
		keep(&p.Roles[i].Frameworks, e.framework)
	}
	keep(&p.Weights, func(w state.Weight) bool { return j.May(acl.ViewRole, acl.Named(w.Role)) })
	keep(&p.Quotas, func(q state.RoleQuota) bool { return j.May(acl.GetQuota, acl.Named(q.Role)) })
}

// operation says whether an operation may be seen: its framework, and the roles of all
// resources that it names.
func (e eyes) operation(o *mesosv1.Operation) bool {
	if !e.framework(o.GetFrameworkId().GetValue()) {
		return false
	}
	if !e.Restricts(acl.ViewRole) {
		return true
	}
	info := o.GetInfo()
	named := slices.Concat(info.GetReserve().GetResources(), info.GetReserve().GetSource(), info.GetUnreserve().GetResources(),
		info.GetCreate().GetVolumes(), info.GetDestroy().GetVolumes())
	for _, r := range []*mesosv1.Resource{
		info.GetGrowVolume().GetVolume(), info.GetGrowVolume().GetAddition(), info.GetShrinkVolume().GetVolume(),
		info.GetCreateDisk().GetSource(), info.GetDestroyDisk().GetSource(),
	} {
		if r != nil {
			named = append(named, r)
		}
	}
	return !slices.ContainsFunc(named, func(r *mesosv1.Resource) bool { return !e.resource(r) })
}

// usersOf are the users of all frameworks that there are.
func usersOf(s *state.State) map[string]string {
	out := map[string]string{}
	for f := range s.Frameworks() {
		out[string(f.ID)] = f.User
	}
	return out
}

// mostRemoved is how many removed frameworks a stream of events remembers the users of: what
// becomes of their tasks is told after them.
const mostRemoved = 1000

// watcher sees events with the eyes of a subscriber.
type watcher struct {
	eyes
	removed []string
}

// see gives what a subscriber may know of a change: the event as it is for all, one of his
// own, or nil. It is called by the leader and asks nothing of the state.
func (w *watcher) see(c *leader.Change, e *streams.Event) *streams.Event {
	switch c.Kind {
	case leader.TaskAdded, leader.TaskUpdated:
		if !w.of(acl.ViewTask, string(c.Task.FrameworkID), leader.TaskUser(c.Task.Info)) {
			return nil
		}
	case leader.AgentAdded:
		if w.Restricts(acl.ViewRole) {
			own := wordChange(c)
			w.agent(own.GetAgentAdded().GetAgent())
			return streams.NewEvent(own)
		}
	case leader.FrameworkAdded, leader.FrameworkUpdated, leader.FrameworkRemoved:
		id := string(c.Framework.ID)
		if w.users[id] = c.Framework.User; c.Kind == leader.FrameworkRemoved {
			if w.removed = append(w.removed, id); len(w.removed) > mostRemoved {
				delete(w.users, w.removed[0])
				w.removed = w.removed[1:]
			}
		}
		if !w.framework(id) {
			return nil
		}
	}
	return e
}
