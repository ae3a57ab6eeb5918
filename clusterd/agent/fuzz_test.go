package agent

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/agent/journal"
	"github.com/mesolith/mesolith/internal/wire"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"github.com/mesolith/mesolith/internal/wire/keeper"
	"google.golang.org/protobuf/proto"
)

// Whatever a framework put into its task and its own description: the agent refuses it or
// can write it down, take it up again and hand it to the keeper.
func FuzzLaunch(f *testing.F) {
	marshal := func(m proto.Message) []byte {
		raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		return raw
	}
	f.Add(marshal(&mesosv1.TaskInfo{
		Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String("t")}, Command: &mesosv1.CommandInfo{Value: proto.String("true"), User: proto.String("u")},
		Resources: []*mesosv1.Resource{
			{Name: proto.String("mem"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: proto.Float64(32)}},
			{Name: proto.String("ports"), Type: mesosv1.Value_RANGES.Enum(), Ranges: &mesosv1.Value_Ranges{Range: []*mesosv1.Value_Range{{Begin: proto.Uint64(1), End: proto.Uint64(2)}}}},
		},
		Limits: map[string]*mesosv1.Value_Scalar{"cpus": {Value: proto.Float64(2)}, "mem": {Value: proto.Float64(1e300)}},
	}), marshal(&mesosv1.FrameworkInfo{User: proto.String("u"), Name: proto.String("n"), Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_TASK_KILLING_STATE.Enum()}}}))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, task, framework []byte) {
		a := New(Config{Info: &mesosv1.AgentInfo{}, Address: "10.0.0.2", Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		first, err := a.newTask(&journal.Launched{ContainerId: "c", FrameworkId: "f", TaskInfo: task, FrameworkInfo: framework})
		if err != nil {
			return
		}
		record, err := launchedRecord(first)
		if err != nil {
			t.Fatalf("taken, and cannot be written down: %v", err)
		}
		again, err := a.newTask(record.GetLaunched())
		if err != nil || again.User != first.User || again.KillingState != first.KillingState || !proto.Equal(again.Info, first.Info) {
			t.Fatalf("%+v was taken up again as %+v: %v", first, again, err)
		}
		if !proto.Equal(a.launchRequest(first), a.launchRequest(again)) {
			t.Fatalf("another launch: %v, %v", a.launchRequest(first), a.launchRequest(again))
		}
	})
}

// Whatever masters and keeper send, in whatever order: the agent goes on, and what it has
// written down makes another one that holds the same containers.
func FuzzMessages(f *testing.F) {
	frames := func(list ...proto.Message) []byte {
		var b bytes.Buffer
		for _, m := range list {
			if err := wire.Write(&b, m); err != nil {
				f.Fatal(err)
			}
		}
		return b.Bytes()
	}
	from := func(m *agentwire.FromMaster) *agentwire.FromMaster { m.Height, m.Term = 1, 1; return m }
	run := &agentwire.FromMaster{Body: &agentwire.FromMaster_Run{Run: &agentwire.Run{ContainerId: "c", FrameworkId: "f", TaskInfo: []byte{0x0a, 1, 't'}}}}
	orders := frames(
		from(&agentwire.FromMaster{Body: &agentwire.FromMaster_Hello{Hello: &agentwire.MasterHello{Protocol: 1, Name: "m", Leading: true}}}),
		from(&agentwire.FromMaster{Body: &agentwire.FromMaster_Attached{Attached: &agentwire.Attached{AgentId: "S1", Sequence: 1}}}),
		from(run), from(run),
		from(&agentwire.FromMaster{Body: &agentwire.FromMaster_Drain{Drain: &agentwire.Drain{On: true, MaxGraceNs: 5, MarkGone: true}}}),
		from(&agentwire.FromMaster{Body: &agentwire.FromMaster_Made{Made: &agentwire.Made{Resources: []*agentwire.MadeResource{{Resource: []byte("no resource"), Serial: 1}}}}}),
		from(&agentwire.FromMaster{Body: &agentwire.FromMaster_Kill{Kill: &agentwire.Kill{ContainerId: "d", TaskId: "t", GraceNs: -1}}}),
		from(&agentwire.FromMaster{Body: &agentwire.FromMaster_Acknowledge{Acknowledge: &agentwire.Acknowledge{ContainerId: "c", Uuid: make([]byte, 16)}}}),
		from(&agentwire.FromMaster{Body: &agentwire.FromMaster_Forget{Forget: &agentwire.Forget{ContainerIds: []string{"c", "d"}}}}),
		from(&agentwire.FromMaster{Body: &agentwire.FromMaster_Network{Network: &agentwire.NetworkPlan{Version: 1}}}),
	)
	answers := frames(
		&keeper.Response{Body: &keeper.Response_Hello{Hello: &keeper.Hello{Protocol: 1, Runtime: "containers"}}},
		&keeper.Response{Body: &keeper.Response_List{List: &keeper.ContainerList{
			Containers: []*keeper.Container{{ContainerId: "c", Phase: keeper.Container_RUNNING}, {ContainerId: "e", Phase: keeper.Container_ENDED}},
			Launches:   []*keeper.Launch{{ContainerId: "c", AgentId: "S1", TaskInfo: []byte{0x0a, 1, 't'}}},
		}}},
		&keeper.Response{Id: 3, Error: &keeper.Error{Code: keeper.Error_STALE, Message: "no"}},
		&keeper.Response{Body: &keeper.Response_Event{Event: &keeper.Container{ContainerId: "c", Phase: keeper.Container_ENDED, WaitStatus: 9, Sequence: 2}}},
	)
	f.Add(orders, answers, false)
	f.Add(orders, answers, true)
	f.Add([]byte{}, answers, true)
	f.Fuzz(func(t *testing.T, orders, answers []byte, gap bool) {
		a := New(Config{
			Info: &mesosv1.AgentInfo{}, Keeper: &keeper.Configure{}, JournalPath: filepath.Join(t.TempDir(), "journal"),
			Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		if err := a.recover(); err != nil {
			t.Fatal(err)
		}
		if gap {
			a.gap, a.id, a.key = "fuzzed", "", ""
		}
		master := &masterLink{name: "m", conn: nobody{}, out: make(chan *agentwire.FromAgent, 1<<12)}
		link := &keeperLink{conn: nobody{}, out: make(chan *keeper.Request, 1<<12), asked: map[uint64]*keeper.Request{}}
		if err := a.onKeeper(keeperEvent{link: link}); err != nil {
			t.Fatal(err)
		}
		o, k := bytes.NewReader(orders), bytes.NewReader(answers)
		for o.Len() > 0 || k.Len() > 0 {
			m, r := &agentwire.FromMaster{}, &keeper.Response{}
			if wire.Read(k, r, wire.MaxFrame) == nil {
				if err := a.onKeeper(keeperEvent{link: link, response: r}); err != nil {
					t.Fatal(err)
				}
			} else {
				k.Reset(nil)
			}
			if wire.Read(o, m, wire.MaxFrame) == nil {
				if err := a.onMaster(masterEvent{link: master, message: m}); err != nil {
					t.Fatal(err)
				}
			} else {
				o.Reset(nil)
			}
		}
		if err := a.journal.Close(); err != nil {
			t.Fatal(err)
		}
		again := New(a.cfg)
		if err := again.recover(); err != nil {
			t.Fatal(err)
		}
		defer again.journal.Close()
		if len(again.tasks) != len(a.tasks) || a.gap == "" && again.id != a.id {
			t.Fatalf("%d containers of agent %q are remembered as %d of %q", len(a.tasks), a.id, len(again.tasks), again.id)
		}
	})
}

// nobody is the other end of a connection that is not there.
type nobody struct{ net.Conn }

func (nobody) Close() error { return nil }
