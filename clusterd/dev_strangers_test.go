package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/stranger"
)

// said collects what a program prints while it runs.
type said struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// inJSON watches as mwatch does, with mesos-go's own means, but in JSON; what it cannot read
// ends it.
const inJSON = `package main

import (
	"context"
	"fmt"
	"os"

	"github.com/mesos/mesos-go/api/v1/lib/encoding/codecs"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli"
	"github.com/mesos/mesos-go/api/v1/lib/httpcli/httpmaster"
	"github.com/mesos/mesos-go/api/v1/lib/master"
	"github.com/mesos/mesos-go/api/v1/lib/master/calls"
)

func main() {
	cli := httpmaster.NewSender(httpcli.New(httpcli.Endpoint(os.Args[1]), httpcli.Codec(codecs.ByMediaType[codecs.MediaTypeJSON])).Send)
	resp, err := cli.Send(context.Background(), calls.NonStreaming(calls.Subscribe()))
	for err == nil {
		var e master.Event
		if err = resp.Decode(&e); err == nil {
			fmt.Println(e.GetType(), e.String())
		}
	}
	fmt.Println("ended:", err)
}
`

// mwatch of mesos-go sees a cluster's events, at a node that forwards too: it reads them in
// protobuf, drops what lacks a required field, and says nothing about that. Beside it
// others of its kind read them in JSON.
func TestStrangersWatch(t *testing.T) {
	p := newTaskProcesses(t, 3)
	for i := range p.running {
		p.start(i)
	}
	l, c := p.launcher(true)
	warm := shell("warm", "true")
	if err := l.Add(t.Context(), warm); err != nil {
		t.Fatal(err)
	}
	p.wait(l, "warm", client.Ended)
	program, err := stranger.Build(t.Context(), t.TempDir(), "mwatch")
	if err != nil {
		t.Fatal(err)
	}
	strict, err := stranger.BuildMain(t.Context(), t.TempDir(), inJSON)
	if err != nil {
		t.Fatal(err)
	}
	var out []*said
	for i := range p.running {
		host, port, err := net.SplitHostPort(p.api(i))
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{program, "-master", host, "-port", port}, {strict, "http://" + p.api(i) + "/api/v1"}} {
			s := &said{}
			cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
			cmd.Stdout, cmd.Stderr = s, s
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cmd.Wait() })
			out = append(out, s)
		}
	}
	saw := func(text string) func() bool {
		return func() bool {
			for _, s := range out {
				if !strings.Contains(s.String(), text) {
					return false
				}
			}
			return true
		}
	}
	// Nothing says when a watcher has begun: tasks are started until all have seen one.
	seen := 0
	p.eventually("a task that all watchers see", func() bool {
		seen++
		id := "seen-" + string(rune('a'+seen))
		if err := l.Add(t.Context(), shell(id, "sleep 0.1")); err != nil {
			t.Fatal(err)
		}
		if got := p.wait(l, id, client.Ended).Status.GetState(); got != mesosv1.TaskState_TASK_FINISHED {
			t.Fatal(got)
		}
		return saw("TASK_ADDED")() && saw("TASK_UPDATED")()
	})
	if err := l.Add(t.Context(), shell("last", "exit 3")); err != nil {
		t.Fatal(err)
	}
	p.wait(l, "last", client.Ended)
	p.eventually("the last task's life in all watchers", func() bool {
		return saw("last")() && saw("TASK_RUNNING")() && saw("TASK_FAILED")() && saw(c.FrameworkID())()
	})
}

// msh of mesos-go runs a command, at the leader and at nodes that forward, and tells how it
// ended. It speaks protobuf.
func TestStrangersRunACommand(t *testing.T) {
	program, err := stranger.Build(t.Context(), t.TempDir(), "msh")
	if err != nil {
		t.Fatal(err)
	}
	p := newTaskProcesses(t, 3)
	for i := range p.running {
		p.start(i)
	}
	p.eventually("a leader", func() bool { _, err := p.leads(-1); return err == nil })
	for i := range p.running {
		for _, test := range []struct {
			command []string
			state   string
			code    int
		}{
			{[]string{"echo", "hello"}, "TASK_FINISHED", 0},
			{[]string{"sh", "-c", "exit 3"}, "TASK_FAILED", 3},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			cmd := exec.CommandContext(ctx, program, append([]string{"-master", p.api(i), "--"}, test.command...)...)
			raw, err := cmd.CombinedOutput()
			cancel()
			if code := cmd.ProcessState.ExitCode(); code != test.code || !bytes.Contains(raw, []byte(test.state)) {
				t.Errorf("node %d, %q: %v, code %d\n%s", i, test.command, err, code, raw)
			}
		}
	}
}

// A scheduler made with mesos-framework, from npm, runs tasks to their ends: at the leader,
// which it finds behind zk:// itself, and at the other nodes, which forward.
func TestStrangersInJavaScript(t *testing.T) {
	dir := t.TempDir()
	if err := stranger.JavaScript(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("testdata/scheduler.js")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "scheduler.js"), script, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "logs"), 0o700); err != nil { // it writes its own there
		t.Fatal(err)
	}
	p := newTaskProcesses(t, 3)
	servers := p.withZooKeeper()
	for i := range p.running {
		p.start(i)
	}
	leader := 0
	p.eventually("a leader", func() bool { leader, err = p.leads(-1); return err == nil })
	masters := []string{"zk://" + strings.Join(servers, ",") + "/mesos"}
	for i := range p.running {
		if i != leader {
			masters = append(masters, p.api(i))
		}
	}
	var wg sync.WaitGroup
	for _, master := range masters {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "node", "scheduler.js", master)
			cmd.Dir = dir
			raw, err := cmd.CombinedOutput()
			for _, want := range []string{"master 127.0.0.1:", "subscribed ", "update well-1 TASK_RUNNING\n", "update well-1 TASK_FINISHED\n", "update badly-1 TASK_FAILED\n", "\ndone\n"} {
				if !bytes.Contains(raw, []byte(want)) {
					t.Errorf("%s: %q was not said", master, want)
				}
			}
			// Another leader ends the stream, which it calls an error; all else would be one.
			calm := bytes.ReplaceAll(raw, []byte("\nerror Long-running connection was closed!\n"), []byte("\n"))
			if err != nil || bytes.Contains(calm, []byte("\nerror ")) {
				t.Errorf("%s: %v\n%s", master, err, raw)
			}
		})
	}
	wg.Wait()
}
