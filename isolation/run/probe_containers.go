package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	mesosv1 "github.com/mesolith/mesolith/api/mesos/v1"
	"github.com/mesolith/mesolith/internal/imagestore"
	"github.com/mesolith/mesolith/isolation/cgroup"
	"github.com/mesolith/mesolith/isolation/spec"
)

// noImage: a probe's command says itself what to run.
var noImage imagestore.Config

// probeGroup is below the container's own group, so that a probe counts as the task's in
// every limit, and can be ended as a whole without it.
const probeGroup = "probe"

// starting lets one command be started at a time: each costs tens of milliseconds of a
// processor in this program, whatever the task may use.
var starting = make(chan struct{}, 1)

// Probe runs a command in all of a container's namespaces, as its first process was
// started: user, capabilities, limits, filter, no new privileges. Its output goes
// nowhere, and all that it leaves behind is ended.
//
// libcontainer enters with a copy of this program that is sealed, and that nothing in the
// container may look into before it has become the command.
func (r Containers) Probe(ctx context.Context, j *Job, command *mesosv1.CommandInfo) (uint32, error) {
	var program specs.Process
	if err := loadProgram(j, &program); err != nil {
		return 0, err
	}
	var err error
	if program.Args, err = spec.Argv(command, noImage); err != nil {
		return 0, probeFailure{err}
	}
	if program.Env, err = withEnv(program.Env, command); err != nil {
		return 0, probeFailure{err}
	}
	group := r.group(j) + "/" + probeGroup
	// One of before may be left where this program died.
	if err := errors.Join(cgroup.Kill(group), cgroup.Remove(group)); err != nil {
		return 0, fmt.Errorf("remove an earlier probe: %w", err)
	}
	if err := unix.Mkdir(filepath.Join(cgroup.Root, group), 0o755); err != nil {
		return 0, fmt.Errorf("make control group of a probe: %w", err)
	}
	status, err := r.enter(ctx, j, &program, group)
	ended := errors.Join(cgroup.Kill(group), cgroup.Remove(group))
	if err != nil {
		reapStrays(group)
	}
	if ended != nil && err == nil {
		err = fmt.Errorf("end what a probe left behind: %w", ended)
	}
	return status, err
}

func (r Containers) enter(ctx context.Context, j *Job, program *specs.Process, group string) (uint32, error) {
	select {
	case starting <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	ended := make(chan struct{})
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		endWhenOver(ctx, group, ended)
	}()
	defer func() {
		close(ended)
		<-killed
	}()
	lp := FirstProcess(program)
	lp.Init, lp.SubCgroupPaths = false, map[string]string{"": probeGroup}
	c, err := libcontainer.Load(r.State, j.ID)
	if err != nil {
		<-starting
		return 0, fmt.Errorf("find container: %w", err)
	}
	err = c.Start(lp)
	<-starting
	if err != nil {
		if strings.HasPrefix(err.Error(), "unable to create new parent process") {
			return 0, err // this program's own fault, or the node's
		}
		return 0, probeFailure{err}
	}
	state, err := lp.Wait()
	if state == nil {
		return 0, fmt.Errorf("wait for a probe: %w", err)
	}
	ws, ok := state.Sys().(syscall.WaitStatus)
	if !ok {
		return 0, errors.New("wait for a probe: no wait status")
	}
	return uint32(ws), nil
}

// endWhenOver ends a probe's processes when its time is over, again and again until it is
// known to have ended: one may just be on its way into the group.
func endWhenOver(ctx context.Context, group string, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	for {
		_ = cgroup.Kill(group) // what cannot be ended here is told by Remove
		select {
		case <-ended:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// reapStrays takes the status of ended processes of a group that libcontainer started and
// did not wait for: it does not always know them when it is stopped half way.
func reapStrays(group string) {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	self := strconv.Itoa(os.Getpid())
	for _, n := range names {
		pid, err := strconv.Atoi(n.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile(filepath.Join("/proc", n.Name(), "stat"))
		if err != nil {
			continue
		}
		if f := statFields(raw); len(f) < 2 || f[0] != "Z" || f[1] != self {
			continue
		}
		if raw, err = os.ReadFile(filepath.Join("/proc", n.Name(), "cgroup")); err == nil && bytes.Contains(append([]byte{'\n'}, raw...), []byte("\n0::"+group)) {
			_, _ = reap(pid)
		}
	}
}
