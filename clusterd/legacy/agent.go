package legacy

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/httpio"
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
	Resources           resources            `json:"resources"`
	ReservedResources   map[string]resources `json:"reserved_resources"`
	UnreservedResources resources            `json:"unreserved_resources"`
	Attributes          map[string]any       `json:"attributes"`
	MasterHostname      string               `json:"master_hostname,omitempty"`
	Flags               map[string]string    `json:"flags"`
	Frameworks          []agentFramework     `json:"frameworks"`
	CompletedFrameworks []agentFramework     `json:"completed_frameworks"`
}

type agentFramework struct {
	ID                 string          `json:"id"`
	Executors          []agentExecutor `json:"executors"`
	CompletedExecutors []agentExecutor `json:"completed_executors"`
}

// agentExecutor stands for the built-in command executor of one task, which has its id.
type agentExecutor struct {
	ID             string       `json:"id"`
	Name           string       `json:"name"`
	Source         string       `json:"source"`
	Container      string       `json:"container"`
	Directory      string       `json:"directory"`
	Resources      resources    `json:"resources"`
	Role           string       `json:"role"`
	Type           string       `json:"type"`
	Tasks          []taskObject `json:"tasks"`
	QueuedTasks    []taskObject `json:"queued_tasks"`
	CompletedTasks []taskObject `json:"completed_tasks"`
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
		h.send(w, r, cfg.describe(v))
	})
}

func (cfg AgentConfig) describe(v agent.View) agentState {
	reserved, unreserved := perRole(v.Info.GetResources())
	s := agentState{
		build: buildOf(cfg.Version), StartTime: unix(v.Started), ID: v.ID, PID: "slave(1)@" + cfg.Address,
		Hostname: v.Info.GetHostname(), Capabilities: []string{"MULTI_ROLE", "HIERARCHICAL_ROLE"},
		Resources: flat(v.Info.GetResources()), ReservedResources: reserved, UnreservedResources: unreserved,
		Attributes: attributes(v.Info.GetAttributes()), MasterHostname: v.Leader,
		Flags: map[string]string{"work_dir": cfg.WorkDir}, Frameworks: []agentFramework{}, CompletedFrameworks: []agentFramework{},
	}
	for name, value := range cfg.Flags {
		s.Flags[name] = value
	}
	at := map[string]int{}
	for _, t := range v.Tasks {
		i, ok := at[t.FrameworkID]
		if !ok {
			i = len(s.Frameworks)
			at[t.FrameworkID] = i
			s.Frameworks = append(s.Frameworks, agentFramework{ID: t.FrameworkID, Executors: []agentExecutor{}, CompletedExecutors: []agentExecutor{}})
		}
		f := &s.Frameworks[i]
		if e := executorOf(v.ID, t); t.Terminal {
			f.CompletedExecutors = append(f.CompletedExecutors, e)
		} else {
			f.Executors = append(f.Executors, e)
		}
	}
	return s
}

func executorOf(agentID string, t agent.TaskView) agentExecutor {
	e := agentExecutor{
		ID: t.Info.GetTaskId().GetValue(), Name: "Command Executor (Task: " + t.Info.GetTaskId().GetValue() + ")",
		Source: t.Info.GetTaskId().GetValue(), Container: t.ContainerID, Directory: t.Sandbox,
		Resources: flat(nil), Role: t.Role, Type: "DEFAULT",
		Tasks: []taskObject{}, QueuedTasks: []taskObject{}, CompletedTasks: []taskObject{},
	}
	task := taskObject{
		ID: t.Info.GetTaskId().GetValue(), Name: t.Info.GetName(), FrameworkID: t.FrameworkID, SlaveID: agentID,
		State: t.State.String(), Resources: flat(t.Info.GetResources()), Role: t.Role, Statuses: []statusObject{}, User: t.User,
		Labels: labels(t.Info.GetLabels()), Discovery: raw(t.Info.GetDiscovery()), Container: raw(t.Info.GetContainer()),
		HealthCheck: raw(t.Info.GetHealthCheck()),
	}
	if t.Terminal {
		e.CompletedTasks = append(e.CompletedTasks, task)
	} else {
		e.Tasks = append(e.Tasks, task)
		e.Resources = task.Resources
	}
	return e
}
