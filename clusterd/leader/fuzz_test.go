package leader

import (
	"bytes"
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/state"
	"github.com/mesolith/mesolith/internal/wire"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"
	"google.golang.org/protobuf/proto"
)

// Whatever a framework asks for is refused, or is resources that can be counted, told and
// read again.
func FuzzTask(f *testing.F) {
	seed := func(change func(*mesosv1.TaskInfo)) {
		t := &mesosv1.TaskInfo{
			Name: proto.String("t"), TaskId: &mesosv1.TaskID{Value: proto.String("t")}, AgentId: &mesosv1.AgentID{Value: proto.String("a")},
			Command: &mesosv1.CommandInfo{Value: proto.String("true")}, Resources: []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 32), portRange(31000, 31001)},
		}
		change(t)
		raw, err := proto.Marshal(t)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	seed(func(*mesosv1.TaskInfo) {})
	seed(func(t *mesosv1.TaskInfo) {
		t.Limits = map[string]*mesosv1.Value_Scalar{"mem": {Value: proto.Float64(64)}}
	})
	seed(func(t *mesosv1.TaskInfo) { t.Resources[0].Role = proto.String("eng") })
	seed(func(t *mesosv1.TaskInfo) {
		t.Resources[1].Reservations = []*mesosv1.Resource_ReservationInfo{{Type: mesosv1.Resource_ReservationInfo_STATIC.Enum(), Role: proto.String("eng")}}
	})
	seed(func(t *mesosv1.TaskInfo) {
		t.Resources = append(t.Resources, &mesosv1.Resource{Name: proto.String("disks"), Type: mesosv1.Value_SET.Enum(), Set: &mesosv1.Value_Set{Item: []string{"a", "b"}}})
	})
	f.Fuzz(func(t *testing.T, raw []byte) {
		info := &mesosv1.TaskInfo{}
		if (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(raw, info) != nil {
			return
		}
		asks, err := checkTask(info, "a", "*", false)
		if err != nil {
			if err.Error() == "" {
				t.Fatal("refused without a word")
			}
			return
		}
		for _, list := range [][]*mesosv1.Resource{ToWire(asks, "*"), refined(ToWire(asks, "*"))} {
			again, err := fromWire(list)
			if err != nil || again.String() != asks.String() {
				t.Fatalf("%s became %s: %v", asks, again, err)
			}
		}
		if left, whole := asks.Minus(asks); !whole || len(left) > 0 {
			t.Fatalf("%s less itself leaves %s", asks, left)
		}
		if err := state.Check(state.LaunchTask{Container: "c", Task: state.TaskID(info.GetTaskId().GetValue()), Framework: "f", Agent: "a", Role: "*", Info: raw, Resources: asks}); err != nil {
			t.Fatalf("cannot be written into the log: %v", err)
		}
	})
}

// A FrameworkInfo that passes has roles to be offered in, and can be written down.
func FuzzFramework(f *testing.F) {
	for _, info := range []*mesosv1.FrameworkInfo{
		frameworkInfo(nil), frameworkInfo(func(i *mesosv1.FrameworkInfo) { i.Roles = []string{"a", "b/c"} }, multiRole),
		frameworkInfo(func(i *mesosv1.FrameworkInfo) { i.Role = proto.String("x"); i.FailoverTimeout = proto.Float64(1e9) }, partitioned),
	} {
		raw, err := proto.Marshal(info)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, "a")
	}
	f.Fuzz(func(t *testing.T, raw []byte, suppressed string) {
		info := &mesosv1.FrameworkInfo{}
		if (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(raw, info) != nil || checkFramework(info, []string{suppressed}) != nil {
			return
		}
		roles := rolesOf(info)
		for _, role := range roles {
			if checkRole(role) != nil {
				t.Fatalf("role %q passed", role)
			}
			minimum(info, role)
		}
		if err := state.Check(state.SubscribeFramework{Info: raw, Roles: roles, FailoverTimeout: int64(info.GetFailoverTimeout() * 1e9)}); err != nil {
			t.Fatalf("cannot be written into the log: %v", err)
		}
	})
}

// fed is an agent's connection with everything in it that the agent will ever send.
type fed struct{ *bytes.Reader }

func (fed) Write(p []byte) (int, error) { return len(p), nil }
func (fed) Close() error                { return nil }

// Whatever an agent sends, the leader goes on.
func FuzzAgentFrames(f *testing.F) {
	frames := func(list ...*agentwire.FromAgent) (out []byte) {
		for _, m := range list {
			var err error
			if out, err = wire.Append(out, m); err != nil {
				f.Fatal(err)
			}
		}
		return out
	}
	marshal := func(m proto.Message) []byte {
		raw, err := proto.MarshalOptions{AllowPartial: true}.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		return raw
	}
	hello := &agentwire.FromAgent{Body: &agentwire.FromAgent_Hello{Hello: &agentwire.Hello{Protocol: 1, Name: "n1"}}}
	attach := &agentwire.FromAgent{Body: &agentwire.FromAgent_Attach{Attach: &agentwire.Attach{
		Node: "n1", AttachKey: "k", Sequence: 1, Held: []*agentwire.Held{{ContainerId: "c"}},
		AgentInfo: marshal(&mesosv1.AgentInfo{Hostname: proto.String("n1"), Resources: []*mesosv1.Resource{scalar("cpus", 1)}}),
	}}}
	update := &agentwire.FromAgent{Body: &agentwire.FromAgent_Update{Update: &agentwire.Update{
		ContainerId: "c", Status: marshal(&mesosv1.TaskStatus{State: mesosv1.TaskState_TASK_RUNNING.Enum(), Uuid: make([]byte, 16)}),
	}}}
	forgotten := &agentwire.FromAgent{Body: &agentwire.FromAgent_Forgotten{Forgotten: &agentwire.Forgotten{ContainerIds: []string{"c"}}}}
	f.Add(frames(hello, attach))
	f.Add(frames(hello, attach, update, forgotten, attach))
	f.Add(frames(update))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := newCell(t)
		defer c.end()
		_ = c.desk.ServeAgent(t.Context(), "n1", fed{bytes.NewReader(in)})
		for range 2 { // what was proposed meanwhile has landed at the second look
			if err := c.l.View(t.Context(), func(*state.State, Live) {}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
