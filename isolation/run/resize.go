package run

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/records"
)

// Resize changes what a container may use. What is not running yet begins with it; of what
// has ended nothing is changed.
func (k *Keeper) Resize(m *keeper.Resize) error {
	if !containerID.MatchString(m.GetContainerId()) {
		return fmt.Errorf("%w: container id %q", ErrInvalid, m.GetContainerId())
	}
	k.mu.Lock()
	c := k.containers[m.GetContainerId()]
	k.mu.Unlock()
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rec.Launch == nil || c.rec.Step == records.Exited || c.rec.Step == records.Done {
		return nil
	}
	launch, _ := proto.Clone(c.rec.Launch).(*keeper.Launch) // the container's own goroutine reads the old one
	launch.CpuMillis, launch.MemoryBytes = m.GetCpuMillis(), m.GetMemoryBytes()
	c.rec.Launch = launch
	if err := k.store.Put(c.rec); err != nil {
		return err
	}
	if c.rec.Step != records.Exec {
		return nil // whoever brings it to its program looks again
	}
	return k.limit(c)
}

// limit makes a running container's limits those of its record. The caller holds c.mu.
func (k *Keeper) limit(c *container) error {
	j := &Job{ID: c.rec.Container.GetContainerId(), Launch: c.rec.Launch}
	return k.runtime.Limit(j, c.rec.Launch.GetCpuMillis(), c.rec.Launch.GetMemoryBytes())
}

// limitAsRecorded sees to it that a container that was resized while it was begun has its limits.
func (k *Keeper) limitAsRecorded(c *container, j *Job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.rec.Launch; now.GetCpuMillis() != j.Launch.GetCpuMillis() || now.GetMemoryBytes() != j.Launch.GetMemoryBytes() {
		k.report(j, k.limit(c))
	}
}
