package operator

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/master"
	"github.com/mesolith/mesolith/clusterd/leader"
	"github.com/mesolith/mesolith/clusterd/secrets"
	"github.com/mesolith/mesolith/clusterd/state"
)

func wordTask(t *state.Task) (*mesosv1.Task, error) {
	info := &mesosv1.TaskInfo{}
	if err := decode(t.Info, info); err != nil {
		return nil, fmt.Errorf("task %s: %w", t.TaskID, err)
	}
	out := &mesosv1.Task{
		Name:        proto.String(t.Name),
		TaskId:      &mesosv1.TaskID{Value: proto.String(string(t.TaskID))},
		FrameworkId: &mesosv1.FrameworkID{Value: proto.String(string(t.FrameworkID))},
		AgentId:     &mesosv1.AgentID{Value: proto.String(string(t.AgentID))},
		State:       mesosv1.TaskState(t.State).Enum(),
		Resources:   leader.ToWire(t.Resources, t.Role),
		Labels:      info.Labels,
		Discovery:   info.Discovery,
		Container:   secrets.Without(info.GetContainer()),
		HealthCheck: info.HealthCheck,
		KillPolicy:  info.KillPolicy,
		Limits:      info.Limits,
	}
	for _, c := range []*mesosv1.CommandInfo{info.GetExecutor().GetCommand(), info.GetCommand()} {
		if c != nil && c.User != nil {
			out.User = c.User
		}
	}
	if info.GetExecutor() != nil {
		out.ExecutorId = info.GetExecutor().ExecutorId
	}
	for _, s := range t.Statuses {
		out.Statuses = append(out.Statuses, wordStatus(t, s))
	}
	if t.Answered() {
		out.StatusUpdateState = mesosv1.TaskState(t.Newest.State).Enum()
		out.StatusUpdateUuid = t.UUID
	}
	return out, nil
}

func wordExecutor(t *state.Task) (*master.Response_GetExecutors_Executor, error) {
	info := &mesosv1.ExecutorInfo{}
	if err := decode(t.Info, info); err != nil {
		return nil, fmt.Errorf("executor %s: %w", t.Execution.ID, err)
	}
	return &master.Response_GetExecutors_Executor{ExecutorInfo: secrets.Without(info), AgentId: &mesosv1.AgentID{Value: proto.String(string(t.AgentID))}}, nil
}

func wordStatus(t *state.Task, s state.Status) *mesosv1.TaskStatus {
	w := &mesosv1.TaskStatus{}
	reported := len(s.Wire) > 0 && decode(s.Wire, w) == nil
	if !reported {
		w = &mesosv1.TaskStatus{
			Source:    mesosv1.TaskStatus_Source(s.Source).Enum(),
			Timestamp: proto.Float64(float64(s.TimeNS) / 1e9),
			AgentId:   &mesosv1.AgentID{Value: proto.String(string(t.AgentID))},
		}
		if s.Reason != state.NoReason {
			w.Reason = mesosv1.TaskStatus_Reason(s.Reason).Enum()
		}
		if s.Message != "" {
			w.Message = proto.String(s.Message)
		}
		if s.Unreached != 0 {
			w.UnreachableTime = timeInfo(s.Unreached)
		}
	}
	w.TaskId = &mesosv1.TaskID{Value: proto.String(string(t.TaskID))}
	w.State = mesosv1.TaskState(s.State).Enum()
	return w
}
