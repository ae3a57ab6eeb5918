//go:build vm

package qemutests

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/api/mesos/v1/agent"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
	"github.com/mesolith/mesolith/api/mesos/v1/scheduler"
	"github.com/mesolith/mesolith/internal/stranger"
	"github.com/mesolith/mesolith/qemu-tests/cluster"
)

// accepting is a framework that accepts offers with operations of its own, one at a time.
type accepting struct {
	t  *testing.T
	c  *client.Client
	mu sync.Mutex
	// next is what the next offer that it fits is accepted with; nil: nothing.
	next    func(*mesosv1.Offer) []*mesosv1.Offer_Operation
	updates map[string][]*mesosv1.TaskStatus
	ended   []string // executors
}

func (w *world) accepting(t *testing.T) *accepting {
	t.Helper()
	c, err := client.New(client.Config{Masters: w.APIs(), HTTP: w.Client(), Protobuf: true, Framework: &mesosv1.FrameworkInfo{
		User: proto.String("root"), Name: proto.String(t.Name()), Roles: []string{"*"}, FailoverTimeout: proto.Float64(600),
		Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	a := &accepting{t: t, c: c, updates: map[string][]*mesosv1.TaskStatus{}}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- c.Run(ctx, a.handle) }()
	t.Cleanup(func() {
		end, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		if err := c.Teardown(end); err != nil && !t.Failed() {
			t.Errorf("teardown: %v", err)
		}
		cancel()
		<-over
	})
	return a
}

func (a *accepting) handle(ctx context.Context, e *scheduler.Event) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch e.GetType() {
	case scheduler.Event_OFFERS:
		for _, o := range e.GetOffers().GetOffers() {
			var ops []*mesosv1.Offer_Operation
			if a.next != nil {
				ops = a.next(o)
			}
			if len(ops) > 0 {
				a.next = nil
			}
			if err := a.c.Accept(ctx, []*mesosv1.OfferID{o.GetId()}, ops, 0.1); err != nil {
				return err
			}
		}
	case scheduler.Event_UPDATE:
		st := e.GetUpdate().GetStatus()
		a.updates[st.GetTaskId().GetValue()] = append(a.updates[st.GetTaskId().GetValue()], st)
		if len(st.GetUuid()) > 0 {
			return a.c.Acknowledge(ctx, st)
		}
	case scheduler.Event_FAILURE:
		if x := e.GetFailure().GetExecutorId(); x != nil {
			a.ended = append(a.ended, x.GetValue())
		}
	}
	return nil
}

// launch accepts the first offer of a node with operations.
func (a *accepting) launch(on string, ops func(*mesosv1.Offer) []*mesosv1.Offer_Operation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.next = func(o *mesosv1.Offer) []*mesosv1.Offer_Operation {
		if o.GetHostname() != on {
			return nil
		}
		return ops(o)
	}
}

// is waits until a task was told to be in a state last, and gives that.
func (a *accepting) is(id string, want mesosv1.TaskState) *mesosv1.TaskStatus {
	a.t.Helper()
	var last *mesosv1.TaskStatus
	eventually(a.t, within(a.t, toRun), func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if all := a.updates[id]; len(all) > 0 {
			last = all[len(all)-1]
		}
		if last.GetState() != want || last == nil {
			return fmt.Errorf("%s is %v, want %s", id, last, want)
		}
		return nil
	})
	return last
}

func amount(name string, v float64) *mesosv1.Resource {
	return &mesosv1.Resource{Name: &name, Type: mesosv1.Value_SCALAR.Enum(), Scalar: &mesosv1.Value_Scalar{Value: &v}}
}

func bareTask(id string, o *mesosv1.Offer) *mesosv1.TaskInfo {
	return &mesosv1.TaskInfo{
		Name: &id, TaskId: &mesosv1.TaskID{Value: &id}, AgentId: o.GetAgentId(), Resources: []*mesosv1.Resource{amount("cpus", 0.05), amount("mem", 32)},
	}
}

func addressesOf(st *mesosv1.TaskStatus) string {
	var out []string
	for _, n := range st.GetContainerStatus().GetNetworkInfos() {
		for _, ip := range n.GetIpAddresses() {
			out = append(out, ip.GetIpAddress())
		}
	}
	return strings.Join(out, ",")
}

// A stranger's executor is fetched by a URI, connects to its agent out of its container by
// plain HTTP, and is given tasks; both programs of the node die, and it is given another.
func TestExecutorOfAStranger(t *testing.T) {
	w := three(t)
	stopwatch(t)
	program, err := stranger.Build(t.Context(), t.TempDir(), "example-executor")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := w.LAN.Listen(5008)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { http.ServeFile(rw, r, program) })}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { server.Close() })
	executor := &mesosv1.ExecutorInfo{
		Type: mesosv1.ExecutorInfo_CUSTOM.Enum(), ExecutorId: &mesosv1.ExecutorID{Value: proto.String("strange")},
		Command: &mesosv1.CommandInfo{Value: proto.String("./example-executor"), Uris: []*mesosv1.CommandInfo_URI{{
			Value: proto.String(fmt.Sprintf("http://%s:5008/example-executor", w.LAN.Gateway())), Executable: proto.Bool(true),
		}}},
		Resources: []*mesosv1.Resource{amount("cpus", 0.05), amount("mem", 48)},
	}
	a := w.accepting(t)
	n := w.Machines()[1].Node
	give := func(ids ...string) {
		a.launch(n.Address.String(), func(o *mesosv1.Offer) []*mesosv1.Offer_Operation {
			var tasks []*mesosv1.TaskInfo
			for _, id := range ids {
				one := bareTask(id, o)
				one.Executor = executor
				tasks = append(tasks, one)
			}
			return []*mesosv1.Offer_Operation{client.Launch(tasks...)}
		})
	}
	give("given-1", "given-2")
	first := a.is("given-1", mesosv1.TaskState_TASK_FINISHED)
	second := a.is("given-2", mesosv1.TaskState_TASK_FINISHED)
	container := first.GetContainerStatus().GetContainerId().GetValue()
	if container == "" || container != second.GetContainerStatus().GetContainerId().GetValue() || !strings.HasPrefix(addressesOf(first), "10.88.") {
		t.Errorf("two tasks of one executor are told as %v and %v", first, second)
	}
	for _, program := range []string{"isolated", "clusterd"} {
		if err := w.nodeAPI(n).Kill(t.Context(), program, "KILL"); err != nil {
			t.Fatal(err)
		}
	}
	give("given-3")
	if third := a.is("given-3", mesosv1.TaskState_TASK_FINISHED); third.GetContainerStatus().GetContainerId().GetValue() != container {
		t.Errorf("after both programs died another executor was begun: %v", third)
	}
	// Nobody else is this executor: the call comes from another container's address.
	f := w.framework(t, false)
	thief := f.onBase(t, "thief", fmt.Sprintf(`wget -q -O - --header 'Content-Type: application/json' --post-data '{"type":"HEARTBEAT","framework_id":{"value":"%s"},"executor_id":{"value":"strange"}}' http://%s:%d/api/v1/executor 2>&1; exit 0`,
		a.c.FrameworkID(), n.Address, cluster.AgentPort), "")
	thief.Hostname = n.Address.String()
	l := f.runToEnd(t, thief)[0]
	wantState(t, l, mesosv1.TaskState_TASK_FINISHED)
	if out := f.output(t, l, "stdout"); !strings.Contains(out, "403") {
		t.Errorf("another task that calls as the executor hears: %s", out)
	}
}

// A pod: its tasks have one network, each its own files, processes and limits; they are
// checked, and when one is killed the others go too.
func TestPod(t *testing.T) {
	w := three(t)
	stopwatch(t)
	a := w.accepting(t)
	on := w.Machines()[2].Node.Address.String()
	image := dockerImage(w.image(t))
	run := func(task *mesosv1.TaskInfo, verb ...string) *mesosv1.TaskInfo {
		task.Container = image
		task.Command = &mesosv1.CommandInfo{Shell: proto.Bool(false), Value: proto.String("/program"), Arguments: append([]string{"program"}, verb...)}
		return task
	}
	a.launch(on, func(o *mesosv1.Offer) []*mesosv1.Offer_Operation {
		server := run(bareTask("pod-server", o), "serve")
		server.Command.Environment = &mesosv1.Environment{Variables: []*mesosv1.Environment_Variable{{Name: proto.String("PORT0"), Value: proto.String("8080")}}}
		server.HealthCheck = everySecond()
		server.HealthCheck.Tcp = &mesosv1.HealthCheck_TCPCheckInfo{Port: proto.Uint32(8080)}
		server.HealthCheck.GracePeriodSeconds = proto.Float64(60)
		visitor := bareTask("pod-visitor", o)
		visitor.Command = &mesosv1.CommandInfo{Value: proto.String("while ! wget -q -O /dev/null http://127.0.0.1:8080/; do sleep 0.2; done; ps | wc -l")}
		return []*mesosv1.Offer_Operation{{Type: mesosv1.Offer_Operation_LAUNCH_GROUP.Enum(), LaunchGroup: &mesosv1.Offer_Operation_LaunchGroup{
			Executor: &mesosv1.ExecutorInfo{
				Type: mesosv1.ExecutorInfo_DEFAULT.Enum(), ExecutorId: &mesosv1.ExecutorID{Value: proto.String("pod")},
				Resources: []*mesosv1.Resource{amount("cpus", 0.05), amount("mem", 32), amount("disk", 8)},
			},
			TaskGroup: &mesosv1.TaskGroupInfo{Tasks: []*mesosv1.TaskInfo{server, visitor}},
		}}}
	})
	visited := a.is("pod-visitor", mesosv1.TaskState_TASK_FINISHED)
	var served *mesosv1.TaskStatus
	eventually(t, within(t, toRun), func() error {
		if served = a.is("pod-server", mesosv1.TaskState_TASK_RUNNING); !served.GetHealthy() {
			return fmt.Errorf("the server of the pod is not called healthy: %v", served)
		}
		return nil
	})
	if addressesOf(visited) != addressesOf(served) || !strings.HasPrefix(addressesOf(served), "10.88.") {
		t.Errorf("the tasks of a pod are at %s and %s", addressesOf(visited), addressesOf(served))
	}
	one, two := visited.GetContainerStatus().GetContainerId(), served.GetContainerStatus().GetContainerId()
	if one.GetParent().GetValue() == "" || one.GetParent().GetValue() != two.GetParent().GetValue() || one.GetValue() == two.GetValue() {
		t.Errorf("containers %v and %v", one, two)
	}
	if err := a.c.Kill(t.Context(), served.GetTaskId(), served.GetAgentId()); err != nil {
		t.Fatal(err)
	}
	a.is("pod-server", mesosv1.TaskState_TASK_KILLED)
	eventually(t, within(t, toRun), func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.ended) != 1 || a.ended[0] != "pod" {
			return fmt.Errorf("executors that ended: %v", a.ended)
		}
		return nil
	})
}

// An operator looks into a running container: the command that a session runs has the
// container's files, processes and network, and no more rights than its task; closing the
// connection ends it.
func TestSessionInAContainer(t *testing.T) {
	w := three(t)
	stopwatch(t)
	f := w.framework(t, false)
	task := f.onBase(t, "looked-into", "echo here > mine; exec sleep 100000", "1234")
	l := f.start(t, task)[0]
	call := fmt.Sprintf(`{"type":"LAUNCH_NESTED_CONTAINER_SESSION","launch_nested_container_session":{"container_id":{"value":"look","parent":{"value":"%s"}},`+
		`"command":{"value":"cat mine; id -u; grep -c ^ /proc/1/cmdline; grep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status; exit 7"},"container":{"type":"MESOS","linux_info":{"share_pid_namespace":true}}}}`,
		l.Status.GetContainerStatus().GetContainerId().GetValue())
	req, err := http.NewRequestWithContext(within(t, toRun), http.MethodPost, fmt.Sprintf("https://%s:%d/api/v1", l.Hostname, cluster.AgentPort), strings.NewReader(call))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"Content-Type": "application/json", "Accept": "application/recordio", "Message-Accept": "application/json"} {
		req.Header.Set(name, value)
	}
	resp, err := w.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/recordio" {
		raw, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %v: %s", resp.Status, resp.Header, raw)
	}
	var out strings.Builder
	for records := recordio.NewReader(resp.Body, 1<<20); ; {
		raw, err := records.Next()
		if err != nil {
			break
		}
		var one agent.ProcessIO
		if err := mesosjson.Unmarshal(raw, &one); err != nil {
			t.Fatal(err)
		}
		out.Write(one.GetData().GetData())
	}
	said := out.String()
	for _, want := range []string{"here\n", "1234\n", "NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"} {
		if !strings.Contains(said, want) {
			t.Errorf("the session does not say %q: %s", want, said)
		}
	}
	if now, _ := f.Get("looked-into"); now.Done() {
		t.Errorf("the task ended: %v", now.Status)
	}
}
