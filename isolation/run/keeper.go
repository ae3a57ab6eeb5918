// Package run keeps containers: it takes each from a recorded launch to a recorded end,
// and after its own death finds again what goes on running.
//
// One goroutine owns one container (life.go). Everything is recorded before it is done,
// is undone in reverse, and may be done again; the key is the container id, which is
// never used twice. Two runtimes do the effects: containers (libcontainer, on nodes) and
// plain processes (--dev, where there is no cgroup2 to be had); all above them is one
// code. Networks come through an interface, from whoever wires this; who may ask for
// what is the server's and clusterd's business.
package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/internal/fault"
	"github.com/mesolith/mesolith/internal/imagestore"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/records"
	"github.com/mesolith/mesolith/isolation/tree"
)

// What a caller can tell apart.
var (
	ErrInvalid  = errors.New("invalid")
	ErrStale    = errors.New("an older leader spoke")
	ErrNotFound = errors.New("not found")
	ErrDenied   = errors.New("not allowed")
)

// Network connects containers. It knows each by its id; all calls may be repeated.
type Network interface {
	// Attach connects the network namespace at a path.
	Attach(ctx context.Context, a Attachment) (Attached, error)
	// Detach takes away what Attach gave; it is no error if there is nothing.
	Detach(ctx context.Context, id, netns string) error
	// Restore says after a start who may be connected; all else is removed.
	Restore(ctx context.Context, keep map[string]bool) error
}

// Attachment is one container that wants a network.
type Attachment struct {
	ID       string
	NetNS    string
	Hostname string
	Ports    []*keeper.PortMapping
}

// Attached is what it got.
type Attached struct {
	Name  string   // of the network
	IPs   []string // without prefix length
	Ports []*keeper.PortMapping
}

// Config is what a keeper is made of.
type Config struct {
	StateDir, WorkDir, StoreDir string
	Pull                        []string // program and first arguments of the puller
	Base                        string   // archive of the built-in root file system
	Self                        string   // this program, started again to hold a process
	Init                        *InitLink
	Network                     Network
	Runtime                     Runtime
	// Full says whether a store has to be cleared; nil: when less than a quarter is free.
	Full func(storeDir string) bool
	Log  *slog.Logger
}

// Keeper is all containers of a node.
type Keeper struct {
	cfg     Config
	log     *slog.Logger
	store   *records.Store
	images  imagestore.Store
	runtime Runtime
	pulls   *pulls
	sweep   chan struct{} // asks the collector of sandboxes to look
	left    leftovers
	work    chan struct{} // bound 1: something was launched or has ended
	probing chan struct{} // bound maxProbes: those under way

	volumes  sync.Mutex // directories of volumes are made or removed
	limiting sync.Mutex // of the memory of all tasks

	mu         sync.Mutex
	containers map[string]*container
	fence      records.Fence
	configure  *keeper.Configure
	nextSlot   uint32
	watchers   map[*Watcher]struct{}
	lives      sync.WaitGroup
	ctx        context.Context // of Run; lives are started under it
}

// New opens the records; nothing is started or removed before Run.
func New(cfg Config) (*Keeper, error) {
	for _, dir := range []string{cfg.StateDir, cfg.WorkDir, cfg.StoreDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	store, found, err := records.Open(filepath.Join(cfg.StateDir, "containers"))
	if err != nil {
		return nil, err
	}
	for _, p := range found.Problems {
		cfg.Log.Error("record set aside; its container is removed", "what", p)
	}
	k := &Keeper{
		cfg: cfg, log: cfg.Log, store: store, images: imagestore.Store{Dir: cfg.StoreDir}, runtime: cfg.Runtime, fence: found.Fence,
		containers: map[string]*container{}, configure: &keeper.Configure{}, watchers: map[*Watcher]struct{}{}, sweep: make(chan struct{}, 1),
		work: make(chan struct{}, 1), probing: make(chan struct{}, maxProbes),
	}
	if err := k.loadConfigure(); err != nil {
		return nil, err
	}
	k.pulls = newPulls(k)
	for _, r := range found.Records {
		// Changes that were told but not recorded may have used some numbers.
		r.Container.Sequence += 1 << 16
		fault.Of(r.Container.GetContainerId(), r.Container.GetTaskId())
		k.containers[r.Container.GetContainerId()] = &container{rec: r, found: true, wake: make(chan struct{}, 1)}
	}
	return k, k.dropNested()
}

// RuntimeName is "containers" or "processes".
func (k *Keeper) RuntimeName() string { return k.runtime.Name() }

func (k *Keeper) configureFile() string { return filepath.Join(k.cfg.StateDir, "configure") }

func (k *Keeper) loadConfigure() error {
	raw, err := os.ReadFile(k.configureFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	if err := proto.Unmarshal(raw, k.configure); err != nil {
		k.log.Warn("settings of before cannot be read; clusterd gives them again", "error", err)
		k.configure = &keeper.Configure{}
	}
	return nil
}

// Configure sets what holds for the whole node; the newest wins.
func (k *Keeper) Configure(c *keeper.Configure) error {
	raw, err := proto.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode settings: %w", err)
	}
	tmp := k.configureFile() + ".tmp"
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	if err := os.Rename(tmp, k.configureFile()); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	k.mu.Lock()
	k.configure = c
	k.mu.Unlock()
	return k.limitTasks()
}

// limitTasks bounds the memory of all tasks together, as things are now.
func (k *Keeper) limitTasks() error {
	k.limiting.Lock()
	defer k.limiting.Unlock()
	limit := k.settings().GetTasksMemoryBytes()
	if limit > 0 {
		limit += k.leftInMemory()
	}
	return k.runtime.LimitAll(limit)
}

// leftInMemory is what sandboxes of ended tasks may take of the memory that counts as all
// tasks' together, and what persistent volumes hold of it: on a tmpfs a file is its writer's memory, and stays that of the group
// above when its own is gone. Without this, tasks would be ended for what others left,
// far below their own limits.
func (k *Keeper) leftInMemory() uint64 {
	if !k.filesAreMemory() {
		return 0
	}
	most, err := k.sandboxesMay()
	if err != nil {
		return 0
	}
	return most + tree.Use(context.Background(), volumesDir(k.cfg.WorkDir))
}

func (k *Keeper) settings() *keeper.Configure {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.configure
}

// admit refuses an older leader and remembers a newer one.
func (k *Keeper) admit(f records.Fence) error {
	if f.Older(k.fence) {
		return fmt.Errorf("%w: height %d term %d; height %d term %d was heard already", ErrStale, f.Height, f.Term, k.fence.Height, k.fence.Term)
	}
	if f == k.fence {
		return nil
	}
	if err := k.store.PutFence(f); err != nil {
		return err
	}
	k.fence = f
	return nil
}

// Launch records a container and begins its life; a known id changes nothing.
func (k *Keeper) Launch(l *keeper.Launch) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.GetNested() {
		if k.containers[l.GetContainerId()] != nil {
			return fmt.Errorf("nested container %q: %w", l.GetContainerId(), ErrExists)
		}
		if err := k.nest(l); err != nil {
			return err
		}
		if err := k.makeRoom(l.GetParent()); err != nil {
			return err
		}
	}
	if err := checkIDs(l); err != nil {
		return err
	}
	if !l.GetNested() { // which no leader speaks of
		if err := k.admit(records.Fence{Height: l.GetHeight(), Term: l.GetTerm()}); err != nil {
			return err
		}
	}
	if c, ok := k.containers[l.GetContainerId()]; ok {
		return k.launchKnown(c, l)
	}
	c := &container{wake: make(chan struct{}, 1), rec: records.Record{Step: records.Accepted, Launch: l, Container: k.describe(l)}}
	if parent := k.containers[l.GetParent()]; parent != nil {
		c.rec.Slot = parent.record().Slot // one range of ids for a whole pod
	} else {
		c.rec.Slot = k.takeSlot()
	}
	if k.runtime.IDs() {
		c.rec.Container.FirstId = slotFirstID(c.rec.Slot)
	}
	fault.Of(l.GetContainerId(), l.GetTaskId())
	if err := k.store.Put(c.rec); err != nil {
		return err
	}
	k.containers[l.GetContainerId()] = c
	c.mu.Lock()
	k.tell(c)
	c.mu.Unlock()
	k.begin(c)
	return nil
}

// launchKnown gives a tombstone the face of the task that it stopped.
func (k *Keeper) launchKnown(c *container, l *keeper.Launch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rec.Launch != nil || c.rec.Container.GetTaskId() != "" {
		return nil
	}
	seq := c.rec.Container.GetSequence()
	c.rec.Container = k.describe(l)
	c.rec.Container.Sequence = seq
	c.rec.Container.KillRequested = true
	c.rec.Container.Phase = keeper.Container_FAILED
	c.rec.Container.Failure = keeper.Container_KILLED_DURING_LAUNCH
	c.rec.Container.Message = "the task was killed before its launch arrived"
	if err := k.store.Put(c.rec); err != nil {
		return err
	}
	k.tell(c)
	return nil
}

func (k *Keeper) describe(l *keeper.Launch) *keeper.Container {
	o := &keeper.Container{
		ContainerId: l.GetContainerId(), Phase: keeper.Container_ACCEPTED, AgentId: l.GetAgentId(), FrameworkId: l.GetFrameworkId(),
		ExecutorId: l.GetExecutorId(), TaskId: l.GetTaskId(), Sandbox: sandboxPath(k.cfg.WorkDir, l),
	}
	if l.GetNested() {
		o.Nested, o.Parent = true, l.GetParent()
	}
	return o
}

// Slots of host ids. The first one is the image store's.
const (
	slotSize  = 2 * 65536
	slotCount = (1<<32)/slotSize - 1
	// StoreIDs is the first host id of files in the image store.
	StoreIDs = 65536
)

func slotFirstID(slot uint32) uint32 { return slot * slotSize }

// takeSlot gives a range of ids that no live container has; used ones come again late.
func (k *Keeper) takeSlot() uint32 {
	used := map[uint32]bool{}
	for _, c := range k.containers {
		c.mu.Lock()
		if c.rec.Step != records.Done {
			used[c.rec.Slot] = true
		}
		c.mu.Unlock()
	}
	for {
		k.nextSlot = k.nextSlot%(slotCount-1) + 1
		if !used[k.nextSlot] {
			return k.nextSlot
		}
	}
}

// Forget drops the records of containers whose end the agent has stored; one that has
// not ended is left alone.
func (k *Keeper) Forget(ids []string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		c, ok := k.containers[id]
		if !ok {
			continue
		}
		c.mu.Lock()
		done := c.rec.Step == records.Done
		c.mu.Unlock()
		if !done {
			continue
		}
		if err := k.store.Delete(id); err != nil {
			return err
		}
		delete(k.containers, id)
		fault.After(fault.Forgotten, id)
	}
	return k.dropNested()
}
