package run

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/records"
)

// Start removes what no record names, gives the network back what is recorded, and
// begins (or takes up) every life. Lives end when ctx ends; Wait waits for them.
func (k *Keeper) Start(ctx context.Context) error {
	k.mu.Lock()
	k.ctx = ctx
	live := map[string]bool{}
	connected := map[string]bool{}
	var lives []*container
	for id, c := range k.containers {
		if c.rec.Step == records.Done {
			continue
		}
		live[id] = true
		lives = append(lives, c)
		connected[id] = c.rec.Step == records.Exec
	}
	k.mu.Unlock()
	if err := k.removeStrangers(live); err != nil {
		return err
	}
	k.deleteRemoved()
	if err := k.clearStaging(); err != nil {
		k.log.Error("unfinished pulls are left", "error", err)
	}
	if k.cfg.Network != nil {
		if err := k.cfg.Network.Restore(ctx, connected); err != nil {
			k.log.Error("network of tasks is not as it was", "error", err)
		}
	}
	k.mu.Lock()
	for _, c := range lives {
		k.begin(c)
	}
	k.mu.Unlock()
	k.lives.Go(func() { k.collect(ctx) })
	k.lives.Go(func() { rest(ctx, k.work, giveBack) })
	return nil
}

// Wait returns when every life has let go; containers that run go on running.
func (k *Keeper) Wait() { k.lives.Wait() }

// removeStrangers ends and removes containers without a record.
func (k *Keeper) removeStrangers(live map[string]bool) error {
	found := map[string]bool{}
	ids, err := k.runtime.Strangers(live)
	if err != nil {
		return fmt.Errorf("look for containers: %w", err)
	}
	for _, id := range ids {
		found[id] = true
	}
	for _, dir := range []string{"pipes", "mounts"} {
		ids, err := unknownIn(filepath.Join(k.cfg.StateDir, dir), live)
		if err != nil {
			return fmt.Errorf("look for leftovers: %w", err)
		}
		for _, id := range ids {
			found[id] = true
		}
	}
	for id := range found {
		if !containerID.MatchString(id) {
			continue
		}
		k.log.Warn("container without a record is removed", "container", id)
		l := &keeper.Launch{ContainerId: id}
		if err := k.undo(&Job{ID: id, Launch: l, Paths: k.pathsOf(l)}, nil); err != nil {
			k.log.Error("something of a container is left", "container", id, "error", err)
		}
	}
	return nil
}
