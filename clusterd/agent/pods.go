package agent

import (
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/task"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

// The built-in executor (ExecutorInfo.type DEFAULT) runs task groups as pods: its container
// holds the network, the users and the limits, each task has a container inside of it, and
// what the executor would decide the agent does. A group lives and dies together: when one
// of its tasks fails or is killed, the others are killed; one that finishes well leaves the
// others alone. When nothing is left to run, the executor is over.

// podCommand is what runs in a pod's own container: nothing, until it is ended.
const podCommand = "exec sleep 2147483647"

func builtIn(x *mesosv1.ExecutorInfo) bool { return x.GetType() == mesosv1.ExecutorInfo_DEFAULT }

// runs says whether a container runs, as far as the keeper told.
func (a *Agent) runs(container string) bool {
	t := a.tasks[container]
	return t != nil && t.Container.GetPhase() == keeper.Container_RUNNING && !t.Terminal()
}

// launchInside adds to a task's launch that it is inside of a pod.
func (a *Agent) launchInside(t *task.Task, l *keeper.Launch) {
	l.ExecutorId, l.Parent = t.Execution.ID, t.Execution.Container
	linux := t.Info.GetContainer().GetLinuxInfo()
	l.ShareCgroups = linux == nil || linux.GetShareCgroups()
	pod := a.tasks[t.Execution.Container]
	if pod == nil {
		return
	}
	l.HostNetwork = pod.HostNetwork
	ip := a.cfg.Address
	if ips := pod.Container.GetIpAddresses(); len(ips) > 0 {
		ip = ips[0]
	}
	l.Env = append(l.Env, &keeper.Variable{Name: "MESOS_CONTAINER_IP", Value: ip})
}

// afterObserved does what follows from a container's change for others than itself.
func (a *Agent) afterObserved(t *task.Task) error {
	switch {
	case t.Executes():
		a.resize(t)
		if t.Execution.Inside && a.runs(t.ContainerID) {
			return a.fillPod(t)
		}
	case t.Inside() && t.Terminal():
		if t.Latest != mesosv1.TaskState_TASK_FINISHED {
			if err := a.killRest(t); err != nil {
				return err
			}
		}
		if pod := a.tasks[t.Execution.Container]; pod != nil && !pod.Terminal() {
			a.resize(pod)
			return a.watchPod(pod)
		}
	}
	return nil
}

// fillPod begins what waits for a pod.
func (a *Agent) fillPod(pod *task.Task) error {
	for _, t := range live(a.tasksOf(pod.ContainerID)) {
		for _, act := range task.Resume(*t) {
			if _, launch := act.(task.Launch); launch {
				a.do(t, act)
			}
		}
	}
	return nil
}

// killRest ends the rest of a group of which one failed or was killed.
func (a *Agent) killRest(t *task.Task) error {
	for _, id := range t.Execution.Group {
		other := a.tasks[id]
		if other == nil || other == t || other.Terminal() || other.KillRequested {
			continue
		}
		if err := a.happen(other, task.Kill{Stamp: stamp(), Grace: -1}); err != nil {
			return err
		}
	}
	return nil
}

// endPod ends the tasks of a pod, each within its own grace and at most this one; the pod
// itself goes when they have.
func (a *Agent) endPod(pod *task.Task, grace time.Duration) {
	tasks := live(a.tasksOf(pod.ContainerID))
	for _, t := range tasks {
		if !t.KillRequested {
			// What cannot be written down now is killed with the pod, in time.
			if err := a.happen(t, task.Kill{Stamp: stamp(), Grace: min(grace, killGrace(t.Info))}); err != nil {
				a.log.Error("a task of a pod cannot be killed by itself", "container", t.ContainerID, "error", err)
			}
		}
	}
	x := a.executionOf(pod.ContainerID)
	if len(tasks) == 0 || grace <= 0 {
		a.killContainer(pod, 0)
		return
	}
	if at := time.Now().Add(grace); x.shutdown.IsZero() || at.Before(x.shutdown) {
		x.shutdown = at
	}
}

// killGrace is how long a task says that it may take to end.
func killGrace(info *mesosv1.TaskInfo) time.Duration {
	if g := info.GetKillPolicy().GetGracePeriod(); g != nil && g.GetNanoseconds() >= 0 {
		return time.Duration(g.GetNanoseconds())
	}
	return task.DefaultGrace
}

// watchPod ends a pod in which nothing runs any more, and one whose end is due.
func (a *Agent) watchPod(pod *task.Task) error {
	x := a.executionOf(pod.ContainerID)
	left := len(live(a.tasksOf(pod.ContainerID)))
	switch {
	case !x.shutdown.IsZero() && (left == 0 || time.Now().After(x.shutdown)):
		x.shutdown = time.Time{}
		a.killContainer(pod, 0)
	case x.had && left == 0 && !pod.KillRequested:
		return a.happen(pod, task.Kill{Stamp: stamp(), Grace: 0})
	}
	return nil
}

// podInfo is the built-in executor in the words of who runs containers.
func podInfo(info *mesosv1.ExecutorInfo) *mesosv1.CommandInfo {
	if !builtIn(info) {
		return info.GetCommand()
	}
	return &mesosv1.CommandInfo{Value: proto.String(podCommand)}
}
