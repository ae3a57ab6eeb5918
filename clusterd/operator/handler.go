package operator

import (
	"fmt"
	"log/slog"
	"net/http"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/clusterd/httpio"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/state"
)

// Config is what the operator API needs.
type Config struct {
	// Leader returns this node's term in office, nil while it does not lead.
	Leader  func() *leader.Leader
	Machine *state.Machine
	Budget  *httpio.Budget
	Version *mesosv1.VersionInfo
	Log     *slog.Logger
}

// Handler answers POST /api/v1 on the leader, for callers that may read.
func Handler(cfg Config) http.Handler { return &handler{cfg} }

type handler struct{ Config }

// answers are the calls that are served; every other one of Mesos 1.11 is 501.
var answers = map[master.Call_Type]func(*handler, *http.Request, *leader.Leader) (*master.Response, error){
	master.Call_GET_HEALTH:     (*handler).health,
	master.Call_GET_VERSION:    (*handler).version,
	master.Call_GET_STATE:      (*handler).state,
	master.Call_GET_AGENTS:     (*handler).agents,
	master.Call_GET_FRAMEWORKS: (*handler).frameworks,
	master.Call_GET_TASKS:      (*handler).tasks,
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l := h.Leader()
	if l == nil {
		httpio.Error(w, http.StatusServiceUnavailable, "No leader elected")
		return
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		httpio.Error(w, http.StatusMethodNotAllowed, "Expecting one of { 'POST' }, but received '"+r.Method+"'")
		return
	}
	call := &master.Call{}
	done, ok := httpio.ReadCall(w, r, h.Budget, "master::Call", call)
	defer done()
	if !ok {
		return
	}
	if call.Type == nil {
		httpio.Error(w, http.StatusBadRequest, "Failed to validate master::Call: Expecting 'type' to be present")
		return
	}
	media, ok := httpio.Negotiate(r)
	if !ok {
		httpio.Error(w, http.StatusNotAcceptable, "Expecting 'Accept' to allow 'application/json' or 'application/x-protobuf'")
		return
	}
	answer, ok := answers[call.GetType()]
	if !ok {
		httpio.Error(w, http.StatusNotImplemented, "The call "+call.GetType().String()+" is not supported yet")
		return
	}
	resp, err := answer(h, r, l)
	if err != nil {
		if r.Context().Err() != nil {
			return // the caller left
		}
		h.Log.Warn("operator call failed", "call", call.GetType().String(), "error", err)
		httpio.Error(w, http.StatusServiceUnavailable, "Failed to answer "+call.GetType().String()+": "+err.Error())
		return
	}
	if err := httpio.Message(w, r, media, resp); err != nil {
		h.Log.Info("operator call not answered in full", "call", call.GetType().String(), "error", err)
	}
}

func (h *handler) health(*http.Request, *leader.Leader) (*master.Response, error) {
	return &master.Response{
		Type: master.Response_GET_HEALTH.Enum(), GetHealth: &master.Response_GetHealth{Healthy: proto.Bool(true)},
	}, nil
}

func (h *handler) version(*http.Request, *leader.Leader) (*master.Response, error) {
	return &master.Response{
		Type: master.Response_GET_VERSION.Enum(), GetVersion: &master.Response_GetVersion{VersionInfo: h.Version},
	}, nil
}

func (h *handler) collect(r *http.Request, l *leader.Leader, want Want) (*Picture, error) {
	p, err := Collect(r.Context(), l, h.Machine, want)
	if err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	return p, nil
}

func (h *handler) state(r *http.Request, l *leader.Leader) (*master.Response, error) {
	p, err := h.collect(r, l, Everything)
	if err != nil {
		return nil, err
	}
	return &master.Response{Type: master.Response_GET_STATE.Enum(), GetState: &master.Response_GetState{
		GetTasks: p.getTasks(), GetExecutors: &master.Response_GetExecutors{}, GetFrameworks: p.getFrameworks(), GetAgents: p.getAgents(),
	}}, nil
}

func (h *handler) agents(r *http.Request, l *leader.Leader) (*master.Response, error) {
	p, err := h.collect(r, l, Want{Agents: true})
	if err != nil {
		return nil, err
	}
	return &master.Response{Type: master.Response_GET_AGENTS.Enum(), GetAgents: p.getAgents()}, nil
}

func (h *handler) frameworks(r *http.Request, l *leader.Leader) (*master.Response, error) {
	p, err := h.collect(r, l, Want{Frameworks: true})
	if err != nil {
		return nil, err
	}
	return &master.Response{Type: master.Response_GET_FRAMEWORKS.Enum(), GetFrameworks: p.getFrameworks()}, nil
}

func (h *handler) tasks(r *http.Request, l *leader.Leader) (*master.Response, error) {
	p, err := h.collect(r, l, Want{Tasks: true})
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
