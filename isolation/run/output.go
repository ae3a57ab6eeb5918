package run

import (
	"context"

	"github.com/mesolith/mesolith/isolation/stdio"
)

// pump begins to move both streams, unless that has begun.
func (k *Keeper) pump(c *container, j *Job) {
	if c.pumpStop != nil || j.Launch.GetSession() {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	c.pumpStop = stop
	uid, gid := k.owner(j)
	for _, name := range stdio.Streams {
		pump, err := stdio.Open(j.Paths.pipes, j.Paths.sandbox, name, uid, gid, k.outputLimit(j))
		if err != nil {
			k.log.Error("output of a container is lost", "container", j.ID, "stream", name, "error", err)
			continue
		}
		c.pumps.Go(func() {
			if err := pump.Run(ctx); err != nil {
				k.log.Error("output of a container", "container", j.ID, "stream", name, "error", err)
			}
			if n := pump.Dropped(); n > 0 {
				k.log.Warn("output was dropped", "container", j.ID, "stream", name, "bytes", n)
			}
		})
	}
}

// stopPumps makes the pumps empty their pipes and end.
func (c *container) stopPumps() {
	if c.pumpStop != nil {
		c.pumpStop()
	}
	c.pumps.Wait()
}
