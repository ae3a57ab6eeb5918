package leader

import (
	"testing"
	"testing/synctest"

	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	agentwire "github.com/mesolith/mesolith/internal/wire/agent"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"google.golang.org/protobuf/proto"
)

func TestUserIn(t *testing.T) {
	for _, want := range []string{"", "web", "web:www"} {
		info := &mesosv1.TaskInfo{
			Name: proto.String("user"), TaskId: &mesosv1.TaskID{Value: proto.String("t")}, AgentId: &mesosv1.AgentID{Value: proto.String("a")},
			Command: &mesosv1.CommandInfo{Value: proto.String("true"), Arguments: []string{"user"}}, Data: []byte{0x2a, 3, 'b', 'a', 'd'},
			Resources: []*mesosv1.Resource{{Name: proto.String("cpus"), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: proto.Float64(1)}}},
		}
		if want != "" {
			info.Command.User = proto.String(want)
		}
		raw, err := proto.Marshal(info)
		if err != nil {
			t.Fatal(err)
		}
		if got := userIn(raw); got != want {
			t.Errorf("%q is found as %q", want, got)
		}
		for n := range raw { // cut anywhere: no panic
			userIn(raw[:n])
		}
	}
	if got := userIn([]byte{0xff, 0xff, 0xff}); got != "" {
		t.Errorf("in nonsense: %q", got)
	}
}

func TestUserName(t *testing.T) {
	for _, c := range []struct{ own, framework, want string }{
		{"", "", ""},
		{"", "root", ""},
		{"root:www", "web", ""},
		{"1000", "web", ""},
		{"100:7", "", ""},
		{"", "web", "web"},
		{"db", "web", "db"},
		{"db:www", "web", "db"},
		{"4ever", "", "4ever"},
	} {
		if got := userName(c.own, c.framework); got != c.want {
			t.Errorf("%q of a framework of %q: %q, want %q", c.own, c.framework, got, c.want)
		}
	}
}

// A name that a task runs under has one id, whoever leads and wherever the task runs; the
// launch itself tells it to the agent.
func TestUserHasOneIDInTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		a := c.agent("n1")
		defer a.conn.Close()
		a.attach("n1")
		f := c.subscribe("f", "")
		f.next(scheduler.Event_SUBSCRIBED)
		run := func(id, user string) uint32 {
			t.Helper()
			f.launch(f.offer(), id, func(i *mesosv1.TaskInfo) { i.Command.User = proto.String(user) })
			return until(a, (*agentwire.FromMaster).GetRun).GetUserId()
		}
		first := run("t1", "somebody")
		other := run("t2", "else:www")
		if first == 0 || other == 0 || first == other {
			t.Errorf("somebody is %d, else is %d", first, other)
		}
		if id := run("t3", "root"); id != 0 {
			t.Errorf("root has the cluster's id %d", id)
		}
		id := f.id
		c.end()
		c.lead()
		defer c.end()
		f = c.subscribe("f", id)
		f.next(scheduler.Event_SUBSCRIBED)
		for h := until(a, (*agentwire.FromMaster).GetHello); h.GetLeading(); h = until(a, (*agentwire.FromMaster).GetHello) {
		}
		a.attach("n1")
		for range 3 { // not heard of yet: told again
			if again := until(a, (*agentwire.FromMaster).GetRun); again.GetUserId() != first && again.GetUserId() != other && again.GetUserId() != 0 {
				t.Errorf("told again as user %d", again.GetUserId())
			}
		}
		if again := run("t4", "somebody"); again != first {
			t.Errorf("somebody was %d and is %d under the next leader", first, again)
		}
	})
}
