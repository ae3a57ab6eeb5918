package agent

import (
	"net/netip"

	"github.com/mesolith/mesolith/clusterd/task"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
)

// A cluster whose masters have all forgotten everything is born anew while tasks run here.
// Its leader asks for all that is held, and takes it in.

// report attaches again with everything. What every framework had acknowledged is told
// once more, because the cluster knows nothing of it.
func (a *Agent) report() error {
	a.log.Warn("the cluster was born anew and knows nothing of this agent; it is told all that is held", "agent", a.id, "tasks", len(a.order))
	for _, id := range a.order {
		if err := a.happen(a.tasks[id], task.Adopted{Stamp: stamp()}); err != nil {
			return err
		}
	}
	a.whole = true
	a.attach()
	return nil
}

// tellWhole adds the launches of everything held, and the network of what runs.
func (a *Agent) tellWhole(at *agentwire.Attach) {
	at.Whole = true
	for _, m := range a.made.resources {
		at.Made = append(at.Made, &agentwire.MadeResource{Resource: m.GetResource(), Serial: m.GetSerial()})
	}
	for _, h := range at.Held {
		t := a.tasks[h.GetContainerId()]
		launch, err := launchedRecord(t)
		if err != nil { // it was read from the wire once
			a.log.Error("a task cannot be told of", "container", t.ContainerID, "error", err)
			continue
		}
		l := launch.GetLaunched()
		h.Role, h.FrameworkInfo, h.TaskInfo, h.HostNetwork = l.GetRole(), l.GetFrameworkInfo(), l.GetTaskInfo(), l.GetHostNetwork()
		h.ExecutorId, h.ExecutorContainer, h.Group = l.GetExecutorId(), l.GetExecutorContainer(), l.GetGroup()
		if h.KillGraceNs = -1; t.KillRequested {
			h.KillRequested, h.KillGraceNs = true, int64(t.KillGrace)
		}
		if subnet := subnetOf(t); subnet != "" {
			at.Subnet = subnet
		}
	}
}

// subnetOf is the network in which a running container has its address; empty: none.
func subnetOf(t *task.Task) string {
	if t.HostNetwork || t.Container == nil || containerGone(t.Container) {
		return ""
	}
	for _, ip := range t.Container.GetIpAddresses() {
		if addr, err := netip.ParseAddr(ip); err == nil && addr.Is4() {
			return netip.PrefixFrom(addr, 24).Masked().String()
		}
	}
	return ""
}
