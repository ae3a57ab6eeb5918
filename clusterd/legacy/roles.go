package legacy

import (
	"net/http"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/operator"
	"github.com/mesolith/mesolith/clusterd/state"
)

type roleObject struct {
	Name       string    `json:"name"`
	Weight     number    `json:"weight"`
	Quota      roleQuota `json:"quota"`
	Resources  resources `json:"resources"`
	Allocated  resources `json:"allocated"`
	Offered    resources `json:"offered"`
	Reserved   resources `json:"reserved"`
	Frameworks []string  `json:"frameworks"`
}

// roleQuota is a role's quota; with none nothing is guaranteed and there is no limit.
type roleQuota struct {
	Role      string    `json:"role"`
	Guarantee resources `json:"guarantee"`
	Limit     resources `json:"limit"`
	Consumed  resources `json:"consumed"`
}

// roles lists the roles that somebody is subscribed to or holds something in.
func (h *handler) roles(w http.ResponseWriter, r *http.Request, p *operator.Picture) {
	out := []roleObject{}
	for _, x := range p.Roles {
		allocated, offered := flatOf(x.Allocated), flatOf(x.Offered)
		sum, err := x.Allocated.Plus(x.Offered)
		if err != nil {
			sum = x.Allocated
		}
		out = append(out, roleObject{
			Name: x.Name, Weight: number(x.Weight), Resources: flatOf(sum), Allocated: allocated, Offered: offered,
			Reserved: flatOf(x.Reserved), Frameworks: orEmpty(x.Frameworks),
			Quota: quotaOf(x, allocated),
		})
	}
	h.send(w, r, struct {
		Roles []roleObject `json:"roles"`
	}{out})
}

func quotaOf(x operator.Role, allocated resources) roleQuota {
	q := roleQuota{Role: x.Name, Guarantee: amounts(x.Quota.Guarantees), Limit: amounts(x.Quota.Limits), Consumed: allocated}
	if x.Consumed != nil {
		q.Consumed = amounts(x.Consumed)
	}
	return q
}

func amounts(milli map[string]int64) resources {
	out := resources{}
	for name, v := range milli {
		out[name] = number(float64(v) / 1000)
	}
	return out
}

func flatOf(rs state.Resources) resources { return flat(leader.ToWire(rs, "")) }

// counts are how many tasks of each state there are, under the names of the states.
type counts struct {
	Staging     int `json:"TASK_STAGING"`
	Starting    int `json:"TASK_STARTING"`
	Running     int `json:"TASK_RUNNING"`
	Killing     int `json:"TASK_KILLING"`
	Finished    int `json:"TASK_FINISHED"`
	Killed      int `json:"TASK_KILLED"`
	Failed      int `json:"TASK_FAILED"`
	Lost        int `json:"TASK_LOST"`
	Error       int `json:"TASK_ERROR"`
	Unreachable int `json:"TASK_UNREACHABLE"`
}

func (c *counts) add(s mesosv1.TaskState) {
	switch s {
	case mesosv1.TaskState_TASK_STAGING:
		c.Staging++
	case mesosv1.TaskState_TASK_STARTING:
		c.Starting++
	case mesosv1.TaskState_TASK_RUNNING:
		c.Running++
	case mesosv1.TaskState_TASK_KILLING:
		c.Killing++
	case mesosv1.TaskState_TASK_FINISHED:
		c.Finished++
	case mesosv1.TaskState_TASK_KILLED:
		c.Killed++
	case mesosv1.TaskState_TASK_FAILED:
		c.Failed++
	case mesosv1.TaskState_TASK_LOST:
		c.Lost++
	case mesosv1.TaskState_TASK_ERROR:
		c.Error++
	case mesosv1.TaskState_TASK_UNREACHABLE:
		c.Unreachable++
	}
}

type slaveSummary struct {
	agentObject
	FrameworkIDs []string `json:"framework_ids"`
	counts
}

type frameworkSummary struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"`
	Used         resources `json:"used_resources"`
	Offered      resources `json:"offered_resources"`
	Capabilities []string  `json:"capabilities"`
	Hostname     string    `json:"hostname"`
	WebuiURL     string    `json:"webui_url"`
	Active       bool      `json:"active"`
	Connected    bool      `json:"connected"`
	Recovered    bool      `json:"recovered"`
	counts
	SlaveIDs []string `json:"slave_ids"`
}

// summary is /state-summary: agents and frameworks with how many tasks they have, and
// none of the tasks.
func (h *handler) summary(w http.ResponseWriter, r *http.Request, p *operator.Picture) {
	type pair struct{ agent, framework string }
	byAgent, byFramework := map[string]*counts{}, map[string]*counts{}
	together := map[pair]bool{}
	frameworksOn, agentsOf := map[string][]string{}, map[string][]string{}
	at := func(m map[string]*counts, id string) *counts {
		if m[id] == nil {
			m[id] = &counts{}
		}
		return m[id]
	}
	for _, list := range [][]*mesosv1.Task{p.Tasks, p.TasksUnreachable, p.TasksCompleted} {
		for _, t := range list {
			a, f := t.GetAgentId().GetValue(), t.GetFrameworkId().GetValue()
			at(byAgent, a).add(t.GetState())
			at(byFramework, f).add(t.GetState())
			if !together[pair{a, f}] {
				together[pair{a, f}] = true
				frameworksOn[a], agentsOf[f] = append(frameworksOn[a], f), append(agentsOf[f], a)
			}
		}
	}
	slaves, frameworks := []slaveSummary{}, []frameworkSummary{}
	for _, a := range p.Agents {
		id := a.GetAgentInfo().GetId().GetValue()
		slaves = append(slaves, slaveSummary{agentOf(a), orEmpty(frameworksOn[id]), *at(byAgent, id)})
	}
	for _, f := range p.Frameworks {
		info := f.GetFrameworkInfo()
		s := frameworkSummary{
			ID: info.GetId().GetValue(), Name: info.GetName(), Used: flat(f.GetAllocatedResources()), Offered: flat(f.GetOfferedResources()),
			Capabilities: []string{}, Hostname: info.GetHostname(), WebuiURL: info.GetWebuiUrl(),
			Active: f.GetActive(), Connected: f.GetConnected(), Recovered: f.GetRecovered(),
			counts: *at(byFramework, info.GetId().GetValue()), SlaveIDs: orEmpty(agentsOf[info.GetId().GetValue()]),
		}
		for _, c := range info.GetCapabilities() {
			s.Capabilities = append(s.Capabilities, c.GetType().String())
		}
		frameworks = append(frameworks, s)
	}
	h.send(w, r, struct {
		Hostname   string             `json:"hostname"`
		Cluster    string             `json:"cluster,omitempty"`
		Slaves     []slaveSummary     `json:"slaves"`
		Frameworks []frameworkSummary `json:"frameworks"`
	}{p.Master.GetHostname(), h.Cluster, slaves, frameworks})
}
