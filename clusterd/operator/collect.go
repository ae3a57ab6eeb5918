// Package operator is the operator API of a master: one call in, one typed answer out.
//
// Collect takes a picture of the cluster at one moment between two decisions of the
// leader: the records are copied while the leader waits, decoded and worded afterwards, so
// that a long answer to a slow client delays nobody. The legacy face words the same
// picture.
//
// Invariant: what is shown is what the replicated state holds, plus what only this term's
// leader knows (offers, who is connected); nothing is remembered here.
//
// Who may read may not change: each call names the role it needs, and what changes, or is
// refused, is in the log. SUBSCRIBE is a stream of events (events.go). Calls that are not in
// the table of handler.go are answered 501 with a sentence.
package operator

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/offers"
	"github.com/mesolith/mesolith/clusterd/state"
)

// Picture is the cluster at one moment.
type Picture struct {
	Master      *mesosv1.MasterInfo
	Elected     time.Time
	Agents      []*master.Response_GetAgents_Agent // registered and heard of in this term
	Recovered   []*mesosv1.AgentInfo               // known from the log, not heard of yet
	Unreachable []*mesosv1.AgentInfo
	Frameworks  []*master.Response_GetFrameworks_Framework
	Completed   []*master.Response_GetFrameworks_Framework
	Tasks       []*mesosv1.Task
	Executors   []*master.Response_GetExecutors_Executor
	Roles       []Role         // in their order; wants Frameworks, too
	Weights     []state.Weight // that were set, in the roles' order
	Quotas      []state.RoleQuota
	// TasksUnreachable are those on agents that are not heard.
	TasksUnreachable []*mesosv1.Task
	TasksCompleted   []*mesosv1.Task

	users map[string]string // of frameworks, by id; also of those that are over
}

// Want says which parts of a Picture are needed; the rest is left out.
type Want struct{ Agents, Frameworks, Tasks, Executors, Roles bool }

// Everything is the whole picture, without the sums by role.
var Everything = Want{Agents: true, Frameworks: true, Tasks: true, Executors: true}

// rows are the copied records, before they are worded.
type rows struct {
	live       leader.Live
	weights    map[string]float64
	quotas     map[string]state.Quota
	reserved   map[string]state.Resources
	consumed   map[string]map[string]int64 // by role with a quota
	frameworks []frameworkRow
	agents     []agentRow
	tasks      []state.Task
	executors  []state.Task
	ended      []state.Framework
	finished   []state.Task
	gone       map[state.AgentID]bool // unreachable
	users      map[string]string
}

type frameworkRow struct {
	state.Framework
	allocated []allocation
}

type agentRow struct {
	state.Agent
	allocated []allocation
	drained   bool
}

type allocation struct {
	role      string
	resources state.Resources
}

// Collect takes the picture from a term in office.
func Collect(ctx context.Context, l *leader.Leader, m *state.Machine, want Want) (*Picture, error) {
	r := rows{gone: map[state.AgentID]bool{}}
	if err := l.Read(ctx, func(s *state.State, live leader.Live) { r.copy(s, live, want) }); err != nil {
		return nil, fmt.Errorf("look at the cluster: %w", err)
	}
	return picture(&r, m, want)
}

// picture words what was copied, with what is over by now.
func picture(r *rows, m *state.Machine, want Want) (*Picture, error) {
	m.History(func(h state.History) {
		for i := range h.Frameworks {
			r.users[string(h.Frameworks[i].ID)] = h.Frameworks[i].User
		}
		if want.Frameworks {
			r.ended = slices.Clone(h.Frameworks)
		}
		if want.Tasks {
			r.finished = slices.Clone(h.Tasks)
		}
	})
	p := &Picture{Master: r.live.Master, Elected: r.live.Elected, users: r.users}
	if want.Roles {
		p.Roles = rolesOf(r)
	}
	p.Quotas = state.SortedQuotas(r.quotas)
	for _, role := range slices.Sorted(maps.Keys(r.weights)) {
		p.Weights = append(p.Weights, state.Weight{Role: role, Weight: r.weights[role]})
	}
	if err := p.word(r); err != nil {
		return nil, err
	}
	return p, nil
}

func (r *rows) copy(s *state.State, live leader.Live, want Want) {
	r.live, r.weights, r.quotas, r.users = live, s.Weights(), s.Quotas(), usersOf(s)
	for a := range s.Agents() {
		r.gone[a.ID] = a.Unreachable
		if want.Agents {
			r.agents = append(r.agents, agentRow{Agent: *a, allocated: held(s.ContainersOfAgent(a.ID)), drained: s.Drained(a)})
		}
	}
	if want.Roles {
		r.reserved, r.consumed = reserved(s), leader.Consumed(s, r.quotas)
	}
	if want.Frameworks {
		for f := range s.Frameworks() {
			row := frameworkRow{Framework: *f}
			for _, role := range f.AllocatedRoles() {
				row.allocated = append(row.allocated, allocation{role, f.Allocated(role)})
			}
			r.frameworks = append(r.frameworks, row)
		}
	}
	if want.Tasks {
		for t := range s.Tasks() {
			r.tasks = append(r.tasks, *t)
		}
	}
	if want.Executors {
		for t := range s.Executors() {
			r.executors = append(r.executors, *t)
		}
	}
}

// reserved adds up by role what is reserved for it on all agents.
func reserved(s *state.State) map[string]state.Resources {
	out := map[string]state.Resources{}
	for a := range s.Agents() {
		for _, x := range a.Total {
			if x.Role == "" {
				continue
			}
			if sum, err := out[x.Role].Plus(state.Resources{x}); err == nil {
				out[x.Role] = sum
			}
		}
	}
	return out
}

// held adds up by role what tasks hold.
func held(tasks func(func(*state.Task) bool)) []allocation {
	var out []allocation
	for t := range tasks {
		if t.Released {
			continue
		}
		i := slices.IndexFunc(out, func(a allocation) bool { return a.role == t.Role })
		if i < 0 {
			out = append(out, allocation{role: t.Role})
			i = len(out) - 1
		}
		if sum, err := out[i].resources.Join(t.Resources); err == nil {
			out[i].resources = sum
		}
	}
	return out
}

func (p *Picture) word(r *rows) error {
	for i := range r.agents {
		if err := p.addAgent(&r.agents[i], r.live); err != nil {
			return err
		}
	}
	for i := range r.frameworks {
		f, err := wordFramework(&r.frameworks[i], r.live)
		if err != nil {
			return err
		}
		p.Frameworks = append(p.Frameworks, f)
	}
	for i := range r.ended {
		f, err := wordFramework(&frameworkRow{Framework: r.ended[i]}, leader.Live{})
		if err != nil {
			return err
		}
		f.Active, f.Connected, f.Recovered = proto.Bool(false), proto.Bool(false), proto.Bool(false)
		if r.ended[i].DisconnectedNS != 0 {
			f.UnregisteredTime = timeInfo(r.ended[i].DisconnectedNS)
		}
		p.Completed = append(p.Completed, f)
	}
	for i := range r.tasks {
		t, err := wordTask(&r.tasks[i])
		if err != nil {
			return err
		}
		if r.gone[r.tasks[i].AgentID] && !r.tasks[i].State.Terminal() {
			t.State = mesosv1.TaskState_TASK_UNREACHABLE.Enum()
			p.TasksUnreachable = append(p.TasksUnreachable, t)
			continue
		}
		p.Tasks = append(p.Tasks, t)
	}
	for i := range r.executors {
		x, err := wordExecutor(&r.executors[i])
		if err != nil {
			return err
		}
		p.Executors = append(p.Executors, x)
	}
	for i := range r.finished {
		t, err := wordTask(&r.finished[i])
		if err != nil {
			return err
		}
		p.TasksCompleted = append(p.TasksCompleted, t)
	}
	return nil
}

func (p *Picture) addAgent(a *agentRow, live leader.Live) error {
	info := &mesosv1.AgentInfo{}
	if err := decode(a.Info, info); err != nil {
		return fmt.Errorf("agent %s: %w", a.ID, err)
	}
	info.Id = &mesosv1.AgentID{Value: proto.String(string(a.ID))}
	_, attached := live.Attached[a.ID]
	switch {
	case a.Unreachable:
		p.Unreachable = append(p.Unreachable, info)
		return nil
	case !attached:
		p.Recovered = append(p.Recovered, info)
		return nil
	}
	out := &master.Response_GetAgents_Agent{
		AgentInfo: info, Active: proto.Bool(!live.Away[a.ID] && !a.Deactivated), Deactivated: proto.Bool(a.Deactivated), Version: proto.String(leader.Version),
		Pid:            proto.String("slave(1)@" + net.JoinHostPort(a.Address, strconv.Itoa(int(a.Port)))),
		RegisteredTime: timeInfo(a.RegisteredNS),
		TotalResources: leader.ToWire(a.Total, ""),
		Capabilities:   AgentCapabilities(),
	}
	out.DrainInfo, out.EstimatedDrainStartTime = drainInfo(a)
	if a.ReattachedNS != 0 {
		out.ReregisteredTime = timeInfo(a.ReattachedNS)
	}
	for _, al := range a.allocated {
		out.AllocatedResources = append(out.AllocatedResources, leader.ToWire(al.resources, al.role)...)
	}
	for _, o := range live.Offers {
		if o.Agent == a.ID {
			out.OfferedResources = append(out.OfferedResources, leader.ToWire(o.Resources, o.Role)...)
		}
	}
	out.AllocatedResources, out.OfferedResources = Once(out.AllocatedResources), Once(out.OfferedResources)
	p.Agents = append(p.Agents, out)
	return nil
}

// Once leaves each shared volume of one agent in a list once, however many have it.
func Once(list []*mesosv1.Resource) []*mesosv1.Resource {
	seen := map[string]bool{}
	return slices.DeleteFunc(list, func(r *mesosv1.Resource) bool {
		if r.Shared == nil {
			return false
		}
		role := r.GetRole()
		if n := len(r.GetReservations()); n > 0 {
			role = r.GetReservations()[n-1].GetRole()
		}
		key := role + "\x00" + r.GetDisk().GetPersistence().GetId()
		again := seen[key]
		seen[key] = true
		return again
	})
}

// AgentCapabilities are what every agent here understands.
func AgentCapabilities() []*mesosv1.AgentInfo_Capability {
	return []*mesosv1.AgentInfo_Capability{
		{Type: mesosv1.AgentInfo_Capability_MULTI_ROLE.Enum()},
		{Type: mesosv1.AgentInfo_Capability_HIERARCHICAL_ROLE.Enum()},
		{Type: mesosv1.AgentInfo_Capability_RESERVATION_REFINEMENT.Enum()},
		{Type: mesosv1.AgentInfo_Capability_TASK_RESOURCE_LIMITS.Enum()},
	}
}

func wordFramework(f *frameworkRow, live leader.Live) (*master.Response_GetFrameworks_Framework, error) {
	info := &mesosv1.FrameworkInfo{}
	if err := decode(f.Info, info); err != nil {
		return nil, fmt.Errorf("framework %s: %w", f.ID, err)
	}
	info.Id = &mesosv1.FrameworkID{Value: proto.String(string(f.ID))}
	_, connected := live.Connected[f.ID]
	out := &master.Response_GetFrameworks_Framework{
		FrameworkInfo: info, Active: &connected, Connected: &connected,
		// It was connected to an earlier leader and has not come back yet.
		Recovered:      proto.Bool(!connected && f.Connected),
		RegisteredTime: timeInfo(f.RegisteredNS),
	}
	if f.ReregisteredNS != 0 {
		out.ReregisteredTime = timeInfo(f.ReregisteredNS)
	}
	for _, a := range f.allocated {
		out.AllocatedResources = append(out.AllocatedResources, leader.ToWire(a.resources, a.role)...)
	}
	for _, o := range live.Offers {
		if o.Framework == f.ID {
			out.Offers = append(out.Offers, wordOffer(o, live))
			out.OfferedResources = append(out.OfferedResources, leader.ToWire(o.Resources, o.Role)...)
		}
	}
	return out, nil
}

func wordOffer(o offers.Offer, live leader.Live) *mesosv1.Offer {
	return &mesosv1.Offer{
		Id:             &mesosv1.OfferID{Value: proto.String(string(o.ID))},
		FrameworkId:    &mesosv1.FrameworkID{Value: proto.String(string(o.Framework))},
		AgentId:        &mesosv1.AgentID{Value: proto.String(string(o.Agent))},
		Hostname:       proto.String(live.Attached[o.Agent].GetHostname()),
		AllocationInfo: &mesosv1.Resource_AllocationInfo{Role: proto.String(o.Role)},
		Resources:      leader.ToWire(o.Resources, o.Role),
	}
}

func timeInfo(ns int64) *mesosv1.TimeInfo { return &mesosv1.TimeInfo{Nanoseconds: &ns} }

func decode(raw []byte, m proto.Message) error {
	return proto.UnmarshalOptions{AllowPartial: true}.Unmarshal(raw, m)
}
