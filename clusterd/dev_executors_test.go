package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/internal/stranger"
)

// exampleExecutor is mesos-go's: it reports each task as running and finished at once, and
// says what it does on its standard error.
var exampleExecutor = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "example-executor")
	if err != nil {
		return "", err
	}
	return stranger.Build(context.Background(), dir, "example-executor")
})

// given is a framework that launches tasks by operations of its own and sees every event.
type given struct {
	t       *testing.T
	c       *client.Client
	mu      sync.Mutex
	updates map[string][]*mesosv1.TaskStatus
	events  []*scheduler.Event
	launch  func(o *mesosv1.Offer) []*mesosv1.Offer_Operation // nil: nothing more
}

func (p *processes) given(launch func(o *mesosv1.Offer) []*mesosv1.Offer_Operation) *given {
	p.t.Helper()
	c := p.client(true)
	g := &given{t: p.t, c: c, updates: map[string][]*mesosv1.TaskStatus{}, launch: launch}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, g.handle) }()
	p.t.Cleanup(func() {
		end, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		if err := c.Teardown(end); err != nil {
			p.t.Errorf("teardown: %v", err)
		}
		cancel()
		<-ended
	})
	return g
}

func (g *given) handle(ctx context.Context, e *scheduler.Event) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch e.GetType() {
	case scheduler.Event_OFFERS:
		for _, o := range e.GetOffers().GetOffers() {
			ids := []*mesosv1.OfferID{o.GetId()}
			if g.launch == nil {
				if err := g.c.Decline(ctx, ids, 1); err != nil {
					return err
				}
				continue
			}
			ops := g.launch(o)
			g.launch = nil
			if err := g.c.Accept(ctx, ids, ops, 1); err != nil {
				return err
			}
		}
	case scheduler.Event_UPDATE:
		st := e.GetUpdate().GetStatus()
		g.updates[st.GetTaskId().GetValue()] = append(g.updates[st.GetTaskId().GetValue()], st)
		if len(st.GetUuid()) > 0 {
			return g.c.Acknowledge(ctx, st)
		}
	case scheduler.Event_HEARTBEAT:
	default:
		g.events = append(g.events, e)
	}
	return nil
}

// next has something more launched, with the next offer.
func (g *given) next(launch func(o *mesosv1.Offer) []*mesosv1.Offer_Operation) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.launch = launch
}

// states are what a task was told to be, repetitions left out.
func (g *given) states(id string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []string
	for _, st := range g.updates[id] {
		if s := st.GetState().String(); len(out) == 0 || out[len(out)-1] != s {
			out = append(out, s)
		}
	}
	return out
}

func (g *given) newest(id string) *mesosv1.TaskStatus {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := g.updates[id]
	if len(all) == 0 {
		return nil
	}
	return all[len(all)-1]
}

func (g *given) failures() (out []*scheduler.Event_Failure) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range g.events {
		if e.GetType() == scheduler.Event_FAILURE {
			out = append(out, e.GetFailure())
		}
	}
	return out
}

func scalar(name string, v float64) *mesosv1.Resource {
	return &mesosv1.Resource{Name: proto.String(name), Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: proto.Float64(v)}}
}

func executorInfo(id, command string) *mesosv1.ExecutorInfo {
	return &mesosv1.ExecutorInfo{
		ExecutorId: &mesosv1.ExecutorID{Value: proto.String(id)}, Name: proto.String("executor " + id), Type: mesosv1.ExecutorInfo_CUSTOM.Enum(),
		Command: &mesosv1.CommandInfo{Value: proto.String(command)}, Resources: []*mesosv1.Resource{scalar("cpus", 0.05), scalar("mem", 32), scalar("disk", 1)},
	}
}

func givenTask(id string, o *mesosv1.Offer, x *mesosv1.ExecutorInfo) *mesosv1.TaskInfo {
	return &mesosv1.TaskInfo{
		Name: proto.String(id), TaskId: &mesosv1.TaskID{Value: proto.String(id)}, AgentId: o.GetAgentId(), Executor: x,
		Resources: []*mesosv1.Resource{scalar("cpus", 0.05), scalar("mem", 32)},
	}
}

// A stranger's executor connects to its agent, is given tasks one by one and as a group, and
// what it reports reaches the framework.
func TestStrangersExecutor(t *testing.T) {
	program, err := exampleExecutor()
	if err != nil {
		t.Fatal(err)
	}
	p := newTaskProcesses(t, 1)
	p.start(0)
	x := executorInfo("e1", program)
	g := p.given(func(o *mesosv1.Offer) []*mesosv1.Offer_Operation {
		return []*mesosv1.Offer_Operation{client.Launch(givenTask("t1", o, x), givenTask("t2", o, x))}
	})
	ends := func(id string) {
		t.Helper()
		p.eventually("the end of "+id, func() bool {
			st := g.newest(id)
			return st != nil && client.Terminal(st.GetState())
		})
		if got := strings.Join(g.states(id), " "); got != "TASK_RUNNING TASK_FINISHED" {
			t.Errorf("%s was told as %s: %v", id, got, g.newest(id))
		}
	}
	ends("t1")
	ends("t2")
	st := g.newest("t1")
	if st.GetSource() != mesosv1.TaskStatus_SOURCE_EXECUTOR || st.GetExecutorId().GetValue() != "e1" || len(st.GetUuid()) != 16 {
		t.Errorf("the executor's update arrives as %v", st)
	}
	container := st.GetContainerStatus().GetContainerId().GetValue()
	if container == "" || container != g.newest("t2").GetContainerStatus().GetContainerId().GetValue() {
		t.Errorf("tasks of one executor are in one container: %v, %v", st, g.newest("t2"))
	}
	// The same executor is given more; offers of its agent say that it is there.
	var offered []*mesosv1.ExecutorID
	g.next(func(o *mesosv1.Offer) []*mesosv1.Offer_Operation {
		offered = o.GetExecutorIds()
		return []*mesosv1.Offer_Operation{client.Launch(givenTask("t3", o, x))}
	})
	ends("t3")
	if len(offered) != 1 || offered[0].GetValue() != "e1" {
		t.Errorf("executors in the offer: %v", offered)
	}
	if other := g.newest("t3").GetContainerStatus().GetContainerId().GetValue(); other != container {
		t.Errorf("a second executor %s was begun beside %s", other, container)
	}
	// Both programs of the node die; the executor is given a task when they are back.
	p.kill(0)
	if pid, err := p.keeper(0).holder(); err == nil {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	p.start(0)
	g.next(func(o *mesosv1.Offer) []*mesosv1.Offer_Operation {
		return []*mesosv1.Offer_Operation{client.Launch(givenTask("t4", o, x))}
	})
	ends("t4")
	if other := g.newest("t4").GetContainerStatus().GetContainerId().GetValue(); other != container {
		t.Errorf("after the node's programs died, another executor %s runs beside %s", other, container)
	}
	text, _ := p.agentState(0)
	sandbox := filepath.Join(p.dirs[0], "work", "slaves", st.GetAgentId().GetValue(), "frameworks", g.c.FrameworkID(), "executors", "e1", "runs", container)
	out, err := os.ReadFile(filepath.Join(sandbox, "stderr"))
	if err != nil || !strings.Contains(string(out), "SUBSCRIBED") && !strings.Contains(string(out), "subscribing to agent") {
		t.Errorf("the executor's output: %s %v", out, err)
	}
	if !strings.Contains(text, `"id":"e1"`) {
		t.Errorf("the agent does not show the executor: %s", text)
	}
}

// group is a launch of tasks together by the built-in executor.
func groupOf(o *mesosv1.Offer, executor string, commands map[string]string) *mesosv1.Offer_Operation {
	g := &mesosv1.Offer_Operation_LaunchGroup{Executor: &mesosv1.ExecutorInfo{
		Type: mesosv1.ExecutorInfo_DEFAULT.Enum(), ExecutorId: &mesosv1.ExecutorID{Value: proto.String(executor)},
		Resources: []*mesosv1.Resource{scalar("cpus", 0.1), scalar("mem", 32), scalar("disk", 8)},
	}, TaskGroup: &mesosv1.TaskGroupInfo{}}
	for id, command := range commands {
		t := givenTask(id, o, nil)
		t.Command = &mesosv1.CommandInfo{Value: proto.String(command)}
		g.TaskGroup.Tasks = append(g.TaskGroup.Tasks, t)
	}
	return &mesosv1.Offer_Operation{Type: mesosv1.Offer_Operation_LAUNCH_GROUP.Enum(), LaunchGroup: g}
}

// Groups of the built-in executor: who ends well leaves the others alone, who fails or is
// killed takes them along, and the executor is over when nothing is left of it. clusterd
// dies meanwhile.
func TestPods(t *testing.T) {
	p := newTaskProcesses(t, 1)
	p.start(0)
	const lasts = "trap 'exit 9' TERM; while :; do sleep 0.1; done"
	g := p.given(func(o *mesosv1.Offer) []*mesosv1.Offer_Operation {
		return []*mesosv1.Offer_Operation{
			groupOf(o, "one", map[string]string{"done": "true", "stays": lasts}),
			groupOf(o, "two", map[string]string{"fails": "sleep 1; exit 3", "falls": lasts}),
		}
	})
	is := func(id string, want ...string) {
		t.Helper()
		p.eventually(id+" being "+strings.Join(want, " "), func() bool { return strings.Join(g.states(id), " ") == strings.Join(want, " ") })
	}
	is("done", "TASK_STARTING", "TASK_RUNNING", "TASK_FINISHED")
	is("fails", "TASK_STARTING", "TASK_RUNNING", "TASK_FAILED")
	is("falls", "TASK_STARTING", "TASK_RUNNING", "TASK_KILLED")
	is("stays", "TASK_STARTING", "TASK_RUNNING")
	st := g.newest("stays")
	if c := st.GetContainerStatus().GetContainerId(); c.GetParent().GetValue() == "" || c.GetParent().GetValue() != g.newest("done").GetContainerStatus().GetContainerId().GetParent().GetValue() ||
		c.GetValue() == c.GetParent().GetValue() || st.GetExecutorId().GetValue() != "one" {
		t.Errorf("a task of a pod is told as %v", st)
	}
	p.eventually("the end of the second executor", func() bool { return len(g.failures()) == 1 })
	if e := g.failures()[0]; e.GetExecutorId().GetValue() != "two" || e.GetAgentId().GetValue() != st.GetAgentId().GetValue() {
		t.Errorf("FAILURE %v", e)
	}
	parent := st.GetContainerStatus().GetContainerId().GetParent().GetValue()
	sandbox := filepath.Join(p.dirs[0], "work", "slaves", st.GetAgentId().GetValue(), "frameworks", g.c.FrameworkID(), "executors", "one", "runs",
		parent, "containers", st.GetContainerStatus().GetContainerId().GetValue())
	if _, err := os.Stat(filepath.Join(sandbox, "stdout")); err != nil {
		t.Errorf("sandbox of a task of a pod: %v", err)
	}
	p.kill(0)
	p.start(0)
	p.eventually("the pod after clusterd died", func() bool {
		text, answers := p.agentState(0)
		return answers && strings.Contains(text, `"id":"one"`) && strings.Contains(text, `"id":"stays"`)
	})
	if err := g.c.Kill(t.Context(), st.GetTaskId(), st.GetAgentId()); err != nil {
		t.Fatal(err)
	}
	is("stays", "TASK_STARTING", "TASK_RUNNING", "TASK_KILLED")
	if m := g.newest("stays").GetMessage(); m != "Command exited with status 9" {
		t.Errorf("the killed task's message: %s", m)
	}
	p.eventually("the end of the first executor", func() bool { return len(g.failures()) == 2 })
}

// mesos-go's example scheduler brings its executor along by a URI that it serves itself; all
// of its tasks finish, or it says why not and ends with an error. In protobuf alone: its JSON
// knows no master with the capability QUOTA_V2, which those of Mesos 1.9 and later have.
func TestStrangersSchedulerWithItsExecutor(t *testing.T) {
	program, err := exampleExecutor()
	if err != nil {
		t.Fatal(err)
	}
	scheduler, err := stranger.Build(t.Context(), t.TempDir(), "example-scheduler")
	if err != nil {
		t.Fatal(err)
	}
	p := newTaskProcesses(t, 3)
	for i := range p.running {
		p.start(i)
	}
	for i := range p.running { // two of them forward
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		cmd := exec.CommandContext(ctx, scheduler, "-url", "http://"+p.api(i)+"/api/v1/scheduler", "-executor", program, "-exec.image", "",
			"-server.address", "127.0.0.1", "-metrics.port", strconv.Itoa(freePorts(t)), "-tasks", "5", "-cpu", "0.1", "-memory", "32", "-verbose")
		out, err := cmd.CombinedOutput()
		cancel()
		// It ends with a status of 1 in either case: its own end cancels its own stream.
		if !strings.Contains(string(out), "mission accomplished") || strings.Contains(string(out), "unexpected state") {
			t.Errorf("at node %d: %v\n%s", i, err, out[max(0, len(out)-4000):])
		}
	}
}
