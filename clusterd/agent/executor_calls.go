package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/executor"
	"github.com/mesolith/mesolith/clusterd/streams"
	"github.com/mesolith/mesolith/clusterd/task"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

// What an executor's call can be refused for.
var (
	ErrExecutorUnknown = errors.New("executor cannot be found")
	ErrNotTheExecutor  = errors.New("the caller is not this executor")
	ErrNotSubscribed   = errors.New("executor is not subscribed")
	ErrRecovering      = errors.New("agent has not finished recovery")
	ErrTooMany         = errors.New("too many updates")
)

// maxPending is how many updates of a task may wait for its framework.
const maxPending = 256

// helloWithin is how long a subscription waits for what the agent must know of the
// executor's container: its program may be quicker than the word that it runs.
const (
	helloWithin = 8 * time.Second
	helloAgain  = 50 * time.Millisecond
)

// Subscribe connects an executor to s, which replaces an older stream of its. What it says
// that it did not hear acknowledged is taken as reported now; what it was not given yet
// follows. Errors: the ones above, wrapped.
func (a *Agent) Subscribe(ctx context.Context, who Caller, call *executor.Call, s *streams.Stream) error {
	for began := time.Now(); ; {
		err := a.inLoop(ctx, func() error { return a.subscribe(who, call, s) })
		if !errors.Is(err, ErrRecovering) || time.Since(began) > helloWithin {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(helloAgain):
		}
	}
}

// Disconnected says that a stream is over.
func (a *Agent) Disconnected(s *streams.Stream) {
	ctx, cancel := context.WithTimeout(context.Background(), helloWithin)
	defer cancel()
	// After the loop's end there is nobody who would want to know.
	_ = a.inLoop(ctx, func() error {
		for id, x := range a.executions {
			if x.stream == s {
				x.stream = nil
				a.log.Info("executor disconnected", "container", id)
			}
		}
		return nil
	})
}

// Do carries out any call but SUBSCRIBE; nil: what it reported is in the journal.
func (a *Agent) Do(ctx context.Context, who Caller, call *executor.Call) error {
	return a.inLoop(ctx, func() error {
		ex, err := a.calling(who, call)
		if err != nil || call.GetType() == executor.Call_HEARTBEAT {
			return err
		}
		x := a.executions[ex.ContainerID]
		if x == nil || x.stream == nil {
			return fmt.Errorf("executor %s of framework %s: %w", ex.Execution.ID, ex.FrameworkID, ErrNotSubscribed)
		}
		switch call.GetType() {
		case executor.Call_UPDATE:
			return a.reported(ex, call.GetUpdate().GetStatus())
		case executor.Call_MESSAGE:
			if a.attached {
				a.leader.send(&agentwire.FromAgent{Body: &agentwire.FromAgent_Message{Message: &agentwire.Message{
					FrameworkId: ex.FrameworkID, ExecutorId: ex.Execution.ID, Data: call.GetMessage().GetData(),
				}}})
			}
		}
		return nil
	})
}

// inLoop has f done by the agent's own goroutine.
func (a *Agent) inLoop(ctx context.Context, f func() error) error {
	answer := make(chan error, 1)
	select {
	case a.asks <- func() { answer <- f() }:
		return <-answer
	case <-ctx.Done():
		return ctx.Err()
	}
}

// calling finds the executor that a call names, and makes sure that it is the caller.
func (a *Agent) calling(who Caller, call *executor.Call) (*task.Task, error) {
	framework, id := call.GetFrameworkId().GetValue(), call.GetExecutorId().GetValue()
	ex := a.executor(framework, id)
	switch {
	case ex == nil && a.keeper == nil:
		return nil, ErrRecovering
	case ex == nil || ex.Execution.Inside: // the built-in one never calls
		return nil, fmt.Errorf("executor %s of framework %s: %w", id, framework, ErrExecutorUnknown)
	}
	return ex, a.identify(who, ex)
}

func (a *Agent) subscribe(who Caller, call *executor.Call, s *streams.Stream) error {
	ex, err := a.calling(who, call)
	if err != nil {
		return err
	}
	x := a.executionOf(ex.ContainerID)
	if x.stream != nil {
		x.stream.Close(nil)
	}
	x.stream, x.known, x.until = s, true, time.Time{}
	info, _ := proto.Clone(a.cfg.Info).(*mesosv1.AgentInfo)
	info.Id = &mesosv1.AgentID{Value: proto.String(a.id)}
	framework, _ := proto.Clone(ex.Framework).(*mesosv1.FrameworkInfo)
	framework.Id = &mesosv1.FrameworkID{Value: proto.String(ex.FrameworkID)}
	about, _ := proto.Clone(ex.Execution.Info).(*mesosv1.ExecutorInfo)
	about.FrameworkId = framework.GetId()
	s.Send(streams.NewEvent(&executor.Event{Type: executor.Event_SUBSCRIBED.Enum(), Subscribed: &executor.Event_Subscribed{
		ExecutorInfo: about, FrameworkInfo: framework, AgentInfo: info, ContainerId: &mesosv1.ContainerID{Value: proto.String(ex.ContainerID)},
	}}))
	a.log.Info("executor subscribed", "container", ex.ContainerID, "executor", ex.Execution.ID, "framework", ex.FrameworkID)
	for _, u := range call.GetSubscribe().GetUnacknowledgedUpdates() {
		if err := a.reported(ex, u.GetStatus()); err != nil && !errors.Is(err, ErrTooMany) {
			return err
		}
	}
	has := map[string]bool{}
	for _, t := range call.GetSubscribe().GetUnacknowledgedTasks() {
		has[t.GetTaskId().GetValue()] = true
	}
	tasks := a.tasksOf(ex.ContainerID)
	for _, t := range tasks {
		*t = presumed(*t, has[t.Info.GetTaskId().GetValue()]) // so that a group is known as a whole
	}
	for _, t := range tasks {
		if err := a.happen(t, task.Subscribed{Stamp: stamp(), Has: has[t.Info.GetTaskId().GetValue()]}); err != nil {
			return err
		}
	}
	if err := a.endBroken(tasks); err != nil {
		return err
	}
	if ex.KillRequested {
		a.endExecutor(ex, ex.KillGrace)
	}
	return nil
}

// presumed is a task of which its executor says whether it has it.
func presumed(t task.Task, has bool) task.Task {
	if !has && t.Latest == mesosv1.TaskState_TASK_STAGING {
		t.Given = task.NotGiven
	}
	return t
}

// reported writes down what an executor says of a task, then tells it that this is done.
func (a *Agent) reported(ex *task.Task, st *mesosv1.TaskStatus) error {
	if len(st.GetUuid()) != 16 {
		return nil // the door lets none such in; one that was not acknowledged is skipped
	}
	var of *task.Task
	for _, t := range a.tasksOf(ex.ContainerID) {
		if t.Info.GetTaskId().GetValue() == st.GetTaskId().GetValue() {
			of = t // the newest of its name
		}
	}
	if of == nil {
		a.log.Warn("an executor reports of a task that it was not given; the update is dropped", "container", ex.ContainerID, "executor", ex.Execution.ID, "task", st.GetTaskId().GetValue(), "state", st.GetState().String())
	} else {
		if len(of.Pending) >= maxPending && !task.IsTerminal(st.GetState()) {
			return fmt.Errorf("task %s has %d updates that its framework has not acknowledged, and takes no more until it has: %w", st.GetTaskId().GetValue(), len(of.Pending), ErrTooMany)
		}
		of.Container = ex.Container
		if err := a.happen(of, task.Reported{Stamp: stamp(), Status: st}); err != nil {
			return err
		}
		a.resize(ex)
	}
	if x := a.executions[ex.ContainerID]; x != nil && x.stream != nil {
		x.stream.Send(streams.NewEvent(&executor.Event{Type: executor.Event_ACKNOWLEDGED.Enum(), Acknowledged: &executor.Event_Acknowledged{
			TaskId: st.GetTaskId(), Uuid: st.GetUuid(),
		}}))
	}
	return nil
}
