package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
)

// taskView is a task as `lith tasks` shows it.
type taskView struct {
	ID        string  `json:"id"`
	Name      string  `json:"name"`
	State     string  `json:"state"`
	Node      string  `json:"node"`
	Framework string  `json:"framework"`
	Address   string  `json:"address,omitempty"`
	CPUs      float64 `json:"cpus"`
	MemMB     float64 `json:"mem_mb"`
	Changed   string  `json:"changed,omitempty"` // RFC 3339, of the newest status
	Message   string  `json:"message,omitempty"`

	task  *mesosv1.Task
	agent *mesosv1.AgentInfo // nil: gone
	owner *mesosv1.FrameworkInfo
}

func (v taskView) ended() bool { return client.Terminal(v.task.GetState()) }

// tasks gives all tasks that the cluster knows, the newest first.
func (t *target) tasks(ctx context.Context) ([]taskView, error) {
	resp, err := t.operate(ctx, master.Call_GET_STATE)
	if err != nil {
		return nil, err
	}
	state := resp.GetGetState()
	agents := map[string]*mesosv1.AgentInfo{}
	for _, a := range state.GetGetAgents().GetAgents() {
		agents[a.GetAgentInfo().GetId().GetValue()] = a.GetAgentInfo()
	}
	owners := map[string]*mesosv1.FrameworkInfo{}
	for _, list := range [][]*master.Response_GetFrameworks_Framework{
		state.GetGetFrameworks().GetCompletedFrameworks(), state.GetGetFrameworks().GetFrameworks(),
	} {
		for _, f := range list {
			owners[f.GetFrameworkInfo().GetId().GetValue()] = f.GetFrameworkInfo()
		}
	}
	var out []taskView
	all := state.GetGetTasks()
	for _, list := range [][]*mesosv1.Task{all.GetTasks(), all.GetUnreachableTasks(), all.GetCompletedTasks()} {
		for _, one := range list {
			out = append(out, t.viewTask(one, agents[one.GetAgentId().GetValue()], owners[one.GetFrameworkId().GetValue()]))
		}
	}
	slices.SortStableFunc(out, func(a, b taskView) int {
		return cmp.Compare(newest(b.task).GetTimestamp(), newest(a.task).GetTimestamp())
	})
	return out, nil
}

func newest(t *mesosv1.Task) *mesosv1.TaskStatus {
	list := t.GetStatuses()
	if len(list) == 0 {
		return nil
	}
	return list[len(list)-1]
}

func (t *target) viewTask(task *mesosv1.Task, agent *mesosv1.AgentInfo, owner *mesosv1.FrameworkInfo) taskView {
	v := taskView{
		ID: task.GetTaskId().GetValue(), Name: task.GetName(), State: task.GetState().String(), Framework: owner.GetName(),
		task: task, agent: agent, owner: owner,
	}
	if agent != nil {
		v.Node = t.nodeName(agent.GetHostname())
	}
	if v.Framework == "" {
		v.Framework = task.GetFrameworkId().GetValue()
	}
	v.CPUs, v.MemMB = amount(task.GetResources(), "cpus"), amount(task.GetResources(), "mem")
	if s := newest(task); s != nil {
		seconds := s.GetTimestamp()
		v.Changed = time.Unix(0, int64(seconds*1e9)).UTC().Format(time.RFC3339)
		v.Message = s.GetMessage()
	}
	for _, s := range task.GetStatuses() {
		for _, network := range s.GetContainerStatus().GetNetworkInfos() {
			for _, ip := range network.GetIpAddresses() {
				v.Address = ip.GetIpAddress()
			}
		}
	}
	return v
}

// amount adds up a scalar resource.
func amount(list []*mesosv1.Resource, name string) float64 {
	sum := 0.0
	for _, r := range list {
		if r.GetName() == name {
			sum += r.GetScalar().GetValue()
		}
	}
	return sum
}

// findTask gives the task of an id, or of the beginning of one when only one task's id
// begins so, or only one of those has not ended. Of several lives of one id the newest
// counts.
func (t *target) findTask(ctx context.Context, id string) (taskView, error) {
	all, err := t.tasks(ctx)
	if err != nil {
		return taskView{}, err
	}
	return pickTask(all, id, t)
}

func pickTask(all []taskView, id string, t *target) (taskView, error) {
	var found []taskView
	for _, v := range all {
		if v.ID == id {
			return v, nil
		}
		if strings.HasPrefix(v.ID, id) && !slices.ContainsFunc(found, func(f taskView) bool { return f.ID == v.ID }) {
			found = append(found, v)
		}
	}
	switch len(found) {
	case 0:
		return taskView{}, fmt.Errorf("cluster %s knows no task %q: `lith tasks%s` lists them", t.name, id, t.at())
	case 1:
		return found[0], nil
	}
	if alive := slices.DeleteFunc(slices.Clone(found), taskView.ended); len(alive) == 1 {
		return alive[0], nil
	}
	names := make([]string, 0, len(found))
	for _, f := range found {
		names = append(names, f.ID)
	}
	return taskView{}, fmt.Errorf("%q begins the ids of %d tasks (%s): write more of it", id, len(found), strings.Join(names, ", "))
}

// nodeView is a node as `lith status` and `lith nodes` show it.
type nodeView struct {
	Name    string   `json:"name"`
	State   string   `json:"state"` // ready, joining, booting, unreachable
	Address string   `json:"address"`
	Roles   []string `json:"roles"`
	AgentID string   `json:"agent_id,omitempty"`
	Tasks   int      `json:"tasks"`
	CPUs    figure   `json:"cpus"`
	MemMB   figure   `json:"mem_mb"`

	agent *mesosv1.AgentInfo
}

type figure struct {
	Used  float64 `json:"used"`
	Total float64 `json:"total"`
}

// States of a node.
const (
	nodeReady       = "ready"       // its agent is attached to the leader
	nodeJoining     = "joining"     // its API answers, its agent is not attached
	nodeBooting     = "booting"     // nothing answers, and the cluster is young
	nodeUnreachable = "unreachable" // nothing answers
)

// bootTime is how long after the start a silent node counts as booting.
const bootTime = 3 * time.Minute

// joinNodes joins what the directory knows of nodes with the agents that the leader knows.
// With a nil state, when nobody leads, each node is asked itself.
func (t *target) joinNodes(ctx context.Context, state *master.Response_GetState, now time.Time) []nodeView {
	var out []nodeView
	byHost := map[string]int{}
	for _, n := range t.nodes {
		v := nodeView{Name: n.Name, Address: n.Address, Roles: []string{"agent"}}
		if n.Master {
			v.Roles = append(v.Roles, "master")
		}
		byHost[n.Name] = len(out)
		out = append(out, v)
	}
	running := map[string]int{}
	for _, task := range state.GetGetTasks().GetTasks() {
		if !client.Terminal(task.GetState()) {
			running[task.GetAgentId().GetValue()]++
		}
	}
	for _, a := range state.GetGetAgents().GetAgents() {
		name := t.nodeName(a.GetAgentInfo().GetHostname())
		at, known := byHost[name]
		if !known {
			at = len(out)
			out = append(out, nodeView{Name: name, Address: a.GetAgentInfo().GetHostname(), Roles: []string{"agent"}})
			if len(t.nodes) > 0 {
				byHost[name] = at
			}
		}
		fillNode(&out[at], a, running)
	}
	var wg sync.WaitGroup
	for i := range out {
		if out[i].State == "" {
			wg.Go(func() { out[i].State = t.probe(ctx, out[i].Name, now) })
		}
	}
	wg.Wait()
	return out
}

func fillNode(v *nodeView, a *master.Response_GetAgents_Agent, running map[string]int) {
	if v.State == nodeReady && !a.GetActive() {
		return // an earlier incarnation
	}
	id := a.GetAgentInfo().GetId().GetValue()
	v.agent, v.AgentID, v.Tasks = a.GetAgentInfo(), id, running[id]
	v.CPUs = figure{amount(a.GetAllocatedResources(), "cpus"), amount(a.GetTotalResources(), "cpus")}
	v.MemMB = figure{amount(a.GetAllocatedResources(), "mem"), amount(a.GetTotalResources(), "mem")}
	v.State = nodeUnreachable
	if a.GetActive() {
		v.State = nodeReady
	}
}
