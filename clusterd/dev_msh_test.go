package main

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mesolith/mesolith/internal/stranger"
)

// mesos-go's msh runs a command as a task group of one. With -interactive it asks for a task
// with a terminal, which is refused by name.
func TestStrangersShellInPod(t *testing.T) {
	program, err := stranger.Build(t.Context(), t.TempDir(), "msh")
	if err != nil {
		t.Fatal(err)
	}
	p := newTaskProcesses(t, 1)
	p.start(0)
	p.eventually("the agent's answer", func() bool { _, ok := p.agentState(0); return ok })
	run := func(flags ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, program, append(flags, "-master", p.api(0), "-cpus", "0.1", "-memory", "32", "--", "/bin/true")...).CombinedOutput()
		return string(out), err
	}
	if out, err := run("-pod"); err != nil || !strings.Contains(out, "TASK_FINISHED") {
		t.Errorf("-pod: %v\n%s", err, out)
	}
	if out, err := run("-interactive"); err == nil || !strings.Contains(out, "container.tty_info is not supported yet") {
		t.Errorf("-interactive: %v\n%s", err, out)
	}
}
