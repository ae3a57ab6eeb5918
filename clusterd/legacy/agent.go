package legacy

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/operator"
	"github.com/mesolith/mesolith/clusterd/secrets"
)

// AgentConfig is what an agent's /state needs.
type AgentConfig struct {
	View    func(context.Context) (agent.View, error)
	Version *mesosv1.VersionInfo
	Address string // host:port of the agent's API
	WorkDir string // sandboxes lie below it
	Flags   map[string]string
	Log     *slog.Logger
}

type agentState struct {
	build
	StartTime           number               `json:"start_time"`
	ID                  string               `json:"id"`
	PID                 string               `json:"pid"`
	Hostname            string               `json:"hostname"`
	Capabilities        []string             `json:"capabilities"`
	Domain              json.RawMessage      `json:"domain,omitempty"`
	Resources           resources            `json:"resources"`
	ReservedResources   map[string]resources `json:"reserved_resources"`
	UnreservedResources resources            `json:"unreserved_resources"`

	ReservedFull        map[string][]json.RawMessage `json:"reserved_resources_full"`
	UnreservedFull      []json.RawMessage            `json:"unreserved_resources_full"`
	ReservedAllocated   map[string]resources         `json:"reserved_resources_allocated"`
	UnreservedAllocated resources                    `json:"unreserved_resources_allocated"`
	ResourceProviders   []struct{}                   `json:"resource_providers"`

	DrainConfig json.RawMessage `json:"drain_config,omitempty"`
	DrainStart  *number         `json:"estimated_drain_start_time_seconds,omitempty"`

	Attributes          map[string]any    `json:"attributes"`
	MasterHostname      string            `json:"master_hostname,omitempty"`
	Flags               map[string]string `json:"flags"`
	Frameworks          []agentFramework  `json:"frameworks"`
	CompletedFrameworks []agentFramework  `json:"completed_frameworks"`
}

type agentFramework struct {
	ID                 string          `json:"id"`
	Name               string          `json:"name"`
	User               string          `json:"user"`
	FailoverTimeout    number          `json:"failover_timeout"`
	Checkpoint         bool            `json:"checkpoint"`
	Hostname           string          `json:"hostname"`
	Principal          string          `json:"principal,omitempty"`
	Role               *string         `json:"role,omitempty"`
	Roles              []string        `json:"roles,omitempty"`
	Executors          []agentExecutor `json:"executors"`
	CompletedExecutors []agentExecutor `json:"completed_executors"`
}

// agentExecutor is a framework's own, or stands for the built-in command executor of one
// task, which has its id.
type agentExecutor struct {
	ID             string        `json:"id"`
	Name           string        `json:"name"`
	Source         string        `json:"source"`
	Container      string        `json:"container"`
	Directory      string        `json:"directory"`
	Resources      resources     `json:"resources"`
	Role           string        `json:"role"`
	Labels         []labelObject `json:"labels,omitempty"`
	Type           string        `json:"type"`
	Tasks          []taskObject  `json:"tasks"`
	QueuedTasks    []taskObject  `json:"queued_tasks"`
	CompletedTasks []taskObject  `json:"completed_tasks"`
}

// AgentState answers an agent's /state.
func AgentState(cfg AgentConfig) http.Handler {
	h := &handler{Config{Version: cfg.Version, Log: cfg.Log}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
		defer cancel()
		v, err := cfg.View(ctx)
		if err != nil {
			httpio.Error(w, http.StatusServiceUnavailable, "Agent has not finished recovery: "+err.Error())
			return
		}
		see := operator.SightOf(r.Context(), v)
		s := cfg.describe(v, see)
		s.show(see)
		h.send(w, r, s)
	})
}

func (cfg AgentConfig) describe(v agent.View, see operator.Sight) agentState {
	resources := see.Resources(v.Info.GetResources())
	reserved, unreserved := perRole(resources)
	s := agentState{
		build: buildOf(cfg.Version), StartTime: unix(v.Started), ID: v.ID, PID: "slave(1)@" + cfg.Address,
		Hostname: v.Info.GetHostname(), Capabilities: []string{}, Domain: raw(v.Info.GetDomain()), ResourceProviders: []struct{}{},
		Resources: flat(resources), ReservedResources: reserved, UnreservedResources: unreserved,
		Attributes: attributes(v.Info.GetAttributes()), MasterHostname: v.Leader,
		Flags: map[string]string{"work_dir": cfg.WorkDir}, Frameworks: []agentFramework{}, CompletedFrameworks: []agentFramework{},
	}
	s.ReservedFull, s.UnreservedFull = fullPerRole(resources)
	if d := v.Drain; d != nil {
		s.DrainConfig, s.DrainStart = raw(operator.DrainConfig(d.Grace, d.Gone)), new(unix(d.Began))
	}
	for _, c := range operator.AgentCapabilities() {
		s.Capabilities = append(s.Capabilities, c.GetType().String())
	}
	var used []*mesosv1.Resource
	for _, t := range v.Tasks {
		if !t.Terminal {
			used = append(used, t.Info.GetResources()...)
		}
	}
	for _, x := range v.Executors {
		if !x.Terminal {
			used = append(used, x.Info.GetResources()...)
		}
	}
	s.ReservedAllocated, s.UnreservedAllocated = perRole(see.Resources(operator.Once(used)))
	for name, value := range cfg.Flags {
		s.Flags[name] = value
	}
	at := map[string]int{}
	add := func(framework string, info *mesosv1.FrameworkInfo, e agentExecutor, over bool) {
		i, ok := at[framework]
		if !ok {
			i = len(s.Frameworks)
			at[framework] = i
			s.Frameworks = append(s.Frameworks, agentFrameworkOf(framework, info))
		}
		if f := &s.Frameworks[i]; over {
			f.CompletedExecutors = append(f.CompletedExecutors, e)
		} else {
			f.Executors = append(f.Executors, e)
		}
	}
	for _, x := range v.Executors {
		add(x.FrameworkID, x.Framework, ownExecutor(v, x), x.Terminal)
	}
	for _, t := range v.Tasks {
		if t.Executor == "" {
			add(t.FrameworkID, t.Framework, executorOf(v.ID, t), t.Terminal)
		}
	}
	return s
}

// ownExecutor is a framework's, with the tasks that it was given.
func ownExecutor(v agent.View, x agent.ExecutorView) agentExecutor {
	e := agentExecutor{
		ID: x.Info.GetExecutorId().GetValue(), Name: x.Info.GetName(), Source: x.Info.GetSource(), Container: x.ContainerID, Directory: x.Sandbox,
		Role: x.Role, Labels: labels(x.Info.GetLabels()), Type: x.Info.GetType().String(),
		Tasks: []taskObject{}, QueuedTasks: []taskObject{}, CompletedTasks: []taskObject{},
	}
	has := append([]*mesosv1.Resource{}, x.Info.GetResources()...)
	for _, t := range v.Tasks {
		if t.Executor == "" || t.ContainerID != x.ContainerID && t.Parent != x.ContainerID {
			continue
		}
		task := taskOn(v.ID, t)
		switch {
		case t.Terminal:
			e.CompletedTasks = append(e.CompletedTasks, task)
			continue
		case t.Queued:
			e.QueuedTasks = append(e.QueuedTasks, task)
		default:
			e.Tasks = append(e.Tasks, task)
		}
		has = append(has, t.Info.GetResources()...)
	}
	if e.Resources = flat(has); x.Terminal {
		e.Resources = flat(nil)
	}
	return e
}

// show leaves in an agent's state what may be seen.
func (s *agentState) show(see operator.Sight) {
	s.Frameworks = slices.DeleteFunc(s.Frameworks, func(f agentFramework) bool { return !see.Framework(f.ID) })
	for i := range s.Frameworks {
		f := &s.Frameworks[i]
		for _, list := range []*[]agentExecutor{&f.Executors, &f.CompletedExecutors} {
			*list = slices.DeleteFunc(*list, func(e agentExecutor) bool { return !see.Executor(f.ID, e.ID) })
			for k := range *list {
				e := &(*list)[k]
				for _, tasks := range []*[]taskObject{&e.Tasks, &e.QueuedTasks, &e.CompletedTasks} {
					*tasks = slices.DeleteFunc(*tasks, func(t taskObject) bool { return !see.Task(f.ID, t.User) })
				}
			}
		}
	}
	if !see.Flags() {
		s.Flags = map[string]string{}
	}
}

func agentFrameworkOf(id string, info *mesosv1.FrameworkInfo) agentFramework {
	f := agentFramework{
		ID: id, Name: info.GetName(), User: info.GetUser(), FailoverTimeout: number(info.GetFailoverTimeout()), Checkpoint: info.GetCheckpoint(),
		Hostname: info.GetHostname(), Principal: info.GetPrincipal(), Executors: []agentExecutor{}, CompletedExecutors: []agentExecutor{},
	}
	f.Role, f.Roles = rolesOf(info)
	return f
}

func executorOf(agentID string, t agent.TaskView) agentExecutor {
	e := agentExecutor{
		ID: t.Info.GetTaskId().GetValue(), Name: "Command Executor (Task: " + t.Info.GetTaskId().GetValue() + ")",
		Source: t.Info.GetTaskId().GetValue(), Container: t.ContainerID, Directory: t.Sandbox,
		Resources: flat(nil), Role: t.Role, Labels: labels(t.Info.GetLabels()), Type: "DEFAULT",
		Tasks: []taskObject{}, QueuedTasks: []taskObject{}, CompletedTasks: []taskObject{},
	}
	task := taskOn(agentID, t)
	if t.Terminal {
		e.CompletedTasks = append(e.CompletedTasks, task)
	} else {
		e.Tasks = append(e.Tasks, task)
		e.Resources = task.Resources
	}
	return e
}

func taskOn(agentID string, t agent.TaskView) taskObject {
	return taskObject{
		ExecutorID: t.Executor,
		ID:         t.Info.GetTaskId().GetValue(), Name: t.Info.GetName(), FrameworkID: t.FrameworkID, SlaveID: agentID,
		State: t.State.String(), Resources: flat(t.Info.GetResources()), Role: t.Role, Statuses: []statusObject{}, User: t.User,
		Labels: labels(t.Info.GetLabels()), Discovery: raw(t.Info.GetDiscovery()), Container: raw(secrets.Without(t.Info.GetContainer())),
		HealthCheck: raw(t.Info.GetHealthCheck()),
	}
}
