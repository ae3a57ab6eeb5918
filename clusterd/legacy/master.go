// Package legacy is the un-versioned HTTP endpoints in the shapes that Mesos gave them:
// /state, /state-summary, /slaves, /frameworks, /tasks, /roles and /flags of a master, its
// /teardown, /state of an agent, and /version, /health and /redirect, which are open to all.
//
// Names are those of v0 (an agent is a slave, its pid "slave(1)@ip:port"), resources are
// flat, numbers carry a decimal point, methods are not enforced: existing tools and user
// interfaces read exactly this. Tasks run by a command have no executor; lists of executors
// are of frameworks' own.
//
// What is shown comes from operator's Picture and from the agent's View; paths, who may
// call and where a request is answered are package faces' business.
package legacy

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/operator"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/acl"
)

// Config is what a master's endpoints need.
type Config struct {
	// Leader returns this node's term in office, nil while it does not lead.
	Leader  func() *leader.Leader
	Machine *state.Machine
	Version *mesosv1.VersionInfo
	Cluster string
	Started time.Time
	Flags   map[string]string
	Log     *slog.Logger
}

type handler struct{ Config }

// Handlers are a master's endpoints by path. They answer on the leader.
func Handlers(cfg Config) map[string]http.Handler {
	h := &handler{cfg}
	return map[string]http.Handler{
		"/state":      h.with(operator.Everything, h.state),
		"/slaves":     h.with(operator.Want{Agents: true}, h.slaves),
		"/frameworks": h.with(operator.Everything, h.frameworks),
		"/tasks":      h.with(operator.Want{Tasks: true}, h.tasks),

		"/state-summary": h.with(operator.Everything, h.summary),
		"/roles":         h.with(operator.Want{Frameworks: true, Roles: true}, h.roles),
		"/weights":       http.HandlerFunc(h.weights),
		"/quota":         http.HandlerFunc(h.quota),

		"/maintenance/schedule": http.HandlerFunc(h.schedule),
		"/maintenance/status": h.with(operator.Want{}, func(w http.ResponseWriter, r *http.Request, _ *operator.Picture) {
			h.send(w, r, json.RawMessage(mesosjson.Marshal(operator.MaintenanceStatus(h.Machine, auth.JudgeOf(r.Context())))))
		}),
	}
}

// Version answers /version.
func Version(info *mesosv1.VersionInfo, log *slog.Logger) http.Handler {
	h := &handler{Config{Version: info, Log: log}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.send(w, r, buildOf(info)) })
}

// Flags answers /flags: the settings of the node that answers.
func Flags(flags map[string]string, log *slog.Logger) http.Handler {
	h := &handler{Config{Log: log}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if flags == nil {
			flags = map[string]string{}
		}
		if why := auth.Forbidden(r.Context(), acl.ViewFlags, ""); why != "" {
			h.refuse(w, r, "", why)
			return
		}
		h.send(w, r, struct {
			Flags map[string]string `json:"flags"`
		}{flags})
	})
}

// Health answers /health: whoever can is healthy.
func Health() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { httpio.Empty(w, http.StatusOK) })
}

func (h *handler) with(want operator.Want, answer func(http.ResponseWriter, *http.Request, *operator.Picture)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l := h.Leader()
		if l == nil {
			httpio.Error(w, http.StatusServiceUnavailable, "No leader elected")
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
		defer cancel()
		p, err := operator.Collect(ctx, l, h.Machine, want)
		if err != nil {
			if r.Context().Err() != nil {
				return // the caller left
			}
			h.Log.Warn("no picture of the cluster", "path", r.URL.Path, "error", err)
			httpio.Error(w, http.StatusServiceUnavailable, "Failed to look at the cluster: "+err.Error())
			return
		}
		p.For(auth.JudgeOf(r.Context()))
		answer(w, r, p)
	})
}

type build struct {
	Version   string `json:"version"`
	BuildDate string `json:"build_date"`
	BuildTime number `json:"build_time"`
	BuildUser string `json:"build_user"`
	GitSHA    string `json:"git_sha,omitempty"`
	GitBranch string `json:"git_branch,omitempty"`
	GitTag    string `json:"git_tag,omitempty"`
}

func buildOf(v *mesosv1.VersionInfo) build {
	return build{
		Version: v.GetVersion(), BuildDate: v.GetBuildDate(), BuildTime: number(v.GetBuildTime()), BuildUser: v.GetBuildUser(),
		GitSHA: v.GetGitSha(), GitBranch: v.GetGitBranch(), GitTag: v.GetGitTag(),
	}
}

type masterState struct {
	build
	StartTime         number            `json:"start_time"`
	ElectedTime       number            `json:"elected_time"`
	ID                string            `json:"id"`
	PID               string            `json:"pid"`
	Hostname          string            `json:"hostname"`
	Capabilities      []string          `json:"capabilities"`
	ActivatedSlaves   number            `json:"activated_slaves"`
	DeactivatedSlaves number            `json:"deactivated_slaves"`
	UnreachableSlaves number            `json:"unreachable_slaves"`
	Domain            json.RawMessage   `json:"domain,omitempty"`
	Leader            string            `json:"leader"`
	LeaderInfo        leaderInfo        `json:"leader_info"`
	Cluster           string            `json:"cluster,omitempty"`
	Flags             map[string]string `json:"flags"`
	Slaves            []slaveObject     `json:"slaves"`
	RecoveredSlaves   []recoveredObject `json:"recovered_slaves"`
	Frameworks        []frameworkObject `json:"frameworks"`
	Completed         []frameworkObject `json:"completed_frameworks"`
	OrphanTasks       []taskObject      `json:"orphan_tasks"`
	Unregistered      []struct{}        `json:"unregistered_frameworks"`
}

type leaderInfo struct {
	ID       string `json:"id"`
	PID      string `json:"pid"`
	Port     uint32 `json:"port"`
	Hostname string `json:"hostname"`

	Domain json.RawMessage `json:"domain,omitempty"`
}

func (h *handler) state(w http.ResponseWriter, r *http.Request, p *operator.Picture) {
	m := p.Master
	s := masterState{
		build: buildOf(h.Version), StartTime: unix(h.Started), ElectedTime: unix(p.Elected),
		ID: m.GetId(), PID: m.GetPid(), Hostname: m.GetHostname(), Capabilities: []string{},
		UnreachableSlaves: number(len(p.Unreachable)), Leader: m.GetPid(),
		LeaderInfo: leaderInfo{m.GetId(), m.GetPid(), m.GetPort(), m.GetHostname(), raw(m.GetDomain())}, Domain: raw(m.GetDomain()),
		Cluster: h.Cluster, Flags: h.Flags, OrphanTasks: []taskObject{}, Unregistered: []struct{}{},
	}
	for _, c := range m.GetCapabilities() {
		s.Capabilities = append(s.Capabilities, c.GetType().String())
	}
	if s.Flags == nil || auth.Forbidden(r.Context(), acl.ViewFlags, "") != "" {
		s.Flags = map[string]string{}
	}
	for _, a := range p.Agents {
		if a.GetActive() {
			s.ActivatedSlaves++
		} else {
			s.DeactivatedSlaves++
		}
	}
	s.Slaves, s.RecoveredSlaves = agentLists(p, "")
	s.Frameworks, s.Completed = frameworkLists(p, "")
	h.send(w, r, s)
}

func unix(t time.Time) number {
	if t.IsZero() {
		return 0
	}
	return number(float64(t.UnixNano()) / 1e9)
}

func agentLists(p *operator.Picture, only string) ([]slaveObject, []recoveredObject) {
	agents, recovered := []slaveObject{}, []recoveredObject{}
	for _, a := range p.Agents {
		if only == "" || a.GetAgentInfo().GetId().GetValue() == only {
			agents = append(agents, slaveOf(a))
		}
	}
	for _, a := range p.Recovered {
		if only == "" || a.GetId().GetValue() == only {
			recovered = append(recovered, recoveredOf(a))
		}
	}
	return agents, recovered
}

func frameworkLists(p *operator.Picture, only string) (present, completed []frameworkObject) {
	tasks := group(p)
	present, completed = []frameworkObject{}, []frameworkObject{}
	for _, f := range p.Frameworks {
		if only == "" || f.GetFrameworkInfo().GetId().GetValue() == only {
			present = append(present, frameworkOf(f, tasks))
		}
	}
	for _, f := range p.Completed {
		if only == "" || f.GetFrameworkInfo().GetId().GetValue() == only {
			completed = append(completed, frameworkOf(f, tasks))
		}
	}
	return present, completed
}

func (h *handler) slaves(w http.ResponseWriter, r *http.Request, p *operator.Picture) {
	agents, recovered := agentLists(p, r.URL.Query().Get("slave_id"))
	h.send(w, r, struct {
		Slaves    []slaveObject     `json:"slaves"`
		Recovered []recoveredObject `json:"recovered_slaves"`
	}{agents, recovered})
}

func (h *handler) frameworks(w http.ResponseWriter, r *http.Request, p *operator.Picture) {
	present, completed := frameworkLists(p, r.URL.Query().Get("framework_id"))
	h.send(w, r, struct {
		Frameworks   []frameworkObject `json:"frameworks"`
		Completed    []frameworkObject `json:"completed_frameworks"`
		Unregistered []struct{}        `json:"unregistered_frameworks"`
	}{present, completed, []struct{}{}})
}

const defaultTasks = 100

// tasks pages over all tasks; limit -1 is all of them.
func (h *handler) tasks(w http.ResponseWriter, r *http.Request, p *operator.Picture) {
	q := r.URL.Query()
	limit, err := whole(q.Get("limit"), defaultTasks)
	if err == nil && limit < -1 {
		limit = -1
	}
	var offset int
	if err == nil {
		offset, err = whole(q.Get("offset"), 0)
	}
	if err != nil || offset < 0 {
		httpio.Error(w, http.StatusBadRequest, "limit and offset must be whole numbers, offset not negative")
		return
	}
	var all []taskObject
	for _, list := range [][]*mesosv1.Task{p.Tasks, p.TasksUnreachable, p.TasksCompleted} {
		for _, t := range list {
			if wanted(q.Get("framework_id"), t.GetFrameworkId().GetValue()) && wanted(q.Get("task_id"), t.GetTaskId().GetValue()) {
				all = append(all, taskOf(t))
			}
		}
	}
	ascending := q.Get("order") == "asc"
	slices.SortStableFunc(all, func(a, b taskObject) int {
		if ascending {
			return compareTasks(a, b)
		}
		return compareTasks(b, a)
	})
	all = all[min(offset, len(all)):]
	if limit >= 0 {
		all = all[:min(limit, len(all))]
	}
	h.send(w, r, struct {
		Tasks []taskObject `json:"tasks"`
	}{orEmpty(all)})
}

func wanted(filter, value string) bool { return filter == "" || filter == value }

func whole(text string, otherwise int) (int, error) {
	if text == "" {
		return otherwise, nil
	}
	return strconv.Atoi(text)
}

// compareTasks orders by the first status; a task without one is the newest.
func compareTasks(a, b taskObject) int {
	switch {
	case len(a.Statuses) == 0 && len(b.Statuses) == 0:
		return 0
	case len(a.Statuses) == 0:
		return 1
	case len(b.Statuses) == 0:
		return -1
	case a.Statuses[0].Timestamp < b.Statuses[0].Timestamp:
		return -1
	case a.Statuses[0].Timestamp > b.Statuses[0].Timestamp:
		return 1
	}
	return 0
}
