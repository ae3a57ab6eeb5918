package faces

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/calls"
	"github.com/mesolith/mesolith/clusterd/executors"
	"github.com/mesolith/mesolith/clusterd/files"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/legacy"
	"github.com/mesolith/mesolith/clusterd/metrics"
	"github.com/mesolith/mesolith/clusterd/operator"
	"github.com/mesolith/mesolith/clusterd/replica"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// MasterConfig is what port 5050 needs, on every node.
type MasterConfig struct {
	Router *calls.Router
	// Leader returns this node's term in office, nil while it does not lead.
	Leader  func() *leader.Leader
	Machine *state.Machine // nil where no master can be
	Agent   func(context.Context) (agent.View, error)
	Pulse   *replica.Pulse // nil where no master can be
	Files   files.Config
	Version *mesosv1.VersionInfo
	Cluster string
	Flags   map[string]string
	Started time.Time
	Logging *operator.Logging
	Log     *slog.Logger
}

// NewMasterMux is the API port.
func NewMasterMux(cfg MasterConfig) http.Handler {
	const realm = auth.RealmMasterReadonly
	schedule := calls.Handler(calls.Config{Leader: cfg.Leader, Router: cfg.Router, Log: cfg.Log})
	gauge := metrics.Config{
		Leader: cfg.Leader, Machine: cfg.Machine, Agent: cfg.Agent, Pulse: cfg.Pulse, Started: cfg.Started, Log: cfg.Log,
	}
	measure := metrics.Handler(gauge)
	operate := operator.Handler(operator.Config{
		Leader: cfg.Leader, Machine: cfg.Machine, Budget: cfg.Router.Budget, Version: cfg.Version, Flags: cfg.Flags, Started: cfg.Started,
		Measure: gauge.Gather, Files: cfg.Files, Logging: cfg.Logging, Log: cfg.Log,
	})
	table := []route{
		{path: "/api/v1/scheduler", role: nodedoc.RoleFramework, realm: auth.RealmScheduler, forward: true, handler: schedule},
		{path: "/api/v1", role: nodedoc.RoleReader, realm: realm, forward: true, handler: operate},
		{path: "/version", handler: legacy.Version(cfg.Version, cfg.Log)},
		{path: "/health", handler: legacy.Health()},
		{path: "/redirect", exact: true, handler: redirect(cfg.Router.Board)},
		{path: "/metrics/snapshot", role: nodedoc.RoleReader, realm: realm, handler: measure},
		{path: "/flags", role: nodedoc.RoleReader, realm: realm, handler: legacy.Flags(cfg.Flags, cfg.Log)},
		{path: "/logging/toggle", role: nodedoc.RoleReader, realm: auth.RealmMasterReadwrite, handler: legacy.Toggle(cfg.Logging)},
	}
	old := legacy.Config{
		Leader: cfg.Leader, Machine: cfg.Machine, Version: cfg.Version, Cluster: cfg.Cluster, Started: cfg.Started, Flags: cfg.Flags, Log: cfg.Log,
	}
	for path, h := range legacy.Handlers(old) {
		table = append(table, route{path: path, role: nodedoc.RoleReader, realm: realm, forward: true, handler: h})
	}
	for path, h := range legacy.Changes(old) {
		table = append(table, route{path: path, role: nodedoc.RoleReader, realm: auth.RealmMasterReadwrite, forward: true, handler: h})
	}
	for path, h := range files.Handlers(cfg.Files) {
		table = append(table, route{path: path, role: nodedoc.RoleReader, realm: realm, handler: h})
	}
	return newMux("/master", cfg.Router.Auth, cfg.Router.ToLeader, table)
}

// redirect sends a client to the leader in Mesos' way.
func redirect(board *calls.Board) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now, _ := board.Read()
		if now.Leader == "" || now.Address == "" {
			httpio.Error(w, http.StatusServiceUnavailable, "No leader elected")
			return
		}
		calls.Redirect(w, now.Address, "")
	})
}

// AgentConfig is what port 5051 needs.
type AgentConfig struct {
	Auth  *auth.Authenticator
	View  func(context.Context) (agent.View, error)
	Agent executors.Agent
	Files files.Config
	// Containers are asked for what operators begin inside of running ones.
	Containers agent.Containers
	Version    *mesosv1.VersionInfo
	Address    string // host:port of this port
	WorkDir    string
	Flags      map[string]string
	Started    time.Time
	Logging    *operator.Logging
	Log        *slog.Logger
}

// agentBodies is how many bodies of requests an agent reads at a time.
const agentBodies = 4

// NewAgentMux is the agent's port.
func NewAgentMux(cfg AgentConfig) http.Handler {
	const realm = auth.RealmAgentReadonly
	gauge := metrics.Config{Agent: cfg.View, Started: cfg.Started, Log: cfg.Log}
	flags := map[string]string{"work_dir": cfg.WorkDir}
	maps.Copy(flags, cfg.Flags)
	table := []route{
		{path: "/version", handler: legacy.Version(cfg.Version, cfg.Log)},
		{path: "/health", handler: legacy.Health()},
		{path: "/state", role: nodedoc.RoleReader, realm: realm, handler: legacy.AgentState(legacy.AgentConfig{
			View: cfg.View, Version: cfg.Version, Address: cfg.Address, WorkDir: cfg.WorkDir, Flags: cfg.Flags, Log: cfg.Log,
		})},
		{path: "/metrics/snapshot", role: nodedoc.RoleReader, realm: realm, handler: metrics.Handler(gauge)},
		{path: "/flags", role: nodedoc.RoleReader, realm: realm, handler: legacy.Flags(flags, cfg.Log)},
		{path: "/logging/toggle", role: nodedoc.RoleReader, realm: realm, handler: legacy.Toggle(cfg.Logging)},
		{path: "/api/v1", role: nodedoc.RoleReader, realm: realm, handler: operator.AgentHandler(operator.AgentConfig{
			View: cfg.View, Budget: httpio.NewBudget(agentBodies), Version: cfg.Version, Flags: flags, Measure: gauge.Gather, Files: cfg.Files, Logging: cfg.Logging, Containers: cfg.Containers, Log: cfg.Log,
		})},
	}
	// Who calls as which executor is checked by the call itself: libraries know no credentials.
	table = append(table, route{path: "/api/v1/executor", exact: true, handler: executors.Handler(executors.Config{
		Agent: cfg.Agent, Budget: httpio.NewBudget(agentBodies), Log: cfg.Log,
	})})
	for path, h := range files.Handlers(cfg.Files) {
		table = append(table, route{path: path, role: nodedoc.RoleReader, realm: realm, handler: h})
	}
	return newMux("/slave(1)", cfg.Auth, nil, table)
}

// Latest finds the newest sandbox of an executor, or of a command task, whose executor has
// the task's id: of what the agent remembers by what it knows, else by the link that isolated keeps
// beside the sandboxes, which stay longer than the memory of their tasks.
func Latest(view func(context.Context) (agent.View, error), workDir string) func(context.Context, string, string) (string, bool, error) {
	return func(ctx context.Context, framework, executor string) (string, bool, error) {
		v, err := view(ctx)
		if err != nil {
			return "", false, err
		}
		dir := ""
		for _, t := range v.Tasks {
			if t.FrameworkID == framework && t.Executor == "" && t.Info.GetTaskId().GetValue() == executor && t.Sandbox != "" {
				dir = t.Sandbox
			}
		}
		for _, x := range v.Executors {
			if x.FrameworkID == framework && x.Info.GetExecutorId().GetValue() == executor && x.Sandbox != "" {
				dir = x.Sandbox
			}
		}
		if dir == "" && v.ID != "" && plainName(framework) && plainName(executor) {
			dir = filepath.Join(workDir, "slaves", v.ID, "frameworks", framework, "executors", executor, "runs", "latest")
		}
		return dir, dir != "", nil
	}
}

// Owner finds whom the executor runs as whose sandbox a path lies in: of a task the agent
// remembers by its sandbox, else by the ids in the path.
func Owner(view func(context.Context) (agent.View, error)) func(context.Context, string) (string, bool, error) {
	return func(ctx context.Context, name string) (string, bool, error) {
		v, err := view(ctx)
		if err != nil {
			return "", false, err
		}
		if user, ok := operator.SandboxUser(v, name); ok {
			return user, true, nil
		}
		framework, executor := "", ""
		parts := strings.Split(name, "/")
		for i := 0; i+5 < len(parts); i++ {
			if parts[i] == "slaves" && parts[i+2] == "frameworks" && parts[i+4] == "executors" {
				framework, executor = parts[i+3], parts[i+5]
				break
			}
		}
		user, ok := operator.ExecutorUser(v, framework, executor)
		return user, ok, nil
	}
}

// plainName: what an id must be to name one directory.
func plainName(id string) bool {
	return id != "" && id != "." && id != ".." && !strings.ContainsAny(id, "/\x00")
}
