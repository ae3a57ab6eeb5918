package run

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/isolation/spec"
)

// Probe runs a command as a plain process in the sandbox, as the task's user and with its
// environment. What it leaves behind in a session of its own ends with the task.
func (r Processes) Probe(ctx context.Context, j *Job, command *mesosv1.CommandInfo) (uint32, error) {
	var h held
	if err := loadProgram(j, &h); err != nil {
		return 0, err
	}
	var err error
	if h.Argv, err = spec.Argv(command, noImage); err != nil {
		return 0, probeFailure{err}
	}
	h.Argv0 = spec.Argv0(command)
	if h.Env, err = withEnv(h.Env, command); err != nil {
		return 0, probeFailure{err}
	}
	cmd, g, err := r.holder(j, streamsOf{})
	if err != nil {
		return 0, err
	}
	defer g.close()
	// It leads a session and a group of its own: -pid are all that did not leave it. Until
	// its end is taken, its number is nobody else's.
	pid := cmd.Process.Pid
	var mu sync.Mutex
	taken := false
	kill := func() {
		mu.Lock()
		defer mu.Unlock()
		if !taken {
			_ = unix.Kill(-pid, unix.SIGKILL)
		}
	}
	stop := context.AfterFunc(ctx, kill)
	failed := g.tell(h)
	if failed == nil {
		failed = g.let()
	}
	if failed != nil {
		kill()
	}
	_, err = peekEnd(context.Background(), pid)
	stop()
	kill()
	mu.Lock()
	status, reapErr := reap(pid)
	taken = true
	mu.Unlock()
	_ = cmd.Process.Release()
	if failed != nil {
		return 0, probeFailure{failed}
	}
	return status, errors.Join(err, reapErr)
}
