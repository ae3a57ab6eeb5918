package operator

import (
	"context"
	"strings"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	agentv1 "github.com/mesolith/mesolith/api/mesos/v1/agent"
	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/internal/acl"
)

// forbidden says why the ACLs do not allow a call of an agent, "" if they do: all calls of
// Mesos 1.11, whether they are served yet or not. What a call shows is filtered instead.
func (h *agentHandler) forbidden(ctx context.Context, c *agentv1.Call) (string, error) {
	switch c.GetType() {
	case agentv1.Call_GET_FLAGS:
		return auth.Forbidden(ctx, acl.ViewFlags, ""), nil
	case agentv1.Call_GET_METRICS:
		return auth.Forbidden(ctx, acl.GetEndpoint, "path", "/metrics/snapshot"), nil
	case agentv1.Call_GET_LOGGING_LEVEL:
		return auth.Forbidden(ctx, acl.GetEndpoint, "path", "/logging/toggle"), nil
	case agentv1.Call_SET_LOGGING_LEVEL:
		return auth.Forbidden(ctx, acl.SetLogLevel, ""), nil
	case agentv1.Call_PRUNE_IMAGES:
		return auth.Forbidden(ctx, acl.PruneImages, ""), nil
	case agentv1.Call_ADD_RESOURCE_PROVIDER_CONFIG, agentv1.Call_UPDATE_RESOURCE_PROVIDER_CONFIG, agentv1.Call_REMOVE_RESOURCE_PROVIDER_CONFIG:
		return auth.Forbidden(ctx, acl.ModifyResourceProviderConfig, ""), nil
	case agentv1.Call_MARK_RESOURCE_PROVIDER_GONE:
		return auth.Forbidden(ctx, acl.MarkResourceProviderGone, ""), nil
	}
	about, ok := containerCall(c)
	if !ok {
		return "", nil
	}
	v, err := h.View(ctx)
	if err != nil {
		return "", err
	}
	return about.forbidden(ctx, v), nil
}

// aContainer is a call about a container: the action if it belongs to a task, and the one
// if it stands alone.
type aContainer struct {
	id            *mesosv1.ContainerID
	nested, alone acl.Action
	command       *mesosv1.CommandInfo // of a launch; nil: there is none
}

func containerCall(c *agentv1.Call) (aContainer, bool) {
	switch c.GetType() {
	case agentv1.Call_LAUNCH_NESTED_CONTAINER:
		l := c.GetLaunchNestedContainer()
		return aContainer{id: l.GetContainerId(), nested: acl.LaunchNestedContainer, alone: acl.LaunchNestedContainer, command: l.GetCommand()}, true
	case agentv1.Call_LAUNCH_CONTAINER:
		l := c.GetLaunchContainer()
		return aContainer{id: l.GetContainerId(), nested: acl.LaunchNestedContainer, alone: acl.LaunchStandaloneContainer, command: l.GetCommand()}, true
	case agentv1.Call_LAUNCH_NESTED_CONTAINER_SESSION:
		l := c.GetLaunchNestedContainerSession()
		return aContainer{id: l.GetContainerId(), nested: acl.LaunchNestedContainerSession, alone: acl.LaunchNestedContainerSession, command: l.GetCommand()}, true
	case agentv1.Call_WAIT_NESTED_CONTAINER:
		return aContainer{id: c.GetWaitNestedContainer().GetContainerId(), nested: acl.WaitNestedContainer, alone: acl.WaitNestedContainer}, true
	case agentv1.Call_WAIT_CONTAINER:
		return aContainer{id: c.GetWaitContainer().GetContainerId(), nested: acl.WaitNestedContainer, alone: acl.WaitStandaloneContainer}, true
	case agentv1.Call_KILL_NESTED_CONTAINER:
		return aContainer{id: c.GetKillNestedContainer().GetContainerId(), nested: acl.KillNestedContainer, alone: acl.KillNestedContainer}, true
	case agentv1.Call_KILL_CONTAINER:
		return aContainer{id: c.GetKillContainer().GetContainerId(), nested: acl.KillNestedContainer, alone: acl.KillStandaloneContainer}, true
	case agentv1.Call_REMOVE_NESTED_CONTAINER:
		return aContainer{id: c.GetRemoveNestedContainer().GetContainerId(), nested: acl.RemoveNestedContainer, alone: acl.RemoveNestedContainer}, true
	case agentv1.Call_REMOVE_CONTAINER:
		return aContainer{id: c.GetRemoveContainer().GetContainerId(), nested: acl.RemoveNestedContainer, alone: acl.RemoveStandaloneContainer}, true
	case agentv1.Call_ATTACH_CONTAINER_INPUT:
		return aContainer{id: c.GetAttachContainerInput().GetContainerId(), nested: acl.AttachContainerInput, alone: acl.AttachContainerInput}, true
	case agentv1.Call_ATTACH_CONTAINER_OUTPUT:
		return aContainer{id: c.GetAttachContainerOutput().GetContainerId(), nested: acl.AttachContainerOutput, alone: acl.AttachContainerOutput}, true
	}
	return aContainer{}, false
}

// forbidden judges by the user of the executor that the outermost container is.
func (a aContainer) forbidden(ctx context.Context, v agent.View) string {
	j := auth.JudgeOf(ctx)
	root := a.id
	for root.GetParent() != nil {
		root = root.GetParent()
	}
	user, ours := rootUser(v, root.GetValue())
	action, o := a.nested, acl.Named(user)
	switch {
	case ours:
	case a.id.GetParent() == nil:
		action, o = a.alone, acl.Unknown()
	default:
		o = acl.Unknown()
	}
	if a.command != nil {
		command := acl.Object{}
		if a.command.User != nil {
			command = acl.Named(a.command.GetUser())
		}
		o = acl.Nested(o, command)
	}
	if j.May(action, o) {
		return ""
	}
	return j.Sentence(action, "container '"+a.id.GetValue()+"'")
}

// rootUser is whom the executor runs as whose container has an id.
func rootUser(v agent.View, id string) (user string, ok bool) {
	for _, x := range v.Executors {
		if x.ContainerID == id {
			return executorUser(x), true
		}
	}
	for _, t := range v.Tasks {
		if t.ContainerID == id {
			return ContainerUser(t), true
		}
	}
	return "", false
}

func executorUser(x agent.ExecutorView) string {
	for _, u := range []string{x.User, x.Info.GetCommand().GetUser()} {
		if u != "" {
			return u
		}
	}
	return x.Framework.GetUser()
}

// ContainerUser is whom a task's executor runs as.
func ContainerUser(t agent.TaskView) string {
	for _, u := range []string{t.Info.GetExecutor().GetCommand().GetUser(), t.Info.GetCommand().GetUser(), t.User} {
		if u != "" {
			return u
		}
	}
	return t.Framework.GetUser()
}

// ExecutorUser is whom an executor runs as: a framework's own, or that of a task which is
// run by its command and gives it its id. False: the agent does not remember it.
func ExecutorUser(v agent.View, framework, executor string) (user string, ok bool) {
	for _, x := range v.Executors {
		if x.FrameworkID == framework && x.Info.GetExecutorId().GetValue() == executor {
			return executorUser(x), true
		}
	}
	for _, t := range v.Tasks {
		if t.Executor == "" && t.FrameworkID == framework && t.Info.GetTaskId().GetValue() == executor {
			return ContainerUser(t), true
		}
	}
	return "", false
}

// SandboxUser is whom the executor runs as whose sandbox a path lies in, as far as sandboxes
// are remembered.
func SandboxUser(v agent.View, path string) (user string, ok bool) {
	in := func(sandbox string) bool {
		return sandbox != "" && (path == sandbox || strings.HasPrefix(path, sandbox+"/"))
	}
	for _, x := range v.Executors {
		if in(x.Sandbox) {
			return executorUser(x), true
		}
	}
	for _, t := range v.Tasks {
		if in(t.Sandbox) {
			return ContainerUser(t), true
		}
	}
	return "", false
}

// eyesOn are those of the caller of a context, on an agent.
func eyesOn(ctx context.Context, v agent.View) eyes {
	e := eyes{auth.JudgeOf(ctx), map[string]string{}}
	for _, t := range v.Tasks {
		e.users[t.FrameworkID] = t.Framework.GetUser()
	}
	for _, x := range v.Executors {
		e.users[x.FrameworkID] = x.Framework.GetUser()
	}
	return e
}

// Sight is what the caller of a context may see of an agent, for the legacy face.
type Sight struct {
	e eyes
	v agent.View
}

// SightOf is the caller's sight of an agent.
func SightOf(ctx context.Context, v agent.View) Sight { return Sight{eyesOn(ctx, v), v} }

// Framework says whether a framework may be seen.
func (s Sight) Framework(id string) bool { return s.e.framework(id) }

// Executor says whether an executor may be seen.
func (s Sight) Executor(framework, executor string) bool {
	return s.executor(acl.ViewExecutor, framework, executor)
}

// Task says whether a task may be seen that runs as a user.
func (s Sight) Task(framework, user string) bool { return s.e.of(acl.ViewTask, framework, user) }

// Resources leaves in a list what is of roles that may be seen.
func (s Sight) Resources(list []*mesosv1.Resource) []*mesosv1.Resource {
	s.e.resources(&list)
	return list
}

// Flags says whether the agent's flags may be seen.
func (s Sight) Flags() bool { return s.e.May(acl.ViewFlags, acl.Object{}) }

func (s Sight) executor(action acl.Action, framework, executor string) bool {
	if !s.e.framework(framework) {
		return false
	}
	if !s.e.Restricts(action) {
		return true
	}
	user, ok := ExecutorUser(s.v, framework, executor)
	if !ok {
		return s.e.May(action, acl.Unknown())
	}
	return s.e.May(action, acl.Named(user))
}

// filter leaves in an answer what the caller may see.
func (h *agentHandler) filter(ctx context.Context, r *agentv1.Response) error {
	j := auth.JudgeOf(ctx)
	restricted := false
	for _, action := range []acl.Action{acl.ViewFramework, acl.ViewExecutor, acl.ViewTask, acl.ViewContainer, acl.ViewStandaloneContainer, acl.ViewRole, acl.ViewResourceProvider} {
		restricted = restricted || j.Restricts(action)
	}
	if !restricted {
		return nil
	}
	v, err := h.View(ctx)
	if err != nil {
		return err
	}
	s := SightOf(ctx, v)
	s.filterTasks(r.GetGetTasks())
	s.filterTasks(r.GetGetState().GetGetTasks())
	s.filterExecutors(r.GetGetExecutors())
	s.filterExecutors(r.GetGetState().GetGetExecutors())
	s.filterFrameworks(r.GetGetFrameworks())
	s.filterFrameworks(r.GetGetState().GetGetFrameworks())
	if c := r.GetGetContainers(); c != nil {
		keep(&c.Containers, s.container)
	}
	if a := r.GetGetAgent().GetAgentInfo(); a != nil {
		a.Resources = s.Resources(a.GetResources())
	}
	if o := r.GetGetOperations(); o != nil {
		keep(&o.Operations, s.e.operation)
	}
	if p := r.GetGetResourceProviders(); p != nil && !j.May(acl.ViewResourceProvider, acl.Object{}) {
		p.ResourceProviders = nil
	}
	return nil
}

func (s Sight) filterTasks(t *agentv1.Response_GetTasks) {
	if t == nil {
		return
	}
	for _, list := range []*[]*mesosv1.Task{&t.PendingTasks, &t.QueuedTasks, &t.LaunchedTasks, &t.TerminatedTasks, &t.CompletedTasks} {
		keep(list, s.e.task)
	}
}

func (s Sight) filterExecutors(x *agentv1.Response_GetExecutors) {
	if x == nil {
		return
	}
	for _, list := range []*[]*agentv1.Response_GetExecutors_Executor{&x.Executors, &x.CompletedExecutors} {
		keep(list, func(e *agentv1.Response_GetExecutors_Executor) bool {
			return s.Executor(e.GetExecutorInfo().GetFrameworkId().GetValue(), e.GetExecutorInfo().GetExecutorId().GetValue())
		})
	}
}

func (s Sight) filterFrameworks(x *agentv1.Response_GetFrameworks) {
	if x == nil {
		return
	}
	for _, list := range []*[]*agentv1.Response_GetFrameworks_Framework{&x.Frameworks, &x.CompletedFrameworks} {
		keep(list, func(f *agentv1.Response_GetFrameworks_Framework) bool {
			return s.Framework(f.GetFrameworkInfo().GetId().GetValue())
		})
	}
}

// container: one without an executor stands alone.
func (s Sight) container(c *agentv1.Response_GetContainers_Container) bool {
	if c.GetExecutorId() == nil {
		return s.e.May(acl.ViewStandaloneContainer, acl.Object{})
	}
	return s.executor(acl.ViewContainer, c.GetFrameworkId().GetValue(), c.GetExecutorId().GetValue())
}
