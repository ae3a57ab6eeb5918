package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
)

// buildKeeper gives an isolated that runs tasks as plain processes, whatever the machine
// could do.
var buildKeeper = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "isolated-test")
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "isolated")
	if raw, err := exec.Command("go", "build", "-o", program, "../isolation").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, raw)
	}
	script := filepath.Join(dir, "plain")
	return script, os.WriteFile(script, []byte("#!/bin/sh\nexec "+program+" \"$@\" --runtime processes\n"), 0o700)
})

// newTaskProcesses is a cluster of processes that runs tasks.
func newTaskProcesses(t *testing.T, n int) *processes {
	t.Helper()
	program, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := buildKeeper()
	if err != nil {
		t.Fatal(err)
	}
	p := prepare(t, n, program, keeper)
	t.Cleanup(func() {
		for i := range p.running {
			p.kill(i)
			if pid, err := p.keeper(i).holder(); err == nil {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	return p
}

func (p *processes) keeper(i int) *devKeeper {
	return &devKeeper{socket: filepath.Join(p.dirs[i], "isolated.sock")}
}

func (p *processes) log(i int) string {
	raw, err := os.ReadFile(filepath.Join(p.dirs[i], "log"))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(raw)
}

// client is one of a framework at all of the members.
func (p *processes) client(protobuf bool) *client.Client {
	p.t.Helper()
	cfg := client.Config{Protobuf: protobuf, Framework: &mesosv1.FrameworkInfo{
		User: proto.String("root"), Name: proto.String(p.t.Name()), Roles: []string{"*"}, FailoverTimeout: proto.Float64(600),
		Capabilities: []*mesosv1.FrameworkInfo_Capability{{Type: mesosv1.FrameworkInfo_Capability_MULTI_ROLE.Enum()}},
	}}
	for i := range p.ports {
		cfg.Masters = append(cfg.Masters, "http://"+p.api(i))
	}
	c, err := client.New(cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// launcher is a framework on all of the members, until the test ends.
func (p *processes) launcher(protobuf bool) (*client.Launcher, *client.Client) {
	p.t.Helper()
	c := p.client(protobuf)
	l := client.NewLauncher(c, nil)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	p.t.Cleanup(func() {
		end, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		if err := c.Teardown(end); err != nil {
			p.t.Errorf("teardown: %v", err)
		}
		cancel()
		<-ended
		for i := range p.running {
			if p.running[i] != nil {
				p.eventually("the end of the framework's tasks", func() bool {
					text, answers := p.agentState(i)
					return answers && !strings.Contains(text, c.FrameworkID())
				})
			}
		}
	})
	return l, c
}

// agentState is what an agent shows; false: it does not answer yet.
func (p *processes) agentState(i int) (text string, answers bool) {
	resp, err := http.Get("http://" + p.agentAPI(i) + "/state")
	if err != nil {
		return "", false
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return string(raw), err == nil && resp.StatusCode == http.StatusOK
}

func shell(id, command string) client.Task {
	return client.Task{ID: id, CPUs: 0.1, MemMB: 32, Command: &mesosv1.CommandInfo{Value: &command}}
}

func (p *processes) wait(l *client.Launcher, id string, wanted func(client.Launched) bool) client.Launched {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Minute)
	defer cancel()
	got, err := l.Wait(ctx, id, wanted)
	if err != nil {
		for i := range p.dirs {
			text := p.log(i)
			p.t.Logf("%d: %s", i, text[max(0, len(text)-3000):])
		}
		p.t.Fatal(err)
	}
	return got
}

func (p *processes) get(u string) (int, string) {
	p.t.Helper()
	resp, err := http.Get(u)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// One process is a whole cluster: it runs tasks, shows their files, says at its end what
// goes on, and knows everything again when it is started on the same directory.
func TestDevRunsTasksAndKnowsThemAgain(t *testing.T) {
	p := newTaskProcesses(t, 1)
	p.start(0)
	l, c := p.launcher(false)
	other, _ := p.launcher(true)
	for _, one := range []*client.Launcher{l, other} {
		if err := one.Add(t.Context(), shell("says", "echo hello from $MESOS_TASK_ID; echo trouble >&2"), shell("fails", "exit 3"), shell("stays", "exec sleep 100000")); err != nil {
			t.Fatal(err)
		}
	}
	for _, one := range []*client.Launcher{l, other} {
		if s := p.wait(one, "says", client.Ended).Status; s.GetState() != mesosv1.TaskState_TASK_FINISHED {
			t.Errorf("%v", s)
		}
		if s := p.wait(one, "fails", client.Ended).Status; s.GetState() != mesosv1.TaskState_TASK_FAILED || s.GetMessage() != "Command exited with status 3" {
			t.Errorf("%v", s)
		}
	}
	says := p.wait(l, "says", client.Ended)
	stays := p.wait(l, "stays", client.Running).Status
	if len(stays.GetContainerStatus().GetNetworkInfos()) != 1 || stays.GetContainerStatus().GetNetworkInfos()[0].GetIpAddresses()[0].GetIpAddress() != "127.0.0.1" {
		t.Errorf("container status %v", stays.GetContainerStatus())
	}
	p.checkFiles(c.FrameworkID(), says)

	pid := int(stays.GetContainerStatus().GetExecutorPid())
	if err := p.running[0].Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.running[0].Wait(); err != nil {
		t.Errorf("ended by a signal: %v", err)
	}
	p.running[0] = nil
	keeper, err := p.keeper(0).holder()
	if err != nil {
		t.Fatalf("isolated ended with clusterd: %v", err)
	}
	if want := fmt.Sprintf("isolated (pid %d) and the tasks it keeps go on running", keeper); !strings.Contains(p.log(0), want) {
		t.Errorf("its last words lack %q:\n%s", want, p.log(0))
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("the task ended with clusterd: %v", err)
	}
	id := c.FrameworkID()
	p.start(0)
	// Asked for while nobody may be there yet: the client brings it when somebody is.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := l.Kill(ctx, "stays"); err != nil {
		t.Fatal(err)
	}
	if s := p.wait(l, "stays", client.Ended).Status; s.GetState() != mesosv1.TaskState_TASK_KILLED {
		t.Errorf("%v", s)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the killed task's process %d: %v", pid, err)
	}
	if c.FrameworkID() != id {
		t.Errorf("framework %s came back as %s", id, c.FrameworkID())
	}
}

// checkFiles reads a task's output by all of its paths, at both ports.
func (p *processes) checkFiles(framework string, task client.Launched) {
	p.t.Helper()
	container := task.Status.GetContainerStatus().GetContainerId().GetValue()
	base := filepath.Join(p.dirs[0], "work", "slaves", task.Status.GetAgentId().GetValue(), "frameworks", framework, "executors", "says", "runs")
	virtual := "/frameworks/" + framework + "/executors/says/runs/latest"
	const text = "hello from says\n"
	for _, port := range []string{p.api(0), p.agentAPI(0)} {
		for _, dir := range []string{filepath.Join(base, container), filepath.Join(base, "latest"), virtual, virtual + "/tasks/says"} {
			ask := func(endpoint, rest string) string {
				p.t.Helper()
				status, body := p.get("http://" + port + "/files/" + endpoint + "?" + rest)
				if status != http.StatusOK {
					p.t.Errorf("%s %s at %s: %d %s", endpoint, dir, port, status, body)
				}
				return body
			}
			query := url.Values{"path": {dir + "/stdout"}, "offset": {"0"}}.Encode()
			var page struct {
				Offset int64
				Data   string
			}
			if err := json.Unmarshal([]byte(ask("read", query)), &page); err != nil || page.Data != text {
				p.t.Errorf("%s: %+v, %v", dir, page, err)
			}
			if got := ask("download", query); got != text {
				p.t.Errorf("download of %s: %q", dir, got)
			}
			if got := ask("browse", url.Values{"path": {dir}}.Encode()); !strings.Contains(got, `"path":"`+dir+`/stdout"`) || !strings.Contains(got, `"path":"`+dir+`/stderr"`) {
				p.t.Errorf("browse %s: %s", dir, got)
			}
		}
		if status, body := p.get("http://" + port + "/files/read?path=/etc/passwd&offset=0"); status != http.StatusForbidden && status != http.StatusNotFound {
			p.t.Errorf("/etc/passwd at %s: %d %.100s", port, status, body)
		}
	}
}

// Three of them elect one; when it is killed another leads, tasks go on, and the framework
// carries on by itself.
func TestDevClusterSurvivesItsLeader(t *testing.T) {
	p := newTaskProcesses(t, 3)
	for i := range p.running {
		p.start(i)
	}
	l, c := p.launcher(true)
	if err := l.Add(t.Context(), shell("before", "exec sleep 100000")); err != nil {
		t.Fatal(err)
	}
	before := p.wait(l, "before", client.Running)
	leads := func() int {
		for i := range p.running {
			if p.running[i] == nil {
				continue
			}
			if status, text := p.get("http://" + p.api(i) + "/metrics/snapshot"); status == http.StatusOK && strings.Contains(text, `"master/elected":1`) {
				return i
			}
		}
		return -1
	}
	first := -1
	p.eventually("a leader", func() bool { first = leads(); return first >= 0 })
	id := c.FrameworkID()
	p.kill(first)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := l.Add(ctx, shell("after", "echo carried on")); err != nil {
		t.Fatal(err)
	}
	if s := p.wait(l, "after", client.Ended).Status; s.GetState() != mesosv1.TaskState_TASK_FINISHED {
		t.Errorf("%v", s)
	}
	p.eventually("another leader", func() bool { next := leads(); return next >= 0 && next != first })
	if c.FrameworkID() != id {
		t.Errorf("framework %s came back as %s", id, c.FrameworkID())
	}
	pid := int(before.Status.GetContainerStatus().GetExecutorPid())
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("the task did not go on: %v", err)
	}
	p.start(first)
	if err := l.Kill(ctx, "before"); err != nil {
		t.Fatal(err)
	}
	if s := p.wait(l, "before", client.Ended).Status; s.GetState() != mesosv1.TaskState_TASK_KILLED {
		t.Errorf("%v", s)
	}
}
