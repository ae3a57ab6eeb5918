package operator

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	agentv1 "github.com/mesolith/mesolith/api/mesos/v1/agent"
	"github.com/mesolith/mesolith/clusterd/agent"
	"github.com/mesolith/mesolith/clusterd/files"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/secrets"
)

// AgentConfig is what the operator API of an agent needs.
type AgentConfig struct {
	View    func(context.Context) (agent.View, error)
	Budget  *httpio.Budget
	Version *mesosv1.VersionInfo
	Flags   map[string]string
	Measure func(context.Context) map[string]float64
	Files   files.Config
	Logging *Logging
	// Containers are asked for what operators begin inside of running ones.
	Containers agent.Containers
	Log        *slog.Logger
}

// viewTime is how long the agent's loop may take to show itself.
const viewTime = 10 * time.Second

// AgentHandler answers POST /api/v1 of an agent, for callers that may read.
func AgentHandler(cfg AgentConfig) http.Handler { return &agentHandler{AgentConfig: cfg} }

type agentHandler struct {
	AgentConfig
	sessions sessions
}

// agentAnswers are the calls that are served; every other one of Mesos 1.11 is 501.
var agentAnswers = map[agentv1.Call_Type]func(*agentHandler, *agentCall, *agentv1.Response) error{
	agentv1.Call_GET_HEALTH:             (*agentHandler).health,
	agentv1.Call_GET_VERSION:            (*agentHandler).version,
	agentv1.Call_GET_FLAGS:              (*agentHandler).flags,
	agentv1.Call_GET_METRICS:            (*agentHandler).metrics,
	agentv1.Call_GET_STATE:              (*agentHandler).state,
	agentv1.Call_GET_AGENT:              (*agentHandler).agent,
	agentv1.Call_GET_FRAMEWORKS:         (*agentHandler).frameworks,
	agentv1.Call_GET_EXECUTORS:          (*agentHandler).executors,
	agentv1.Call_GET_TASKS:              (*agentHandler).tasks,
	agentv1.Call_GET_CONTAINERS:         (*agentHandler).containers,
	agentv1.Call_GET_OPERATIONS:         (*agentHandler).operations,
	agentv1.Call_GET_RESOURCE_PROVIDERS: (*agentHandler).providers,
	agentv1.Call_GET_LOGGING_LEVEL:      (*agentHandler).loggingLevel,
	agentv1.Call_SET_LOGGING_LEVEL:      (*agentHandler).setLoggingLevel,
	agentv1.Call_LIST_FILES:             (*agentHandler).listFiles,
	agentv1.Call_READ_FILE:              (*agentHandler).readFile,
}

// agentNeeds are the parts that calls cannot do without.
var agentNeeds = map[agentv1.Call_Type]struct {
	name string
	has  func(*agentv1.Call) bool
}{
	agentv1.Call_LAUNCH_CONTAINER:                {"launch_container", func(c *agentv1.Call) bool { return c.LaunchContainer != nil }},
	agentv1.Call_LAUNCH_NESTED_CONTAINER:         {"launch_nested_container", func(c *agentv1.Call) bool { return c.LaunchNestedContainer != nil }},
	agentv1.Call_WAIT_CONTAINER:                  {"wait_container", func(c *agentv1.Call) bool { return c.WaitContainer != nil }},
	agentv1.Call_WAIT_NESTED_CONTAINER:           {"wait_nested_container", func(c *agentv1.Call) bool { return c.WaitNestedContainer != nil }},
	agentv1.Call_KILL_CONTAINER:                  {"kill_container", func(c *agentv1.Call) bool { return c.KillContainer != nil }},
	agentv1.Call_KILL_NESTED_CONTAINER:           {"kill_nested_container", func(c *agentv1.Call) bool { return c.KillNestedContainer != nil }},
	agentv1.Call_REMOVE_CONTAINER:                {"remove_container", func(c *agentv1.Call) bool { return c.RemoveContainer != nil }},
	agentv1.Call_REMOVE_NESTED_CONTAINER:         {"remove_nested_container", func(c *agentv1.Call) bool { return c.RemoveNestedContainer != nil }},
	agentv1.Call_LAUNCH_NESTED_CONTAINER_SESSION: {"launch_nested_container_session", func(c *agentv1.Call) bool { return c.LaunchNestedContainerSession != nil }},
	agentv1.Call_ATTACH_CONTAINER_OUTPUT:         {"attach_container_output", func(c *agentv1.Call) bool { return c.AttachContainerOutput != nil }},
	agentv1.Call_GET_METRICS:                     {"get_metrics", func(c *agentv1.Call) bool { return c.GetMetrics != nil }},
	agentv1.Call_SET_LOGGING_LEVEL:               {"set_logging_level", func(c *agentv1.Call) bool { return c.SetLoggingLevel != nil }},
	agentv1.Call_LIST_FILES:                      {"list_files", func(c *agentv1.Call) bool { return c.ListFiles != nil }},
	agentv1.Call_READ_FILE:                       {"read_file", func(c *agentv1.Call) bool { return c.ReadFile != nil }},
}

type agentCall struct {
	*agentv1.Call
	ctx context.Context
}

func (h *agentHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		httpio.NotAllowed(w, r, http.MethodPost)
		return
	}
	if isRecordIO(r) {
		h.attachInput(w, r)
		return
	}
	if _, given := r.Header["Message-Content-Type"]; given {
		httpio.Error(w, http.StatusUnsupportedMediaType, "Expecting 'Content-Type' to be "+recordIO+" where 'Message-Content-Type' is present")
		return
	}
	call := &agentv1.Call{}
	release, ok := httpio.ReadCall(w, r, h.Budget, "agent::Call", call)
	done := sync.OnceFunc(release) // a stream lasts longer than the call that began it
	defer done()
	if !ok {
		return
	}
	switch {
	case call.Type == nil:
		httpio.Error(w, http.StatusBadRequest, "Failed to validate agent::Call: Expecting 'type' to be present")
		return
	case agentNeeds[call.GetType()].name != "" && !agentNeeds[call.GetType()].has(call):
		httpio.Error(w, http.StatusBadRequest, "Failed to validate agent::Call: Expecting '"+agentNeeds[call.GetType()].name+"' to be present")
		return
	}
	if kind, ok := containerAnswers[call.GetType()]; ok {
		h.container(w, r, call, kind, done)
		return
	}
	if call.GetType() == agentv1.Call_ATTACH_CONTAINER_INPUT {
		httpio.Error(w, http.StatusUnsupportedMediaType, "Expecting 'Content-Type' of "+recordIO+" for ATTACH_CONTAINER_INPUT")
		return
	}
	media, ok := httpio.Negotiate(r)
	if _, given := r.Header["Message-Accept"]; !ok || given {
		httpio.Error(w, http.StatusNotAcceptable, "Expecting 'Accept' to allow 'application/json' or 'application/x-protobuf'")
		return
	}
	answer, ok := agentAnswers[call.GetType()]
	if !ok {
		httpio.Error(w, http.StatusNotImplemented, "The call "+call.GetType().String()+" is not supported yet")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), viewTime)
	defer cancel()
	resp := &agentv1.Response{}
	why, err := h.forbidden(ctx, call)
	if err == nil && why != "" {
		err = refuse(ctx, call.GetType().String(), "", why)
	}
	if err == nil {
		err = answer(h, &agentCall{call, ctx}, resp)
	}
	if err == nil {
		err = h.filter(ctx, resp)
	}
	var refused refusal
	switch {
	case errors.As(err, &refused):
		httpio.Error(w, refused.status, refused.text)
		return
	case err == nil && resp.Type == nil:
		httpio.Empty(w, http.StatusOK)
		return
	}
	if err != nil {
		if r.Context().Err() == nil {
			httpio.Error(w, http.StatusServiceUnavailable, "Agent has not finished recovery: "+err.Error())
		}
		return
	}
	if err := httpio.Message(w, r, media, resp); err != nil {
		h.Log.Info("operator call not answered in full", "call", call.GetType().String(), "error", err)
	}
}

func (h *agentHandler) health(_ *agentCall, r *agentv1.Response) error {
	r.Type, r.GetHealth = agentv1.Response_GET_HEALTH.Enum(), &agentv1.Response_GetHealth{Healthy: proto.Bool(true)}
	return nil
}

func (h *agentHandler) version(_ *agentCall, r *agentv1.Response) error {
	r.Type, r.GetVersion = agentv1.Response_GET_VERSION.Enum(), &agentv1.Response_GetVersion{VersionInfo: h.Version}
	return nil
}

func (h *agentHandler) flags(_ *agentCall, r *agentv1.Response) error {
	r.Type, r.GetFlags = agentv1.Response_GET_FLAGS.Enum(), &agentv1.Response_GetFlags{}
	for _, name := range slices.Sorted(maps.Keys(h.Flags)) {
		r.GetFlags.Flags = append(r.GetFlags.Flags, &mesosv1.Flag{Name: proto.String(name), Value: proto.String(h.Flags[name])})
	}
	return nil
}

func (h *agentHandler) metrics(c *agentCall, r *agentv1.Response) error {
	ctx := c.ctx
	if t := c.GetMetrics.GetTimeout().GetNanoseconds(); t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(t))
		defer cancel()
	}
	r.Type, r.GetMetrics = agentv1.Response_GET_METRICS.Enum(), &agentv1.Response_GetMetrics{}
	measured := h.Measure(ctx)
	for _, name := range slices.Sorted(maps.Keys(measured)) {
		r.GetMetrics.Metrics = append(r.GetMetrics.Metrics, &mesosv1.Metric{Name: proto.String(name), Value: proto.Float64(measured[name])})
	}
	return nil
}

func (h *agentHandler) state(c *agentCall, r *agentv1.Response) error {
	v, err := h.View(c.ctx)
	if err != nil {
		return err
	}
	r.Type, r.GetState = agentv1.Response_GET_STATE.Enum(), &agentv1.Response_GetState{
		GetTasks: tasksOn(v), GetExecutors: executorsOn(v), GetFrameworks: frameworksOn(v),
	}
	return nil
}

func (h *agentHandler) agent(c *agentCall, r *agentv1.Response) error {
	v, err := h.View(c.ctx)
	if err != nil {
		return err
	}
	info, ok := proto.Clone(v.Info).(*mesosv1.AgentInfo)
	if ok && v.ID != "" {
		info.Id = &mesosv1.AgentID{Value: proto.String(v.ID)}
	}
	r.Type, r.GetAgent = agentv1.Response_GET_AGENT.Enum(), &agentv1.Response_GetAgent{AgentInfo: info}
	if d := v.Drain; d != nil {
		r.GetAgent.DrainConfig, r.GetAgent.EstimatedDrainStartTime = DrainConfig(d.Grace, d.Gone), timeInfo(d.Began.UnixNano())
	}
	return nil
}

func (h *agentHandler) frameworks(c *agentCall, r *agentv1.Response) error {
	v, err := h.View(c.ctx)
	r.Type, r.GetFrameworks = agentv1.Response_GET_FRAMEWORKS.Enum(), frameworksOn(v)
	return err
}

func (h *agentHandler) executors(c *agentCall, r *agentv1.Response) error {
	v, err := h.View(c.ctx)
	r.Type, r.GetExecutors = agentv1.Response_GET_EXECUTORS.Enum(), executorsOn(v)
	return err
}

func (h *agentHandler) tasks(c *agentCall, r *agentv1.Response) error {
	v, err := h.View(c.ctx)
	r.Type, r.GetTasks = agentv1.Response_GET_TASKS.Enum(), tasksOn(v)
	return err
}

// operations: an operation other than a launch is over when it is answered.
func (h *agentHandler) operations(_ *agentCall, r *agentv1.Response) error {
	r.Type, r.GetOperations = agentv1.Response_GET_OPERATIONS.Enum(), &agentv1.Response_GetOperations{}
	return nil
}

// providers: what a node has is its agent's own.
func (h *agentHandler) providers(_ *agentCall, r *agentv1.Response) error {
	r.Type, r.GetResourceProviders = agentv1.Response_GET_RESOURCE_PROVIDERS.Enum(), &agentv1.Response_GetResourceProviders{}
	return nil
}

func (h *agentHandler) containers(c *agentCall, r *agentv1.Response) error {
	v, err := h.View(c.ctx)
	r.Type, r.GetContainers = agentv1.Response_GET_CONTAINERS.Enum(), &agentv1.Response_GetContainers{}
	for _, x := range v.Executors {
		if x.Terminal {
			continue
		}
		id := &mesosv1.ContainerID{Value: proto.String(x.ContainerID)}
		status := &mesosv1.ContainerStatus{ContainerId: id}
		if x.PID > 0 {
			status.ExecutorPid = proto.Uint32(uint32(x.PID))
		}
		r.GetContainers.Containers = append(r.GetContainers.Containers, &agentv1.Response_GetContainers_Container{
			FrameworkId: frameworkID(x.FrameworkID), ExecutorId: x.Info.GetExecutorId(), ExecutorName: proto.String(x.Info.GetName()),
			ContainerId: id, ContainerStatus: status,
		})
	}
	for _, t := range v.Tasks {
		if t.Terminal || t.Executor != "" {
			continue
		}
		id := &mesosv1.ContainerID{Value: proto.String(t.ContainerID)}
		status := &mesosv1.ContainerStatus{ContainerId: id}
		if t.PID > 0 {
			status.ExecutorPid = proto.Uint32(uint32(t.PID))
		}
		r.GetContainers.Containers = append(r.GetContainers.Containers, &agentv1.Response_GetContainers_Container{
			FrameworkId: frameworkID(t.FrameworkID), ExecutorId: executorID(t), ExecutorName: proto.String(executorName(t)),
			ContainerId: id, ContainerStatus: status,
		})
	}
	if err == nil && c.GetGetContainers().GetShowNested() {
		err = h.nestedContainers(c, v, r.GetContainers)
	}
	return err
}

func frameworkID(id string) *mesosv1.FrameworkID {
	return &mesosv1.FrameworkID{Value: proto.String(id)}
}

// executorID: a task that is run by its command is its own executor, under its own id.
func executorID(t agent.TaskView) *mesosv1.ExecutorID {
	return &mesosv1.ExecutorID{Value: proto.String(t.Info.GetTaskId().GetValue())}
}

func executorName(t agent.TaskView) string {
	return "Command Executor (Task: " + t.Info.GetTaskId().GetValue() + ")"
}

func frameworksOn(v agent.View) *agentv1.Response_GetFrameworks {
	out := &agentv1.Response_GetFrameworks{}
	runs := map[string]bool{}
	for _, t := range v.Tasks {
		runs[t.FrameworkID] = runs[t.FrameworkID] || !t.Terminal
	}
	seen := map[string]bool{}
	for _, t := range v.Tasks {
		if seen[t.FrameworkID] {
			continue
		}
		seen[t.FrameworkID] = true
		info, ok := proto.Clone(t.Framework).(*mesosv1.FrameworkInfo)
		if !ok || info == nil {
			info = &mesosv1.FrameworkInfo{}
		}
		info.Id = frameworkID(t.FrameworkID)
		f := &agentv1.Response_GetFrameworks_Framework{FrameworkInfo: info}
		if runs[t.FrameworkID] {
			out.Frameworks = append(out.Frameworks, f)
		} else {
			out.CompletedFrameworks = append(out.CompletedFrameworks, f)
		}
	}
	return out
}

func executorsOn(v agent.View) *agentv1.Response_GetExecutors {
	out := &agentv1.Response_GetExecutors{}
	for _, x := range v.Executors {
		e := &agentv1.Response_GetExecutors_Executor{ExecutorInfo: secrets.Without(x.Info)}
		if x.Terminal {
			out.CompletedExecutors = append(out.CompletedExecutors, e)
		} else {
			out.Executors = append(out.Executors, e)
		}
	}
	for _, t := range v.Tasks {
		if t.Executor != "" {
			continue
		}
		e := &agentv1.Response_GetExecutors_Executor{ExecutorInfo: &mesosv1.ExecutorInfo{
			ExecutorId: executorID(t), FrameworkId: frameworkID(t.FrameworkID), Name: proto.String(executorName(t)),
			Source: proto.String(t.Info.GetTaskId().GetValue()), Command: secrets.Without(t.Info.GetCommand()), Labels: t.Info.GetLabels(),
		}}
		if t.Terminal {
			out.CompletedExecutors = append(out.CompletedExecutors, e)
		} else {
			out.Executors = append(out.Executors, e)
		}
	}
	return out
}

func tasksOn(v agent.View) *agentv1.Response_GetTasks {
	out := &agentv1.Response_GetTasks{}
	for _, t := range v.Tasks {
		task := &mesosv1.Task{
			Name: proto.String(t.Info.GetName()), TaskId: t.Info.GetTaskId(), FrameworkId: frameworkID(t.FrameworkID),
			AgentId: &mesosv1.AgentID{Value: proto.String(v.ID)}, State: t.State.Enum(), Resources: t.Info.GetResources(), Labels: t.Info.GetLabels(),
			Discovery: t.Info.GetDiscovery(), Container: secrets.Without(t.Info.GetContainer()), HealthCheck: t.Info.GetHealthCheck(), KillPolicy: t.Info.GetKillPolicy(),
			Limits: t.Info.GetLimits(),
		}
		if t.User != "" {
			task.User = proto.String(t.User)
		}
		if t.Executor != "" {
			task.ExecutorId = &mesosv1.ExecutorID{Value: proto.String(t.Executor)}
		}
		switch {
		case t.Queued:
			out.QueuedTasks = append(out.QueuedTasks, task)
		case !t.Terminal:
			out.LaunchedTasks = append(out.LaunchedTasks, task)
		case t.Updates > 0: // its end is not acknowledged
			out.TerminatedTasks = append(out.TerminatedTasks, task)
		default:
			out.CompletedTasks = append(out.CompletedTasks, task)
		}
	}
	return out
}
