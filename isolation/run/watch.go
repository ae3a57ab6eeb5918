package run

import (
	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/internal/wire/keeper"
)

// watcherQueue is how many changes a client may be behind; one that falls further back
// is cut off and asks for the list again.
const watcherQueue = 4096

// Watcher is one client's view of all changes.
type Watcher struct {
	// Events carries copies; it is closed when the client fell behind.
	Events chan *keeper.Container
}

// Watch begins to tell changes and gives what they continue.
func (k *Keeper) Watch() *Watcher {
	w := &Watcher{Events: make(chan *keeper.Container, watcherQueue)}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.watchers[w] = struct{}{}
	return w
}

// Unwatch ends it.
func (k *Keeper) Unwatch(w *Watcher) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.watchers, w)
}

// List is every container.
func (k *Keeper) List() []*keeper.Container {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]*keeper.Container, 0, len(k.containers))
	for _, c := range k.containers {
		c.mu.Lock()
		out = append(out, proto.CloneOf(c.rec.Container))
		c.mu.Unlock()
	}
	return out
}

// Launches says how each container was launched that was.
func (k *Keeper) Launches() []*keeper.Launch {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []*keeper.Launch
	for _, c := range k.containers {
		c.mu.Lock()
		if c.rec.Launch != nil {
			out = append(out, proto.CloneOf(c.rec.Launch))
		}
		c.mu.Unlock()
	}
	return out
}

// tell counts a change and hands it to all watchers. The caller holds k.mu and c.mu.
func (k *Keeper) tell(c *container) {
	c.rec.Container.Sequence++
	copied := proto.CloneOf(c.rec.Container)
	for w := range k.watchers {
		select {
		case w.Events <- copied:
		default:
			close(w.Events)
			delete(k.watchers, w)
		}
	}
}

// change alters what is told of a container; with keep it is recorded first.
func (k *Keeper) change(c *container, keep bool, f func(*container)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c)
	if keep {
		if err := k.store.Put(c.rec); err != nil {
			return err
		}
	}
	k.tell(c)
	return nil
}
