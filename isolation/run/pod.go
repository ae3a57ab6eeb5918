package run

import (
	"fmt"
	"time"

	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/records"
)

// A pod is a container that others are inside of: they have its range of user ids, its user
// and network namespaces and its name in common, and their groups lie in its group. It is
// begun before them, and whatever is inside ends with it.

// inside words a job as one of a pod, as far as its record says it.
func (k *Keeper) inside(j *Job, pod string) {
	k.mu.Lock()
	parent := k.containers[pod]
	k.mu.Unlock()
	if parent == nil {
		return
	}
	l := parent.record().Launch
	j.HostNetwork = l.GetHostNetwork() || k.cfg.Network == nil
	if j.Hostname = hostname(pod); j.HostNetwork && k.settings().GetNodeName() != "" {
		j.Hostname = k.settings().GetNodeName()
	}
}

// joinPod finds the pod that a container is to be begun inside of. It has to run.
func (k *Keeper) joinPod(j *Job) error {
	pod := j.Launch.GetParent()
	if pod == "" {
		return nil
	}
	k.mu.Lock()
	parent := k.containers[pod]
	k.mu.Unlock()
	if parent == nil {
		return fmt.Errorf("the pod %s that it is inside of is not there", pod)
	}
	rec := parent.record()
	p := &Process{PID: int(rec.Container.GetPid()), StartTime: rec.Container.GetStartTime()}
	if rec.Step != records.Exec || rec.Container.GetPhase() != keeper.Container_RUNNING || !alive(p) {
		return fmt.Errorf("the pod %s that it is inside of does not run", pod)
	}
	j.Pod = p
	return nil
}

// podLives says whether the pod that a container joins by its number still is that one.
func podLives(j *Job) error {
	if j.Pod != nil && !alive(j.Pod) {
		return fmt.Errorf("the pod %s that it is inside of has ended", j.Launch.GetParent())
	}
	return nil
}

// podNetwork is what the pod has: addresses and ports are those of all inside.
func (k *Keeper) podNetwork(j *Job) Attached {
	k.mu.Lock()
	parent := k.containers[j.Launch.GetParent()]
	k.mu.Unlock()
	if parent == nil {
		return Attached{}
	}
	c := parent.record().Container
	return Attached{Name: c.GetNetwork(), IPs: c.GetIpAddresses(), Ports: c.GetPortMappings()}
}

// endInside ends what was inside of a pod that has ended.
func (k *Keeper) endInside(pod string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.containers {
		c.mu.Lock()
		if c.rec.Launch.GetParent() == pod && c.rec.Step != records.Done && !c.killed {
			c.killed, c.deadline = true, time.Now()
			if c.cancel != nil {
				c.cancel()
			}
			select {
			case c.wake <- struct{}{}:
			default:
			}
		}
		c.mu.Unlock()
	}
}
