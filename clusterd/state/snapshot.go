package state

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"iter"
	"maps"
	"slices"
)

// snapshotHeader begins a snapshot; the number is the format's.
const snapshotHeader = "mesolith state 1\n"

// Snapshot is a copy of the state at one index, cheap to make: tasks are shared until they
// change, other records are copied flat and share what never changes (infos, resources,
// statuses).
type Snapshot struct {
	head       State // scalars only
	frameworks []Framework
	agents     []Agent
	tasks      iter.Seq[*Task]
	removed    []FrameworkID
	users      []string
	history    History
}

// Snapshot copies the state.
func (s *State) Snapshot() *Snapshot {
	snap := &Snapshot{
		head: State{
			index: s.index, timeNS: s.timeNS, generation: s.generation, nextFramework: s.nextFramework, nextAgent: s.nextAgent,
			networkVersion: s.networkVersion, pool: s.pool, past: s.past, quarter: s.quarter, hardware: s.hardware, weights: s.weights, quotas: s.quotas, operations: clonedOperations(s.operations), maintenance: s.maintenance, answers: clonedAnswers(s.answers),
		},
		frameworks: s.frameworks.copied(), agents: s.agents.copied(), tasks: rows(s.tasks.share()), removed: slices.Clone(s.removed),
		users: s.users[:len(s.users):len(s.users)],
	}
	for i := range snap.agents {
		snap.agents[i].forgets = clonedSet(snap.agents[i].forgets)
	}
	return snap
}

// WriteTo writes the snapshot: the header, records with their lengths, a zero length,
// CRC-32C of all before it. It implements io.WriterTo.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	out := &summed{w: bufio.NewWriterSize(w, 1<<16), sum: crc32.New(castagnoli)}
	s.write(out, true)
	out.record(nil)
	var tail [4]byte
	binary.BigEndian.PutUint32(tail[:], out.sum.(hash.Hash32).Sum32())
	out.write(tail[:])
	if out.err == nil {
		out.err = out.w.Flush()
	}
	return out.n, out.err
}

// Hash is equal for equal states: of the same entries in the same order, whatever way
// they came.
func (s *State) Hash() [32]byte {
	sum := sha256.New()
	out := &summed{w: bufio.NewWriterSize(io.Discard, 1), sum: sum}
	snap := s.Snapshot()
	slices.SortFunc(snap.frameworks, func(a, b Framework) int { return compareStrings(string(a.ID), string(b.ID)) })
	slices.SortFunc(snap.agents, func(a, b Agent) int { return compareStrings(string(a.ID), string(b.ID)) })
	tasks := slices.SortedFunc(s.tasks.all(), func(a, b *Task) int { return compareStrings(string(a.ContainerID), string(b.ContainerID)) })
	snap.tasks = slices.Values(tasks)
	snap.write(out, false)
	return [32]byte(sum.Sum(nil))
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

type summed struct {
	w   *bufio.Writer
	sum hash.Hash
	n   int64
	err error
	one writer
}

func (o *summed) write(p []byte) {
	if o.err != nil {
		return
	}
	n, err := o.w.Write(p)
	o.n, o.err = o.n+int64(n), err
}

func (o *summed) record(body []byte) {
	head := binary.AppendUvarint(nil, uint64(len(body)))
	o.sum.Write(head)
	o.sum.Write(body)
	o.write(head)
	o.write(body)
}

// Record types in a snapshot; never used again.
const (
	recordHead        = 1
	recordFramework   = 2
	recordAgent       = 3
	recordTask        = 4
	recordRemoved     = 5
	recordFinished    = 6
	recordEnded       = 7
	recordUser        = 8
	recordPast        = 9
	recordAdopting    = 10
	recordQuarter     = 11
	recordHardware    = 12
	recordWeight      = 13
	recordQuota       = 14
	recordInactive    = 15
	recordOperation   = 16
	recordDraining    = 17
	recordMaintenance = 18
	recordAnswer      = 19
	recordExecution   = 30 // of the task in the record after it
)

func (s *Snapshot) write(o *summed, history bool) {
	o.sum.Write([]byte(snapshotHeader))
	o.write([]byte(snapshotHeader))
	put := func(kind uint64, f func(*writer)) {
		o.one.buf = o.one.buf[:0]
		o.one.uint(kind)
		f(&o.one)
		o.record(o.one.buf)
	}
	put(recordHead, func(w *writer) {
		w.uint(s.head.index)
		w.int(s.head.timeNS)
		w.uint(s.head.generation.Height)
		w.string(s.head.generation.ID)
		w.uint(s.head.nextFramework)
		w.uint(s.head.nextAgent)
		w.uint(s.head.networkVersion)
		w.string(s.head.pool)
	})
	if s.head.quarter != 0 {
		put(recordQuarter, func(w *writer) { w.uint(s.head.quarter) })
	}
	for _, id := range s.head.past {
		put(recordPast, func(w *writer) { w.string(id) })
	}
	for i := range s.frameworks {
		put(recordFramework, func(w *writer) { w.framework(&s.frameworks[i]) })
	}
	for i := range s.agents {
		put(recordAgent, func(w *writer) { w.agent(&s.agents[i]) })
		if s.agents[i].Adopting {
			put(recordAdopting, func(w *writer) { w.string(string(s.agents[i].ID)) })
		}
		if s.agents[i].Deactivated {
			put(recordInactive, func(w *writer) { w.string(string(s.agents[i].ID)) })
		}
		if d := s.agents[i].Drain; d != nil {
			put(recordDraining, func(w *writer) { w.drain(s.agents[i].ID, d) })
		}
	}
	for t := range s.tasks {
		if t.Execution.ID != "" {
			put(recordExecution, func(w *writer) { w.execution(t.Execution) })
		}
		put(recordTask, func(w *writer) { w.task(t) })
	}
	for _, id := range s.removed {
		put(recordRemoved, func(w *writer) { w.string(string(id)) })
	}
	for _, name := range s.users {
		put(recordUser, func(w *writer) { w.string(name) })
	}
	s.head.writeHardware(put)
	s.head.writeWeights(put)
	s.head.writeQuotas(put)
	s.head.writeOperations(put)
	s.head.writeMaintenance(put)
	if !history {
		return
	}
	for i := range s.history.Tasks {
		if e := s.history.Tasks[i].Execution; e.ID != "" {
			put(recordExecution, func(w *writer) { w.execution(e) })
		}
		put(recordFinished, func(w *writer) { w.task(&s.history.Tasks[i]) })
	}
	for i := range s.history.Frameworks {
		put(recordEnded, func(w *writer) { w.framework(&s.history.Frameworks[i]) })
	}
}

func (w *writer) framework(f *Framework) {
	w.string(string(f.ID))
	w.bytes(f.Info)
	w.string(f.Name)
	w.string(f.User)
	w.string(f.Principal)
	w.string(f.Hostname)
	w.strings(f.Roles)
	w.uint(uint64(f.Capabilities))
	w.bool(f.Checkpoint)
	w.int(f.FailoverTimeout)
	w.int(f.RegisteredNS)
	w.int(f.ReregisteredNS)
	w.bool(f.Connected)
	w.int(f.DisconnectedNS)
	w.int(f.Remaining)
}

func (r *reader) framework() Framework {
	return Framework{
		ID: FrameworkID(r.string()), Info: r.bytes(), Name: r.string(), User: r.string(), Principal: r.string(), Hostname: r.string(),
		Roles: r.strings(), Capabilities: Capabilities(r.uint()), Checkpoint: r.bool(), FailoverTimeout: r.int(),
		RegisteredNS: r.int(), ReregisteredNS: r.int(), Connected: r.bool(), DisconnectedNS: r.int(), Remaining: r.int(),
		tasks: map[TaskID]int32{}, executors: map[executorKey]int32{}, allocated: map[string]Resources{},
	}
}

func (w *writer) agent(a *Agent) {
	w.string(string(a.ID))
	w.string(a.Node)
	w.string(a.AttachKey)
	w.string(a.BootID)
	w.string(a.Incarnation)
	w.string(a.Hostname)
	w.int(int64(a.Port))
	w.string(a.Address)
	w.string(a.Subnet)
	w.bytes(a.Info)
	w.resources(a.Total)
	w.int(a.RegisteredNS)
	w.int(a.ReattachedNS)
	w.bool(a.Unreachable)
	w.int(a.UnreachableNS)
	w.uint(uint64(len(a.forgets)))
	for _, id := range slices.Sorted(maps.Keys(a.forgets)) {
		w.string(string(id))
	}
}

func (r *reader) agent() Agent {
	a := Agent{
		ID: AgentID(r.string()), Node: r.string(), AttachKey: r.string(), BootID: r.string(), Incarnation: r.string(),
		Hostname: r.string(), Port: int32(r.int()), Address: r.string(), Subnet: r.string(), Info: r.bytes(), Total: r.resources(),
		RegisteredNS: r.int(), ReattachedNS: r.int(), Unreachable: r.bool(), UnreachableNS: r.int(),
		tasks: map[ContainerID]int32{}, forgets: map[ContainerID]struct{}{},
	}
	for range r.count() {
		a.forgets[ContainerID(r.string())] = struct{}{}
	}
	return a
}

func (w *writer) task(t *Task) {
	w.string(string(t.ContainerID))
	w.string(string(t.TaskID))
	w.string(string(t.FrameworkID))
	w.string(string(t.AgentID))
	w.string(t.Role)
	w.string(t.Name)
	w.bytes(t.Info)
	w.resources(t.Resources)
	w.bool(t.HostNetwork)
	w.int(t.LaunchedNS)
	w.int(int64(t.State))
	w.bool(t.Released)
	w.bytes(t.UUID)
	w.bytes(t.Data)
	w.status(t.Newest)
	w.bool(t.Acknowledged)
	w.uint(uint64(len(t.Statuses)))
	for _, st := range t.Statuses {
		w.status(st)
	}
	w.bool(t.KillRequested)
	w.int(t.KillGrace)
	w.bool(t.Orphan)
}

func (r *reader) task() Task {
	t := Task{
		ContainerID: ContainerID(r.string()), TaskID: TaskID(r.string()), FrameworkID: FrameworkID(r.string()), AgentID: AgentID(r.string()),
		Role: r.string(), Name: r.string(), Info: r.bytes(), Resources: r.resources(), HostNetwork: r.bool(), LaunchedNS: r.int(),
		State: TaskState(r.int()), Released: r.bool(), UUID: r.bytes(), Data: r.bytes(), Newest: r.status(), Acknowledged: r.bool(),
	}
	n := r.count()
	if n > maxStatuses {
		r.fail("statuses")
		return t
	}
	for range n {
		t.Statuses = append(t.Statuses, r.status())
	}
	t.KillRequested, t.KillGrace, t.Orphan = r.bool(), r.int(), r.bool()
	return t
}

// ErrSnapshotNewer says that a snapshot was written by a newer program.
var ErrSnapshotNewer = errors.New("snapshot is of a format this program does not know")

// Read reads a snapshot whole, or gives an error and nothing.
func Read(in io.Reader) (*State, History, error) {
	sum := crc32.New(castagnoli)
	br := bufio.NewReaderSize(in, 1<<16)
	head := make([]byte, len(snapshotHeader))
	if _, err := io.ReadFull(br, head); err != nil {
		return nil, History{}, fmt.Errorf("snapshot header: %w", ErrCorrupt)
	}
	if string(head) != snapshotHeader {
		return nil, History{}, fmt.Errorf("snapshot begins with %q: %w", head, ErrSnapshotNewer)
	}
	sum.Write(head)
	s, h := New(), History{}
	for n := 0; ; n++ {
		body, err := readRecord(br, sum)
		if err != nil {
			return nil, History{}, fmt.Errorf("snapshot record %d: %w", n, err)
		}
		if body == nil {
			break
		}
		if err := s.restore(body, &h, n == 0); err != nil {
			return nil, History{}, fmt.Errorf("snapshot record %d: %w", n, err)
		}
	}
	var tail [4]byte
	if _, err := io.ReadFull(br, tail[:]); err != nil || binary.BigEndian.Uint32(tail[:]) != sum.Sum32() {
		return nil, History{}, fmt.Errorf("snapshot checksum: %w", ErrCorrupt)
	}
	return s, h, nil
}

func readRecord(br *bufio.Reader, sum hash.Hash32) ([]byte, error) {
	n, err := binary.ReadUvarint(br)
	if err != nil || n > maxCommand {
		return nil, ErrCorrupt
	}
	sum.Write(binary.AppendUvarint(nil, n))
	if n == 0 {
		return nil, nil
	}
	body := make([]byte, 0, min(n, 1<<16))
	for uint64(len(body)) < n { // grows with what really comes
		at := len(body)
		body = append(body, make([]byte, min(n-uint64(at), 1<<16))...)
		if _, err := io.ReadFull(br, body[at:]); err != nil {
			return nil, ErrCorrupt
		}
	}
	sum.Write(body)
	return body, nil
}

func (s *State) restore(body []byte, h *History, first bool) error {
	r := &reader{buf: body}
	kind := r.uint()
	if (kind == recordHead) != first {
		return ErrCorrupt
	}
	by := s.execution
	s.execution = Execution{}
	if by.ID != "" && kind != recordTask && kind != recordFinished {
		return ErrCorrupt
	}
	switch kind {
	case recordExecution:
		if s.execution = r.execution(); s.execution.ID == "" || len(s.execution.Group) > maxGroup {
			return ErrCorrupt
		}
	case recordHead:
		s.index, s.timeNS = r.uint(), r.int()
		s.generation = Generation{Height: r.uint(), ID: r.string()}
		s.nextFramework, s.nextAgent, s.networkVersion, s.pool = r.uint(), r.uint(), r.uint(), r.string()
	case recordFramework:
		f := r.framework()
		if _, twice := s.frameworkSlot[f.ID]; twice || r.err != nil {
			return ErrCorrupt
		}
		s.frameworkSlot[f.ID] = s.frameworks.add(f)
	case recordAgent:
		a := r.agent()
		if _, twice := s.agentSlot[a.ID]; twice || r.err != nil {
			return ErrCorrupt
		}
		slot := s.agents.add(a)
		s.agentSlot[a.ID], s.agentByNode[a.Node] = slot, slot
		if a.Subnet != "" {
			s.subnets[a.Subnet] = slot
		}
	case recordQuarter:
		if s.quarter = r.uint(); s.quarter >= quarters {
			return ErrCorrupt
		}
	case recordPast:
		if s.past = append(s.past, r.string()); len(s.past) > maxPast {
			return ErrCorrupt
		}
	case recordAdopting:
		slot, ok := s.agentSlot[AgentID(r.string())]
		if !ok {
			return ErrCorrupt
		}
		s.agents.at(slot).Adopting = true
	case recordInactive:
		slot, ok := s.agentSlot[AgentID(r.string())]
		if !ok {
			return ErrCorrupt
		}
		s.agents.at(slot).Deactivated = true
	case recordTask:
		t := r.task()
		t.Execution = by
		if _, twice := s.taskSlot[t.ContainerID]; twice || r.err != nil {
			return ErrCorrupt
		}
		if err := s.restoreTask(t); err != nil {
			return err
		}
	case recordRemoved:
		s.noteRemoved(FrameworkID(r.string()))
	case recordUser:
		name := r.string()
		if _, twice := s.userIDs[name]; twice || name == "" || len(s.users) >= maxUsers {
			return ErrCorrupt
		}
		s.addUser(name)
	case recordHardware:
		if err := s.restoreHardware(r.string(), r.string()); err != nil {
			return err
		}
	case recordWeight:
		if err := s.restoreWeight(r.weight()); err != nil {
			return err
		}
	case recordQuota:
		if err := s.restoreQuota(r.quota()); err != nil {
			return err
		}
	case recordMaintenance:
		if err := s.restoreMaintenance(r); err != nil {
			return err
		}
	case recordAnswer:
		if err := s.restoreAnswer(r); err != nil {
			return err
		}
	case recordDraining:
		if err := s.restoreDrain(r); err != nil {
			return err
		}
	case recordOperation:
		if err := s.restoreOperation(r.operation()); err != nil {
			return err
		}
	case recordFinished:
		t := r.task()
		t.Execution = by
		h.Tasks = append(h.Tasks, t)
	case recordEnded:
		h.Frameworks = append(h.Frameworks, r.framework())
	default:
		return fmt.Errorf("record of kind %d: %w", kind, ErrSnapshotNewer)
	}
	return r.done()
}
