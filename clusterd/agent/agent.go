// Package agent is a node's own part in the cluster: it attaches the node to whoever
// leads, journals what the leader asks before it does it, has isolated run it, and
// reports every change of a task until the framework has acknowledged it.
//
// One goroutine (Run) owns all of it: the tasks, the journal, the identity. It selects
// over messages of the masters, of the container keeper and of the clock, asks the pure
// package task what follows, writes that down, and only then acts. Connections have
// goroutines of their own that do nothing but read and write frames; their queues are
// bounded, and a peer that does not read loses its connection, never our memory.
//
// Invariants: an agent id lives exactly as long as the journal that holds it; a message
// of an older leader than the newest obeyed one is refused; an ended container is
// remembered until the leader says that its state no longer holds it.
//
// It does not decide where tasks run (leader), what isolates them (isolated), or which
// machine this is (noded); it speaks to the world only through what main hands in.
package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/agent/journal"
	"github.com/mesolith/mesolith/clusterd/task"
	"github.com/mesolith/mesolith/internal/fault"
	wire "github.com/mesolith/mesolith/internal/wire/agent"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

// Config is what main knows of the node.
type Config struct {
	JournalPath  string
	KeeperSocket string
	// DialKeeper is another way to the keeper; nil: by its socket.
	DialKeeper func(ctx context.Context) (net.Conn, error)
	Keeper     *keeper.Configure // told to isolated at each connection

	ClusterID   string
	ListVersion uint64
	Name        string // node name
	Incarnation string
	BootID      string
	Address     string // LAN address of this node, without prefix
	MTU         uint32 // of the LAN
	// Provisioning is where this node got its document, as IPv4:port: no task may ask there.
	Provisioning []string
	Info         *mesosv1.AgentInfo

	Masters []string                                                 // names to keep a connection to
	Dial    func(ctx context.Context, name string) (net.Conn, error) // agent/1

	Log *slog.Logger
}

// Agent is one node's agent; Run gives it life.
type Agent struct {
	cfg   Config
	log   *slog.Logger
	asks  chan func()
	loops struct {
		masters chan masterEvent
		keeper  chan keeperEvent
	}

	// Owned by Run's goroutine.
	journal *journal.Journal
	id      string
	key     string
	height  uint64
	term    uint64
	// generation is that of (height, term); empty where an old journal does not say.
	generation string
	whole      bool // the leader wants to be told all that is held
	tasks      map[string]*task.Task
	due        map[string]time.Time // by container: when its max_completion_time is over
	order      []string             // container ids in order of launch
	keeper     *keeperLink
	leader     *masterLink
	attached   bool
	sequence   uint64
	sentAt     time.Time // of the last Attach without an answer
	retiring   string    // reason; set: everything here is being ended for a new identity
	gap        string    // why the journal does not hold all of it; what it lacks the keeper knows
	network    *wire.NetworkPlan
	made       made
	drain      *wire.Drain // as the leader said it last; nil: none
	executions map[string]*execution
	again      map[string]bool // containers of which the keeper could not do what it was asked
	strays     bool            // some that are nobody's could not be ended yet
	runtime    string          // of the keeper
	started    time.Time
	checks     checks
}

// New opens nothing yet.
func New(cfg Config) *Agent {
	a := &Agent{cfg: cfg, log: cfg.Log, asks: make(chan func()), tasks: map[string]*task.Task{}, due: map[string]time.Time{}, again: map[string]bool{}, executions: map[string]*execution{}, started: time.Now()}
	a.loops.masters = make(chan masterEvent, 256)
	a.loops.keeper = make(chan keeperEvent, 256)
	a.checks = newChecks()
	a.checks.probe = prober{keeper: Sandbox{Socket: cfg.KeeperSocket, dial: cfg.DialKeeper}}.probe
	return a
}

// Run reads the journal and serves until ctx ends or the journal cannot be written.
func (a *Agent) Run(ctx context.Context) error {
	fault.MarkIn(filepath.Dir(a.cfg.JournalPath))
	ctx, cancel := context.WithCancel(ctx)
	if err := a.recover(); err != nil {
		cancel()
		return err
	}
	defer a.journal.Close()
	var links linkGroup
	defer links.wait()
	defer cancel()
	links.start(func() { a.keepKeeper(ctx) })
	for _, name := range a.cfg.Masters {
		links.start(func() { a.keepMaster(ctx, name) })
	}
	a.checks.start = func(f func(context.Context)) { links.start(func() { f(ctx) }) }
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case e := <-a.loops.masters:
			err = a.onMaster(e)
		case e := <-a.loops.keeper:
			err = a.onKeeper(e)
		case f := <-a.asks:
			f()
		case now := <-a.checks.timer.C:
			a.onChecksDue(now)
		case r := <-a.checks.results:
			err = a.onProbed(r)
		case now := <-tick.C:
			err = a.onTick(now)
		}
		if err != nil {
			return err
		}
	}
}

// recover makes the tasks what they were when the program last ran.
func (a *Agent) recover() error {
	o, err := journal.Open(a.cfg.JournalPath)
	if err != nil {
		return err
	}
	a.journal = o.Journal
	switch {
	case o.Aside != "":
		a.log.Error("agent journal damaged and set aside; containers are adopted from the keeper's records", "file", o.Aside, "why", o.Why, "records before the damage", len(o.Records)-1)
	case o.CutAt > 0:
		a.log.Warn("agent journal ended in a record that was not finished; cut off", "offset", o.CutAt)
	}
	for _, r := range o.Records {
		a.replay(r)
	}
	if a.key == "" && a.gap == "" {
		if err := a.newIdentity(); err != nil {
			return err
		}
	}
	a.log.Info("agent recovered", "agent", a.id, "tasks", len(a.tasks), "records", len(o.Records), "height", a.height, "term", a.term)
	return nil
}

func (a *Agent) newIdentity() error {
	var raw [16]byte
	rand.Read(raw[:])
	// Volumes of the former identity are left alone; those that were destroyed have to go.
	a.id, a.key, a.made = "", hex.EncodeToString(raw[:]), made{removed: a.made.removed, asked: a.made.asked}
	return a.journal.Rewrite([]*journal.Record{
		{Body: &journal.Record_Identity{Identity: &journal.Identity{AttachKey: a.key}}},
		{Body: &journal.Record_Seen{Seen: &journal.Seen{Height: a.height, Term: a.term, Generation: a.generation}}},
		a.made.record(),
	})
}

func (a *Agent) replay(r *journal.Record) {
	switch b := r.GetBody().(type) {
	case *journal.Record_Identity:
		a.id, a.key = b.Identity.GetAgentId(), b.Identity.GetAttachKey()
	case *journal.Record_Seen:
		a.height, a.term, a.generation = b.Seen.GetHeight(), b.Seen.GetTerm(), b.Seen.GetGeneration()
	case *journal.Record_Launched:
		t, err := a.newTask(b.Launched)
		if err != nil {
			a.log.Error("journalled launch is not readable", "container", b.Launched.GetContainerId(), "error", err)
			return
		}
		if old := a.tasks[t.ContainerID]; old != nil && old.Tombstone {
			t.KillRequested, t.KillGrace, t.Drain, t.Tombstone = true, old.KillGrace, old.Drain, true
			*old = *t
			return
		}
		if t.Executed() {
			t.Given = task.PerhapsGiven
		}
		if t.Executes() {
			a.executions[t.ContainerID] = &execution{known: true, had: !t.Execution.Inside, gave: true}
		}
		if t.Inside() {
			a.executionOf(t.Execution.Container).had = true
		}
		a.put(t)
	case *journal.Record_Updated:
		if t := a.tasks[b.Updated.GetContainerId()]; t != nil {
			if u, ok := decodeUpdate(b.Updated.GetStatus()); ok {
				*t = task.Recorded(*t, u)
				t.Known = t.Known || u.State != mesosv1.TaskState_TASK_STAGING
				t.Tombstone = false
			}
		}
	case *journal.Record_Acknowledged:
		if t := a.tasks[b.Acknowledged.GetContainerId()]; t != nil {
			*t, _ = task.Next(*t, task.Acknowledged{UUID: [16]byte(b.Acknowledged.GetUuid())})
		}
	case *journal.Record_KillAsked:
		k := b.KillAsked
		t := a.tasks[k.GetContainerId()]
		if t == nil {
			t = tombstone(k.GetContainerId(), k.GetFrameworkId(), k.GetTaskId())
			a.put(t)
		}
		t.KillRequested, t.KillGrace, t.Drain = true, time.Duration(k.GetGraceNs()), task.Drain(min(k.GetDrain(), uint32(task.DrainingGone)))
	case *journal.Record_Made:
		a.made = made{resources: b.Made.GetResources(), removed: b.Made.GetRemoved()}
	case *journal.Record_Damaged:
		a.gap = b.Damaged.GetWhy()
		a.made.resources = nil // perhaps it was told of others since
	case *journal.Record_Dropped:
		for _, id := range b.Dropped.GetContainerIds() {
			a.remove(id)
		}
	}
}

func decodeUpdate(raw []byte) (task.Update, bool) {
	st := &mesosv1.TaskStatus{}
	if (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(raw, st) != nil || len(st.GetUuid()) != 16 {
		return task.Update{}, false
	}
	return task.Update{UUID: [16]byte(st.GetUuid()), State: st.GetState(), Status: raw}, true
}

func tombstone(container, framework, id string) *task.Task {
	return &task.Task{
		Facts:     task.Facts{ContainerID: container, FrameworkID: framework, Info: &mesosv1.TaskInfo{TaskId: &mesosv1.TaskID{Value: proto.String(id)}}},
		Latest:    mesosv1.TaskState_TASK_STAGING,
		Tombstone: true,
	}
}

func (a *Agent) newTask(l *journal.Launched) (*task.Task, error) {
	info, by, err := a.whatRuns(l)
	if err != nil {
		return nil, err
	}
	fw := &mesosv1.FrameworkInfo{}
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(l.GetFrameworkInfo(), fw); err != nil {
		return nil, fmt.Errorf("decode FrameworkInfo: %w", err)
	}
	t := &task.Task{
		Facts: task.Facts{
			ContainerID: l.GetContainerId(), FrameworkID: l.GetFrameworkId(), AgentID: a.id, AgentAddress: a.cfg.Address,
			Role: l.GetRole(), HostNetwork: l.GetHostNetwork(), Info: info, Framework: fw, User: fw.GetUser(), UserID: l.GetUserId(),
			Execution: by,
		},
		Latest: mesosv1.TaskState_TASK_STAGING,
	}
	if u := info.GetCommand().GetUser(); u != "" {
		t.User = u
	}
	for _, c := range fw.GetCapabilities() {
		if c.GetType() == mesosv1.FrameworkInfo_Capability_TASK_KILLING_STATE {
			t.KillingState = true
		}
	}
	return t, nil
}

// whatRuns reads what was launched: a task, or an executor in the words of one.
func (a *Agent) whatRuns(l *journal.Launched) (*mesosv1.TaskInfo, task.Execution, error) {
	lenient := proto.UnmarshalOptions{AllowPartial: true}
	by := task.Execution{ID: l.GetExecutorId(), Container: l.GetExecutorContainer(), Group: l.GetGroup()}
	if by.ID == "" || by.Container != l.GetContainerId() {
		info := &mesosv1.TaskInfo{}
		if err := lenient.Unmarshal(l.GetTaskInfo(), info); err != nil {
			return nil, by, fmt.Errorf("decode TaskInfo: %w", err)
		}
		by.Inside = builtIn(info.GetExecutor())
		return info, by, nil
	}
	by.Info = &mesosv1.ExecutorInfo{}
	if err := lenient.Unmarshal(l.GetTaskInfo(), by.Info); err != nil {
		return nil, by, fmt.Errorf("decode ExecutorInfo: %w", err)
	}
	by.Inside = builtIn(by.Info)
	return executorTask(by.Info, a.id), by, nil
}

func (a *Agent) put(t *task.Task) {
	if _, held := a.tasks[t.ContainerID]; !held {
		a.order = append(a.order, t.ContainerID)
	}
	a.tasks[t.ContainerID] = t
	fault.Of(t.ContainerID, t.Info.GetTaskId().GetValue())
}

func (a *Agent) remove(id string) {
	if _, held := a.tasks[id]; !held {
		return
	}
	delete(a.tasks, id)
	delete(a.due, id)
	delete(a.executions, id)
	for i, o := range a.order {
		if o == id {
			a.order = append(a.order[:i:i], a.order[i+1:]...)
			return
		}
	}
}

func stamp() task.Stamp {
	s := task.Stamp{Now: time.Now()}
	for i := range s.UUIDs {
		rand.Read(s.UUIDs[i][:])
		s.UUIDs[i][6] = s.UUIDs[i][6]&0x0f | 0x40
		s.UUIDs[i][8] = s.UUIDs[i][8]&0x3f | 0x80
	}
	return s
}

// happen lets one event happen to a task: what follows is written down in one flush,
// then done. before is written together with it.
func (a *Agent) happen(t *task.Task, e task.Event, before ...*journal.Record) error {
	next, actions := task.Next(*t, e)
	for _, act := range actions {
		switch act := act.(type) {
		case task.RecordUpdate:
			before = append(before, &journal.Record{Body: &journal.Record_Updated{Updated: &journal.Updated{ContainerId: t.ContainerID, Status: act.Update.Status}}})
		case task.RecordKill:
			before = append(before, &journal.Record{Body: &journal.Record_KillAsked{KillAsked: &journal.KillAsked{
				ContainerId: t.ContainerID, FrameworkId: t.FrameworkID, TaskId: t.Info.GetTaskId().GetValue(), GraceNs: int64(act.Grace), Drain: uint32(act.Drain),
			}}})
		case task.RecordAcknowledged:
			before = append(before, &journal.Record{Body: &journal.Record_Acknowledged{Acknowledged: &journal.Acknowledged{ContainerId: t.ContainerID, Uuid: act.UUID[:]}}})
		}
	}
	if err := a.journal.Append(before...); err != nil {
		return err
	}
	for _, r := range before {
		fault.After(journalled(r), t.ContainerID)
	}
	*t = next
	a.noteChecks(t)
	for _, act := range actions {
		a.do(t, act)
		fault.After(done(act), t.ContainerID)
	}
	return nil
}

// do sends; a connection that is down makes it nothing, and what comes up again asks
// Resume.
func (a *Agent) do(t *task.Task, act task.Action) {
	switch act := act.(type) {
	case task.Launch:
		if t.Executes() && len(live(a.tasksOf(t.ContainerID))) == 0 {
			return // with its first task
		}
		if t.Inside() && !a.runs(t.Execution.Container) {
			return // when its pod does
		}
		volumes, ok := a.volumesOf(t)
		if !ok { // they come, or their last user goes
			a.again[t.ContainerID] = true
			return
		}
		l := a.launchRequest(t)
		l.Volumes = volumes
		a.keeper.send(&keeper.Request{Body: &keeper.Request_Launch{Launch: l}})
	case task.KillContainer:
		if t.Executes() {
			a.endExecutor(t, act.Grace)
			return
		}
		a.killContainer(t, act.Grace)
	case task.Give:
		a.give(t)
	case task.KillInExecutor:
		a.killInExecutor(t, act.Grace)
	case task.ForgetContainer:
		a.keeper.send(&keeper.Request{Body: &keeper.Request_Forget{Forget: &keeper.Forget{ContainerIds: []string{t.ContainerID}}}})
	case task.Send:
		a.sendUpdate(t)
	}
}

func (a *Agent) killContainer(t *task.Task, grace time.Duration) {
	a.keeper.send(&keeper.Request{Body: &keeper.Request_Kill{Kill: &keeper.Kill{
		ContainerId: t.ContainerID, GraceNs: int64(grace), Height: a.height, Term: a.term,
	}}})
}

func (a *Agent) sendUpdate(t *task.Task) {
	if !a.attached || a.retiring != "" || len(t.Pending) == 0 {
		return
	}
	a.leader.send(&wire.FromAgent{Body: &wire.FromAgent_Update{Update: &wire.Update{
		ContainerId: t.ContainerID, FrameworkId: t.FrameworkID, Status: t.Pending[0].Status, LatestState: int32(t.Latest),
	}}})
}

// overdue says whether a task has run for its max_completion_time. Its container's start is
// compared with the clock once, when this program first sees it: from then on the time is
// counted, so that a clock that is set ends nothing.
func (a *Agent) overdue(t *task.Task, now time.Time) bool {
	limit := time.Duration(t.Info.GetMaxCompletionTime().GetNanoseconds())
	started := t.Container.GetStartedUnixNs()
	if limit <= 0 || started <= 0 || t.Terminal() {
		delete(a.due, t.ContainerID)
		return false
	}
	due, known := a.due[t.ContainerID]
	if !known {
		ran := min(max(now.Sub(time.Unix(0, started)), 0), limit)
		due = now.Add(limit - ran)
		a.due[t.ContainerID] = due
	}
	return now.After(due)
}

const rewriteAbove = 8 << 20 // bytes of journal

func (a *Agent) onTick(now time.Time) error {
	for _, id := range a.order {
		if t := a.tasks[id]; a.overdue(t, now) {
			if err := a.happen(t, task.Overdue{Stamp: stamp()}); err != nil {
				return err
			}
		}
	}
	if err := a.watchExecutors(now); err != nil {
		return err
	}
	a.removeVolumes()
	a.askAgain()
	if a.leader != nil && !a.attached && now.Sub(a.sentAt) > attachRetry {
		a.attach()
	}
	if a.retiring != "" {
		return a.retire()
	}
	if a.journal.Size() > rewriteAbove && a.gap == "" {
		return a.compact()
	}
	return nil
}

// compact writes the journal anew from what is remembered.
func (a *Agent) compact() error {
	records := []*journal.Record{
		{Body: &journal.Record_Identity{Identity: &journal.Identity{AgentId: a.id, AttachKey: a.key}}},
		{Body: &journal.Record_Seen{Seen: &journal.Seen{Height: a.height, Term: a.term, Generation: a.generation}}},
	}
	if len(a.made.resources)+len(a.made.removed) > 0 {
		records = append(records, a.made.record())
	}
	before := a.journal.Size()
	raw, err := a.currentRecords()
	if err != nil {
		return err
	}
	if err := a.journal.Rewrite(append(records, raw...)); err != nil {
		return err
	}
	a.log.Info("agent journal rewritten", "bytes_before", before, "bytes_after", a.journal.Size())
	return nil
}
