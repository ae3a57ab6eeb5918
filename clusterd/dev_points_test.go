package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/mesolith/mesolith/api/client"
	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/fault"
)

// buildFaulty gives a clusterd that dies where a task's id says.
func buildFaulty(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "clusterd")
	if raw, err := exec.Command("go", "build", "-tags", "faults", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return program
}

// keepUp starts a member again whenever it has died, until it is told to stop.
func (p *processes) keepUp(i int) (stop func() (deaths int)) {
	end, ended := make(chan struct{}), make(chan int)
	go func() {
		for deaths := 0; ; deaths++ {
			p.start(i)
			died := make(chan error, 1)
			go func(cmd *exec.Cmd) { died <- cmd.Wait() }(p.running[i])
			select {
			case <-died:
			case <-end:
				p.running[i].Process.Kill()
				<-died
				ended <- deaths
				return
			}
		}
	}()
	stop = sync.OnceValue(func() int {
		close(end)
		return <-ended
	})
	p.t.Cleanup(func() { stop() })
	return stop
}

// Clusterd dies by SIGKILL after each of its points, agent's and leader's: between the
// journal and the launch, the launch and its answer, an update written down and sent, an
// acknowledgement heard and written down, a decision committed and told. Each task has run
// once and its end is told as it was.
func TestClusterdDiesAtEveryPoint(t *testing.T) {
	p := newTaskProcesses(t, 1)
	p.program = buildFaulty(t)
	stop := p.keepUp(0)
	l, c := p.launcher(false)
	ran := map[string]client.Launched{}
	for _, point := range fault.Clusterd {
		id, line, want := fault.Sign+string(point), "echo born; exit 7", mesosv1.TaskState_TASK_FAILED
		kill := point == fault.AgentKill || point == fault.LeaderKill
		if kill {
			line, want = "trap 'exit 7' TERM; echo born; while :; do sleep 0.05; done", mesosv1.TaskState_TASK_KILLED
		}
		if err := l.Add(t.Context(), shell(id, line)); err != nil {
			t.Fatal(err)
		}
		if kill {
			task := p.wait(l, id, client.Running)
			p.eventually("the birth of "+id, func() bool { return p.stdout(c.FrameworkID(), task) != "" })
			if err := l.Kill(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		ran[id] = p.wait(l, id, client.Ended)
		if s := ran[id].Status; s.GetState() != want || s.GetMessage() != "Command exited with status 7" {
			t.Errorf("%s ended as %s: %s", id, s.GetState(), s.GetMessage())
		}
		// Some points come after the end is told; the next death must not come before.
		p.eventually("a death after "+string(point), func() bool { return strings.Contains(p.log(0), fmt.Sprintf("fault: dies after %s of ", point)) })
	}
	if err := l.Add(t.Context(), shell("last", "true")); err != nil {
		t.Fatal(err)
	}
	if again := p.wait(l, "last", client.Ended).Status; again.GetState() != mesosv1.TaskState_TASK_FINISHED {
		t.Errorf("after all that: %v", again)
	}
	for id, task := range ran {
		if out := p.stdout(c.FrameworkID(), task); out != "born\n" {
			t.Errorf("%s printed %q", id, out)
		}
	}
	deaths := stop()
	p.running[0] = nil
	p.start(0) // for the framework's teardown
	for _, point := range fault.Clusterd {
		if n := strings.Count(p.log(0), fmt.Sprintf("fault: dies after %s of ", point)); n != 1 {
			t.Errorf("%s struck %d times", point, n)
		}
	}
	if deaths != len(fault.Clusterd) {
		t.Errorf("clusterd died %d times at %d points", deaths, len(fault.Clusterd))
	}
	t.Logf("%d of %d points, %d deaths: each task ran once", len(fault.Clusterd), len(fault.Clusterd), deaths)
}

// stdout reads a task's output where the keeper puts it.
func (p *processes) stdout(framework string, task client.Launched) string {
	raw, err := os.ReadFile(filepath.Join(p.dirs[0], "work", "slaves", task.Status.GetAgentId().GetValue(), "frameworks", framework,
		"executors", task.Task.ID, "runs", task.Status.GetContainerStatus().GetContainerId().GetValue(), "stdout"))
	if err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
	return string(raw)
}
