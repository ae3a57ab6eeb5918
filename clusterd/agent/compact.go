package agent

import (
	"fmt"
	"slices"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/agent/journal"
	"github.com/mesolith/mesolith/clusterd/task"
	"google.golang.org/protobuf/proto"
)

// currentRecords gives records that, replayed, make the tasks what they are now. An
// acknowledged update is kept in so far as it is the task's latest state.
func (a *Agent) currentRecords() ([]*journal.Record, error) {
	var out []*journal.Record
	for _, id := range a.order {
		t := a.tasks[id]
		if !t.Tombstone {
			l, err := launchedRecord(t)
			if err != nil {
				return nil, err
			}
			out = append(out, l)
		}
		if t.KillRequested {
			out = append(out, &journal.Record{Body: &journal.Record_KillAsked{KillAsked: &journal.KillAsked{
				ContainerId: id, FrameworkId: t.FrameworkID, TaskId: t.Info.GetTaskId().GetValue(), GraceNs: int64(t.KillGrace), Drain: uint32(t.Drain),
			}}})
		}
		out = append(out, updateRecords(t)...)
	}
	return out, nil
}

func launchedRecord(t *task.Task) (*journal.Record, error) {
	var what proto.Message = t.Info
	if t.Executes() {
		what = t.Execution.Info
	}
	info, err := proto.MarshalOptions{AllowPartial: true}.Marshal(what)
	if err != nil {
		return nil, fmt.Errorf("encode TaskInfo of %s: %w", t.ContainerID, err)
	}
	framework, err := proto.MarshalOptions{AllowPartial: true}.Marshal(t.Framework)
	if err != nil {
		return nil, fmt.Errorf("encode FrameworkInfo of %s: %w", t.ContainerID, err)
	}
	return &journal.Record{Body: &journal.Record_Launched{Launched: &journal.Launched{
		ContainerId: t.ContainerID, FrameworkId: t.FrameworkID, Role: t.Role, HostNetwork: t.HostNetwork, TaskInfo: info, FrameworkInfo: framework, UserId: t.UserID,
		ExecutorId: t.Execution.ID, ExecutorContainer: t.Execution.Container, Group: t.Execution.Group,
	}}}, nil
}

func updateRecords(t *task.Task) []*journal.Record {
	var out []*journal.Record
	updated := func(status []byte) {
		out = append(out, &journal.Record{Body: &journal.Record_Updated{Updated: &journal.Updated{ContainerId: t.ContainerID, Status: status}}})
	}
	for _, uuid := range acknowledged(t) {
		// The executor may repeat these: they have to be known again.
		status, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.TaskStatus{TaskId: t.Info.GetTaskId(), State: stateBefore(t).Enum(), Uuid: uuid[:]})
		if err == nil {
			updated(status)
			out = append(out, &journal.Record{Body: &journal.Record_Acknowledged{Acknowledged: &journal.Acknowledged{ContainerId: t.ContainerID, Uuid: uuid[:]}}})
		}
	}
	if len(t.Pending) == 0 && t.Latest != mesosv1.TaskState_TASK_STAGING {
		// Stands for all that were acknowledged: it only has to say the state and what checks found.
		uuid := make([]byte, 16)
		status, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.TaskStatus{TaskId: t.Info.GetTaskId(), State: t.Latest.Enum(), Uuid: uuid, Healthy: t.Checked.Healthy, CheckStatus: t.Checked.CheckStatus})
		if err == nil {
			updated(status)
			out = append(out, &journal.Record{Body: &journal.Record_Acknowledged{Acknowledged: &journal.Acknowledged{ContainerId: t.ContainerID, Uuid: uuid}}})
		}
	}
	for _, u := range t.Pending {
		updated(u.Status)
	}
	return out
}

// acknowledged are those of an executor's updates that are remembered and not pending.
func acknowledged(t *task.Task) [][16]byte {
	var out [][16]byte
	for _, uuid := range t.Heard {
		if !slices.ContainsFunc(t.Pending, func(u task.Update) bool { return u.UUID == uuid }) {
			out = append(out, uuid)
		}
	}
	return out
}

// stateBefore is one in which a task was before its pending updates.
func stateBefore(t *task.Task) mesosv1.TaskState {
	if len(t.Pending) == 0 {
		return t.Latest
	}
	return mesosv1.TaskState_TASK_RUNNING
}
