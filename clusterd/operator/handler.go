package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/clusterd/auth"
	"github.com/mesolith/mesolith/clusterd/files"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/nodedoc"
)

// Config is what the operator API needs.
type Config struct {
	// Leader returns this node's term in office, nil while it does not lead.
	Leader  func() *leader.Leader
	Machine *state.Machine
	Budget  *httpio.Budget
	Version *mesosv1.VersionInfo
	Flags   map[string]string
	Started time.Time
	// Measure gathers this node's metrics by name.
	Measure func(context.Context) map[string]float64
	Files   files.Config
	Logging *Logging
	Log     *slog.Logger
}

// Handler answers POST /api/v1 on the leader. It expects a caller that auth.Guard has let
// in as a reader; what changes something asks for more.
func Handler(cfg Config) http.Handler { return &handler{Config: cfg} }

type handler struct {
	Config
	subscribers subscribers
}

// call is one request to answer.
type call struct {
	*http.Request
	*master.Call
	leader *leader.Leader
	from   auth.Principal
}

// answerer is how a call is answered; a Response of nil is a status without a body, 202 with
// the error accepted.
type answerer struct {
	role   string // who may
	needs  string // the sub-message that must be there, with its presence below
	has    func(*master.Call) bool
	answer func(*handler, *call) (*master.Response, error)
}

// answers are the calls that are served, besides SUBSCRIBE.
var answers = map[master.Call_Type]answerer{
	master.Call_GET_HEALTH:                  {role: nodedoc.RoleReader, answer: (*handler).health},
	master.Call_GET_VERSION:                 {role: nodedoc.RoleReader, answer: (*handler).version},
	master.Call_GET_FLAGS:                   {role: nodedoc.RoleReader, answer: (*handler).flags},
	master.Call_GET_METRICS:                 {role: nodedoc.RoleReader, needs: "get_metrics", has: func(c *master.Call) bool { return c.GetMetrics != nil }, answer: (*handler).metrics},
	master.Call_GET_MASTER:                  {role: nodedoc.RoleReader, answer: (*handler).master},
	master.Call_GET_STATE:                   {role: nodedoc.RoleReader, answer: (*handler).state},
	master.Call_GET_AGENTS:                  {role: nodedoc.RoleReader, answer: (*handler).agents},
	master.Call_GET_FRAMEWORKS:              {role: nodedoc.RoleReader, answer: (*handler).frameworks},
	master.Call_GET_EXECUTORS:               {role: nodedoc.RoleReader, answer: (*handler).executors},
	master.Call_GET_OPERATIONS:              {role: nodedoc.RoleReader, answer: (*handler).operations},
	master.Call_GET_TASKS:                   {role: nodedoc.RoleReader, answer: (*handler).tasks},
	master.Call_GET_ROLES:                   {role: nodedoc.RoleReader, answer: (*handler).roles},
	master.Call_GET_WEIGHTS:                 {role: nodedoc.RoleReader, answer: (*handler).weights},
	master.Call_UPDATE_WEIGHTS:              {role: nodedoc.RoleOperator, needs: "update_weights", has: func(c *master.Call) bool { return c.UpdateWeights != nil }, answer: (*handler).updateWeights},
	master.Call_GET_QUOTA:                   {role: nodedoc.RoleReader, answer: (*handler).quota},
	master.Call_UPDATE_QUOTA:                {role: nodedoc.RoleOperator, needs: "update_quota", has: func(c *master.Call) bool { return c.UpdateQuota != nil }, answer: (*handler).updateQuota},
	master.Call_SET_QUOTA:                   {role: nodedoc.RoleOperator, needs: "set_quota", has: func(c *master.Call) bool { return c.SetQuota != nil }, answer: (*handler).setQuota},
	master.Call_REMOVE_QUOTA:                {role: nodedoc.RoleOperator, needs: "remove_quota", has: func(c *master.Call) bool { return c.RemoveQuota != nil }, answer: (*handler).removeQuota},
	master.Call_DEACTIVATE_AGENT:            {role: nodedoc.RoleOperator, needs: "deactivate_agent", has: func(c *master.Call) bool { return c.DeactivateAgent != nil }, answer: (*handler).deactivateAgent},
	master.Call_REACTIVATE_AGENT:            {role: nodedoc.RoleOperator, needs: "reactivate_agent", has: func(c *master.Call) bool { return c.ReactivateAgent != nil }, answer: (*handler).reactivateAgent},
	master.Call_DRAIN_AGENT:                 {role: nodedoc.RoleOperator, needs: "drain_agent", has: func(c *master.Call) bool { return c.DrainAgent != nil }, answer: (*handler).drainAgent},
	master.Call_MARK_AGENT_GONE:             {role: nodedoc.RoleOperator, needs: "mark_agent_gone", has: func(c *master.Call) bool { return c.MarkAgentGone != nil }, answer: (*handler).markAgentGone},
	master.Call_RESERVE_RESOURCES:           {role: nodedoc.RoleOperator, needs: "reserve_resources", has: func(c *master.Call) bool { return c.ReserveResources != nil }, answer: (*handler).convert},
	master.Call_UNRESERVE_RESOURCES:         {role: nodedoc.RoleOperator, needs: "unreserve_resources", has: func(c *master.Call) bool { return c.UnreserveResources != nil }, answer: (*handler).convert},
	master.Call_CREATE_VOLUMES:              {role: nodedoc.RoleOperator, needs: "create_volumes", has: func(c *master.Call) bool { return c.CreateVolumes != nil }, answer: (*handler).convert},
	master.Call_DESTROY_VOLUMES:             {role: nodedoc.RoleOperator, needs: "destroy_volumes", has: func(c *master.Call) bool { return c.DestroyVolumes != nil }, answer: (*handler).convert},
	master.Call_GROW_VOLUME:                 {role: nodedoc.RoleOperator, needs: "grow_volume", has: func(c *master.Call) bool { return c.GrowVolume != nil }, answer: (*handler).convert},
	master.Call_SHRINK_VOLUME:               {role: nodedoc.RoleOperator, needs: "shrink_volume", has: func(c *master.Call) bool { return c.ShrinkVolume != nil }, answer: (*handler).convert},
	master.Call_GET_MAINTENANCE_STATUS:      {role: nodedoc.RoleReader, answer: (*handler).maintenanceStatus},
	master.Call_GET_MAINTENANCE_SCHEDULE:    {role: nodedoc.RoleReader, answer: (*handler).schedule},
	master.Call_UPDATE_MAINTENANCE_SCHEDULE: {role: nodedoc.RoleOperator, needs: "update_maintenance_schedule", has: func(c *master.Call) bool { return c.UpdateMaintenanceSchedule != nil }, answer: (*handler).updateSchedule},
	master.Call_START_MAINTENANCE:           {role: nodedoc.RoleOperator, needs: "start_maintenance", has: func(c *master.Call) bool { return c.StartMaintenance != nil }, answer: (*handler).startMaintenance},
	master.Call_STOP_MAINTENANCE:            {role: nodedoc.RoleOperator, needs: "stop_maintenance", has: func(c *master.Call) bool { return c.StopMaintenance != nil }, answer: (*handler).stopMaintenance},
	master.Call_GET_LOGGING_LEVEL:           {role: nodedoc.RoleReader, answer: (*handler).loggingLevel},
	master.Call_SET_LOGGING_LEVEL:           {role: nodedoc.RoleOperator, needs: "set_logging_level", has: func(c *master.Call) bool { return c.SetLoggingLevel != nil }, answer: (*handler).setLoggingLevel},
	master.Call_LIST_FILES:                  {role: nodedoc.RoleReader, needs: "list_files", has: func(c *master.Call) bool { return c.ListFiles != nil }, answer: (*handler).listFiles},
	master.Call_READ_FILE:                   {role: nodedoc.RoleReader, needs: "read_file", has: func(c *master.Call) bool { return c.ReadFile != nil }, answer: (*handler).readFile},
	master.Call_TEARDOWN:                    {role: nodedoc.RoleOperator, needs: "teardown", has: func(c *master.Call) bool { return c.Teardown != nil }, answer: (*handler).teardown},
}

// refusal is an answer that is no success: a status and a sentence.
type refusal struct {
	status int
	text   string
}

func (r refusal) Error() string { return r.text }

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l := h.Leader()
	if l == nil {
		httpio.Error(w, http.StatusServiceUnavailable, "No leader elected")
		return
	}
	if r.Method != http.MethodPost {
		httpio.NotAllowed(w, r, http.MethodPost)
		return
	}
	c := &call{Request: r, Call: &master.Call{}, leader: l, from: auth.PrincipalOf(r.Context())}
	done, ok := httpio.ReadCall(w, r, h.Budget, "master::Call", c.Call)
	done = sync.OnceFunc(done)
	defer done()
	if !ok {
		return
	}
	kind, known := answers[c.GetType()]
	switch {
	case c.Call.Type == nil:
		httpio.Error(w, http.StatusBadRequest, "Failed to validate master::Call: Expecting 'type' to be present")
		return
	case kind.has != nil && !kind.has(c.Call):
		httpio.Error(w, http.StatusBadRequest, "Failed to validate master::Call: Expecting '"+kind.needs+"' to be present")
		return
	}
	media, ok := httpio.Negotiate(r)
	if !ok {
		httpio.Error(w, http.StatusNotAcceptable, "Expecting 'Accept' to allow 'application/json' or 'application/x-protobuf'")
		return
	}
	switch {
	case c.GetType() == master.Call_SUBSCRIBE:
		done() // a stream lasts
		h.subscribe(w, c, media)
		return
	case !known:
		httpio.Error(w, http.StatusNotImplemented, "The call "+c.GetType().String()+" is not supported yet")
		return
	}
	why := ""
	if !c.from.May(kind.role) {
		why = "The call " + c.GetType().String() + " needs the role '" + kind.role + "', and " + c.from.String() + " does not have it"
	} else {
		why = h.forbidden(c)
	}
	if why != "" {
		h.send(w, c, media, nil, refuse(c.Context(), c.GetType().String(), object(c), why))
		return
	}
	resp, err := kind.answer(h, c)
	if kind.role != nodedoc.RoleReader {
		audit(c.Context(), c.GetType().String(), object(c), err)
	}
	h.send(w, c, media, resp, err)
}

// audit writes down who changed what, or tried to.
func audit(ctx context.Context, call, object string, err error) {
	var r refusal
	switch {
	case errors.As(err, &r) && r.status == http.StatusForbidden:
		auth.Refused(ctx, call, object, r.text)
	case err == (accepted{}):
		auth.Changed(ctx, call, object, "done")
	default:
		auth.Changed(ctx, call, object, auth.Outcome(err))
	}
}

// object is what a call is about, in one line.
func object(c *call) string {
	object := c.Call.GetTeardown().GetFrameworkId().GetValue()
	agent, operated := converting(c.Call)
	switch {
	case c.Call.DeactivateAgent != nil:
		object = c.Call.GetDeactivateAgent().GetAgentId().GetValue()
	case c.Call.ReactivateAgent != nil:
		object = c.Call.GetReactivateAgent().GetAgentId().GetValue()
	case c.Call.DrainAgent != nil:
		object = c.Call.GetDrainAgent().GetAgentId().GetValue()
	case c.Call.MarkAgentGone != nil:
		object = c.Call.GetMarkAgentGone().GetAgentId().GetValue()
	case c.Call.UpdateWeights != nil:
		object = Weighed(weightsOf(c.Call.GetUpdateWeights().GetWeightInfos()))
	case c.Call.UpdateQuota != nil:
		object = string(mesosjson.Marshal(c.Call.GetUpdateQuota()))
	case c.Call.SetQuota != nil:
		object = string(mesosjson.Marshal(c.Call.GetSetQuota()))
	case c.Call.UpdateMaintenanceSchedule != nil:
		object = string(mesosjson.Marshal(c.Call.GetUpdateMaintenanceSchedule()))
	case c.Call.StartMaintenance != nil:
		object = string(mesosjson.Marshal(c.Call.GetStartMaintenance()))
	case c.Call.StopMaintenance != nil:
		object = string(mesosjson.Marshal(c.Call.GetStopMaintenance()))
	case operated != nil:
		object = agent + " " + string(mesosjson.Marshal(operated))
	case c.Call.RemoveQuota != nil:
		object = c.Call.GetRemoveQuota().GetRole()
	}
	return object
}

func (h *handler) send(w http.ResponseWriter, c *call, media string, resp *master.Response, err error) {
	var refused refusal
	switch {
	case err == (accepted{}):
		httpio.Empty(w, http.StatusAccepted)
		return
	case errors.As(err, &refused):
		httpio.Error(w, refused.status, refused.text)
		return
	case err != nil && c.Context().Err() != nil:
		return // the caller left
	case err != nil:
		h.Log.Warn("operator call failed", "call", c.GetType().String(), "error", err)
		httpio.Error(w, http.StatusServiceUnavailable, "Failed to answer "+c.GetType().String()+": "+err.Error())
		return
	case resp == nil:
		httpio.Empty(w, http.StatusOK)
		return
	}
	if err := httpio.Message(w, c.Request, media, resp); err != nil {
		h.Log.Info("operator call not answered in full", "call", c.GetType().String(), "error", err)
	}
}

func (h *handler) health(*call) (*master.Response, error) {
	return &master.Response{
		Type: master.Response_GET_HEALTH.Enum(), GetHealth: &master.Response_GetHealth{Healthy: proto.Bool(true)},
	}, nil
}

func (h *handler) version(*call) (*master.Response, error) {
	return &master.Response{
		Type: master.Response_GET_VERSION.Enum(), GetVersion: &master.Response_GetVersion{VersionInfo: h.Version},
	}, nil
}

func (h *handler) collect(c *call, want Want) (*Picture, error) {
	p, err := Collect(c.Context(), c.leader, h.Machine, want)
	if err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	p.For(auth.JudgeOf(c.Context()))
	return p, nil
}

func (h *handler) state(c *call) (*master.Response, error) {
	p, err := h.collect(c, Everything)
	if err != nil {
		return nil, err
	}
	return &master.Response{Type: master.Response_GET_STATE.Enum(), GetState: p.getState()}, nil
}

func (p *Picture) getState() *master.Response_GetState {
	return &master.Response_GetState{
		GetTasks: p.getTasks(), GetExecutors: p.getExecutors(), GetFrameworks: p.getFrameworks(), GetAgents: p.getAgents(),
	}
}

func (h *handler) agents(c *call) (*master.Response, error) {
	p, err := h.collect(c, Want{Agents: true})
	if err != nil {
		return nil, err
	}
	return &master.Response{Type: master.Response_GET_AGENTS.Enum(), GetAgents: p.getAgents()}, nil
}

func (h *handler) frameworks(c *call) (*master.Response, error) {
	p, err := h.collect(c, Want{Frameworks: true})
	if err != nil {
		return nil, err
	}
	return &master.Response{Type: master.Response_GET_FRAMEWORKS.Enum(), GetFrameworks: p.getFrameworks()}, nil
}

func (h *handler) tasks(c *call) (*master.Response, error) {
	p, err := h.collect(c, Want{Tasks: true})
	if err != nil {
		return nil, err
	}
	return &master.Response{Type: master.Response_GET_TASKS.Enum(), GetTasks: p.getTasks()}, nil
}

func (p *Picture) getAgents() *master.Response_GetAgents {
	return &master.Response_GetAgents{Agents: p.Agents, RecoveredAgents: p.Recovered}
}

func (p *Picture) getFrameworks() *master.Response_GetFrameworks {
	return &master.Response_GetFrameworks{Frameworks: p.Frameworks, CompletedFrameworks: p.Completed}
}

func (p *Picture) getTasks() *master.Response_GetTasks {
	return &master.Response_GetTasks{Tasks: p.Tasks, UnreachableTasks: p.TasksUnreachable, CompletedTasks: p.TasksCompleted}
}
