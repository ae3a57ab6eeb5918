package agent

import (
	"bytes"
	"context"
	"net/http"
	"net/netip"
	"testing"
	"time"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/executor"
	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
	"github.com/mesolith/mesolith/clusterd/streams"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

// bench is an agent whose loop the test is: it hands in what happens and looks at what goes
// out to the keeper and to the leader.
type bench struct {
	t      *testing.T
	a      *Agent
	keeper *keeperLink
	leader *masterLink
}

func newBench(t *testing.T) *bench {
	a, k := madeAgent(t)
	b := &bench{t: t, a: a}
	b.wire(a, k)
	a.id = "S1"
	t.Cleanup(func() { b.a.journal.Close() })
	return b
}

func (b *bench) wire(a *Agent, k *keeperLink) {
	b.a, b.keeper = a, k
	b.leader = &masterLink{name: "m1", conn: nobody{}, out: make(chan *agentwire.FromAgent, 100)}
	a.keeper, a.leader, a.attached = k, b.leader, true
}

// again is another program on the same journal. The keeper tells it of a container.
func (b *bench) again(c *keeper.Container) {
	b.t.Helper()
	a := reopened(b.t, b.a)
	a.id = "S1"
	b.wire(a, &keeperLink{conn: nobody{}, out: make(chan *keeper.Request, 100), asked: map[uint64]*keeper.Request{}})
	b.must(a.onContainer(c))
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func amount(name string, v float64) *mesosv1.Resource {
	return &mesosv1.Resource{Name: proto.String(name), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v}}
}

const executorContainer = "x1"

// runExecutor is what a leader sends before the first task.
func (b *bench) runExecutor() {
	b.t.Helper()
	info, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.ExecutorInfo{
		ExecutorId: &mesosv1.ExecutorID{Value: proto.String("e")}, Command: &mesosv1.CommandInfo{Value: proto.String("./executor")},
		Resources: []*mesosv1.Resource{amount("cpus", 0.1), amount("mem", 32)}, ShutdownGracePeriod: &mesosv1.DurationInfo{Nanoseconds: proto.Int64(90e9)},
	})
	b.must(err)
	b.must(b.a.onOrder(&agentwire.FromMaster{Body: &agentwire.FromMaster_Run{Run: &agentwire.Run{
		ContainerId: executorContainer, FrameworkId: "F", Role: "*", TaskInfo: info, ExecutorId: "e", ExecutorContainer: executorContainer,
	}}}))
}

// runTask gives a task to the executor, as one of a group where there are others.
func (b *bench) runTask(id string, group ...string) {
	b.t.Helper()
	info, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.TaskInfo{
		TaskId: &mesosv1.TaskID{Value: proto.String("task-" + id)}, Resources: []*mesosv1.Resource{amount("cpus", 1), amount("mem", 64)},
	})
	b.must(err)
	framework, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&mesosv1.FrameworkInfo{Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_PARTITION_AWARE.Enum()}}})
	b.must(err)
	b.must(b.a.onOrder(&agentwire.FromMaster{Body: &agentwire.FromMaster_Run{Run: &agentwire.Run{
		ContainerId: id, FrameworkId: "F", FrameworkInfo: framework, Role: "*", TaskInfo: info, ExecutorId: "e", ExecutorContainer: executorContainer, Group: group,
	}}}))
}

func (b *bench) kill(id string) {
	b.t.Helper()
	b.must(b.a.onOrder(&agentwire.FromMaster{Body: &agentwire.FromMaster_Kill{Kill: &agentwire.Kill{ContainerId: id, FrameworkId: "F", GraceNs: -1}}}))
}

func running() *keeper.Container {
	return &keeper.Container{ContainerId: executorContainer, Phase: keeper.Container_RUNNING, Sequence: 1, IpAddresses: []string{"10.88.1.2"}, Pid: 7}
}

// asked is what the keeper was asked since this was called last.
func (b *bench) asked() (out []*keeper.Request) {
	for {
		select {
		case r := <-b.keeper.out:
			out = append(out, r)
		default:
			return out
		}
	}
}

// told are the statuses of tasks that the leader was sent since, those of executors left out.
func (b *bench) told() (out []*mesosv1.TaskStatus) {
	b.t.Helper()
	for {
		select {
		case m := <-b.leader.out:
			if m.GetUpdate() == nil || m.GetUpdate().GetContainerId() == executorContainer {
				continue
			}
			st := &mesosv1.TaskStatus{}
			b.must(proto.UnmarshalOptions{AllowPartial: true}.Unmarshal(m.GetUpdate().GetStatus(), st))
			out = append(out, st)
		default:
			return out
		}
	}
}

// one is the only status that was told since.
func (b *bench) one(state mesosv1.TaskState, reason mesosv1.TaskStatus_Reason) *mesosv1.TaskStatus {
	b.t.Helper()
	all := b.told()
	if len(all) != 1 || all[0].GetState() != state || (all[0].Reason != nil) != (reason >= 0) || reason >= 0 && all[0].GetReason() != reason {
		b.t.Fatalf("told %v, want %s %s", all, state, reason)
	}
	return all[0]
}

const noReason = mesosv1.TaskStatus_Reason(-1)

// connected is an executor's stream, as it reads it.
type connected struct {
	t      *testing.T
	events chan *executor.Event
	s      *streams.Stream
}

// pipe hands what is written to a reader.
type pipe struct{ more chan []byte }

func (p *pipe) Header() http.Header { return http.Header{} }
func (p *pipe) WriteHeader(int)     {}
func (p *pipe) Flush()              {}
func (p *pipe) Write(b []byte) (int, error) {
	p.more <- bytes.Clone(b)
	return len(b), nil
}

var owner = Caller{From: netip.MustParseAddrPort("10.88.1.2:40000"), To: netip.MustParseAddrPort("10.88.1.1:5051")}

func call(kind executor.Call_Type) *executor.Call {
	return &executor.Call{Type: kind.Enum(), FrameworkId: &mesosv1.FrameworkID{Value: proto.String("F")}, ExecutorId: &mesosv1.ExecutorID{Value: proto.String("e")}}
}

func (b *bench) subscribe(say *executor.Call_Subscribe) *connected {
	b.t.Helper()
	c := &connected{t: b.t, events: make(chan *executor.Event, 100), s: streams.NewEvery(time.Hour, streams.Protobuf, 1<<20, streams.NewEvent(&executor.Event{}))}
	sub := call(executor.Call_SUBSCRIBE)
	if sub.Subscribe = say; say == nil {
		sub.Subscribe = &executor.Call_Subscribe{}
	}
	b.must(b.a.subscribe(owner, sub, c.s))
	w := &pipe{more: make(chan []byte, 100)}
	ctx, cancel := context.WithCancel(context.Background())
	b.t.Cleanup(cancel)
	go c.s.Serve(ctx, w)
	go func() {
		for {
			select {
			case raw := <-w.more:
				record, err := recordio.NewReader(bytes.NewReader(raw), 1<<20).Next()
				e := &executor.Event{}
				if err != nil || (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(record, e) != nil {
					e = nil
				}
				c.events <- e
			case <-ctx.Done():
				return
			}
		}
	}()
	if e := c.next(executor.Event_SUBSCRIBED).GetSubscribed(); e.GetContainerId().GetValue() != executorContainer || e.GetAgentInfo().GetId().GetValue() != "S1" ||
		e.GetFrameworkInfo().GetId().GetValue() != "F" || e.GetExecutorInfo().GetFrameworkId().GetValue() != "F" {
		b.t.Fatalf("SUBSCRIBED %v", e)
	}
	return c
}

func (c *connected) next(want executor.Event_Type) *executor.Event {
	c.t.Helper()
	select {
	case e := <-c.events:
		if e.GetType() != want {
			c.t.Fatalf("event %v, want %s", e, want)
		}
		return e
	case <-time.After(limitWait):
		c.t.Fatalf("no %s came", want)
		return nil
	}
}

// nothing: all that was sent has been read.
func (c *connected) nothing() {
	c.t.Helper()
	c.s.Send(streams.NewEvent(&executor.Event{Type: executor.Event_UNKNOWN.Enum()}))
	c.next(executor.Event_UNKNOWN)
}

func status(id string, uuid byte, state mesosv1.TaskState) *mesosv1.TaskStatus {
	return &mesosv1.TaskStatus{TaskId: &mesosv1.TaskID{Value: proto.String("task-" + id)}, State: state.Enum(), Uuid: bytes.Repeat([]byte{uuid}, 16)}
}

func (b *bench) report(c *connected, id string, uuid byte, state mesosv1.TaskState) {
	b.t.Helper()
	b.must(b.a.reported(b.a.executor("F", "e"), status(id, uuid, state)))
	if got := c.next(executor.Event_ACKNOWLEDGED).GetAcknowledged(); got.GetTaskId().GetValue() != "task-"+id || got.GetUuid()[0] != uuid {
		b.t.Fatalf("ACKNOWLEDGED %v", got)
	}
}

// heard is the framework's acknowledgement, by way of the leader.
func (b *bench) heard(id string, st *mesosv1.TaskStatus) {
	b.t.Helper()
	b.must(b.a.onOrder(&agentwire.FromMaster{Body: &agentwire.FromMaster_Acknowledge{Acknowledge: &agentwire.Acknowledge{ContainerId: id, Uuid: st.GetUuid()}}}))
}
