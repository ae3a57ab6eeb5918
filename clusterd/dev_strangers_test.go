package main

import (
	"bytes"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"

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

// mwatch of mesos-go sees a cluster's events, at a node that forwards too: it reads them in
// protobuf, drops what lacks a required field, and says nothing about that.
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
	var out []*said
	for i := range p.running {
		host, port, err := net.SplitHostPort(p.api(i))
		if err != nil {
			t.Fatal(err)
		}
		s := &said{}
		cmd := exec.CommandContext(t.Context(), program, "-master", host, "-port", port)
		cmd.Stdout, cmd.Stderr = s, s
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Wait() })
		out = append(out, s)
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
