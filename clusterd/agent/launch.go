package agent

import (
	"fmt"
	"math"
	"strconv"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/task"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

// Port is the agent's API port, as in every Mesos cluster.
const Port = 5051

// launchRequest words a task for the keeper: what is asked of the kernel in the
// kernel's units, and the environment that programs written for Mesos expect.
func (a *Agent) launchRequest(t *task.Task) *keeper.Launch {
	id := t.Info.GetTaskId().GetValue()
	l := &keeper.Launch{
		ContainerId: t.ContainerID, AgentId: a.id, FrameworkId: t.FrameworkID, ExecutorId: id, TaskId: id,
		User: t.User, UserId: t.UserID, Role: t.Role, HostNetwork: t.HostNetwork, Height: a.height, Term: a.term,
	}
	info, err := proto.MarshalOptions{AllowPartial: true, Deterministic: true}.Marshal(t.Info)
	if err != nil {
		a.log.Error("task cannot be encoded", "container", t.ContainerID, "error", err)
	}
	l.TaskInfo = info
	switch {
	case t.Executes():
		a.launchExecutor(t, l)
	case t.Inside():
		a.launchInside(t, l)
	}
	if l.FrameworkInfo, err = (proto.MarshalOptions{AllowPartial: true, Deterministic: true}).Marshal(t.Framework); err != nil {
		a.log.Error("framework cannot be encoded", "container", t.ContainerID, "error", err)
	}
	if !t.Executes() {
		for _, r := range t.Info.GetResources() {
			addResource(l, r)
		}
	}
	if v, ok := t.Info.GetLimits()["cpus"]; ok {
		l.CpuLimitMillis = limit(v.GetValue(), 1000)
		if l.CpuLimitMillis == math.MaxUint64 {
			l.CpuLimitMillis = 0 // none
		}
	}
	if v, ok := t.Info.GetLimits()["mem"]; ok {
		l.MemoryLimitBytes = limit(v.GetValue(), 1<<20)
	}
	l.Env = a.environment(t)
	return l
}

func limit(v, unit float64) uint64 {
	if math.IsInf(v, 1) || v*unit >= math.MaxUint64 {
		return math.MaxUint64
	}
	return uint64(math.Round(v * unit))
}

// revocableWeight is what a CPU that may be taken back weighs against another, as in Mesos.
const revocableWeight = 10. / 1024

func addResource(l *keeper.Launch, r *mesosv1.Resource) {
	v := r.GetScalar().GetValue()
	switch r.GetName() {
	case "cpus":
		if r.Revocable != nil {
			v *= revocableWeight // it is more than there is: others come first
		}
		l.CpuMillis += uint64(math.Round(v * 1000))
	case "mem":
		l.MemoryBytes += uint64(math.Round(v * (1 << 20)))
	case "disk":
		if r.GetDisk().GetPersistence() != nil {
			return // it is no part of the sandbox's
		}
		l.DiskBytes += uint64(math.Round(v * (1 << 20)))
	case "ports":
		for _, p := range r.GetRanges().GetRange() {
			l.Ports = append(l.Ports, &keeper.PortRange{Begin: uint32(p.GetBegin()), End: uint32(p.GetEnd())})
		}
	}
}

func (a *Agent) environment(t *task.Task) []*keeper.Variable {
	id := t.Info.GetTaskId().GetValue()
	port := strconv.Itoa(a.apiPort())
	// Every task outlives clusterd, whatever FrameworkInfo.checkpoint says.
	pairs := [][2]string{
		{"MESOS_FRAMEWORK_ID", t.FrameworkID},
		{"MESOS_EXECUTOR_ID", id},
		{"MESOS_SLAVE_ID", a.id},
		{"MESOS_AGENT_ENDPOINT", a.cfg.Address + ":" + port},
		{"MESOS_SLAVE_PID", fmt.Sprintf("slave(1)@%s:%s", a.cfg.Address, port)},
		{"MESOS_CONTAINER_ID", t.ContainerID},
		{"MESOS_CHECKPOINT", "1"},
		{"MESOS_RECOVERY_TIMEOUT", "15mins"},
		{"MESOS_SUBSCRIPTION_BACKOFF_MAX", "2secs"},
		{"MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", duration(executorGrace(t))},
		{"MESOS_HTTP_COMMAND_EXECUTOR", "0"},
		{"MESOS_ALLOCATION_ROLE", t.Role},
		{"LIBPROCESS_PORT", "0"},
		{"LIBPROCESS_IP", "0.0.0.0"},
	}
	if t.Executes() {
		pairs = append(pairs, [2]string{"MESOS_EXECUTOR_AUTHENTICATION_TOKEN", a.token(t)})
	} else {
		pairs = append(pairs, [2]string{"MESOS_TASK_ID", id})
	}
	out := make([]*keeper.Variable, 0, len(pairs)+1)
	for _, p := range pairs {
		out = append(out, &keeper.Variable{Name: p[0], Value: p[1]})
	}
	return out
}

// executorGrace is how long an executor may take to end after SHUTDOWN.
func executorGrace(t *task.Task) time.Duration {
	if t.Executes() {
		return time.Duration(t.Info.GetKillPolicy().GetGracePeriod().GetNanoseconds())
	}
	return defaultShutdown
}

// duration words a time as Mesos' programs read it: a whole number of the largest unit that
// divides it.
func duration(d time.Duration) string {
	for _, u := range []struct {
		name string
		unit time.Duration
	}{{"mins", time.Minute}, {"secs", time.Second}, {"ms", time.Millisecond}, {"us", time.Microsecond}} {
		if d%u.unit == 0 {
			return strconv.FormatInt(int64(d/u.unit), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(d), 10) + "ns"
}

func (a *Agent) apiPort() int {
	if p := a.cfg.Info.GetPort(); p != 0 {
		return int(p)
	}
	return Port
}
