package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/runc/libcontainer"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/mesolith/mesolith/internal/wire/keeper"
	"github.com/mesolith/mesolith/isolation/cgroup"
	"github.com/mesolith/mesolith/isolation/spec"
)

// RunsAs is whom a container's program was started as.
func (r Containers) RunsAs(j *Job) (spec.User, error) {
	var program specs.Process
	err := loadProgram(j, &program)
	return spec.User{UID: program.User.UID, GID: program.User.GID, Groups: program.User.AdditionalGids}, err
}

// Enter begins a command inside of a running container, as its program was started, in a
// group below that container's. The command has begun when it returns. A group without
// controllers of its own: what is in it counts as the parent's.
func (r Containers) Enter(ctx context.Context, j, parent *Job, s *stdioEnds) (*Process, error) {
	var program specs.Process
	if err := loadProgram(parent, &program); err != nil {
		return nil, err
	}
	var err error
	if program.Args, err = spec.Argv(j.Task.GetCommand(), noImage); err != nil {
		return nil, err
	}
	if program.Env, err = withEnv(program.Env, j.Task.GetCommand()); err != nil {
		return nil, err
	}
	group := r.group(j)
	if err := unix.Mkdir(filepath.Join(cgroup.Root, group), 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make control group of a nested container: %w", err)
	}
	lp := FirstProcess(&program)
	lp.Init, lp.SubCgroupPaths = false, map[string]string{"": j.ID}
	if s.stdin != nil {
		lp.Stdin = s.stdin
	}
	if s.terminal == nil {
		lp.Stdout, lp.Stderr = s.stdout, s.stderr
	}
	var console int
	if s.terminal != nil {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("ask for a terminal: %w", err)
		}
		console = pair[0]
		defer unix.Close(console)
		lp.ConsoleSocket = os.NewFile(uintptr(pair[1]), "console")
		defer lp.ConsoleSocket.Close()
		lp.ConsoleHeight, lp.ConsoleWidth = uint16(s.terminal.GetRows()), uint16(s.terminal.GetColumns())
	}
	if err := r.startInside(ctx, parent.ID, lp, group); err != nil {
		return nil, err
	}
	p := &Process{}
	if p.PID, err = lp.Pid(); err != nil {
		return nil, errors.Join(fmt.Errorf("start inside of container: %w", err), cgroup.Kill(group))
	}
	p.Wait = sync.OnceValues(func() (uint32, error) { return reap(p.PID) })
	if p.StartTime, err = startTime(p.PID); err == nil && s.terminal != nil {
		s.outer[keeper.Attach_STDOUT], err = receiveTerminal(console)
	}
	return p, err
}

// startInside starts a process in a container; one at a time, and none outlives ctx before
// it is known here.
func (r Containers) startInside(ctx context.Context, id string, lp *libcontainer.Process, group string) error {
	select {
	case starting <- struct{}{}:
		defer func() { <-starting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ended, killed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(killed)
		endWhenOver(ctx, group, ended)
	}()
	defer func() {
		close(ended)
		<-killed
	}()
	c, err := libcontainer.Load(r.State, id)
	if err != nil {
		return fmt.Errorf("find container: %w", err)
	}
	if err := c.Start(lp); err != nil {
		err = errors.Join(probeFailure{err}, cgroup.Kill(group))
		reapStrays(group)
		return err
	}
	return nil
}

// receiveTerminal takes what libcontainer sent before the command began.
func receiveTerminal(socket int) (*os.File, error) {
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, buf, oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("receive a terminal: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("receive a terminal: %d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("receive a terminal: %d descriptors: %w", len(fds), err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, fmt.Errorf("receive a terminal: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// RunsAs is whom a plain process was started as.
func (r Processes) RunsAs(j *Job) (spec.User, error) {
	var h held
	err := loadProgram(j, &h)
	return spec.User{UID: uint32(h.UID), GID: uint32(h.GID)}, err
}

// Enter begins a command beside a plain process; Exec lets it run.
func (r Processes) Enter(_ context.Context, j, parent *Job, s *stdioEnds) (*Process, error) {
	var h held
	if err := loadProgram(parent, &h); err != nil {
		return nil, err
	}
	var err error
	if h.Argv, err = spec.Argv(j.Task.GetCommand(), noImage); err != nil {
		return nil, err
	}
	h.Argv0 = spec.Argv0(j.Task.GetCommand())
	if h.Env, err = withEnv(h.Env, j.Task.GetCommand()); err != nil {
		return nil, err
	}
	if s.terminal != nil {
		inner, outer, err := openTerminal(s.terminal)
		if err != nil {
			return nil, err
		}
		s.stdin, s.outer[keeper.Attach_STDOUT] = inner, outer
	}
	cmd, g, err := r.holder(j, streamsOf{s.stdin, s.stdout, s.stderr, s.terminal != nil})
	if err != nil {
		return nil, err
	}
	return r.told(cmd, g, h)
}
