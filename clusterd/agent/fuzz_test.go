package agent

import (
	"io"
	"log/slog"
	"testing"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/clusterd/agent/journal"
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
