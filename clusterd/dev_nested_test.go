package main

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	agentv1 "github.com/mesolith/mesolith/api/mesos/v1/agent"
	"github.com/mesolith/mesolith/api/mesos/v1/mesosjson"
	"github.com/mesolith/mesolith/api/mesos/v1/recordio"
)

// operatorOf makes calls of an agent's operator API.
type operatorOf struct {
	t   *testing.T
	url string
}

func (o operatorOf) send(body io.Reader, header ...string) *http.Response {
	o.t.Helper()
	req, err := http.NewRequestWithContext(o.t.Context(), http.MethodPost, o.url, body)
	if err != nil {
		o.t.Fatal(err)
	}
	req.SetBasicAuth("o", "s")
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		o.t.Fatal(err)
	}
	return resp
}

// call makes one call and gives its status and answer.
func (o operatorOf) call(c *agentv1.Call) (int, *agentv1.Response, string) {
	o.t.Helper()
	resp := o.send(bytes.NewReader(mesosjson.Marshal(c)))
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	out := &agentv1.Response{}
	if resp.StatusCode == http.StatusOK && len(raw) > 0 {
		if err := mesosjson.Unmarshal(raw, out); err != nil {
			o.t.Fatalf("%s: %v", raw, err)
		}
	}
	return resp.StatusCode, out, string(raw)
}

func inside(parent, name string) *mesosv1.ContainerID {
	return &mesosv1.ContainerID{Value: proto.String(name), Parent: &mesosv1.ContainerID{Value: proto.String(parent)}}
}

func (o operatorOf) launch(id *mesosv1.ContainerID, command string) (int, string) {
	o.t.Helper()
	status, _, text := o.call(&agentv1.Call{Type: agentv1.Call_LAUNCH_NESTED_CONTAINER.Enum(), LaunchNestedContainer: &agentv1.Call_LaunchNestedContainer{
		ContainerId: id, Command: &mesosv1.CommandInfo{Value: &command},
	}})
	return status, text
}

func (o operatorOf) wait(id *mesosv1.ContainerID) (int, *agentv1.Response_WaitNestedContainer) {
	o.t.Helper()
	status, resp, _ := o.call(&agentv1.Call{Type: agentv1.Call_WAIT_NESTED_CONTAINER.Enum(), WaitNestedContainer: &agentv1.Call_WaitNestedContainer{ContainerId: id}})
	return status, resp.GetWaitNestedContainer()
}

func (o operatorOf) kill(id *mesosv1.ContainerID, signal *int32) int {
	o.t.Helper()
	status, _, _ := o.call(&agentv1.Call{Type: agentv1.Call_KILL_NESTED_CONTAINER.Enum(), KillNestedContainer: &agentv1.Call_KillNestedContainer{ContainerId: id, Signal: signal}})
	return status
}

func (o operatorOf) remove(id *mesosv1.ContainerID) int {
	o.t.Helper()
	status, _, _ := o.call(&agentv1.Call{Type: agentv1.Call_REMOVE_NESTED_CONTAINER.Enum(), RemoveNestedContainer: &agentv1.Call_RemoveNestedContainer{ContainerId: id}})
	return status
}

// stream is what a session or an attached output says.
type stream struct {
	t    *testing.T
	body io.ReadCloser
	mu   sync.Mutex
	said map[agentv1.ProcessIO_Data_Type]string
	over chan struct{}
}

var streamHeaders = []string{"Accept", "application/recordio", "Message-Accept", "application/json"}

func (o operatorOf) stream(c *agentv1.Call) *stream {
	o.t.Helper()
	resp := o.send(bytes.NewReader(mesosjson.Marshal(c)), streamHeaders...)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/recordio" || resp.Header.Get("Message-Content-Type") != "application/json" {
		raw, _ := io.ReadAll(resp.Body)
		o.t.Fatalf("%s: %d %v %s", c.GetType(), resp.StatusCode, resp.Header, raw)
	}
	s := &stream{t: o.t, body: resp.Body, said: map[agentv1.ProcessIO_Data_Type]string{}, over: make(chan struct{})}
	go func() {
		defer close(s.over)
		r := recordio.NewReader(resp.Body, 1<<20)
		for {
			raw, err := r.Next()
			if err != nil {
				return
			}
			p := &agentv1.ProcessIO{}
			if err := mesosjson.Unmarshal(raw, p); err != nil {
				o.t.Errorf("%s: %v", raw, err)
				return
			}
			s.mu.Lock()
			s.said[p.GetData().GetType()] += string(p.GetData().GetData())
			s.mu.Unlock()
		}
	}()
	return s
}

func (s *stream) text(t agentv1.ProcessIO_Data_Type) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said[t]
}

func (s *stream) ended() {
	s.t.Helper()
	select {
	case <-s.over:
	case <-time.After(30 * time.Second):
		s.t.Fatalf("the stream does not end; it said %v", s.said)
	}
}

func (o operatorOf) session(id *mesosv1.ContainerID, command string, container *mesosv1.ContainerInfo) *stream {
	o.t.Helper()
	return o.stream(&agentv1.Call{Type: agentv1.Call_LAUNCH_NESTED_CONTAINER_SESSION.Enum(), LaunchNestedContainerSession: &agentv1.Call_LaunchNestedContainerSession{
		ContainerId: id, Command: &mesosv1.CommandInfo{Value: &command}, Container: container,
	}})
}

// inputRecord is one record of a stream of input.
func inputRecord(in *agentv1.Call_AttachContainerInput) []byte {
	return recordio.Append(nil, mesosjson.Marshal(&agentv1.Call{Type: agentv1.Call_ATTACH_CONTAINER_INPUT.Enum(), AttachContainerInput: in}))
}

func inputFor(id *mesosv1.ContainerID) []byte {
	return inputRecord(&agentv1.Call_AttachContainerInput{Type: agentv1.Call_AttachContainerInput_CONTAINER_ID.Enum(), ContainerId: id})
}

func typed(text string) []byte {
	return inputRecord(&agentv1.Call_AttachContainerInput{Type: agentv1.Call_AttachContainerInput_PROCESS_IO.Enum(), ProcessIo: &agentv1.ProcessIO{
		Type: agentv1.ProcessIO_DATA.Enum(), Data: &agentv1.ProcessIO_Data{Type: agentv1.ProcessIO_Data_STDIN.Enum(), Data: []byte(text)},
	}})
}

func windowOf(rows, columns uint32) []byte {
	return inputRecord(&agentv1.Call_AttachContainerInput{Type: agentv1.Call_AttachContainerInput_PROCESS_IO.Enum(), ProcessIo: &agentv1.ProcessIO{
		Type: agentv1.ProcessIO_CONTROL.Enum(), Control: &agentv1.ProcessIO_Control{
			Type: agentv1.ProcessIO_Control_TTY_INFO.Enum(), TtyInfo: &mesosv1.TTYInfo{WindowSize: &mesosv1.TTYInfo_WindowSize{Rows: &rows, Columns: &columns}},
		},
	}})
}

func (o operatorOf) input(body io.Reader) (int, string) {
	o.t.Helper()
	resp := o.send(body, "Content-Type", "application/recordio", "Message-Content-Type", "application/json")
	defer resp.Body.Close()
	raw, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(raw)
}

// newOperated is a node that runs tasks, and knows an operator "o" of secret "s".
func newOperated(t *testing.T) *processes {
	t.Helper()
	p := newTaskProcesses(t, 1)
	file := filepath.Join(t.TempDir(), "credentials.json")
	if err := os.WriteFile(file, []byte(`{"credentials":[{"principal":"o","secret":"s","role":"operator"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p.options = func(int) []string { return []string{"--credentials", file} }
	p.start(0)
	return p
}

// parentTask is a task that runs, and its container's id.
func (p *processes) parentTask() (o operatorOf, task client.Launched, parent, framework string) {
	p.t.Helper()
	l, c := p.launcher(false)
	if err := l.Add(p.t.Context(), shell("parent", "exec sleep 100000")); err != nil {
		p.t.Fatal(err)
	}
	task = p.wait(l, "parent", client.Running)
	id := task.Status.GetContainerStatus().GetContainerId().GetValue()
	if id == "" {
		p.t.Fatalf("no container id in %v", task.Status)
	}
	return operatorOf{p.t, "http://" + p.agentAPI(0) + "/api/v1"}, task, id, c.FrameworkID()
}

// Containers inside of a task's: launched, waited for, killed, removed, with Mesos' statuses,
// also while clusterd is killed and started again; they end with the task.
func TestDevNestedContainers(t *testing.T) {
	p := newOperated(t)
	o, task, parent, framework := p.parentTask()
	a := inside(parent, "a")
	if status, text := o.launch(a, "echo out; exit 3"); status != 200 {
		t.Fatalf("launch: %d %s", status, text)
	}
	if status, end := o.wait(a); status != 200 || syscall.WaitStatus(end.GetExitStatus()).ExitStatus() != 3 || end.ExitStatus == nil {
		t.Errorf("wait: %d %v", status, end)
	}
	if status, _ := o.launch(a, "true"); status != 202 {
		t.Errorf("launched again: %d", status)
	}
	agentID := task.Status.GetAgentId().GetValue()
	if status, text := p.get("http://" + p.agentAPI(0) + "/files/read?offset=0&path=" + url.QueryEscape(filepath.Join(p.dirs[0], "work/slaves", agentID, "frameworks", framework, "executors/parent/runs", parent, "containers/a/stdout"))); status != 200 || !strings.Contains(text, `"data":"out\n"`) {
		t.Errorf("its output: %d %s", status, text)
	}
	if status := o.remove(a); status != 200 {
		t.Errorf("remove: %d", status)
	}
	if status, _ := o.wait(a); status != 404 {
		t.Errorf("wait after that: %d", status)
	}
	if status, text := o.launch(inside("none", "a"), "true"); status != 400 || !strings.Contains(text, "none") {
		t.Errorf("inside of nothing: %d %s", status, text)
	}
	if status := o.kill(inside(parent, "x"), nil); status != 404 {
		t.Errorf("kill of what is not there: %d", status)
	}
	b := inside(parent, "b")
	if status, text := o.launch(b, "exec sleep 100000"); status != 200 {
		t.Fatalf("launch: %d %s", status, text)
	}
	if status := o.remove(b); status != 500 {
		t.Errorf("remove while it runs: %d", status)
	}
	if status, text := o.input(bytes.NewReader(append(inputFor(b), typed("x")...))); status != 500 || !strings.Contains(text, "no standard input") {
		t.Errorf("input of what is no session: %d %s", status, text)
	}
	for show, want := range map[bool]int{false: 1, true: 2} {
		status, resp, _ := o.call(&agentv1.Call{Type: agentv1.Call_GET_CONTAINERS.Enum(), GetContainers: &agentv1.Call_GetContainers{ShowNested: &show}})
		list := resp.GetGetContainers().GetContainers()
		if status != 200 || len(list) != want {
			t.Fatalf("show_nested %v: %d %v", show, status, list)
		}
		if last := list[want-1]; show && (!proto.Equal(last.GetContainerId(), b) || last.GetExecutorId().GetValue() != "parent") {
			t.Errorf("the nested one is shown as %v", last)
		}
	}
	p.kill(0)
	p.start(0)
	p.eventually("the agent's answer", func() bool { _, ok := p.agentState(0); return ok })
	if status := o.kill(b, proto.Int32(int32(syscall.SIGUSR1))); status != 200 {
		t.Errorf("kill after clusterd died: %d", status)
	}
	if status, end := o.wait(b); status != 200 || end.GetExitStatus() != int32(syscall.SIGUSR1) {
		t.Errorf("wait: %d %v", status, end)
	}
	for _, call := range []*agentv1.Call{
		{Type: agentv1.Call_LAUNCH_CONTAINER.Enum(), LaunchContainer: &agentv1.Call_LaunchContainer{ContainerId: &mesosv1.ContainerID{Value: proto.String("alone")}}},
		{Type: agentv1.Call_LAUNCH_CONTAINER.Enum(), LaunchContainer: &agentv1.Call_LaunchContainer{ContainerId: inside(parent, "r"), Resources: []*mesosv1.Resource{scalar("cpus", 1)}}},
		{Type: agentv1.Call_WAIT_NESTED_CONTAINER.Enum(), WaitNestedContainer: &agentv1.Call_WaitNestedContainer{ContainerId: &mesosv1.ContainerID{Value: proto.String(parent)}}},
		{Type: agentv1.Call_KILL_CONTAINER.Enum()},
	} {
		if status, _, text := o.call(call); status != 400 {
			t.Errorf("%v: %d %s", call, status, text)
		}
	}
}

// A session streams what its command says, takes input until that ends, and is killed when
// its caller leaves.
func TestDevSession(t *testing.T) {
	p := newOperated(t)
	o, _, parent, _ := p.parentTask()
	s := o.session(inside(parent, "s1"), "echo begun; cat; echo over >&2; exit 5", nil)
	p.eventually("the session's first words", func() bool { return s.text(agentv1.ProcessIO_Data_STDOUT) == "begun\n" })
	attached := o.stream(&agentv1.Call{Type: agentv1.Call_ATTACH_CONTAINER_OUTPUT.Enum(), AttachContainerOutput: &agentv1.Call_AttachContainerOutput{ContainerId: inside(parent, "s1")}})
	text := strings.Repeat("many words ", 30000)
	in := append(inputFor(inside(parent, "s1")), typed(text)...)
	if status, why := o.input(bytes.NewReader(append(in, typed("")...))); status != 200 {
		t.Errorf("input: %d %s", status, why)
	}
	s.ended()
	attached.ended()
	if got := s.text(agentv1.ProcessIO_Data_STDOUT); got != "begun\n"+text {
		t.Errorf("stdout has %d bytes, want %d", len(got), len(text)+6)
	}
	if got := attached.text(agentv1.ProcessIO_Data_STDOUT); got != text {
		t.Errorf("who attached has %d bytes, want %d", len(got), len(text))
	}
	if got := s.text(agentv1.ProcessIO_Data_STDERR); got != "over\n" {
		t.Errorf("stderr: %q", got)
	}
	if status, end := o.wait(inside(parent, "s1")); status != 200 || syscall.WaitStatus(end.GetExitStatus()).ExitStatus() != 5 {
		t.Errorf("wait: %d %v", status, end)
	}
	// Clients rely on 500 of what has finished, and 404 of what never was.
	if status, _ := o.input(bytes.NewReader(in)); status != 500 {
		t.Errorf("input of a finished session: %d", status)
	}
	// Somebody who sends nothing more is told at once.
	r, w := io.Pipe()
	defer w.Close()
	go w.Write(inputFor(inside(parent, "s1")))
	if status, _ := o.input(r); status != 500 {
		t.Errorf("open input of a finished session: %d", status)
	}
	if status, _ := o.input(bytes.NewReader(inputFor(inside(parent, "none")))); status != 404 {
		t.Errorf("input of an unknown one: %d", status)
	}
	mark := filepath.Join(t.TempDir(), "pid")
	left := o.session(inside(parent, "s2"), "trap '' HUP TERM; echo $$ > "+mark+"; while :; do sleep 0.1; done", nil)
	p.eventually("the second session", func() bool { raw, err := os.ReadFile(mark); return err == nil && len(raw) > 1 })
	left.body.Close()
	if status, end := o.wait(inside(parent, "s2")); status != 200 || end.GetExitStatus() != int32(syscall.SIGKILL) {
		t.Errorf("after its caller left: %d %v", status, end)
	}
}

// A session with a terminal has its size, is told of another one, and ends as a shell does.
func TestDevTerminal(t *testing.T) {
	p := newOperated(t)
	o, _, parent, _ := p.parentTask()
	id := inside(parent, "t1")
	s := o.session(id, "stty -echo; stty size; while read line; do stty size; echo got $line; done; echo bye", &mesosv1.ContainerInfo{
		Type: mesosv1.ContainerInfo_MESOS.Enum(), TtyInfo: &mesosv1.TTYInfo{WindowSize: &mesosv1.TTYInfo_WindowSize{Rows: proto.Uint32(21), Columns: proto.Uint32(81)}},
	})
	p.eventually("the first size", func() bool { return strings.Contains(s.text(agentv1.ProcessIO_Data_STDOUT), "21 81\r\n") })
	r, w := io.Pipe()
	answered := make(chan int, 1)
	go func() {
		status, _ := o.input(r)
		answered <- status
	}()
	w.Write(inputFor(id))
	w.Write(windowOf(33, 99))
	w.Write(typed("this\n"))
	p.eventually("the second size", func() bool { return strings.Contains(s.text(agentv1.ProcessIO_Data_STDOUT), "33 99\r\ngot this\r\n") })
	if status, why := o.input(bytes.NewReader(inputFor(id))); status != 409 {
		t.Errorf("a second giver of input: %d %s", status, why)
	}
	w.Write(typed(""))
	s.ended()
	w.Close()
	if status := <-answered; status != 200 {
		t.Errorf("input: %d", status)
	}
	if got := s.text(agentv1.ProcessIO_Data_STDOUT); !strings.HasSuffix(got, "bye\r\n") {
		t.Errorf("it said %q", got)
	}
}

// In a pod, what is launched is a container of its own beside the pod's tasks, and a session
// sees what the task's container sees whose parent is the pod.
func TestDevNestedInPod(t *testing.T) {
	p := newOperated(t)
	g := p.given(func(o *mesosv1.Offer) []*mesosv1.Offer_Operation {
		return []*mesosv1.Offer_Operation{groupOf(o, "one", map[string]string{"stays": "echo $$ > pid; exec sleep 100000"})}
	})
	p.eventually("the task of a pod", func() bool { return strings.HasSuffix(strings.Join(g.states("stays"), " "), "TASK_RUNNING") })
	o := operatorOf{t, "http://" + p.agentAPI(0) + "/api/v1"}
	task := g.newest("stays").GetContainerStatus().GetContainerId()
	s := o.session(&mesosv1.ContainerID{Value: proto.String("s1"), Parent: task}, "cat pid; echo $MESOS_SANDBOX", nil)
	s.ended()
	sandboxes, err := filepath.Glob(filepath.Join(p.dirs[0], "work/slaves/*/frameworks/*/executors/one/runs", task.GetParent().GetValue(), "containers"))
	if err != nil || len(sandboxes) != 1 {
		t.Fatal(sandboxes, err)
	}
	raw, err := os.ReadFile(filepath.Join(sandboxes[0], task.GetValue(), "pid"))
	if want := string(raw) + filepath.Join(sandboxes[0], task.GetValue()) + "\n"; err != nil || s.text(agentv1.ProcessIO_Data_STDOUT) != want {
		t.Errorf("the session said %q, want %q: %v", s.text(agentv1.ProcessIO_Data_STDOUT), want, err)
	}
	id := &mesosv1.ContainerID{Value: proto.String("n1"), Parent: task.GetParent()}
	if status, text := o.launch(id, "pwd"); status != 200 {
		t.Fatalf("launch: %d %s", status, text)
	}
	if status, end := o.wait(id); status != 200 || end.GetExitStatus() != 0 {
		t.Errorf("wait: %d %v", status, end)
	}
	own := filepath.Join(sandboxes[0], "n1")
	if raw, err := os.ReadFile(filepath.Join(own, "stdout")); err != nil || string(raw) != own+"\n" {
		t.Errorf("it said %q: %v", raw, err)
	}
	if status := o.remove(id); status != 200 {
		t.Errorf("remove: %d", status)
	}
	if _, err := os.Stat(own); !os.IsNotExist(err) {
		t.Errorf("its sandbox after that: %v", err)
	}
	// A task's container, which is no nested one, is not theirs to end.
	if status := o.kill(task, nil); status != 404 {
		t.Errorf("kill of a task's container: %d", status)
	}
	b := &mesosv1.ContainerID{Value: proto.String("n2"), Parent: task.GetParent()}
	if status, text := o.launch(b, "exec sleep 100000"); status != 200 {
		t.Fatalf("launch: %d %s", status, text)
	}
	if err := g.c.Kill(t.Context(), &mesosv1.TaskID{Value: proto.String("stays")}, nil); err != nil {
		t.Fatal(err)
	}
	if status, end := o.wait(b); status != 200 || end.GetExitStatus() != int32(syscall.SIGKILL) {
		t.Errorf("it ends with the pod: %d %v", status, end)
	}
}

// What a task writes is told to whoever attached, until it ends.
func TestDevAttachToTask(t *testing.T) {
	p := newOperated(t)
	l, _ := p.launcher(false)
	if err := l.Add(t.Context(), shell("says", "echo before; while ! test -e go; do sleep 0.05; done; echo after; echo wrong >&2")); err != nil {
		t.Fatal(err)
	}
	task := p.wait(l, "says", client.Running)
	id := task.Status.GetContainerStatus().GetContainerId()
	o := operatorOf{t, "http://" + p.agentAPI(0) + "/api/v1"}
	found, err := filepath.Glob(filepath.Join(p.dirs[0], "work/slaves/*/frameworks/*/executors/says/runs", id.GetValue()))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	p.eventually("what it says before", func() bool {
		raw, err := os.ReadFile(filepath.Join(found[0], "stdout"))
		return err == nil && string(raw) == "before\n"
	})
	s := o.stream(&agentv1.Call{Type: agentv1.Call_ATTACH_CONTAINER_OUTPUT.Enum(), AttachContainerOutput: &agentv1.Call_AttachContainerOutput{ContainerId: id}})
	if err := os.WriteFile(filepath.Join(found[0], "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.ended()
	if out, wrong := s.text(agentv1.ProcessIO_Data_STDOUT), s.text(agentv1.ProcessIO_Data_STDERR); out != "after\n" || wrong != "wrong\n" {
		t.Errorf("told %q and %q", out, wrong)
	}
}
