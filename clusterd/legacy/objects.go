package legacy

import (
	"encoding/json"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/clusterd/operator"
)

// The objects of the un-versioned endpoints, in the names of v0: an agent is a slave.

type agentObject struct {
	ID                  string               `json:"id"`
	Hostname            string               `json:"hostname"`
	Port                int32                `json:"port"`
	Attributes          map[string]any       `json:"attributes"`
	Domain              json.RawMessage      `json:"domain,omitempty"`
	PID                 string               `json:"pid"`
	RegisteredTime      number               `json:"registered_time"`
	ReregisteredTime    *number              `json:"reregistered_time,omitempty"`
	Resources           resources            `json:"resources"`
	UsedResources       resources            `json:"used_resources"`
	OfferedResources    resources            `json:"offered_resources"`
	ReservedResources   map[string]resources `json:"reserved_resources"`
	UnreservedResources resources            `json:"unreserved_resources"`
	Active              bool                 `json:"active"`
	Deactivated         bool                 `json:"deactivated"`
	Version             string               `json:"version"`
	Capabilities        []string             `json:"capabilities"`
	DrainInfo           json.RawMessage      `json:"drain_info,omitempty"`
	DrainStart          *number              `json:"estimated_drain_start_time_seconds,omitempty"`
}

func agentOf(a *master.Response_GetAgents_Agent) agentObject {
	reserved, unreserved := perRole(a.GetTotalResources())
	o := agentObject{
		ID: a.GetAgentInfo().GetId().GetValue(), Hostname: a.GetAgentInfo().GetHostname(), Port: a.GetAgentInfo().GetPort(),
		Attributes: attributes(a.GetAgentInfo().GetAttributes()), Domain: raw(a.GetAgentInfo().GetDomain()), PID: a.GetPid(),
		RegisteredTime: seconds(a.GetRegisteredTime()), Resources: flat(a.GetTotalResources()),
		UsedResources: flat(a.GetAllocatedResources()), OfferedResources: flat(a.GetOfferedResources()),
		ReservedResources: reserved, UnreservedResources: unreserved,
		Active: a.GetActive(), Deactivated: a.GetDeactivated(), Version: a.GetVersion(), Capabilities: []string{},
	}
	for _, c := range a.GetCapabilities() {
		o.Capabilities = append(o.Capabilities, c.GetType().String())
	}
	if a.DrainInfo != nil {
		o.DrainInfo, o.DrainStart = raw(a.DrainInfo), new(seconds(a.EstimatedDrainStartTime))
	}
	if a.ReregisteredTime != nil {
		o.ReregisteredTime = new(seconds(a.ReregisteredTime))
	}
	return o
}

// slaveObject is what /slaves adds to an agent.
type slaveObject struct {
	agentObject
	ReservedFull   map[string][]json.RawMessage `json:"reserved_resources_full"`
	UnreservedFull []json.RawMessage            `json:"unreserved_resources_full"`
	UsedFull       []json.RawMessage            `json:"used_resources_full"`
	OfferedFull    []json.RawMessage            `json:"offered_resources_full"`
}

func slaveOf(a *master.Response_GetAgents_Agent) slaveObject {
	o := slaveObject{agentObject: agentOf(a), UsedFull: rawList(a.GetAllocatedResources()), OfferedFull: rawList(a.GetOfferedResources())}
	o.ReservedFull, o.UnreservedFull = fullPerRole(a.GetTotalResources())
	return o
}

// recoveredObject is an agent that is known from the log only.
type recoveredObject struct {
	ID         string         `json:"id"`
	Hostname   string         `json:"hostname"`
	Port       int32          `json:"port"`
	Attributes map[string]any `json:"attributes"`
	Resources  resources      `json:"resources"`
}

func recoveredOf(a *mesosv1.AgentInfo) recoveredObject {
	return recoveredObject{
		ID: a.GetId().GetValue(), Hostname: a.GetHostname(), Port: a.GetPort(),
		Attributes: attributes(a.GetAttributes()), Resources: flat(a.GetResources()),
	}
}

type taskObject struct {
	ID          string          `json:"id"`
	Name        string          `json:"name"`
	FrameworkID string          `json:"framework_id"`
	ExecutorID  string          `json:"executor_id"`
	SlaveID     string          `json:"slave_id"`
	State       string          `json:"state"`
	Resources   resources       `json:"resources"`
	Limits      map[string]any  `json:"limits,omitempty"`
	Role        string          `json:"role"`
	Statuses    []statusObject  `json:"statuses"`
	User        string          `json:"user,omitempty"`
	Labels      []labelObject   `json:"labels,omitempty"`
	Discovery   json.RawMessage `json:"discovery,omitempty"`
	Container   json.RawMessage `json:"container,omitempty"`
	HealthCheck json.RawMessage `json:"health_check,omitempty"`
}

type statusObject struct {
	State           string          `json:"state"`
	Timestamp       number          `json:"timestamp"`
	Labels          []labelObject   `json:"labels,omitempty"`
	ContainerStatus json.RawMessage `json:"container_status,omitempty"`
	Healthy         *bool           `json:"healthy,omitempty"`
}

type labelObject struct {
	Key   string  `json:"key"`
	Value *string `json:"value,omitempty"`
}

func labels(l *mesosv1.Labels) []labelObject {
	var out []labelObject
	for _, one := range l.GetLabels() {
		out = append(out, labelObject{one.GetKey(), one.Value})
	}
	return out
}

func taskOf(t *mesosv1.Task) taskObject {
	o := taskObject{
		ID: t.GetTaskId().GetValue(), Name: t.GetName(), FrameworkID: t.GetFrameworkId().GetValue(),
		ExecutorID: t.GetExecutorId().GetValue(), SlaveID: t.GetAgentId().GetValue(), State: t.GetState().String(),
		Resources: flat(t.GetResources()), Statuses: []statusObject{}, User: t.GetUser(), Labels: labels(t.GetLabels()),
		Discovery: raw(t.GetDiscovery()), Container: raw(t.GetContainer()), HealthCheck: raw(t.GetHealthCheck()),
	}
	for _, r := range t.GetResources() {
		if role := r.GetAllocationInfo().GetRole(); role != "" {
			o.Role = role
		}
	}
	for name, limit := range t.GetLimits() {
		if o.Limits == nil {
			o.Limits = map[string]any{}
		}
		o.Limits[name] = number(limit.GetValue())
	}
	for _, s := range t.GetStatuses() {
		o.Statuses = append(o.Statuses, statusObject{
			State: s.GetState().String(), Timestamp: number(s.GetTimestamp()), Labels: labels(s.GetLabels()),
			ContainerStatus: raw(s.GetContainerStatus()), Healthy: s.Healthy,
		})
	}
	return o
}

type offerObject struct {
	ID             string          `json:"id"`
	FrameworkID    string          `json:"framework_id"`
	AllocationInfo json.RawMessage `json:"allocation_info"`
	SlaveID        string          `json:"slave_id"`
	Resources      resources       `json:"resources"`
}

type frameworkObject struct {
	ID               string           `json:"id"`
	Name             string           `json:"name"`
	UsedResources    resources        `json:"used_resources"`
	OfferedResources resources        `json:"offered_resources"`
	Capabilities     []string         `json:"capabilities"`
	Hostname         string           `json:"hostname"`
	WebuiURL         string           `json:"webui_url"`
	Active           bool             `json:"active"`
	Connected        bool             `json:"connected"`
	Recovered        bool             `json:"recovered"`
	User             string           `json:"user"`
	FailoverTimeout  number           `json:"failover_timeout"`
	Checkpoint       bool             `json:"checkpoint"`
	RegisteredTime   number           `json:"registered_time"`
	UnregisteredTime number           `json:"unregistered_time"`
	ReregisteredTime *number          `json:"reregistered_time,omitempty"`
	Principal        string           `json:"principal,omitempty"`
	Resources        resources        `json:"resources"`
	Role             *string          `json:"role,omitempty"`
	Roles            []string         `json:"roles,omitempty"`
	Tasks            []taskObject     `json:"tasks"`
	UnreachableTasks []taskObject     `json:"unreachable_tasks"`
	CompletedTasks   []taskObject     `json:"completed_tasks"`
	Offers           []offerObject    `json:"offers"`
	Executors        []executorObject `json:"executors"`
	Labels           []labelObject    `json:"labels,omitempty"`
}

// tasksOf are a picture's tasks by framework.
type tasksOf struct {
	active, unreachable, completed map[string][]taskObject
	executors                      map[string][]executorObject
}

// executorObject is a framework's own executor.
type executorObject struct {
	ExecutorID  string          `json:"executor_id"`
	Name        string          `json:"name"`
	FrameworkID string          `json:"framework_id"`
	Command     json.RawMessage `json:"command,omitempty"`
	Container   json.RawMessage `json:"container,omitempty"`
	Resources   resources       `json:"resources"`
	Labels      []labelObject   `json:"labels,omitempty"`
	Type        string          `json:"type"`
	SlaveID     string          `json:"slave_id"`
}

func executorObjectOf(x *master.Response_GetExecutors_Executor) executorObject {
	info := x.GetExecutorInfo()
	return executorObject{
		ExecutorID: info.GetExecutorId().GetValue(), Name: info.GetName(), FrameworkID: info.GetFrameworkId().GetValue(), Command: raw(info.GetCommand()),
		Container: raw(info.GetContainer()), Resources: flat(info.GetResources()), Labels: labels(info.GetLabels()), Type: info.GetType().String(),
		SlaveID: x.GetAgentId().GetValue(),
	}
}

func group(p *operator.Picture) tasksOf {
	by := func(list []*mesosv1.Task) map[string][]taskObject {
		out := map[string][]taskObject{}
		for _, t := range list {
			id := t.GetFrameworkId().GetValue()
			out[id] = append(out[id], taskOf(t))
		}
		return out
	}
	out := tasksOf{by(p.Tasks), by(p.TasksUnreachable), by(p.TasksCompleted), map[string][]executorObject{}}
	for _, x := range p.Executors {
		o := executorObjectOf(x)
		out.executors[o.FrameworkID] = append(out.executors[o.FrameworkID], o)
	}
	return out
}

func frameworkOf(f *master.Response_GetFrameworks_Framework, tasks tasksOf) frameworkObject {
	info := f.GetFrameworkInfo()
	id := info.GetId().GetValue()
	both := append(append([]*mesosv1.Resource{}, f.GetAllocatedResources()...), f.GetOfferedResources()...)
	o := frameworkObject{
		ID: id, Name: info.GetName(), UsedResources: flat(f.GetAllocatedResources()), OfferedResources: flat(f.GetOfferedResources()),
		Capabilities: []string{}, Hostname: info.GetHostname(), WebuiURL: info.GetWebuiUrl(),
		Active: f.GetActive(), Connected: f.GetConnected(), Recovered: f.GetRecovered(),
		User: info.GetUser(), FailoverTimeout: number(info.GetFailoverTimeout()), Checkpoint: info.GetCheckpoint(),
		RegisteredTime: seconds(f.GetRegisteredTime()), UnregisteredTime: seconds(f.GetUnregisteredTime()),
		Principal: info.GetPrincipal(), Resources: flat(both),
		Tasks: orEmpty(tasks.active[id]), UnreachableTasks: orEmpty(tasks.unreachable[id]), CompletedTasks: orEmpty(tasks.completed[id]),
		Offers: []offerObject{}, Executors: orEmpty(tasks.executors[id]), Labels: labels(info.GetLabels()),
	}
	for _, c := range info.GetCapabilities() {
		o.Capabilities = append(o.Capabilities, c.GetType().String())
	}
	o.Role, o.Roles = rolesOf(info)
	if f.ReregisteredTime != nil {
		o.ReregisteredTime = new(seconds(f.ReregisteredTime))
	}
	for _, of := range f.GetOffers() {
		o.Offers = append(o.Offers, offerObject{
			ID: of.GetId().GetValue(), FrameworkID: id, AllocationInfo: raw(of.GetAllocationInfo()),
			SlaveID: of.GetAgentId().GetValue(), Resources: flat(of.GetResources()),
		})
	}
	return o
}

// rolesOf gives a framework's one role, or its list of them, by its capability.
func rolesOf(info *mesosv1.FrameworkInfo) (role *string, roles []string) {
	for _, c := range info.GetCapabilities() {
		if c.GetType() == mesosv1.FrameworkInfo_Capability_MULTI_ROLE {
			return nil, info.GetRoles()
		}
	}
	return new(info.GetRole()), nil
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
